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
        """The object in the next frame: a box, or an answer with the attribute ``box`` or the box as first item.

        The answer or its box may be None, for none. An attribute ``score`` is its confidence.
        """


class OnePass(NamedTuple):
    """What a tracker said to one sequence."""

    boxes_frame: Float[np.ndarray, "frames 4"]
    """xyxy, float64; the first row is the box that it was started with; nan where it gave none or no finite one"""
    scores: Float[np.ndarray, " frames"]
    """its own confidence, nan where it gives none; 1 in the first row"""
    seconds: Float[np.ndarray, " frames"]
    """spent in ``update``, frame by frame; in ``init`` in the first row"""
    first_frame: int
    """of the sequence, the one that the first row belongs to"""

    @property
    def frames(self) -> range:
        """Of the sequence, those that it is over."""
        return range(self.first_frame, self.first_frame + len(self.boxes_frame))

    @property
    def updates(self) -> int:
        return len(self.boxes_frame) - 1

    @property
    def update_seconds(self) -> float:
        """Spent in all updates together."""
        return float(self.seconds[1:].sum())


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


def one_pass(
    tracker: AnyTracker,
    sequence: Sequence,
    max_frames: int | None = None,
    on_frame: Callable[[int, Any], None] | None = None,
) -> OnePass:
    """Starts the tracker on the first frame with a box and runs it to the end, or for ``max_frames`` frames.

    The frame that it starts on is one of them. ``on_frame`` is called after every frame, the first one too, with its
    index in the sequence and the box as the tracker gave it. Raises ValueError where no frame has a box, a frame
    cannot be read, or an answer is neither None nor four numbers.
    """
    frames = frames_to_show(sequence, max_frames)
    box = first = geometry.xyxy_to_xywh(sequence.boxes_frame[frames.start])
    boxes, scores, seconds = np.full((len(frames), 4), np.nan), np.ones(len(frames)), np.zeros(len(frames))
    for row, index in enumerate(frames):
        frame = sequence.frame(index)
        began = time.perf_counter()
        answer = tracker.update(frame) if row else tracker.init(frame, first.copy())  # which may keep it
        seconds[row] = time.perf_counter() - began
        if row:
            box, scores[row] = _box_and_score(answer, sequence.name, index)
        boxes[row] = _finite_box(box, sequence.name, index)
        if on_frame is not None:
            on_frame(index, box)
    return OnePass(geometry.xywh_to_xyxy(boxes), scores, seconds, frames.start)


def frames_to_show(sequence: Sequence, max_frames: int | None = None) -> range:
    """The frames of one pass, from the first one with a box on. Raises ValueError as ``one_pass`` does."""
    check_max_frames(max_frames)
    labelled = np.flatnonzero(~sequence.absent)
    if not len(labelled):
        raise ValueError(
            f"sequence {sequence.name} has no frame with a box: a tracker cannot be started on it"
        )
    start = int(labelled[0])
    return range(start, len(sequence) if max_frames is None else min(start + max_frames, len(sequence)))


def check_max_frames(max_frames: int | None) -> None:
    """Raises ValueError where a pass would be none."""
    if max_frames is not None and max_frames < 2:
        raise ValueError(f"max_frames must be at least 2, a start and an update, got {max_frames}")


def box_of(answer: Any) -> Any:
    """The box in an answer of `AnyTracker.update`, None for none. Raises TypeError or LookupError for another kind."""
    if answer is None or hasattr(answer, "box"):
        return getattr(answer, "box", None)
    flat = all(value is not None and np.ndim(value) == 0 for value in answer)
    return answer if flat else answer[0]


def _box_and_score(answer: Any, name: str, index: int) -> tuple[Any, float]:
    try:
        score = getattr(answer, "score", None)
        return box_of(answer), np.nan if score is None else float(score)
    except (TypeError, LookupError, ValueError):
        raise ValueError(
            f"sequence {name}: the answer to frame {index} must have a box, and a number as its score if it has one, "
            f"got {answer!r}"
        ) from None


def _finite_box(box: Any, name: str, index: int) -> Float[np.ndarray, "4"]:
    if box is None:
        return np.full(4, np.nan)
    try:
        values = np.array([float(value) for value in box])
    except (TypeError, ValueError):  # nothing to iterate over, or no numbers
        values = np.empty(0)
    if values.shape != (4,):
        raise ValueError(
            f"sequence {name}: the answer to frame {index} must be a box of four numbers x, y, w, h, or None, "
            f"got {box!r}"
        )
    return values if np.isfinite(values).all() else np.full(4, np.nan)


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
        updates, seconds = updates + result.updates, seconds + result.update_seconds
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
