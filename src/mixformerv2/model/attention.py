"""P-MAM: prediction-token-involved mixed attention, asymmetric between templates and search (paper, section 3.2)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class KeyValue(NamedTuple):
    """What a block keeps of the template tokens: everything that later queries need of them."""

    keys: Float[Tensor, "b heads tokens head_dim"]
    values: Float[Tensor, "b heads tokens head_dim"]


class MixedAttention(nn.Module):
    """Multi-head attention whose queries may see cached keys before their own."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def project(
        self, tokens: Float[Tensor, "b tokens dim"]
    ) -> tuple[Float[Tensor, "b heads tokens head_dim"], KeyValue]:
        """Queries, keys and values of every token."""
        queries, keys, values = (self._split(part) for part in self.qkv(tokens).chunk(3, dim=-1))
        return queries, KeyValue(keys, values)

    def project_keys_values(self, tokens: Float[Tensor, "b tokens dim"]) -> KeyValue:
        """Keys and values alone."""
        dim = tokens.shape[-1]
        keys_values = F.linear(tokens, self.qkv.weight[dim:], self.qkv.bias[dim:])
        return KeyValue(*(self._split(part) for part in keys_values.chunk(2, dim=-1)))

    def project_queries(
        self, tokens: Float[Tensor, "b tokens dim"]
    ) -> Float[Tensor, "b heads tokens head_dim"]:
        """Queries alone."""
        dim = tokens.shape[-1]
        return self._split(F.linear(tokens, self.qkv.weight[:dim], self.qkv.bias[:dim]))

    def attend(
        self, queries: Float[Tensor, "b heads queries head_dim"], seen: KeyValue
    ) -> Float[Tensor, "b queries dim"]:
        mixed = F.scaled_dot_product_attention(queries, seen.keys, seen.values)
        return self.proj(mixed.transpose(1, 2).flatten(2))

    def _split(self, tokens: Float[Tensor, "b tokens dim"]) -> Float[Tensor, "b heads tokens head_dim"]:
        return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Mlp(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, tokens: Float[Tensor, "b tokens dim"]) -> Float[Tensor, "b tokens dim"]:
        return self.fc2(F.gelu(self.fc1(tokens)))


class Block(nn.Module):
    """One pre-norm transformer block with two entrances: one for template tokens, one for all others."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = MixedAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.branch_scale = 1.0  # of both residual branches: below 1 while the block fades out

    def encode_templates(
        self, tokens: Float[Tensor, "b tokens dim"]
    ) -> tuple[Float[Tensor, "b tokens dim"], KeyValue]:
        """The template tokens after this block, and what later queries need of them before it.

        Template queries see template keys only, so nothing here depends on the search region (paper, section 3.2).
        """
        queries, own = self.attn.project(self.norm1(tokens))
        return self._residual(tokens, self.attn.attend(queries, own)), own

    def template_keys_values(self, tokens: Float[Tensor, "b tokens dim"]) -> KeyValue:
        """The cache alone, for the last block, whose template outputs nobody reads."""
        return self.attn.project_keys_values(self.norm1(tokens))

    def search(
        self,
        tokens: Float[Tensor, "b tokens dim"],
        templates: KeyValue,
        wanted: int | None = None,
        constant: Float[Tensor, "1 constant dim"] | None = None,
    ) -> Float[Tensor, "b out_tokens dim"]:
        """Search and prediction tokens after this block; their queries see every token.

        ``wanted``: only the last so many tokens are asked for; the others still give keys and values.
        ``constant``: further tokens behind ``tokens`` that are the same in every frame; projected apart, so that
        an exported graph folds their share of the first layer.
        """
        if constant is not None:
            queries, own = self._project_with_constant(tokens, constant)
            tokens = torch.cat([tokens, constant.expand(tokens.shape[0], -1, -1)], dim=1)
        elif wanted is None:
            queries, own = self.attn.project(self.norm1(tokens))
        else:
            normed = self.norm1(tokens)
            queries = self.attn.project_queries(normed[:, -wanted:])
            own = self.attn.project_keys_values(normed)
            tokens = tokens[:, -wanted:]
        seen = KeyValue(*(torch.cat(pair, dim=2) for pair in zip(templates, own, strict=True)))
        return self._residual(tokens, self.attn.attend(queries, seen))

    def _project_with_constant(
        self, tokens: Float[Tensor, "b tokens dim"], constant: Float[Tensor, "1 constant dim"]
    ) -> tuple[Float[Tensor, "b heads all_tokens head_dim"], KeyValue]:
        queries, own = self.attn.project(self.norm1(tokens))
        fixed_queries, fixed = self.attn.project(self.norm1(constant))
        b = tokens.shape[0]
        joined = [
            torch.cat([varying, same.expand(b, -1, -1, -1)], dim=2)
            for varying, same in zip((queries, *own), (fixed_queries, *fixed), strict=True)
        ]
        return joined[0], KeyValue(*joined[1:])

    def _residual(
        self, tokens: Float[Tensor, "b tokens dim"], attended: Float[Tensor, "b tokens dim"]
    ) -> Float[Tensor, "b tokens dim"]:
        tokens = tokens + self._faded(attended)
        return tokens + self._faded(self.mlp(self.norm2(tokens)))

    def _faded(self, branch: Float[Tensor, "b tokens dim"]) -> Float[Tensor, "b tokens dim"]:
        return branch if self.branch_scale == 1.0 else self.branch_scale * branch
