"""Numbers that the field compares trackers by, from boxes alone."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from mixformerv2 import geometry
from mixformerv2.data.sequence import has_area

SUCCESS_THRESHOLDS = np.linspace(0, 1, 21)  # overlap, as in the OTB toolkit
PRECISION_THRESHOLDS_PX = np.arange(51.0)
NORMALISED_THRESHOLDS = np.linspace(0, 0.5, 51)  # in units of the true box
PRECISION_PX = 20.0


class Scores(NamedTuple):
    """One sequence's figures, each in [0, 1]."""

    auc: float  # mean of the success curve
    precision: float  # share of frames whose centre is within 20 px
    normalised_precision: float  # mean over thresholds 0..0.5 of the centre error in units of the true box


def above(
    values: Float[np.ndarray, "frames"], thresholds: Float[np.ndarray, "t"]
) -> Bool[np.ndarray, "t frames"]:
    """Which values are strictly above each threshold; nan never is."""
    return values[None] > thresholds[:, None]


def within(
    values: Float[np.ndarray, "frames"], thresholds: Float[np.ndarray, "t"]
) -> Bool[np.ndarray, "t frames"]:
    """Which values are at most each threshold; nan never is."""
    return values[None] <= thresholds[:, None]


def success_curve(overlaps: Float[np.ndarray, "frames"]) -> Float[np.ndarray, "21"]:
    """Share of frames whose overlap is above each threshold (Wu et al., 2013)."""
    return above(overlaps, SUCCESS_THRESHOLDS).mean(axis=1)


def centre_errors(
    predicted_frame: Float[np.ndarray, "frames 4"], truth_frame: Float[np.ndarray, "frames 4"]
) -> tuple[Float[np.ndarray, "frames"], Float[np.ndarray, "frames"]]:
    """Distance between the centres of xyxy boxes, in px and in units of the true box; nan where a box is not finite.

    In units of the box: x by its width, y by its height (Müller et al., 2018). Boxes may be empty, the true ones not.
    """
    with np.errstate(invalid="ignore"):  # a box from minus to plus infinity has no centre
        offset = (predicted_frame[:, :2] + predicted_frame[:, 2:]) / 2 - (
            truth_frame[:, :2] + truth_frame[:, 2:]
        ) / 2
        relative = offset / (truth_frame[:, 2:] - truth_frame[:, :2])
    return np.linalg.norm(offset, axis=1), np.linalg.norm(relative, axis=1)


def into_picture(
    boxes_frame: Float[np.ndarray, "frames 4"], frame_size: tuple[int, int]
) -> Float[np.ndarray, "frames 4"]:
    """The boxes as GOT-10k's toolkit brings them into the picture of (width, height).

    On the right and below they are cut; over the left or upper border they are moved inside at their full size.
    """
    size = np.array(frame_size, np.float64)
    left_top = np.clip(boxes_frame[:, :2], 0, size)
    sides = np.clip(boxes_frame[:, 2:] - boxes_frame[:, :2], 0, size - left_top)
    return np.concatenate([left_top, left_top + sides], axis=1)


def score(
    predicted_frame: Float[np.ndarray, "results 4"], truth_frame: Float[np.ndarray, "frames 4"]
) -> Scores:
    """All frames count, the first one too; boxes are xyxy. A prediction that is not finite is a miss.

    Frames without a true box are for the caller to leave out. The same figures as by the protocol "mixformerv2".
    Raises ValueError where the lengths differ, there is no frame, or a true box is not finite with positive width and
    height.
    """
    if len(predicted_frame) != len(truth_frame):
        raise ValueError(f"there are {len(predicted_frame)} results for {len(truth_frame)} frames")
    if not len(truth_frame):
        raise ValueError("there must be at least one frame with a true box, got none")
    broken = np.flatnonzero(~has_area(truth_frame))
    if len(broken):
        raise ValueError(
            f"true box {broken[0]} must be finite with positive width and height, got {truth_frame[broken[0]].tolist()}"
        )
    distance, relative = centre_errors(predicted_frame, truth_frame)
    return Scores(
        float(success_curve(geometry.iou(predicted_frame, truth_frame)).mean()),
        float((distance <= PRECISION_PX).mean()),
        float(within(relative, NORMALISED_THRESHOLDS).mean()),
    )
