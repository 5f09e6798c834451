"""The shipped models' recipes, for a CPU: ``compact`` from labels alone, and ``tiny`` out of it."""

from __future__ import annotations

import dataclasses
from typing import Any

from mixformerv2.config import preset
from mixformerv2.data.augment import DegradeConfig
from mixformerv2.data.loader import DataConfig
from mixformerv2.data.plan import SampleConfig
from mixformerv2.data.views import ViewConfig
from mixformerv2.train import stages
from mixformerv2.train.objective import LossWeights
from mixformerv2.train.optim import OptimConfig
from mixformerv2.train.stages import Recipe, sized

_FIRST_LOSSES = LossWeights(ciou=0.0, giou=0.5, side=1.0, search_token=1.0, attention=0.5, score=0.3)

# Parts and stretched pictures: the network has to read from the template what its target is and of what shape. Half of
# the targets lie near the middle, where a tracker looks, so that of two alike it takes the nearer.
_FOLLOWING = DataConfig(
    SampleConfig(
        weights={"coco": 0.65, "got10k": 0.15, "folder": 0.2},
        online_templates=0,
        absent_share=0.06,
        part_share=0.35,
    ),
    ViewConfig(search_factor=2.9, centre_jitter=0.9, far_share=0.5, near_deviation=0.2, shape_jitter=0.4),
    DegradeConfig(low_resolution_share=0.4, low_resolution_factors=(1.5, 2.0, 3.0, 4.0)),
)
# Online templates are far off and search windows of very different scales: what the box is must come from the first
# template, for whatever is taken from the tracker's own boxes comes back in the next ones.
_REFRESHED = dataclasses.replace(
    _FOLLOWING,
    sample=dataclasses.replace(_FOLLOWING.sample, online_templates=1, absent_share=0.15),
    views=dataclasses.replace(
        _FOLLOWING.views, scale_jitter=0.5, online_scale_jitter=0.25, online_deviation=0.15
    ),
)
# More of moving pictures, and light that changes by more than a cloud does: cars under bridges, faces in dark rooms.
_LONGER = dataclasses.replace(
    _REFRESHED,
    sample=dataclasses.replace(
        _REFRESHED.sample,
        weights={"coco": 0.58, "got10k": 0.1, "folder": 0.32},
        absent_share=0.1,
        part_share=0.3,
    ),
    degrade=dataclasses.replace(
        _REFRESHED.degrade, brightness=0.3, contrast=0.25, tint=0.06, shade_share=0.3
    ),
)
# Templates of the tracker's own that mark its box as wrong as it may become: what the box is, is for the first to say.
WARY = dataclasses.replace(
    _LONGER,
    views=dataclasses.replace(
        _LONGER.views, online_scale_jitter=0.35, online_deviation=0.2, online_aspect_jitter=0.25
    ),
)
# Stills are stiff, and divers bend: targets turn further and change their form, and their boxes follow. Where the
# target has been, and where it never was, is nothing that scores.
_PLIANT = dataclasses.replace(
    WARY,
    sample=dataclasses.replace(WARY.sample, away_share=0.08),
    views=dataclasses.replace(WARY.views, rotation_deg=25.0, aspect_jitter=0.2, bend_share=0.5),
)
_LATER_LOSSES = dataclasses.replace(_FIRST_LOSSES, giou=2.0)
_JUDGING_LOSSES = dataclasses.replace(_LATER_LOSSES, score=0.0, overlap=0.5)
_FALLING: dict[str, Any] = {"schedule": "linear", "decay_share": 1.0}  # rates, over a whole stage


def compact_from_labels() -> Recipe:
    """``compact`` from labels alone on a CPU, half of the ViT-S as it is: first to find, then what to follow.

    ``mixformerv2 train compact-from-labels --data DIR --output DIR``, with stills in COCO's layout, GOT-10k and a
    folder of annotated clips in DIR. Two CPU cores; hours and score are in ``docs/training-runs.md``.
    """
    target = preset("compact")
    optim = OptimConfig(
        lr=4e-4, trunk_lr=1e-4, fresh_lr=2e-4, clip_norm=1.0, warmup_samples=3_200, schedule="constant"
    )
    slower = dataclasses.replace(optim, lr=2e-4, trunk_lr=7e-5, fresh_lr=1e-4, warmup_samples=640, **_FALLING)
    finding = DataConfig(
        SampleConfig(
            weights={"coco": 0.7, "got10k": 0.15, "folder": 0.15}, online_templates=0, absent_share=0.06
        ),
        ViewConfig(search_factor=2.9, centre_jitter=0.9, far_share=1.0),
        DegradeConfig(low_resolution_share=0.3),
    )
    return Recipe(
        "compact-from-labels",
        (
            stages.supervised(
                "finding",
                target,
                40_288,
                "vit-s",
                frozen_blocks=4,
                auxiliary_samples=6_400,
                data=finding,
                losses=_FIRST_LOSSES,
                optim=optim,
            ),
            stages.supervised(
                "following",
                target,
                56_000,
                "finding",
                frozen_blocks=4,
                data=_FOLLOWING,
                losses=_LATER_LOSSES,
                optim=dataclasses.replace(optim, warmup_samples=1_600),
            ),
            stages.supervised(
                "refreshed",
                target,
                64_000,
                "following",
                frozen_blocks=4,
                data=_REFRESHED,
                losses=_JUDGING_LOSSES,
                optim=dataclasses.replace(optim, warmup_samples=640, **_FALLING),
            ),
            stages.supervised(
                "longer",
                target,
                96_000,
                "refreshed",
                frozen_blocks=4,
                data=_LONGER,
                losses=_JUDGING_LOSSES,
                optim=dataclasses.replace(optim, lr=3e-4, fresh_lr=1.5e-4, warmup_samples=1_600),
            ),
            stages.supervised(
                "wary",
                target,
                96_000,
                "longer",
                frozen_blocks=4,
                data=WARY,
                losses=_JUDGING_LOSSES,
                optim=slower,
            ),
            stages.supervised(
                "pliant",
                target,
                160_000,
                "wary",
                frozen_blocks=4,
                data=_PLIANT,
                losses=_JUDGING_LOSSES,
                optim=slower,
            ),
        ),
        result="average:wary,pliant",
    )


def tiny_from_compact() -> Recipe:
    """``tiny`` from the shipped ``compact``: MLPs of a quarter at once, then half of its blocks, two at a time.

    The blocks that go are those that are missed least, of the six again; narrower MLPs cost little from the start.

    ``mixformerv2 train tiny-from-compact --data DIR --output DIR``, with the data of ``compact-from-labels``. Two CPU
    cores; hours and score are in ``docs/training-runs.md``.
    """
    tiny = preset("tiny")
    optim = OptimConfig(
        lr=2e-4, trunk_lr=4e-5, fresh_lr=8e-5, clip_norm=1.0, warmup_samples=1_600, schedule="constant"
    )
    losses = dataclasses.replace(_JUDGING_LOSSES, divergence=5.0, features=0.2)
    settings: dict[str, Any] = {"data": _REFRESHED, "losses": losses, "optim": optim}
    layers = ((0, 3), (1, 5), (2, 6), (3, 7))  # of the four blocks that are left, and of the eight
    return Recipe(
        "tiny-from-compact",
        (
            stages.fade_blocks("six", sized(tiny, depth=6), 24_000, "compact", (1, 2), **settings),
            # Of the eight 0, 4, 6 and 7 are left. What a block gives is compared with what came where the next one left
            # was to begin.
            stages.fade_blocks(
                "four",
                tiny,
                24_000,
                "compact",
                (1, 3),
                start="six",
                feature_layers=((0, 2), (2, 4), (4, 6), (5, 7)),
                **settings,
            ),
            stages.deep_to_shallow(
                "settled",
                tiny,
                40_000,
                "compact",
                8,
                start="four",
                feature_layers=layers,
                **settings | {"optim": dataclasses.replace(optim, **_FALLING)},
            ),
            stages.deep_to_shallow(
                "again",
                tiny,
                32_000,
                "compact",
                8,
                start="settled",
                feature_layers=layers,
                data=WARY,
                losses=losses,
                optim=dataclasses.replace(
                    optim,
                    lr=8e-5,
                    trunk_lr=2.5e-5,
                    fresh_lr=5e-5,
                    warmup_samples=3_200,
                    **_FALLING,
                ),
            ),
            # With patches as they are the rest can learn three times as fast.
            stages.deep_to_shallow(
                "further",
                tiny,
                176_000,
                "compact",
                8,
                start="again",
                feature_layers=layers,
                frozen_embedding=True,
                data=WARY,
                losses=losses,
                optim=dataclasses.replace(
                    optim, trunk_lr=7e-5, fresh_lr=1e-4, warmup_samples=3_200, **_FALLING
                ),
            ),
        ),
    )
