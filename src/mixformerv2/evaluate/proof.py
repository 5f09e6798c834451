"""Does an exported model track as its network does? Both follow a real clip, and the difference becomes figures.

Twice: on the very same crops, where every frame tells how far the answers lie apart, and each on its own, where small
differences may add up. No torch here: the two are backends like any other.
"""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from mixformerv2 import geometry
from mixformerv2.config import TrackerConfig
from mixformerv2.data.folder import read_boxes
from mixformerv2.evaluate.metrics import success_curve
from mixformerv2.geometry import CropWindow
from mixformerv2.runtime.backend import Backend, Located
from mixformerv2.target import RgbFrame, Sight, Target
from mixformerv2.tracker import Tracker, track
from mixformerv2.video import open_source


@dataclass(frozen=True, eq=False)
class Clip:
    """What is replayed."""

    source: str | Path
    box: tuple[float, ...]  # x, y, w, h in the start frame
    start_frame: int = 0
    truth_frame: dict[int, geometry.Box] | None = None  # xyxy by the source's frame; None: nobody drew boxes

    @classmethod
    def of_demo(cls) -> Clip:
        """The clip that comes with the package, with the boxes that were drawn by hand."""
        folder = Path(str(importlib.resources.files("mixformerv2") / "demo"))
        clip = json.loads((folder / "demo.json").read_text())
        drawn = {int(frame): geometry.xywh_to_xyxy(box) for frame, box in clip["drawn"].items()}
        return cls(folder / clip["video"], tuple(clip["box"]), clip["start_frame"], drawn)

    @classmethod
    def of_user(cls, source: str | Path, box: Sequence[float], truth: Path | None = None) -> Clip:
        """``truth`` is a file of boxes as for evaluation.

        Raises ValueError or an OSError for a source, box or file that is wrong, before any work.
        """
        geometry.check_box_xywh(box)
        open_source(source).close()
        if truth is None:
            return cls(source, tuple(box))
        boxes = read_boxes(truth)
        frames = range(len(boxes.rows_frame)) if boxes.frames is None else boxes.frames.tolist()
        known = {
            frame: row for frame, row in zip(frames, boxes.rows_frame, strict=True) if np.isfinite(row).all()
        }
        if not known:
            raise ValueError(f"{truth} has no box to measure against")
        return cls(source, tuple(box), 0, known)


@dataclass(frozen=True)
class Drift:
    """How far boxes lie apart over a clip. Pixels are of the frame: the side of the box that moved most."""

    mean_px: float
    worst_px: float
    mean_iou: float
    worst_iou: float
    worst_frame: int  # where the IoU is lowest

    @classmethod
    def between(
        cls,
        ours_frame: Float[np.ndarray, "n 4"],
        reference_frame: Float[np.ndarray, "n 4"],
        frames: Int[np.ndarray, "n"],
    ) -> Drift:
        px = np.abs(ours_frame - reference_frame).max(axis=1)
        iou = geometry.iou(ours_frame, reference_frame)
        worst = int(frames[iou.argmin()])
        return cls(float(px.mean()), float(px.max()), float(iou.mean()), float(iou.min()), worst)


@dataclass(frozen=True)
class Proof:
    """What one replay came to."""

    runtime: str
    precision: str
    frames: int  # after the first
    same_crops: Drift
    worst_score: float  # largest difference of the score on the same crops
    on_its_own: Drift
    auc: float
    reference_auc: float
    auc_frames: int
    auc_against: str  # "drawn boxes", or "the network's boxes" where nobody drew any

    @property
    def auc_change(self) -> float:
        return self.auc - self.reference_auc

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"auc_change": self.auc_change}


@dataclass(frozen=True)
class Limits:
    """What an export may differ by. Its boxes on its own are free: where a network is unsure, a hair parts ways."""

    mean_iou: float = 0.99  # on the same crops, as the next two
    worst_iou: float = 0.95
    score: float = 0.02
    auc_loss: float = 0.02  # on its own

    def broken_by(self, proof: Proof) -> list[str]:
        """What is beyond the limits, one clause each; none for a good export."""
        same = proof.same_crops
        rows = (
            (f"mean IoU {same.mean_iou:.3f} on the same crops", same.mean_iou, self.mean_iou),
            (f"worst IoU {same.worst_iou:.3f} in frame {same.worst_frame}", same.worst_iou, self.worst_iou),
            (f"score off by {proof.worst_score:.3f}", -proof.worst_score, -self.score),
            (f"AUC {proof.auc_change:+.3f}", proof.auc_change, -self.auc_loss),
        )
        return [f"{clause} (limit {abs(limit):g})" for clause, figure, limit in rows if not figure >= limit]


class _Answers(NamedTuple):
    """Of the network and of the export, to the same crop."""

    reference: Located
    ours: Located


class _SideBySide:
    """The reference, while the export is asked the same; a tracker on it goes the reference's way."""

    def __init__(self, reference: Backend, ours: Backend) -> None:
        self._reference, self._ours = reference, ours
        self.name, self.precision, self.config = reference.name, reference.precision, reference.config
        self.answers: list[_Answers] = []

    def encode_templates(
        self, template: UInt8[np.ndarray, "b side side 3"], online: UInt8[np.ndarray, "b online side side 3"]
    ) -> tuple[Any, Any]:
        caches = (backend.encode_templates(template, online) for backend in (self._reference, self._ours))
        return next(caches), next(caches)

    def stack(self, caches: Sequence[tuple[Any, Any]]) -> tuple[Any, Any]:
        reference, ours = zip(*caches, strict=True)
        return self._reference.stack(reference), self._ours.stack(ours)

    def search(self, crop: UInt8[np.ndarray, "b side side 3"], cache: tuple[Any, Any]) -> Located:
        self.answers.append(
            _Answers(self._reference.search(crop, cache[0]), self._ours.search(crop, cache[1]))
        )
        return self.answers[-1].reference


class _Watched(Target):
    """A target that keeps the windows in which it was looked for."""

    def __init__(self, rgb: RgbFrame, box: Any, backend: Backend, config: TrackerConfig) -> None:
        self.windows: list[CropWindow] = []
        super().__init__(rgb, box, backend, config)

    def look(self, rgb: RgbFrame, around_frame: geometry.Box) -> Sight:
        self.windows.append(self.window(around_frame))
        return super().look(rgb, around_frame)


class _Pass(NamedTuple):
    """The reference's way through a clip, and both answers to its crops: several of a frame where it looks again."""

    way_frame: Float[np.ndarray, "frames 4"]  # with the first box
    answers_frame: Float[np.ndarray, "2 looks 4"]  # reference and export
    scores: Float[np.ndarray, "2 looks"]
    frame_of_look: Int[np.ndarray, "looks"]  # 0 is the first of the way


def prove(reference: Backend, ours: Backend, clip: Clip) -> Proof:
    """Replays ``clip``. Raises ValueError where it cannot be read or an answer is not finite."""
    both = _both(reference, ours, clip)
    own_frame = _way(ours, clip)
    frames = clip.start_frame + np.arange(len(both.way_frame))
    counted, truth_frame = _truth(clip, frames, both.way_frame)
    auc, reference_auc = (
        float(success_curve(geometry.iou(way[counted], truth_frame)).mean())
        for way in (own_frame, both.way_frame)
    )
    return Proof(
        runtime=ours.name,
        precision=ours.precision,
        frames=len(frames) - 1,
        same_crops=Drift.between(both.answers_frame[1], both.answers_frame[0], frames[both.frame_of_look]),
        worst_score=float(np.abs(both.scores[1] - both.scores[0]).max()),
        on_its_own=Drift.between(own_frame[1:], both.way_frame[1:], frames[1:]),
        auc=auc,
        reference_auc=reference_auc,
        auc_frames=len(counted),
        auc_against="the network's boxes" if clip.truth_frame is None else "drawn boxes",
    )


def _truth(
    clip: Clip, frames: Int[np.ndarray, "frames"], way_frame: Float[np.ndarray, "frames 4"]
) -> tuple[Int[np.ndarray, "known"], Float[np.ndarray, "known 4"]]:
    """Which frames of the replay have a true box, and the boxes; the network's own where nobody drew any."""
    if clip.truth_frame is None:
        return np.arange(len(frames)), way_frame
    counted = np.array([i for i, frame in enumerate(frames) if int(frame) in clip.truth_frame], int)
    if not len(counted):
        raise ValueError(f"none of the boxes to measure against is of a frame of {clip.source}")
    return counted, np.stack([clip.truth_frame[int(frames[i])] for i in counted])


def _both(reference: Backend, ours: Backend, clip: Clip) -> _Pass:
    side_by_side, rules = _SideBySide(reference, ours), reference.config.tracker
    way_frame: list[geometry.Box] = []
    answers_frame, scores, frame_of_look = [], [], []
    with open_source(clip.source, clip.start_frame) as frames:
        first = next(frames)
        target = _Watched(first, clip.box, side_by_side, rules)
        target.calibrate_size(first)
        way_frame.append(target.box_frame)
        for index, frame in enumerate(frames, start=1):
            target.windows.clear()
            side_by_side.answers.clear()
            target.update(frame)
            way_frame.append(target.box_frame)
            size = (frame.shape[1], frame.shape[0])
            for window, answers in zip(target.windows, side_by_side.answers, strict=True):
                for located in answers:
                    if not np.isfinite([*located.box_unit[0], located.score[0]]).all():
                        raise ValueError(f"{ours.name} answers with numbers that are not finite")
                    # As the tracker takes it: an untrained network may well say a box without area.
                    box_frame = window.to_frame(located.box_unit[0])
                    answers_frame.append(geometry.clip(box_frame, size, min(rules.min_side_px, *size)))
                    scores.append(float(located.score[0]))
                frame_of_look.append(index)
    if not scores:
        raise ValueError(f"{clip.source} has one frame: a replay needs at least two")
    pairs = np.stack(answers_frame).reshape(-1, 2, 4)
    both_scores = np.array(scores).reshape(-1, 2).T
    return _Pass(np.stack(way_frame), pairs.swapaxes(0, 1), both_scores, np.array(frame_of_look))


def _way(backend: Backend, clip: Clip) -> Float[np.ndarray, "frames 4"]:
    """The tracker's box in every frame, the given one first."""
    way = track(clip.source, clip.box, clip.start_frame, Tracker(backend=backend))
    return np.stack([geometry.xywh_to_xyxy(result.box) for _, result in way])
