"""Fine-tuning on a few clips of one's own, measured before and after: on what was held back of them, and on a guard.

The last part of every clip is held back from training, so the comparison says something about new frames.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import json
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.markup import escape
from rich.table import Table

from mixformerv2.config import Config
from mixformerv2.data.datasets import open_datasets
from mixformerv2.data.sequence import Sequence
from mixformerv2.evaluate.run import evaluate
from mixformerv2.runtime.backend import find_weights, read_config
from mixformerv2.tracker import Tracker
from mixformerv2.train import pipeline
from mixformerv2.train.engine import RunOptions
from mixformerv2.train.pipeline import Outcome
from mixformerv2.train.processes import is_first_process
from mixformerv2.train.settings import override
from mixformerv2.train.stages import Recipe, StageConfig

NAME = "finetune"
HELD_BACK = 0.3  # of every clip's frames, the last ones


@dataclass(frozen=True)
class Comparison:
    """Mean AUC of the starting model and of the fine-tuned one on the same frames."""

    on: str
    before: float
    after: float


@dataclass(frozen=True)
class Report:
    outcome: Outcome
    comparisons: tuple[
        Comparison, ...
    ]  # empty while the run is not finished, and in all processes but the first


def split(sequences: collections.abc.Sequence[Sequence]) -> tuple[list[Sequence], list[Sequence]]:
    """The frames to learn from and those held back; a clip too short to be split is learnt from as a whole."""
    learnt, held_back = [], []
    for sequence in sequences:
        boundary = round(len(sequence) * (1 - HELD_BACK))
        later = np.flatnonzero(~sequence.absent[boundary:])
        if len(later) < 2 or sequence.absent[:boundary].all():
            learnt.append(sequence)
            continue
        learnt.append(sequence.part(range(boundary)))
        held_back.append(sequence.part(range(boundary + int(later[0]), len(sequence))))
    return learnt, held_back


def run(recipe: Recipe, data: Path | str, output: Path, options: RunOptions, guard: Path | None) -> Report:
    """Trains on the clips in ``data``, then measures the model it started from and the one it made.

    Raises ValueError, before the training, for data and models that do not fit or cannot be measured.
    """
    if any(stage.validation is not None for stage in recipe.stages):
        raise ValueError(
            "fine-tuning measures itself on frames that it holds back, before and after: leave out validation, which "
            "would see the frames that are learnt from"
        )
    start = find_weights(recipe.stages[0].start)
    learnt: dict[str, collections.abc.Sequence[Sequence]] = {}
    held_back: dict[str, list[Sequence]] = {}
    for kind, sequences in open_datasets(data).items():
        learnt[kind], held_back[kind] = split(sequences)
    if not any(held_back.values()):
        warnings.warn(
            f"no clip in {data} has enough frames with a box to hold some of them back: what the training does for "
            "them will not be measured",
            stacklevel=2,
        )
    measured = {"your clips, frames held back": _measurable(held_back)}
    if guard is not None:
        watched = {kind: list(sequences) for kind, sequences in open_datasets(guard).items()}
        measured[f"guard set {escape(guard.name)}"] = _measurable(watched)
    outcome = pipeline.run(recipe, learnt, output, options)
    if outcome.weights is None or not is_first_process():
        return Report(outcome, ())
    report = Report(outcome, compare(start, outcome.weights, measured))
    comparisons = [dataclasses.asdict(comparison) for comparison in report.comparisons]
    (output / "finetune.json").write_text(json.dumps(comparisons, indent=1) + "\n")
    return report


def with_settings(recipe: Recipe, settings: Iterable[str]) -> Recipe:
    """The recipe with the assignments of ``override``, of which one may choose the start; all that is not assigned
    suits that model. Raises ValueError with one sentence, or FileNotFoundError.
    """
    settings = list(settings)
    # Alone, for the others may suit no other model.
    chosen = [one for one in settings if one.partition("=")[0].rpartition(":")[2] == "start"]
    start = override(recipe, chosen).stages[0].start
    return override(of_size(recipe, read_config(find_weights(start))), settings)


def of_size(recipe: Recipe, config: Config) -> Recipe:
    """The recipe for a model of this config, in windows of the scale that it tracks in, with the losses that its heads
    can take.
    """

    def sized(stage: StageConfig) -> StageConfig:
        losses, views = stage.losses, stage.data.views
        if not config.model.score_head:
            losses = dataclasses.replace(losses, score=0.0, overlap=0.0)
        if not config.model.has_distributions:
            losses = dataclasses.replace(losses, side=0.0)
        if config.model.box_head == "centre":
            losses = dataclasses.replace(losses, centre=1.0)
        factor = config.tracker.search_factor
        jitter = views.centre_jitter * factor / views.search_factor
        views = dataclasses.replace(views, search_factor=factor, centre_jitter=jitter)
        data = dataclasses.replace(stage.data, views=views)
        return dataclasses.replace(stage, target=config, losses=losses, data=data)

    return dataclasses.replace(recipe, stages=tuple(map(sized, recipe.stages)))


def _measurable(groups: Mapping[str, list[Sequence]]) -> list[Sequence]:
    """The sequences of all kinds, under names of their own. Raises ValueError for one without a box to start from."""
    named = []
    for kind, sequences in groups.items():
        for sequence in sequences:
            if sequence.absent.all():
                raise ValueError(
                    f"sequence {sequence.name} has no frame with a box: it cannot be measured on"
                )
            start = int(np.flatnonzero(~sequence.absent)[0])
            sequence.check_box(start, sequence.frame(start))
            name = f"{kind}/{sequence.name}" if len(groups) > 1 else sequence.name
            named.append(dataclasses.replace(sequence, name=name))
    return named


def compare(before: Path, after: Path, measured: Mapping[str, list[Sequence]]) -> tuple[Comparison, ...]:
    """One-pass evaluation of two checkpoints, both in torch, so that nothing but the weights differs."""
    trackers = [Tracker(path, backend="torch") for path in (before, after)]
    return tuple(
        Comparison(on, *(evaluate(tracker, sequences).mean.auc for tracker in trackers))
        for on, sequences in measured.items()
        if sequences
    )


def table(report: Report) -> Table:
    rows = Table("AUC on", "before", "after")
    for comparison in report.comparisons:
        rows.add_row(comparison.on, f"{comparison.before:.3f}", f"{comparison.after:.3f}")
    return rows
