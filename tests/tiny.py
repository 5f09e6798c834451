"""A network small enough for tests, with random weights, and a clip of a bright square that moves."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mixformerv2.config import Config, ModelConfig, TrackerConfig
from mixformerv2.images import Frame
from mixformerv2.model import checkpoint
from mixformerv2.model.network import build
from mixformerv2.overlay import OverlayVideo

MODEL = ModelConfig(dim=32, depth=2, heads=2, mlp_ratio=1.0, search_px=64, template_px=32, num_bins=16)
CONFIG = Config(MODEL, TrackerConfig(update_interval=3, min_side_px=4.0, published_mapping=False))

WIDTH, HEIGHT, SIDE = 96, 64, 12


def write_checkpoint(path: Path) -> Path:
    checkpoint.save(build(MODEL, seed=0), CONFIG, path)
    return path


def square_box(index: int) -> tuple[float, float, float, float]:
    """Where the square is in a frame, ``x, y, w, h``."""
    return (10.0 + 3 * index, 8.0 + 2 * index, SIDE, SIDE)


def square_frame(index: int, width: int = WIDTH, height: int = HEIGHT) -> Frame:
    frame = np.full((height, width, 3), (40, 60, 80), np.uint8)
    x, y, w, h = map(int, square_box(index))
    frame[max(y, 0) : max(y + h, 0), max(x, 0) : max(x + w, 0)] = (250, 240, 230)
    return frame


def write_clip(path: Path, num_frames: int = 12) -> Path:
    with OverlayVideo(path, fps=25.0) as video:
        for index in range(num_frames):
            video.write(square_frame(index))
    return path
