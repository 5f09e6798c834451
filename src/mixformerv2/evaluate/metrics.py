"""Numbers that the field compares trackers by, from boxes alone."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from mixformerv2 import geometry
from mixformerv2.data.sequence import has_area

SUCCESS_THRESHOLDS = np.linspace(0, 1, 21)  # overlap, as in the OTB toolkit
PRECISION_PX = 20.0


class Scores(NamedTuple):
    """One sequence's figures, each in [0, 1]."""

    auc: float  # mean of the success curve
    precision: float  # share of frames whose centre is within 20 px
    normalised_precision: float  # mean over thresholds 0..0.5 of the centre error in units of the true box


def success_curve(overlaps: Float[np.ndarray, "frames"]) -> Float[np.ndarray, "21"]:
    """Share of frames whose overlap is above each threshold (Wu et al., 2013)."""
    return (overlaps[None] > SUCCESS_THRESHOLDS[:, None]).mean(axis=1)


def score(
    predicted_frame: Float[np.ndarray, "results 4"], truth_frame: Float[np.ndarray, "frames 4"]
) -> Scores:
    """All frames count, the first one too; boxes are xyxy. A prediction that is not finite is a miss.

    Frames without a true box are for the caller to leave out. Raises ValueError where the lengths differ, there is no
    frame, or a true box is not finite with positive width and height.
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
    overlaps = geometry.iou(predicted_frame, truth_frame)
    with np.errstate(invalid="ignore"):  # a box from minus to plus infinity has no centre
        offset = _centres(predicted_frame) - _centres(truth_frame)
    distance = np.linalg.norm(offset, axis=1)
    relative = np.linalg.norm(offset / (truth_frame[:, 2:] - truth_frame[:, :2]), axis=1)
    normalised = (relative[None] <= np.linspace(0, 0.5, 51)[:, None]).mean()
    return Scores(
        float(success_curve(overlaps).mean()), float((distance <= PRECISION_PX).mean()), float(normalised)
    )


def _centres(boxes: Float[np.ndarray, "frames 4"]) -> Float[np.ndarray, "frames 2"]:
    return (boxes[:, :2] + boxes[:, 2:]) / 2
