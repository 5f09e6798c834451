"""Sequences in memory whose every object has a colour of its own, so that pixels tell what is where."""

from __future__ import annotations

from collections.abc import Sequence as ReadOnlySequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mixformerv2.data.augment import DegradeConfig
from mixformerv2.data.sequence import Sequence

DAYLIGHT = DegradeConfig(
    **dict.fromkeys(("grey_share", "blur_share", "low_resolution_share", "noise_share", "jpeg_share"), 0.0),
    **dict.fromkeys(("saturation", "contrast", "brightness", "tint"), 0.0),
)
"""Colours stay what they are."""
WIDTH, HEIGHT = 48, 40
BOX = (10, 12, 30, 32)  # 20 px a side
BACKGROUND = (0, 120, 0)


@dataclass(frozen=True, eq=False)
class Pictures:
    """Frames."""

    arrays: tuple[np.ndarray, ...]
    place_of: str

    def __len__(self) -> int:
        return len(self.arrays)

    def read(self, index: int) -> np.ndarray:
        return self.arrays[index]

    def place(self, index: int) -> str:
        return f"{self.place_of}/{index}"


@dataclass(frozen=True, eq=False)
class Outlines:
    """Masks."""

    arrays: tuple[np.ndarray, ...]

    def read(self, index: int) -> np.ndarray:
        return self.arrays[index]


def colour(index: int) -> tuple[int, int, int]:
    """Of object `index`: no background and none of the next thirty objects has this red."""
    return (60 + 6 * (index % 32), 10, 200)


def who(pixel: Tensor) -> int:
    """The object that has this colour."""
    index, rest = divmod(int(pixel[0]) - 60, 6)
    assert rest == 0 and tuple(pixel.tolist()) == colour(index), pixel
    return index


def where(crop: Tensor, index: int) -> Tensor:
    """The pixels of object `index`, (side, side) bool."""
    return (crop.int() - torch.tensor(colour(index))).abs().amax(dim=-1) <= 1


def rectangle(box: tuple[int, int, int, int]) -> np.ndarray:
    x1, y1, x2, y2 = box
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y1:y2, x1:x2] = True
    return mask


def picture(index: int, mask: np.ndarray) -> np.ndarray:
    """Object `index` where the mask is."""
    rgb = np.full((*mask.shape, 3), BACKGROUND, np.uint8)
    rgb[mask] = colour(index)
    return rgb


def still(
    index: int,
    box: tuple[int, int, int, int] = BOX,
    mask: np.ndarray | None = None,
    place: str | None = None,
    segmented: bool = True,
) -> Sequence:
    """Object `index` in a picture of its own, a rectangle if no mask is given."""
    mask = rectangle(box) if mask is None else mask
    frames = Pictures((picture(index, mask),), place or f"still {index}")
    return Sequence(
        f"still {index}",
        frames,
        np.array([box], np.float64),
        np.zeros(1, bool),
        masks=Outlines((mask,)) if segmented else None,
    )


def stills(count: int) -> list[Sequence]:
    return [still(index) for index in range(count)]


def video(
    length: int,
    absent: ReadOnlySequence[int] = (),
    box: tuple[int, int, int, int] = BOX,
    first: int = 0,
    name: str = "video",
) -> Sequence:
    """Frame k shows object `first` + k, unless it is one of the absent: then nothing."""
    gone = np.isin(np.arange(length), absent)
    nothing = np.zeros((HEIGHT, WIDTH), bool)
    arrays = tuple(picture(first + k, nothing if gone[k] else rectangle(box)) for k in range(length))
    boxes = np.tile(np.array(box, np.float64), (length, 1))
    boxes[gone] = np.nan
    return Sequence(name, Pictures(arrays, name), boxes, gone)
