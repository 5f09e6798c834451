"""Two runs compared: differences by hand, intervals against a slow reference, and what is refused."""

from __future__ import annotations

import dataclasses
import io
import json
import math

import numpy as np
import pytest
from rich.console import Console
from test_report import TRUE_BOX, run_of, sequences_of, shifted_pass

from mixformerv2.evaluate.protocols import PROTOCOLS, summarise
from mixformerv2.evaluate.report.compare import Comparison, compare, resample
from mixformerv2.evaluate.report.figures import build_scores
from mixformerv2.evaluate.store import Run

LASOT = PROTOCOLS["lasot"]


def compared(a: Run, b: Run, protocol: str = "lasot", **options: object) -> Comparison:
    return compare(a, b, sequences_of(a), PROTOCOLS[protocol], **options)  # type: ignore[arg-type]


# --- the bootstrap


def test_of_two_sequences_the_resamples_are_the_three_means_that_there_are() -> None:
    # Means of two draws from {0, 1}: 0 once in four, 1/2 twice, 1 once.
    result = resample(np.array([0.0, 1.0]), np.ones(2))
    assert (result.mean, result.low, result.high) == (0.5, 0.0, 1.0)
    assert result.share_above_zero == pytest.approx(0.75, abs=0.02)


def test_equal_differences_leave_no_doubt() -> None:
    result = resample(np.full(7, 0.25), np.ones(7))
    assert (result.mean, result.low, result.high, result.share_above_zero) == (0.25, 0.25, 0.25, 1.0)


def test_the_interval_is_that_of_a_slow_reference() -> None:
    generator = np.random.default_rng(3)
    gains, weights = generator.normal(0.1, 0.2, 9), generator.integers(50, 500, 9).astype(float)
    drawn = np.random.default_rng(5).integers(9, size=(400, 9))
    means = sorted(
        sum(gains[row] * weights[row] for row in rows) / sum(weights[row] for row in rows) for rows in drawn
    )
    result = resample(gains, weights, seed=5, resamples=400)
    # Linear between the two order statistics around 2.5 % and 97.5 %.
    low = means[9] + 0.975 * (means[10] - means[9])
    high = means[389] + 0.025 * (means[390] - means[389])
    assert (result.low, result.high) == (pytest.approx(low), pytest.approx(high))
    assert result.share_above_zero == pytest.approx(sum(mean > 0 for mean in means) / 400)


def test_the_interval_of_many_sequences_is_that_of_the_normal_distribution() -> None:
    gains = np.random.default_rng(0).normal(0.02, 0.1, 2000)
    result = resample(gains, np.ones(2000))
    half = 1.96 * gains.std() / math.sqrt(2000)
    assert (result.low, result.high) == (
        pytest.approx(gains.mean() - half, abs=3e-4),
        pytest.approx(gains.mean() + half, abs=3e-4),
    )


def test_the_seed_decides() -> None:
    gains, weights = np.linspace(-1, 2, 12), np.ones(12)
    assert resample(gains, weights, seed=1) == resample(gains, weights, seed=1)
    assert resample(gains, weights, seed=1) != resample(gains, weights, seed=2)


def test_a_single_sequence_has_no_interval() -> None:
    result = compared(run_of("a", one=[0, 20, 20]), run_of("b", one=[0, 0, 0]))
    assert math.isnan(result.resampled.low) and not result.excludes_zero
    assert result.verdict().endswith("the mean of 1 sequence; a single sequence gives no interval.")
    assert result.as_dict()["interval"] == [None, None]


# --- two runs


def test_differences_are_paired_and_come_from_the_largest_gain_to_the_largest_loss() -> None:
    a = run_of("a", better=[0, 20, 20, 20], same=[0, 10, 10, 10], worse=[0, 0, 0, 0])
    b = run_of("b", better=[0, 0, 0, 0], same=[0, 10, 10, 10], worse=[0, 10, 10, 10])
    result = compared(a, b)
    assert [one.sequence for one in result.differences] == ["better", "same", "worse"]
    of_a, of_b = (build_scores(run, sequences_of(a), [LASOT]).by_sequence["lasot"] for run in (a, b))
    for one in result.differences:
        assert (one.a, one.b) == (of_a[one.sequence].auc, of_b[one.sequence].auc)
    gains = [one.gain for one in result.differences]
    assert gains[0] > 0 > gains[2] and gains[1] == 0
    assert result.resampled.mean == pytest.approx(np.mean(gains))


@pytest.mark.parametrize("protocol", list(PROTOCOLS))
def test_the_mean_difference_is_that_of_the_protocols_own_means(protocol: str) -> None:
    a = run_of("a", short=[0, 0, 10], long=[0] + [20] * 19)
    b = run_of("b", short=[0, 20, 20], long=[0] + [5] * 19)
    result = compared(a, b, protocol)
    scores = [build_scores(run, sequences_of(a), [PROTOCOLS[protocol]]) for run in (a, b)]
    of_a, of_b = (summarise(one.by_sequence[protocol], PROTOCOLS[protocol]) for one in scores)
    expected = getattr(of_b, result.figure) - getattr(of_a, result.figure)
    assert result.resampled.mean == pytest.approx(expected)


def test_another_figure_can_be_compared() -> None:
    a, b = run_of("a", one=[0, 15, 15, 15], two=[0, 0, 0, 0]), run_of("b", one=[0, 0, 0, 0], two=[0, 0, 0, 0])
    result = compared(a, b, figure="op50")
    of_a = build_scores(a, sequences_of(a), [LASOT]).by_sequence["lasot"]["one"]
    assert result.differences[0].gain == pytest.approx(1 - of_a.op50)


def test_the_verdict_says_whether_the_interval_excludes_zero() -> None:
    names = [f"s{number}" for number in range(12)]
    bad, good = {name: [0, 10, 10] for name in names}, {name: [0, 0, 0] for name in names}
    clear = compared(run_of("old", **bad), run_of("new", **good))
    assert clear.excludes_zero and clear.resampled.share_above_zero == 1
    assert clear.verdict().startswith("new has ") and "more than old" in clear.verdict()
    assert clear.verdict().endswith("excludes zero. new is better in 100.0% of 10,000 resamples.")
    mixed = {name: [0, 10, 10] if number % 2 else [0, 2, 2] for number, name in enumerate(names)}
    other = {name: [0, 2, 2] if number % 2 else [0, 10, 10] for number, name in enumerate(names)}
    unclear = compared(run_of("old", **mixed), run_of("new", **other))
    assert not unclear.excludes_zero
    assert "includes zero, so these do not tell the two apart" in unclear.verdict()


def test_where_frames_are_pooled_the_verdict_says_so() -> None:
    a, b = run_of("a", one=[0, 9], two=[0, 5]), run_of("b", one=[0, 0], two=[0, 0])
    assert "the mean over the frames of 2 sequences" in compared(a, b, "got10k").verdict()


def test_a_sequence_without_the_figure_is_left_out() -> None:
    a, b = run_of("a", one=[0, 9], two=[0, 5]), run_of("b", one=[0, 0], two=[0, 0])
    sequences = sequences_of(a)
    to_left = TRUE_BOX[0] + 1  # to where LaSOT measures no overlap
    boxes_frame = sequences[0].boxes_frame - (to_left, 0, to_left, 0)
    at_border = dataclasses.replace(sequences[0], boxes_frame=boxes_frame)
    result = compare(a, b, [at_border, sequences[1]], LASOT, figure="ao")
    assert [one.sequence for one in result.differences] == ["two"]


def test_a_run_compared_with_itself_has_as_much_and_keeps_a_name_of_its_own() -> None:
    run = run_of("tiny", one=[0, 9], two=[0, 5])
    result = compared(run, run)
    assert result.verdict().startswith("tiny (2) has as much AUC as tiny, the mean of 2 sequences")
    assert not result.excludes_zero and result.resampled.share_above_zero == 0


def test_runs_in_different_precisions_are_said_to_differ_in_that_too() -> None:
    one = run_of("tiny", a=[2.0, 3.0], b=[4.0, 1.0])
    runs = {
        precision: one._replace(description={**one.description, "tracker": {"precision": precision}})
        for precision in ("f32", "int8")
    }
    said = "They differ in precision, too, f32 and int8: to compare the models alone, run both with the same"
    assert said in compared(runs["f32"], runs["int8"]).verdict()
    assert "precision" not in compared(runs["f32"], runs["f32"]).verdict()
    assert "precision" not in compared(one, runs["int8"]).verdict()  # of another kind of tracker


def test_few_sequences_are_said_to_give_a_rough_interval() -> None:
    result = compared(run_of("a", one=[0, 9], two=[0, 5]), run_of("b", one=[0, 0], two=[0, 0]))
    assert result.verdict().endswith("An interval from only 2 sequences is a rough one.")


def test_a_comparison_becomes_a_table_and_json() -> None:
    a, b = run_of("[a]", **{"[x]": [0, 20], "y": [0, 0]}), run_of("b", **{"[x]": [0, 0], "y": [0, 10]})
    result = compared(a, b)
    console = Console(file=io.StringIO(), width=120)
    console.print(result.table())
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    rows = [line for line in lines if line.startswith("│")]
    assert "[x]" in rows[0] and "+" in rows[0] and "y" in rows[1] and "-" in rows[1]
    document = json.loads(json.dumps(result.as_dict(), allow_nan=False))
    assert document["a"] == "[a]" and document["seed"] == 0 and document["resamples"] == 10_000
    assert [one["sequence"] for one in document["sequences"]] == ["[x]", "y"]
    assert document["interval"] == [result.resampled.low, result.resampled.high]
    assert document["verdict"] == result.verdict()


# --- what is refused


def test_runs_on_different_datasets_are_refused() -> None:
    with pytest.raises(
        ValueError, match="same dataset and sequences to be compared, got a of otb and b of lasot"
    ):
        compared(run_of("a", one=[0, 0]), run_of("b", dataset="lasot", one=[0, 0]))


def test_runs_of_different_sequences_are_refused() -> None:
    with pytest.raises(ValueError, match="but only b has results of two"):
        compared(run_of("a", one=[0, 0]), run_of("b", one=[0, 0], two=[0, 0]))
    with pytest.raises(ValueError, match="but only a has results of three and 1 more"):
        compared(run_of("a", one=[0, 0], two=[0, 0], three=[0, 0]), run_of("b", one=[0, 0]))


def test_runs_over_different_frames_are_refused() -> None:
    a, b = run_of("a", one=[0, 0, 0]), run_of("b", one=[0, 0, 0])
    b.passes["one"] = shifted_pass([0, 0])
    with pytest.raises(ValueError, match="over the same frames to be compared, got 3 and 2 frames of one"):
        compared(a, b)


def test_a_sequence_without_a_frame_to_score_is_left_out() -> None:
    a, b = run_of("a", one=[0, 0], two=[0, 5]), run_of("b", one=[0, 0], two=[0, 0])
    sequences = sequences_of(a)
    sequences[0] = dataclasses.replace(sequences[0], absent=np.array([False, True]))
    result = compare(a, b, sequences, PROTOCOLS["got10k"])
    assert [one.sequence for one in result.differences] == ["two"]


def test_an_unknown_figure_and_too_few_resamples_are_refused() -> None:
    a, b = run_of("a", one=[0, 0]), run_of("b", one=[0, 0])
    with pytest.raises(ValueError, match="figure must be one of auc, .*, got 'iou'"):
        compared(a, b, figure="iou")
    with pytest.raises(ValueError, match="resamples must be at least 1, got 0"):
        compared(a, b, resamples=0)
