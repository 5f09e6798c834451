"""Segmented objects in still images, from annotations in the COCO instances format."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from mixformerv2.data.sequence import read_rgb


@dataclass(frozen=True, eq=False)
class StillObject:
    """One object in one image."""

    image_path: Path
    image_size: tuple[int, int]
    """width, height in px"""
    box_frame: Float[np.ndarray, " 4"]
    """xyxy, continuous edges, image px, float64"""
    polygons: tuple[Float32[np.ndarray, "_ 2"], ...]
    """outlines as x, y in image px; the object is their union; empty if it is not segmented"""
    source: str
    """the image's `source` entry, where it came from; empty if it has none"""
    category: str
    """name of the category; empty if the file names none"""

    def frame(self) -> UInt8[np.ndarray, "h w 3"]:
        """RGB. Raises ValueError, naming the file, if it cannot be read or is not of the annotated size."""
        image = read_rgb(self.image_path)
        if image.shape[1::-1] != self.image_size:
            raise ValueError(
                f"{self.image_path} is {image.shape[1]} x {image.shape[0]} px, annotated for "
                f"{self.image_size[0]} x {self.image_size[1]}"
            )
        return image

    def mask(self) -> Bool[np.ndarray, "h w"]:
        """The pixels inside or on an outline, as far as the box reaches. Raises ValueError without polygons."""
        if not self.polygons:
            raise ValueError(f"the object at {self.box_frame.tolist()} in {self.image_path} has no polygons")
        width, height = self.image_size
        filled = np.zeros((height, width), np.uint8)
        # One by one: in a single call, parts that overlap would cancel out.
        for polygon in self.polygons:
            cv2.fillPoly(filled, [np.round(polygon * 16).astype(np.int32)], 1, shift=4)
        # fillPoly includes the outline, which at the right and bottom is one pixel past a continuous edge.
        x1, y1 = np.maximum(np.floor(self.box_frame[:2]), 0).astype(int)
        x2, y2 = np.ceil(self.box_frame[2:]).astype(int)
        inside = np.zeros((height, width), bool)
        inside[y1:y2, x1:x2] = filled[y1:y2, x1:x2]
        return inside


def read_coco_instances(
    root_or_json: Path | str, image_folder: Path | str | None = None
) -> list[StillObject]:
    """The objects of `root/annotations.json` with `root/images/`, or of a COCO file such as
    `coco/annotations/instances_train2017.json` with `coco/train2017/` or `coco/images/train2017/`.

    Crowds and boxes without area are left out. `image_folder` overrides where the images are.
    Raises ValueError if files are not where they should be, or for masks as run lengths (RLE).
    """
    root = Path(root_or_json)
    path = root / "annotations.json" if root.is_dir() else root
    if not path.is_file():
        raise ValueError(f"no COCO annotations at {root}: expected the file {path}")
    folder = _image_folder(path) if image_folder is None else Path(image_folder)
    try:
        listed = json.loads(path.read_bytes())
        images, annotations = listed["images"], listed["annotations"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not a COCO instances file, a JSON object with images and annotations"
        ) from error
    images = {image["id"]: image for image in images}
    categories = {category["id"]: category["name"] for category in listed.get("categories", [])}
    return [
        StillObject(
            image_path=folder / image["file_name"],
            image_size=(image["width"], image["height"]),
            box_frame=np.array([x, y, x + width, y + height], np.float64),
            polygons=_polygons(annotation, path),
            source=image.get("source", ""),
            category=categories.get(annotation["category_id"], ""),
        )
        for annotation in annotations
        for image in [images[annotation["image_id"]]]
        for x, y, width, height in [annotation["bbox"]]
        if not annotation.get("iscrowd") and width > 0 and height > 0
    ]


def _image_folder(path: Path) -> Path:
    split = path.stem.removeprefix("instances_")
    candidates = [path.parent / "images", path.parent.parent / split, path.parent.parent / "images" / split]
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise ValueError(f"no images for {path}: expected one of {', '.join(map(str, candidates))}")


def _polygons(annotation: dict[str, Any], path: Path) -> tuple[Float32[np.ndarray, "_ 2"], ...]:
    segmentation = annotation.get("segmentation", [])
    if "counts" in segmentation:
        raise ValueError(
            f"RLE masks are not supported yet, only polygons: annotation {annotation['id']} in {path}"
        )
    return tuple(np.array(polygon, np.float32).reshape(-1, 2) for polygon in segmentation)
