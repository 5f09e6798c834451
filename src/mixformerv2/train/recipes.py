"""Complete trainings by name: functions that return a frozen recipe and say its command, hardware and score.

Each runs with ``mixformerv2 train NAME --data DIR --output DIR``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mixformerv2.config import DEFAULT_MODEL, Config, ModelConfig, preset
from mixformerv2.data.augment import DegradeConfig
from mixformerv2.data.loader import DataConfig
from mixformerv2.data.plan import SampleConfig
from mixformerv2.data.views import ViewConfig
from mixformerv2.plugins import find_function
from mixformerv2.train import ablations, stages
from mixformerv2.train.objective import LossWeights
from mixformerv2.train.optim import OptimConfig
from mixformerv2.train.shipped import compact_from_labels, tiny_from_compact
from mixformerv2.train.stages import Recipe, StageConfig, sized

# The paper's pipeline -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Samples:
    """How long each kind of stage of a pipeline trains."""

    teacher: int
    sparse: int
    fade: int
    shallow: int
    score: int


# 500 epochs of 60,000 pairs, 40 of them for the fade, and 40 for the score head.
_PUBLISHED_SAMPLES = Samples(
    teacher=30_000_000, sparse=30_000_000, fade=2_400_000, shallow=27_600_000, score=2_400_000
)
_PUBLISHED_DATA = DataConfig(
    sample=SampleConfig(
        weights={"got10k": 1.0, "lasot": 1.0, "coco": 1.0, "trackingnet": 1.0},
        max_gap_frames=200,
        absent_share=0.0,
        paste_share=0.0,
        beyond_share=0.0,
        crowd_search_share=0.0,
        crowd_online_share=0.0,
    ),
    # Width and height of what the window is laid around are off by exp(N(0, 0.5)) each, and so the root of its area by
    # 0.5 / sqrt(2); its centre lies anywhere in 4.5 of such sides.
    views=ViewConfig(
        centre_jitter=2.25,
        jitter_grows=True,
        far_share=1.0,
        scale_jitter=0.5 / math.sqrt(2),
        rotation_deg=0.0,
        aspect_jitter=0.0,
        online_scale_jitter=0.0,
        online_deviation=0.0,
        online_aspect_jitter=0.0,
    ),
    degrade=DegradeConfig(
        grey_share=0.05,
        saturation=0.0,
        contrast=0.0,
        brightness=0.12,
        tint=0.0,
        blur_share=0.0,
        low_resolution_share=0.0,
        noise_share=0.0,
        jpeg_share=0.0,
    ),
)
_REMOVED_BLOCKS = (0, 3, 6, 9)


def _to_eight_blocks(
    target: Config, teacher: Config, teacher_start: str, samples: Samples, settings: dict[str, Any]
) -> tuple[StageConfig, ...]:
    """A dense teacher, a sparse student of twelve blocks, and one of eight, ``target`` without its score head."""
    twelve = sized(target, depth=12, mlp_ratio=4.0, score_head=False)
    eight = sized(twelve, depth=8)
    return (
        stages.supervised("teacher", teacher, samples.teacher, teacher_start, **settings),
        stages.dense_to_sparse("sparse", twelve, samples.sparse, "teacher", **settings),
        stages.fade_blocks("fade", eight, samples.fade, "sparse", _REMOVED_BLOCKS, **settings),
        stages.deep_to_shallow("eight", eight, samples.shallow, "sparse", 12, start="fade", **settings),
    )


def base() -> Recipe:
    """MixFormerV2-B as published: MixViT-B teacher, 12 sparse blocks, 8 blocks, score head.

    ``mixformerv2 train base --data DIR --output DIR --init mae:mae_pretrain_vit_base.pth``, with GOT-10k, LaSOT, COCO
    and TrackingNet in DIR. Eight GPUs as published; hours and score were not measured here.
    """
    target = sized(preset("base"), num_bins=72)
    data = dataclasses.replace(
        _PUBLISHED_DATA, views=dataclasses.replace(_PUBLISHED_DATA.views, search_factor=5.0)
    )
    settings: dict[str, Any] = {"data": data, "batch": 256}
    samples = _PUBLISHED_SAMPLES
    to_eight = _to_eight_blocks(target, preset("mixvit-b"), f"mae:{stages.UNNAMED}", samples, settings)
    return Recipe("base", (*to_eight, stages.score_head("base", target, samples.score, "eight", **settings)))


def small() -> Recipe:
    """MixFormerV2-S: as ``base`` at 224 px, then four blocks with MLP ratio 1, taught by the eight.

    ``mixformerv2 train small --data DIR --output DIR --init mae:mae_pretrain_vit_base.pth``, with GOT-10k, LaSOT, COCO
    and TrackingNet in DIR. The way to S was never released: this follows the paper's text. Eight GPUs; hours and score
    were not measured here.
    """
    target = sized(preset("small"), num_bins=56)
    teacher = sized(preset("mixvit-b"), search_px=224, template_px=112, num_bins=56)
    settings: dict[str, Any] = {"data": _PUBLISHED_DATA, "batch": 256}
    samples = _PUBLISHED_SAMPLES
    return Recipe(
        "small",
        (
            *_to_eight_blocks(target, teacher, f"mae:{stages.UNNAMED}", samples, settings),
            stages.deep_to_shallow(
                "four", sized(target, score_head=False), samples.shallow, "eight", 8, **settings
            ),
            stages.score_head("small", target, samples.score, "four", **settings),
        ),
    )


# Ours, 384 wide -----------------------------------------------------------------------------------------------------

_OUR_SAMPLES = Samples(teacher=2_000_000, sparse=2_000_000, fade=300_000, shallow=2_000_000, score=200_000)


def compact_and_tiny() -> Recipe:
    """Our models: MixViT-S from the ViT-S, 12 sparse blocks, 8, 4 with MLP ratio 1; at 224 px.

    ``mixformerv2 train compact-and-tiny --data DIR --output DIR --device cuda --workers 12
    --set data.chunk=256``. For one large GPU; hours and score are not measured yet.
    """
    compact, tiny = (sized(preset(name), num_bins=56) for name in ("compact-224", "tiny-224"))
    settings: dict[str, Any] = {
        # Examples without their target teach the score head alone.
        "data": DataConfig(SampleConfig(weights={"coco": 0.8, "got10k": 0.2}, absent_share=0.0), chunk=64),
        "batch": 256,
        "optim": OptimConfig(
            trunk_lr=1.5e-4, clip_norm=1.0, warmup_samples=20_000, schedule="cosine", decay_share=1.0
        ),
    }
    scoring = {"data": settings["data"], "batch": settings["batch"]}
    samples = _OUR_SAMPLES
    dense = sized(preset("mixvit-s"), learned_positions=True)
    teacher, sparse, fade, eight = _to_eight_blocks(compact, dense, "vit-s", samples, settings)
    # The dense head learns faster when its tokens are told apart, the sparse one does not start without.
    teacher = dataclasses.replace(teacher, losses=LossWeights(side=1.0, search_token=1.0))
    sparse = dataclasses.replace(
        sparse, losses=LossWeights(divergence=5.0, side=1.0, search_token=1.0, attention=0.5)
    )
    return Recipe(
        "compact-and-tiny",
        (
            *(teacher, sparse, fade, eight),
            stages.score_head("compact", compact, samples.score, "eight", **scoring),
            stages.deep_to_shallow(
                "four", sized(tiny, score_head=False), samples.shallow, "eight", 8, **settings
            ),
            stages.score_head("tiny", tiny, samples.score, "four", **scoring),
        ),
    )


def tiny_by_replacement() -> Recipe:
    """``tiny`` from the eight-block model by CompressTracker's replacement training, instead of ``compact-and-tiny``'s.

    ``mixformerv2 train tiny-by-replacement --data DIR --output DIR --set four:teacher=RUN/eight/last.safetensors
    --set four:start=RUN/eight/last.safetensors``. Not measured yet.
    """
    whole = compact_and_tiny()
    eight, four, tiny = (whole.stages[index] for index in (3, 5, 6))
    replaced = stages.replace_blocks(
        "four",
        four.target,
        four.samples,
        stages.UNNAMED,
        data=eight.data,
        batch=eight.batch,
        optim=eight.optim,
    )
    return Recipe("tiny-by-replacement", (replaced, tiny))


# On any data --------------------------------------------------------------------------------------------------------


def finetune() -> Recipe:
    """A shipped model on your own few clips: ``--init`` chooses which, the default model if not said.

    ``mixformerv2 train finetune --data my_clips --output runs/mine``. The last part of every clip is held back and the
    model measured on it before and after, on a set given with ``--guard`` as well.
    """
    return Recipe(
        "finetune",
        (
            stages.supervised(
                "finetune",
                preset(DEFAULT_MODEL),
                6_400,
                DEFAULT_MODEL,
                data=DataConfig(sample=SampleConfig(max_gap_frames=100)),
                losses=LossWeights(ciou=0.0, giou=2.0, side=1.0, overlap=0.3),
                optim=OptimConfig(
                    lr=4e-5,
                    trunk_lr=2e-5,
                    clip_norm=1.0,
                    warmup_samples=640,
                    schedule="cosine",
                    decay_share=1.0,
                ),
            ),
        ),
    )


def smoke() -> Recipe:
    """Every kind of stage with networks of toy size, in two minutes on a CPU: shows that all parts work together.

    ``mixformerv2 train smoke --data DIR --output DIR`` on any data. The models it makes follow nothing.
    """
    sizes: dict[str, Any] = dict(
        dim=48, heads=3, search_px=64, template_px=32, num_bins=16, head_norm=True, learned_positions=True
    )
    compact = Config(ModelConfig(depth=4, mlp_ratio=2.0, **sizes))
    teacher = Config(ModelConfig(depth=6, mlp_ratio=2.0, box_head="corner", score_head=False, **sizes))
    settings: dict[str, Any] = {
        "data": DataConfig(SampleConfig(), chunk=16),
        "batch": 16,
        "optim": OptimConfig(
            lr=2e-3,
            trunk_lr=1e-3,
            clip_norm=1.0,
            warmup_samples=64,
            schedule="linear",
            decay_share=1.0,
            ema_decay=0.9,
        ),
    }
    six, four, two = (
        sized(compact, depth=depth, mlp_ratio=ratio, score_head=False)
        for depth, ratio in ((6, 2.0), (4, 2.0), (2, 0.5))
    )
    scored, samples = sized(two, score_head=True), 16 * 30
    return Recipe(
        "smoke",
        (
            stages.supervised("teacher", teacher, samples, "random", **settings),
            stages.dense_to_sparse("sparse", six, samples, "teacher", **settings),
            stages.fade_blocks("fade", four, samples, "sparse", (0, 3), **settings),
            stages.deep_to_shallow("four", four, samples, "sparse", 6, start="fade", **settings),
            stages.deep_to_shallow("two", two, samples, "four", 4, **settings),
            stages.replace_blocks("two-replaced", two, samples, "four", **settings),
            stages.score_head("scored", scored, samples, "two", data=settings["data"], batch=16),
        ),
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    "base": base,
    "small": small,
    "compact-and-tiny": compact_and_tiny,
    "tiny-by-replacement": tiny_by_replacement,
    "compact-from-labels": compact_from_labels,
    "tiny-from-compact": tiny_from_compact,
    "finetune": finetune,
    "smoke": smoke,
}


def recipe_called(name: str) -> Recipe:
    """A recipe by its name, or of one's own: ``path/file.py:function`` or ``module:function``, which returns it.

    Raises ValueError, with the names that there are, or FileNotFoundError or ModuleNotFoundError.
    """
    if ":" in name:
        return _of_ones_own(name)
    known = RECIPES | ablations.RECIPES
    if name not in known:
        of_ablations = f"{ablations.PREFIX}NAME, of which --list shows the names"
        raise ValueError(
            f"no recipe is called {name!r}: choose one of {', '.join([*RECIPES, of_ablations])}, or "
            "FILE.py:FUNCTION for one of your own"
        )
    return known[name]()


def _of_ones_own(target: str) -> Recipe:
    function = find_function(target, f"the recipe {target}")
    try:
        made = function()
    except Exception as error:  # whatever a stranger's function raises
        raise ValueError(f"the recipe {target} cannot be made: {type(error).__name__}: {error}") from error
    if not isinstance(made, Recipe):
        raise ValueError(
            f"the recipe {target} must return a mixformerv2.train.stages.Recipe, got {type(made).__name__}"
        )
    return made
