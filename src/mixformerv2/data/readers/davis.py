"""DAVIS 2016 and 2017: every frame with a mask of numbered objects, from which the boxes are taken."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from mixformerv2.data.masks import PaletteMasks, box_around, read_numbers
from mixformerv2.data.readers.annotation import first_folder, folders_in, read_lines
from mixformerv2.data.sequence import ImageFiles, LazySequences, NumberedFrames, Sequence, Sequences, has_area

RESOLUTIONS = ("480p", "Full-Resolution", "1080p")

UNDECIDED = 255
"""number of the pixels that belong to no object for certain, if there are other numbers"""


@dataclass(frozen=True)
class _Target:
    video: str
    number: int | None
    """of its pixels; None: all that is not background"""


def read_davis(root: Path | str, year: str | None = None, split: str | None = None) -> Sequences:
    """DAVIS: `root/JPEGImages/480p/bear/00000.jpg` and `root/Annotations/480p/bear/00000.png`.

    One sequence per object of the first frame, dogs.1, dogs.2; in `year` "2016" one per video, all objects together.
    With a `split`, "train" or "val", of a `year`, the videos of `root/ImageSets/2017/train.txt`; else all.
    Its boxes are the smallest around the masks; in frames without a pixel the object is absent.
    Raises ValueError if `root` has another layout; a sequence that is incomplete raises it when asked for.
    """
    root = Path(root)
    resolution = next(
        (name for name in RESOLUTIONS if (root / "Annotations" / name).is_dir()), RESOLUTIONS[0]
    )
    annotations = root / "Annotations" / resolution
    videos = folders_in(annotations)
    if not videos:
        raise ValueError(f"no DAVIS in {root}: expected files like {annotations / 'bear' / '00000.png'}")
    if split is not None:
        videos = read_lines(root / "ImageSets" / str(year) / f"{split}.txt")
    targets: dict[str, _Target] = {}
    for video in videos:
        numbers = [None] if year == "2016" else _objects(annotations / video)
        for number in numbers:
            targets[f"{video}.{number}" if len(numbers) > 1 else video] = _Target(video, number)
    return LazySequences(tuple(targets), partial(_davis_sequence, root, resolution, targets))


def read_davis_to_learn(root: Path | str) -> Sequences:
    """Its videos for training, of 2017; all of a copy without that list."""
    listed = (Path(root) / "ImageSets" / "2017" / "train.txt").is_file()
    return read_davis(root, "2017", "train") if listed else read_davis(root)


def looks_like_davis(root: Path) -> bool:
    return (root / "JPEGImages").is_dir() and (root / "Annotations").is_dir()


def _objects(folder: Path) -> list[int | None]:
    """The numbers in the first mask; one object if there is none to be read, so that the sequence can tell why."""
    try:
        first = NumberedFrames.find(folder, suffix=".png")[0]
        numbers = read_numbers(first) - {0}
    except ValueError:
        return [None]
    return [*sorted(numbers - {UNDECIDED} or numbers)] or [None]


def _davis_sequence(root: Path, resolution: str, targets: dict[str, _Target], name: str) -> Sequence:
    target = targets[name]
    folder = first_folder(name, root / "JPEGImages" / resolution / target.video)
    frames = ImageFiles(NumberedFrames.find(folder))
    paths = NumberedFrames.find(root / "Annotations" / resolution / target.video, suffix=".png")
    if len(paths) != len(frames):
        raise ValueError(
            f"sequence {name} has {len(paths)} masks for {len(frames)} frames: {paths.folder}, {folder}"
        )
    masks = PaletteMasks(paths, target.number)
    boxes_frame = np.stack([box_around(masks.read(index)) for index in range(len(paths))])
    return Sequence(name, frames, boxes_frame, ~has_area(boxes_frame), masks=masks)
