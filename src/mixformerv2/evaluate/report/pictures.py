"""Frames for a page: a window around the boxes that matter, the boxes drawn, and JPEG that needs no file of its own."""

from __future__ import annotations

import base64
from collections.abc import Sequence as ReadOnlySequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from mixformerv2.data.sequence import has_area
from mixformerv2.geometry import Box, Frame

Picture = UInt8[np.ndarray, "rows columns 3"]  # RGB, of a size of its own
Colour = tuple[int, int, int]

TRUTH: Colour = (240, 228, 66)
PREDICTIONS: tuple[Colour, ...] = (
    *((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167)),
    *((86, 180, 233), (230, 159, 0), (148, 103, 60), (120, 120, 120)),
)
"""Told apart by colour-blind eyes (Okabe and Ito, 2008); from the ninth run on they come again."""
_RIM: Colour = (16, 16, 16)  # keeps a box visible on any background
_MARGIN = 0.5  # of the window beyond the boxes, in units of their common extent
_LEAST = 1 / 3  # of the frame's width and height


class Window(NamedTuple):
    """What a picture shows of its frame, in whole frame px; as wide for its height as the frame."""

    left: int
    top: int
    width: int
    height: int

    @classmethod
    def around(cls, boxes_frame: Float[np.ndarray, "boxes 4"], frame_size: tuple[int, int]) -> Window:
        """Holds all boxes as far as they are on the frame (width, height), a third of it at least.

        Boxes that are not finite, or not on the frame, do not count; without any it is the frame.
        """
        size = np.array(frame_size)
        boxes = boxes_frame[has_area(boxes_frame)]
        boxes = np.clip(boxes, 0, np.tile(size, 2))
        boxes = boxes[has_area(boxes)]
        if not len(boxes):
            return cls(0, 0, *frame_size)
        low, high = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
        share = np.clip(((high - low) * (1 + 2 * _MARGIN) / size).max(), _LEAST, 1)
        width, height = np.ceil(size * share).astype(int)
        left, top = np.clip(np.round((low + high - (width, height)) / 2), 0, size - (width, height)).astype(
            int
        )
        return cls(int(left), int(top), int(width), int(height))


def draw(
    frame: Frame, boxes_frame: Float[np.ndarray, "boxes 4"], colours: ReadOnlySequence[Colour], width_px: int
) -> Picture:
    """The window around the boxes, ``width_px`` wide, with each box in its colour; the first box lies on top.

    A box that is not finite is not drawn. A picture may be larger than its part of the frame.
    """
    window = Window.around(boxes_frame, (frame.shape[1], frame.shape[0]))
    inside = frame[window.top : window.top + window.height, window.left : window.left + window.width]
    canvas = shrink(inside, width_px, enlarge=True)
    scale = np.array(canvas.shape[1::-1]) / (window.width, window.height)
    drawn = [(box, colour) for box, colour in zip(boxes_frame, colours, strict=True) if has_area(box)]
    for box, colour in reversed(drawn):
        _outline(canvas, (box - np.tile((window.left, window.top), 2)) * np.tile(scale, 2), colour)
    return canvas


def shrink(frame: Frame, width_px: int, enlarge: bool = False) -> Picture:
    """A copy ``width_px`` wide in the frame's proportions; a narrower frame stays as it is but with ``enlarge``."""
    height, width = frame.shape[:2]
    if width <= width_px and not enlarge:
        return frame.copy()
    size = width_px, max(round(height * width_px / width), 1)
    smooth = cv2.INTER_AREA if width_px < width else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(np.ascontiguousarray(frame), size, interpolation=smooth), np.uint8)


def jpeg_uri(picture: Picture, quality: int) -> str:
    """The RGB picture as ``data:image/jpeg;base64,...``; quality from 1 to 100."""
    done, encoded = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode("ascii")


def css(colour: Colour) -> str:
    """The colour as a style sheet spells it."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _outline(canvas: Picture, box: Box, colour: Colour) -> None:
    # cv2 wants numbers of 32 bits; what is far outside is not seen anyway.
    x1, y1, x2, y2 = np.clip(np.round(box), -9999, 9999).astype(int).tolist()
    corners = (x1, y1), (max(x2 - 1, x1), max(y2 - 1, y1))
    cv2.rectangle(canvas, *corners, _RIM, 4)
    cv2.rectangle(canvas, *corners, colour, 2)
