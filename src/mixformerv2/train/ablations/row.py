"""What a row and a table are, and the settings that rows share."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mixformerv2.config import Config, ModelConfig, preset
from mixformerv2.data.augment import DegradeConfig
from mixformerv2.data.loader import DataConfig
from mixformerv2.data.plan import SampleConfig
from mixformerv2.data.views import ViewConfig
from mixformerv2.train import stages
from mixformerv2.train.objective import LossWeights
from mixformerv2.train.optim import OptimConfig
from mixformerv2.train.stages import Recipe, StageConfig, sized

PREFIX = "ablation-"
SAMPLES = 24_000  # of every row, beside those of its teachers
HELD_OUT = ("TLD_jumping", "TLD_pedestrian2")  # of the development data's got10k/train
BATCH = 32


@dataclass(frozen=True)
class Row:
    """One network, or another way to track with the network of another row."""

    name: str
    says: str  # what is special about it
    stages: tuple[StageConfig, ...] = ()  # the last one makes its network; none: it is the one of row ``of``
    of: str | None = None
    rules: Mapping[str, Any] = field(
        default_factory=dict
    )  # fields of TrackerConfig that differ from the network's

    def __post_init__(self) -> None:
        assert bool(self.stages) == (self.of is None), "a row trains or takes another one's network"
        assert not self.stages or self.stages[-1].name == self.name

    def recipe(self, seed: int = 0, samples: int = SAMPLES) -> Recipe:
        """Its training; the seed is that of its own stages, whose names bear it, and not of its teachers.

        With other ``samples`` every stage is longer or shorter by the same factor, warm-up and all.
        """
        own = [stage.name for stage in self.stages if (stage.name + ".").startswith(self.name + ".")]
        names = {name: f"{name}.seed-{seed}" if seed else name for name in own}

        stages = [_longer(stage, samples / SAMPLES) for stage in self.stages]
        for index, stage in enumerate(self.stages):
            # Rounded one by one, those of two stages of a row would not add up to those of one.
            parts = [at for at in range(index) if self.stages[at].name.startswith(stage.name + ".")]
            total = stage.samples + sum(self.stages[at].samples for at in parts)
            left = _whole(total * samples / SAMPLES) - sum(stages[at].samples for at in parts)
            stages[index] = dataclasses.replace(stages[index], samples=max(left, BATCH))

        def seeded(stage: StageConfig) -> StageConfig:
            if stage.name not in own:
                return stage
            start, teacher = (
                names.get(stage.start, stage.start),
                names.get(stage.teacher or "", stage.teacher),
            )
            return dataclasses.replace(stage, name=names[stage.name], start=start, teacher=teacher, seed=seed)

        return Recipe(PREFIX + self.name, tuple(map(seeded, stages)))

    def config(self, trained: Config) -> Config:
        """How it tracks with a network whose config this is."""
        return dataclasses.replace(trained, tracker=dataclasses.replace(trained.tracker, **self.rules))


def _longer(stage: StageConfig, factor: float) -> StageConfig:
    optim = dataclasses.replace(stage.optim, warmup_samples=_whole(factor * stage.optim.warmup_samples))
    return dataclasses.replace(
        stage,
        samples=max(_whole(factor * stage.samples), BATCH),
        auxiliary_samples=_whole(factor * stage.auxiliary_samples),
        optim=optim,
    )


def _whole(samples: float) -> int:
    """In whole batches."""
    return round(samples / BATCH) * BATCH


@dataclass(frozen=True)
class Table:
    """Rows that are compared with one another; the first one is what the others are held against."""

    name: str
    question: int  # of QUESTIONS
    title: str
    rows: tuple[str, ...]
    note: str = ""


def losses_of(model: ModelConfig, **others: Any) -> LossWeights:
    """The losses of all rows that this network can take, and others."""
    weights = LossWeights(
        ciou=0.0,
        giou=2.0,
        search_token=1.0,
        side=1.0 * model.has_distributions,
        centre=1.0 * (model.box_head == "centre"),
        attention=0.5 * (model.num_prediction_tokens == 4),
        score=0.3 * model.score_head,
    )
    return dataclasses.replace(weights, **others)


# What questions 1, 2 and 5 have in common, and 3 before there is a teacher ------------------------------------------

DATA = DataConfig(
    sample=SampleConfig({"coco": 0.8, "got10k": 0.2}, absent_share=0.06, held_out=HELD_OUT),
    views=ViewConfig(search_factor=2.9, centre_jitter=0.9, far_share=1.0),
    degrade=DegradeConfig(low_resolution_share=0.3),
)
OPTIM = OptimConfig(
    trunk_lr=1e-4, fresh_lr=2e-4, clip_norm=1.0, warmup_samples=3_200, schedule="linear", decay_share=0.5
)
SETTINGS: dict[str, Any] = {"data": DATA, "batch": BATCH, "optim": OPTIM, "auxiliary_samples": 3_200}
# Those of `compact` without those that ask for a higher score than so few samples teach to give.
_RULES = dataclasses.replace(preset("compact").tracker, found_threshold=0.0, widen_when_lost=1.0)


def near(**changes: Any) -> Config:
    """The sizes of ``compact``, some of them changed."""
    return sized(Config(preset("compact").model, _RULES), **changes)


def from_labels(
    name: str,
    says: str,
    target: Config | None = None,
    before: tuple[StageConfig, ...] = (),
    **settings: Any,
) -> Row:
    """Taught by labels alone, the first four blocks left as they are; a ViT-S, or what ``before`` has made of one."""
    target = target or near()
    start = before[-1].name if before else "vit-s"
    defaults = {**SETTINGS, "losses": losses_of(target.model), "frozen_blocks": 4}
    stage = stages.supervised(name, target, SAMPLES, start, **(defaults | settings))
    return Row(name, says, (*before, stage))


def row_names(rows: tuple[Row, ...]) -> tuple[str, ...]:
    return tuple(row.name for row in rows)
