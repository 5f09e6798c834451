"""The stages of the paper as configs: what is trained, from what, beside which teacher; and recipes of several stages.

A stage names the networks it needs: an earlier stage of its recipe, ``vit-s``, ``mae:PATH``, ``random``, a shipped
model, or a checkpoint; ``average:NAME,NAME`` is the mean of the weights of several.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from mixformerv2.config import Config, ModelConfig
from mixformerv2.data.loader import DataConfig
from mixformerv2.data.plan import SampleConfig
from mixformerv2.distill.replacement import ReplacementSchedule
from mixformerv2.distill.shrink import check_reachable
from mixformerv2.distill.targets import check_pair, default_feature_layers
from mixformerv2.train.objective import LossWeights
from mixformerv2.train.optim import OptimConfig

AVERAGE = "average:"
UNNAMED = "PATH"  # a start or a teacher that the person who trains has to name
_UNLIKE = "networks of different sizes: only those of the same have an average"
Precision = Literal["bf16-mixed", "32-true"]


@dataclass(frozen=True)
class ValidationConfig:
    """Validation is tracking: one-pass AUC of the averaged weights."""

    every_samples: int
    dataset: str = "otb"  # kind of a dataset in the data folder
    sequences: tuple[str, ...] = ()  # by name; all of them when empty
    max_frames: int | None = None  # of each sequence

    def __post_init__(self) -> None:
        if self.every_samples < 1 or (self.max_frames is not None and self.max_frames < 2):
            raise ValueError(
                "every_samples must be at least 1 and max_frames at least 2, "
                f"got {self.every_samples} and {self.max_frames}"
            )


@dataclass(frozen=True)
class StageConfig:
    """One training. Nothing here depends on the machine: see ``engine.RunOptions`` for that."""

    name: str
    target: Config  # the network that comes out, and the online rules that are saved with it
    samples: int
    start: str  # network to start from; made to fit the target's sizes where they differ
    teacher: str | None = None  # network to learn from, beside the labels
    remove: tuple[int, ...] = ()  # blocks of the start that fade out while it trains, and then are removed
    feature_layers: tuple[tuple[int, int], ...] = ()  # blocks of student and teacher with matched tokens
    replacement: ReplacementSchedule | None = None  # CompressTracker's training, with the teacher's blocks
    only_score_head: bool = False  # all else is frozen
    frozen_embedding: bool = (
        False  # all that enters the first block keeps what it is: patches, positions, tokens
    )
    frozen_blocks: int = 0  # so many blocks keep what they are, and so does all that enters the first one
    auxiliary_samples: int = 0  # at first only the auxiliary losses teach: the trunk learns to find
    batch: int = 32  # of all processes together
    data: DataConfig = field(default_factory=lambda: DataConfig(SampleConfig()))
    losses: LossWeights = field(default_factory=LossWeights)
    optim: OptimConfig = field(default_factory=OptimConfig)
    validation: ValidationConfig | None = None
    precision: Precision = "bf16-mixed"  # in full on a machine that would only imitate bf16
    seed: int = 0

    def __post_init__(self) -> None:
        def require(condition: bool, sentence: str) -> None:
            if not condition:
                raise ValueError(f"stage {self.name}: {sentence}")

        chunk, model = self.data.chunk, self.target.model
        require(
            self.batch >= 1 and self.batch % chunk == 0,
            f"batch must be a multiple of data.chunk ({chunk}), got {self.batch}",
        )
        require(self.seed >= 0, f"seed must not be negative, got {self.seed}")
        require(
            self.samples >= self.batch,
            f"samples must be at least one batch of {self.batch}, got {self.samples}",
        )
        require(
            (self.teacher is not None) == (self.losses.of_teacher or self.replacement is not None),
            "a teacher goes with losses.divergence, losses.features or replacement",
        )
        require(
            not self.losses.features or bool(self.feature_layers or self.replacement),
            "losses.features needs feature_layers",
        )
        require(
            not self.losses.of_score or model.score_head,
            "losses.score and losses.overlap need a network with score_head",
        )
        require(
            not (self.losses.side or self.losses.divergence) or model.has_distributions,
            "losses.side and losses.divergence are on the distributions of the sides, which this network has not: "
            "set them to 0",
        )
        require(
            not self.losses.attention or model.num_prediction_tokens == 4,
            "losses.attention is on prediction tokens, one for each side, which this network has not: set it to 0",
        )
        require(
            self.only_score_head or (model.box_head == "centre") == bool(self.losses.centre),
            "losses.centre goes with a centre head, and a centre head with losses.centre, "
            f"got {self.losses.centre:g} with box_head {model.box_head}",
        )
        require(
            not self.only_score_head
            or dataclasses.replace(self.losses, score=1.0, overlap=0.0)
            == LossWeights(l1=0.0, ciou=0.0, score=1.0),
            "only_score_head trains on losses.score and losses.overlap alone: set the other weights to 0",
        )
        auxiliary = bool(self.losses.search_token or self.losses.attention)
        require(
            not self.auxiliary_samples or auxiliary,
            "auxiliary_samples needs losses.search_token or losses.attention",
        )
        require(
            not auxiliary or not model.num_prediction_tokens or self.trained_model.depth > 1,
            "losses.search_token and losses.attention look at the tokens before the last of several blocks, "
            "got a depth of 1",
        )
        require(
            0 <= self.frozen_blocks < self.trained_model.depth,
            f"frozen_blocks must be from 0 to {self.trained_model.depth - 1}, got {self.frozen_blocks}",
        )
        require(
            not (self.remove and self.replacement), "blocks are removed or replaced, not both in one stage"
        )
        depth = self.trained_model.depth
        require(
            len(set(self.remove)) == len(self.remove) and set(self.remove) <= {*range(depth)},
            f"remove must name different blocks from 0 to {depth - 1}, got {self.remove}",
        )

    @property
    def steps(self) -> int:
        return self.samples // self.batch

    @property
    def trained_model(self) -> ModelConfig:
        """The network while it trains: with the blocks that will have been removed at the end."""
        model = self.target.model
        return dataclasses.replace(model, depth=model.depth + len(self.remove))


@dataclass(frozen=True)
class Recipe:
    """Stages that run one after another; each may start from, and learn from, any earlier one."""

    name: str
    stages: tuple[StageConfig, ...]
    result: str = ""  # the network that comes of it: ``average:NAME,NAME``, or empty for the last stage's

    def __post_init__(self) -> None:
        names = [stage.name for stage in self.stages]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"recipe {self.name} needs stages of different names, got {names}")
        models: dict[str, ModelConfig] = {}
        for stage in self.stages:
            for role in ("start", "teacher"):
                parts = networks_named(getattr(stage, role) or "")
                for part in parts:
                    if part in names and part not in models:
                        raise ValueError(f"stage {stage.name}: its {role} {part} comes later")
                made = [models[part] for part in parts if part in models]
                if any(model != made[0] for model in made):
                    raise ValueError(f"stage {stage.name}: its {role} {getattr(stage, role)} has {_UNLIKE}")
                for model in made[:1]:
                    check_start(stage, model) if role == "start" else check_teacher(stage, model)
            models[stage.name] = stage.target.model
        of_result = networks_named(self.result) if self.result else ()
        for part in of_result:
            if part not in names:
                raise ValueError(
                    f"recipe {self.name}: its result {self.result} is made of its own stages, not {part}"
                )
        if any(models[part] != models[of_result[0]] for part in of_result):
            raise ValueError(f"recipe {self.name}: its result {self.result} has {_UNLIKE}")

    @property
    def target(self) -> Config:
        """Of the network that comes of it, with its online rules."""
        name = networks_named(self.result)[0] if self.result else self.stages[-1].name
        return next(stage.target for stage in self.stages if stage.name == name)

    def behind(self, stage: StageConfig) -> list[StageConfig]:
        """The stages that a stage starts from or learns from, and those that they do, the last first."""
        found, wanted = [], {stage.name}
        for earlier in reversed(self.stages):
            if earlier.name in wanted:
                wanted |= {*networks_named(earlier.start), *networks_named(earlier.teacher or "")}
                found += [earlier] * (earlier.name != stage.name)
        return found


def networks_named(name: str) -> tuple[str, ...]:
    """The networks that a start or a teacher is made of: one, or those whose weights are averaged."""
    return tuple(name.removeprefix(AVERAGE).split(",")) if name.startswith(AVERAGE) else (name,)


def check_start(stage: StageConfig, start: ModelConfig) -> None:
    """Raises ValueError where no start of such sizes can be made to fit the stage."""
    try:
        check_reachable(start, stage.trained_model)
    except ValueError as error:
        raise ValueError(f"stage {stage.name} cannot start from {stage.start}: {error}") from None


def check_teacher(stage: StageConfig, teacher: ModelConfig) -> None:
    """Raises ValueError, saying what to change, where student and teacher do not fit together."""
    try:
        if stage.losses.divergence and not teacher.has_distributions:
            raise ValueError(
                "losses.divergence is on the teacher's distributions of the sides, and it has none: set it to 0 or "
                "choose another teacher"
            )
        check_pair(stage.trained_model, teacher, stage.feature_layers)
    except ValueError as error:
        raise ValueError(f"stage {stage.name}: {error}") from None


def sized(config: Config, **changes: Any) -> Config:
    """The config with another network."""
    return dataclasses.replace(config, model=dataclasses.replace(config.model, **changes))


def supervised(name: str, target: Config, samples: int, start: str, **settings: Any) -> StageConfig:
    """From labels alone."""
    return StageConfig(name, target, samples, start, **settings)


def dense_to_sparse(
    name: str, target: Config, samples: int, teacher: str, start: str | None = None, **settings: Any
) -> StageConfig:
    """Prediction tokens learn the marginals of the teacher's corner maps (paper, section 3.4.1).

    The trunk starts as the teacher's; heads and tokens are fresh.
    """
    defaults: dict[str, Any] = {"losses": LossWeights(divergence=5.0)}
    settings = defaults | settings
    return StageConfig(name, target, samples, start or teacher, teacher, **settings)


def fade_blocks(
    name: str,
    target: Config,
    samples: int,
    teacher: str,
    remove: tuple[int, ...],
    start: str | None = None,
    **settings: Any,
) -> StageConfig:
    """The start, by default the teacher itself, whose chosen blocks fade out and then are removed, taught by what it
    was before (progressive depth pruning; paper, section 3.4.2).
    """
    depth = target.model.depth + len(remove)
    defaults: dict[str, Any] = {"losses": LossWeights(divergence=5.0, features=0.2)}
    settings = defaults | settings
    settings.setdefault("feature_layers", default_feature_layers(depth, depth))
    return StageConfig(name, target, samples, start or teacher, teacher, remove=remove, **settings)


def deep_to_shallow(
    name: str,
    target: Config,
    samples: int,
    teacher: str,
    teacher_depth: int,
    start: str | None = None,
    **settings: Any,
) -> StageConfig:
    """A shallower or narrower student learns distributions and tokens of the teacher (paper, section 3.4.2).

    Started from the teacher it takes evenly chosen blocks; narrower MLPs keep their most important units.
    """
    defaults: dict[str, Any] = {"losses": LossWeights(divergence=5.0, features=0.2)}
    settings = defaults | settings
    settings.setdefault("feature_layers", default_feature_layers(target.model.depth, teacher_depth))
    return StageConfig(name, target, samples, start or teacher, teacher, **settings)


def replace_blocks(name: str, target: Config, samples: int, teacher: str, **settings: Any) -> StageConfig:
    """The student's blocks take the place of the teacher's, more and more often (CompressTracker)."""
    defaults: dict[str, Any] = {
        "losses": LossWeights(divergence=5.0, features=0.2),
        "replacement": ReplacementSchedule(),
    }
    settings = defaults | settings
    return StageConfig(name, target, samples, teacher, teacher, **settings)


def score_head(name: str, target: Config, samples: int, start: str, **settings: Any) -> StageConfig:
    """The score head alone, half of the examples without their target (paper, section 3.3)."""
    defaults: dict[str, Any] = {
        "losses": LossWeights(l1=0.0, ciou=0.0, score=1.0),
        "optim": OptimConfig(lr=1e-4, schedule="constant"),
    }
    settings = defaults | settings
    data: DataConfig = settings.get("data", DataConfig(SampleConfig()))
    data = dataclasses.replace(data, sample=dataclasses.replace(data.sample, absent_share=0.5))
    return StageConfig(name, target, samples, start, only_score_head=True, **settings | {"data": data})
