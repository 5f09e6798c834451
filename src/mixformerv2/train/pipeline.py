"""A whole recipe: stage after stage, each from what the earlier ones left, going on where the last run stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from mixformerv2.data.loader import Loader
from mixformerv2.data.memory import Decoded
from mixformerv2.data.pairs import Batch
from mixformerv2.files import write_bytes, write_text
from mixformerv2.model import checkpoint
from mixformerv2.model.network import Network, build
from mixformerv2.train import pictures
from mixformerv2.train.deadline import Deadline
from mixformerv2.train.engine import (
    LAST,
    RESUME,
    Engine,
    RunOptions,
)
from mixformerv2.train.log import JSON_LOG
from mixformerv2.train.material import Datasets, check_datasets, note_data, read_note, to_learn_from
from mixformerv2.train.processes import alone_in, is_first_process, open_fabric, world_size
from mixformerv2.train.settings import as_plain, changes
from mixformerv2.train.stages import Recipe, StageConfig
from mixformerv2.train.starting import check_sources, result_network, starting_network, teacher_network
from mixformerv2.train.validation import Validation

_CALIBRATION = 128  # examples on which narrower MLPs are fitted
_SHOWN = 16

DONE = "done.json"  # the stage's settings, written when it has ended
RESULT = "model.safetensors"  # what the last stage made
EXAMPLES, CURVES = (
    "examples.png",
    "curves.png",
)  # what the network sees, in the end with its answers; how it learned


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    weights: Path | None  # of the whole recipe; None when it stopped before
    stopped_in: str | None = None  # stage
    interrupted: bool = False  # by Ctrl-C
    skipped: dict[str, int] = dataclasses.field(default_factory=dict)  # unreadable images
    found: tuple[str, ...] = ()  # stages that were finished before


def run(recipe: Recipe, data: Datasets, output: Path, options: RunOptions) -> Outcome:
    """Trains what is not yet trained in ``output``; every stage has a folder of its own there.

    ``data`` maps kinds of datasets to their sequences, as ``open_datasets`` gives them.
    Raises ValueError for settings, data or networks that do not fit; before the first step of the stage concerned,
    and before any where that can be known.
    """
    return _Run(data, output, options, Deadline(options.max_minutes)).through(recipe)


@dataclass
class _Run:
    """What the stages share."""

    data: Datasets
    output: Path
    options: RunOptions
    deadline: Deadline
    finished: dict[str, Path] = dataclasses.field(default_factory=dict)  # stage -> its weights
    skipped: Counter[str] = dataclasses.field(default_factory=Counter)
    decoded: Decoded | None = None  # images in memory

    def through(self, recipe: Recipe) -> Outcome:
        check_sources(recipe)
        check_datasets(recipe, self.data)
        note_data(recipe, self.data, self.output, begun=self._has_begun(recipe))
        found: list[str] = []
        with self.deadline.watching_signals():
            for stage in recipe.stages:
                if _is_done(stage, self.output / stage.name):
                    found.append(stage.name)
                elif not self.train(stage):
                    by_ctrl_c = self.deadline.signal == signal.SIGINT
                    return Outcome(None, stage.name, by_ctrl_c, dict(self.skipped), tuple(found))
                self.finished[stage.name] = self.output / stage.name / LAST
        weights = self.output / RESULT
        if is_first_process():
            if recipe.result:
                mean = result_network(recipe, self.finished)
                checkpoint.save(mean, recipe.target, weights)
            else:
                write_bytes(weights, self.finished[recipe.stages[-1].name].read_bytes())
        return Outcome(weights, skipped=dict(self.skipped), found=tuple(found))

    def _has_begun(self, recipe: Recipe) -> bool:
        """Whether anything has been learned."""
        folders = [self.output / stage.name for stage in recipe.stages]
        return any((folder / file).exists() for folder in folders for file in (RESUME, DONE))

    def train(self, stage: StageConfig) -> bool:
        """Whether the stage is finished; otherwise all is saved."""
        folder = self.output / stage.name
        folder.mkdir(parents=True, exist_ok=True)
        with alone_in(folder) if is_first_process() else contextlib.nullcontext():
            return self._train(stage, folder)

    def _train(self, stage: StageConfig, folder: Path) -> bool:
        options = self.options
        fabric = open_fabric(stage, options.device)
        validation = None
        if stage.validation is not None:
            validation = Validation.choose(stage.validation, self.data, fabric.device.type)
        teacher = teacher_network(stage, self.finished)
        loader = self._loader(stage, fabric.device)
        self.decoded = None  # the loader has it, or makes room for another
        examples = Batch.join(list(loader.chunks(range(math.ceil(_CALIBRATION / stage.data.chunk)))))
        goes_on = (folder / RESUME).exists()  # the checkpoint then takes the place of whatever it starts from
        start = build(stage.trained_model) if goes_on else starting_network(stage, self.finished, examples)
        first = Batch(*(part[:_SHOWN] for part in examples))
        if fabric.is_global_zero:
            pictures.save_png(pictures.batch_grid(first, None), folder / EXAMPLES)
        with _spoken_errors(stage, options):
            engine = Engine(stage, loader, start, teacher, folder, fabric, options, validation)
            done = engine.run(self.deadline)
        self.decoded = loader.decoded
        self.skipped.update(loader.skipped)
        if fabric.is_global_zero:
            pictures.save_png(pictures.batch_grid(first, _boxes(engine.result(), first)), folder / EXAMPLES)
            pictures.curves(folder / JSON_LOG, folder / CURVES)
            if done:
                write_text(folder / DONE, json.dumps(as_plain(stage), indent=1) + "\n")
        return done

    def _loader(self, stage: StageConfig, device: torch.device) -> Loader:
        model, options = stage.target.model, self.options
        return Loader(
            to_learn_from(stage, self.data),
            stage.data,
            search_px=model.search_px,
            template_px=model.template_px,
            seed=stage.seed,
            device=device,
            workers=options.workers,
            in_memory=options.in_memory,
            max_gigabytes=options.max_gigabytes,
            decoded=self.decoded,
            template_surround=model.template_surround,
        )


@torch.no_grad()
def _boxes(network: Network, batch: Batch) -> Float[Tensor, "b 4"]:
    """Where the network sees the targets, as fractions of the search crops."""
    template, online, search = (part.cpu() for part in (batch.template, batch.online, batch.search))
    return network.search(search, network.encode_templates(template, online)).box_unit


def _is_done(stage: StageConfig, folder: Path) -> bool:
    """Raises ValueError where the stage was finished with other settings, naming every difference."""
    if not (folder / DONE).exists():
        return False
    changed = changes(read_note(folder / DONE), stage)
    if changed:
        raise ValueError(
            f"{folder} holds this stage with other settings ({'; '.join(changed)}): "
            "go on with the old ones or choose another output folder"
        )
    return True


@contextlib.contextmanager
def _spoken_errors(stage: StageConfig, options: RunOptions) -> Iterator[None]:
    try:
        yield
    except torch.cuda.OutOfMemoryError:
        size = options.micro_batch or stage.batch // world_size()
        raise ValueError(
            f"stage {stage.name}: the GPU has no memory left for {size} examples at once: "
            f"pass --micro-batch {max(size // 2, 1)}"
            + (", which trains the same" if stage.target.model.box_head == "tokens" else "")
        ) from None
