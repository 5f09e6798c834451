"""How the toolkits of the field turn boxes into figures: one protocol each, made of the points in which they differ.

In three points that are often named they do not differ. Intersection over union and distance of centres come out the
same with whole pixels that belong to the box (``x + w - 1``) as with continuous edges, since what one adds the other
takes off again. Overlaps must be above a threshold, centre errors at most as large as theirs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from mixformerv2 import geometry
from mixformerv2.data.sequence import Sequence, has_area
from mixformerv2.evaluate.metrics import (
    NORMALISED_THRESHOLDS,
    PRECISION_PX,
    PRECISION_THRESHOLDS_PX,
    SUCCESS_THRESHOLDS,
    above,
    centre_errors,
    into_picture,
    within,
)
from mixformerv2.evaluate.run import OnePass

NORMALISED_AT = 0.2
_STEPS = 0.05 * np.arange(11)
MATLAB_THRESHOLDS = np.concatenate([_STEPS, 1 - _STEPS[9::-1]])
"""0:0.05:1 as MATLAB computes it, from both ends: 0.65 in the last bit below the others, so that an overlap of 13/20
is above it"""
HUNDREDTHS = np.arange(51) / 100

NoBox = Literal["left out", "missed", "missed, hit in Pnorm", "missed, hit in P and Pnorm"]
_HIT, _MISS = -1.0, np.nan  # errors within every threshold and within none
_ERRORS_WITHOUT_BOX: dict[NoBox, tuple[float, float]] = {
    "left out": (_MISS, _MISS),
    "missed": (_MISS, _MISS),
    "missed, hit in Pnorm": (_MISS, _HIT),
    "missed, hit in P and Pnorm": (_HIT, _HIT),
}


@dataclass(frozen=True, eq=False)
class Protocol:
    """How boxes become figures. A variant is ``dataclasses.replace`` of one that is there."""

    name: str
    overlap_thresholds: Float[np.ndarray, " t"]
    centre_thresholds: Float[np.ndarray, " c"]
    """px"""
    normalised_thresholds: Float[np.ndarray, " n"]
    """in units of the true box"""
    first_frame: Literal["as predicted", "set to the truth", "left out"]
    """the frame that the tracker was started on"""
    broken_prediction: Literal["as given", "box before"]
    """what stands for a prediction that is not finite or has no area"""
    whole_pixels: bool
    """whether predicted x, y, width and height lose what is behind the point, as in files of whole numbers"""
    clipped: bool
    """whether boxes are brought into the picture before their overlap is taken, as by `metrics.into_picture`"""
    flagged_absent: NoBox
    """a frame without a true box that the dataset says is one of a target hidden or out of view"""
    without_box: NoBox
    """any other frame without a true box"""
    outside_truth: Literal["counts", "corner", "centre"]
    """Of a true box that reaches over the left or upper border: "corner" misses the overlap and hits in P and Pnorm
    where its corner is outside, "centre" hits in P and Pnorm where its centre is. They are meant to find the frames
    without a target."""
    first_pixel: int
    """number of the first pixel in the files that the toolkit compares, where "outside" is less than 1: here that of
    the dataset the toolkit was made for; the command line takes `FIRST_PIXEL` of the dataset at hand"""
    normalised_precision: Literal["at 0.2", "mean over 0 to 0.5"]
    average: Literal["sequences", "frames"]
    """whether every sequence weighs the same, or every frame that counts"""


class Figures(NamedTuple):
    """What a sequence or several score, shares in [0, 1]; all nan where no frame counts."""

    frames: int
    """that count"""
    auc: float
    """mean of the success curve"""
    op50: float
    """the success curve at 0.5"""
    op75: float
    """the success curve at 0.75"""
    precision: float
    """share of frames whose centre is at most 20 px away"""
    normalised_precision: float
    ao: float
    """mean overlap; of the frames with a true box, as are the two below"""
    sr50: float
    """share of overlaps above 0.5"""
    sr75: float
    """share of overlaps above 0.75"""
    success: Float[np.ndarray, " t"]
    """share of frames above each of the protocol's overlap thresholds"""
    precision_curve: Float[np.ndarray, " c"]
    normalised_curve: Float[np.ndarray, " n"]


MIXFORMERV2 = Protocol(
    name="mixformerv2",
    overlap_thresholds=SUCCESS_THRESHOLDS,
    centre_thresholds=PRECISION_THRESHOLDS_PX,
    normalised_thresholds=NORMALISED_THRESHOLDS,
    first_frame="as predicted",
    broken_prediction="as given",
    whole_pixels=False,
    clipped=False,
    flagged_absent="left out",
    without_box="left out",
    outside_truth="counts",
    first_pixel=0,
    normalised_precision="mean over 0 to 0.5",
    average="sequences",
)
"""`metrics.score`, by which training validates"""

LASOT = replace(
    MIXFORMERV2,
    name="lasot",
    overlap_thresholds=MATLAB_THRESHOLDS,
    normalised_thresholds=HUNDREDTHS,
    first_frame="set to the truth",
    broken_prediction="box before",
    flagged_absent="missed",
    without_box="missed, hit in P and Pnorm",
    outside_truth="corner",
    first_pixel=1,
    normalised_precision="at 0.2",
)
"""LaSOT's own evaluation toolkit in MATLAB (calc_seq_err_robust.m, eval_tracker.m). It takes absent frames out and then
divides by the number of all frames, so they are misses."""

PYTRACKING = replace(
    LASOT,
    name="pytracking",
    overlap_thresholds=SUCCESS_THRESHOLDS,
    whole_pixels=True,
    without_box="missed, hit in Pnorm",
    outside_truth="counts",
)
"""PyTracking (analysis/extract_results.py, evaluation/running.py) as STARK, OSTrack and MixFormer carry it, which
divide by all frames. Its results are files of whole numbers. It refuses predictions that are nan or of negative size;
here they are the box before, as those of zero size are there."""

PYTRACKING_UAV = replace(PYTRACKING, name="pytracking-uav", without_box="missed, hit in P and Pnorm")
"""PyTracking on UAV123, for which it has an exception"""

PYSOT = replace(
    MIXFORMERV2,
    name="pysot",
    normalised_thresholds=HUNDREDTHS,
    flagged_absent="missed",
    without_box="missed, hit in P and Pnorm",
    outside_truth="centre",
    first_pixel=1,
    normalised_precision="at 0.2",
)
"""PySOT (toolkit/utils/statistics.py, toolkit/evaluation/ope_benchmark.py); absent frames as in LaSOT's toolkit"""

GOT10K = replace(
    MIXFORMERV2,
    name="got10k",
    overlap_thresholds=np.linspace(0, 1, 101),
    normalised_thresholds=HUNDREDTHS,
    first_frame="left out",
    clipped=True,
    normalised_precision="at 0.2",
    average="frames",
)
"""ExperimentGOT10k of the package got10k, whose figures are AO and SR; it has no figures of centres"""

OTB = replace(
    MIXFORMERV2,
    name="otb",
    normalised_thresholds=HUNDREDTHS,
    first_frame="set to the truth",
    flagged_absent="missed",
    without_box="missed",
    normalised_precision="at 0.2",
)
"""ExperimentOTB of the package got10k; it has no normalised precision. OTB's own code in MATLAB has LaSOT's thresholds,
its treatment of a broken prediction and of true boxes over the border."""

PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (LASOT, PYTRACKING, PYTRACKING_UAV, PYSOT, GOT10K, OTB, MIXFORMERV2)
}


class _Errors(NamedTuple):
    """Of every frame; nan is a miss."""

    overlap: Float[np.ndarray, " frames"]
    distance_px: Float[np.ndarray, " frames"]
    relative: Float[np.ndarray, " frames"]
    counts: Bool[np.ndarray, " frames"]


def measure(
    result: OnePass, sequence: Sequence, protocol: Protocol, frame_size: tuple[int, int] | None = None
) -> Figures:
    """The figures of one pass. ``frame_size`` is (width, height) in px, which only a protocol that clips needs.

    Raises ValueError where it needs it, or the pass goes beyond the sequence.
    """
    truth, absent_by_flag = _truth(result, sequence)
    errors = _errors(_as_compared(result.boxes_frame, truth, protocol), truth, protocol, frame_size)
    _fill_in_without_box(errors, absent_by_flag, protocol)
    if protocol.first_frame == "left out":
        errors.counts[0] = False
    return _figures(errors, protocol)


def overlaps(result: OnePass, sequence: Sequence) -> Float[np.ndarray, " frames"]:
    """Intersection over union of every frame of the pass, 0 where there is no prediction, nan where there is no truth.

    Raises ValueError where the pass goes beyond the sequence.
    """
    truth, _ = _truth(result, sequence)
    return np.where(has_area(truth), geometry.iou(result.boxes_frame, truth), np.nan)


def summarise(figures: Mapping[str, Figures], protocol: Protocol) -> Figures:
    """The mean over sequences in which a frame counts, or over frames, as the protocol says; ``frames`` is their sum.

    A sequence without a figure, such as one of whose overlaps none is measured, is left out of the mean of that figure.
    Raises ValueError where there are no figures.
    """
    if not figures:
        raise ValueError("there must be figures of at least one sequence to take the mean of, got none")
    counting = [one for one in figures.values() if one.frames]
    if len(counting) < 2:
        return next(iter(counting or figures.values()))
    frames = [one.frames for one in counting]
    weights = frames if protocol.average == "frames" else None
    means: list[Any] = [_mean(column, weights) for column in zip(*counting, strict=True)]
    return Figures(sum(frames), *means[1:])


def _mean(column: tuple[Any, ...], weights: list[int] | None) -> Any:
    """Of the values or curves that are numbers; nan where none is."""
    values = np.array(column)
    known = ~np.isnan(values.reshape(len(values), -1)).any(axis=1)
    if not known.any():
        return values[0]
    return np.average(values[known], axis=0, weights=None if weights is None else np.array(weights)[known])


def _truth(
    result: OnePass, sequence: Sequence
) -> tuple[Float[np.ndarray, "frames 4"], Bool[np.ndarray, " frames"]]:
    """True boxes of the frames of a pass, nan where there is none, and which of those the dataset has flags for."""
    rows = slice(result.first_frame, result.first_frame + len(result.boxes_frame))
    if result.first_frame < 0 or rows.stop > len(sequence):
        raise ValueError(
            f"the result of {sequence.name} must lie within its {len(sequence)} frames, "
            f"got frames {rows.start} to {rows.stop - 1}"
        )
    absent = sequence.absent[rows]
    flagged = np.zeros(len(absent), bool)
    for flags in (sequence.occluded, sequence.out_of_view):
        flagged |= False if flags is None else flags[rows]
    return np.where(absent[:, None], np.nan, sequence.boxes_frame[rows]), absent & flagged


def _as_compared(
    predicted: Float[np.ndarray, "frames 4"], truth: Float[np.ndarray, "frames 4"], protocol: Protocol
) -> Float[np.ndarray, "frames 4"]:
    """The predictions as the toolkit sees them after it has read and mended them."""
    if protocol.whole_pixels:
        offset = np.array([protocol.first_pixel, protocol.first_pixel, 0, 0])
        # Rounded first: 5 px may have become 4.999999 between two corners.
        boxes_xywh = np.trunc(np.round(geometry.xyxy_to_xywh(predicted) + offset, 6)) - offset
        predicted = geometry.xywh_to_xyxy(boxes_xywh)
    if protocol.broken_prediction == "box before":
        usable = np.where(has_area(predicted), np.arange(len(predicted)), 0)
        predicted = predicted[np.maximum.accumulate(usable)]
    if protocol.first_frame == "set to the truth":
        predicted = np.concatenate([truth[:1], predicted[1:]])
    return predicted


def _errors(
    predicted: Float[np.ndarray, "frames 4"],
    truth: Float[np.ndarray, "frames 4"],
    protocol: Protocol,
    frame_size: tuple[int, int] | None,
) -> _Errors:
    """Of the frames with a true box; the others are misses that do not count."""
    known = has_area(truth)
    distance, relative = centre_errors(predicted, truth)
    boxes = predicted, truth
    if protocol.clipped:
        if frame_size is None:
            raise ValueError(f"the protocol {protocol.name} needs the size of the frames, got None")
        boxes = into_picture(predicted, frame_size), into_picture(truth, frame_size)
    overlap = np.where(known, geometry.iou(*boxes), np.nan)
    outside = _outside(truth, protocol)
    distance[outside], relative[outside] = _HIT, _HIT
    if protocol.outside_truth == "corner":
        overlap[outside] = np.nan
    return _Errors(overlap, distance, relative, known)


def _outside(truth: Float[np.ndarray, "frames 4"], protocol: Protocol) -> Bool[np.ndarray, " frames"]:
    """Whether what the toolkit wants to be positive of a true box is not."""
    corner = truth[:, :2] + protocol.first_pixel
    centre = corner + (truth[:, 2:] - truth[:, :2] - 1) / 2
    positive = {"counts": np.ones_like(corner), "corner": corner, "centre": centre}[protocol.outside_truth]
    return np.asarray((positive <= 0).any(axis=1))


def _fill_in_without_box(
    errors: _Errors, absent_by_flag: Bool[np.ndarray, " frames"], protocol: Protocol
) -> None:
    """Writes what the frames without a true box add."""
    without = ~errors.counts
    for chosen, treatment in (
        (without & absent_by_flag, protocol.flagged_absent),
        (without & ~absent_by_flag, protocol.without_box),
    ):
        errors.distance_px[chosen], errors.relative[chosen] = _ERRORS_WITHOUT_BOX[treatment]
        errors.counts[chosen] = treatment != "left out"


def _figures(errors: _Errors, protocol: Protocol) -> Figures:
    overlap, distance, relative = (values[errors.counts] for values in errors[:3])
    success = _means(above(overlap, protocol.overlap_thresholds))
    precision = _means(within(distance, protocol.centre_thresholds))
    normalised = _means(within(relative, protocol.normalised_thresholds))
    measured = overlap[np.isfinite(overlap)]
    return Figures(
        frames=int(errors.counts.sum()),
        auc=float(success.mean()),
        op50=_at(0.5, success, protocol.overlap_thresholds),
        op75=_at(0.75, success, protocol.overlap_thresholds),
        precision=_at(PRECISION_PX, precision, protocol.centre_thresholds),
        normalised_precision=_at(NORMALISED_AT, normalised, protocol.normalised_thresholds)
        if protocol.normalised_precision == "at 0.2"
        else float(normalised.mean()),
        ao=float(_means(measured[None])[0]),
        sr50=float(_means(above(measured, np.array([0.5])))[0]),
        sr75=float(_means(above(measured, np.array([0.75])))[0]),
        success=success,
        precision_curve=precision,
        normalised_curve=normalised,
    )


def _means(rows: Float[np.ndarray, "t frames"] | Bool[np.ndarray, "t frames"]) -> Float[np.ndarray, " t"]:
    """The mean of each row, nan where the rows are empty."""
    return np.asarray(rows.mean(axis=1)) if rows.shape[1] else np.full(len(rows), np.nan)


def _at(x: float, curve: Float[np.ndarray, " t"], thresholds: Float[np.ndarray, " t"]) -> float:
    """The curve at the threshold nearest to x."""
    return float(curve[np.abs(thresholds - x).argmin()])


def protocol_table(protocols: Iterable[Protocol] = tuple(PROTOCOLS.values())) -> str:
    """The differences in Markdown: one row each, one column a protocol."""
    columns = list(protocols)
    rows = [["", *(f"`{protocol.name}`" for protocol in columns)], ["---"] * (len(columns) + 1)]
    rows += [[what, *(cell(protocol) for protocol in columns)] for what, cell in _ROWS.items()]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


_OUTSIDE = {
    "counts": "counts",
    "corner": "corner outside: missed, hit in P and Pnorm",
    "centre": "centre outside: hit in P and Pnorm",
}
_ROWS = {
    "first frame": lambda one: one.first_frame,
    "prediction without an area": lambda one: one.broken_prediction,
    "predicted boxes": lambda one: "cut to whole px" if one.whole_pixels else "as given",
    "boxes brought into the picture": lambda one: "yes" if one.clipped else "no",
    "target flagged as absent": lambda one: one.flagged_absent,
    "other frame without a true box": lambda one: one.without_box,
    "true box over the left or upper border": lambda one: _OUTSIDE[one.outside_truth],
    "overlap thresholds": lambda one: _thresholds(one.overlap_thresholds),
    "Pnorm": lambda one: one.normalised_precision,
    "mean over": lambda one: one.average,
}


def _thresholds(values: Float[np.ndarray, " t"]) -> str:
    exact = ", as in MATLAB" if np.array_equal(values, MATLAB_THRESHOLDS) else ""
    return f"{len(values)}{exact}"
