"""People's own data: a plain folder of clips, each a video or a folder of images, with one file of boxes beside it.

Pictures come out as tracking sees them, turned upright, so that boxes written by `mixformerv2 track` fit.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from mixformerv2.data.sequence import LazySequences, Sequence, has_area
from mixformerv2.data.video_frames import VIDEO_SUFFIXES, VideoFrames
from mixformerv2.images import IMAGE_SUFFIXES, read_image
from mixformerv2.results import COLUMNS, read_results

BOXES_SUFFIXES = (".txt", ".csv", ".jsonl")
BOXES_NAMES = ("boxes", "groundtruth", "groundtruth_rect")
"""stems of a boxes file inside the folder of images that it belongs to"""

WHAT = "clips/dog.mp4 with clips/dog.txt, or clips/dog/*.jpg with clips/dog/boxes.txt; rows x,y,w,h"


class Boxes(NamedTuple):
    """What a boxes file says."""

    rows_frame: Float[np.ndarray, "rows 4"]
    """xyxy, frame px, float64; nan where there is no box, one without area, or the target is called lost"""
    frames: Int[np.ndarray, " rows"] | None
    """which frame each row belongs to, from 0; None where the rows are all frames in their order"""
    unsure: bool = False
    """whether a row without a box is a tracker's that was not sure, and so says nothing"""

    def of_frames(self, num_frames: int) -> Float[np.ndarray, "frames 4"]:
        """One box a frame; a file that does not name its frames gives as many as it has."""
        if self.frames is None:
            return self.rows_frame
        boxes_frame = np.full((num_frames, 4), np.nan)
        boxes_frame[self.frames] = self.rows_frame
        return boxes_frame

    def unknown(self, num_frames: int) -> Bool[np.ndarray, " frames"] | None:
        """Of which frames nothing is said; None for a file that has a row for each."""
        if self.frames is None:
            return None
        unknown = np.ones(num_frames, bool)
        unknown[self.frames] = self.unsure & ~has_area(self.rows_frame)
        return unknown


class Clip(NamedTuple):
    """One video or folder of images, and what may be the file of its boxes."""

    pictures: Path
    boxes: tuple[Path, ...]
    """one; none if the clip is not annotated; several are refused when the clip is read"""


def find_clips(root: Path) -> dict[str, Clip]:
    """The clips in a folder, annotated or not, by name in natural order; the folder may be one clip itself."""
    if not root.is_dir():
        return {}
    itself = _folder_clip(root)
    if itself is not None and itself.boxes:  # else a picture beside clips would hide them
        return {root.resolve().name: itself}
    clips: dict[str, Clip] = {}
    for path in sorted(_visible(root), key=_natural_order):
        clip = _folder_clip(path) if path.is_dir() else _video_clip(path)
        if clip is not None:
            name = path.name if path.is_dir() else path.stem
            clips[path.name if name in clips else name] = clip
    return clips


def is_folder(root: Path) -> bool:
    """Whether the folder holds a clip with boxes, or is one."""
    return any(clip.boxes for clip in find_clips(root).values())


def is_clip(root: Path) -> bool:
    """Whether the folder itself is one annotated clip."""
    clip = _folder_clip(root)
    return clip is not None and bool(clip.boxes)


def read_folder(root: Path | str) -> LazySequences:
    """The annotated clips of a folder, or the folder itself as one: see `WHAT`, and `read_boxes` for the boxes.

    A clip that does not fit its boxes is refused when it is asked for. Raises ValueError if there is none.
    """
    clips = {name: clip for name, clip in find_clips(Path(root)).items() if clip.boxes}
    if not clips:
        raise ValueError(f"no clips with boxes in {root}: expected {WHAT}")
    return LazySequences(tuple(clips), partial(_read_clip, clips))


def read_boxes(path: Path) -> Boxes:
    """The boxes of a clip, in rows `x,y,w,h` parted by commas, tabs or spaces; the first pixel is from 0 to 1.

    Rows are one a frame, or name their frame, from 0: in a results file of `mixformerv2 track` (.csv, .jsonl) or
    under a header `frame,x,y,w,h`. Of frames that are not named, or lost to the tracker whose results they are, nothing
    is known.
    Raises ValueError naming the line that is wrong, or if boxes are fractions of the picture.
    """
    of_tracker = _is_results(path)
    frames, rows_xywh = _results_rows(path) if of_tracker else _table_rows(path)
    if frames is not None and (len(np.unique(frames)) != len(frames) or frames.min(initial=0) < 0):
        raise ValueError(f"{path} must give each frame once, counted from 0")
    rows_frame = np.concatenate([rows_xywh[:, :2], rows_xywh[:, :2] + rows_xywh[:, 2:]], axis=1)
    rows_frame[~has_area(rows_frame)] = np.nan
    largest = np.nanmax(rows_frame, initial=-np.inf)
    if 0 < largest <= 1:
        raise ValueError(f"{path} must hold boxes in pixels, got fractions: no edge lies beyond {largest:g}")
    return Boxes(rows_frame, frames, of_tracker)


@dataclass(frozen=True)
class UprightImages:
    """One image file a frame, turned as its EXIF says: people draw boxes on what their viewer shows."""

    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        try:
            return read_image(self.paths[index])
        except FileNotFoundError as error:
            raise ValueError(str(error)) from error

    def place(self, index: int) -> str:
        return str(self.paths[index])


def frames_of(pictures: Path, expected: int = 0) -> UprightImages | VideoFrames:
    """The frames of a clip; a video that is said to have `expected` of them is not counted by decoding.

    Links are followed: by where they lie, clips of several targets are known to show the same.
    """
    if not pictures.is_dir():
        return VideoFrames.find(pictures.resolve(), expected)
    images = [path for path in _visible(pictures) if path.suffix.lower() in IMAGE_SUFFIXES]
    return UprightImages(tuple(path.resolve() for path in sorted(images, key=_natural_order)))


def _visible(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


def _natural_order(path: Path) -> list[str | int]:
    """A sort key by which frame2 comes before frame10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path.name)]


def _existing(*stems: Path) -> tuple[Path, ...]:
    candidates = (stem.with_name(stem.name + suffix) for stem in stems for suffix in BOXES_SUFFIXES)
    return tuple(path for path in candidates if path.is_file())


def _video_clip(path: Path) -> Clip | None:
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        return None
    return Clip(path, _existing(path.with_suffix("")))


def _folder_clip(folder: Path) -> Clip | None:
    """A folder of images with boxes in it or beside it, or of one video with boxes in it."""
    # Of a sequence of GOT-10k the boxes are not all: its reader knows which are of an absent target.
    if not os.access(folder, os.R_OK | os.X_OK) or (folder / "absence.label").exists():
        return None
    inside = _existing(*(folder / name for name in BOXES_NAMES))
    videos = []
    with os.scandir(folder) as entries:
        # A large dataset has folders of a hundred thousand files, of which the first tells what they are.
        for entry in entries:
            suffix = os.path.splitext(entry.name)[1].lower()
            if suffix in IMAGE_SUFFIXES and not entry.name.startswith(".") and entry.is_file():
                return Clip(folder, inside or _existing(folder.absolute()))
            if suffix in VIDEO_SUFFIXES and not entry.name.startswith("."):
                videos.append(Path(entry.path))
    # Boxes beside it may as well be the starts of all videos that will be in it.
    return Clip(videos[0], inside) if inside and len(videos) == 1 else None


def _read_clip(clips: dict[str, Clip], name: str) -> Sequence:
    pictures, files = clips[name]
    if len(files) > 1:
        raise ValueError(f"sequence {name} must have one boxes file, got {' and '.join(map(str, files))}")
    boxes = read_boxes(files[0])
    last = len(boxes.rows_frame) - 1 if boxes.frames is None else int(boxes.frames.max(initial=-1))
    frames = frames_of(pictures, expected=last + 1)
    if boxes.frames is not None and last >= len(frames):
        raise ValueError(f"{files[0]} has a box for frame {last}, but {pictures} has {len(frames)} frames")
    boxes_frame = boxes.of_frames(len(frames))
    unknown = boxes.unknown(len(frames))
    return Sequence(name, frames, boxes_frame, absent=~has_area(boxes_frame), unknown=unknown)


def _is_results(path: Path) -> bool:
    if path.suffix.lower() == ".jsonl":
        return True
    with path.open(encoding="utf-8-sig", errors="replace") as stream:
        return stream.readline().strip() == ",".join(COLUMNS)


_Rows = tuple[Int[np.ndarray, " rows"] | None, Float[np.ndarray, "rows 4"]]


def _results_rows(path: Path) -> _Rows:
    rows = read_results(path, "jsonl" if path.suffix.lower() == ".jsonl" else "csv")
    boxes = [row.result.box if row.result.state == "tracking" else (np.nan,) * 4 for row in rows]
    return np.array([row.frame for row in rows], np.int64), np.array(boxes, np.float64).reshape(-1, 4)


def _table_rows(path: Path) -> _Rows:
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    rows = [
        (number, re.split(r"[,\s]+", line.strip())) for number, line in enumerate(lines, 1) if line.strip()
    ]
    columns = ["x", "y", "w", "h"]
    if rows and [word.lower() for word in rows[0][1]] in (columns, ["frame", *columns]):
        columns = [word.lower() for word in rows.pop(0)[1]]
    values = np.array([_numbers(path, number, row, columns) for number, row in rows], np.float64)
    values = values.reshape(-1, len(columns))
    if len(columns) == 4:
        return None, values
    if not (np.isfinite(values[:, 0]) & (values[:, 0] == np.floor(values[:, 0]))).all():
        raise ValueError(f"{path} must number its frames with whole numbers")
    return values[:, 0].astype(np.int64), values[:, 1:]


def _numbers(path: Path, number: int, row: list[str], columns: list[str]) -> list[float]:
    try:
        values = [float(word) for word in row]
    except ValueError:
        values = []
    if len(values) != len(columns):
        raise ValueError(f"{path} line {number} must be {','.join(columns)}, got {','.join(row)[:60]!r}")
    if min(values[-2:]) < 0:  # false for NaN
        raise ValueError(
            f"{path} line {number} must have a width and height of 0, where there is no target, or more, got "
            f"{','.join(row)[:60]!r}"
        )
    return values
