"""Pictures of any size in the memory of one device, and square windows of them by any affine map.

A pixel is red, green, blue and object mask, a byte each, packed into one int32.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int32, Int64, UInt8
from torch import Tensor

from mixformerv2.data.sequence import Sequence

_SLAB_BYTES = 64 << 20
_MAX_SAMPLES = 4  # a side of the square of samples that makes a pixel of a coarse window
_SAMPLES_AT_ONCE = 1 << 24  # of all windows that are gathered together; about two gigabytes


def read_rgbm(sequence: Sequence, index: int) -> UInt8[np.ndarray, "h w 4"]:
    """One frame with its target's mask, 255 inside: the annotated one, else the filled box; empty where absent.

    Raises ValueError, naming the file, if the frame or its mask cannot be read or they differ in size.
    """
    frame = sequence.frame(index)
    rgbm = cv2.cvtColor(frame, cv2.COLOR_RGB2RGBA)
    rgbm[..., 3] = 0
    if sequence.absent[index]:
        return rgbm
    if sequence.masks is None:
        x1, y1, x2, y2 = sequence.boxes_frame[index]
        across, down = _covered(x1, x2, frame.shape[1]), _covered(y1, y2, frame.shape[0])
        rgbm[down.slice, across.slice, 3] = np.round(255 * down.share[:, None] * across.share)
        return rgbm
    mask = sequence.masks.read(index)
    if mask.shape != frame.shape[:2]:
        raise ValueError(
            f"{sequence.frames.place(index)} is {frame.shape[1]} x {frame.shape[0]} px, its mask "
            f"{mask.shape[1]} x {mask.shape[0]}"
        )
    np.multiply(mask, 255, out=rgbm[..., 3], casting="unsafe")
    return rgbm


@dataclass(frozen=True)
class _Pixels:
    """The pixels that a stretch covers in part or whole: a box may begin within one."""

    slice: slice
    share: Float[np.ndarray, " n"]


def _covered(first: float, last: float, length: int) -> _Pixels:
    low = min(max(math.floor(first), 0), length)
    high = min(max(math.ceil(last), low), length)
    edges = np.arange(low, high + 1)
    share = np.minimum(edges[1:], last) - np.maximum(edges[:-1], first)
    return _Pixels(slice(low, high), share)


def look(
    rgbm: UInt8[np.ndarray, "h w 4"], to_image: Float[np.ndarray, "2 3"], side_px: int
) -> UInt8[np.ndarray, "side side 4"]:
    """A window of the picture; `to_image` maps the unit window to picture px.

    The mean of the four nearest pixels by their closeness; of more where a pixel of the window is as wide as two of
    the picture. Outside, the picture's last pixels go on.
    """
    coarse = int(_step(to_image, side_px) + 1e-6)
    if coarse >= 2:
        # Plain sampling would leave out pixels in between, and thin edges flicker.
        low, high = _bounds(to_image, rgbm.shape[1], rgbm.shape[0], 2 * coarse)
        region = rgbm[low[1] : high[1], low[0] : high[0]]
        size = np.maximum((high - low) // coarse, 1)
        per_px = (high - low) / size
        to_image = (to_image - [[0, 0, low[0]], [0, 0, low[1]]]) / per_px[:, None]
        rgbm = cv2.resize(region, (int(size[0]), int(size[1])), interpolation=cv2.INTER_AREA)
    return cv2.warpAffine(
        rgbm,
        _between_pixel_centres(to_image, side_px),
        (side_px, side_px),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )


def _step(to_image: Float[np.ndarray, "*n 2 3"], side_px: int) -> Float[np.ndarray, "*n"]:
    """Picture px per window px."""
    return np.asarray(np.sqrt(np.abs(np.linalg.det(to_image[..., :2]))) / side_px)


def _bounds(
    to_image: Float[np.ndarray, "2 3"], width: int, height: int, margin: int
) -> tuple[Int64[np.ndarray, " 2"], Int64[np.ndarray, " 2"]]:
    """Left, top and right, bottom of what the window shows of the picture; at least one pixel of it."""
    corners = to_image @ np.array([[0.0, 1, 0, 1], [0, 0, 1, 1], [1, 1, 1, 1]])
    size = np.array([width, height])
    low = np.clip(np.floor(corners.min(axis=1)) - margin, 0, size - 1).astype(np.int64)
    high = np.clip(np.ceil(corners.max(axis=1)) + margin, low + 1, size).astype(np.int64)
    return low, high


def _between_pixel_centres(
    to_image: Float[np.ndarray, "*n 2 3"], side_px: int
) -> Float[np.ndarray, "*n 2 3"]:
    """From the window's whole pixel numbers to the picture's, for maps from the unit window to edges."""
    turn = to_image[..., :2] / side_px
    return np.concatenate([turn, to_image[..., 2:] + turn.sum(-1, keepdims=True) / 2 - 0.5], axis=-1)


def _pack_into_slabs(
    pictures: Iterable[UInt8[np.ndarray, "_ _ 4"]],
) -> tuple[list[Int32[np.ndarray, " _"]], Int64[np.ndarray, "n 2"]]:
    """The pixels of all pictures in a row, in arrays of at least so many bytes, and width and height of each.

    Of arrays as large as these the memory goes back to the system at once; of single pictures it would not.
    """
    slabs, sizes = [], []
    waiting: list[np.ndarray] = []
    waiting_bytes = 0
    for picture in pictures:
        sizes.append(picture.shape[1::-1])
        waiting.append(np.ascontiguousarray(picture).reshape(-1).view(np.int32))
        waiting_bytes += picture.nbytes
        if waiting_bytes >= _SLAB_BYTES:
            slabs.append(np.concatenate(waiting))
            waiting, waiting_bytes = [], 0
    slabs.append(np.concatenate([np.empty(0, np.int32), *waiting]))
    return slabs, np.array(sizes, np.int64).reshape(-1, 2)


@dataclass(frozen=True, eq=False)
class ImageBank:
    """Pictures, one after the other. Where they lie is known without waiting for the device."""

    pixels: Int32[Tensor, " total"]
    starts: Int64[np.ndarray, " n"]
    sizes: Int64[np.ndarray, "n 2"]
    """width, height"""

    @classmethod
    def pack(
        cls, pictures: Iterable[UInt8[np.ndarray, "_ _ 4"]], device: torch.device | str = "cpu"
    ) -> ImageBank:
        """Pictures are taken one by one and not kept."""
        slabs, sizes = _pack_into_slabs(pictures)
        ends = np.cumsum(sizes.prod(axis=1))
        pixels = torch.empty(int(ends[-1]) if len(ends) else 0, dtype=torch.int32, device=device)
        end = len(pixels)
        while slabs:
            slab = slabs.pop()
            pixels[end - len(slab) : end] = torch.from_numpy(slab)
            end -= len(slab)
        return cls(pixels, ends - sizes.prod(axis=1), sizes)

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def device(self) -> torch.device:
        return self.pixels.device

    def view(
        self, index: Int64[np.ndarray, " b"], to_image: Float[np.ndarray, "b 2 3"], side_px: int
    ) -> UInt8[Tensor, "b side side 4"]:
        """Windows as from `look`; `to_image` maps the unit window to px of the picture."""
        if self.device.type == "cpu":
            # Three times as fast as grid_sample there, which is three times as fast as gathering.
            return self._look(index, to_image, side_px)
        return self._gather(index, to_image, side_px)

    def _look(
        self, index: Int64[np.ndarray, " b"], to_image: Float[np.ndarray, "b 2 3"], side_px: int
    ) -> UInt8[Tensor, "b side side 4"]:
        rgbm = self.pixels.numpy().view(np.uint8)
        windows = np.empty((len(index), side_px, side_px, 4), np.uint8)
        for window, row, affine in zip(windows, index, to_image, strict=True):
            width, height = self.sizes[row]
            start = 4 * self.starts[row]
            window[:] = look(
                rgbm[start : start + 4 * width * height].reshape(height, width, 4), affine, side_px
            )
        return torch.from_numpy(windows)

    def _gather(
        self, index: Int64[np.ndarray, " b"], to_image: Float[np.ndarray, "b 2 3"], side_px: int
    ) -> UInt8[Tensor, "b side side 4"]:
        """Coarse windows are sampled more finely and averaged, as many times at once as they need."""
        samples = np.clip(_step(to_image, side_px) + 1e-6, 1, _MAX_SAMPLES).astype(int)
        windows = torch.empty(len(index), side_px, side_px, 4, dtype=torch.uint8, device=self.device)
        for times in np.unique(samples):
            fine_px, alike = side_px * int(times), np.flatnonzero(samples == times)
            at_once = max(_SAMPLES_AT_ONCE // fine_px**2, 1)
            for first in range(0, len(alike), at_once):
                chosen = alike[first : first + at_once]
                fine = self._sample(index[chosen], to_image[chosen], fine_px)
                mean = F.avg_pool2d(fine, int(times)) if times > 1 else fine
                rounded = mean.round_().to(torch.uint8).permute(0, 2, 3, 1)
                windows[send(chosen, self.device)] = rounded
        return windows

    def _sample(
        self, index: Int64[np.ndarray, " b"], to_image: Float[np.ndarray, "b 2 3"], side_px: int
    ) -> Float[Tensor, "b 4 side side"]:
        """Bilinear, from the four neighbours' numbers in `pixels`."""
        affine = send(_between_pixel_centres(to_image, side_px), self.device, torch.float32)[..., None, None]
        last = send(self.sizes[index] - 1, self.device, torch.float32)[..., None, None]
        width, start = send(np.stack([self.sizes[index, 0], self.starts[index]]), self.device, torch.int64)
        line = torch.arange(side_px, device=self.device)
        at = (
            affine[:, :, 0] * line + affine[:, :, 1] * line[:, None] + affine[:, :, 2]
        )  # (b, xy, rows, columns)
        at = at.clamp_(min=0).minimum(last)
        first = at.floor()
        share_x, share_y = (at - first).split(1, dim=1)
        right, below = (first < last).long().unbind(1)
        below = below * width[:, None, None]
        x, y = first.long().unbind(1)
        corner = start[:, None, None] + y * width[:, None, None] + x
        upper = torch.lerp(self._channels(corner), self._channels(corner + right), share_x)
        corner += below
        lower = torch.lerp(self._channels(corner), self._channels(corner + right), share_x)
        return torch.lerp(upper, lower, share_y)

    def _channels(self, at: Int64[Tensor, "b rows columns"]) -> Float[Tensor, "b 4 rows columns"]:
        shifts = torch.arange(0, 32, 8, dtype=self.pixels.dtype, device=self.device).view(4, 1, 1)
        return (self.pixels[at][:, None] >> shifts & 255).float()


def send(values: np.ndarray, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """The numbers on a device, which is not waited for: other work may still be under way there."""
    tensor = torch.from_numpy(np.asarray(values)).to(dtype=dtype)
    if device.type == "cuda":
        tensor = tensor.pin_memory()  # else the copy may wait for what is under way
    return tensor.to(device, non_blocking=True)


def inside_box(
    to_frame: Float[Tensor, "b 2 3"], boxes_frame: Float[Tensor, "b 4"], side_px: int
) -> Bool[Tensor, "b side side"]:
    """Which pixels of the windows have their middle within a box on the frame, xyxy."""
    line = (torch.arange(side_px, device=to_frame.device) + 0.5) / side_px
    x, y = (to_frame[:, :, 0, None, None] * line + to_frame[:, :, 1, None, None] * line[:, None]).unbind(1)
    x, y = x + to_frame[:, 0, 2, None, None], y + to_frame[:, 1, 2, None, None]
    x1, y1, x2, y2 = boxes_frame[:, :, None, None].unbind(1)
    return (x > x1) & (x < x2) & (y > y1) & (y < y2)
