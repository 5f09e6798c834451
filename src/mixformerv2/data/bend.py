"""Targets that are not stiff: pictures warped smoothly, and what is known of them alike, so that boxes stay exact."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mixformerv2.data.bank import send
from mixformerv2.data.views import BEND_NODES


def bend(
    images: Float[Tensor, "n planes side side"],
    deviation_unit: Float[np.ndarray, " n"],
    rng: np.random.Generator,
) -> Float[Tensor, "n planes side side"]:
    """Each image with its points shifted by `deviation_unit` on either axis, fractions of its side; 0 leaves it alone.

    Beyond an edge the last row or column goes on.
    """
    rows = np.flatnonzero(deviation_unit)
    if not len(rows):
        return images
    shifts = rng.normal(0, deviation_unit[rows], (2, BEND_NODES, BEND_NODES, len(rows))).transpose(3, 0, 1, 2)
    at, nodes = send(rows, images.device), send(shifts, images.device, torch.float32)
    field = F.interpolate(nodes, images.shape[-2:], mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
    still = torch.eye(2, 3, device=images.device).expand(len(rows), 2, 3)
    grid = F.affine_grid(still, [len(rows), *images.shape[1:]], align_corners=False)
    bent = F.grid_sample(images[at], grid + 2 * field, padding_mode="border", align_corners=False)
    images = images.clone()
    images[at] = bent
    return images
