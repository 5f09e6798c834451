"""GOT-10k and TrackingNet: of their test parts only the first boxes are public, the scores come from a server."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from mixformerv2.data.readers.annotation import (
    FIRST_PIXEL,
    first_box_only,
    first_folder,
    folders_in,
    names_of,
    read_labels,
    read_lines,
    read_rows,
    sequence_of_boxes,
)
from mixformerv2.data.sequence import ImageFiles, LazySequences, NumberedFrames, Sequence, Sequences

# Split -> the folder it is part of.
GOT10K_SPLITS = {"train": "train", "val": "val", "test": "test", "train-vot": "train", "val-vot": "train"}

# Sequences that may be used by a tracker that is measured on VOT: names, or their positions in list.txt from 0.
# Published with PyTracking, in ltr/data_specs.
VOT_SPLIT_FILES = {"train-vot": "got10k_vot_train_split.txt", "val-vot": "got10k_vot_val_split.txt"}
# The names of those that may not: as PyTracking calls the file, and as votchallenge.net does.
VOT_EXCLUDED_FILES = ("got10k_vot_exclude.txt", "list0_prohibited_1000.txt")

FULL_COVER = 8
"""cover label of a target of which nothing is hidden; 0 is hidden entirely"""


def read_got10k(root: Path | str, split: str) -> Sequences:
    """GOT-10k, in the order of its list: `root/train/list.txt` and the folders named there.

    `split` is "train", "val" or "test", or a part of train that VOT permits: "train-vot" and "val-vot" need the
    published split file, or the list of excluded sequences, beside list.txt.
    Absent are the frames flagged so, those whose target is covered entirely, and in "test" all but the first.
    Occluded is a target less than fully visible, out of view one that the border of the picture cuts.
    Raises ValueError if `root` has another layout; a sequence that is incomplete raises it when asked for.
    """
    if split not in GOT10K_SPLITS:
        raise ValueError(f"split must be {', '.join(map(repr, GOT10K_SPLITS))}, got {split!r}")
    folder = Path(root) / GOT10K_SPLITS[split]
    listing = folder / "list.txt"
    if not listing.is_file():
        raise ValueError(f"no GOT-10k in {root}: expected {listing}, with the sequence folders beside it")
    names = read_lines(listing)
    if split in VOT_SPLIT_FILES:
        names = _permitted_by_vot(folder, names, split)
    load = _got10k_test_sequence if split == "test" else _got10k_sequence
    return LazySequences(tuple(names), partial(load, folder))


def looks_like_got10k(root: Path) -> bool:
    return any((root / part / "list.txt").is_file() for part in ("train", "val", "test"))


def _permitted_by_vot(folder: Path, names: list[str], split: str) -> list[str]:
    file = folder / VOT_SPLIT_FILES[split]
    if file.is_file():
        return [_listed(entry, names, file) for entry in read_lines(file)]
    excluded = next((folder / name for name in VOT_EXCLUDED_FILES if (folder / name).is_file()), None)
    if excluded is None or split != "train-vot":
        files = [file.name, *(VOT_EXCLUDED_FILES if split == "train-vot" else ())]
        raise ValueError(f"split {split!r} needs its published list: put {' or '.join(files)} into {folder}")
    forbidden = set(read_lines(excluded))
    return [name for name in names if name not in forbidden]


def _listed(entry: str, names: list[str], file: Path) -> str:
    if not entry.isdecimal():
        return entry
    if int(entry) >= len(names):
        raise ValueError(f"{file} names sequence {entry}, counted from 0, but list.txt has {len(names)}")
    return names[int(entry)]


def _got10k_sequence(root: Path, name: str) -> Sequence:
    folder = first_folder(name, root / name)
    boxes = read_rows(folder / "groundtruth.txt", columns=4)
    absence = read_labels(folder / "absence.label", len(boxes), name)
    cover = read_labels(folder / "cover.label", len(boxes), name)
    cut = folder / "cut_by_image.label"
    return sequence_of_boxes(
        name,
        ImageFiles(NumberedFrames.find(folder)),
        boxes,
        first_pixel=FIRST_PIXEL["got10k"],
        file=folder / "groundtruth.txt",
        absent=(absence == 1) | (cover == 0),
        occluded=cover < FULL_COVER,
        out_of_view=read_labels(cut, len(boxes), name) == 1 if cut.is_file() else None,
    )


def _got10k_test_sequence(root: Path, name: str) -> Sequence:
    folder = first_folder(name, root / name)
    file = folder / "groundtruth.txt"
    frames = ImageFiles(NumberedFrames.find(folder))
    boxes = first_box_only(read_rows(file, columns=4), len(frames))
    return sequence_of_boxes(name, frames, boxes, first_pixel=FIRST_PIXEL["got10k"], file=file)


def read_trackingnet(root: Path | str, split: str) -> Sequences:
    """TrackingNet, `split` "train" (the parts TRAIN_0 to TRAIN_11 that are there) or "test".

    `root/TRAIN_0/anno/NAME.txt` and `root/TRAIN_0/frames/NAME/0.jpg`. In "test" all frames but the first are absent.
    Raises ValueError if `root` has another layout; a sequence that is incomplete raises it when asked for.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test', got {split!r}")
    root = Path(root)
    parts = ["TEST"] if split == "test" else [part for part in folders_in(root) if part.startswith("TRAIN_")]
    folders = [root / part / "anno" for part in parts]
    files = {name: folder / f"{name}.txt" for folder in folders for name in names_of(folder, ".txt")}
    if not files:
        example = root / ("TEST" if split == "test" else "TRAIN_0") / "anno"
        raise ValueError(f"no TrackingNet {split} part in {root}: expected {example}, with frames beside it")
    return LazySequences(tuple(files), partial(_trackingnet_sequence, files, split == "test"))


def looks_like_trackingnet(root: Path) -> bool:
    parts = [name for name in folders_in(root) if name == "TEST" or name.startswith("TRAIN_")]
    return any((root / part / "anno").is_dir() for part in parts)


def _trackingnet_sequence(files: dict[str, Path], test: bool, name: str) -> Sequence:
    file = files[name]
    boxes = read_rows(file, columns=4)
    folder = first_folder(name, file.parents[1] / "frames" / name)
    frames = ImageFiles(NumberedFrames.find(folder))
    if test:
        boxes = first_box_only(boxes, len(frames))
    return sequence_of_boxes(name, frames, boxes, first_pixel=FIRST_PIXEL["trackingnet"], file=file)
