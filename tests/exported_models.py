"""Two small models with random weights, as checkpoints and exported, and crops to ask them about."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from mixformerv2.config import Config, ModelConfig
from mixformerv2.model import checkpoint
from mixformerv2.model.network import Network, build
from mixformerv2.runtime.export import export

SIZES = dict(dim=32, heads=2, search_px=64, template_px=32, num_bins=12)
MODELS = {
    # As `tiny`, in small.
    "scored": ModelConfig(depth=2, mlp_ratio=1.0, head_norm=True, learned_positions=True, **SIZES),  # type: ignore[arg-type]
    # One block is first and last at once.
    "plain": ModelConfig(depth=1, mlp_ratio=2.0, score_head=False, **SIZES),  # type: ignore[arg-type]
}


class Exported(NamedTuple):
    folders: dict[str, Path]
    said: list[str]  # warnings and log lines on the way


def decided(config: ModelConfig) -> Network:
    """Random weights large enough for the answer to depend on every input."""
    network = build(config, seed=0)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter *= 2
        if network.backbone.prediction_tokens is not None:
            network.backbone.prediction_tokens *= 20
        network.box_head.layers[-1].weight *= 3
    return network


def write_exported(root: Path) -> Exported:
    """Each model as a checkpoint in ``root`` and, in a folder of its name, exported."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("torch.onnx").addHandler(handler)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for name, config in MODELS.items():
            checkpoint.save(decided(config), Config(config), root / f"{name}.safetensors")
            export(root / f"{name}.safetensors", root / name)
    logging.getLogger("torch.onnx").removeHandler(handler)
    folders = {name: root / name for name in MODELS}
    return Exported(folders, [*lines, *(str(warning.message) for warning in caught)])


def crops(*shape: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def inputs(batch: int, online: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A template, online templates and a search crop."""
    return (
        crops(batch, 32, 32, seed=seed),
        crops(batch, online, 32, 32, seed=seed + 1),
        crops(batch, 64, 64, seed=seed + 2),
    )
