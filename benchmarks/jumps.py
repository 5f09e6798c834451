"""Targets that jump: real video whose picture is thrown aside every few frames, as by a camera that is hit.

Every so many frames the picture moves by so many sides of the target, in a direction drawn by chance in which all of
it stays in the frame; what comes into sight at a border repeats the pixels there. One pass over the first frames of
every sequence; the mean overlap is the area under the success curve.

python benchmarks/jumps.py --root ../shared/data/otb compact tiny --every 10 --sides 0.5 1.4
python benchmarks/jumps.py --root ../shared/data/otb compact --every 10 --sides 0.5 1.4 --rule widen_when_lost=1
"""

from __future__ import annotations

import argparse

import cv2
import numpy as np
import ruled
from jaxtyping import Float
from rich.console import Console
from rich.table import Table

from mixformerv2 import Tracker, geometry
from mixformerv2.data.sequence import Sequence

FRAMES = 240  # of a sequence
_DIRECTIONS = 20  # that are tried


def jumps(sequence: Sequence, every: int, sides: float, seed: int = 0) -> Float[np.ndarray, "frames 2"]:
    """How far each picture is moved, in px. Where no direction will do the picture stays as it was moved before."""
    rng, size = np.random.default_rng(seed), np.tile(sequence.frame(0).shape[1::-1], 2)
    moved = np.zeros((min(len(sequence), FRAMES), 2))
    for index in range(1, len(moved)):
        moved[index] = moved[index - 1]
        box = sequence.boxes_frame[index]
        if index % every or not np.isfinite(box).all():
            continue
        for angle in rng.uniform(0, 2 * np.pi, _DIRECTIONS):
            jump = sides * geometry.area(box) ** 0.5 * np.array([np.cos(angle), np.sin(angle)])
            there = box + np.tile(moved[index] + jump, 2)
            if (there >= 0).all() and (there <= size).all():
                moved[index] += jump
                break
    return moved


def follow(tracker: Tracker, sequence: Sequence, moved: Float[np.ndarray, "frames 2"]) -> float:
    """The mean overlap, on the frames with a target after the first."""
    overlaps = []
    for index, (x, y) in enumerate(moved):
        frame, box = sequence.frame(index), sequence.boxes_frame[index] + (x, y, x, y)
        matrix = np.array([[1, 0, x], [0, 1, y]])
        picture = cv2.warpAffine(frame, matrix, frame.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)
        if index == 0:
            tracker.init(picture, geometry.xyxy_to_xywh(box))
            continue
        found = geometry.xywh_to_xyxy(tracker.update(picture).box)
        if not sequence.absent[index]:
            overlaps.append(float(geometry.iou(found, box)))
    return float(np.mean(overlaps))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--every", type=int, default=10, help="frames from one jump to the next")
    parser.add_argument("--sides", type=float, nargs="+", default=[0.5, 1.4], help="of the target, a jump")
    given, sequences = ruled.parse(parser)
    table = Table("model", "sides", "mean overlap", "least")
    for name, tracker in ruled.trackers(given):
        for sides in given.sides:
            overlaps = {
                sequence.name: follow(tracker, sequence, jumps(sequence, given.every, sides))
                for sequence in sequences
            }
            table.add_row(
                name,
                f"{sides:g}",
                f"{np.mean([*overlaps.values()]):.3f}",
                ruled.least(overlaps),
            )
    Console(soft_wrap=True).print(table)


if __name__ == "__main__":
    main()
