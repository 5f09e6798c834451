"""Complete trainings by name: functions that return a frozen config and say its command, hardware and score."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from mixformerv2.config import Config, preset
from mixformerv2.data.pairs import PairConfig
from mixformerv2.train.supervised import LossWeights


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with warm-up, a plateau and a linear fall to zero at the end of the run."""

    lr: float = 4e-4  # heads
    fresh_lr: float = 1.5e-4  # prediction tokens and the last block
    trunk_lr: float = 1.5e-4
    weight_decay: float = 1e-4
    clip_norm: float = 1.0
    warmup_steps: int = 200
    decay_share: float = 0.35  # of the run's samples over which the rate falls
    ema_decay: float = 0.999


@dataclass(frozen=True)
class TrainConfig:
    """One training run."""

    name: str
    target: Config  # what is shipped; the run may train at a smaller input
    search_px: int
    template_px: int
    samples: int
    batch: int = 32
    video_share: float = 0.2
    boxes_after_samples: int = 0  # before, only the auxiliary losses teach: the trunk learns to find first
    pairs: PairConfig = field(default_factory=PairConfig)
    losses: LossWeights = field(default_factory=LossWeights)
    optim: OptimConfig = field(default_factory=OptimConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch < 8 or self.samples < self.batch:
            # A batch without a target in sight has no loss; from 8 on that does not happen.
            raise ValueError(
                f"batch must be at least 8 and samples at least one batch, got {self.batch} and {self.samples}"
            )


def tiny_small_input() -> TrainConfig:
    """First part of the first ``tiny``: a 144 px window and one template, where a CPU sees twice the samples.

    ``mixformerv2 train tiny-small-input --data DIR --output DIR``
    """
    target = preset("tiny")
    return TrainConfig(
        name="tiny-small-input",
        target=target,
        search_px=144,
        template_px=112,
        samples=400_000,
        # The window is smaller, not coarser: a token shows as much of the target as it will at 224 px. Targets lie
        # anywhere in it, so that no guess at the centre competes with finding.
        pairs=PairConfig(
            search_factor=2.9, centre_jitter=0.9, far_share=1.0, absent_share=0.08, online_templates=0
        ),
        boxes_after_samples=12_800,
        optim=OptimConfig(decay_share=0.0),
    )


def tiny_full_input() -> TrainConfig:
    """Second part: from the first one's weights, at the input that is shipped, with an online template.

    ``mixformerv2 train tiny-full-input --data DIR --output DIR --init runs/tiny-small-input/last.safetensors``
    """
    return TrainConfig(
        name="tiny-full-input",
        target=preset("tiny"),
        search_px=224,
        template_px=112,
        samples=44_800,
        boxes_after_samples=640,  # the probe on the search tokens starts anew
        losses=LossWeights(giou=2.0),  # harmless once the sides are told apart
        optim=OptimConfig(warmup_steps=100, decay_share=0.7),
    )


RECIPES: dict[str, Callable[[], TrainConfig]] = {
    "tiny-small-input": tiny_small_input,
    "tiny-full-input": tiny_full_input,
}
