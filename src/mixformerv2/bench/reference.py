"""The reference path: what the released code does with a frame, built from this network's own parts.

Both templates, the search crop and the prediction tokens go through every block together, on every frame, in eager
float32; nothing is cached and nothing is left out. It has fused attention, which the released code has not, so that
being faster than this path is no less than being faster than that code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Num, UInt8
from torch import Tensor

from mixformerv2.config import Config
from mixformerv2.model.attention import Block, KeyValue
from mixformerv2.model.network import Network, Prediction
from mixformerv2.runtime.backend import Located


def joint_forward(
    network: Network,
    template: Num[Tensor, "b side side 3"],
    online: Num[Tensor, "b online side side 3"],
    crop: Num[Tensor, "b search search 3"],
) -> Prediction:
    """What ``network.search`` predicts with these templates, in one pass of all tokens."""
    trunk = network.backbone
    parts = [trunk.template_tokens(template, online), trunk.search_tokens(crop)]
    constant = trunk.constant_tokens()
    if constant is not None:
        parts.append(constant.expand(len(crop), -1, -1))
    tokens = torch.cat(parts, dim=1)
    num_template = parts[0].shape[1]
    features = []
    for block in trunk.blocks:
        assert isinstance(block, Block)
        tokens = _joint_block(block, tokens, num_template, trunk.symmetric)
        features.append(tokens[:, num_template:])
    if constant is not None:
        features[-1] = features[-1][:, -constant.shape[1] :]
    return network.read(features)


def _joint_block(
    block: Block, tokens: Float[Tensor, "b tokens dim"], num_template: int, symmetric: bool
) -> Float[Tensor, "b tokens dim"]:
    if symmetric:
        return block.encode_templates(tokens)[0]
    queries, seen = block.attn.project(block.norm1(tokens))
    templates = KeyValue(*(part[:, :num_template] for part in seen))
    attended = [
        block.attn.attend(queries[:, :num_template], templates),
        block.attn.attend(queries[:, num_template:], seen),
    ]
    tokens = tokens + torch.cat(attended, dim=1)
    return tokens + block.mlp(block.norm2(tokens))


class Templates(NamedTuple):
    """What the reference path keeps between frames: pixels."""

    template: UInt8[Tensor, "b side side 3"]
    online: UInt8[Tensor, "b online side side 3"]


class ReferenceBackend:
    """The reference path as a backend, so that it tracks with the same code around it as every other one."""

    name = "reference"
    precision = "f32"

    def __init__(self, network: Network, config: Config) -> None:
        assert not network.training
        self._network, self.config = network, config
        self._device = next(network.parameters()).device

    def encode_templates(
        self, template: UInt8[np.ndarray, "b side side 3"], online: UInt8[np.ndarray, "b online side side 3"]
    ) -> Templates:
        return Templates(self._tensor(template), self._tensor(online))

    def stack(self, caches: Sequence[Templates]) -> Templates:
        return Templates(*map(torch.cat, zip(*caches, strict=True)))

    @torch.inference_mode()
    def search(self, crop: UInt8[np.ndarray, "b side side 3"], cache: Templates) -> Located:
        prediction = joint_forward(self._network, *cache, self._tensor(crop))
        box_unit = prediction.box_unit.cpu().numpy()
        if prediction.score_logits is None:
            return Located(box_unit, np.ones(len(box_unit), np.float32))
        return Located(box_unit, prediction.score_logits.sigmoid().cpu().numpy())

    def _tensor(self, crops: UInt8[np.ndarray, "*any side side 3"]) -> UInt8[Tensor, "*any side side 3"]:
        return torch.from_numpy(crops.copy(order="C")).to(self._device)
