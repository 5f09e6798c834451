"""Boxes for video that nobody has annotated: a tracker follows a target there and back, and where it agrees with itself
its boxes are kept (forward-backward error: Kalal et al., 2010).
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from mixformerv2 import geometry
from mixformerv2.data.folder import find_clips, frames_of, read_boxes
from mixformerv2.data.sequence import Frames, has_area
from mixformerv2.data.video_frames import VIDEO_SUFFIXES
from mixformerv2.evaluate.run import AnyTracker, box_of
from mixformerv2.images import IMAGE_SUFFIXES
from mixformerv2.results import Result, ResultFile

BOXES = "boxes.csv"
COLUMNS = ("clip", "frame", "x", "y", "w", "h", "name")


@dataclass(frozen=True)
class Agreement:
    """When the way there and the way back count as one."""

    segment_frames: int = 12
    """followed back after so many, each time from the box that was reached"""
    min_iou: float = 0.6
    """of the boxes of a frame on both ways"""

    def __post_init__(self) -> None:
        if self.segment_frames < 1 or not 0 < self.min_iou <= 1:
            raise ValueError(
                "segment_frames must be at least 1 and min_iou above 0 and at most 1, "
                f"got {self.segment_frames} and {self.min_iou}"
            )


class Start(NamedTuple):
    """A target to follow, drawn by a person."""

    clip: str
    frame: int
    """from 0"""
    box_xywh: tuple[float, float, float, float]
    name: str
    """of the track"""


def read_starts(path: Path) -> list[Start]:
    """The rows of a CSV file with the header `clip,frame,x,y,w,h,name`; names must be different.

    Raises ValueError naming the line that is wrong, FileNotFoundError.
    """
    if not path.exists():
        raise FileNotFoundError(
            f"there is no {path}: it must hold rows {','.join(COLUMNS)}, a box for each target"
        )
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
        rows = csv.DictReader(stream)
        if tuple(rows.fieldnames or ()) != COLUMNS:
            raise ValueError(
                f"{path} must begin with the header {','.join(COLUMNS)}, got {','.join(rows.fieldnames or ())[:60]!r}"
            )
        starts = []
        for row in rows:
            if None in row or None in row.values():
                raise ValueError(f"{path}, line {rows.line_num}: a row must have {','.join(COLUMNS)}")
            try:
                x, y, w, h = (float(row[key]) for key in ("x", "y", "w", "h"))
                start = Start(row["clip"], int(row["frame"]), (x, y, w, h), row["name"])
                geometry.check_box_xywh(start.box_xywh)
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path}, line {rows.line_num}: {error}") from None
            if start.frame < 0 or not start.name or Path(start.name).name != start.name or start.name == "..":
                raise ValueError(
                    f"{path}, line {rows.line_num}: frames count from 0 and a name is that of a new folder, "
                    f"got frame {start.frame} and name {start.name!r}"
                )
            starts.append(start)
    names = [start.name for start in starts]
    twice = {name for name in names if names.count(name) > 1}
    if twice or not starts:
        raise ValueError(
            f"{path} must name every track differently, got {', '.join(sorted(twice)) or 'no row'}"
        )
    return starts


class Pair(NamedTuple):
    """Two trackers of one kind: one goes on while the other looks back."""

    there: AnyTracker
    back: AnyTracker


def follow(
    trackers: Pair,
    frames: Frames,
    start: int,
    box_xywh: Iterable[float],
    agreement: Agreement | None = None,
) -> Float[np.ndarray, "frames 4"]:
    """A box, xyxy in frame px, for every frame on which both ways agree, the mean of the two; nan elsewhere.

    The target is followed to both ends of the video, in each direction until the way back does not return to where it
    came from, or the target touches a border of the frame that it did not touch at the start: a tracker stays behind
    there with a box that agrees with itself.
    Raises ValueError for a frame or box that is not there, or a frame that cannot be read.
    """
    if not 0 <= start < len(frames):
        raise ValueError(f"the start frame must be one of the {len(frames)} frames, got {start}")
    agreement = agreement or Agreement()
    first = _drawn_on(frames.read(start), box_xywh)
    boxes_frame = np.full((len(frames), 4), np.nan)
    boxes_frame[start] = first
    for order in (range(start, len(frames)), range(start, -1, -1)):
        reached = first
        for begin in range(0, len(order) - 1, agreement.segment_frames):
            segment = order[begin : begin + agreement.segment_frames + 1]
            # In the order of time, in which a video is read fastest.
            read = {index: frames.read(index) for index in sorted(segment)}
            pictures = [read[index] for index in segment]
            there = _run(trackers.there, pictures, reached, fresh=begin == 0)
            back = _run(trackers.back, pictures[::-1], there[-1], fresh=True)[::-1]
            overlap = geometry.iou(there, back)
            if not overlap[0] >= agreement.min_iou:
                break
            boxes = (there + back) / 2
            leaving = (_touches(boxes, pictures[0]) & ~_touches(first[None], pictures[0])).any(axis=1)
            inside = ~np.logical_or.accumulate(leaving)
            kept = np.flatnonzero(inside[1:] & (overlap[1:] >= agreement.min_iou)) + 1
            boxes_frame[np.array(segment)[kept]] = boxes[kept]
            if not inside.all():
                break
            reached = there[-1]
    return boxes_frame


def _drawn_on(picture: geometry.Frame, box_xywh: Iterable[float]) -> geometry.Box:
    """The box, xyxy. Raises ValueError where it is none, or lies outside the picture."""
    return geometry.check_on_frame(list(box_xywh), picture.shape[1::-1])


def _touches(boxes_frame: Float[np.ndarray, "n 4"], picture: geometry.Frame) -> Bool[np.ndarray, "n 4"]:
    """Whether the left, upper, right and lower side lie within a pixel of the frame's border, or beyond."""
    height, width = picture.shape[:2]
    return np.concatenate([boxes_frame[:, :2] <= 1, boxes_frame[:, 2:] >= [width - 1, height - 1]], axis=1)


def _run(
    tracker: AnyTracker, pictures: list[geometry.Frame], box_frame: geometry.Box, fresh: bool
) -> Float[np.ndarray, "n 4"]:
    """The box on every picture; nan from the first answer on that is none. Not `fresh`, the tracker goes on."""
    boxes = np.full((len(pictures), 4), np.nan)
    size = np.tile(pictures[0].shape[1::-1], 2)
    start = np.clip(box_frame, 0, size)
    if not geometry.area(start) > 0:
        return boxes
    if fresh:
        tracker.init(pictures[0], geometry.xyxy_to_xywh(start))
    boxes[0] = start
    for number, picture in enumerate(pictures[1:], 1):
        box = _box(tracker.update(picture))
        if box is None:
            break
        boxes[number] = geometry.xywh_to_xyxy(box)
    return boxes


def _box(answer: Any) -> Float[np.ndarray, "4"] | None:
    """x, y, w, h in frame px; None where the tracker has none, or none of a size."""
    try:
        given = box_of(answer)
        if given is None:
            return None
        box = np.array(given, np.float64).reshape(4)
    except (TypeError, LookupError, ValueError):
        raise ValueError(
            f"a tracker's answer must have a box of four numbers x, y, w, h, or None as its box, got {answer!r}"
        ) from None
    return box if np.isfinite(box).all() and (box[2:] > 0).all() else None


class Track(NamedTuple):
    """What came of one start."""

    name: str
    labelled: int
    """frames with a box"""
    frames: int
    is_new: bool
    """else it was there before"""
    as_drawn: bool
    """whether it begins with the box of its start: where it was there before, its box may have been drawn anew"""


def label(
    trackers: Pair, clips: Path, starts: Iterable[Start], output: Path, agreement: Agreement | None = None
) -> Iterator[Track]:
    """Follows every start and writes its track below ``output`` (see ``write_track``); those that are there are kept.

    Raises ValueError, before anything is followed, where a start names a clip or a frame that is not in ``clips``, or a
    box that is not on its frame.
    """
    starts = list(starts)
    there = find_clips(clips)
    for name in dict.fromkeys(start.clip for start in starts):
        if name not in there:
            raise ValueError(f"no clip is called {name!r} in {clips}: it holds {', '.join(there) or 'none'}")
    for start in starts:
        if (output / start.name / BOXES).exists():
            continue
        frames = frames_of(there[start.clip].pictures)
        if start.frame >= len(frames):
            raise ValueError(
                f"track {start.name} begins at frame {start.frame} of {start.clip}, counted from 0, "
                f"which has {len(frames)} frames"
            )
        try:
            _drawn_on(frames.read(start.frame), start.box_xywh)
        except ValueError as error:
            raise ValueError(f"track {start.name} on {start.clip}: {error}") from None
    for start in starts:
        boxes_path = output / start.name / BOXES
        pictures = there[start.clip].pictures
        is_new = not boxes_path.exists()
        if is_new:
            boxes_frame = follow(trackers, frames_of(pictures), start.frame, start.box_xywh, agreement)
            write_track(output / start.name, pictures, boxes_frame)
        # A person may have taken rows out.
        known_frame = read_boxes(boxes_path).of_frames(len(frames_of(pictures)))
        known, begins_frame = has_area(known_frame), known_frame[start.frame : start.frame + 1]
        drawn_frame = geometry.xywh_to_xyxy(start.box_xywh)
        as_drawn = is_new or bool((np.abs(begins_frame - drawn_frame) < 0.5).all(axis=1).any())
        yield Track(start.name, int(known.sum()), len(known), is_new, as_drawn)


def write_track(folder: Path, pictures: Path, boxes_frame: Float[np.ndarray, "frames 4"]) -> None:
    """The folder with the clip, linked or copied, and `boxes.csv`: a clip that training reads, and people correct.

    Frames without a box are rows of the state "lost". A file that is broken off is not left behind: it would count as
    done.
    Raises FileExistsError if the boxes are there, another OSError if something cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for source in sorted(pictures.iterdir()) if pictures.is_dir() else [pictures]:
        target = folder / source.name
        if source.suffix.lower() in (*VIDEO_SUFFIXES, *IMAGE_SUFFIXES) and not target.exists():
            try:
                target.symlink_to(source.resolve())
            except OSError:  # a file system or a user without links
                shutil.copyfile(source, target)
    with ResultFile.open(folder / BOXES) as file:
        try:
            for index, box in enumerate(boxes_frame):
                known = bool(np.isfinite(box).all())
                x, y, w, h = (float(v) for v in geometry.xyxy_to_xywh(box if known else np.zeros(4)))
                file.write(index, Result((x, y, w, h), float(known), "tracking" if known else "lost"))
        except BaseException:
            file.discard()
            raise
