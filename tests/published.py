"""The deterministic weights and inputs behind the golden numbers, made as tests/golden/README.md says."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mixformerv2.config import Config
from mixformerv2.model import checkpoint
from mixformerv2.model.backbone import MEAN, STD, sincos_positions
from mixformerv2.model.network import Network

GOLDEN = Path(__file__).parent / "golden"


def shapes(model: str) -> dict[str, list[int]]:
    """Names and shapes of a published state dict."""
    found: dict[str, list[int]] = json.loads((GOLDEN / f"{model}_state_dict.json").read_text())
    return found


def network(model: str, salt: str) -> tuple[Network, Config]:
    """A published model with the golden weights, through the same name mapping as ``mixformerv2 convert``."""
    return checkpoint.from_published(
        {name: _weight(name, shape, salt) for name, shape in shapes(model).items()}
    )


def crops(name: str, salt: str, batch: int, side_px: int) -> Tensor:
    """A golden input in our layout: (b, side, side, 3) in 0..255; the golden ones are normalised."""
    normalised = _normal(name, [batch, 3, side_px, side_px], salt).transpose(0, 2, 3, 1)
    return torch.from_numpy((normalised * np.float32(STD) + np.float32(MEAN)) * 255)


def _normal(name: str, shape: list[int], salt: str) -> np.ndarray:
    seed = zlib.crc32((salt + name).encode()) & 0xFFFFFFFF
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


def _weight(name: str, shape: list[int], salt: str) -> Tensor:
    if "pos_embed_s" in name or "pos_embed_t" in name:
        return sincos_positions(shape[2], round(shape[1] ** 0.5))
    if name.endswith("num_batches_tracked"):
        return torch.tensor(0)
    drawn = _normal(name, shape, salt)
    if name.endswith("running_var"):
        drawn = 1 + 0.1 * abs(drawn)
    elif name.endswith("running_mean"):
        drawn = 0.1 * drawn
    elif name.endswith("weight") and len(shape) == 1:
        drawn = 1 + 0.1 * drawn
    elif name.endswith("bias"):
        drawn = 0.02 * drawn
    elif "reg_token" in name or "pos_embed_reg" in name:
        drawn = 0.5 * drawn
    else:
        drawn = drawn / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(drawn.astype(np.float32))
