"""Every protocol against its toolkit where that can be run, and by hand in each point where two of them differ."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from layouts import HEIGHT, WIDTH, write_images, write_text

from mixformerv2 import geometry
from mixformerv2.data.benchmarks import READERS
from mixformerv2.data.sequence import Sequence
from mixformerv2.evaluate import metrics
from mixformerv2.evaluate.protocols import (
    MATLAB_THRESHOLDS,
    PROTOCOLS,
    Figures,
    measure,
    overlaps,
    protocol_table,
    summarise,
)
from mixformerv2.evaluate.run import OnePass

DOCUMENT = Path(__file__).parents[1] / "docs" / "evaluation.md"
SIZE = (100, 80)
TRUE = (40.0, 30.0, 60.0, 50.0)  # 20 px a side
FAR = (0.0, 0.0, 5.0, 5.0)
NOTHING = (np.nan,) * 4

Box = tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class NoFrames:
    """Pictures that nobody asks for."""

    length: int

    def __len__(self) -> int:
        return self.length

    def read(self, index: int) -> np.ndarray:
        raise AssertionError("a protocol needs no pictures")

    def place(self, index: int) -> str:
        return str(index)


def sequence_of(*boxes: Box, hidden: tuple[int, ...] = ()) -> Sequence:
    """A box of nan is a frame without a true box; in ``hidden`` frames the dataset says why."""
    truth = np.array(boxes, np.float64)
    flags = np.isin(np.arange(len(boxes)), hidden)
    truth[flags] = np.nan
    return Sequence("s", NoFrames(len(boxes)), truth, np.isnan(truth[:, 0]), occluded=flags)


def pass_of(*boxes: Box, first_frame: int = 0) -> OnePass:
    return OnePass(np.array(boxes, np.float64), np.ones(len(boxes)), np.full(len(boxes), 0.01), first_frame)


def measured(name: str, predicted: list[Box], *truth: Box, hidden: tuple[int, ...] = ()) -> Figures:
    return measure(pass_of(*predicted), sequence_of(*truth, hidden=hidden), PROTOCOLS[name], SIZE)


def shares(figures: Figures) -> tuple[int, float, float, float]:
    """Frames that count, and the shares of those that overlap at all, are within 20 px and within 0.2."""
    return figures.frames, figures.success[0], figures.precision, figures.normalised_curve[20]


def every(**values: Any) -> list[Any]:
    """A case a protocol; ``others`` is the value of those that are not named."""
    others = values.pop("others", None)
    spoken = {name.replace("_", "-"): value for name, value in values.items()}
    return [pytest.param(name, spoken.get(name, others), id=name) for name in PROTOCOLS]


# --- one difference at a time


@pytest.mark.parametrize(
    ("name", "expected"),
    every(
        others=(2, 1.0, 1.0, 1.0),
        pysot=(2, 0.5, 0.5, 0.5),
        mixformerv2=(2, 0.5, 0.5, 0.5),
        got10k=(1, 1.0, 1.0, 1.0),
    ),
)
def test_the_first_frame_counts_as_the_truth_or_as_predicted_or_not_at_all(
    name: str, expected: tuple[float, ...]
) -> None:
    assert shares(measured(name, [FAR, TRUE], TRUE, TRUE)) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    every(others=(4, 0.75, 0.75, 0.75), mixformerv2=(3, 1.0, 1.0, 1.0), got10k=(2, 1.0, 1.0, 1.0)),
)
def test_a_frame_that_is_flagged_absent_is_a_miss_or_left_out(name: str, expected: tuple[float, ...]) -> None:
    assert shares(measured(name, [TRUE] * 4, *[TRUE] * 4, hidden=(2,))) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    every(
        lasot=(4, 0.75, 1.0, 1.0),
        pytracking=(4, 0.75, 0.75, 1.0),
        pytracking_uav=(4, 0.75, 1.0, 1.0),
        pysot=(4, 0.75, 1.0, 1.0),
        otb=(4, 0.75, 0.75, 0.75),
        got10k=(2, 1.0, 1.0, 1.0),
        mixformerv2=(3, 1.0, 1.0, 1.0),
    ),
)
def test_a_frame_without_a_box_or_a_flag_hits_in_some_toolkits(
    name: str, expected: tuple[float, ...]
) -> None:
    assert shares(measured(name, [TRUE] * 4, TRUE, TRUE, NOTHING, TRUE)) == expected


@pytest.mark.parametrize("broken", [NOTHING, (50.0, 40.0, 50.0, 40.0), (50.0, 40.0, 45.0, 60.0)])
@pytest.mark.parametrize(
    ("name", "expected"),
    every(others=1 / 4, lasot=1.0, pytracking=1.0, pytracking_uav=1.0, got10k=0.0),
)
def test_a_prediction_without_an_area_is_a_miss_or_the_box_before(
    name: str, expected: float, broken: Box
) -> None:
    assert measured(name, [TRUE, broken, broken, broken], *[TRUE] * 4).success[0] == expected


def test_the_box_before_is_the_last_one_that_was_whole() -> None:
    there = (0.0, 0.0, 20.0, 20.0)
    figures = measured("lasot", [TRUE, there, NOTHING, NOTHING], TRUE, there, there, there)
    assert figures.ao == 1.0


def test_a_box_before_that_is_broken_itself_is_no_help() -> None:
    assert measured("lasot", [NOTHING, NOTHING, TRUE], *[TRUE] * 3).success[0] == 2 / 3


@pytest.mark.parametrize(("name", "expected"), every(others=400 / 420.25, pytracking=1.0, pytracking_uav=1.0))
def test_whole_pixels_drop_what_is_behind_the_point(name: str, expected: float) -> None:
    # 20.5 x 20.5 px around the true 20 x 20 px become the same.
    figures = measured(name, [TRUE, (40.0, 30.0, 60.5, 50.5)], TRUE, TRUE)
    ao_of_two = (1 + expected) / 2
    assert figures.ao == pytest.approx(expected if name == "got10k" else ao_of_two, abs=1e-12)


def test_whole_pixels_are_those_of_files_that_count_from_1() -> None:
    # x is -0.5 there, which becomes 0.
    figures = measured("pytracking", [TRUE, (-1.5, 30.0, 18.5, 50.0)], TRUE, (-1.0, 30.0, 19.0, 50.0))
    assert figures.ao == 1.0


def test_a_side_of_whole_pixels_is_not_lost_between_two_corners() -> None:
    box = geometry.xywh_to_xyxy((3.2, 3.2, 5.0, 5.0))
    assert (box[2:] - box[:2]).min() < 5  # which would leave 4 px
    figures = measured("pytracking", [TRUE, tuple(box.tolist())], TRUE, (3.0, 3.0, 8.0, 8.0))
    assert figures.ao == 1.0


@pytest.mark.parametrize(("name", "expected"), every(others=1 / 3, got10k=1.0))
def test_a_box_over_the_left_border_is_moved_into_the_picture_by_got10k(name: str, expected: float) -> None:
    figures = measured(name, [(0.0, 0.0, 10.0, 10.0), (-5.0, 0.0, 5.0, 10.0)], *[(0.0, 0.0, 10.0, 10.0)] * 2)
    assert figures.ao == pytest.approx(expected if name == "got10k" else (1 + expected) / 2)


def test_a_box_over_the_right_border_is_cut_by_got10k() -> None:
    corner = (90.0, 70.0, 100.0, 80.0)
    assert measured("got10k", [corner, (90.0, 70.0, 120.0, 90.0)], corner, corner).ao == 1.0
    assert measured("otb", [corner, (90.0, 70.0, 110.0, 80.0)], corner, corner).ao == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("name", "expected"), every(others=(0.5, 0.5, 0.5), lasot=(0.5, 1.0, 1.0), got10k=(0.0, 0.0, 0.0))
)
def test_a_true_box_over_the_border_is_no_box_to_lasot(name: str, expected: tuple[float, ...]) -> None:
    over = (-5.0, 30.0, 15.0, 50.0)
    away = (60.0, 10.0, 80.0, 30.0)
    assert shares(measured(name, [TRUE, away], TRUE, over))[1:] == expected
    # A perfect prediction does not help.
    assert measured(name, [TRUE, over], TRUE, over).success[0] == (0.5 if name == "lasot" else 1.0)


@pytest.mark.parametrize(
    ("name", "expected"),
    every(others=(0.5, 0.5, 0.5), lasot=(0.5, 1.0, 1.0), pysot=(0.5, 1.0, 1.0), got10k=(0.0, 0.0, 0.0)),
)
def test_a_true_box_whose_centre_is_outside_is_hit_wherever_the_tracker_is_in_pysot(
    name: str, expected: tuple[float, ...]
) -> None:
    away = (60.0, 10.0, 80.0, 30.0)
    assert shares(measured(name, [TRUE, away], TRUE, (-15.0, 30.0, 5.0, 50.0)))[1:] == expected


@pytest.mark.parametrize(("centre", "precision"), [(-0.5, 1.0), (-0.4, 0.5)])
def test_a_centre_is_outside_in_pysot_from_zero_down_as_its_files_count(
    centre: float, precision: float
) -> None:
    # In files that count from 1 it is at x + (w - 1) / 2, here 0 and 0.1.
    away = (60.0, 10.0, 80.0, 30.0)
    truth = (centre - 10, 30.0, centre + 10, 50.0)
    assert measured("pysot", [TRUE, away], TRUE, truth).precision == precision


def test_files_that_count_from_0_put_the_first_pixel_outside_for_lasot() -> None:
    at_the_border = (0.0, 30.0, 20.0, 50.0)
    result, sequence = pass_of(TRUE, at_the_border), sequence_of(TRUE, at_the_border)
    assert measure(result, sequence, PROTOCOLS["lasot"]).success[0] == 1.0
    assert measure(result, sequence, replace(PROTOCOLS["lasot"], first_pixel=0)).success[0] == 0.5


@pytest.mark.parametrize(("name", "expected"), every(others=0, lasot=1))
def test_an_overlap_of_13_in_20_is_above_matlabs_065_only(name: str, expected: int) -> None:
    box, part = (0.0, 0.0, 20.0, 20.0), (0.0, 0.0, 13.0, 20.0)
    protocol = PROTOCOLS[name]
    figures = measure(pass_of(box, part), sequence_of(box, box), protocol, SIZE)
    at = np.abs(protocol.overlap_thresholds - 0.65).argmin()
    assert figures.frames * figures.success[at] == expected + (figures.frames == 2)


@pytest.mark.parametrize("name", list(PROTOCOLS))
def test_no_other_overlap_is_above_a_threshold_that_it_equals(name: str) -> None:
    box = (0.0, 0.0, 20.0, 20.0)
    protocol = PROTOCOLS[name]
    for twentieths in {*range(1, 21)} - {13}:
        part = (0.0, 0.0, float(twentieths), 20.0)
        figures = measure(pass_of(box, part), sequence_of(box, box), protocol, SIZE)
        at = np.abs(protocol.overlap_thresholds - twentieths / 20).argmin()
        started_above = figures.frames == 2 and twentieths < 20
        assert figures.frames * figures.success[at] == started_above


def test_thresholds_are_those_that_the_toolkits_compute() -> None:
    assert (PROTOCOLS["pysot"].overlap_thresholds == np.arange(0, 1.05, 0.05)).all()
    assert (PROTOCOLS["otb"].overlap_thresholds == np.linspace(0, 1, 21)).all()
    assert (PROTOCOLS["got10k"].overlap_thresholds == np.linspace(0, 1, 101)).all()
    # MATLAB comes from both ends, so that 1 minus the thresholds are the thresholds in the lower half.
    assert MATLAB_THRESHOLDS.shape == (21,) and MATLAB_THRESHOLDS[[0, 10, 20]].tolist() == [0, 0.5, 1]
    assert (MATLAB_THRESHOLDS[:10] == 0.05 * np.arange(10)).all()
    assert (MATLAB_THRESHOLDS[11:] == 1 - MATLAB_THRESHOLDS[9::-1]).all()


@pytest.mark.parametrize(("name", "expected"), every(others=0.5, got10k=0.0, mixformerv2=(1 + 26 / 51) / 2))
def test_normalised_precision_is_a_point_or_the_mean_of_the_curve(name: str, expected: float) -> None:
    # The centre is off by a quarter of the width, which 0.25 to 0.5 in steps of 0.01 allow.
    figures = measured(name, [TRUE, (45.0, 30.0, 65.0, 50.0)], TRUE, TRUE)
    assert figures.normalised_precision == pytest.approx(expected)
    assert figures.normalised_curve[25] == 1.0


@pytest.mark.parametrize(("name", "expected"), every(others=0.75, got10k=1 / 4))
def test_the_mean_is_over_sequences_or_over_frames(name: str, expected: float) -> None:
    of_each = {
        "short": measured(name, [TRUE] * 2, *[TRUE] * 2),
        "long": measured(name, [TRUE, TRUE, FAR, FAR], *[TRUE] * 4)
        if name != "got10k"
        else measured(name, [TRUE, FAR, FAR, FAR], *[TRUE] * 4),
    }
    both = summarise(of_each, PROTOCOLS[name])
    assert both.success[0] == both.precision == both.sr50 == expected
    assert both.frames == of_each["short"].frames + of_each["long"].frames


def test_every_two_protocols_disagree_on_a_sequence_that_holds_every_difference() -> None:
    over, part = (-15.0, 30.0, 5.0, 50.0), (40.0, 30.0, 53.0, 50.0)
    truth = [TRUE, TRUE, TRUE, TRUE, NOTHING, TRUE, over, TRUE]
    predicted = [FAR, TRUE, NOTHING, (40.0, 30.0, 60.5, 50.5), TRUE, part, (-20.0, 30.0, 0.0, 50.0), TRUE]
    told = {name: measured(name, predicted, *truth, hidden=(7,)) for name in PROTOCOLS}
    for (first, one), (second, other) in combinations(told.items(), 2):
        ours = [one.auc, one.precision, one.normalised_precision]
        assert not np.allclose(ours, [other.auc, other.precision, other.normalised_precision]), (
            first,
            second,
        )


# --- figures, whatever the protocol


def test_overlaps_are_plain_and_nan_where_there_is_no_truth() -> None:
    half = (40.0, 30.0, 50.0, 50.0)
    result = pass_of(TRUE, half, TRUE, NOTHING, first_frame=1)
    sequence = sequence_of(TRUE, TRUE, TRUE, NOTHING, TRUE)
    np.testing.assert_array_equal(overlaps(result, sequence), [1.0, 0.5, np.nan, 0.0])


def test_a_box_on_an_absent_target_is_no_truth() -> None:
    sequence = Sequence("s", NoFrames(2), np.array([TRUE, TRUE]), np.array([False, True]))
    assert np.isnan(overlaps(pass_of(TRUE, TRUE), sequence)[1])
    assert measure(pass_of(TRUE, TRUE), sequence, PROTOCOLS["mixformerv2"]).frames == 1


def test_op_counts_misses_that_sr_and_ao_leave_out() -> None:
    half = (40.0, 30.0, 50.0, 50.0)
    figures = measured("lasot", [TRUE, TRUE, half, TRUE], *[TRUE] * 4, hidden=(3,))
    assert (figures.op50, figures.op75) == (0.5, 0.5)
    assert (figures.sr50, figures.sr75, figures.ao) == (2 / 3, 2 / 3, 2.5 / 3)


def test_a_sequence_of_which_no_frame_counts_has_no_figures_and_no_weight() -> None:
    nothing = measured("got10k", [TRUE, TRUE], TRUE, NOTHING)
    assert nothing.frames == 0 and np.isnan([nothing.auc, nothing.ao, nothing.sr50, *nothing.success]).all()
    something = measured("got10k", [TRUE, TRUE], TRUE, TRUE)
    for protocol in (PROTOCOLS["got10k"], PROTOCOLS["otb"]):
        assert summarise({"a": nothing, "b": something}, protocol).ao == 1.0
        assert np.isnan(summarise({"a": nothing, "b": nothing}, protocol).auc)


def test_a_sequence_without_one_of_the_figures_is_left_out_of_that_mean_alone() -> None:
    whole = measured("lasot", [TRUE, TRUE], TRUE, TRUE)
    partly = whole._replace(ao=float("nan"), auc=0.5)
    both = summarise({"a": partly, "b": whole}, PROTOCOLS["lasot"])
    assert both.ao == whole.ao and both.auc == (0.5 + whole.auc) / 2
    pooled = summarise({"a": partly, "b": whole}, PROTOCOLS["got10k"])
    assert pooled.ao == whole.ao
    assert np.isnan(summarise({"a": partly, "b": partly}, PROTOCOLS["lasot"]).ao)


def test_no_figures_have_no_mean() -> None:
    with pytest.raises(ValueError, match="at least one sequence to take the mean of, got none"):
        summarise({}, PROTOCOLS["otb"])


def test_a_pass_beyond_the_sequence_is_refused() -> None:
    with pytest.raises(ValueError, match="the result of s must lie within its 2 frames, got frames 1 to 2"):
        measure(pass_of(TRUE, TRUE, first_frame=1), sequence_of(TRUE, TRUE), PROTOCOLS["otb"])


def test_only_clipping_needs_the_size_of_the_frames() -> None:
    result, sequence = pass_of(TRUE, TRUE), sequence_of(TRUE, TRUE)
    with pytest.raises(ValueError, match="got10k needs the size of the frames, got None"):
        measure(result, sequence, PROTOCOLS["got10k"])
    for name in PROTOCOLS.keys() - {"got10k"}:
        assert measure(result, sequence, PROTOCOLS[name]).frames == 2


def test_measuring_leaves_the_boxes_alone() -> None:
    result, sequence = pass_of(FAR, (-5.0, 3.3, 5.0, 10.0), NOTHING), sequence_of(TRUE, TRUE, NOTHING)
    before = result.boxes_frame.copy(), sequence.boxes_frame.copy()
    for protocol in PROTOCOLS.values():
        measure(result, sequence, protocol, SIZE)
    np.testing.assert_array_equal(result.boxes_frame, before[0])
    np.testing.assert_array_equal(sequence.boxes_frame, before[1])


def test_protocols_travel_to_other_processes() -> None:
    for name, protocol in PROTOCOLS.items():
        copy = pickle.loads(pickle.dumps(protocol))
        assert copy.name == name and (copy.overlap_thresholds == protocol.overlap_thresholds).all()


def test_the_document_holds_the_table_of_differences() -> None:
    table = protocol_table()
    assert f"\n\n{table}\n" in DOCUMENT.read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in table.splitlines()]
    assert {len(row) for row in rows} == {len(PROTOCOLS) + 1}
    assert all(len(set(row[1:])) > 1 for row in rows[2:]), "a row in which all agree is no difference"


# --- against what can be run


def wandering(
    frames: int, seed: int, absent: float = 0.0, frame_size: tuple[int, int] = SIZE
) -> tuple[OnePass, Sequence]:
    """A target that walks over the borders and a tracker that drifts, in hundredths of a pixel."""
    generator = np.random.default_rng(seed)
    centre = np.array(frame_size) / 2 + generator.normal(0, 4, (frames, 2)).cumsum(axis=0)
    centre = np.clip(centre, 3, np.array(frame_size) - 3)
    size = generator.uniform(8, 30, (frames, 2))
    truth = np.concatenate([centre - size / 2, size], axis=1).round(2)
    predicted = truth + generator.normal(0, [[3, 3, 2, 2]], (frames, 4)).round(2)
    predicted[generator.random(frames) < 0.1, :2] += 25
    predicted[:, 2:] = np.maximum(predicted[:, 2:], 1)
    gone = generator.random(frames) < absent
    gone[0] = False
    boxes_frame = geometry.xywh_to_xyxy(truth)
    boxes_frame[gone] = np.nan
    predicted[0] = truth[0]
    result = pass_of(*map(tuple, geometry.xywh_to_xyxy(predicted).tolist()))
    return result, Sequence("s", NoFrames(frames), boxes_frame, gone)


@pytest.mark.parametrize("seed", range(3))
def test_mixformerv2_is_metrics_score(seed: int) -> None:
    result, sequence = wandering(200, seed, absent=0.2)
    result.boxes_frame[5:8] = np.nan
    there = ~sequence.absent
    expected = metrics.score(result.boxes_frame[there], sequence.boxes_frame[there])
    figures = measure(result, sequence, PROTOCOLS["mixformerv2"])
    assert (figures.auc, figures.precision) == (expected.auc, expected.precision)
    assert figures.normalised_precision == pytest.approx(expected.normalised_precision, rel=1e-14)
    assert figures.frames == there.sum()


def test_the_published_quirk_of_the_toolkits_is_no_difference() -> None:
    """Whole pixels that belong to the box, as in the sources of PyTracking, OTB and LaSOT, change no overlap."""
    result, sequence = wandering(300, seed=7)
    a, b = (geometry.xyxy_to_xywh(boxes) for boxes in (result.boxes_frame, sequence.boxes_frame))
    last = np.minimum(a[:, :2] + a[:, 2:] - 1, b[:, :2] + b[:, 2:] - 1)
    common = np.maximum(last - np.maximum(a[:, :2], b[:, :2]) + 1, 0).prod(axis=1)
    inclusive = common / (a[:, 2:].prod(axis=1) + b[:, 2:].prod(axis=1) - common)
    np.testing.assert_allclose(overlaps(result, sequence), inclusive, atol=1e-12)
    off = a[:, :2] + (a[:, 2:] - 1) / 2 - b[:, :2] - (b[:, 2:] - 1) / 2
    distance, _ = metrics.centre_errors(result.boxes_frame, sequence.boxes_frame)
    np.testing.assert_allclose(distance, np.hypot(*off.T), atol=1e-12)


from_got10k = pytest.mark.filterwarnings("ignore::DeprecationWarning:got10k", "ignore::SyntaxWarning:got10k")


@from_got10k
def test_overlaps_and_distances_are_those_of_the_package_got10k() -> None:
    from got10k.utils.metrics import center_error, rect_iou

    result, sequence = wandering(300, seed=3)
    a, b = (geometry.xyxy_to_xywh(boxes) for boxes in (result.boxes_frame, sequence.boxes_frame))
    np.testing.assert_allclose(overlaps(result, sequence), rect_iou(a, b), atol=1e-12)
    distance, _ = metrics.centre_errors(result.boxes_frame, sequence.boxes_frame)
    np.testing.assert_allclose(distance, center_error(a, b), atol=1e-12)
    inside = [metrics.into_picture(one.boxes_frame, SIZE) for one in (result, sequence)]
    assert not np.allclose(inside[0], result.boxes_frame)
    np.testing.assert_allclose(geometry.iou(*inside), rect_iou(a, b, bound=SIZE), atol=1e-12)


def write_truth(file: Path, truth_xywh: np.ndarray) -> None:
    write_text(file, *(",".join(f"{value:.2f}" for value in row) for row in truth_xywh))


def as_pass(file: Path, offset: int) -> OnePass:
    """The results that the package's experiment has read, in our coordinates."""
    boxes_xywh = np.loadtxt(file, delimiter=",") - [offset, offset, 0, 0]
    return pass_of(*map(tuple, geometry.xywh_to_xyxy(boxes_xywh).tolist()))


def figures_by_sequence(
    name: str, sequences: Any, files: Callable[[str], Path], offset: int
) -> dict[str, Figures]:
    protocol = PROTOCOLS[name]
    return {
        sequence.name: measure(
            as_pass(files(sequence.name), offset), sequence, protocol, sequence.frame(0).shape[1::-1]
        )
        for sequence in sequences
    }


@from_got10k
def test_otb_is_the_experiment_of_the_package_got10k(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from got10k.experiments import ExperimentOTB

    monkeypatch.setattr(ExperimentOTB, "plot_curves", lambda self, names: None)
    monkeypatch.setattr("got10k.datasets.otb.OTB._download", lambda self, root, version: None)
    root, results = tmp_path / "otb", tmp_path / "results" / "OTB2015" / "drifting"
    for seed, (name, frames) in enumerate({"Basketball": 60, "Car4": 25}.items()):
        result, sequence = wandering(frames, seed)
        write_images(root / name / "img", range(1, frames + 1), digits=4)
        one = np.array([1, 1, 0, 0])  # the first pixel
        truth, boxes = (geometry.xyxy_to_xywh(b) + one for b in (sequence.boxes_frame, result.boxes_frame))
        write_truth(root / name / "groundtruth_rect.txt", truth)
        boxes[0] += 50  # which the toolkit overwrites
        write_truth(results / f"{name}.txt", boxes)
    experiment = ExperimentOTB(str(root), 2015, str(tmp_path / "results"), str(tmp_path / "reports"))
    theirs = experiment.report(["drifting"])["drifting"]
    ours = figures_by_sequence("otb", READERS["otb"](root), lambda name: results / f"{name}.txt", offset=1)
    together = summarise(ours, PROTOCOLS["otb"])
    assert ours.keys() == theirs["seq_wise"].keys() and 0.2 < together.auc < 0.9
    for figures, said in ((together, theirs["overall"]), *((ours[n], theirs["seq_wise"][n]) for n in ours)):
        assert figures.auc == pytest.approx(said["success_score"], abs=1e-12)
        assert figures.precision == pytest.approx(said["precision_score"], abs=1e-12)
        assert figures.op50 == pytest.approx(said["success_rate"], abs=1e-12)
        np.testing.assert_allclose(figures.success, said["success_curve"], atol=1e-12)
        np.testing.assert_allclose(figures.precision_curve, said["precision_curve"], atol=1e-12)


@from_got10k
def test_got10k_is_the_experiment_of_the_package_got10k(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from got10k.experiments import ExperimentGOT10k

    monkeypatch.setattr(ExperimentGOT10k, "plot_curves", lambda self, files, names: None)
    root, results = tmp_path / "got10k", tmp_path / "results" / "GOT-10k" / "drifting"
    names = {"GOT-10k_Val_000001": 50, "GOT-10k_Val_000002": 15}
    for seed, (name, frames) in enumerate(names.items()):
        result, sequence = wandering(frames, seed, frame_size=(WIDTH, HEIGHT))
        folder = root / "val" / name
        write_images(folder, range(1, frames + 1))
        hidden = np.arange(frames) % 7 == 3
        write_truth(folder / "groundtruth.txt", geometry.xyxy_to_xywh(sequence.boxes_frame))
        write_text(folder / "cover.label", *np.where(hidden, 0, 8))
        for label in ("absence", "cut_by_image"):
            write_text(folder / f"{label}.label", *np.zeros(frames, int))
        write_text(folder / "meta_info.ini", "[METAINFO]", f"resolution: ({WIDTH}, {HEIGHT})")
        write_truth(results / name / f"{name}_001.txt", geometry.xyxy_to_xywh(result.boxes_frame))
        write_text(results / name / f"{name}_time.txt", *[0.01] * frames)
    write_text(root / "val" / "list.txt", *names)
    experiment = ExperimentGOT10k(str(root), "val", str(tmp_path / "results"), str(tmp_path / "reports"))
    theirs = experiment.report(["drifting"])["drifting"]
    ours = figures_by_sequence(
        "got10k", READERS["got10k-val"](root), lambda name: results / name / f"{name}_001.txt", offset=0
    )
    together = summarise(ours, PROTOCOLS["got10k"])
    assert together.frames == sum(n - 1 - np.sum(np.arange(n) % 7 == 3) for n in names.values())
    assert together.ao == pytest.approx(theirs["overall"]["ao"], abs=1e-12) and 0.1 < together.ao < 0.9
    assert together.sr50 == pytest.approx(theirs["overall"]["sr"], abs=1e-12)
    np.testing.assert_allclose(together.success, theirs["overall"]["succ_curve"], atol=1e-12)
    for name, said in theirs["seq_wise"].items():
        assert ours[name].ao == pytest.approx(said["ao"], abs=1e-12)
        assert ours[name].sr50 == pytest.approx(said["sr"], abs=1e-12)
