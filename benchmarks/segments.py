"""Tracking in short pieces, each started from the true box, side by side: see ``mixformerv2.evaluate.pieces``.

python benchmarks/segments.py --root ../shared/data/otb --frames 40 tiny runs/other
python benchmarks/segments.py --root ../shared/data/otb opencv:nano --option peers=../shared/peers
"""

from __future__ import annotations

import argparse

import numpy as np
from rich.console import Console
from rich.table import Table

from mixformerv2.cli.common import key_values
from mixformerv2.data.datasets import open_datasets
from mixformerv2.evaluate.pieces import overlaps
from mixformerv2.evaluate.spec import open_tracker, parse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("trackers", nargs="+", help="as for `mixformerv2 evaluate`")
    parser.add_argument("--root", required=True, help="folder of one dataset, or of several")
    parser.add_argument("--frames", type=int, default=40, help="of a piece")
    parser.add_argument("--option", action="append", default=[], help="KEY=VALUE for the trackers")
    given = parser.parse_args()
    sequences = [sequence for dataset in open_datasets(given.root).values() for sequence in dataset]
    options = {"threads": 1, **key_values(given.option)}
    scores = {}
    for name in given.trackers:
        tracker = open_tracker(parse(name, options))
        scores[name] = {one.name: overlaps(tracker, one, given.frames) for one in sequences}
    table = Table(
        "sequence", "pieces", *given.trackers, title=f"mean overlap, pieces of {given.frames} frames"
    )
    for one in sequences:
        columns = [scores[name][one.name] for name in given.trackers]
        table.add_row(one.name, str(len(columns[0])), *(f"{np.mean(column):.3f}" for column in columns))
    table.add_section()
    every = {name: np.concatenate([*scores[name].values()]) for name in given.trackers}
    table.add_row(
        "mean of sequences",
        "",
        *(f"{np.mean([np.mean(one) for one in scores[name].values()]):.3f}" for name in given.trackers),
    )
    table.add_row(
        "mean of pieces, its standard error",
        "",
        *(f"{one.mean():.3f} ± {one.std(ddof=1) / len(one) ** 0.5:.3f}" for one in every.values()),
    )
    Console(soft_wrap=True).print(table)


if __name__ == "__main__":
    main()
