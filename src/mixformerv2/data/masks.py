"""Polygons, run lengths and palette images as masks of pixels, and the boxes around them."""

from __future__ import annotations

import struct
from collections.abc import Sequence as ReadOnlySequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

FRACTION_BITS = 4
"""of the coordinates that OpenCV fills polygons by: sixteenths of a pixel"""


def fill_polygons(
    polygons: ReadOnlySequence[Float[np.ndarray, "_ 2"]],
    size: tuple[int, int],
    box: Float[np.ndarray, " 4"],
) -> Bool[np.ndarray, "h w"]:
    """The pixels of an image of `size` (width, height) inside or on an outline, as far as the xyxy `box` reaches.

    The points of an outline are taken for centres of pixels, which lie on it, as if they were indices: outlines whose
    edges are continuous come out half a pixel wider to the right and below. Overlapping ones unite. A pixel that the
    box cuts counts.
    """
    width, height = size
    filled = np.zeros((height, width), np.uint8)
    # One by one: in a single call, parts that overlap would cancel out.
    for polygon in polygons:
        corners = np.round(polygon * 2**FRACTION_BITS).astype(np.int32)
        cv2.fillPoly(filled, [corners], 1, shift=FRACTION_BITS)
    # fillPoly includes the outline, which at the right and bottom is one pixel past a continuous edge.
    x1, y1 = np.maximum(np.floor(box[:2]), 0).astype(int)
    x2, y2 = np.maximum(np.ceil(box[2:]), 0).astype(int)
    inside = np.zeros((height, width), bool)
    inside[y1:y2, x1:x2] = filled[y1:y2, x1:x2]
    return inside


def box_around(mask: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, " 4"]:
    """The smallest xyxy box with continuous edges around the pixels, float64; nan if there are none."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not len(columns):
        return np.full(4, np.nan)
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float64)


@dataclass(frozen=True, eq=False)
class RunLengths:
    """A mask as the lengths of its runs of equal pixels, outside and inside in turn, outside first."""

    counts: Int[np.ndarray, " runs"]
    size: tuple[int, int]
    """width, height in px"""
    by_columns: bool
    """whether the runs go down the columns, as in COCO, or along the rows, as in VOT"""

    def __post_init__(self) -> None:
        if (self.counts < 0).any() or self.counts.sum() != self.size[0] * self.size[1]:
            raise ValueError(
                f"run lengths must be positive and cover all {self.size[0]} x {self.size[1]} pixels, "
                f"got {len(self.counts)} that cover {self.counts.sum()}"
            )

    @classmethod
    def from_text(cls, text: str, size: tuple[int, int]) -> RunLengths:
        """COCO's compressed form. Raises ValueError if it does not describe a mask of this size."""
        return cls(np.array(_counts(text), np.int64), size, by_columns=True)

    def decode(self) -> Bool[np.ndarray, "h w"]:
        width, height = self.size
        pixels = np.repeat(np.arange(len(self.counts)) % 2 == 1, self.counts)
        return pixels.reshape(width, height).T if self.by_columns else pixels.reshape(height, width)


def _counts(text: str) -> list[int]:
    """The run lengths in COCO's compressed form.

    Characters from "0" on carry six bits: five of the number, lowest first, and the sixth if more follow. The highest
    bit of the last one is the sign, for from the fourth number on it is the difference to the last but one.
    """
    counts: list[int] = []
    number = shift = 0
    for character in text:
        bits = ord(character) - ord("0")
        if not 0 <= bits < 64:
            raise ValueError(f"{character!r} does not occur in compressed run lengths")
        number |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            number -= 1 << shift
        counts.append(number + (counts[-2] if len(counts) > 2 else 0))
        number = shift = 0
    if shift:
        raise ValueError("compressed run lengths end within a number")
    return counts


@dataclass(frozen=True)
class PaletteMasks:
    """Pictures whose colour numbers say which object a pixel belongs to, one a frame."""

    paths: ReadOnlySequence[Path]
    target: int | None
    """its number; None: all that is not background"""

    def read(self, index: int) -> Bool[np.ndarray, "h w"]:
        """Raises ValueError, naming the file, if it cannot be read."""
        image, palette = _read_png(self.paths[index])
        if palette is None:
            return np.asarray(image != 0 if self.target is None else image == self.target)
        number = self.target or 0
        if number >= len(palette):
            return np.zeros(image.shape[:2], bool)
        colour = palette[number, ::-1].tolist()
        same = cv2.inRange(image[..., :3], np.array(colour, np.uint8), np.array(colour, np.uint8)) != 0
        return np.asarray(same if number else ~same)


def read_numbers(path: Path) -> frozenset[int]:
    """The numbers that occur in a mask. Raises ValueError, naming the file, if it cannot be read."""
    image, palette = _read_png(path)
    if palette is None:
        return frozenset(np.unique(image).tolist())
    colours = {
        tuple(colour): number for number, colour in reversed(list(enumerate(palette[:, ::-1].tolist())))
    }
    found = np.unique(image[..., :3].reshape(-1, 3), axis=0)
    return frozenset(colours[tuple(colour)] for colour in found.tolist())


def _read_png(path: Path) -> tuple[Shaped[np.ndarray, "h w *channels"], Int[np.ndarray, "colours 3"] | None]:
    """The pixels, and the palette if OpenCV has put in its colours; else the pixels are grey, and their numbers."""
    if not path.is_file():
        raise ValueError(f"the mask {path} is missing")
    content = path.read_bytes()
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED) if content else None
    if image is None:
        raise ValueError(f"the mask {path} cannot be read as an image")
    palette = None if image.ndim == 2 else _palette(content)
    if image.ndim > 2 and palette is None:
        raise ValueError(f"the mask {path} must be grey or have a palette, got colours")
    return image, palette


def _palette(png: bytes) -> Int[np.ndarray, "colours 3"] | None:
    """Red, green and blue of a PNG's palette, the chunk PLTE; None if its pixels are not numbers of a palette."""
    if png[25] != 3:  # type of colour, in the header
        return None
    place = 8
    while place + 8 <= len(png):
        length, kind = struct.unpack(">I4s", png[place : place + 8])
        if kind == b"PLTE":
            chunk = np.frombuffer(png[place + 8 : place + 8 + length], np.uint8)
            return chunk.reshape(-1, 3).astype(np.int64)
        place += length + 12
    return None
