"""A run as tables for a terminal of 100 columns, and the lines that its card shows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich import box
from rich.table import Table

from mixformerv2.bench.report import NetworkOperators, Report, RowFigures, workload_of
from mixformerv2.bench.stages import REFERENCE, RowName

WIDTH = 100
_NAMES = ("model", "backend", "precision", "threads")
_TEXT = ("model", "backend", "precision", "path", "what", "operator")
_MOST_OPERATORS = 10


def tables(report: Report) -> Iterator[Table]:
    """Speed, stages, limits, and batches where there are any."""
    yield speed_table(report)
    yield _stages_table(report)
    if report.peaks:
        yield _limits_table(report)
        yield _peaks_table(report)
    if report.batches:
        yield _batches_table(report)
    if report.targets:
        yield _targets_table(report)
    for network in report.operators:
        yield _operators_table(network)


def machine_lines(report: Report) -> list[str]:
    """The machine and what was measured, in a few lines."""
    machine, clip = report.machine, report.clip
    features = f", {' '.join(machine['features'])}" if machine["features"] else ""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    stages = ", ".join(f"{stage} {values['median']:.2f} ms" for stage, values in clip["stages_ms"].items())
    gpu = [machine["gpu"]] if machine["gpu"] else []
    measured = f"{clip['frames']} frames in each of {clip['rounds']} rounds"
    return [
        *gpu,
        f"{machine['processor']}, {count(machine['cores'], 'core')}{features}",
        f"{machine['system']}; {versions}",
        f"{clip['name']}, {clip['width']} x {clip['height']}: {measured}; {stages}",
    ]


SPEED_LEGEND = (
    "update: whole update() of a frame in memory, median. frames/s: with the templates' share. x ref.: against the "
    "released code's path with the same model. of limit: the least time possible here over that of the network alone."
)
SPEED_COLUMNS = (*_NAMES, "update ms", "p10", "p90", "frames/s", "x ref.", "of limit")


def speed_cells(row: RowFigures) -> tuple[str, ...]:
    """What a row says in the table and on the card, as SPEED_COLUMNS names it."""
    update = row.stages_ms["update"]
    return (
        *_name(row.name),
        *map(_three_digits, (update.median, update.p10, update.p90, row.frames_per_second)),
        _ratio(row.times_reference),
        _percent(row.share_of_limit),
    )


def speed_table(report: Report) -> Table:
    shown = _table(
        "Speed",
        SPEED_COLUMNS,
        SPEED_LEGEND,
    )
    for row in report.rows:
        shown.add_row(*speed_cells(row), end_section=_ends_section(report, row))
    return shown


def _stages_table(report: Report) -> Table:
    stages = ("crop", "network", "post", "templates")
    shown = _table(
        "Stages, ms",
        (*_NAMES, *stages, "a frame", "whole"),
        "Medians. templates: each time they are encoded; a frame: its share of that, by the model's update interval. "
        "whole: crop, network, post and that share.",
    )
    for row in report.rows:
        if "network" in row.stages_ms:
            times = [
                *(row.stages_ms[stage].median for stage in stages),
                row.templates_per_frame_ms,
                row.frame_ms,
            ]
            shown.add_row(
                *_name(row.name), *map(_three_digits, times), end_section=_ends_section(report, row)
            )
    return shown


def _limits_table(report: Report) -> Table:
    """One line for each model, path and precision, whatever runs it."""
    shown = _table(
        "Limits of the network, ms a frame",
        (
            "model",
            "path",
            "precision",
            "threads",
            "GFLOP",
            "MB",
            "arithmetic",
            "memory",
            "best row",
            "of limit",
        ),
        "GFLOP: of matrix products and convolutions, two for a multiply-add. MB: weights, cache and pixels, read once.",
    )
    best: dict[tuple[Any, ...], RowFigures] = {}
    for row in report.rows:
        if row.limit is not None:
            key = (row.name.model, row.name.backend == REFERENCE, row.name.precision, row.name.threads)
            if key not in best or row.stages_ms["network"] < best[key].stages_ms["network"]:
                best[key] = row
    for (model, joint, precision, threads), row in best.items():
        assert row.limit is not None
        work = workload_of(report.models[model], row.name.backend)
        shown.add_row(
            *(model, "joint" if joint else "cached", precision, str(threads)),
            *(f"{work.flops / 1e9:.2f}", f"{work.bytes(precision) / 1e6:.1f}"),
            *map(_three_digits, (*row.limit, row.stages_ms["network"].median)),
            _percent(row.share_of_limit),
        )
    return shown


def _peaks_table(report: Report) -> Table:
    shown = _table("What the machine reached", ("what", "threads", "rate"))
    for peak in report.peaks:
        rate = f"{peak['gflops_per_second']:.0f} GFLOP/s"
        shown.add_row(
            f"{peak['runtime']} {peak['precision']}, products of matrices", str(peak["threads"]), rate
        )
    for threads in sorted({read["threads"] for read in report.reads}):
        reads = [read for read in report.reads if read["threads"] == threads]
        sizes = _range([read["bytes"] / 1e6 for read in reads])
        rates = _range([read["gigabytes_per_second"] for read in reads])
        shown.add_row(f"memory, {sizes} MB again and again", str(threads), f"{rates} GB/s")
    return shown


def _batches_table(report: Report) -> Table:
    columns = (*_NAMES, "batch", "network ms", "p10", "p90", "crops/s", "x ref.", "of limit")
    shown = _table("Batches, the network alone", columns, "ms: for the whole batch.")
    for row in report.batches:
        figures = map(_three_digits, (*row.network_ms[:3], row.crops_per_second))
        ratios = _ratio(row.times_reference), _percent(row.share_of_limit)
        shown.add_row(*_name(row.name), str(row.batch), *figures, *ratios)
    return shown


def _targets_table(report: Report) -> Table:
    columns = (*_NAMES, "targets", "together ms", "apart ms", "x apart", "targets/s")
    shown = _table(
        "Many targets, a frame of all", columns, "together: one MultiTracker; apart: a tracker each."
    )
    for row in report.targets:
        together, apart = row.together_ms.median, row.apart_ms.median
        times = _three_digits(together), _three_digits(apart), _ratio(row.times_apart)
        shown.add_row(
            *_name(row.name), str(row.targets), *times, _three_digits(1000 * row.targets / together)
        )
    return shown


def _operators_table(network: NetworkOperators) -> Table:
    name, found = network
    total = sum(operator.ms for operator in found)
    title = f"Operators of {name.model} on {name.backend} {name.precision}, {count(name.threads, 'thread')}"
    shown = _table(title, ("operator", "calls", "ms a frame", "share"))
    for operator in found[:_MOST_OPERATORS]:
        times = _three_digits(operator.ms), _percent(operator.ms / total)
        shown.add_row(f"{operator.kind} {operator.kernel}".strip(), str(operator.calls), *times)
    if rest := found[_MOST_OPERATORS:]:
        ms = sum(operator.ms for operator in rest)
        calls = str(sum(operator.calls for operator in rest))
        shown.add_row("all others", calls, _three_digits(ms), _percent(ms / total))
    return shown


def _table(title: str, columns: tuple[str, ...], caption: str | None = None) -> Table:
    style: dict[str, Any] = dict(title_justify="left", caption_justify="left", box=box.SIMPLE_HEAD)
    style |= dict(padding=(0, 1, 0, 0), pad_edge=False)
    shown = Table(title=title, caption=caption, **style)
    for column in columns:
        shown.add_column(column, justify="left" if column in _TEXT else "right", overflow="fold")
    return shown


def _name(name: RowName) -> tuple[str, str, str, str]:
    return name.model, name.backend, name.precision, str(name.threads)


def count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _three_digits(value: float) -> str:
    return f"{value:.{0 if value >= 99.95 else 1 if value >= 9.995 else 2}f}"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _range(values: list[float]) -> str:
    low, high = f"{min(values):.0f}", f"{max(values):.0f}"
    return low if low == high else f"{low} to {high}"


def _ends_section(report: Report, row: RowFigures) -> bool:
    """Is this the last row of its group?"""
    after = report.rows[report.rows.index(row) + 1 :]
    return not after or group(after[0]) != group(row)


def group(row: RowFigures) -> str:
    """Rows that belong together: those of a model, and those of OpenCV."""
    return row.name.backend if row.name.backend == "opencv" else row.name.model
