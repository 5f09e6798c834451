"""Small datasets in the published layouts, written by hand, and the development data where it is present."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import pytest
from jaxtyping import UInt8

WIDTH, HEIGHT = 32, 24


def development_data() -> Path:
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the development data, ../shared/data, is not here")
    return folder


def write_images(folder: Path, numbers: Iterable[int], digits: int = 8, suffix: str = ".jpg") -> None:
    """Images of 32 x 24 px whose brightness is their number."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        image = np.full((HEIGHT, WIDTH, 3), number % 256, np.uint8)
        cv2.imwrite(str(folder / f"{number:0{digits}d}{suffix}"), image)


def touch_images(folder: Path, numbers: Iterable[int], digits: int = 8) -> None:
    """Empty files, where only their names are looked at."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        (folder / f"{number:0{digits}d}.jpg").touch()


def write_text(path: Path, *lines: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def write_got10k(root: Path, boxes: str, absence: str, cover: str, frames: int, part: str = "train") -> Path:
    folder = root / part / "GOT-10k_Train_000001"
    write_images(folder, range(1, frames + 1))
    (folder / "groundtruth.txt").write_text(boxes)
    (folder / "absence.label").write_text(absence)
    (folder / "cover.label").write_text(cover)
    write_text(root / part / "list.txt", folder.name)
    return folder


def write_lasot(
    folder: Path, *boxes: str, occluded: str = "", outside: str = "", images: str = "img"
) -> None:
    """One sequence with a frame per box; flags as published, in one line, all 0 if not given."""
    none = ",".join("0" * len(boxes))
    touch_images(folder / images, range(1, len(boxes) + 1))
    write_text(folder / "groundtruth.txt", *boxes)
    write_text(folder / "full_occlusion.txt", occluded or none)
    write_text(folder / "out_of_view.txt", outside or none)


def write_coco(root: Path, *annotations: dict[str, object]) -> None:
    """One image and objects in it."""
    write_images(root / "images", [1], digits=4)
    images = [{"id": 7, "file_name": "0001.jpg", "width": WIDTH, "height": HEIGHT}]
    rows = [{"id": number, "image_id": 7, **row} for number, row in enumerate(annotations, 1)]
    (root / "annotations.json").write_text(json.dumps({"images": images, "annotations": rows}))


def write_palette_png(path: Path, numbers: UInt8[np.ndarray, "h w"]) -> None:
    """As DAVIS has them: 8 bits, a palette of black, red, green, yellow, and white as number 255."""
    palette = np.zeros((256, 3), np.uint8)
    palette[:4] = [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]]
    palette[255] = 224
    height, width = numbers.shape
    rows = b"".join(b"\0" + row.tobytes() for row in numbers)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
        (b"PLTE", palette.tobytes()),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
            for kind, body in chunks
        )
    )
