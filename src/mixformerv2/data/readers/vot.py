"""VOT: sequences whose targets are rectangles, polygons or masks, all in one kind of text file."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from mixformerv2.data.masks import RunLengths, box_around, fill_polygons
from mixformerv2.data.readers.annotation import (
    FIRST_PIXEL,
    first_folder,
    folders_in,
    read_lines,
    some_folders,
)
from mixformerv2.data.sequence import (
    Frames,
    ImageFiles,
    LazySequences,
    NumberedFrames,
    Sequence,
    Sequences,
    has_area,
)

# Files of flags, one line a frame; the ends of their names changed over the years.
OCCLUSION_TAGS = ("occlusion.tag", "occlusion.label", "full_occlusion.tag", "full_occlusion.label")
OUT_OF_VIEW_TAGS = ("out_of_view.tag", "out_of_view.label")


def read_vot(root: Path | str) -> Sequences:
    """VOT of any year: `root/list.txt`, `root/bag/color/00000001.jpg` (before 2018 without `color`) and
    `root/bag/groundtruth.txt`.

    A row is a rectangle, a polygon or a mask; the box is the smallest around it, and where there are polygons or
    masks the pixels are there as `masks`. Without an area, or with one number only, the target is absent. A file
    with one row, or fewer rows than frames where there are several targets, leaves the rest of the boxes unknown.
    Several files groundtruth_NAME.txt are several targets: bag.NAME.
    Raises ValueError if `root` has another layout; a sequence that is incomplete raises it when asked for.
    """
    root = Path(root)
    listing = root / "list.txt"
    names = read_lines(listing) if listing.is_file() else folders_in(root)
    files = {target: file for name in names for target, file in _targets(root / name).items()}
    if not any(file.is_file() for file in files.values()):
        raise ValueError(
            f"no VOT sequences in {root}: expected files like {root / 'bag' / 'groundtruth.txt'}"
        )
    return LazySequences(tuple(files), partial(_vot_sequence, files))


def looks_like_vot(root: Path) -> bool:
    return any(_is_vot(folder) for folder in some_folders(root))


def _is_vot(folder: Path) -> bool:
    names = set(os.listdir(folder))
    truth = "groundtruth.txt" in names or any(name.startswith("groundtruth_") for name in names)
    # GOT-10k has its frames beside the boxes as well, and labels that VOT has not.
    return truth and not names & {"absence.label", "img", "imgs"} and bool(names & {"color", "00000001.jpg"})


def _targets(folder: Path) -> dict[str, Path]:
    names = sorted(os.listdir(folder)) if folder.is_dir() else []
    matches = [re.fullmatch(r"groundtruth_(\w+)\.txt", name) for name in names]
    several = {f"{folder.name}.{match[1]}": folder / match[0] for match in matches if match}
    return several or {folder.name: folder / "groundtruth.txt"}


@dataclass(frozen=True, eq=False)
class Region:
    """One row: an outline, or a mask and where its left top pixel lies."""

    outline: Float[np.ndarray, "_ 2"] | None = None
    runs: RunLengths | None = None
    corner: tuple[int, int] = (0, 0)

    def box(self) -> Float[np.ndarray, " 4"]:
        """xyxy; nan where there is no target"""
        if self.runs is not None:
            return box_around(self.runs.decode()) + np.tile(self.corner, 2)
        if self.outline is None:
            return np.full(4, np.nan)
        return np.concatenate([self.outline.min(axis=0), self.outline.max(axis=0)])

    def mask(self, size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
        """Its pixels in a frame of `size` (width, height), cut at the border."""
        if self.outline is not None:
            return fill_polygons([self.outline], size, self.box())
        mask = np.zeros(size[::-1], bool)
        if self.runs is not None:
            decoded, (x, y) = self.runs.decode(), self.corner
            decoded = decoded[max(-y, 0) :, max(-x, 0) :]
            part = mask[max(y, 0) :, max(x, 0) :][: decoded.shape[0], : decoded.shape[1]]
            part[:] = decoded[: part.shape[0], : part.shape[1]]
        return mask


def parse_region(row: str) -> Region:
    """`x,y,w,h`, or `x1,y1,x2,y2,...` with at least three points, or `mx,y,w,h,outside,inside,...`, or one number for
    no target. Raises ValueError for anything else.
    """
    if row.startswith("m"):
        x, y, width, height, *counts = map(int, row[1:].split(","))
        # The toolkit takes what is not mentioned at the end for outside.
        counts += [0] * (len(counts) % 2) + [width * height - sum(counts)]
        return Region(runs=RunLengths(np.array(counts), (width, height), by_columns=False), corner=(x, y))
    numbers = np.array(row.replace("\t", ",").split(","), np.float64)
    if len(numbers) == 1 or not np.isfinite(numbers).all():
        return Region()
    if len(numbers) == 4:
        x, y, width, height = numbers
        numbers = np.array([x, y, x + width, y, x + width, y + height, x, y + height])
    if len(numbers) < 6 or len(numbers) % 2:
        raise ValueError(f"{len(numbers)} numbers are neither a rectangle nor a polygon")
    return Region(outline=numbers.reshape(-1, 2) - FIRST_PIXEL["vot"])


@dataclass(frozen=True, eq=False)
class RegionMasks:
    """The regions of a sequence as pixels of its frames."""

    regions: tuple[Region, ...]
    frames: Frames

    @cached_property
    def size(self) -> tuple[int, int]:
        """width, height of the first frame, px"""
        height, width, _ = self.frames.read(0).shape
        return width, height

    def read(self, index: int) -> Bool[np.ndarray, "h w"]:
        return self.regions[index].mask(self.size)


def _vot_sequence(files: dict[str, Path], name: str) -> Sequence:
    file = files[name]
    folder = first_folder(name, file.parent)
    color = folder / "color"
    frames = ImageFiles(NumberedFrames.find(color if color.is_dir() else folder))
    rows = read_lines(file)
    regions = tuple(_region(file, number, row) for number, row in enumerate(rows, 1))
    if len(regions) == 1 or (file.name != "groundtruth.txt" and len(regions) < len(frames)):
        regions += (Region(),) * (len(frames) - len(regions))
    if len(regions) != len(frames):
        raise ValueError(f"sequence {name} has {len(regions)} regions for {len(frames)} frames: {file}")
    boxes_frame = np.stack([region.box() for region in regions])
    absent = ~has_area(boxes_frame)
    boxes_frame[absent] = np.nan
    occluded, out_of_view = (_tag(folder, tags, len(frames)) for tags in (OCCLUSION_TAGS, OUT_OF_VIEW_TAGS))
    only_rectangles = all(row.count(",") <= 3 for row in rows)
    masks = None if only_rectangles else RegionMasks(regions, frames)
    return Sequence(name, frames, boxes_frame, absent, occluded, out_of_view, masks)


def _region(file: Path, number: int, row: str) -> Region:
    try:
        return parse_region(row)
    except ValueError as error:
        raise ValueError(f"{file}: row {number} must be a rectangle, a polygon or a mask: {error}") from error


def _tag(folder: Path, names: tuple[str, ...], frames: int) -> Bool[np.ndarray, " frames"] | None:
    """Whether the line of each frame is 1, as the VOT toolkit reads it: where the file ends early, it is not."""
    file = next((folder / name for name in names if (folder / name).is_file()), None)
    if file is None:
        return None
    flags = [line == "1" for line in read_lines(file)][:frames]
    return np.array(flags + [False] * (frames - len(flags)))
