"""A whole recipe: stage after stage, each from what the earlier ones left, going on where the last run stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import signal
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mixformerv2.data.benchmarks import LAYOUTS, READERS
from mixformerv2.data.loader import Loader
from mixformerv2.data.memory import Decoded
from mixformerv2.data.pairs import Batch
from mixformerv2.data.sequence import Sequences, names_of, pictures_of
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
from mixformerv2.train.processes import alone_in, is_first_process, open_fabric, world_size
from mixformerv2.train.settings import as_plain, changes
from mixformerv2.train.stages import Recipe, StageConfig
from mixformerv2.train.starting import check_sources, result_network, starting_network, teacher_network
from mixformerv2.train.validation import Validation

_CALIBRATION = 128  # examples on which narrower MLPs are fitted
_SHOWN = 16

Datasets = Mapping[str, Sequences]

DONE = "done.json"  # the stage's settings, written when it has ended
RESULT = "model.safetensors"  # what the last stage made
DATA = "data.json"  # which sequences it has learned from
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
        _check_datasets(recipe, self.data)
        _note_data(recipe, self.data, self.output)
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
            _to_learn_from(stage, self.data),
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


def _check_datasets(recipe: Recipe, data: Datasets) -> None:
    """Raises ValueError, before the first stage, where a later one would not find what it learns from or tracks."""
    for stage in recipe.stages:
        wanted = [name for name, weight in stage.data.sample.weights.items() if weight > 0]
        missing = [name for name in wanted if name not in data]
        if missing:
            raise ValueError(
                f"stage {stage.name} learns from {' and '.join(wanted)}, but the data folder holds {', '.join(data)}: "
                f"add {' and '.join(missing)}, or pass --set 'data.sample.weights={{}}' to learn from what is there"
            )
        if not _to_learn_from(stage, data):
            raise ValueError(
                f"the data folder holds benchmarks alone ({', '.join(data)}), which training leaves out: to learn from "
                "one, name it in data.sample.weights"
            )
        held_out = stage.data.sample.held_out
        known = {name for sequences in data.values() for name in names_of(sequences)} if held_out else set()
        unknown = [name for name in held_out if name not in known]
        if unknown:
            raise ValueError(
                f"stage {stage.name} holds out {' and '.join(unknown)}, but no dataset has such a sequence: choose "
                "others with --set 'data.sample.held_out=[\"NAME\"]', or none with []"
            )
        if stage.validation is not None:
            validation = Validation.choose(stage.validation, data)
            for learning in (stage, *recipe.behind(stage)):
                _check_validation(stage.name, validation, learning, data)


def _check_validation(name: str, validation: Validation, learning: StageConfig, data: Datasets) -> None:
    """Raises ValueError where a stage would track what it learns from, or one behind it has: the best by that is the
    one that knows it.
    """
    kind, learned = validation.config.dataset, _learned_from(learning, data)
    whole = next((each for each in learned if kind == each or kind.startswith(f"{each}-")), None)
    if whole is None:
        return
    held_out = pictures_of(learned[whole], learning.data.sample.held_out)
    known = {*names_of(learned[whole])}
    seen = [
        each.name for each in validation.sequences if each.name in known and each.known_by not in held_out
    ]
    if seen:
        which = "it" if learning.name == name else f"the stage {learning.name} behind it"
        raise ValueError(
            f"stage {name} would be validated on {seen[0]} of {kind}, which {which} learns from: hold all such out of "
            f"all stages with --set 'data.sample.held_out=[\"{seen[0]}\"]', or validate on another dataset"
        )


def _note_data(recipe: Recipe, data: Datasets, output: Path) -> None:
    """Keeps what a run learns from. Raises ValueError where it began with other sequences, or with other boxes of a
    person's own clips: what is trained already, and all that goes on from it, would pass for trained on these.
    """
    used = {kind: each for stage in recipe.stages for kind, each in _learned_from(stage, data).items()}
    now = {kind: _digests(kind, sequences) for kind, sequences in used.items()}
    begun = any((output / stage.name / file).exists() for stage in recipe.stages for file in (RESUME, DONE))
    known = _read_json(output / DATA) if begun and (output / DATA).exists() else {}
    for kind in now:
        before = known.get(kind, now[kind])
        if before["sha256"] != now[kind]["sha256"]:
            other = f"{kind} {before['sequences']} sequences and not these {now[kind]['sequences']}"
        elif before.get("boxes", now[kind].get("boxes")) != now[kind].get("boxes"):
            other = f"{kind} the same clips with other boxes"
        else:
            continue
        raise ValueError(
            f"{output} has learned from other data, of {other}: choose another output folder, or give it what it began "
            "with"
        )
    if known | now != known and is_first_process():
        output.mkdir(parents=True, exist_ok=True)
        write_text(output / DATA, json.dumps(known | now, indent=1) + "\n")


def _digests(kind: str, sequences: Sequences) -> dict[str, Any]:
    """What tells the sequences from others; of a person's own clips, which are corrected now and then, the boxes."""
    names = names_of(sequences)
    listed = "\n".join(sorted(names)).encode()
    told: dict[str, Any] = {"sequences": len(names), "sha256": hashlib.sha256(listed).hexdigest()}
    if kind.split(":")[0] == "folder":
        boxes = hashlib.sha256()
        for number in range(len(names)):
            with contextlib.suppress(ValueError):  # one that cannot be opened teaches nothing
                boxes.update(sequences[number].boxes_frame.tobytes())
        told["boxes"] = boxes.hexdigest()
    return told


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged: delete it, or choose another output folder")
    return content


def _learned_from(stage: StageConfig, data: Datasets) -> Datasets:
    """The datasets that examples are drawn from."""
    weights = stage.data.sample.weights
    known = _to_learn_from(stage, data)
    return {kind: sequences for kind, sequences in known.items() if not weights or weights.get(kind, 0) > 0}


def _to_learn_from(stage: StageConfig, data: Datasets) -> Datasets:
    """Without weights all datasets, but those that the field keeps for tests, and parts that validate."""
    if stage.data.sample.weights:
        return data
    for_tests = {
        kind for kind, layout in LAYOUTS.items() if layout.only_for_tests
    } | READERS.keys() - LAYOUTS.keys()
    return {kind: sequences for kind, sequences in data.items() if kind.split(":")[0] not in for_tests}


def _is_done(stage: StageConfig, folder: Path) -> bool:
    """Raises ValueError where the stage was finished with other settings, naming every difference."""
    if not (folder / DONE).exists():
        return False
    changed = changes(_read_json(folder / DONE), stage)
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
