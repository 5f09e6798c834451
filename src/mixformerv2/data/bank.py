"""Decoded images in the memory of one device, and windows cut from them in batches by any affine map."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from mixformerv2.data.coco import StillObject
from mixformerv2.data.sequence import Sequence


class Layer(NamedTuple):
    """Images seen through windows."""

    rgb: Float[Tensor, "b 3 side side"]  # 0..255
    mask: Float[Tensor, "b 1 side side"]  # 1 on the object
    covered: Float[Tensor, "b 1 side side"]  # 1 where there is image at all


class Picked(NamedTuple):
    """A batch of a bank's images."""

    rgbm: Float[Tensor, "b 4 height width"]
    sizes: Float[Tensor, "b 2"]  # width, height
    boxes_frame: Float[Tensor, "b 4"]  # xyxy px of the one object

    def target_side(self) -> Float[Tensor, "b"]:
        """Square root of the object's area, px."""
        return (self.boxes_frame[:, 2:] - self.boxes_frame[:, :2]).prod(dim=1).sqrt()

    def view(self, to_image: Float[Tensor, "b 2 3"], side_px: int) -> Layer:
        """Square windows of the images. ``to_image`` maps window pixels to image pixels."""
        line = torch.arange(side_px, device=self.rgbm.device) + 0.5
        by_x, by_y, shift = to_image[:, None, None].unbind(-1)
        at = by_x * line[:, None] + by_y * line[:, None, None] + shift  # (b, y, x, 2)
        height, width = self.rgbm.shape[-2:]
        grid = at / at.new_tensor([width, height]) * 2 - 1
        seen = F.grid_sample(self.rgbm, grid, mode="bilinear", align_corners=False)
        covered = ((at > 0) & (at < self.sizes[:, None, None])).all(dim=-1)[:, None].float()
        return Layer(seen[:, :3], seen[:, 3:], covered)


class ImageBank:
    """Images with one object each, padded to the largest, as one uint8 tensor of red, green, blue and object mask."""

    def __init__(
        self,
        rgbm: UInt8[Tensor, "n 4 height width"],
        sizes: Float[Tensor, "n 2"],
        boxes_frame: Float[Tensor, "n 4"],
    ) -> None:
        self.rgbm = rgbm
        self.sizes = sizes  # width, height
        self.boxes_frame = boxes_frame

    def __len__(self) -> int:
        return len(self.rgbm)

    @property
    def device(self) -> torch.device:
        return self.rgbm.device

    @classmethod
    def of_stills(cls, objects: Iterable[StillObject], device: torch.device | str = "cpu") -> ImageBank:
        """Segmented objects; the mask is the object's own."""
        return cls._pack([(o.frame(), o.mask(), o.box_frame) for o in objects], device)

    @classmethod
    def of_sequence(cls, sequence: Sequence, device: torch.device | str = "cpu") -> ImageBank:
        """All frames of a video; the mask is the filled box. Where the target is absent it is empty, the box nan."""
        entries = []
        for index, box_frame in enumerate(sequence.boxes_frame):
            frame = sequence.frame(index)
            mask = np.zeros(frame.shape[:2], bool)
            if sequence.absent[index]:
                box_frame = np.full(4, np.nan)
            else:
                x1, y1, x2, y2 = np.round(box_frame).astype(int)
                mask[max(y1, 0) : y2, max(x1, 0) : x2] = True
            entries.append((frame, mask, box_frame))
        return cls._pack(entries, device)

    @classmethod
    def _pack(
        cls, entries: list[tuple[np.ndarray, np.ndarray, np.ndarray]], device: torch.device | str
    ) -> ImageBank:
        height = max(frame.shape[0] for frame, _, _ in entries)
        width = max(frame.shape[1] for frame, _, _ in entries)
        rgbm = torch.zeros(len(entries), 4, height, width, dtype=torch.uint8)
        for row, (frame, mask, _) in zip(rgbm, entries, strict=True):
            h, w = mask.shape
            row[:3, :h, :w] = torch.from_numpy(frame).permute(2, 0, 1)
            row[3, :h, :w] = torch.from_numpy(mask.astype(np.uint8))
        sizes = torch.tensor([frame.shape[1::-1] for frame, _, _ in entries], dtype=torch.float32)
        boxes = torch.from_numpy(np.stack([box for _, _, box in entries])).float()
        return cls(rgbm.to(device), sizes.to(device), boxes.to(device))

    def pick(self, index: Int[Tensor, "b"]) -> Picked:
        """The indexed images, ready to be looked at."""
        return Picked(self.rgbm[index].float(), self.sizes[index], self.boxes_frame[index])
