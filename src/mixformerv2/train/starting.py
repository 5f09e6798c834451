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
from mixformerv2.train.stages import StageConfig, check_teacher, networks_named

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
        paths = [finished[part] if part in finished else find_weights(part) for part in networks_named(name)]
        return _average([checkpoint.load(path)[0] for path in paths])
    except (ValueError, OSError) as error:
        raise ValueError(f"stage {stage.name}: its {role} cannot be opened: {error}") from None


def _average(networks: list[Network]) -> Network:
    """The first one with the mean of all weights: better than each where they come from one start (Wortsman et al.,
    "Model soups", 2022).
    """
    first, *others = networks
    if any(other.config != first.config for other in others):
        raise ValueError("only networks of the same config have an average")
    if others:
        states = [network.state_dict() for network in networks]
        mean = {name: torch.stack([state[name].double() for state in states]).mean(0) for name in states[0]}
        first.load_state_dict(mean)
    return first
