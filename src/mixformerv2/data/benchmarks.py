"""Readers of tracking datasets in the layouts as published: files become `Sequence` here and nowhere later.

A new dataset is one function that finds its frames and text files, and one line in `READERS`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from mixformerv2.data.sequence import ImageFiles, NumberedFrames, Sequence, has_area

# The folders of these sequences hold more frames than are annotated; the benchmark's page gives the ranges.
OTB_ANNOTATED_FRAMES = {
    "David": range(300, 771),
    "Diving": range(1, 216),
    "Football1": range(1, 75),
    "Freeman3": range(1, 461),
    "Freeman4": range(1, 284),
}


def read_otb(root: Path | str) -> list[Sequence]:
    """OTB100, or any part of it: `root/Car4/img/0001.jpg` and `root/Car4/groundtruth_rect.txt`.

    A folder with several ground truth files gives one sequence per target: Jogging.1, Jogging.2.
    Raises ValueError if `root` has another layout or a sequence is incomplete.
    """
    folders = sorted(path.parent for path in Path(root).glob("*/img"))
    if not folders:
        raise ValueError(f"no OTB sequences in {root}: expected folders like {Path(root) / 'Car4' / 'img'}")
    return [sequence for folder in folders for sequence in _otb_targets(folder)]


def _otb_targets(folder: Path) -> list[Sequence]:
    targets = [re.fullmatch(r"groundtruth_rect(\.\d+)?\.txt", path.name) for path in sorted(folder.iterdir())]
    files = {match[0]: match[1] or "" for match in targets if match}
    if not files:
        raise ValueError(f"no ground truth in {folder}: expected {folder / 'groundtruth_rect.txt'}")
    frames = NumberedFrames.find(folder / "img", only=OTB_ANNOTATED_FRAMES.get(folder.name))
    return [
        _sequence(
            folder.name + (suffix if len(files) > 1 else ""),
            frames,
            # The files count pixels from 1.
            _read_rows(folder / file, columns=4) - [1, 1, 0, 0],
        )
        for file, suffix in files.items()
    ]


def read_got10k(root: Path | str, split: str) -> list[Sequence]:
    """GOT-10k, `split` "train" or "val", in the order of its list: `root/train/list.txt` and the folders named there.

    Absent are the frames flagged so and those whose target is covered entirely (cover label 0).
    Raises ValueError if `root` has another layout or a sequence is incomplete.
    """
    if split not in ("train", "val"):
        # Of the test split only the first boxes are public: its scores come from the benchmark's server.
        raise ValueError(f"split must be 'train' or 'val', got {split!r}")
    listing = Path(root) / split / "list.txt"
    if not listing.is_file():
        raise ValueError(f"no GOT-10k in {root}: expected {listing}, with the sequence folders beside it")
    return [_got10k_sequence(listing.parent / name) for name in listing.read_text().split()]


def _got10k_sequence(folder: Path) -> Sequence:
    absence = _read_rows(folder / "absence.label", columns=1)[:, 0]
    cover = _read_rows(folder / "cover.label", columns=1)[:, 0]
    boxes = _read_rows(folder / "groundtruth.txt", columns=4)
    frames = NumberedFrames.find(folder)
    for what, rows in (("absence labels", absence), ("cover labels", cover)):
        if len(rows) != len(boxes):
            raise ValueError(f"sequence {folder.name} has {len(rows)} {what} for {len(boxes)} boxes")
    return _sequence(folder.name, frames, boxes, absent=(absence == 1) | (cover == 0))


def _sequence(
    name: str,
    frames: NumberedFrames,
    boxes_xywh: Float[np.ndarray, "frames 4"],
    absent: Bool[np.ndarray, " frames"] | None = None,
) -> Sequence:
    """Boxes as the datasets write them, counted from 0; those without area mean an absent target too."""
    boxes_frame = np.concatenate([boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]], axis=1)
    no_box = ~has_area(boxes_frame)
    absent = no_box if absent is None else absent | no_box
    boxes_frame[absent] = np.nan
    return Sequence(name, ImageFiles(frames), boxes_frame, absent)


def _read_rows(path: Path, columns: int) -> Float[np.ndarray, "rows columns"]:
    """The numbers in a text file, separated by commas, tabs or spaces; blank lines do not count."""
    if not path.is_file():
        raise ValueError(f"the file {path} is missing")
    rows = [line.split() for line in path.read_text().replace(",", " ").splitlines() if line.strip()]
    for number, row in enumerate(rows, 1):
        if len(row) != columns:
            raise ValueError(f"{path}: row {number} must have {columns} numbers, got {' '.join(row)!r}")
    try:
        return np.array(rows, np.float64).reshape(-1, columns)
    except ValueError as error:
        raise ValueError(f"{path} must hold numbers only: {error}") from error


READERS: dict[str, Callable[[Path], list[Sequence]]] = {
    "otb": read_otb,
    "got10k-train": partial(read_got10k, split="train"),
    "got10k-val": partial(read_got10k, split="val"),
}
"""Dataset name -> the function that reads it from its root folder."""
