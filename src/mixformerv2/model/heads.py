"""What is read off the trunk: the box, by one of several heads, and a score."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from mixformerv2.config import ModelConfig


def expected_box(side_logits: Float[Tensor, "b 4 bins"]) -> Float[Tensor, "b 4"]:
    """The box in [0, 1) of the crop, xyxy: each side is the mean of its distribution (paper, equation 3).

    Bin ``k`` of ``n`` stands for the coordinate ``k / n``, as in the released code.
    """
    logits, bins = _whole(side_logits), side_logits.shape[-1]
    coordinates = torch.arange(bins, device=logits.device, dtype=logits.dtype) / bins
    # No matrix product: autocast takes those in half precision.
    return (logits.softmax(dim=-1) * coordinates).sum(dim=-1)


class _FourSides(nn.Linear):
    """All sides out of one token."""

    def __init__(self, dim: int, out_features: int) -> None:
        super().__init__(dim, 4 * out_features)

    def forward(self, token: Float[Tensor, "b 1 dim"]) -> Float[Tensor, "b 4 out"]:
        return super().forward(token).reshape(token.shape[0], 4, -1)


def _sides(dim: int, out_features: int, tokens: int) -> nn.Linear:
    return nn.Linear(dim, out_features) if tokens == 4 else _FourSides(dim, out_features)


class DistributionHead(nn.Module):
    """One MLP shared by the four prediction tokens (paper, section 3.1), or of a single one for all sides."""

    def __init__(self, dim: int, num_bins: int, tokens: int = 4) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(dim, dim),
            nn.LayerNorm(dim),
            nn.ReLU(),
            _sides(dim, num_bins, tokens),
            nn.LayerNorm(num_bins),
        )

    def forward(self, prediction_tokens: Float[Tensor, "b tokens dim"]) -> Float[Tensor, "b 4 bins"]:
        return self.layers(prediction_tokens)


class NumberHead(nn.Module):
    """The same MLP with one number for each side in place of a distribution."""

    def __init__(self, dim: int, tokens: int = 4) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(dim, dim), nn.LayerNorm(dim), nn.ReLU(), _sides(dim, 1, tokens))

    def forward(self, prediction_tokens: Float[Tensor, "b tokens dim"]) -> Float[Tensor, "b 4"]:
        """The box in [0, 1] of the crop, xyxy."""
        return _whole(self.layers(prediction_tokens)[..., 0]).sigmoid()


def _whole(values: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """In f32 at the least: half precision has fewer steps than a crop has pixels."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


class ScoreHead(nn.Module):
    """How good a template this crop would make: one logit, the mean over the tokens that the box is read from."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 1))

    def forward(self, tokens: Float[Tensor, "b tokens dim"]) -> Float[Tensor, "b"]:
        return self.layers(tokens).mean(dim=(1, 2))


def _convolution(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1), nn.BatchNorm2d(out_channels), nn.ReLU()
    )


class CornerMap(nn.Module):
    """One corner's score map at a quarter of the crop's resolution, from a pyramid of the search tokens (MixViT)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        width = min(dim // 2, 384)  # 384 in MixViT-B and in MixViT-L
        self.trunk = nn.ModuleList(
            _convolution(a, b)
            for a, b in (
                (dim, width),
                (width, width // 2),
                (width // 2, width // 4),
                (width // 4, width // 8),
            )
        )
        self.lateral = nn.ModuleList([_convolution(dim, width // 2), _convolution(dim, width // 4)])
        self.score = nn.Conv2d(width // 8, 1, 1)
        self.coarse_score = nn.Sequential(
            _convolution(width // 2, width // 4),
            _convolution(width // 4, width // 8),
            _convolution(width // 8, 1),
        )
        self.middle_score = nn.Sequential(_convolution(width // 4, width // 8), _convolution(width // 8, 1))

    def forward(self, tokens: Float[Tensor, "b dim grid grid"]) -> Float[Tensor, "b 4*grid 4*grid"]:
        coarse = self.trunk[1](self.trunk[0](tokens))
        middle = self.trunk[2](_up(coarse, 2) + _up(self.lateral[0](tokens), 2))
        fine = self.trunk[3](_up(middle, 2) + _up(self.lateral[1](tokens), 4))
        scores = self.score(fine) + _up(self.coarse_score(coarse), 4) + _up(self.middle_score(middle), 2)
        return scores[:, 0]


def _up(maps: Float[Tensor, "b dim h w"], factor: int) -> Float[Tensor, "b dim up_h up_w"]:
    return F.interpolate(maps, scale_factor=float(factor), mode="nearest")


def _as_maps(search_tokens: Float[Tensor, "b tokens dim"]) -> Float[Tensor, "b dim grid grid"]:
    b, count, dim = search_tokens.shape
    grid = round(count**0.5)
    return search_tokens.transpose(1, 2).reshape(b, dim, grid, grid)


class CornerHead(nn.Module):
    """MixViT's dense head: the top-left and the bottom-right corner as two maps of probability."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.top_left = CornerMap(dim)
        self.bottom_right = CornerMap(dim)

    def corner_logits(self, search_tokens: Float[Tensor, "b tokens dim"]) -> Float[Tensor, "b 2 side side"]:
        """Logits of both maps, top-left first."""
        maps = _as_maps(search_tokens)
        return torch.stack([self.top_left(maps), self.bottom_right(maps)], dim=1)

    def forward(self, search_tokens: Float[Tensor, "b tokens dim"]) -> Float[Tensor, "b 4 bins"]:
        """Log-probabilities of the sides: the maps' marginals, l and t from top-left, r and b from bottom-right.

        The mean of a marginal is the maps' own mean, so a dense head gives the same kind of answer as the tokens, and
        dense-to-sparse distillation (section 3.4.1) compares like with like.
        """
        logits = self.corner_logits(search_tokens)
        joint = logits.flatten(2).log_softmax(dim=-1).view_as(logits)
        (left, right), (top, bottom) = joint.logsumexp(dim=2).unbind(1), joint.logsumexp(dim=3).unbind(1)
        return torch.stack([left, top, right, bottom], dim=1)


class CentreMaps(NamedTuple):
    """What a centre head says of every search token, row by row."""

    score_logits: Float[Tensor, "b tokens"]  # does the centre of the target lie in it?
    offset_cells: Float[Tensor, "b tokens 2"]  # where in it then, x and y, in [0, 1] of the token's side
    size_unit: Float[Tensor, "b tokens 2"]  # width and height of the target then, in [0, 1] of the crop

    def peak(self) -> Int[Tensor, "b"]:
        """The token of the highest score."""
        return self.score_logits.argmax(dim=1)

    def box_at(self, token: Int[Tensor, "b"]) -> Float[Tensor, "b 4"]:
        """The box whose centre lies in this token, xyxy, in fractions of the crop."""
        grid = round(self.score_logits.shape[1] ** 0.5)
        index = token[:, None, None].expand(-1, 1, 2)
        offset, size = (part.gather(1, index)[:, 0] for part in (self.offset_cells, self.size_unit))
        cell = torch.stack([token % grid, token // grid], dim=1)
        centre = (cell + offset) / grid
        return torch.cat([centre - size / 2, centre + size / 2], dim=1)


class CentreHead(nn.Module):
    """A dense head of three maps: where the centre is, where in its token, and how large the target is.

    As CenterNet (Zhou et al., 2019) has it, and for tracking OSTrack (Ye et al., 2022).
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.score, self.offset, self.size = (_tower(dim, out) for out in (1, 2, 2))
        # A score of 0.1 everywhere: else the many tokens without a centre are all that is learned from at first.
        last = self.score[-1]
        assert isinstance(last, nn.Conv2d) and last.bias is not None
        nn.init.constant_(last.bias, -2.2)

    def forward(self, search_tokens: Float[Tensor, "b tokens dim"]) -> CentreMaps:
        maps = _as_maps(search_tokens)
        score, offset, size = (
            _whole(tower(maps)).flatten(2).transpose(1, 2) for tower in (self.score, self.offset, self.size)
        )
        return CentreMaps(score[..., 0], offset.sigmoid(), size.sigmoid())


def _tower(dim: int, out_channels: int) -> nn.Sequential:
    widths = [dim, *(min(dim // 2, 256) // shrink for shrink in (1, 2, 4, 8))]
    layers = [_convolution(a, b) for a, b in pairwise(widths)]
    return nn.Sequential(*layers, nn.Conv2d(widths[-1], out_channels, 1))


BoxHead = DistributionHead | NumberHead | CornerHead | CentreHead


def make_box_head(config: ModelConfig) -> BoxHead:
    """The head that the config asks for, with fresh weights."""
    if config.box_head == "corner":
        return CornerHead(config.dim)
    if config.box_head == "centre":
        return CentreHead(config.dim)
    if config.regression == "numbers":
        return NumberHead(config.dim, config.prediction_tokens)
    return DistributionHead(config.dim, config.num_bins, config.prediction_tokens)
