"""Whole passes, counted where the target is and where it is not: what a rule finds, and what it takes for the target.

One pass over every sequence; with a stride over every so many of its frames, once from each of the first two. The mean
overlap is that of frames with a target after the first, which is the area under the success curve; the shares are of
frames that count as tracked. Means are of sequences, shares of all frames.

python benchmarks/passes.py --root ../shared/data/got10k compact tiny --precision int8
python benchmarks/passes.py --root ../shared/data/otb compact --stride 2 --precision int8 --rule widen_when_lost=1
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

import numpy as np
import ruled
from rich.console import Console
from rich.table import Table

from mixformerv2 import Tracker, geometry
from mixformerv2.data.sequence import Sequence


class Pass(NamedTuple):
    overlaps: list[float]  # of frames with a target
    tracked: list[bool]  # of the same frames
    mistaken: list[bool]  # of frames without a target: does it count as tracked?


def follow(tracker: Tracker, sequence: Sequence, frames: range) -> Pass:
    """One pass over these frames, from the true box of the first."""
    first = frames[0]
    tracker.init(sequence.frame(first), geometry.xyxy_to_xywh(sequence.boxes_frame[first]))
    seen = Pass([], [], [])
    for index in frames[1:]:
        result = tracker.update(sequence.frame(index))
        is_tracked = result.state == "tracking"
        if sequence.absent[index]:
            seen.mistaken.append(is_tracked)
            continue
        found = geometry.xywh_to_xyxy(np.array(result.box))
        seen.overlaps.append(float(geometry.iou(found, sequence.boxes_frame[index])))
        seen.tracked.append(is_tracked)
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--stride", type=int, default=1, help="frames from one that is seen to the next")
    given, sequences = ruled.parse(parser)
    table = Table("model", "mean overlap", "tracked, with a target", "without", "least")
    for name, tracker in ruled.trackers(given):
        overlaps: dict[str, float] = {}
        tracked: list[bool] = []
        mistaken: list[bool] = []
        for sequence in sequences:
            starts = range(min(given.stride, 2))
            passes = [
                follow(tracker, sequence, range(start, len(sequence), given.stride)) for start in starts
            ]
            overlaps[sequence.name] = float(np.mean([np.mean(one.overlaps) for one in passes]))
            tracked += [is_tracked for one in passes for is_tracked in one.tracked]
            mistaken += [is_tracked for one in passes for is_tracked in one.mistaken]
        table.add_row(
            name,
            f"{np.mean([*overlaps.values()]):.3f}",
            f"{np.mean(tracked):.3f} of {len(tracked):,}",
            f"{np.mean(mistaken):.3f} of {len(mistaken):,}" if mistaken else "-",
            ruled.least(overlaps),
        )
    Console(soft_wrap=True).print(table)


if __name__ == "__main__":
    main()
