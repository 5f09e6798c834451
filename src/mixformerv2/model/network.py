"""The whole network: trunk and heads behind the two calls that everything else uses."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn

from mixformerv2.config import ModelConfig
from mixformerv2.model.backbone import Backbone, TemplateCache
from mixformerv2.model.heads import (
    BoxHead,
    CentreHead,
    CentreMaps,
    NumberHead,
    ScoreHead,
    expected_box,
    make_box_head,
)


class Prediction(NamedTuple):
    """What one look at a search crop says."""

    side_logits: Float[Tensor, "b 4 bins"] | None  # order l, t, r, b; None of a head without distributions
    box_unit: Float[Tensor, "b 4"]  # xyxy, fractions of the crop
    score_logits: Float[Tensor, "b"] | None  # None without a score head
    features: list[Float[Tensor, "b _ dim"]]  # after every block; the last one holds what the head read
    centre: CentreMaps | None = None  # of a centre head


class Network(nn.Module):
    """MixFormerV2, or its teacher MixViT, by the config alone.

    Crops are RGB in 0..255, uint8 or float, (b, side, side, 3); the network normalises them itself. A joint pass as
    in the paper is ``search(crop, encode_templates(template, online))``: training runs exactly that.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config)
        self.head_norm = nn.LayerNorm(config.dim) if config.head_norm else nn.Identity()
        self.box_head: BoxHead = make_box_head(config)
        self.score_head = ScoreHead(config.dim) if config.score_head else None

    def encode_templates(
        self, template: Num[Tensor, "b side side 3"], online: Num[Tensor, "b online side side 3"]
    ) -> TemplateCache:
        """Keys and values of every block for the fixed and any number of online templates."""
        return self.backbone.encode_templates(template, online)

    def search(self, crop: Num[Tensor, "b side side 3"], cache: TemplateCache) -> Prediction:
        """The target in the search crop."""
        return self.read(self.backbone.search(crop, cache))

    def read(self, features: list[Float[Tensor, "b _ dim"]]) -> Prediction:
        """What the heads make of the tokens after every block."""
        tokens = self.head_norm(features[-1])
        read = self.box_head(tokens)
        score = self.score_head(tokens) if self.score_head is not None else None
        if isinstance(self.box_head, CentreHead):
            return Prediction(None, read.box_at(read.peak()), score, features, read)
        if isinstance(self.box_head, NumberHead):
            return Prediction(None, read, score, features)
        return Prediction(read, expected_box(read), score, features)


def build(config: ModelConfig, seed: int | None = None) -> Network:
    """A network with fresh weights on the CPU; the same ``seed`` gives the same weights."""
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        return Network(config)
