"""One-pass evaluation: a tracker is started once on a sequence and runs to its end (Wu et al., 2013)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from mixformerv2 import geometry
from mixformerv2.data.sequence import Sequence, Sequences
from mixformerv2.evaluate import metrics
from mixformerv2.evaluate.metrics import Scores


@runtime_checkable
class AnyTracker(Protocol):
    """What can be measured. A box is ``(x, y, w, h)`` in float pixels of the frame, a frame (H, W, 3) RGB uint8."""

    def init(self, frame: Any, box: Any) -> Any:
        """Starts on the object in ``box``; what it returns is not looked at."""

    def update(self, frame: Any) -> Any:
        """The object in the next frame: an answer with the attribute ``box``, or whose first item is the box."""


class OnePass(NamedTuple):
    """What a tracker said to one sequence."""

    boxes_frame: Float[np.ndarray, "frames 4"]  # xyxy; the first row is the box that it was started with
    seconds: float  # spent in ``update``
    first_frame: int  # of the sequence, the one that the first row belongs to

    @property
    def updates(self) -> int:
        return len(self.boxes_frame) - 1


@dataclass(frozen=True)
class Evaluation:
    """What a tracker scores on several sequences."""

    sequences: dict[str, Scores]
    mean: Scores
    """every sequence counts the same"""
    updates_per_second: float
    """over all sequences; 0 where there was nothing to update"""

    def as_dict(self) -> dict[str, Any]:
        """The same in plain dicts and floats, for JSON."""
        return {
            "mean": self.mean._asdict(),
            "updates_per_second": self.updates_per_second,
            "sequences": {name: scores._asdict() for name, scores in self.sequences.items()},
        }


def one_pass(tracker: AnyTracker, sequence: Sequence, max_frames: int | None = None) -> OnePass:
    """Starts the tracker on the first frame with a box and runs it to the end, or for ``max_frames`` frames.

    The frame that it starts on is one of them. Raises ValueError where no frame has a box or a frame cannot be read.
    """
    if max_frames is not None and max_frames < 2:
        raise ValueError(f"max_frames must be at least 2, a start and an update, got {max_frames}")
    labelled = np.flatnonzero(~sequence.absent)
    if not len(labelled):
        raise ValueError(
            f"sequence {sequence.name} has no frame with a box: a tracker cannot be started on it"
        )
    start = int(labelled[0])
    stop = len(sequence) if max_frames is None else min(start + max_frames, len(sequence))
    first = geometry.xyxy_to_xywh(sequence.boxes_frame[start])
    tracker.init(sequence.frame(start), first)
    boxes, seconds = [first], 0.0
    for index in range(start + 1, stop):
        frame = sequence.frame(index)
        began = time.perf_counter()
        answer = tracker.update(frame)
        seconds += time.perf_counter() - began
        boxes.append(answer.box if hasattr(answer, "box") else answer[0])
    return OnePass(geometry.xywh_to_xyxy(boxes), seconds, start)


def evaluate(
    tracker: AnyTracker,
    sequences: Sequences,
    max_frames: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """One pass over each sequence, scored on the frames whose target is there and has a box, the first one too.

    ``progress`` is called with the sequences done and the sequences to do. Raises ValueError without sequences, for
    two of one name, and as ``one_pass`` does.
    """
    scores: dict[str, Scores] = {}
    updates, seconds = 0, 0.0
    for sequence in sequences:
        if sequence.name in scores:
            raise ValueError(f"sequences must have names of their own, got {sequence.name} twice")
        result = one_pass(tracker, sequence, max_frames)
        scores[sequence.name] = _score(result, sequence)
        updates, seconds = updates + result.updates, seconds + result.seconds
        if progress is not None:
            progress(len(scores), len(sequences))
    if not scores:
        raise ValueError("there must be at least one sequence to evaluate on, got none")
    mean = Scores(*(float(np.mean(column)) for column in zip(*scores.values(), strict=True)))
    return Evaluation(scores, mean, updates / seconds if seconds else 0.0)


def _score(result: OnePass, sequence: Sequence) -> Scores:
    frames = slice(result.first_frame, result.first_frame + len(result.boxes_frame))
    counts = ~sequence.absent[frames]
    return metrics.score(result.boxes_frame[counts], sequence.boxes_frame[frames][counts])
