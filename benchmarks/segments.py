"""Tracking in short pieces, each started from the true box: a measure that one lost target does not decide.

A whole pass over eleven sequences moves by several points when a single target is lost a little later; the mean over
many pieces does not. For comparing weights, not for comparing with anybody's figures.

python benchmarks/segments.py --root ../shared/data/otb --frames 40 tiny runs/other
python benchmarks/segments.py --root ../shared/data/otb opencv:nano --option peers=../shared/peers
"""

from __future__ import annotations

import argparse

import numpy as np
from rich.console import Console
from rich.table import Table

from mixformerv2 import geometry
from mixformerv2.cli.common import key_values
from mixformerv2.data.datasets import open_datasets
from mixformerv2.data.sequence import Sequence
from mixformerv2.evaluate.run import AnyTracker, one_pass
from mixformerv2.evaluate.spec import open_tracker, parse


def pieces(sequence: Sequence, frames: int) -> list[Sequence]:
    """Pieces of so many frames, the last one may be shorter; those whose first frame has no box are left out."""
    cut = []
    for begin in range(0, len(sequence) - 1, frames):
        indexes = range(begin, min(begin + frames, len(sequence)))
        if len(indexes) > 1 and not sequence.absent[begin]:
            cut.append(sequence.part(indexes))
    return cut


def overlap(tracker: AnyTracker, sequence: Sequence, frames: int) -> list[float]:
    """Mean overlap of each piece, its first frame and frames without a true box left out."""
    means = []
    for piece in pieces(sequence, frames):
        known = ~piece.absent[1:]
        result = one_pass(tracker, piece)
        if known.any():
            overlaps = geometry.iou(result.boxes_frame[1:][known], piece.boxes_frame[1:][known])
            means.append(float(np.nan_to_num(overlaps).mean()))
    return means


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
        scores[name] = {one.name: overlap(tracker, one, given.frames) for one in sequences}
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
