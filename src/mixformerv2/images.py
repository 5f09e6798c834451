"""One picture, of a file or of a caller: whatever comes in, RGB uint8 of shape (height, width, 3) comes out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Frame = npt.NDArray[np.uint8]

_one_at_a_time = Lock()
_levels: list[int] = []  # before each of the blocks that are quiet now

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def read_image(path: str | Path) -> Frame:
    """The picture as contiguous RGB uint8: grey repeated, alpha dropped, 16 bit scaled, turned as EXIF says.

    Raises FileNotFoundError, or ValueError if it is not an image that can be read.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"image {path} does not exist")
    encoded = np.fromfile(path, np.uint8)
    image = None
    if encoded.size:
        with quiet_opencv(), suppress(cv2.error):  # which it raises for impossible sizes
            # Without ANYDEPTH OpenCV would clip float images to 0 and 1; alpha and orientation need COLOR.
            image = cv2.imdecode(encoded, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    if image is None:
        raise ValueError(f"{path} is not an image that can be read: it is empty, damaged or of another kind")
    try:
        return as_rgb_uint8(image, channels="bgr")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def check_channels(channels: str) -> None:
    """Raises ValueError for any other order of colours than those known here."""
    if channels not in ("rgb", "bgr"):
        raise ValueError(f'channels must be "rgb" or "bgr", got {channels!r}')


def as_rgb_uint8(frame: Any, channels: str = "rgb", copy: bool = True) -> Frame:
    """A caller's frame as RGB uint8 (height, width, 3); one that is so already comes back itself, not copied.

    Nor is, without `copy`, one in BGR, whose channels are then read backwards: `CropWindow.cut` takes that, OpenCV
    not. `channels` is the order of colours in `frame`, "rgb" or "bgr". Grey is repeated, alpha dropped, uint16
    scaled by 1/257, float in [0, 1] by 255. Raises ValueError for any other dtype, shape or range.
    """
    check_channels(channels)
    if frame is None:
        raise ValueError(
            "frame must be an array of pixels, got None, which OpenCV's read() gives where a video ends or is shut"
        )
    array = np.asarray(frame)
    if array.ndim == 2:
        array = array[:, :, np.newaxis]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or array.size == 0:
        raise ValueError(
            "frame must have shape (height, width, 3), or 1 or 4 channels or none, and not be empty, "
            f"got shape {np.shape(frame)} of {array.dtype}"
        )
    pixels = _eight_bit(array)
    if pixels.shape[2] == 3 and channels == "rgb":
        return pixels
    if pixels.shape[2] == 3 and not copy:
        return pixels[..., ::-1]
    drop_alpha = cv2.COLOR_RGBA2RGB if channels == "rgb" else cv2.COLOR_BGRA2RGB
    conversions = {1: cv2.COLOR_GRAY2RGB, 3: cv2.COLOR_BGR2RGB, 4: drop_alpha}
    return np.asarray(cv2.cvtColor(pixels, conversions[pixels.shape[2]]), np.uint8)


def _eight_bit(array: npt.NDArray[Any]) -> Frame:
    if array.dtype == np.uint8:
        return array
    if np.issubdtype(array.dtype, np.uint16):  # in either byte order
        return (array >> 8).astype(np.uint8)  # exact for 8-bit values times 257
    if array.dtype.kind == "f":
        low, high = float(array.min()), float(array.max())
        if low >= 0 and high <= 1:  # false for NaN too
            return np.rint(array * np.float32(255)).astype(np.uint8)
        raise ValueError(
            f"frame of {array.dtype} must lie in [0, 1], got {low:g} to {high:g}; else convert it to uint8"
        )
    raise ValueError(
        f"frame must be uint8, uint16, or float in [0, 1], got {array.dtype} of shape {array.shape}"
    )


@contextmanager
def quiet_opencv(level: int = cv2.utils.logging.LOG_LEVEL_SILENT) -> Iterator[None]:
    """OpenCV says on stderr what this project says in an error of its own: in the block nothing above the level."""
    # The level is the process's, and blocks in several threads overlap: the first one in notes it for the last one out.
    with _one_at_a_time:
        _levels.append(cv2.utils.logging.getLogLevel())
        cv2.utils.logging.setLogLevel(level)
    try:
        yield
    finally:
        with _one_at_a_time:
            # All but the first have noted a level of such a block.
            cv2.utils.logging.setLogLevel(_levels.pop())
