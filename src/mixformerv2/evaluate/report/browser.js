// The failure browser: one sequence's course, its frames played back with all boxes, and where targets were lost.

const FRAME_MS = 90; // between neighbouring frames; longer where frames between are not kept
const GAP_FRAMES = 6; // a longer gap takes no longer than this
const current = { sequence: 0, timeline: null, at: 0, timer: null, images: [] };

const timelineOf = (index) => JSON.parse(byId(`timeline-${index}`).textContent);

function markCurrent() {
  for (const row of byId("sequences").querySelectorAll("tbody tr")) {
    if (Number(row.dataset.sequence) === current.sequence) row.setAttribute("aria-current", "true");
    else row.removeAttribute("aria-current");
  }
}

function openSequence(index, scroll = false) {
  stop();
  const sequence = report.sequences[index];
  current.sequence = index;
  current.timeline = timelineOf(index);
  current.images = current.timeline.pictures.map((uri) => { const image = new Image(); image.src = uri; return image; });
  byId("sequence").value = index;
  byId("previous-sequence").disabled = index === 0;
  byId("next-sequence").disabled = index === report.sequences.length - 1;
  const there = sequence.attributes.length ? `: ${sequence.attributes.join(", ")}` : "";
  byId("sequence-facts").textContent = `${sequence.frames.toLocaleString("en")} frames${there}`;
  for (const strip of document.querySelectorAll(".strip")) strip.hidden = Number(strip.dataset.sequence) !== index;
  const count = current.images.length;
  for (const id of ["screen", "scrub", "play", "step-back", "step-on"]) byId(id).hidden = !count;
  byId("no-pictures").hidden = count > 0;
  byId("scrub").max = Math.max(count - 1, 0);
  markCurrent();
  fillLost();
  drawTimeline();
  const first = worstStart();
  show(count ? nearest(first) : 0, count ? null : first);
  if (scroll) byId("failures").scrollIntoView({ behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
}

function lostRows() {
  return current.timeline.runs.flatMap((run, index) => run.lost.map((stretch) => ({ index, ...stretch }))).sort((a, b) => b.cost - a.cost);
}

const worstStart = () => { const [row] = lostRows(); return row ? Math.max(row.first - 5, 0) : 0; };

function fillLost() {
  const rows = lostRows();
  if (!rows.length) {
    byId("lost").replaceChildren(element("tbody", {}, element("tr", {}, element("td", { class: "quiet" }, `Nowhere: no overlap is under ${current.timeline.lost_below}.`))));
    return;
  }
  const head = element("tr", {}, element("th", { scope: "col" }, "Frames"), element("th", { scope: "col" }, "Run"), element("th", { scope: "col", class: "number", title: "by how much the sequence's mean overlap would rise if the box were perfect here" }, "Cost"));
  const body = element("tbody", {}, ...rows.map((row) => {
    const span = row.first === row.last ? `${row.first}` : `${row.first} to ${row.last}`;
    const go = element("button", { type: "button", class: "link", onclick: () => { stop(); seek(row.first); } }, span);
    const run = report.runs[row.index];
    return element("tr", {}, element("th", { scope: "row" }, go), element("td", {}, swatch(run.colour), run.label), element("td", { class: "number" }, row.cost.toFixed(3)));
  }));
  byId("lost").replaceChildren(element("thead", {}, head), body);
}

// --- the course

function cursor(frame) {
  return { type: "line", x0: frame, x1: frame, y0: 0, y1: 1, yref: "paper", line: { color: colours().ink, width: 1.5 } };
}

function drawTimeline() {
  const { timeline } = current;
  const { shade, quiet } = colours();
  const frames = Array.from({ length: report.sequences[current.sequence].frames }, (_, frame) => frame);
  const traces = [];
  report.runs.forEach((run, index) => {
    const course = timeline.runs[index];
    const shared = { x: frames, mode: "lines", line: { ...line(run), width: 1.6 }, name: plain(run.label), legendgroup: `${index}`, hovertemplate: "%{y:.3f}" };
    traces.push({ ...shared, y: course.overlap });
    if (course.score.some(known)) traces.push({ ...shared, y: course.score, yaxis: "y2", showlegend: false, hovertemplate: "%{y:.3f} (score)" });
  });
  const scores = traces.some((trace) => trace.yaxis === "y2");
  traces.push({ x: timeline.played, y: timeline.played.map(() => 0), mode: "markers", marker: { symbol: "line-ns-open", color: quiet, size: 6, line: { width: 1 } }, yaxis: "y3", hoverinfo: "skip", showlegend: false });
  const absent = timeline.absent.map(([first, last]) => ({ type: "rect", x0: first - 0.5, x1: last + 0.5, y0: 0, y1: 1, yref: "paper", fillcolor: shade, line: { width: 0 }, layer: "below" }));
  const lost = { type: "line", x0: 0, x1: 1, xref: "paper", y0: timeline.lost_below, y1: timeline.lost_below, line: { color: quiet, width: 1, dash: "dot" } };
  const layout = {
    shapes: [cursor(0), lost, ...absent], hovermode: "x unified", showlegend: true, legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
    margin: { l: 52, r: 14, t: 34, b: 42 },
    xaxis: axis("frame", { range: [-0.5, frames.length - 0.5], anchor: "y3" }),
    yaxis: axis("overlap", { range: [-0.02, 1.02], domain: scores ? [0.44, 1] : [0.08, 1] }),
    yaxis2: axis("score", { domain: [0.09, 0.38], rangemode: "tozero", nticks: 4 }),
    yaxis3: { domain: [0, 0.05], visible: false, range: [-1, 1], fixedrange: true },
  };
  const name = report.sequences[current.sequence].name;
  draw("timeline", traces, layout, `Overlap with the truth and score of every run over the frames of ${name}`);
}

// --- pictures

function nearest(frame) {
  const { played } = current.timeline;
  let best = 0;
  played.forEach((other, index) => { if (Math.abs(other - frame) < Math.abs(played[best] - frame)) best = index; });
  return best;
}

function seek(frame) {
  if (current.images.length) show(nearest(frame));
  else show(0, frame);
}

function show(at, withoutPicture = null) {
  const { timeline } = current;
  current.at = at;
  const frame = withoutPicture ?? timeline.played[at];
  byId("scrub").value = at;
  byId("scrub").setAttribute("aria-valuetext", `frame ${frame}`);
  byId("where").textContent = `frame ${frame}`;
  const hidden = timeline.absent.some(([first, last]) => first <= frame && frame <= last);
  byId("truth-state").textContent = hidden ? "absent" : "there";
  timeline.runs.forEach((run, index) => {
    document.querySelector(`[data-overlap="${index}"]`).textContent = fraction(run.overlap[frame]);
    document.querySelector(`[data-score="${index}"]`).textContent = fraction(run.score[frame]);
  });
  Plotly.relayout("timeline", { "shapes[0].x0": frame, "shapes[0].x1": frame });
  paint();
}

async function paint() {
  const { timeline, at, images } = current;
  const image = images[at];
  if (!image) return;
  await image.decode();
  if (image !== current.images[current.at]) return; // another one was asked for in the meantime
  const screen = byId("screen");
  const [width, height] = timeline.size;
  screen.width = Math.round((screen.clientWidth || 640) * (window.devicePixelRatio || 1));
  screen.height = Math.round((screen.width * height) / width);
  const context = screen.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, screen.width, screen.height);
  const scale = screen.width / width;
  const weight = Math.max(2, screen.width / 320);
  const outline = (box, colour, dash) => {
    if (!box) return;
    const [x, y, w, h] = box.map((value) => value * scale);
    context.setLineDash([]);
    context.lineWidth = weight + 2;
    context.strokeStyle = "rgba(16,16,16,.85)";
    context.strokeRect(x, y, w, h);
    context.setLineDash(dash);
    context.lineWidth = weight;
    context.strokeStyle = colour;
    context.strokeRect(x, y, w, h);
  };
  report.runs.forEach((run, index) => outline(timeline.boxes[index][at], run.colour, run.again ? [8, 5] : []));
  outline(timeline.truth[at], report.truth, []);
  screen.setAttribute("aria-label", `Frame ${timeline.played[at]} of ${report.sequences[current.sequence].name} with all boxes`);
}

function step(by) {
  stop();
  show(Math.min(Math.max(current.at + by, 0), current.images.length - 1));
}

function advance() {
  const { played } = current.timeline;
  if (current.at + 1 >= played.length) return stop();
  show(current.at + 1);
  const gap = (played[current.at + 1] ?? played[current.at] + 1) - played[current.at];
  current.timer = setTimeout(advance, FRAME_MS * Math.min(gap, GAP_FRAMES));
}

function play() {
  if (current.at + 1 >= current.images.length) show(0);
  byId("play").textContent = "Pause";
  current.timer = setTimeout(advance, FRAME_MS);
}

function stop() {
  clearTimeout(current.timer);
  current.timer = null;
  byId("play").textContent = "Play";
}

byId("play").addEventListener("click", () => (current.timer === null ? play() : stop()));
byId("step-back").addEventListener("click", () => step(-1));
byId("step-on").addEventListener("click", () => step(1));
byId("scrub").addEventListener("input", (event) => { stop(); show(Number(event.target.value)); });
byId("screen").addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") step(-1);
  else if (event.key === "ArrowRight") step(1);
  else if (event.key === " ") byId("play").click();
  else return;
  event.preventDefault();
});
byId("sequence").addEventListener("change", (event) => openSequence(Number(event.target.value)));
byId("previous-sequence").addEventListener("click", () => openSequence(current.sequence - 1));
byId("next-sequence").addEventListener("click", () => openSequence(current.sequence + 1));
for (const picture of document.querySelectorAll(".picture")) {
  picture.addEventListener("click", () => { stop(); seek(Number(picture.dataset.frame)); byId("player").scrollIntoView({ block: "nearest" }); });
}
window.addEventListener("resize", paint);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { showNumbers(); drawTimeline(); show(current.at); });

chooseProtocol(0);
openSequence(0);
byId("timeline").on("plotly_click", (event) => { stop(); seek(Math.round(event.points[0].x)); });
