"""COCO instances: every annotated object of a still image is a sequence of one frame, with its mask."""

from __future__ import annotations

import collections.abc
import json
from array import array
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from mixformerv2.data.masks import RunLengths, fill_polygons
from mixformerv2.data.sequence import Sequence, read_rgb

# Where a folder has its annotations: small sets, and COCO as published.
TRAIN_FILES = (
    "annotations.json",
    "annotations/instances_train2017.json",
    "annotations/instances_train2014.json",
)
VAL_FILES = ("annotations/instances_val2017.json", "annotations/instances_val2014.json")


def read_coco(root: Path | str, split: str = "train", image_folder: Path | str | None = None) -> CocoObjects:
    """The objects of `root/annotations.json` with `root/images/`, or as published:
    `root/annotations/instances_train2017.json` with `root/train2017/` or `root/images/train2017/`.

    `root` may be the JSON file itself. Crowds and boxes without area are left out. `image_folder` overrides where the
    images are. Raises ValueError if files are not where they should be or do not hold what they should.
    """
    path = _annotation_file(Path(root), split)
    folder = _image_folder(path) if image_folder is None else Path(image_folder)
    try:
        listed = json.loads(path.read_bytes())
        images = {image["id"]: place for place, image in enumerate(listed["images"])}
        names = tuple(image["file_name"] for image in listed["images"])
        sizes = np.array([(image["width"], image["height"]) for image in listed["images"]], np.int32)
        annotations = listed["annotations"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not a COCO instances file, a JSON object with images and annotations"
        ) from error
    return _collect(path, folder, images, names, sizes.reshape(-1, 2), annotations)


def looks_like_coco(root: Path) -> bool:
    return any((root / file).is_file() for file in (*TRAIN_FILES, *VAL_FILES))


@dataclass(frozen=True)
class StillImage:
    """One picture as the frames of a sequence of one."""

    path: Path
    size: tuple[int, int]
    """width, height in px, as annotated"""

    def __len__(self) -> int:
        return 1

    def read(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """RGB. Raises ValueError, naming the file, if it cannot be read or is not of the annotated size."""
        image = read_rgb(self._only(index))
        if image.shape[1::-1] != self.size:
            raise ValueError(
                f"{self.path} is {image.shape[1]} x {image.shape[0]} px, annotated for {self.size[0]} x {self.size[1]}"
            )
        return image

    def place(self, index: int) -> str:
        return str(self._only(index))

    def _only(self, index: int) -> Path:
        return (self.path,)[index]


@dataclass(frozen=True, eq=False)
class StillMask:
    """The pixels of one object in a still image."""

    image: StillImage
    box: Float[np.ndarray, " 4"]
    """xyxy of the object; the mask ends there"""
    segmentation: tuple[Float[np.ndarray, "_ 2"], ...] | Int[np.ndarray, " runs"] | str
    """outlines as x, y, or run lengths down the columns, plain or compressed"""

    def read(self, index: int) -> Bool[np.ndarray, "h w"]:
        """Raises ValueError, naming the image, if run lengths do not fit its size."""
        place = self.image.place(index)
        if isinstance(self.segmentation, tuple):
            return fill_polygons(self.segmentation, self.image.size, self.box)
        try:
            if isinstance(self.segmentation, str):
                return RunLengths.from_text(self.segmentation, self.image.size).decode()
            return RunLengths(self.segmentation, self.image.size, by_columns=True).decode()
        except ValueError as error:
            raise ValueError(f"the mask of the object at {self.box.tolist()} in {place}: {error}") from error


@dataclass(frozen=True, eq=False)
class CocoObjects(collections.abc.Sequence[Sequence]):
    """All objects of a COCO file in a few arrays: there may be a million of them."""

    image_folder: Path
    image_names: tuple[str, ...]
    image_sizes: Int[np.ndarray, "images 2"]
    """width, height in px"""
    image_of: Int[np.ndarray, " objects"]
    """place in `image_names`"""
    ids: Int[np.ndarray, " objects"]
    boxes_frame: Float[np.ndarray, "objects 4"]
    """xyxy, px"""
    points: Float[np.ndarray, "points 2"]
    """x, y of all outlines, one after another"""
    outline_starts: Int[np.ndarray, " outlines_and_1"]
    """where each begins in `points`, and their end"""
    first_outlines: Int[np.ndarray, " objects_and_1"]
    """the first outline of each object, and their end"""
    run_lengths: dict[int, Int[np.ndarray, " runs"] | str]
    """of the objects that have them instead"""
    order: Int[np.ndarray, " chosen"]
    """the objects in this sequence"""

    def __len__(self) -> int:
        return len(self.order)

    @overload
    def __getitem__(self, index: int) -> Sequence: ...
    @overload
    def __getitem__(self, index: slice) -> CocoObjects: ...
    def __getitem__(self, index: int | slice) -> Sequence | CocoObjects:
        if isinstance(index, slice):
            return replace(self, order=self.order[index])
        number = int(self.order[index])
        name = self.image_names[self.image_of[number]]
        width, height = self.image_sizes[self.image_of[number]].tolist()
        image = StillImage(self.image_folder / name, (width, height))
        box = self.boxes_frame[number].copy()
        segmentation = self.run_lengths.get(number, self._outlines(number))
        return Sequence(
            name=f"{Path(name).stem}.{self.ids[number]}",
            frames=image,
            boxes_frame=box[None],
            absent=np.array([False]),
            masks=StillMask(image, box, segmentation) if len(segmentation) else None,
        )

    def _outlines(self, number: int) -> tuple[Float[np.ndarray, "_ 2"], ...]:
        outlines = range(self.first_outlines[number], self.first_outlines[number + 1])
        ends = self.outline_starts
        return tuple(self.points[ends[outline] : ends[outline + 1]].copy() for outline in outlines)


def _collect(
    path: Path,
    folder: Path,
    images: dict[Any, int],
    names: tuple[str, ...],
    sizes: Int[np.ndarray, "images 2"],
    annotations: list[dict[str, Any]],
) -> CocoObjects:
    ids, image_of, boxes = array("q"), array("q"), array("d")
    points, outline_starts, first_outlines = array("f"), array("q", [0]), array("q", [0])
    run_lengths: dict[int, Int[np.ndarray, " runs"] | str] = {}
    for annotation in annotations:
        try:
            x, y, width, height = annotation["bbox"]
            if annotation.get("iscrowd") or not (width > 0 and height > 0):
                continue
            image = images[annotation["image_id"]]
            segmentation = annotation.get("segmentation") or ()
            if isinstance(segmentation, dict):
                counts = segmentation["counts"]
                run_lengths[len(ids)] = counts if isinstance(counts, str) else np.array(counts, np.int64)
            else:
                for outline in segmentation:
                    points.extend(np.array(outline, np.float32).reshape(-1, 2).ravel().tolist())
                    outline_starts.append(len(points) // 2)
            ids.append(annotation["id"])
        except (KeyError, TypeError, ValueError) as error:
            known = annotation.get("id", "without id") if isinstance(annotation, dict) else annotation
            raise ValueError(f"annotation {known} in {path} cannot be read: {error!r}") from error
        image_of.append(image)
        boxes.extend((x, y, x + width, y + height))
        first_outlines.append(len(outline_starts) - 1)
    return CocoObjects(
        image_folder=folder,
        image_names=names,
        image_sizes=sizes,
        image_of=np.array(image_of, np.int32),
        ids=np.array(ids, np.int64),
        boxes_frame=np.array(boxes, np.float64).reshape(-1, 4),
        points=np.array(points, np.float32).reshape(-1, 2),
        outline_starts=np.array(outline_starts, np.int64),
        first_outlines=np.array(first_outlines, np.int64),
        run_lengths=run_lengths,
        order=np.arange(len(ids)),
    )


def _annotation_file(root: Path, split: str) -> Path:
    if split not in ("train", "val"):
        raise ValueError(f"split must be 'train' or 'val', got {split!r}")
    if root.is_file():
        return root
    files = TRAIN_FILES if split == "train" else VAL_FILES
    for file in files:
        if (root / file).is_file():
            return root / file
    raise ValueError(
        f"no COCO annotations at {root}: expected {' or '.join(str(root / file) for file in files)}"
    )


def _image_folder(path: Path) -> Path:
    part = path.stem.removeprefix("instances_")
    candidates = [path.parent / "images", path.parent.parent / part, path.parent.parent / "images" / part]
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise ValueError(f"no images for {path}: expected one of {', '.join(map(str, candidates))}")
