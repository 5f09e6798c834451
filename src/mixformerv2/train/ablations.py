"""The paper's questions as rows of tables: what differs from row to row, and the training of each.

``mixformerv2 train ablation-NAME`` trains one; ``benchmarks/ablations/run.py`` trains, tracks and measures them.
Of one table all rows have the same data, samples, batch and schedule, and each the losses that its head can take.
Rows with the same ``--output`` share their teachers, which are stages of their own there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mixformerv2.config import Config, ModelConfig, preset
from mixformerv2.data.augment import DegradeConfig
from mixformerv2.data.loader import DataConfig
from mixformerv2.data.plan import SampleConfig
from mixformerv2.data.views import ViewConfig
from mixformerv2.distill.shrink import skipped
from mixformerv2.train import stages
from mixformerv2.train.objective import LossWeights
from mixformerv2.train.optim import OptimConfig
from mixformerv2.train.stages import Recipe, StageConfig, sized

PREFIX = "ablation-"
SAMPLES = 24_000  # of every row, beside those of its teachers
HELD_OUT = ("TLD_jumping", "TLD_pedestrian2")  # of the development data's got10k/train
_BATCH = 32
_WINDOW_OF_224 = 144 / 224  # search factors as of a crop of 224 px, so that a token shows as much
_DATA = DataConfig(
    sample=SampleConfig({"coco": 0.8, "got10k": 0.2}, absent_share=0.06, held_out=HELD_OUT),
    views=ViewConfig(search_factor=2.9, centre_jitter=0.9, far_share=1.0),
    degrade=DegradeConfig(low_resolution_share=0.3),
)
_OPTIM = OptimConfig(
    trunk_lr=1e-4, fresh_lr=2e-4, clip_norm=1.0, warmup_samples=3_200, schedule="linear", decay_share=0.5
)
_SETTINGS: dict[str, Any] = {"data": _DATA, "batch": _BATCH, "optim": _OPTIM}


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

        def seeded(stage: StageConfig) -> StageConfig:
            stage = _longer(stage, samples / SAMPLES)
            if stage.name not in own:
                return stage
            start, teacher = (
                names.get(stage.start, stage.start),
                names.get(stage.teacher or "", stage.teacher),
            )
            return dataclasses.replace(stage, name=names[stage.name], start=start, teacher=teacher, seed=seed)

        *before, last = map(seeded, self.stages)
        # Rounded to batches one by one, those of two stages would not add up to those of one.
        mine = sum(stage.samples for stage in self.stages if stage.name in own)
        rest = sum(stage.samples for stage in before if stage.name in names.values())
        total = round(mine * samples / SAMPLES / _BATCH) * _BATCH
        last = dataclasses.replace(last, samples=max(total - rest, _BATCH))
        return Recipe(PREFIX + self.name, (*before, last))

    def config(self, trained: Config) -> Config:
        """How it tracks with a network whose config this is."""
        return dataclasses.replace(trained, tracker=dataclasses.replace(trained.tracker, **self.rules))


def _longer(stage: StageConfig, factor: float) -> StageConfig:
    def whole(samples: int, least: int = 0) -> int:
        return max(round(factor * samples / _BATCH) * _BATCH, least)

    optim = dataclasses.replace(stage.optim, warmup_samples=whole(stage.optim.warmup_samples))
    return dataclasses.replace(
        stage,
        samples=whole(stage.samples, _BATCH),
        auxiliary_samples=whole(stage.auxiliary_samples),
        optim=optim,
    )


@dataclass(frozen=True)
class Table:
    """Rows that are compared with one another; the first one is what the others are held against."""

    name: str
    question: int  # of QUESTIONS
    title: str
    rows: tuple[str, ...]
    note: str = ""


def losses_of(model: ModelConfig, **others: float) -> LossWeights:
    """The losses of all rows that this network can take, and others."""
    return LossWeights(
        **{
            **dict(ciou=0.0, giou=2.0, search_token=1.0),
            **dict(side=1.0 * model.has_distributions, centre=1.0 * (model.box_head == "centre")),
            **dict(attention=0.5 * (model.num_prediction_tokens == 4), score=0.3 * model.score_head),
            **others,
        }
    )


# Questions 1, 2 and 5: eight blocks, of which the first four stay those of the ViT-S --------------------------------


def _near(**changes: Any) -> Config:
    return sized(preset("compact"), **changes)


def _labels(name: str, says: str, target: Config | None = None, **settings: Any) -> Row:
    """From labels alone."""
    target = target or _near()
    defaults = {
        **_SETTINGS,
        "losses": losses_of(target.model),
        "frozen_blocks": 4,
        "auxiliary_samples": 3_200,
    }
    return Row(name, says, (stages.supervised(name, target, SAMPLES, "vit-s", **(defaults | settings)),))


_CORNER: dict[str, Any] = dict(box_head="corner", num_bins=36)
_PLAIN = losses_of(_near().model, side=0.0, attention=0.0)
_HEADS = (
    _labels("tokens", "four prediction tokens, a distribution of 96 bins each"),
    _labels("tokens-unscored", "the same without a score head", _near(score_head=False)),
    _labels("corner", "two dense corner maps", _near(**_CORNER)),
    _labels("corner-unscored", "the same without a score head", _near(**_CORNER, score_head=False)),
    _labels("centre", "dense maps of centre, offset and size", _near(box_head="centre")),
    _labels("centre-unscored", "the same without a score head", _near(box_head="centre", score_head=False)),
)
_REGRESSION = (
    _labels("tokens-plain", "four distributions without the losses on sides and attention", losses=_PLAIN),
    _labels("numbers", "four tokens, a number each", _near(regression="numbers")),
    _labels("one-token-numbers", "one token, four numbers", _near(prediction_tokens=1, regression="numbers")),
    _labels("one-token", "one token, four distributions", _near(prediction_tokens=1)),
)
_BINS = tuple(_labels(f"bins-{bins}", f"{bins} bins", _near(num_bins=bins)) for bins in (36, 72, 144))
_DESIGN = (
    _labels(
        "symmetric", "templates see the search region too; nothing is cached", _near(attention="symmetric")
    ),
    _labels(
        "labels-shifted",
        "labels half a pixel to the left and up, as released",
        data=dataclasses.replace(_DATA, label_shift_px=-0.5),
    ),
    Row(
        "update-off", "the online template stays the first one", of="tokens", rules={"update_threshold": 1.0}
    ),
    Row("three-templates", "two online templates", of="tokens", rules={"online_templates": 2}),
    *(
        Row(
            f"search-{factor}",
            f"search factor {factor} in terms of 224 px",
            of="tokens",
            rules={"search_factor": factor * _WINDOW_OF_224},
        )
        for factor in (4, 5)
    ),
)

# Question 3: taught by a dense twelve-block teacher -----------------------------------------------------------------

_TWELVE = _near(depth=12, num_bins=36)
_MIXVIT = sized(_TWELVE, box_head="corner")
_TAUGHT: dict[str, Any] = _SETTINGS | {"auxiliary_samples": 3_200}


def _teacher(name: str, samples: int = SAMPLES, start: str = "vit-s", seed: int = 0) -> StageConfig:
    return stages.supervised(
        name, _MIXVIT, samples, start, losses=losses_of(_MIXVIT.model), seed=seed, **_TAUGHT
    )


_FIRST_TEACHER = _teacher("teacher")
_FURTHER = tuple(_teacher(f"teacher-further-{seed}", SAMPLES // 2, "teacher", seed) for seed in (1, 2))
_AVERAGE = stages.AVERAGE + ",".join(stage.name for stage in _FURTHER)
_FROM_LABELS = losses_of(_TWELVE.model)
_FROM_LOGITS = losses_of(_TWELVE.model, divergence=5.0)
_FROM_FEATURES = losses_of(_TWELVE.model, divergence=5.0, features=0.2)
_SPARSE = stages.dense_to_sparse("sparse", _TWELVE, SAMPLES, "teacher", losses=_FROM_LOGITS, **_TAUGHT)


def _twelve(name: str, says: str, start: str) -> Row:
    stage = stages.supervised(name, _TWELVE, SAMPLES, start, losses=_FROM_LABELS, **_TAUGHT)
    return Row(name, says, (stage,) if start == "vit-s" else (_FIRST_TEACHER, stage))


_DENSE_TO_SPARSE = (
    _twelve("sparse-labels", "from labels alone", "vit-s"),
    _twelve("sparse-started", "from labels alone, started from the teacher's trunk", "teacher"),
    Row("sparse", "taught by the MixViT-S, started from its trunk", (_FIRST_TEACHER, _SPARSE)),
    Row(
        "sparse-average",
        "taught by the average of two teachers trained on from it, started from that",
        (
            *(_FIRST_TEACHER, *_FURTHER),
            stages.dense_to_sparse(
                "sparse-average", _TWELVE, SAMPLES, _AVERAGE, losses=_FROM_LOGITS, **_TAUGHT
            ),
        ),
    ),
    Row("teacher", "the MixViT-S itself", (_FIRST_TEACHER,)),
)
_TEACHERS = (_FIRST_TEACHER, _SPARSE)


def _shallow(name: str, blocks: int, losses: LossWeights = _FROM_FEATURES, **settings: Any) -> StageConfig:
    """A student of so many blocks, taught by the twelve."""
    defaults: dict[str, Any] = _TAUGHT | {"samples": SAMPLES, "teacher": "sparse", "teacher_depth": 12}
    if not losses.features:
        defaults["feature_layers"] = ()
    settings = defaults | settings
    return stages.deep_to_shallow(name, sized(_TWELVE, depth=blocks), losses=losses, **settings)


def _faded(name: str, says: str, blocks: int, share: float, remove: tuple[int, ...]) -> Row:
    """A share of the samples while blocks fade, the others without them."""
    fading = round(share * SAMPLES / _BATCH) * _BATCH
    fade = stages.fade_blocks(
        *(f"{name}.fade", sized(_TWELVE, depth=blocks), fading, "sparse", remove),
        **_TAUGHT | {"losses": _FROM_FEATURES, "auxiliary_samples": 0},
    )
    after = _shallow(name, blocks, samples=SAMPLES - fading, start=fade.name, auxiliary_samples=0)
    return Row(name, says, (*_TEACHERS, fade, after))


def _to(word: str, blocks: int) -> tuple[Row, ...]:
    """Twelve blocks made fewer, in each of the ways."""
    target, removed = sized(_TWELVE, depth=blocks), skipped(12, blocks)

    def from_labels(name: str, start: str) -> StageConfig:
        return stages.supervised(name, target, SAMPLES, start, losses=_FROM_LABELS, **_TAUGHT)

    replaced = stages.replace_blocks(
        f"{word}-replaced", target, SAMPLES, "sparse", **_TAUGHT | {"losses": _FROM_FEATURES}
    )
    return (
        Row(
            f"{word}-scratch",
            f"labels alone, started from the first {blocks} blocks of the ViT-S",
            (from_labels(f"{word}-scratch", "vit-s"),),
        ),
        Row(
            f"{word}-skipped",
            "labels alone, started from every so many of the twelve blocks",
            (*_TEACHERS, from_labels(f"{word}-skipped", "sparse")),
        ),
        Row(
            f"{word}-logits",
            "the same start, taught by distributions",
            (*_TEACHERS, _shallow(f"{word}-logits", blocks, _FROM_LOGITS)),
        ),
        Row(
            f"{word}-features",
            "by distributions and tokens; blocks removed at once",
            (*_TEACHERS, _shallow(f"{word}-features", blocks)),
        ),
        _faded(f"{word}-fade-short", "blocks fade over a tenth of the samples", blocks, 0.1, removed),
        _faded(f"{word}-fade-long", "blocks fade over half of the samples", blocks, 0.5, removed),
        _faded(
            f"{word}-fade-last",
            "the last blocks fade over a tenth of the samples",
            *(blocks, 0.1, tuple(range(blocks, 12))),
        ),
        Row(f"{word}-replaced", "CompressTracker's replacement", (*_TEACHERS, replaced)),
    )


_VIA_EIGHT = _shallow("four-via-eight", 4, teacher="eight-features", teacher_depth=8)
_DEEP_TO_SHALLOW = (
    *_to("eight", 8),
    *_to("four", 4),
    Row(
        "four-via-eight",
        "as four-features, taught by the eight blocks of eight-features",
        (*_TEACHERS, _shallow("eight-features", 8), _VIA_EIGHT),
    ),
)

# Question 4: all blocks are trained ---------------------------------------------------------------------------------


def _cheaper(name: str, says: str, **changes: Any) -> Row:
    return _labels(name, says, _near(**changes), frozen_blocks=0)


_COST = (
    *(_cheaper(f"mlp-{ratio:g}", f"MLP ratio {ratio:g}", mlp_ratio=ratio) for ratio in (4.0, 2.0, 1.0, 0.5)),
    *(_cheaper(f"depth-{depth}", f"{depth} blocks", depth=depth) for depth in (12, 6, 4, 3)),
)

# All of it ----------------------------------------------------------------------------------------------------------

_ALL = (*_HEADS, *_REGRESSION, *_BINS, *_DENSE_TO_SPARSE, *_DEEP_TO_SHALLOW, *_COST, *_DESIGN)
ROWS: dict[str, Row] = {row.name: row for row in _ALL}
QUESTIONS = {
    1: "Token heads against dense heads",
    2: "How tokens regress",
    3: "Distillation",
    4: "MLP reduction and depth",
    5: "What the design rests on",
}
_LOSSES_DIFFER = (
    "A loss on distributions is there where there are distributions, and one on what each side's token looks at where "
    "each side has a token."
)


def _names(rows: tuple[Row, ...], start: str = "") -> tuple[str, ...]:
    return tuple(row.name for row in rows if row.name.startswith(start))


TABLES: tuple[Table, ...] = (
    Table(
        *("heads", 1, "Heads, each with and without its score part", _names(_HEADS)),
        note=f"{_LOSSES_DIFFER} Without a score the first crop of every interval becomes the online template.",
    ),
    Table(
        *("regression", 2, "Tokens and what they say", ("tokens", *_names(_REGRESSION))),
        note=f"{_LOSSES_DIFFER} `tokens-plain` shows how much of a difference is due to them.",
    ),
    Table("bins", 2, "Number of bins", ("tokens", *_names(_BINS))),
    Table(
        *("dense-to-sparse", 3, "From the dense teacher to twelve sparse blocks", _names(_DENSE_TO_SPARSE)),
        note="The ViT-S ends at twelve blocks, and teacher and student see the same crops: neither more blocks nor a "
        "larger input makes a stronger teacher here, but an average of weights does not cost a student anything.",
    ),
    Table("to-eight", 3, "From twelve blocks to eight", _names(_DEEP_TO_SHALLOW, "eight-")),
    Table("to-four", 3, "From twelve blocks to four", _names(_DEEP_TO_SHALLOW, "four-")),
    Table("mlp", 4, "MLP ratio", _names(_COST, "mlp-")),
    Table("depth", 4, "Depth", ("mlp-4", *_names(_COST, "depth-")), note="`mlp-4` has eight blocks."),
    Table("attention", 5, "Mixed attention", ("tokens", "symmetric")),
    Table(
        *("templates", 5, "Templates and their update", ("tokens", "update-off", "three-templates")),
        note="One network, tracked with in three ways. `tokens` keeps the first template and one online template; "
        "with the update off that is the first template twice, which stands for a single one.",
    ),
    Table(
        *("search-factor", 5, "Search factor while tracking", ("tokens", "search-4", "search-5")),
        note="One network, trained with the factor of `tokens`, which is 4.5 in terms of 224 px.",
    ),
    Table("labels", 5, "Centring of labels", ("tokens", "labels-shifted")),
)

RECIPES: dict[str, Callable[[], Recipe]] = {
    PREFIX + name: row.recipe for name, row in ROWS.items() if row.stages
}


def summary() -> list[str]:
    """A line for each table, for the list of recipes."""
    return [
        f"{PREFIX}NAME, question {table.question}, {table.title.lower()}: "
        + ", ".join(name for name in table.rows if ROWS[name].stages)
        for table in TABLES
        if any(ROWS[name].stages for name in table.rows[1:])
    ]
