"""Rulers around a frame: where lines stand, and what stays of the picture."""

from __future__ import annotations

import numpy as np
import pytest

from mixformerv2.rulers import with_rulers


@pytest.mark.parametrize(
    ("width", "height", "times", "step_px"),
    [(640, 480, 2, 50), (1920, 1080, 1, 100), (60, 90, 8, 5), (720, 1280, 1, 100), (720, 30, 1, 50)],
)
def test_a_line_stands_at_every_numbered_pixel_and_the_rest_is_the_frame(
    width: int, height: int, times: int, step_px: int
) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    before = frame.copy()
    drawn = with_rulers(frame)
    margin_px = drawn.shape[0] - times * height
    assert drawn.shape[1] - times * width == margin_px > 0
    picture = drawn[margin_px:, margin_px:]
    lines = np.zeros(picture.shape[:2], bool)
    lines[:: step_px * times] = lines[:, :: step_px * times] = True
    enlarged = frame.repeat(times, axis=0).repeat(times, axis=1)
    assert np.array_equal(picture[~lines], enlarged[~lines])
    moved = picture[lines].mean(axis=-1) - enlarged[lines].mean(axis=-1)
    assert (np.abs(moved) > 50).all(), "seen on dark and on bright pixels"
    assert moved.min() < 0 < moved.max()
    assert drawn[:margin_px, margin_px:].max() > 200 < drawn[margin_px:, :margin_px].max(), "numbers"
    assert np.array_equal(frame, before)
