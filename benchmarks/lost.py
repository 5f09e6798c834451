"""How well the score knows that the target is not there: windows of the same frames with it and without it.

Of every sequence some frames are looked at twice with the template of the first one: where the target is, a little off,
and at a place drawn at random so far away that nothing of it is in the window. A tracker that is lost looks there.

python benchmarks/lost.py --root ../shared/data/otb compact tiny
"""

from __future__ import annotations

import argparse

import numpy as np
import ruled
from rich.console import Console
from rich.table import Table

from mixformerv2 import Tracker, geometry
from mixformerv2.data.sequence import Sequence

FRAMES, TRIES = 40, 50
OFF = 0.15  # deviation of the centre where the target is, in its sides


def scores(tracker: Tracker, sequence: Sequence, rng: np.random.Generator) -> tuple[list[float], list[float]]:
    """With the target, where the box overlaps it by half, and without it."""
    there, away = [], []
    tracker.init(sequence.frame(0), geometry.xyxy_to_xywh(sequence.boxes_frame[0]))
    assert tracker.target is not None
    for index in np.linspace(1, len(sequence) - 1, FRAMES).astype(int):
        if sequence.absent[index]:
            continue
        frame, box = sequence.frame(index), sequence.boxes_frame[index]
        side = np.sqrt(geometry.area(box))
        found, score = tracker.target.look(frame, box + np.tile(rng.normal(0, OFF * side, 2), 2))
        if geometry.iou(found, box) > 0.5:
            there.append(score)
        reach = (tracker.config.search_factor * side + box[2:] - box[:2]) / 2
        for _ in range(TRIES):
            offset = rng.uniform((0, 0), frame.shape[1::-1]) - (box[:2] + box[2:]) / 2
            if (np.abs(offset) > reach).any():
                away.append(tracker.target.look(frame, box + np.tile(offset, 2)).score)
                break
    return there, away


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    given, sequences = ruled.parse(parser)
    table = Table(
        "model", "found and lost told apart\n(area under ROC)", "lost, yet > 0.5", "found, yet < 0.4"
    )
    for name, tracker in ruled.trackers(given):
        rng = np.random.default_rng(0)
        there, away = [], []
        for sequence in sequences:
            for all_of_them, new in zip((there, away), scores(tracker, sequence, rng), strict=True):
                all_of_them += new
        found, lost = np.array(there), np.array(away)
        above, equal = (found[:, None] > lost).mean(), (found[:, None] == lost).mean()
        table.add_row(
            name,
            f"{above + equal / 2:.3f}",
            f"{(lost > 0.5).mean():.3f}",
            f"{(found < 0.4).mean():.3f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
