"""Ways to make a trained network shallower or narrower, each of them a row: what questions 3 and 4 are made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mixformerv2.config import Config
from mixformerv2.distill.shrink import skipped
from mixformerv2.train import stages
from mixformerv2.train.ablations.row import BATCH, SAMPLES, SETTINGS, Row
from mixformerv2.train.objective import LossWeights
from mixformerv2.train.stages import StageConfig, sized


@dataclass(frozen=True)
class Origin:
    """A trained network: the start and the teacher of those that are made of it."""

    name: str  # a stage, or a shipped model
    target: Config
    labels: LossWeights  # what is learned without a teacher
    settings: Mapping[str, Any]  # of every row
    at_once: Mapping[str, Any]  # of those that start from some of its blocks
    before: tuple[StageConfig, ...] = ()  # that make it

    @property
    def logits(self) -> LossWeights:
        return dataclasses.replace(self.labels, divergence=5.0)

    @property
    def features(self) -> LossWeights:
        return dataclasses.replace(self.logits, features=0.2)

    def unaided(self, name: str, says: str, blocks: int, start: str) -> Row:
        """From labels alone, started from the ViT-S or from this network."""
        target, is_scratch = sized(self.target, depth=blocks), start != self.name
        others = {"auxiliary_samples": SETTINGS["auxiliary_samples"]} if is_scratch else self.at_once
        settings = {**self.settings, **others, "losses": self.labels}
        stage = stages.supervised(name, target, SAMPLES, start, **settings)
        return Row(name, says, (stage,) if is_scratch else (*self.before, stage))

    def taught(self, name: str, says: str, losses: LossWeights | None = None, **sizes: Any) -> Row:
        """The sizes changed at once, and taught by this network's distributions and, without ``losses``, tokens."""
        return Row(name, says, (*self.before, self.student(name, losses or self.features, sizes)))

    def student(
        self, name: str, losses: LossWeights, sizes: Mapping[str, Any], **settings: Any
    ) -> StageConfig:
        unmatched: dict[str, Any] = {} if losses.features else {"feature_layers": ()}
        defaults: dict[str, Any] = {
            **self.settings,
            **self.at_once,
            **unmatched,
            "samples": SAMPLES,
            "teacher": self.name,
            "teacher_depth": self.target.model.depth,
        }
        return stages.deep_to_shallow(
            name, sized(self.target, **sizes), losses=losses, **(defaults | settings)
        )

    def faded(
        self, name: str, says: str, share: float, remove: tuple[int, ...], next_left: bool = False
    ) -> Row:
        """A share of the samples while these blocks fade, the others without them.

        ``next_left``: the tokens that leave a block are compared with those of the teacher that enter the next one
        that stays, and not with those at the same share of the depth.
        """
        fading = round(share * SAMPLES / BATCH) * BATCH
        depth = self.target.model.depth
        kept = tuple(block for block in range(depth) if block not in remove)
        enters = dict(zip(kept, (*(block - 1 for block in kept[1:]), depth - 1), strict=True))
        meanwhile: dict[str, Any] = {}
        after: dict[str, Any] = {}
        if next_left:
            meanwhile = {"feature_layers": tuple(enters.items())}
            after = {"feature_layers": tuple(enumerate(enters.values()))}
        fade = stages.fade_blocks(
            *(f"{name}.fade", sized(self.target, depth=len(kept)), fading, self.name, remove),
            **{**self.settings, **self.at_once, **meanwhile, "auxiliary_samples": 0, "losses": self.features},
        )
        rest = self.student(
            *(name, self.features, {"depth": len(kept)}),
            samples=SAMPLES - fading,
            start=fade.name,
            **{"auxiliary_samples": 0, **after},
        )
        return Row(name, says, (*self.before, fade, rest))

    def in_each_way(self, word: str, blocks: int) -> tuple[Row, ...]:
        """So many blocks are left of it, in each of the ways."""
        depth = self.target.model.depth
        removed = skipped(depth, blocks)
        replaced = stages.replace_blocks(
            f"{word}-replaced",
            sized(self.target, depth=blocks),
            SAMPLES,
            self.name,
            **{**self.settings, **self.at_once, "losses": self.features},
        )
        return (
            self.unaided(
                f"{word}-scratch",
                f"labels alone, started from the first {blocks} blocks of the ViT-S",
                blocks,
                "vit-s",
            ),
            self.unaided(
                f"{word}-skipped",
                f"labels alone, started from every so many of the {depth} blocks",
                blocks,
                self.name,
            ),
            self.taught(
                f"{word}-logits", "the same start, taught by distributions", self.logits, depth=blocks
            ),
            self.taught(
                f"{word}-features", "by distributions and tokens; blocks removed at once", depth=blocks
            ),
            self.faded(f"{word}-fade-short", "blocks fade over a tenth of the samples", 0.1, removed),
            self.faded(f"{word}-fade-long", "blocks fade over half of the samples", 0.5, removed),
            self.faded(
                f"{word}-fade-last",
                "the last blocks fade over a tenth of the samples",
                *(0.1, tuple(range(blocks, depth))),
            ),
            Row(f"{word}-replaced", "CompressTracker's replacement", (*self.before, replaced)),
        )
