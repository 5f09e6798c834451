"""The plots of docs/ablations.md."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from measured import Results

from mixformerv2.train.ablations import Table


def plot_table(table: Table, results: Results, path: Path) -> bool:
    """Every seed as a point and the means as bars, row by row; nothing and False where fewer than two rows were run."""
    rows = [(name, auc) for name in table.rows if (auc := results.auc(name, "otb"))]
    if len(rows) < 2:
        return False
    figure = Figure(figsize=(8, 0.9 + 0.42 * len(rows)), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    for place, (_, auc) in enumerate(rows):
        axes.plot([auc.mean] * 2, [place - 0.28, place + 0.28], color="C0", linewidth=3)
        axes.plot(auc.values, [place] * len(auc.values), "o", color="C1", markersize=5)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.invert_yaxis()
    axes.set_xlabel("AUC on otb/: seeds, and their mean")
    axes.set_title(table.title, loc="left", fontsize=11, fontweight="bold")
    _plain(axes)
    figure.savefig(path, format="png")
    return True


def plot_pareto(names: Sequence[str], results: Results, path: Path) -> bool:
    """What a row scores against the time of a frame on a CPU, a line for the best of each precision: whole passes on
    the left, pieces on the right. False without both.
    """
    scores: dict[str, dict[str, float]] = {"AUC on otb/": {}, "overlap in pieces of otb/": {}}
    for name in names:
        if auc := results.auc(name, "otb"):
            overlap = np.mean([*results.pieces(name).values()])
            for values, value in zip(scores.values(), (auc.mean, overlap), strict=True):
                values[name] = float(value)
    where = ("cpu", 4)
    ms = {
        precision: {
            name: took for name in scores["AUC on otb/"] if (took := results.ms(name, where, precision))
        }
        for precision in results.precisions(where)
    }
    ms = {precision: took for precision, took in ms.items() if took}
    if not ms:
        return False
    figure = Figure(figsize=(12, 5), dpi=100, layout="constrained")
    for axes, (label, values) in zip(figure.subplots(1, 2), scores.items(), strict=True):
        for precision, took in ms.items():
            points = [(took[name], values[name]) for name in took]
            (line,) = axes.plot(*zip(*pareto(points), strict=True), "-", label=precision)
            axes.plot(*zip(*points, strict=True), "o", color=line.get_color())
        slowest = max(ms.values(), key=lambda took: max(took.values()))  # a row is as high in every precision
        for name in slowest:
            point = (slowest[name], values[name])
            axes.annotate(name, point, textcoords="offset points", xytext=(6, -9), fontsize=8)
        axes.set_xlabel("ms a frame on the CPU")
        axes.set_ylabel(label)
        axes.legend(frameon=False)
        _plain(axes)
    figure.savefig(path, format="png")
    return True


def pareto(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of points (cost, worth) those that no cheaper one is as good as, by cost."""
    best: list[tuple[float, float]] = []
    for cost, worth in sorted(points, key=lambda point: (point[0], -point[1])):
        if not best or worth > best[-1][1]:
            best.append((cost, worth))
    return best


def _plain(axes: Any) -> None:
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
