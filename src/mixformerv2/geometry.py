"""The one place for boxes and windows: layouts, spaces, side order, IoU, and the square window that
is cut from a frame and maps predictions back to it.

Inside the package a box is float ``xyxy`` with continuous edges: pixel ``k`` spans ``[k, k + 1)``. Its name ends in its
space: ``_frame`` (pixels of the frame) or ``_unit`` (fraction of the crop). Sides are always l, t, r, b.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from numpy.typing import ArrayLike

Box = Float[np.ndarray, "4"]
Boxes = Float[np.ndarray, "*n 4"]
BoxesLike = ArrayLike | tuple[float, ...]  # checked while running, numpy's own name admits no tuple
Frame = UInt8[np.ndarray, "height width 3"]
Crop = UInt8[np.ndarray, "side side 3"]

# A window over the border that is so many crops wide, or less, is laid out in full: that is faster.
_LAID_OUT = 16


def xywh_to_xyxy(boxes: BoxesLike) -> Boxes:
    """Corners from ``x, y, width, height``; any leading shape."""
    x, y, w, h = np.moveaxis(np.asarray(boxes, dtype=np.float64), -1, 0)
    return np.stack([x, y, x + w, y + h], axis=-1)


def xyxy_to_xywh(boxes: BoxesLike) -> Boxes:
    """``x, y, width, height`` from corners; any leading shape."""
    x1, y1, x2, y2 = np.moveaxis(np.asarray(boxes, dtype=np.float64), -1, 0)
    return np.stack([x1, y1, x2 - x1, y2 - y1], axis=-1)


def iou(a: BoxesLike, b: BoxesLike) -> Float[np.ndarray, "*n"]:
    """Intersection over union of xyxy boxes, pair by pair with broadcasting; 0 where a box is empty or not finite."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    with np.errstate(invalid="ignore"):  # infinite sides give NaN here, and 0 in the end
        overlap = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
        intersection = np.prod(np.clip(overlap, 0, None), axis=-1)
        union = area(a) + area(b) - intersection
    valid = np.isfinite(union) & (union > 0)
    return np.where(valid, intersection / np.where(valid, union, 1.0), 0.0)


def area(boxes: BoxesLike) -> Float[np.ndarray, "*n"]:
    """Area of xyxy boxes; 0 for inverted ones."""
    boxes = np.asarray(boxes, dtype=np.float64)
    return np.asarray(np.prod(np.clip(boxes[..., 2:] - boxes[..., :2], 0, None), axis=-1))


def check_box_xywh(box: Any) -> Box:
    """A person's ``x, y, w, h`` as an xyxy box.

    Raises ValueError with one sentence when it is not four finite numbers with positive width and height.
    """
    try:
        values = np.asarray(list(box))
    except (TypeError, ValueError):  # nothing to iterate over, or ragged
        values = np.empty(0)
    # Letters have a dtype of their own: without this check "1234" would be four numbers.
    are_numbers = values.shape == (4,) and values.dtype.kind in "iuf"
    if not (are_numbers and np.isfinite(values).all() and (values[2:] > 0).all()):
        raise ValueError(
            "a box is x, y, width, height in pixels, four finite numbers with positive width and height; "
            f"got {box!r}"
        )
    return xywh_to_xyxy(values)


def check_on_frame(box: Any, frame_size: tuple[int, int]) -> Box:
    """As ``check_box_xywh``, of a box that overlaps the frame; ``frame_size`` is (width, height).

    Raises ValueError for one wholly outside, too.
    """
    box_frame = check_box_xywh(box)
    width, height = frame_size
    if not area(np.clip(box_frame, 0, np.tile([width, height], 2))) > 0:
        raise ValueError(
            f"the box {as_text(box_frame)} lies outside the frame of {width} x {height} px: it must overlap it"
        )
    return box_frame


def as_text(box_frame: Box) -> str:
    """``x,y,w,h``, as a person writes them."""
    return ",".join(f"{value:g}" for value in xyxy_to_xywh(box_frame))


def rescale(box: Box, factors: Float[np.ndarray, "2"]) -> Box:
    """The box with width and height multiplied by ``factors``, its centre where it was."""
    grown = (box[2:] - box[:2]) * (factors - 1) / 2
    return box + np.concatenate([-grown, grown])


def clip(box_frame: Box, frame_size: tuple[int, int], min_side: float) -> Box:
    """The box kept on the frame, never narrower than ``min_side`` px.

    ``frame_size`` is (width, height). At least ``min_side`` px of the frame stay under the box on each axis.
    """
    size = np.array(frame_size, dtype=np.float64)
    low = np.minimum(np.maximum(box_frame[:2], 0), size - min_side)
    high = np.minimum(np.maximum(box_frame[2:], min_side), size)
    return np.concatenate([low, np.maximum(high, low + min_side)])


def is_clear(box_frame: Box, frame_size: tuple[int, int], share: float) -> bool:
    """Whether the box keeps clear of the frame's border, by this share of its own sides.

    ``frame_size`` is (width, height).
    """
    least = share * (box_frame[2:] - box_frame[:2])
    return bool((box_frame[:2] >= least).all() and (frame_size - box_frame[2:] >= least).all())


def dim_around(crop: Crop, box_unit: Box, brightness: float) -> Crop:
    """The crop with its pixels outside the box darker by this factor; pixels are taken by their middles."""
    line = (np.arange(len(crop)) + 0.5) / len(crop)
    (left, top, right, bottom) = np.searchsorted(line, box_unit)
    dimmed = np.rint(crop * np.float32(brightness)).astype(np.uint8)
    dimmed[top:bottom, left:right] = crop[top:bottom, left:right]
    return dimmed


@dataclass(frozen=True)
class CropWindow:
    """A square of the frame that is resized to a crop, and the way back.

    ``left``, ``top`` and ``side`` are whole frame pixels: what is cut. ``origin`` is the frame point that ``to_frame``
    takes for the crop's corner. It equals (left, top), except in a window with the published mapping, which measures
    from the box centre before rounding and so lies up to half a pixel away. ``rim`` is how many of the frame's last
    rows and columns count as outside: 1 in the released code, whose padding on those sides is one pixel too wide.
    """

    left: int
    top: int
    side: int
    out_px: int
    origin: tuple[float, float]
    rim: int = 0

    @classmethod
    def around(
        cls, box_frame: Box, factor: float, out_px: int, published_mapping: bool = False
    ) -> CropWindow:
        """The window centred on the box, ``factor`` times the square root of its area wide (side rounded up)."""
        x1, y1, x2, y2 = (float(v) for v in box_frame)
        # x2 - x1 is seldom exact: without the allowance a box of 10 x 10 px would give 45 px here and 46 px there.
        side = max(math.ceil(math.sqrt((x2 - x1) * (y2 - y1)) * factor - 1e-9), 1)
        exact = (x1 + 0.5 * (x2 - x1) - 0.5 * side, y1 + 0.5 * (y2 - y1) - 0.5 * side)
        left, top = round(exact[0]), round(exact[1])
        if published_mapping:
            return cls(left, top, side, out_px, exact, rim=1)
        return cls(left, top, side, out_px, (float(left), float(top)))

    def cut(self, frame: Frame, out: Crop | None = None) -> Crop:
        """The crop, (out_px, out_px, 3) uint8; what lies outside the frame is black.

        Written into ``out`` where that is given, so that a loop over frames allocates nothing but, for a window over
        the border, that square.
        """
        if frame.strides[2] < 0:  # BGR that is read backwards: the crop is turned over, not the frame
            crop = self.cut(frame[..., ::-1], out)
            return cv2.cvtColor(crop, cv2.COLOR_BGR2RGB, dst=crop)
        height, width = frame.shape[:2]
        x1, y1 = max(self.left, 0), max(self.top, 0)
        x2, y2 = min(self.left + self.side, width - self.rim), min(self.top + self.side, height - self.rim)
        inside = frame[y1 : max(y2, y1), x1 : max(x2, x1)]
        if inside.shape[:2] != (self.side, self.side):
            if self.side > _LAID_OUT * self.out_px and inside.size:
                return self._sample(inside, self.left - x1, self.top - y1, out)
            canvas = np.zeros((self.side, self.side, 3), np.uint8)
            canvas[y1 - self.top :, x1 - self.left :][: inside.shape[0], : inside.shape[1]] = inside
            inside = canvas
        return cv2.resize(inside, (self.out_px, self.out_px), dst=out, interpolation=cv2.INTER_LINEAR)

    def _sample(self, inside: Frame, left: int, top: int, out: Crop | None) -> Crop:
        """What ``cut`` gives, to the last bit, without a canvas of side x side pixels: two rows and two columns of it
        for each of the crop's, added up in the whole numbers that cv2.resize adds them up in.

        The window begins at ``left``, ``top`` of ``inside``.
        """
        px = self.out_px
        at = ((np.arange(px) + 0.5) * self.side / px - 0.5).astype(np.float32)
        first = np.floor(at).astype(int)
        behind = at - first
        near, far = np.rint(2048 * np.stack([1 - behind, behind])).astype(np.int32)
        taken = np.concatenate([first, first + 1])  # above and below, left and right
        rows, columns = taken + top, taken + left
        seen = inside.take(rows, axis=0, mode="clip").take(columns, axis=1, mode="clip")
        seen[(rows < 0) | (rows >= inside.shape[0])] = 0
        seen[:, (columns < 0) | (columns >= inside.shape[1])] = 0
        lines = seen.reshape(2 * px, 2 * px * 3).astype(np.int32)
        along = lines[:, : 3 * px] * near.repeat(3) + lines[:, 3 * px :] * far.repeat(3) >> 4
        down = (along[:px] * near[:, None] >> 16) + (along[px:] * far[:, None] >> 16)
        crop = (down + 2 >> 2).astype(np.uint8).reshape(px, px, 3)
        if out is None:
            return crop
        out[:] = crop
        return out

    def to_frame(self, box_unit: BoxesLike) -> Boxes:
        """Boxes in [0, 1] of the crop as boxes in frame pixels."""
        return np.asarray(box_unit, dtype=np.float64) * self.side + np.tile(self.origin, 2)

    def to_unit(self, box_frame: BoxesLike) -> Boxes:
        """Boxes in frame pixels as fractions of the crop; the inverse of ``to_frame``."""
        return (np.asarray(box_frame, dtype=np.float64) - np.tile(self.origin, 2)) / self.side
