"""Targets that leave the frame and return: real video seen through a view that pans until its target is out, waits, and
pans back.

Of every sequence some stretches are taken, which may overlap, and the target leaves over each of the four borders
where the frame leaves the view enough room. It comes back over the same border: a tracker that waits there is at an
advantage. It is found again where the last ten boxes overlap it by 0.4 in the mean.

python benchmarks/leaving.py --root ../shared/data/otb compact tiny --precision bf16
python benchmarks/leaving.py --root ../shared/data/otb compact --precision bf16 --rule found_threshold=0
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import numpy as np
import ruled
from rich.console import Console
from rich.table import Table

from mixformerv2 import Tracker, geometry
from mixformerv2.data.sequence import Sequence

STRETCHES = 8  # of a sequence
# Frames in sight, of the pan away and of that back, out of sight, and in sight again.
BEFORE, PAN, OUT, AFTER = 10, 15, 15, 25
JUDGED = 10  # of the last frames
FRAMES = BEFORE + PAN + OUT + PAN + AFTER
# In sides of the target: how far the border is from it before, and beyond it while it is out.
_ROOM, _BEYOND = 0.6, 0.3
_SHARE = 0.7  # of the frame, that the view is wide or high, at most


class Pan(NamedTuple):
    """A stretch of a sequence seen through a view: of every frame the two ends of what is seen along one axis."""

    start: int
    axis: int  # 0: the target leaves to the left or right
    ends: np.ndarray  # (FRAMES, 2), px

    def see(self, sequence: Sequence, index: int) -> tuple[np.ndarray, np.ndarray]:
        """The picture and the target's part in it, xyxy, which is empty where it is out."""
        low, high = self.ends[index]
        frame, box = sequence.frame(self.start + index), sequence.boxes_frame[self.start + index].copy()
        seen = frame[:, low:high] if self.axis == 0 else frame[low:high]
        box[self.axis :: 2] -= low
        return np.ascontiguousarray(seen), np.clip(box, 0, np.tile(seen.shape[1::-1], 2))


def pans(sequence: Sequence) -> Iterator[Pan]:
    """Those for which the frame is wide, high and long enough."""
    frames = np.arange(FRAMES)
    out = np.clip((frames - BEFORE) / PAN, 0, 1) - np.clip((frames - BEFORE - PAN - OUT) / PAN, 0, 1)
    height, width = sequence.frame(0).shape[:2]
    starts = np.linspace(0, max(len(sequence) - FRAMES, 0), STRETCHES).astype(int)
    for start, axis, over_low in product(sorted({*starts.tolist()}), (0, 1), (True, False)):
        boxes, end = sequence.boxes_frame[start : start + FRAMES], (width, height)[axis]
        if len(boxes) < FRAMES or sequence.absent[start : start + FRAMES].any():
            continue
        # Along the axis and towards the border it leaves over, so that both directions are one.
        low, high = boxes[:, axis], boxes[:, axis + 2]
        near, far = (low, high) if over_low else (end - high, end - low)
        side = high - low
        border = (1 - out) * (near - _ROOM * side) + out * (far + _BEYOND * side)
        border = np.convolve(np.pad(border, 2, mode="edge"), np.full(5, 0.2), mode="valid").astype(int)
        view = min(int(_SHARE * end), end - border.max())
        over = border - near  # 0 and less: all of the target is in sight; a side and more: none
        gone, back = slice(BEFORE + PAN, BEFORE + PAN + OUT), slice(-JUDGED, None)
        if (over[gone] < side[gone]).any() or (over[back] > 0).any():
            continue  # it moves too fast for the view
        if border.min() >= 0 and view >= 2 * side.max():
            ends = np.stack([border, border + view], axis=1)
            yield Pan(start, axis, ends if over_low else end - ends[:, ::-1])


def follow(tracker: Tracker, sequence: Sequence, pan: Pan) -> float | None:
    """The mean overlap at the end; None where the target was lost before it left."""
    frame, box = pan.see(sequence, 0)
    tracker.init(frame, geometry.xyxy_to_xywh(box))
    overlaps = []
    for index in range(1, FRAMES):
        frame, box = pan.see(sequence, index)
        found = geometry.xywh_to_xyxy(tracker.update(frame).box)
        overlaps.append(float(geometry.iou(found, box)))
        if index == BEFORE and overlaps[-1] < 0.5:
            return None
    return float(np.mean(overlaps[-JUDGED:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    given, sequences = ruled.parse(parser)
    table = Table("model", "passes", "found again", "overlap at the end", "least often found")
    for name, tracker in ruled.trackers(given):
        found = []
        for sequence in sequences:
            ends = [follow(tracker, sequence, pan) for pan in pans(sequence)]
            found.append(np.array([end for end in ends if end is not None]))
        every = np.concatenate(found)
        named = zip([sequence.name for sequence in sequences], found, strict=True)
        shares = sorted((np.mean(one > 0.4), sequence, len(one)) for sequence, one in named if len(one))
        worst = ", ".join(f"{sequence} {share:.2f} of {count}" for share, sequence, count in shares[:4])
        table.add_row(name, str(len(every)), f"{np.mean(every > 0.4):.3f}", f"{every.mean():.3f}", worst)
    Console(soft_wrap=True).print(table)


if __name__ == "__main__":
    main()
