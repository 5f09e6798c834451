"""The one-stream trunk: patches, positions, prediction tokens and mixed attention blocks (paper, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Num
from torch import Tensor, nn

from mixformerv2.config import PATCH_PX, ModelConfig
from mixformerv2.model.attention import Block, KeyValue


class TemplateTokens(NamedTuple):
    """What can be kept of templates that see the search region: the tokens that enter the first block."""

    tokens: Float[Tensor, "b tokens dim"]


TemplateCache = tuple[KeyValue, ...] | tuple[TemplateTokens]  # one entry a block, or one in all

# Channel statistics of ImageNet, which every published weight was trained with.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def sincos_positions(dim: int, grid: int) -> Float[Tensor, "1 {grid}*{grid} {dim}"]:
    """Fixed 2-D sin-cos positions, row by row: the first half of the channels encodes x, the second y."""
    frequencies = 1.0 / 10000 ** (torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    angles = torch.arange(grid, dtype=torch.float64)[:, None] * frequencies
    line = torch.cat([angles.sin(), angles.cos()], dim=1)
    x, y = line[None, :, :].expand(grid, -1, -1), line[:, None, :].expand(-1, grid, -1)
    return torch.cat([x, y], dim=-1).reshape(1, grid * grid, dim).float()


class PatchEmbed(nn.Module):
    """Pixels to tokens. The normalisation by channel mean and deviation is folded into the weights on the way."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, PATCH_PX, stride=PATCH_PX)
        self.register_buffer("mean", 255 * torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(STD).view(1, 3, 1, 1), persistent=False)

    def folded(self) -> tuple[Float[Tensor, "dim 3 patch patch"], Float[Tensor, "dim"]]:
        """Weights and biases of pixels as they are, 0 to 255."""
        weight = self.proj.weight / self.std
        return weight, self.proj.bias - (weight * self.mean).sum(dim=(1, 2, 3))

    def forward(self, crops: Num[Tensor, "b side side 3"]) -> Float[Tensor, "b tokens dim"]:
        weight, bias = self.folded()
        # As a product, not as a convolution: runtimes turn whole pictures for that, and quantise it apart.
        return F.linear(_patches(crops.to(weight.dtype)), _as_a_patch_lies(weight), bias)


class FoldedPatchEmbed(nn.Linear):
    """The same function of a network that no longer learns, folded once."""

    def __init__(self, learned: PatchEmbed) -> None:
        weight, bias = learned.folded()
        super().__init__(weight[0].numel(), len(weight), device=weight.device)
        self.load_state_dict({"weight": _as_a_patch_lies(weight), "bias": bias})

    def forward(self, crops: Num[Tensor, "b side side 3"]) -> Float[Tensor, "b tokens dim"]:
        return super().forward(_patches(crops.to(self.weight.dtype)))


def _as_a_patch_lies(weight: Float[Tensor, "dim 3 patch patch"]) -> Float[Tensor, "dim values"]:
    """Row by row, the channels of a pixel side by side."""
    return weight.permute(0, 2, 3, 1).flatten(1)


def _patches(crops: Num[Tensor, "b side side 3"]) -> Num[Tensor, "b tokens values"]:
    grid = crops.shape[1] // PATCH_PX
    rows = crops.reshape(-1, grid, PATCH_PX, grid, PATCH_PX * 3)
    return rows.transpose(2, 3).reshape(-1, grid**2, PATCH_PX**2 * 3)


class Backbone(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.symmetric = config.attention == "symmetric"
        self.patch_embed: PatchEmbed | FoldedPatchEmbed = PatchEmbed(config.dim)
        self.positions_search = nn.Parameter(
            sincos_positions(config.dim, config.search_grid), requires_grad=config.learned_positions
        )
        self.positions_template = nn.Parameter(
            sincos_positions(config.dim, config.template_grid), requires_grad=config.learned_positions
        )
        self.prediction_tokens: nn.Parameter | None = None
        if config.num_prediction_tokens:
            shape = (1, config.num_prediction_tokens, config.dim)
            self.prediction_tokens = nn.Parameter(0.02 * torch.randn(shape))
            self.prediction_positions = nn.Parameter(0.02 * torch.randn(shape))
        self.blocks = nn.ModuleList(
            Block(config.dim, config.heads, config.mlp_ratio) for _ in range(config.depth)
        )

    def freeze(self, blocks: int) -> None:
        """Takes all that enters the first block, and the first so many, out of training: a forward pass alone."""
        for parameter in self.parameters(recurse=False):  # positions and prediction tokens
            parameter.requires_grad_(False)
        for part in (self.patch_embed, *self.blocks[:blocks]):
            part.requires_grad_(False)

    def template_tokens(
        self, template: Num[Tensor, "b side side 3"], online: Num[Tensor, "b online side side 3"]
    ) -> Float[Tensor, "b tokens dim"]:
        """What enters the first block of the templates, the fixed one first."""
        crops = torch.cat([template[:, None], online], dim=1)
        tokens = self.patch_embed(crops.flatten(0, 1)) + self.positions_template
        return tokens.reshape(template.shape[0], -1, tokens.shape[-1])

    def search_tokens(self, crop: Num[Tensor, "b side side 3"]) -> Float[Tensor, "b tokens dim"]:
        """What enters the first block of the search crop."""
        return self.patch_embed(crop) + self.positions_search

    def constant_tokens(self) -> Float[Tensor, "1 constant dim"] | None:
        """The prediction tokens that enter the first block behind the search tokens, where there are any."""
        if self.prediction_tokens is None:
            return None
        return self.prediction_tokens + self.prediction_positions

    def encode_templates(
        self,
        template: Num[Tensor, "b side side 3"],
        online: Num[Tensor, "b online side side 3"],
        blocks: Sequence[nn.Module] | None = None,
    ) -> TemplateCache:
        """Keys and values of the fixed and the online templates, once per template change.

        With symmetric attention they depend on the search region: then the tokens that go through with it each time.
        ``blocks`` take the place of the trunk's own, here and in ``search``.
        """
        blocks = list(self.blocks) if blocks is None else blocks
        tokens = self.template_tokens(template, online)
        if self.symmetric:
            return (TemplateTokens(tokens),)
        cache = []
        for block in blocks[:-1]:
            tokens, keys_values = block.encode_templates(tokens)
            cache.append(keys_values)
        cache.append(blocks[-1].template_keys_values(tokens))
        return tuple(cache)

    def search(
        self,
        crop: Num[Tensor, "b side side 3"],
        cache: TemplateCache,
        blocks: Sequence[nn.Module] | None = None,
    ) -> list[Float[Tensor, "b tokens dim"]]:
        """Search tokens followed by prediction tokens after every block.

        The last entry holds only what the head reads: the prediction tokens where there are any.
        """
        blocks = list(self.blocks) if blocks is None else blocks
        if self.symmetric:
            return self._search_with_templates(crop, cast("tuple[TemplateTokens]", cache)[0].tokens, blocks)
        tokens, constant = self.search_tokens(crop), self.constant_tokens()
        wanted = None if constant is None else constant.shape[1]
        features = []
        for index, (block, templates) in enumerate(zip(blocks, cache, strict=True)):
            last = index == len(blocks) - 1
            tokens = block.search(
                tokens,
                templates,
                wanted=wanted if last and index else None,
                constant=constant if index == 0 else None,
            )
            features.append(tokens)
        if wanted is not None:
            features[-1] = features[-1][:, -wanted:]
        return features

    def _search_with_templates(
        self,
        crop: Num[Tensor, "b side side 3"],
        templates: Float[Tensor, "b templates dim"],
        blocks: Sequence[nn.Module],
    ) -> list[Float[Tensor, "b _ dim"]]:
        """As ``search``, by symmetric attention."""
        tokens, constant = self.search_tokens(crop), self.constant_tokens()
        wanted = None
        if constant is not None:
            tokens, wanted = (
                torch.cat([tokens, constant.expand(len(tokens), -1, -1)], dim=1),
                constant.shape[1],
            )
        features = []
        for block in blocks[:-1]:
            templates, tokens = block.both(templates, tokens, symmetric=True)
            features.append(tokens)
        # Nobody reads what the last block makes of templates.
        last = blocks[-1]
        return [*features, last.search(tokens, last.template_keys_values(templates), wanted=wanted)]
