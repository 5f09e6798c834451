"""The video that everything is measured on, held in memory, and what its frames cost to decode and to draw on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import as_file, files
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from mixformerv2 import geometry
from mixformerv2.images import Frame
from mixformerv2.video import open_source

MIN_FRAMES = 8


@dataclass(frozen=True)
class Clip:
    """The first frames of a video, RGB, and the target in the first of them."""

    path: Path
    frames: list[Frame]
    box: tuple[float, float, float, float]  # x, y, w, h in pixels

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        height, width = self.frames[0].shape[:2]
        return width, height


def load_clip(path: Path | None, box: Any, num_frames: int) -> Clip:
    """The clip that ships with the package, or a person's own, of which the box has to be given.

    Raises ValueError or FileNotFoundError with one sentence for a clip or a box that cannot be used.
    """
    if num_frames < MIN_FRAMES:
        raise ValueError(f"frames must be at least {MIN_FRAMES}, got {num_frames}")
    if (path is None) != (box is None):
        raise ValueError("a clip of your own and the box of its target belong together: give both or neither")
    if path is None:
        with as_file(files("mixformerv2") / "demo") as folder:
            shipped = json.loads((folder / "demo.json").read_text())
            return load_clip(folder / shipped["video"], shipped["box"], num_frames)
    x1, y1, x2, y2 = geometry.check_box_xywh(box)
    with open_source(path) as source:
        frames = list(islice(source, num_frames))
    if len(frames) < MIN_FRAMES:
        raise ValueError(f"the clip must have at least {MIN_FRAMES} frames, {path} has {len(frames)}")
    height, width = frames[0].shape[:2]
    if not (min(x2, width) > max(x1, 0) and min(y2, height) > max(y1, 0)):
        raise ValueError(f"the box must overlap the first frame of {width} x {height} px, got {box}")
    return Clip(path, frames, (float(x1), float(y1), float(x2 - x1), float(y2 - y1)))


def as_bgr_view(frame: Frame) -> Frame:
    """The same RGB picture, laid out so that turning it into the BGR that OpenCV wants costs nothing."""
    turned: Frame = np.ascontiguousarray(frame[..., ::-1])[..., ::-1]
    return turned
