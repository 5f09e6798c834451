"""Question 3: taught by a dense teacher of twelve blocks. All blocks are trained."""

from __future__ import annotations

from typing import Any

from mixformerv2.train import stages
from mixformerv2.train.ablations.row import SAMPLES, SETTINGS, Row, Table, losses_of, near, row_names
from mixformerv2.train.ablations.shrinking import Origin
from mixformerv2.train.stages import StageConfig, sized

_TWELVE = near(depth=12, num_bins=36)
_MIXVIT = sized(_TWELVE, box_head="corner")


def _teacher(name: str, samples: int = SAMPLES, start: str = "vit-s", seed: int = 0) -> StageConfig:
    losses = losses_of(_MIXVIT.model)
    return stages.supervised(name, _MIXVIT, samples, start, losses=losses, seed=seed, **SETTINGS)


_FIRST_TEACHER = _teacher("teacher")
_FURTHER = tuple(_teacher(f"teacher-further-{seed}", SAMPLES // 2, "teacher", seed) for seed in (1, 2))
_AVERAGE = stages.AVERAGE + ",".join(stage.name for stage in _FURTHER)
_FROM_LABELS = losses_of(_TWELVE.model)


def _unaided(name: str, says: str, start: str) -> Row:
    stage = stages.supervised(name, _TWELVE, SAMPLES, start, losses=_FROM_LABELS, **SETTINGS)
    return Row(name, says, (stage,) if start == "vit-s" else (_FIRST_TEACHER, stage))


def _sparse(name: str, teacher: str) -> StageConfig:
    losses = losses_of(_TWELVE.model, divergence=5.0)
    return stages.dense_to_sparse(name, _TWELVE, SAMPLES, teacher, losses=losses, **SETTINGS)


_DENSE_TO_SPARSE = (
    _unaided("sparse-labels", "from labels alone", "vit-s"),
    _unaided("sparse-started", "from labels alone, started from the teacher's trunk", "teacher"),
    Row(
        "sparse",
        "taught by the MixViT-S, started from its trunk",
        (_FIRST_TEACHER, _sparse("sparse", "teacher")),
    ),
    Row(
        "sparse-average",
        "taught by the average of two teachers trained on from it, started from that",
        (_FIRST_TEACHER, *_FURTHER, _sparse("sparse-average", _AVERAGE)),
    ),
    Row("teacher", "the MixViT-S itself", (_FIRST_TEACHER,)),
)
_AUXILIARY: dict[str, Any] = {"auxiliary_samples": SETTINGS["auxiliary_samples"]}
_SPARSE = Origin(
    "sparse",
    _TWELVE,
    labels=_FROM_LABELS,
    settings={name: value for name, value in SETTINGS.items() if name not in _AUXILIARY},
    at_once=_AUXILIARY,
    before=(_FIRST_TEACHER, _sparse("sparse", "teacher")),
)
_EIGHT, _FOUR = _SPARSE.in_each_way("eight", 8), _SPARSE.in_each_way("four", 4)
_EIGHT_FEATURES = next(row for row in _EIGHT if row.name == "eight-features")
_VIA_EIGHT = Row(
    "four-via-eight",
    "as four-features, taught by the eight blocks of eight-features",
    (
        *_EIGHT_FEATURES.stages,
        _SPARSE.student(
            *("four-via-eight", _SPARSE.features, {"depth": 4}), teacher="eight-features", teacher_depth=8
        ),
    ),
)

ROWS = (*_DENSE_TO_SPARSE, *_EIGHT, *_FOUR, _VIA_EIGHT)
TABLES = (
    Table(
        *(
            "dense-to-sparse",
            3,
            "From the dense teacher to twelve sparse blocks",
            row_names(_DENSE_TO_SPARSE),
        ),
        note="The ViT-S ends at twelve blocks, and teacher and student see the same crops: neither more blocks nor a "
        "larger input makes a stronger teacher here, but an average of weights does not cost a student anything.",
    ),
    Table("to-eight", 3, "From twelve blocks to eight", row_names(_EIGHT)),
    Table("to-four", 3, "From twelve blocks to four", (*row_names(_FOUR), _VIA_EIGHT.name)),
)
