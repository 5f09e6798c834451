"""What the readers share: text files of boxes and flags, names in folders and lists, where pixels are counted from."""

from __future__ import annotations

import os
import re
from pathlib import Path
from types import MappingProxyType

import numpy as np
from jaxtyping import Bool, Float

from mixformerv2.data.sequence import Frames, ImageFiles, Sequence, has_area

FIRST_PIXEL = MappingProxyType(
    {
        "otb": 1,  # MATLAB
        "uav123": 1,  # MATLAB, the code of OTB
        "lasot": 1,  # its authors (issue 14 of their toolkit); no x or y is 0
        "lasot-ext": 0,  # its authors say 1, but x or y is 0 in about 60 of its 150 sequences
        "got10k": 0,  # its authors say 1 (issue 6 of their toolkit), but there are many zeros, in the test part too
        "trackingnet": 0,  # fractions of the picture, multiplied by its size
        "tnl2k": 0,  # not documented; toolkits hand the numbers on as they are
        "nfs": 0,  # drawn in VATIC, which counts from 0; many zeros, none as large as the picture
        "vasttrack": 0,  # not documented; the lower edges y + h reach the height of the picture, no more
        "vot": 0,  # as its masks, whose offset is a number of pixels
        "coco": 0,  # documented
    }
)
"""Dataset -> the number its files give to the first pixel of a row or column; readers subtract it.

A score by overlap does not depend on it, as long as results are written back with the same number added. Toolkits in
Python mostly ignore it and so move what the network sees by one pixel, to the right and down.
"""

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


def sequence_of_boxes(
    name: str,
    frames: Frames,
    boxes_xywh: Float[np.ndarray, "rows 4"],
    *,
    first_pixel: int,
    file: Path,
    absent: Bool[np.ndarray, " rows"] | None = None,
    occluded: Bool[np.ndarray, " rows"] | None = None,
    out_of_view: Bool[np.ndarray, " rows"] | None = None,
) -> Sequence:
    """Boxes as the datasets write them, `first_pixel` the number of the first; without area: the target is absent.

    Raises ValueError, naming the sequence and the `file` of boxes, if there is not one row per frame.
    """
    if len(boxes_xywh) != len(frames):
        place = Path(frames.place(0)).parent
        raise ValueError(
            f"sequence {name} has {len(boxes_xywh)} boxes for {len(frames)} frames: {file}, {place}"
        )
    left_top = boxes_xywh[:, :2] - first_pixel
    boxes_frame = np.concatenate([left_top, left_top + boxes_xywh[:, 2:]], axis=1)
    no_box = ~has_area(boxes_frame)
    absent = no_box if absent is None else absent | no_box
    boxes_frame[absent] = np.nan
    return Sequence(name, frames, boxes_frame, absent, occluded, out_of_view)


def first_box_only(boxes_xywh: Float[np.ndarray, "rows 4"], frames: int) -> Float[np.ndarray, "_ 4"]:
    """One row for every frame where the benchmark keeps all boxes but the first to itself: nan from then on."""
    if len(boxes_xywh) != 1:
        return boxes_xywh
    return np.concatenate([boxes_xywh, np.full((frames - 1, 4), np.nan)])


def read_rows(path: Path, columns: int) -> Float[np.ndarray, "rows {columns}"]:
    """The numbers in a text file, separated by commas, tabs or spaces; blank lines do not count.

    Raises ValueError, naming the file, if it is missing or a row holds anything else than `columns` numbers.
    """
    rows = [line.replace(",", " ").split() for line in read_lines(path)]
    for number, row in enumerate(rows, 1):
        if len(row) != columns:
            raise ValueError(f"{path}: row {number} must have {columns} numbers, got {' '.join(row)[:80]!r}")
    try:
        return np.array(rows, np.float64).reshape(-1, columns)
    except ValueError as error:
        raise ValueError(f"{path} must hold numbers only: {error}") from error


def read_labels(path: Path, rows: int, name: str) -> Float[np.ndarray, " rows"]:
    """One number per row of boxes, in one line or in many. Raises ValueError if there are more or fewer."""
    words = " ".join(read_lines(path)).replace(",", " ").split()
    try:
        labels = np.array(words, np.float64)
    except ValueError as error:
        raise ValueError(f"{path} must hold numbers only: {error}") from error
    if len(labels) != rows:
        raise ValueError(f"sequence {name} has {len(labels)} labels in {path} for {rows} boxes")
    return labels


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not blank, stripped. Raises ValueError if it is missing or not text."""
    if not path.is_file():
        raise ValueError(f"the file {path} is missing")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"the file {path} is not text: {error}") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def folders_in(root: Path) -> list[str]:
    """Names of the folders in `root`, none if it is no folder; hidden ones do not count, numbers go by value."""
    if not root.is_dir():
        return []
    with os.scandir(root) as entries:
        names = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith((".", "__"))]
    return sorted(names, key=by_number)


def names_of(folder: Path, suffix: str) -> list[str]:
    """Names, without their suffix, of the files in `folder` that end in it; numbers go by value."""
    names = os.listdir(folder) if folder.is_dir() else []
    return sorted((name.removesuffix(suffix) for name in names if name.endswith(suffix)), key=by_number)


def sorted_images(folder: Path) -> ImageFiles:
    """The pictures in a folder whose names follow no rule. Raises ValueError if there are none."""
    names = os.listdir(folder) if folder.is_dir() else []
    names = [name for name in names if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")]
    if not names:
        raise ValueError(f"no frames in {folder}: expected images, one a frame")
    return ImageFiles(tuple(folder / name for name in sorted(names, key=by_number)))


def by_number(name: str) -> list[str | int]:
    """A key that sorts bird-2 before bird-10."""
    parts = re.split(r"(\d+)", name)
    return [int(part) if place % 2 else part for place, part in enumerate(parts)]


def some_folders(root: Path, most: int = 8) -> list[Path]:
    """A few of the folders in `root`, enough to tell a layout by."""
    return [root / name for name in folders_in(root)[:most]]


def some_sequences(root: Path) -> list[tuple[Path, frozenset[str]]]:
    """A few folders at most two below `root` with the names of what they hold, enough to tell a layout by."""
    folders = some_folders(root)
    below = [inner for folder in folders[:4] for inner in some_folders(folder, most=2)]
    return [(folder, frozenset(os.listdir(folder))) for folder in (*folders, *below)]


def first_folder(name: str, *candidates: Path) -> Path:
    """The first that is there. Raises ValueError, naming the sequence, if none is."""
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise ValueError(f"sequence {name} has no folder: expected {' or '.join(map(str, candidates))}")
