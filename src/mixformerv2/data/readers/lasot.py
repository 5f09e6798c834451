"""LaSOT, its extension, and the two benchmarks whose folders follow it: VastTrack and TNL2K."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from mixformerv2.data.readers.annotation import (
    FIRST_PIXEL,
    first_folder,
    folders_in,
    read_labels,
    read_lines,
    read_rows,
    sequence_of_boxes,
    some_sequences,
    sorted_images,
)
from mixformerv2.data.sequence import ImageFiles, LazySequences, NumberedFrames, Sequence, Sequences

# Class and numbers of the 280 sequences of the test part, the benchmark's testing_set.txt.
LASOT_TEST = """
airplane 1 9 13 15, basketball 1 6 7 11, bear 2 4 6 17, bicycle 2 7 9 18, bird 2 3 15 17, boat 3 4 12 17,
book 3 10 11 19, bottle 1 12 14 18, bus 2 5 17 19, car 2 6 9 17, cat 1 3 18 20, cattle 2 7 12 13,
chameleon 3 6 11 20, coin 3 6 7 18, crab 3 6 12 18, crocodile 3 4 10 14, cup 1 4 7 17, deer 4 8 10 14,
dog 1 7 15 19, drone 2 7 13 15, electricfan 1 10 18 20, elephant 1 12 16 18, flag 2 3 5 9, fox 2 3 5 20,
frog 3 4 9 20, gametarget 1 2 7 13, gecko 1 5 16 19, giraffe 2 10 13 15, goldfish 3 7 8 10, gorilla 4 6 9 13,
guitar 3 8 10 16, hand 2 3 9 16, hat 1 2 5 18, helmet 5 11 13 19, hippo 1 7 9 20, horse 1 4 12 15,
kangaroo 2 5 11 14, kite 4 6 10 15, leopard 1 7 16 20, licenseplate 6 12 13 15, lion 1 5 12 20, lizard 1 3 6 13,
microphone 2 6 14 16, monkey 3 4 9 17, motorcycle 1 3 9 18, mouse 1 8 9 17, person 1 5 10 12, pig 2 10 13 18,
pool 3 7 12 15, rabbit 10 13 17 19, racing 10 15 16 20, robot 1 5 8 19, rubicCube 1 6 14 19, sepia 6 8 13 16,
shark 2 3 5 6, sheep 3 5 7 9, skateboard 3 8 16 19, spider 14 16 18 20, squirrel 8 11 13 19, surfboard 4 5 8 12,
swing 10 14 17 20, tank 6 9 14 16, tiger 4 6 12 18, train 1 7 11 20, truck 3 6 7 16, turtle 5 8 9 16,
umbrella 2 9 17 19, volleyball 1 13 18 19, yoyo 7 15 17 19, zebra 10 14 16 17
"""

LASOT_EXT_CLASSES = frozenset(
    (
        *("atv", "badminton", "cosplay", "dancingshoe", "footbag", "frisbee", "jianzi", "lantern", "misc"),
        *("opossum", "paddle", "raccoon", "rhino", "skatingshoe", "wingsuit"),
    )
)


@dataclass(frozen=True)
class _Layout:
    """How the folders of one of these benchmarks look."""

    kind: str
    title: str
    images: tuple[str, ...]
    """the folder of frames, by one of these names"""
    boxes: str
    flags: bool | None
    """whether the files of flags are there; None: perhaps"""
    numbered: bool
    train_list: str
    test_list: str


_LASOT = _Layout(
    "lasot", "LaSOT", ("img",), "groundtruth.txt", True, True, "training_set.txt", "testing_set.txt"
)
_LASOT_EXT = _Layout("lasot-ext", "LaSOT-ext", ("img",), "groundtruth.txt", True, True, "", "")
_VASTTRACK = _Layout(
    *("vasttrack", "VastTrack", ("imgs", "img"), "Groundtruth.txt"),
    *(None, True, "vasttrack_train_list.txt", "vasttrack_test_list.txt"),
)
_TNL2K = _Layout(
    *("tnl2k", "TNL2K", ("imgs",), "groundtruth.txt"),
    *(False, False, "TNL2K_train_set.txt", "TNL2K_testing_set.txt"),
)


def lasot_test_names() -> list[str]:
    """Names of the 280 sequences of LaSOT's test part."""
    entries = (entry.split() for entry in LASOT_TEST.split(","))
    return [f"{category}-{number}" for category, *numbers in entries for number in numbers]


def read_lasot(root: Path | str, split: str = "all") -> Sequences:
    """LaSOT: `root/airplane/airplane-1/img/00000001.jpg`, `groundtruth.txt`, `full_occlusion.txt`, `out_of_view.txt`;
    or the same without the folders of classes.

    `split` is "train" or "test", by the lists `root/training_set.txt` and `root/testing_set.txt` or, without them, by
    the names published for the test part; or "all". Absent are targets that are covered entirely or out of view.
    Raises ValueError if `root` has another layout; a sequence that is incomplete raises it when asked for.
    """
    return _read(_LASOT, Path(root), split, test_names=lasot_test_names())


def read_lasot_ext(root: Path | str) -> Sequences:
    """The 150 sequences of 15 classes that were added to LaSOT later, all for tests; the layout is LaSOT's.

    Others in `root`, which may be LaSOT's folder, are left out.
    """
    return _read(_LASOT_EXT, Path(root), "all")


def read_vasttrack(root: Path | str, split: str = "all") -> Sequences:
    """VastTrack: `root/Actor/Actor-3/imgs/00001.jpg` (or `img`) and `Groundtruth.txt`.

    `split` "test" is the published `vasttrack_test_list.txt` in `root`, "train" the rest: without that file everything.
    Absent is a box of zeros; flags of full occlusion and of out of view are kept where they lie beside the boxes, named
    as LaSOT's.
    Raises ValueError if `root` has another layout; a sequence that is incomplete raises it when asked for.
    """
    return _read(_VASTTRACK, Path(root), split)


def read_tnl2k(root: Path | str, split: str = "all") -> Sequences:
    """TNL2K: `root/NAME/imgs` with images named by no rule, and `root/NAME/groundtruth.txt`; or one folder deeper, as
    it is unpacked.

    `split` "test" is the published `TNL2K_testing_set.txt` in `root`, "train" is `TNL2K_train_set.txt` or the rest:
    without either file everything.
    Raises ValueError if `root` has another layout; a sequence that is incomplete raises it when asked for.
    """
    return _read(_TNL2K, Path(root), split)


def looks_like_lasot(root: Path) -> bool:
    return _looks_like(_LASOT, root) and not _of_the_extension(root)


def looks_like_lasot_ext(root: Path) -> bool:
    return _looks_like(_LASOT, root) and _of_the_extension(root)


def looks_like_vasttrack(root: Path) -> bool:
    return _looks_like(_VASTTRACK, root)


def looks_like_tnl2k(root: Path) -> bool:
    return _looks_like(_TNL2K, root)


def _looks_like(layout: _Layout, root: Path) -> bool:
    return any(
        layout.boxes in names and not names.isdisjoint(layout.images) for _, names in some_sequences(root)
    )


def _of_the_extension(root: Path) -> bool:
    return {_category(name) for name in folders_in(root)} <= LASOT_EXT_CLASSES


def _category(name: str) -> str:
    return name.rpartition("-")[0] or name


def _read(layout: _Layout, root: Path, split: str, test_names: list[str] | None = None) -> Sequences:
    folders = _folders(layout, root)
    if layout is _LASOT_EXT:
        folders = {name: path for name, path in folders.items() if _category(name) in LASOT_EXT_CLASSES}
    if not folders:
        example = root / "CLASS" / "CLASS-1" / layout.boxes
        raise ValueError(f"no {layout.title} in {root}: expected files like {example}")
    names = _part(layout, root, split, list(folders), test_names)
    return LazySequences(tuple(names), partial(_sequence, layout, root, folders))


def _folders(layout: _Layout, root: Path) -> dict[str, Path]:
    """Name of every sequence -> its folder, in `root` or one below."""
    found: dict[str, Path] = {}
    for name in folders_in(root):
        inner = folders_in(root / name)
        if set(inner) & set(layout.images):
            found[name] = root / name
        else:
            found.update((below, root / name / below) for below in inner)
    return found


def _part(layout: _Layout, root: Path, split: str, present: list[str], test: list[str] | None) -> list[str]:
    if split not in ("all", "train", "test"):
        raise ValueError(f"split must be 'all', 'train' or 'test', got {split!r}")
    if split == "all":
        return present
    own = root / (layout.train_list if split == "train" else layout.test_list)
    if own.is_file():
        return read_lines(own)
    if (root / layout.test_list).is_file():
        test = read_lines(root / layout.test_list)
    if test is None and split == "train":
        return present
    if test is None:
        raise ValueError(
            f"the {split} part of {layout.title} needs its published list: put {own.name} into {root}"
        )
    if split == "test":
        return test
    # Some keep the extension, which is all for tests, in one folder with LaSOT.
    extension = LASOT_EXT_CLASSES if layout.kind == "lasot" else frozenset()
    held_out = set(test)
    return [name for name in present if name not in held_out and _category(name) not in extension]


def _sequence(layout: _Layout, root: Path, folders: dict[str, Path], name: str) -> Sequence:
    folder = folders.get(name, root / _category(name) / name)
    images = first_folder(name, *(folder / inner for inner in layout.images))
    file = folder / layout.boxes
    boxes = read_rows(file, columns=4)
    covered = _flags(layout, folder / "full_occlusion.txt", len(boxes))
    outside = _flags(layout, folder / "out_of_view.txt", len(boxes))
    absent = np.zeros(len(boxes), bool)
    for flags in (covered, outside):
        absent |= False if flags is None else flags
    return sequence_of_boxes(
        name,
        ImageFiles(NumberedFrames.find(images)) if layout.numbered else sorted_images(images),
        boxes,
        first_pixel=FIRST_PIXEL[layout.kind],
        file=file,
        absent=absent,
        occluded=covered,
        out_of_view=outside,
    )


def _flags(layout: _Layout, path: Path, rows: int) -> Bool[np.ndarray, " rows"] | None:
    if not layout.flags and (layout.flags is False or not path.is_file()):
        return None
    return np.asarray(read_labels(path, rows, path.parent.name) == 1)
