"""A painted clip and a small network with random weights whose boxes in it have area, move and change the templates."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import tiny
import torch

from mixformerv2.config import Config, TrackerConfig
from mixformerv2.model.network import Network, build
from mixformerv2.overlay import OverlayVideo

CONFIG = Config(
    dataclasses.replace(tiny.MODEL, num_bins=12, head_norm=True, learned_positions=True),
    # The released code's mapping is the harder one to repeat.
    TrackerConfig(
        update_interval=3, update_threshold=0.1, min_side_px=6.0, score_decay=0.9, size_inertia=0.2
    ),
)
BOX = (60.0, 40.0, 40.0, 30.0)  # so wide a window that it leaves the frame
NUM_FRAMES = 10


def network() -> Network:
    """With one seed in forty, no side of the box crosses the other. Half precision holds every weight."""
    network = build(CONFIG.model, seed=279)
    assert network.backbone.prediction_tokens is not None
    with torch.no_grad():
        network.backbone.prediction_tokens *= 60
        network.box_head.layers[-1].weight *= 5
        for parameter in network.parameters():
            parameter.copy_(parameter.half())
    return network.eval()


def paint(index: int) -> np.ndarray:
    """A patterned patch that moves over a pattern."""
    frame = np.random.default_rng(0).integers(0, 256, (12, 18, 3), np.uint8)
    frame = np.asarray(cv2.resize(frame, (180, 120), interpolation=cv2.INTER_CUBIC))
    frame[40 + 2 * index :, 60 + 3 * index :][:30, :40] = frame[70:100, 130:170] // 2
    return frame


def write_clip(path: Path) -> Path:
    with OverlayVideo(path, fps=25.0) as video:
        for index in range(NUM_FRAMES):
            video.write(paint(index))
    return path
