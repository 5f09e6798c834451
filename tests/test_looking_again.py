"""A target that is not where it was looked for is looked for again in the same frame, in a wider window."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from test_size_rules import HOLDING, Stacking, square_frame
from test_tracker import BOX, Scripted, Seeing, grey_frame, noise_frame

from mixformerv2.multitracker import MultiTracker
from mixformerv2.runtime.backend import Located
from mixformerv2.tracker import Tracker

WIDENING = dataclasses.replace(HOLDING, widen_when_lost=2.0)
JUMPED = square_frame(52 - 40)  # beyond the window around BOX, within one twice as wide


def test_a_target_that_jumped_is_found_in_the_same_frame() -> None:
    tracker = Tracker(backend=Seeing(), config=WIDENING)
    tracker.init(square_frame(), BOX)
    found = tracker.update(JUMPED)
    assert (found.state, found.box) == ("tracking", pytest.approx((12, 42, 16, 16), abs=1))


def test_one_of_many_that_jumped_is_found_in_the_same_frame() -> None:
    tracker = MultiTracker(backend=Stacking(), config=WIDENING)
    id = tracker.add(square_frame(), BOX)
    found = tracker.update(JUMPED)[id]
    assert (found.state, found.box) == ("tracking", pytest.approx((12, 42, 16, 16), abs=1))


def test_without_the_rule_it_is_lost() -> None:
    tracker = Tracker(backend=Seeing(), config=HOLDING)
    tracker.init(square_frame(), BOX)
    assert tracker.update(JUMPED).state == "lost"


def test_a_target_that_is_found_is_not_looked_for_again() -> None:
    backend = Scripted([0.5])
    tracker = Tracker(backend=backend, config=WIDENING)
    tracker.init(grey_frame(100), BOX)
    tracker.update(grey_frame(100))
    assert len(backend.crops) == 1


@pytest.mark.parametrize(
    ("scores", "score", "state"),
    [
        ([0.3, 0.4, 0.6], 0.6, "tracking"),
        ([0.3, 0.4, 0.55], 0.3, "lost"),
        ([0.3, 0.39], 0.3, "lost"),
    ],
)
def test_what_the_wider_window_shows_has_to_be_the_target_for_sure_when_it_is_looked_at_near(
    scores: list[float], score: float, state: str
) -> None:
    backend = Scripted(scores)
    tracker = Tracker(backend=backend, config=WIDENING)
    tracker.init(grey_frame(100), BOX)
    result = tracker.update(grey_frame(100))
    assert (result.score, result.state) == (pytest.approx(score), state)
    assert len(backend.crops) == len(scores)


def test_what_the_wider_window_shows_is_looked_at_in_one_of_the_usual_width() -> None:
    class Keeping(Seeing):
        def search(self, crop: np.ndarray, cache: int) -> Located:
            self.crops.append(crop[0].copy())
            return super().search(crop, cache)

    backend = Keeping()
    tracker = Tracker(backend=backend, config=WIDENING)
    tracker.init(square_frame(), BOX)
    tracker.update(JUMPED)
    first, wide, near = ((crop.min(axis=-1) > 150) for crop in backend.crops)
    assert (first.sum(), wide.sum(), near.sum()) == (0, 8 * 8, 16 * 16)
    rows, columns = np.nonzero(near)
    assert (columns.mean(), rows.mean()) == pytest.approx((31.5, 31.5), abs=1)


def test_a_target_that_left_is_looked_for_in_the_wider_window_too() -> None:
    tracker = Tracker(backend=Scripted([0.3, 0.3, 0.5, 0.5, 0.55, 0.5, 0.5, 0.7]), config=WIDENING)
    tracker.init(grey_frame(100), (2, 42, 30, 16))
    assert [tracker.update(grey_frame(100)).state for _ in range(3)] == ["lost", "lost", "tracking"]


def test_the_wider_window_lies_around_the_same_place() -> None:
    backend = Scripted([0.1, 0.1])
    tracker = Tracker(backend=backend, config=WIDENING)
    frame = noise_frame()
    tracker.init(frame, BOX)
    tracker.update(frame)
    near, wide = (crop.astype(float) for crop in backend.crops)
    middle = wide[len(wide) // 4 : -len(wide) // 4, len(wide) // 4 : -len(wide) // 4]
    halves = near.reshape(len(near) // 2, 2, len(near) // 2, 2, 3).mean(axis=(1, 3))
    assert np.corrcoef(middle.ravel(), halves.ravel())[0, 1] > 0.5
