"""The figures against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from mixformerv2.evaluate.metrics import (
    Scores,
    above,
    centre_errors,
    into_picture,
    score,
    success_curve,
    within,
)

TRUTH = np.array([[0.0, 0.0, 10.0, 10.0]])
MISS = Scores(0.0, 0.0, 0.0)


def boxes(*rows: tuple[float, float, float, float]) -> np.ndarray:
    return np.array(rows, np.float64)


def test_the_success_curve_counts_overlaps_strictly_above_each_of_21_thresholds() -> None:
    curve = success_curve(np.array([0.0, 0.5, 1.0]))
    assert curve[0] == 2 / 3
    assert curve[9] == 2 / 3  # 0.45
    assert curve[10] == 1 / 3  # 0.5 is not above 0.5
    assert curve[19] == 1 / 3
    assert curve[20] == 0.0


def test_even_a_perfect_result_misses_the_last_threshold() -> None:
    assert score(TRUTH, TRUTH) == Scores(20 / 21, 1.0, 1.0)


def test_half_the_box_scores_as_worked_out_by_hand() -> None:
    # Overlap 0.5 is above the thresholds 0 to 0.45; the centre is off by 2.5 px, a quarter of the height,
    # which the thresholds 0.25 to 0.5 in steps of 0.01 allow.
    assert score(boxes((0, 0, 10, 5)), TRUTH) == Scores(10 / 21, 1.0, 26 / 51)


@pytest.mark.parametrize(("shift", "precision"), [(20.0, 1.0), (20.5, 0.0)])
def test_a_centre_off_by_20_px_is_just_precise(shift: float, precision: float) -> None:
    assert score(TRUTH + np.array([shift, 0, shift, 0]), TRUTH) == Scores(0.0, precision, 0.0)


def test_figures_are_means_over_frames() -> None:
    both = score(np.concatenate([TRUTH, TRUTH + 500]), np.concatenate([TRUTH, TRUTH]))
    assert both == Scores(10 / 21, 0.5, 0.5)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_prediction_that_is_not_finite_is_a_miss(value: float) -> None:
    assert score(np.full((1, 4), value), TRUTH) == MISS


@pytest.mark.parametrize(
    "box", [(-np.inf, -np.inf, np.inf, np.inf), (5.0, 5.0, 5.0, 5.0), (9.0, 9.0, 1.0, 1.0)]
)
def test_a_prediction_without_a_finite_area_overlaps_nothing(box: tuple[float, float, float, float]) -> None:
    assert score(boxes(box), TRUTH).auc == 0.0


def test_results_of_another_number_than_frames_are_refused() -> None:
    with pytest.raises(ValueError, match="there are 2 results for 1 frames"):
        score(np.concatenate([TRUTH, TRUTH]), TRUTH)


def test_no_frames_at_all_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one frame with a true box, got none"):
        score(np.zeros((0, 4)), np.zeros((0, 4)))


@pytest.mark.parametrize("box", [(np.nan, 0.0, 1.0, 1.0), (0.0, 0.0, 0.0, 5.0), (0.0, 0.0, np.inf, 5.0)])
def test_a_truth_that_is_no_box_is_refused(box: tuple[float, float, float, float]) -> None:
    with pytest.raises(ValueError, match="true box 1 must be finite with positive width and height"):
        score(np.concatenate([TRUTH, TRUTH]), np.concatenate([TRUTH, boxes(box)]))


def test_nan_is_neither_above_nor_within_a_threshold_and_a_value_on_it_is_within() -> None:
    values, thresholds = np.array([np.nan, 1.0, 2.0]), np.array([1.0, 2.0])
    assert above(values, thresholds).tolist() == [[False, False, True], [False, False, False]]
    assert within(values, thresholds).tolist() == [[False, True, False], [False, True, True]]


def test_centre_errors_are_in_px_and_in_units_of_the_true_box() -> None:
    truth = boxes((0, 0, 10, 20), (0, 0, 10, 20), (0, 0, 10, 20))
    # Centres at (8, 14) and (5, 10) against (5, 10): 3 and 4 px, 0.3 and 0.2 of the sides.
    predicted = boxes((3, 4, 13, 24), (5, 10, 5, 10), (np.nan, 0, 1, 1))
    distance, relative = centre_errors(predicted, truth)
    np.testing.assert_allclose(distance, [5.0, 0.0, np.nan])
    np.testing.assert_allclose(relative, [np.hypot(0.3, 0.2), 0.0, np.nan])


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((10, 10, 30, 20), (10, 10, 30, 20)),
        ((90, 70, 120, 90), (90, 70, 100, 80)),  # cut on the right and below
        ((-5, -3, 5, 7), (0, 0, 10, 10)),  # moved, not cut
        ((-150, 0, 10, 10), (0, 0, 100, 10)),  # moved, then cut
        ((200, 100, 220, 110), (100, 80, 100, 80)),  # nothing is left
        ((50, 50, 40, 60), (50, 50, 50, 60)),
        ((np.nan,) * 4, (np.nan,) * 4),
    ],
)
def test_a_box_is_brought_into_the_picture_as_got10k_does(
    box: tuple[float, ...], expected: tuple[float, ...]
) -> None:
    np.testing.assert_array_equal(into_picture(np.array([box], np.float64), (100, 80)), [expected])
