"""Numbers of one or several runs side by side: on the terminal, as CSV and in LaTeX."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from collections.abc import Sequence as ReadOnlySequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich import box
from rich.markup import escape
from rich.table import Table

from mixformerv2.evaluate.protocols import Figures
from mixformerv2.evaluate.report.figures import (
    TITLES,
    RunScores,
    Speed,
    headline,
    with_own_labels,
)
from mixformerv2.files import write_text

CSV_COLUMNS = ("run", "protocol", "kind", "name", "frames", *TITLES, *Speed._fields)
"""Of `write_csv`; ``kind`` is sequence, attribute or all."""
_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "<": "\\textless{}",
    ">": "\\textgreater{}",
    "|": "\\textbar{}",
    '"': "\\textquotedbl{}",
}
_BEST: tuple[str, ...] = ("\\textbf{{{}}}", "\\underline{{{}}}")


class _Column(NamedTuple):
    """One figure of one run by one protocol."""

    scores: RunScores
    protocol: str
    figure: str

    def of(self, name: str | None) -> float:
        """Of the sequence, or of all where none is named; nan where there is none."""
        one = self.scores
        figures = one.overall[self.protocol] if name is None else one.by_sequence[self.protocol].get(name)
        return float(getattr(figures, self.figure)) if figures else math.nan


def table(scores: ReadOnlySequence[RunScores]) -> Table:
    """A row a sequence, all of them below; the best of several runs is bold, a dash stands where there is nothing.
    Means over different sequences are not compared.

    One run by one protocol has the protocol's headline figures, several runs a column each with the first of them,
    several protocols a column each; several runs by several protocols have a row a run under every figure, and none
    for the sequences.
    """
    runs = with_own_labels(scores)
    shown = Table(title=_title(runs), title_justify="left", caption=_caption(runs), caption_justify="left")
    if len(runs[0].protocols) > 1:  # all of them fit into 80 characters
        shown.box, shown.padding, shown.show_edge = box.SIMPLE, (0, 0, 0, 0), False
    fill = _fill_by_figure if len(runs) > 1 and len(runs[0].protocols) > 1 else _fill_by_sequence
    fill(shown, runs)
    return shown


def _fill_by_sequence(shown: Table, runs: ReadOnlySequence[RunScores]) -> None:
    columns = _columns(runs)
    shown.add_column("sequence", overflow="fold")
    for column in columns:
        shown.add_column(_heading(runs, column), justify="right", overflow="fold")
    for name in dict.fromkeys(name for one in runs for name in one.sequences):
        shown.add_row(escape(name), *_cells([column.of(name) for column in columns], len(runs) > 1))
    shown.add_section()
    compared = len(runs) > 1 and _alike(runs)
    shown.add_row("[bold]all[/]", *_cells([column.of(None) for column in columns], compared))
    if len(runs) == 1 and len(runs[0].protocols) == 1:
        return
    for figure in TITLES:
        others = [column._replace(figure=figure) for column in columns]
        values = [column.of(None) for column in others]
        if others != columns and not all(map(math.isnan, values)):
            shown.add_row(f"all: {TITLES[figure]}", *_cells(values, compared))


def _fill_by_figure(shown: Table, runs: ReadOnlySequence[RunScores]) -> None:
    shown.add_column("run", overflow="fold")
    for protocol in runs[0].protocols:
        shown.add_column(_broken(protocol), justify="right")
    for figure in TITLES:
        by_protocol = [
            [_Column(one, protocol, figure).of(None) for one in runs] for protocol in runs[0].protocols
        ]
        if all(map(math.isnan, chain(*by_protocol))):
            continue
        shown.add_row(f"[bold]{TITLES[figure]}[/]")
        cells = [_cells(values, _alike(runs)) for values in by_protocol]
        for one, row in zip(runs, zip(*cells, strict=True), strict=True):
            shown.add_row(escape(one.label), *row)


def _alike(runs: ReadOnlySequence[RunScores]) -> bool:
    """Whether all have results of the same sequences, so that their means say the same."""
    return len({frozenset(one.sequences) for one in runs}) < 2


def _columns(runs: ReadOnlySequence[RunScores]) -> list[_Column]:
    """What stands behind a sequence's name: figures of one run, or the first of them by protocol or by run."""
    protocols = list(runs[0].protocols)
    if len(runs) == len(protocols) == 1:
        return [_Column(runs[0], protocols[0], figure) for figure in headline(protocols[0])]
    return [_Column(one, protocol, headline(protocol)[0]) for one in runs for protocol in protocols]


def _cells(values: ReadOnlySequence[float], compared: bool) -> list[str]:
    """Where they are compared, the best is bold."""
    best = np.fmax.reduce(values) if compared else math.nan
    return [f"[bold]{_number(value, 3)}[/]" if value == best else _number(value, 3) for value in values]


def _title(runs: ReadOnlySequence[RunScores]) -> str:
    names = list(runs[0].protocols)
    head = escape(runs[0].label) if len(runs) == 1 else f"{len(runs)} runs"
    return f"{head} by protocol {names[0]}" if len(names) == 1 else f"{head} by {len(names)} protocols"


def _heading(runs: ReadOnlySequence[RunScores], column: _Column) -> str:
    if len(column.scores.protocols) > 1:
        return f"{_broken(column.protocol)}\n{TITLES[column.figure]}"
    return (
        f"{escape(column.scores.label)}\n{TITLES[column.figure]}" if len(runs) > 1 else TITLES[column.figure]
    )


def _broken(name: str) -> str:
    """A heading that is no wider than its longest part."""
    return name.replace("-", "\n-")


def _caption(runs: ReadOnlySequence[RunScores]) -> str:
    """Speed, and what is missing."""
    lines = []
    for one in runs:
        speed, label = one.speed, escape(one.label)
        if not math.isnan(speed.frames_per_second):
            lines.append(
                f"{label}: {speed.frames_per_second:.1f} frames per second; ms a frame {speed.ms_p50:.1f} (p50), "
                f"{speed.ms_p90:.1f} (p90), {speed.ms_p99:.1f} (p99)"
            )
    return "\n".join([*lines, *map(escape, _left_out(runs))])


def _left_out(runs: ReadOnlySequence[RunScores]) -> list[str]:
    return [
        f"{one.label} has no results of {len(one.missing)} of {len(one.missing) + len(one.sequences)} sequences, "
        "which are left out"
        for one in runs
        if one.missing
    ]


def _number(value: float, decimals: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{decimals}f}"


def write_csv(path: Path, scores: ReadOnlySequence[RunScores]) -> None:
    """A row for every run, protocol and sequence, attribute, or all of them, `CSV_COLUMNS` wide. Replaces a file.

    Figures are fractions, written so that they can be read back unchanged; empty where there is none.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for one in with_own_labels(scores):
        writer.writerows(_csv_rows(one))
    write_text(path, text.getvalue())


def _csv_rows(one: RunScores) -> Iterator[list[str | int | float]]:
    for protocol in one.protocols:
        parts: list[tuple[str, str, Figures, Speed | None]] = [
            *(("sequence", name, f, one.speeds[name]) for name, f in one.by_sequence[protocol].items()),
            *(("attribute", name, f, None) for name, f in one.by_attribute[protocol].items()),
            ("all", "", one.overall[protocol], one.speed),
        ]
        for kind, name, figures, speed in parts:
            values = [
                *(getattr(figures, figure) for figure in TITLES),
                *(speed or (math.nan,) * len(Speed._fields)),
            ]
            row = ["" if math.isnan(value) else value for value in values]
            yield [one.label, protocol, kind, name, figures.frames, *row]


def latex(scores: ReadOnlySequence[RunScores]) -> str:
    """Two tables for a paper (packages booktabs, fontenc with T1): trackers by figure, and sequences by tracker.

    In percent; the best is bold, the second best underlined, but for means over different sequences, which comments
    tell. The second table has the first protocol's first figure.
    """
    runs = with_own_labels(scores)
    comments = [f"% {' '.join(line.split())}\n" for line in _left_out(runs)]
    return "".join(comments) + _trackers(runs) + "\n" + _sequences(runs)


def write_latex(path: Path, scores: ReadOnlySequence[RunScores]) -> None:
    """Writes what `latex` gives; replaces a file that exists."""
    write_text(path, latex(scores))


def escape_latex(text: str) -> str:
    """The text as it stands, whatever characters it has; a line break becomes a space."""
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


def _trackers(runs: list[RunScores]) -> str:
    pairs = [(protocol, figure) for protocol in runs[0].protocols for figure in headline(protocol)]
    means = [[getattr(one.overall[p], figure) for one in runs] for p, figure in pairs]
    columns = [_ranked(values, _alike(runs)) for values in means]
    speeds = [_number(one.speed.frames_per_second, 0).replace("-", "--") for one in runs]
    groups, rules, at = [], [], 2
    for protocol in runs[0].protocols:
        width = len(headline(protocol))
        groups.append(f"\\multicolumn{{{width}}}{{c}}{{{escape_latex(protocol)}}}")
        rules.append(f"\\cmidrule(lr){{{at}-{at + width - 1}}}")
        at += width
    titles = [_TITLES_LATEX.get(figure, TITLES[figure]) for _, figure in pairs]
    rows = [
        [escape_latex(one.label), *(column[index] for column in columns), speeds[index]]
        for index, one in enumerate(runs)
    ]
    head = [f" & {' & '.join(groups)} & \\\\", "".join(rules), _row(["Tracker", *titles, "fps"])]
    return _tabular("l" + "r" * (len(pairs) + 1), head, [_row(row) for row in rows])


_TITLES_LATEX = {
    "normalised_precision": "$P_\\mathrm{norm}$",
    "op50": "OP$_{50}$",
    "op75": "OP$_{75}$",
    "sr50": "SR$_{50}$",
    "sr75": "SR$_{75}$",
}


def _sequences(runs: list[RunScores]) -> str:
    protocol = next(iter(runs[0].protocols))
    figure = headline(protocol)[0]
    names = dict.fromkeys(name for one in runs for name in one.sequences)
    rows = []
    for name in names:
        figures = [one.by_sequence[protocol].get(name) for one in runs]
        values = [getattr(found, figure) if found else math.nan for found in figures]
        rows.append(_row([escape_latex(name), *_ranked(values)]))
    means = [getattr(one.overall[protocol], figure) for one in runs]
    mean = _row(["All", *_ranked(means, _alike(runs))])
    head = [
        _row([f"{TITLES[figure]} ({escape_latex(protocol)})", *(escape_latex(one.label) for one in runs)])
    ]
    return _tabular("l" + "r" * len(runs), head, [*rows, "\\midrule", mean])


def _ranked(values: list[float], compared: bool = True) -> list[str]:
    """Percent with one decimal. Where they are compared, marked by what is printed: two that look the same are marked
    the same.
    """
    cells = ["--" if math.isnan(value) else f"{100 * value:.1f}" for value in values]
    order = sorted({cell for cell in cells if cell != "--"}, key=float, reverse=True)
    if len(order) < 2 or not compared:
        return cells
    marks = dict(zip(order, _BEST, strict=False))
    return [marks.get(cell, "{}").format(cell) for cell in cells]


def _row(cells: list[str]) -> str:
    return " & ".join(cells) + " \\\\"


def _tabular(columns: str, head: list[str], rows: list[str]) -> str:
    lines = [f"\\begin{{tabular}}{{{columns}}}", "\\toprule", *head, "\\midrule", *rows, "\\bottomrule"]
    return "\n".join([*lines, "\\end{tabular}", ""])
