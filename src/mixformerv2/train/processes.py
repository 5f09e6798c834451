"""The processes of a training, one or those that ``torchrun`` has started; and no two trainings at one stage."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from lightning_fabric.strategies.ddp import DDPStrategy

from mixformerv2.train.stages import Precision, StageConfig

_PATIENCE = timedelta(hours=12)  # the others wait for the process that validates or fits narrower MLPs


def world_size() -> int:
    """Processes of this training, on all machines; ``torchrun`` says so."""
    return int(os.environ.get("WORLD_SIZE", 1))


def is_first_process() -> bool:
    """Whether this is the process that writes what all of them share."""
    return int(os.environ.get("RANK", 0)) == 0


def open_fabric(stage: StageConfig, device: str) -> Fabric:
    """One process, or this one of those that ``torchrun`` has started, on one machine or many."""
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    world, local = world_size(), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    strategy: str | DDPStrategy = "auto"
    if world > 1:
        strategy = DDPStrategy(find_unused_parameters=_leaves_some_out(stage), timeout=_PATIENCE)
    precision = affordable_precision(stage.precision, device)
    computed: dict[str, Any] = {"precision": precision}
    if precision == "bf16-mixed":
        computed = {"plugins": _Mixed(precision, "cuda" if _on_cuda(device) else "cpu")}
    fabric = Fabric(
        accelerator=device, strategy=strategy, devices=local, num_nodes=world // local, **computed
    )
    fabric.launch()
    return fabric


class _Mixed(MixedPrecision):
    """Mixed precision that leaves examples as they are: Fabric's would round true boxes to the eight bits of bf16, by
    up to 0.4 px of a crop of 192, and to half a bin.
    """

    def convert_input(self, data: Any) -> Any:
        return data


def _on_cuda(device: str) -> bool:
    return device == "cuda" or (device == "auto" and torch.cuda.is_available())


def affordable_precision(precision: Precision, device: str) -> Precision:
    """The precision asked for; full where the machine would only imitate bf16, up to a hundred times slower."""
    if _on_cuda(device):
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return precision if native else "32-true"


def _leaves_some_out(stage: StageConfig) -> bool:
    """Whether there are steps in which parameters get no gradient: blocks not chosen, heads without a loss."""
    losses = stage.losses
    without_box = not (losses.of_box or losses.divergence or stage.only_score_head)
    without_score = stage.target.model.score_head and not losses.of_score
    return bool(stage.replacement or stage.auxiliary_samples or without_box or without_score)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Raises ValueError where another training is at work in the folder: both would write the same files."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if isinstance(error, BlockingIOError):  # else the file system has no locks
                raise ValueError(
                    f"another run is at work in {folder}: wait for its end, or choose another output folder"
                ) from None
        yield
    finally:
        os.close(handle)
