"""A frame with its pixels numbered along the sides, to read off a target's box where no window can be opened."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from mixformerv2.files import whole_file
from mixformerv2.images import Frame

_STEPS_PX = (5, 10, 20, 50, 100, 200, 500, 1000)
_MOST_LINES = 20  # along the longer side
_SHOWN_PX = 720  # smaller frames are enlarged, by whole numbers, until their longer side is not below it
_MARGIN_PX = 44
_LINE_SHARE = 0.45  # of white in a line over dark pixels, of black over bright ones
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def with_rulers(frame: Frame) -> Frame:
    """The RGB uint8 `frame`, enlarged if it is small, with a grid and its pixels numbered above and to the left.

    A line stands at the left or upper edge of the pixel that its number names.
    """
    height, width = frame.shape[:2]
    times = -(-_SHOWN_PX // max(height, width))
    step = next((px for px in _STEPS_PX if px * _MOST_LINES >= max(height, width)), _STEPS_PX[-1])
    large = np.repeat(np.repeat(frame, times, axis=0), times, axis=1)
    rows, columns = (np.arange(0, side, step) for side in (height, width))
    lines = np.zeros(large.shape[:2], bool)
    lines[rows * times] = lines[:, columns * times] = True
    large[lines] = _told_apart(large[lines])
    canvas = np.full((large.shape[0] + _MARGIN_PX, large.shape[1] + _MARGIN_PX, 3), 16, np.uint8)
    canvas[_MARGIN_PX:, _MARGIN_PX:] = large
    for px in columns.tolist():
        _number(canvas, px, (_MARGIN_PX + px * times, _MARGIN_PX - 8), centred=True)
    for px in rows.tolist():
        _number(canvas, px, (_MARGIN_PX - 6, _MARGIN_PX + px * times + 5), centred=False)
    return canvas


def write_with_rulers(frame: Frame, path: Path, overwrite: bool = False) -> None:
    """Writes ``with_rulers`` of a frame as .png or .jpg.

    Raises ValueError for another suffix, FileExistsError if the file is there and `overwrite` is false, another
    OSError if it cannot be written.
    """
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise ValueError(f"the picture with rulers must end in .png or .jpg, got {path}")
    with whole_file(path, overwrite) as unfinished:
        _, data = cv2.imencode(path.suffix, cv2.cvtColor(with_rulers(frame), cv2.COLOR_RGB2BGR))
        unfinished.write_bytes(data.tobytes())


def _told_apart(pixels: Frame) -> Frame:
    line = np.where(pixels.mean(axis=-1, keepdims=True) < 128, 255, 0)
    return np.asarray(pixels * (1 - _LINE_SHARE) + line * _LINE_SHARE, np.uint8)


def _number(canvas: Frame, number: int, at: tuple[int, int], centred: bool) -> None:
    """Centred about the point, or ending there."""
    (text_width, _), _ = cv2.getTextSize(str(number), _FONT, 0.4, 1)
    left = at[0] - (text_width // 2 if centred else text_width)
    cv2.putText(canvas, str(number), (left, at[1]), _FONT, 0.4, (245, 245, 245), 1, cv2.LINE_AA)
