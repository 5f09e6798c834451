"""What is read off the trunk: a distribution for every side of the box, and a score."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def expected_box(side_logits: Float[Tensor, "b 4 bins"]) -> Float[Tensor, "b 4"]:
    """The box in [0, 1) of the crop, xyxy: each side is the mean of its distribution (paper, equation 3).

    Bin ``k`` of ``n`` stands for the coordinate ``k / n``, as in the released code.
    """
    bins = side_logits.shape[-1]
    coordinates = torch.arange(bins, device=side_logits.device, dtype=side_logits.dtype) / bins
    return side_logits.softmax(dim=-1) @ coordinates


class DistributionHead(nn.Module):
    """One MLP shared by the four prediction tokens (paper, section 3.1)."""

    def __init__(self, dim: int, num_bins: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(dim, dim),
            nn.LayerNorm(dim),
            nn.ReLU(),
            nn.Linear(dim, num_bins),
            nn.LayerNorm(num_bins),
        )

    def forward(self, prediction_tokens: Float[Tensor, "b 4 dim"]) -> Float[Tensor, "b 4 bins"]:
        return self.layers(prediction_tokens)


class ScoreHead(nn.Module):
    """How good a template this crop would make: one logit, the mean over the four prediction tokens."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 1))

    def forward(self, prediction_tokens: Float[Tensor, "b 4 dim"]) -> Float[Tensor, "b"]:
        return self.layers(prediction_tokens).mean(dim=(1, 2))


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


class CornerHead(nn.Module):
    """MixViT's dense head: the top-left and the bottom-right corner as two maps of probability."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.top_left = CornerMap(dim)
        self.bottom_right = CornerMap(dim)

    def corner_logits(self, search_tokens: Float[Tensor, "b tokens dim"]) -> Float[Tensor, "b 2 side side"]:
        """Logits of both maps, top-left first."""
        b, count, dim = search_tokens.shape
        grid = round(count**0.5)
        maps = search_tokens.transpose(1, 2).reshape(b, dim, grid, grid)
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
