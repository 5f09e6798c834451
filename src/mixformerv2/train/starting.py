"""The networks that a stage needs: where it starts, and its teacher."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from mixformerv2.data.pairs import Batch
from mixformerv2.distill.shrink import adapt
from mixformerv2.model import checkpoint, initialise
from mixformerv2.model.network import Network, build
from mixformerv2.runtime.backend import find_weights
from mixformerv2.train.objective import own_losses
from mixformerv2.train.stages import UNNAMED, Recipe, StageConfig, check_teacher, networks_named

Finished = Mapping[str, Path]  # stage -> its weights
_VIT_S, _MAE = "vit-s", "mae:"  # trunks to start from, beside whole networks


def check_sources(recipe: Recipe) -> None:
    """Raises ValueError, FileNotFoundError or ModuleNotFoundError where a start or a teacher that no stage makes, or a
    loss of one's own, is not there: said before hours of training, not after them.
    """
    made = {stage.name for stage in recipe.stages}
    for stage in recipe.stages:
        own_losses(stage.losses)
        if stage.start == _VIT_S:
            initialise.find_vit_s()
        elif stage.start.startswith(_MAE):
            _find(stage, "start", [stage.start.removeprefix(_MAE)], {})
        elif stage.start != "random":
            _find(stage, "start", [part for part in networks_named(stage.start) if part not in made], {})
        _find(
            stage,
            "teacher",
            [part for part in networks_named(stage.teacher or "") if part and part not in made],
            {},
        )


def starting_network(stage: StageConfig, finished: Finished, calibration: Batch) -> Network:
    """The network as the stage begins, on the CPU. Raises ValueError where the start cannot be made to fit."""
    model = stage.trained_model
    calibration = Batch(*(part.cpu() for part in calibration))
    if stage.start == "random":
        return build(model, stage.seed)
    if stage.start == _VIT_S:
        crops = torch.cat([calibration.template, calibration.online.flatten(0, 1)])
        return initialise.from_vit_s(model, initialise.find_vit_s(), crops, stage.seed)
    if stage.start.startswith(_MAE):
        return checkpoint.from_mae(Path(stage.start.removeprefix(_MAE)), model, stage.seed)
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


def result_network(recipe: Recipe, finished: Finished) -> Network:
    """What comes of a recipe that names a result, its stages all finished."""
    names = networks_named(recipe.result)
    return _average([checkpoint.load(finished[name])[0] for name in names])


def _load(stage: StageConfig, name: str, role: str, finished: Finished) -> Network:
    paths = _find(stage, role, networks_named(name), finished)
    with _spoken(stage, role):
        return _average([checkpoint.load(path)[0] for path in paths])


def _find(stage: StageConfig, role: str, names: Iterable[str], finished: Finished) -> list[Path]:
    if UNNAMED in names:
        how = (
            f"--set {stage.name}:{role}=FILE"
            if role == "teacher"
            else f"--init {stage.start[: -len(UNNAMED)]}FILE"
        )
        raise ValueError(f"stage {stage.name}: its {role} is for you to name, with {how}")
    with _spoken(stage, role):
        return [finished[name] if name in finished else find_weights(name) for name in names]


@contextmanager
def _spoken(stage: StageConfig, role: str) -> Iterator[None]:
    try:
        yield
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
