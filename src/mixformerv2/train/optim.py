"""AdamW with the rates of a fine-tuned trunk, and how they change during a run."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from mixformerv2.train.objective import Objective


@dataclass(frozen=True)
class OptimConfig:
    """AdamW: a warm-up, then the schedule. The defaults are those of the published recipes."""

    lr: float = 4e-4  # heads, and the probe
    trunk_lr: float = 4e-5
    fresh_lr: float | None = None  # prediction tokens and the last block; None: as the trunk
    layer_decay: float = 1.0  # every block learns so much slower than the one after it
    weight_decay: float = 1e-4  # of matrices; vectors are not decayed
    clip_norm: float = 0.1  # of all gradients together
    warmup_samples: int = 0
    schedule: Literal["constant", "step", "linear", "cosine"] = "step"
    decay_share: float = 0.2  # of the samples: over it linear and cosine fall to 0, at its start step falls
    step_factor: float = 0.1  # what step falls by
    ema_decay: float = 0.999  # of the average of the weights that is saved

    def __post_init__(self) -> None:
        if self.schedule not in ("constant", "step", "linear", "cosine"):
            raise ValueError(f"schedule must be constant, step, linear or cosine, got {self.schedule!r}")
        if not (0 <= self.decay_share <= 1 and 0 <= self.ema_decay < 1 and 0 < self.layer_decay <= 1):
            raise ValueError(
                "decay_share must be in [0, 1], ema_decay in [0, 1) and layer_decay in (0, 1], "
                f"got {self.decay_share}, {self.ema_decay} and {self.layer_decay}"
            )
        if not (self.clip_norm > 0 and self.lr > 0):
            raise ValueError(f"lr and clip_norm must be positive, got {self.lr} and {self.clip_norm}")
        for name in ("trunk_lr", "fresh_lr", "weight_decay", "warmup_samples", "step_factor"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")

    def factor(self, seen: int, total: int) -> float:
        """What every rate is multiplied by after ``seen`` of ``total`` samples, in [0, 1]."""
        warm = min(1.0, (seen + 1) / self.warmup_samples) if self.warmup_samples else 1.0
        falling = (seen / total - (1 - self.decay_share)) / self.decay_share if self.decay_share else -1.0
        if self.schedule == "constant" or falling < 0:
            return warm
        if self.schedule == "step":
            return warm * self.step_factor
        return warm * (1 - falling if self.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * falling)))


def make_optimiser(objective: Objective, config: OptimConfig) -> torch.optim.AdamW:
    """Groups of parameters by rate; what is frozen is left out."""
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    depth = len(objective.network.backbone.blocks)
    for name, parameter in objective.named_parameters():
        if parameter.requires_grad:
            key = (_rate(name, depth, config), parameter.ndim > 1)
            groups.setdefault(key, []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "lr": rate, "weight_decay": config.weight_decay if decayed else 0.0}
            for (rate, decayed), parameters in groups.items()
        ],
        fused=all(parameter.is_cuda for parameters in groups.values() for parameter in parameters) or None,
    )


def _rate(name: str, depth: int, config: OptimConfig) -> float:
    """Heads learn fast and the pretrained trunk slowly, the more so the earlier a block is.

    The last block counts as fresh: prediction tokens alone leave it, and they have never been through it.
    """
    if not name.startswith("network.backbone."):
        return config.lr
    block = re.match(r"network\.backbone\.blocks\.(\d+)\.", name)
    index = int(block[1]) if block else -1
    if config.fresh_lr is not None and ("prediction_" in name or index == depth - 1):
        return config.fresh_lr
    if "prediction_" in name:
        return config.trunk_lr
    return config.trunk_lr * config.layer_decay ** (depth - 1 - index)
