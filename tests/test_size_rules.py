"""A network misjudges sizes: what the first frame, where the size is known, and the last one say against it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from test_tracker import BOX, RULES, Frame, Located, Scripted, Seeing, grey_frame

from mixformerv2.config import TrackerConfig
from mixformerv2.geometry import rescale
from mixformerv2.tracker import Tracker


class Misjudging(Seeing):
    """Sees the square, but so much wider and taller."""

    def __init__(self, wider: float, taller: float) -> None:
        super().__init__()
        self._factors = np.array([wider, taller])

    def search(self, crop: np.ndarray, cache: int) -> Located:
        self.crops.append(crop[0].copy())
        found = super().search(crop, cache)
        box = rescale(found.box_unit[0].astype(np.float64), self._factors)
        return Located(box[None].astype(np.float32), found.score)


def square_frame(x: int = 52, y: int = 42) -> Frame:
    frame = grey_frame(100).copy()
    frame[y : y + 16, x : x + 16] = 255
    return frame


def sides(backend: Scripted, share: float) -> tuple[float, float]:
    """Of the box in a second frame, where the square has moved."""
    tracker = Tracker(backend=backend, config=dataclasses.replace(RULES, size_calibration=share))
    tracker.init(square_frame(), BOX)
    return tracker.update(square_frame(55, 44)).box[2:]


def test_without_calibration_a_misjudged_size_stays() -> None:
    backend = Misjudging(1.5, 0.8)
    assert sides(backend, 0.0) == pytest.approx((24.0, 12.8), abs=0.01)
    assert len(backend.crops) == 1, "the first frame is not searched"


def test_a_share_of_the_error_is_corrected() -> None:
    assert sides(Misjudging(1.5, 0.8), 1.0) == pytest.approx((16.0, 16.0), rel=0.06)  # whole pixels are seen
    half = 16 * 1.5**0.5, 16 * 0.8**0.5
    assert sides(Misjudging(1.5, 0.8), 0.5) == pytest.approx(half, rel=0.04)


def test_a_right_size_stays_right() -> None:
    assert sides(Misjudging(1.0, 1.0), 1.0) == pytest.approx((16.0, 16.0), rel=0.06)


def test_a_correction_is_at_most_a_factor_of_two() -> None:
    width, height = sides(Misjudging(3.0, 1.0), 1.0)
    assert width == pytest.approx(48 / np.exp(0.7), rel=0.06)
    assert height == pytest.approx(16, rel=0.06)


def test_looks_that_do_not_find_the_target_teach_nothing() -> None:
    away = Scripted(box_unit=[0.0, 0.0, 0.1, 0.1])
    assert sides(away, 1.0) == pytest.approx((6.4, 6.4))


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_is_between_zero_and_one(share: float) -> None:
    with pytest.raises(ValueError, match="size_calibration must be a share"):
        TrackerConfig(size_calibration=share)


def test_a_share_of_the_last_size_is_kept_and_the_place_is_the_networks() -> None:
    tracker = Tracker(backend=Misjudging(1.5, 0.8), config=dataclasses.replace(RULES, size_inertia=0.5))
    tracker.init(square_frame(), BOX)
    x, y, width, height = tracker.update(square_frame(55, 44)).box
    assert (width, height) == pytest.approx((16 * 1.5**0.5, 16 * 0.8**0.5), rel=0.01)
    assert (x + width / 2, y + height / 2) == pytest.approx((63, 52), abs=0.01)


def test_a_box_whose_sides_have_crossed_stays_where_they_are() -> None:
    """Each side is found by itself: of a narrow target the right one may come out left of the left one."""
    crossed = Scripted(box_unit=[0.51, 0.4, 0.49, 0.6])
    tracker = Tracker(backend=crossed, config=dataclasses.replace(RULES, size_inertia=0.5))
    tracker.init(square_frame(), BOX)
    x, y, width, height = tracker.update(square_frame()).box
    assert width == pytest.approx(RULES.min_side_px)
    assert height == pytest.approx(12.8**0.5 * 16**0.5)
    assert (x, y + height / 2) == pytest.approx((60, 50), abs=0.01)


def test_what_lies_beyond_the_border_is_no_part_of_a_size() -> None:
    """A target half outside, seen as far beyond the border as on this side of it, does not shrink frame by frame."""
    tracker = Tracker(
        backend=Misjudging(2.0, 1.0), config=dataclasses.replace(RULES, size_inertia=0.5, lost_threshold=0.0)
    )
    tracker.init(square_frame(0), (0, 42, 16, 16))
    boxes = [tracker.update(square_frame(0)).box for _ in range(20)]
    assert boxes[-1][0] == pytest.approx(0, abs=0.5)
    assert boxes[-1][2] == pytest.approx(24, rel=0.05)  # as far as it is seen on this side


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_the_last_size_is_never_all_that_counts(share: float) -> None:
    with pytest.raises(ValueError, match=r"size_inertia must be a share in \[0, 1\)"):
        TrackerConfig(size_inertia=share)
