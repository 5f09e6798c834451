"""What the page shows of one sequence: the course of every run over its frames, and pictures of where it went wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence as ReadOnlySequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from mixformerv2 import geometry
from mixformerv2.data.sequence import Sequence
from mixformerv2.evaluate.protocols import overlaps
from mixformerv2.evaluate.report.lost import LOST_BELOW, Stretch, frames_to_show, lost_stretches, worst_frames
from mixformerv2.evaluate.report.pictures import PREDICTIONS, TRUTH, draw, jpeg_uri, shrink
from mixformerv2.evaluate.run import OnePass
from mixformerv2.evaluate.store import Run

_LISTED_STRETCHES = 30


@dataclass(frozen=True)
class PageOptions:
    """How much a page shows. What it weighs besides its pictures is 4.8 MB for the plotting library."""

    frames_to_play: int = 60
    """of a sequence, at most; about 12 kB each"""
    frame_width_px: int = 288
    """of the frames that are played; narrower ones stay as they are"""
    worst_frames: int = 9
    """of a sequence, shared among the runs, one for each at least; pictures with both boxes, about 15 kB each"""
    worst_width_px: int = 320
    quality: int = 62
    """of JPEG, from 1 to 100"""
    pictured_sequences: int = 20
    """those on which targets were lost most have pictures, the others only their course"""

    def __post_init__(self) -> None:
        least = {
            "frames_to_play": 0,
            "frame_width_px": 16,
            "worst_frames": 0,
            "worst_width_px": 16,
            "quality": 1,
        }
        for name, low in {**least, "pictured_sequences": 0}.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, got {getattr(self, name)}")
        if self.quality > 100:
            raise ValueError(f"quality must be at most 100, got {self.quality}")


class WorstPicture(NamedTuple):
    """A picture of one run's failure."""

    run: int
    frame: int
    uri: str
    alt: str
    caption: str


class SequenceView(NamedTuple):
    """One sequence on the page."""

    name: str
    length: int
    attributes: tuple[str, ...]
    worst: tuple[WorstPicture, ...]
    timeline: dict[str, Any]
    """for the script: the courses, the lost stretches, and the frames that are played with all boxes"""


def view_of(
    runs: ReadOnlySequence[Run],
    labels: ReadOnlySequence[str],
    sequence: Sequence,
    attributes: tuple[str, ...],
    options: PageOptions,
    pictured: bool,
) -> SequenceView:
    """Frames count from 0 in the sequence. Raises ValueError if one cannot be read."""
    courses = [_Course.of(run.passes.get(sequence.name), sequence) for run in runs]
    each = max(options.worst_frames // len(runs), 1) if pictured and options.worst_frames else 0
    worst = [worst_frames(course.overlaps, each) for course in courses]
    must = [frame for of_run in worst for frame in of_run]
    count = options.frames_to_play * pictured
    played = frames_to_show([course.lost for course in courses], len(sequence), count, must) if count else []
    pictures: list[str] = []
    shown: dict[tuple[int, int], WorstPicture] = {}
    size = None
    for index in sorted({*played, *must}):  # one frame in memory at a time
        frame = sequence.frame(index)
        if index in played:
            size = size or list(frame.shape[1::-1])
            pictures.append(jpeg_uri(shrink(frame, options.frame_width_px), options.quality))
        for run in (run for run, of_run in enumerate(worst) if index in of_run):
            shown[run, index] = _worst_picture(
                run, labels[run], index, frame, courses[run], sequence, options
            )
    timeline = {
        "absent": _stretches(sequence.absent),
        "runs": [
            {
                "overlap": _rounded(course.overlaps),
                "score": _rounded(course.scores),
                "lost": [stretch._asdict() for stretch in course.lost[:_LISTED_STRETCHES]],
            }
            for course in courses
        ],
        "lost_below": LOST_BELOW,
        "played": played,
        "size": size,  # of a frame, in which boxes are measured
        "pictures": pictures,
        "truth": [_xywh(sequence.boxes_frame[index], not sequence.absent[index]) for index in played],
        "boxes": [[_xywh(course.boxes_frame[index]) for index in played] for course in courses],
    }
    in_order = tuple(shown[run, frame] for run, of_run in enumerate(worst) for frame in of_run)
    return SequenceView(sequence.name, len(sequence), attributes, in_order, timeline)


def lost_share(runs: ReadOnlySequence[Run], sequence: Sequence) -> float:
    """Share of frames on which the target was lost, the mean over the runs that have the sequence."""
    passes = [run.passes[sequence.name] for run in runs if sequence.name in run.passes]
    shares = []
    for one in passes:
        known = overlaps(one, sequence)
        known = known[np.isfinite(known)]
        shares.append(float((known < LOST_BELOW).mean()) if len(known) else 0.0)
    return float(np.mean(shares)) if shares else 0.0


class _Course(NamedTuple):
    """One run over the whole sequence: nan where it has no result."""

    overlaps: Float[np.ndarray, " frames"]
    scores: Float[np.ndarray, " frames"]
    boxes_frame: Float[np.ndarray, "frames 4"]
    lost: list[Stretch]

    @classmethod
    def of(cls, result: OnePass | None, sequence: Sequence) -> _Course:
        length = len(sequence)
        ious, scores, boxes = np.full(length, np.nan), np.full(length, np.nan), np.full((length, 4), np.nan)
        if result is not None:
            rows = slice(result.first_frame, result.first_frame + len(result.boxes_frame))
            ious[rows], scores[rows], boxes[rows] = (
                overlaps(result, sequence),
                result.scores,
                result.boxes_frame,
            )
        return cls(ious, scores, boxes, lost_stretches(ious))


def _worst_picture(
    run: int,
    label: str,
    index: int,
    frame: np.ndarray,
    course: _Course,
    sequence: Sequence,
    options: PageOptions,
) -> WorstPicture:
    truth = np.where(sequence.absent[index], np.nan, sequence.boxes_frame[index])
    boxes = np.stack([truth, course.boxes_frame[index]])
    picture = draw(frame, boxes, (TRUTH, PREDICTIONS[run % len(PREDICTIONS)]), options.worst_width_px)
    overlap, score = course.overlaps[index], course.scores[index]
    said = "" if math.isnan(score) else f", score {score:.2f}"
    alt = f"Frame {index} of {sequence.name} with the true box and that of {label}"
    return WorstPicture(run, index, jpeg_uri(picture, options.quality), alt, f"overlap {overlap:.2f}{said}")


def _stretches(flags: Bool[np.ndarray, " frames"]) -> list[list[int]]:
    """First and last frame of every stretch on which the flag is set."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return [[int(first), int(end) - 1] for first, end in edges.reshape(-1, 2)]


def _rounded(values: Float[np.ndarray, " frames"]) -> list[float | None]:
    return [round(value, 3) if math.isfinite(value) else None for value in values.tolist()]


def _xywh(box_frame: Float[np.ndarray, "4"], known: bool | np.bool_ = True) -> list[float] | None:
    if not known or not np.isfinite(box_frame).all():
        return None
    return [round(value, 1) for value in geometry.xyxy_to_xywh(box_frame).tolist()]
