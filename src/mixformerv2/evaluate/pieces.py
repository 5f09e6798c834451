"""Tracking in short pieces, each started from the true box: a measure that one lost target does not decide.

A whole pass over a dozen sequences moves by several points when a single target is lost a little later; the mean over
many pieces does not. For telling weights apart, not for comparing with published figures.
"""

from __future__ import annotations

import numpy as np

from mixformerv2 import geometry
from mixformerv2.data.sequence import Sequence
from mixformerv2.evaluate.run import AnyTracker, one_pass


def pieces(sequence: Sequence, frames: int) -> list[Sequence]:
    """Pieces of so many frames, the last one may be shorter; left out are those whose first frame has no box.

    Raises ValueError where a piece would be no track.
    """
    if frames < 2:
        raise ValueError(f"a piece must have at least 2 frames, a start and an update, got {frames}")
    cut = []
    for begin in range(0, len(sequence) - 1, frames):
        indexes = range(begin, min(begin + frames, len(sequence)))
        if len(indexes) > 1 and not sequence.absent[begin]:
            cut.append(sequence.part(indexes))
    return cut


def overlaps(tracker: AnyTracker, sequence: Sequence, frames: int) -> list[float]:
    """Mean overlap in [0, 1] of each piece, over the frames with a true box after the first; a missing box has none.

    A piece without such a frame has no entry. Raises ValueError as ``pieces`` and ``one_pass`` do.
    """
    means = []
    for piece in pieces(sequence, frames):
        known = ~piece.absent[1:]
        result = one_pass(tracker, piece)
        if known.any():
            each = geometry.iou(result.boxes_frame[1:][known], piece.boxes_frame[1:][known])
            means.append(float(np.nan_to_num(each).mean()))
    return means
