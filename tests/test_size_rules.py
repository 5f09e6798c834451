"""A network misjudges sizes: what the first frame, where the size is known, and the last one say against it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from test_tracker import BOX, RULES, Frame, Located, Scripted, Seeing, grey_frame, noise_frame

from mixformerv2.geometry import rescale
from mixformerv2.multitracker import MultiTracker
from mixformerv2.results import Result
from mixformerv2.tracker import Tracker

HOLDING = dataclasses.replace(RULES, hold_when_lost=True, lost_threshold=0.4, found_threshold=0.6)


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
    """With a square of 16 px, or what the frame shows of it."""
    frame = grey_frame(100).copy()
    frame[y : y + 16, max(x, 0) : max(x + 16, 0)] = 255
    return frame


def leave_and_return(scale: int = 1) -> Iterator[Frame]:
    """The square goes out on the left by half of its side a frame, and is back clear of the border.

    There the window around the sliver that was left of it does not reach. From the return on frames are larger.
    """
    for x in (52, 40, 28, 20, 12, 4, -4, -12, -20, -20):
        yield square_frame(x)
    for x in (20, 22, 24):
        yield square_frame(x).repeat(scale, axis=0).repeat(scale, axis=1)


def followed(frames: Iterator[Frame], **rules: Any) -> list[Result]:
    """From the square in the first frame on."""
    tracker = Tracker(backend=Seeing(), config=dataclasses.replace(HOLDING, **rules))
    tracker.init(next(frames), BOX)
    return [tracker.update(frame) for frame in frames]


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


def test_a_target_that_left_is_looked_for_as_large_as_it_was_clear_of_the_border() -> None:
    results = followed(leave_and_return())
    states = [result.state for result in results]
    assert states == ["tracking"] * 7 + ["lost"] * 2 + ["tracking"] * 3
    assert results[6].box == results[8].box == pytest.approx((0, 42, 4, 16), abs=0.3), "a sliver, held"
    assert results[-1].box == pytest.approx((24, 42, 16, 16), abs=1)


@pytest.mark.parametrize(
    ("x", "states"),
    [(2, ["lost", "lost", "tracking"]), (52, ["lost", "tracking", "tracking"])],
    ids=["at the border", "in the midst"],
)
def test_at_the_border_a_lost_target_has_to_be_found_for_sure(x: int, states: list[str]) -> None:
    tracker = Tracker(backend=Scripted([0.3, 0.5, 0.6]), config=HOLDING)
    tracker.init(grey_frame(100), (x, 42, 30, 16))
    assert [tracker.update(grey_frame(100)).state for _ in range(3)] == states


def test_a_target_in_the_midst_of_the_frame_is_looked_for_as_large_as_its_box() -> None:
    backend = Scripted([0.9, 0.1], [0.45, 0.45, 0.55, 0.55])
    tracker = Tracker(backend=backend, config=HOLDING)
    tracker.init(grey_frame(100), BOX)
    for _ in range(3):
        tracker.update(noise_frame())
    assert tracker.box[2] < 10
    np.testing.assert_array_equal(backend.crops[2], backend.crops[1])


def test_a_target_that_left_is_found_in_frames_of_another_resolution() -> None:
    last = followed(leave_and_return(scale=2))[-1]
    assert last == (pytest.approx((48, 84, 32, 32), abs=2), pytest.approx(0.9), "tracking")


def test_without_a_threshold_of_its_own_the_border_is_a_place_like_any_other() -> None:
    assert followed(leave_and_return(), found_threshold=0.0)[-1].state == "lost"


class Stacking(Seeing):
    """For one target of many."""

    def stack(self, caches: Any) -> Any:
        return caches[0]


def test_of_many_targets_each_is_waited_for_as_a_single_one() -> None:
    frames = list(leave_and_return())
    one, many = (kind(backend=Stacking(), config=HOLDING) for kind in (Tracker, MultiTracker))
    one.init(frames[0], BOX)
    id = many.add(frames[0], BOX)
    assert [many.update(frame)[id] for frame in frames[1:]] == [one.update(frame) for frame in frames[1:]]
