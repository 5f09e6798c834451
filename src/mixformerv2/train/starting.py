"""The networks that a stage needs: where it starts, and its teacher."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from mixformerv2.data.pairs import Batch
from mixformerv2.distill.shrink import adapt
from mixformerv2.model import checkpoint, initialise
from mixformerv2.model.network import Network, build
from mixformerv2.runtime.backend import find_weights
from mixformerv2.train.stages import StageConfig, check_teacher

Finished = Mapping[str, Path]  # stage -> its weights


def starting_network(stage: StageConfig, finished: Finished, calibration: Batch) -> Network:
    """The network as the stage begins, on the CPU. Raises ValueError where the start cannot be made to fit."""
    model = stage.trained_model
    calibration = Batch(*(part.cpu() for part in calibration))
    if stage.start == "random":
        return build(model, stage.seed)
    if stage.start == "vit-s":
        crops = torch.cat([calibration.template, calibration.online.flatten(0, 1)])
        return initialise.from_vit_s(model, initialise.find_vit_s(), crops, stage.seed)
    if stage.start.startswith("mae:"):
        return checkpoint.from_mae(Path(stage.start.removeprefix("mae:")), model, stage.seed)
    network = _load(stage, stage.start, "start", finished)
    try:
        return adapt(network, model, calibration, stage.seed)
    except ValueError as error:
        raise ValueError(f"stage {stage.name} cannot start from {stage.start}: {error}") from None


def teacher_network(stage: StageConfig, finished: Finished) -> Network | None:
    """The teacher, checked against the student; None where the stage has none."""
    if stage.teacher is None:
        return None
    network = _load(stage, stage.teacher, "teacher", finished)
    check_teacher(stage, network.config)
    return network


def _load(stage: StageConfig, name: str, role: str, finished: Finished) -> Network:
    try:
        return checkpoint.load(finished[name] if name in finished else find_weights(name))[0]
    except (ValueError, OSError) as error:
        raise ValueError(f"stage {stage.name}: its {role} cannot be opened: {error}") from None
