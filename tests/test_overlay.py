"""Many targets drawn: a colour for each, a stroke through the lost, and labels that stay in the picture."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from mixformerv2.overlay import colour_of, draw_many
from mixformerv2.results import Result

BLACK = np.zeros((120, 160, 3), np.uint8)


def has(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return (picture == colour).all(axis=-1)


def test_the_colours_of_a_dozen_targets_are_told_apart() -> None:
    distances = [
        np.abs(np.subtract(colour_of(a), colour_of(b))).max() for a, b in combinations(range(1, 13), 2)
    ]
    assert min(distances) >= 30


def test_every_target_has_an_outline_of_its_colour_and_the_frame_stays_as_it_was() -> None:
    frame = BLACK.copy()
    results = {
        3: Result((20.0, 40.0, 30.0, 20.0), 0.9, "tracking"),
        8: Result((90, 60, 40, 30), 0.9, "tracking"),
    }
    drawn = draw_many(frame, results)
    for id, result in results.items():
        x, y, w, h = map(int, result.box)
        assert has(drawn, colour_of(id))[y + h - 1, x : x + w].all()
        assert not has(drawn, colour_of(id))[y + h // 2, x + 1 : x + w - 1].any(), "nothing inside"
    assert not frame.any()


def test_a_lost_target_is_drawn_through() -> None:
    drawn = draw_many(BLACK, {1: Result((60, 60, 40, 40), 0.1, "lost")})
    assert (drawn[80, 70:90] > 0).any()


@pytest.mark.parametrize("box", [(-50.0, -50.0, 60.0, 60.0), (150, 110, 40, 40), (0, 0, 160, 120)])
def test_a_label_stays_in_the_picture_wherever_the_box_is(box: tuple[float, float, float, float]) -> None:
    one = draw_many(BLACK, {1: Result(box, 0.9, "tracking")})
    other = draw_many(BLACK, {1: Result(box, 0.2, "tracking")})
    assert (one != other).any(), "the score is to be read"
    assert draw_many(BLACK[:8, :10], {1: Result(box, 0.9, "tracking")}).shape == (8, 10, 3)


def test_without_targets_the_line_at_the_bottom_says_so() -> None:
    assert (draw_many(BLACK, {}, fps=30.0) != draw_many(BLACK, {})).any()
