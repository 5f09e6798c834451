"use strict";
// The numbers: choice of protocol and figure, summary, plots, and the table of sequences.

const report = JSON.parse(document.getElementById("report").textContent);
const byId = (id) => document.getElementById(id);
const figureOf = new Map(report.figures.map((figure) => [figure.key, figure]));
const meaningOf = new Map(report.attributes.map((attribute) => [attribute.name, attribute.meaning]));
const DASHES = ["solid", "dash", "dot", "dashdot"];
const chosen = { protocol: report.protocols[0], figure: null, sort: { column: null, down: true } };

// Text goes into the page as text, and never as markup.
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "onclick") made.addEventListener("click", value);
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

// Plotly reads tags in its texts: names are none.
const cut = (text, most = 44) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);
const plain = (text) => cut(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
const swatch = (colour) => element("i", { class: "swatch", style: `background: ${colour}` });
const percent = (value) => (value === null || value === undefined ? "–" : (100 * value).toFixed(1));
const fraction = (value, digits = 3) => (value === null || value === undefined ? "–" : value.toFixed(digits));
const known = (value) => value !== null && value !== undefined;

function bestOf(values, least = false) {
  const numbers = values.filter(known);
  return numbers.length > 1 ? (least ? Math.min(...numbers) : Math.max(...numbers)) : NaN;
}

// --- plots

function colours() {
  const style = getComputedStyle(document.documentElement);
  const pick = (name) => style.getPropertyValue(name).trim();
  return { ink: pick("--ink"), quiet: pick("--quiet"), grid: pick("--grid"), line: pick("--line"), surface: pick("--surface"), shade: pick("--shade"), accent: pick("--accent") };
}

function axis(title, more = {}) {
  const { quiet, grid, line } = colours();
  return { title: { text: title, font: { size: 12, color: quiet }, standoff: 8 }, gridcolor: grid, linecolor: line, zeroline: false, tickfont: { size: 11, color: quiet }, ...more };
}

function draw(id, traces, layout, label) {
  const { ink, quiet, accent, surface } = colours();
  const base = {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: { l: 52, r: 14, t: 38, b: 46 },
    font: { family: getComputedStyle(document.body).fontFamily, color: ink, size: 12 },
    hoverlabel: { bgcolor: surface, font: { color: ink }, namelength: -1 },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: quiet, activecolor: accent },
  };
  // Nothing here is sent anywhere: Plotly has a button for that.
  const options = { displaylogo: false, showSendToCloud: false, responsive: true, toImageButtonOptions: { format: "svg", filename: id }, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] };
  byId(id).setAttribute("role", "img");
  byId(id).setAttribute("aria-label", label);
  return Plotly.react(id, traces, { ...base, ...layout }, options);
}

const heading = (text) => ({ text, x: 0, xref: "paper", xanchor: "left", y: 0.97, yanchor: "top", font: { size: 14 } });

// Below a plot: inside it would hide something.
const MARKERS = ["circle", "diamond", "square", "triangle-up"];
const legendBelow = (y, title = "") => ({ x: 0, y, yanchor: "top", font: { size: 12 }, title: { text: title, font: { size: 11, color: colours().quiet } } });
const roomFor = (rows) => 76 + 19 * rows;

function line(run) {
  return { color: run.colour, width: 2.4, dash: DASHES[run.again % DASHES.length] };
}

function drawCurves(id, curve, key, title, xTitle) {
  const { protocol } = chosen;
  const at = protocol.thresholds[curve];
  const rows = report.runs
    .map((run, index) => ({ run, y: protocol.overall[index][curve], value: protocol.overall[index][key] }))
    .filter((row) => row.y && row.y.length && row.y.every(known) && known(row.value))
    .sort((a, b) => b.value - a.value);
  byId(id).closest("figure").hidden = !rows.length;
  if (!rows.length) return;
  const traces = rows.map(({ run, y, value }) => ({
    x: at, y, mode: "lines", line: line(run), name: `${plain(run.label)} [${value.toFixed(3)}]`,
    hovertemplate: "%{x:.3g}: %{y:.3f}",
  }));
  const short = figureOf.get(key).title;
  const legend = legendBelow(-0.24, `name [${short}]`);
  byId(id).style.height = `${330 + 19 * rows.length}px`;
  const label = `${title}: ${rows.map((row) => `${row.run.label} ${row.value.toFixed(3)}`).join(", ")}`;
  draw(id, traces, { title: heading(title), showlegend: true, legend, hovermode: "x unified", margin: { l: 40, r: 16, t: 38, b: roomFor(rows.length) }, xaxis: axis(xTitle, { range: [at[0], at.at(-1)], nticks: 6 }), yaxis: axis("", { range: [0, 1] }) }, label);
}

function drawAttributes() {
  const { protocol, figure } = chosen;
  byId("attributes-card").hidden = !report.attributes.length;
  if (!report.attributes.length) return;
  const title = figureOf.get(figure).title;
  const rows = report.attributes.map((attribute, index) => ({ attribute, values: protocol.attributes.map((run) => (run[index] ? run[index][figure] : null)) }));
  const mean = (values) => { const numbers = values.filter(known); return numbers.reduce((sum, value) => sum + value, 0) / Math.max(numbers.length, 1); };
  rows.sort((a, b) => mean(b.values) - mean(a.values));
  rows.push({ attribute: { name: "all", sequences: report.sequences.length }, values: protocol.overall.map((run) => run[figure]) });
  const names = rows.map(({ attribute }) => `${plain(attribute.name)} (${attribute.sequences})`);
  const bridges = rows.filter((row) => row.values.some(known)).map((row) => {
    const at = names[rows.indexOf(row)];
    const numbers = row.values.filter(known);
    return { type: "line", x0: Math.min(...numbers), x1: Math.max(...numbers), y0: at, y1: at, layer: "below", line: { color: colours().line, width: 3 } };
  });
  const traces = report.runs.map((run, index) => ({
    x: rows.map((row) => row.values[index]), y: names, mode: "markers", name: plain(run.label),
    marker: { color: run.colour, size: 11, symbol: MARKERS[run.again % MARKERS.length], line: { color: colours().surface, width: 1.5 } },
    hovertemplate: "%{y}: %{x:.3f}",
  }));
  const label = `${title} by attribute; ` + rows.map((row, index) => `${names[index]}: ${row.values.map((value) => fraction(value)).join(", ")}`).join("; ");
  const inside = Math.max(30 * rows.length, 216), below = roomFor(report.runs.length) - 24;
  byId("attributes").style.height = `${38 + inside + below}px`;
  byId("attributes-words").textContent = rows.slice(0, -1).reverse().map(({ attribute }) => `${attribute.name} ${attribute.meaning}`).join(", ");
  draw("attributes", traces, { title: heading(`${title} by attribute`), shapes: bridges, showlegend: true, legend: legendBelow(-36 / inside), margin: { l: 12, r: 14, t: 38, b: below }, xaxis: axis(""), yaxis: axis("", { automargin: true }) }, label);
}

// Round numbers, more of them where trackers are of about the same speed.
function roundNumbers([low, high]) {
  const steps = high - low < 1 ? [1, 1.5, 2, 3, 4, 5, 7] : [1, 2, 5];
  return [-2, -1, 0, 1, 2, 3, 4].flatMap((power) => steps.map((step) => Number(`${step}e${power}`)));
}

function drawSpeed() {
  const { protocol, figure } = chosen;
  const title = figureOf.get(figure).title;
  const rows = report.runs.map((run, index) => ({ run, x: run.speed.frames_per_second, y: protocol.overall[index][figure] })).filter((row) => known(row.x) && known(row.y));
  byId("speed").closest("figure").hidden = rows.length < 2;
  byId("compared").hidden = rows.length < 2 && !report.attributes.length;
  if (rows.length < 2) return;
  const named = rows.length <= 5; // more names would lie on one another
  const traces = rows.map(({ run, x, y }) => ({
    x: [x], y: [y], mode: named ? "markers+text" : "markers", text: [plain(run.label)], textposition: "top center", name: plain(run.label), cliponaxis: false,
    marker: { color: run.colour, size: 14, symbol: MARKERS[run.again % MARKERS.length], line: { color: colours().surface, width: 1.5 } },
    hovertemplate: "%{x:.1f} frames per second, %{y:.3f}",
  }));
  const xs = rows.map((row) => Math.log10(row.x)), ys = rows.map((row) => row.y);
  const room = (values, least) => { const low = Math.min(...values), high = Math.max(...values), more = Math.max(0.25 * (high - low), least); return [low - more, high + more]; };
  const label = `${title} against speed: ${rows.map((row) => `${row.run.label} ${row.y.toFixed(3)} at ${row.x.toFixed(1)} frames per second`).join(", ")}`;
  const xRange = room(xs, 0.3), round = roundNumbers(xRange);
  const below = named ? 46 : roomFor(rows.length);
  byId("speed").style.height = `${284 + below}px`;
  draw("speed", traces, { title: heading(`${title} and speed`), showlegend: !named, legend: legendBelow(-0.24), margin: { l: 52, r: 14, t: 38, b: below }, xaxis: axis("frames per second", { type: "log", range: xRange, tickvals: round, ticktext: round.map(String) }), yaxis: axis("", { range: room(ys, 0.03) }) }, label);
}

// --- tables

const HEAD = new Map([["normalised_precision", "P norm"]]);
const shortOf = (key) => HEAD.get(key) ?? figureOf.get(key).title;

function figuresOf(protocol) {
  const there = report.figures.map((figure) => figure.key).filter((key) => protocol.overall.some((run) => known(run[key])));
  const first = protocol.headline.filter((key) => there.includes(key));
  return [...first, ...there.filter((key) => !first.includes(key))];
}

function fillSummary() {
  const { protocol } = chosen;
  const keys = figuresOf(protocol);
  const speeds = [["frames_per_second", "fps", 1, false], ["ms_p50", "ms p50", 1, true], ["ms_p90", "ms p90", 1, true], ["ms_p99", "ms p99", 1, true]];
  const head = element("tr", {}, element("th", { scope: "col" }, "Run"));
  for (const key of keys) head.append(element("th", { scope: "col", class: "number", title: figureOf.get(key).meaning }, shortOf(key)));
  for (const [, title] of speeds) head.append(element("th", { scope: "col", class: "number" }, title));
  head.append(element("th", { scope: "col", class: "number" }, "frames"));
  const order = report.runs.map((run, index) => index).sort((a, b) => (protocol.overall[b][keys[0]] ?? -1) - (protocol.overall[a][keys[0]] ?? -1));
  const body = element("tbody");
  const best = new Map(keys.map((key) => [key, bestOf(protocol.overall.map((run) => run[key]))]));
  for (const [key, , , least] of speeds) best.set(key, bestOf(report.runs.map((run) => run.speed[key]), least));
  for (const index of order) {
    const run = report.runs[index], overall = protocol.overall[index];
    const row = element("tr", {}, element("th", { scope: "row" }, swatch(run.colour), run.label));
    const cell = (key, value, text) => row.append(element("td", { class: value === best.get(key) ? "number best" : "number" }, text));
    for (const key of keys) cell(key, overall[key], percent(overall[key]));
    for (const [key, , digits] of speeds) cell(key, run.speed[key], fraction(run.speed[key], digits));
    row.append(element("td", { class: "number" }, overall.frames.toLocaleString("en")));
    body.append(row);
  }
  byId("summary").replaceChildren(element("thead", {}, head), body);
}

// Columns: -2 name, -1 frames, then the runs.
function valueIn(column, sequence) {
  if (column === -2) return report.sequences[sequence].name;
  if (column === -1) return report.sequences[sequence].frames;
  return chosen.protocol.sequences[column][sequence]?.[chosen.figure] ?? null;
}

function compareRows(a, b) {
  const { column, down } = chosen.sort;
  if (column === null) return a - b; // as in the dataset
  const x = valueIn(column, a), y = valueIn(column, b);
  if (!known(x) || !known(y)) return known(y) - known(x); // what is not there stays at the end
  const sign = down ? -1 : 1;
  return sign * (typeof x === "string" ? x.localeCompare(y, "en", { numeric: true }) : x - y) || a - b;
}

function fillSequences() {
  const { column, down } = chosen.sort;
  const head = element("tr");
  const titles = [["Sequence", -2], ["Frames", -1], ...report.runs.map((run, index) => [run.label, index])];
  for (const [title, index] of titles) {
    const sort = () => {
      chosen.sort = { column: index, down: index === column ? !down : index !== -2 };
      fillSequences();
      byId("sequences").querySelector("th[aria-sort] button").focus();
    };
    const cell = element("th", { scope: "col" }, element("button", { type: "button", onclick: sort }, title));
    if (index !== -2) cell.classList.add("number");
    if (index >= 0) cell.prepend(swatch(report.runs[index].colour));
    if (index === column) cell.setAttribute("aria-sort", down ? "descending" : "ascending");
    head.append(cell);
  }
  if (report.attributes.length) head.append(element("th", { scope: "col" }, "Attributes"));
  const body = element("tbody");
  for (const index of report.sequences.map((_, place) => place).sort(compareRows)) {
    const sequence = report.sequences[index];
    const open = element("button", { type: "button", class: "link", onclick: () => openSequence(index, true) }, sequence.name);
    const row = element("tr", { "data-sequence": index }, element("th", { scope: "row" }, open), element("td", { class: "number" }, sequence.frames.toLocaleString("en")));
    const values = report.runs.map((_, run) => valueIn(run, index));
    const best = bestOf(values);
    for (const value of values) {
      const cell = element("td", { class: value === best ? "number best" : "number" }, percent(value));
      cell.style.setProperty("--share", `${100 * (value ?? 0)}%`);
      row.append(cell);
    }
    if (report.attributes.length) row.append(element("td", {}, ...sequence.attributes.map((name) => element("span", { class: "tag", title: meaningOf.get(name) }, name))));
    body.append(row);
  }
  byId("sequences").replaceChildren(element("thead", {}, head), body);
  markCurrent();
}

// --- choice

function showNumbers() {
  const { protocol, figure } = chosen;
  byId("figure-meaning").textContent = figureOf.get(figure).meaning;
  fillSummary();
  const rank = protocol.headline[0];
  drawCurves("success", "success", rank, "Success plot", "overlap threshold");
  drawCurves("precision", "precision_curve", "precision", "Precision plot", "centre error threshold, px");
  drawCurves("normalised", "normalised_curve", "normalised_precision", "Normalised precision plot", "centre error threshold, in target sizes");
  drawAttributes();
  drawSpeed();
  fillSequences();
}

function chooseProtocol(index) {
  chosen.protocol = report.protocols[index];
  const keys = figuresOf(chosen.protocol);
  if (!keys.includes(chosen.figure)) chosen.figure = keys[0];
  byId("figure").replaceChildren(...keys.map((key) => element("option", { value: key }, shortOf(key))));
  byId("figure").value = chosen.figure;
  showNumbers();
}

byId("protocol").append(...report.protocols.map((protocol, index) => element("option", { value: index }, protocol.name)));
byId("protocol").addEventListener("change", (event) => chooseProtocol(Number(event.target.value)));
byId("figure").addEventListener("change", (event) => { chosen.figure = event.target.value; showNumbers(); });
