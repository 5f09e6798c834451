"""P-MAM: prediction-token-involved mixed attention, asymmetric between templates and search (paper, section 3.2)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class KeyValue(NamedTuple):
    """What a block keeps of the template tokens: everything that later queries need of them.

    Token by token, not head by head: so it is joined to a frame's own keys without moving either.
    """

    keys: Float[Tensor, "b tokens dim"]
    values: Float[Tensor, "b tokens dim"]


class MixedAttention(nn.Module):
    """Multi-head attention whose queries may see cached keys before their own."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def project(
        self, tokens: Float[Tensor, "b tokens dim"]
    ) -> tuple[Float[Tensor, "b tokens dim"], KeyValue]:
        """Queries, keys and values of every token."""
        queries, keys, values = self.qkv(tokens).chunk(3, dim=-1)
        return queries, KeyValue(keys, values)

    def project_keys_values(self, tokens: Float[Tensor, "b tokens dim"]) -> KeyValue:
        """Keys and values alone."""
        dim = tokens.shape[-1]
        return KeyValue(*F.linear(tokens, self.qkv.weight[dim:], self.qkv.bias[dim:]).chunk(2, dim=-1))

    def project_queries(self, tokens: Float[Tensor, "b tokens dim"]) -> Float[Tensor, "b tokens dim"]:
        """Queries alone."""
        dim = tokens.shape[-1]
        return F.linear(tokens, self.qkv.weight[:dim], self.qkv.bias[:dim])

    def attend(
        self, queries: Float[Tensor, "b queries dim"], seen: KeyValue
    ) -> Float[Tensor, "b queries dim"]:
        split = [self.by_head(tokens) for tokens in (queries, *seen)]
        return self._join(_attention(*split))

    def attend_to_tokens(
        self,
        queries: Float[Tensor, "b queries dim"],
        templates: KeyValue,
        tokens: Float[Tensor, "b tokens dim"],
    ) -> Float[Tensor, "b queries dim"]:
        """What ``attend`` gives for few queries, without projecting the tokens that they see.

        q . (W x) is (q W) . x, and the mean of W x is W times the mean of x: with four queries, turning them to
        the tokens is a tenth of the work of turning every token to them.
        """
        q = self.by_head(queries) * (queries.shape[-1] // self.heads) ** -0.5
        _, key_weight, value_weight = self.qkv.weight.unflatten(0, (3, self.heads, -1))
        _, key_bias, value_bias = self.qkv.bias.unflatten(0, (3, self.heads, -1, 1))
        keys, values = (self.by_head(part) for part in templates)
        # transpose, here and below: the converter to ncnn does not know .mT.
        turned = torch.einsum("bhqd,hdc->bhqc", q, key_weight)
        own = turned.flatten(1, 2) @ tokens.transpose(-2, -1)
        own = own.unflatten(1, (self.heads, -1)) + q @ key_bias
        shares = torch.cat([q @ keys.transpose(-2, -1), own], dim=-1).softmax(dim=-1)
        of_templates, of_own = shares.split([keys.shape[2], tokens.shape[1]], dim=-1)
        seen = (of_own.flatten(1, 2) @ tokens).unflatten(1, (self.heads, -1))
        mixed = torch.einsum("bhqc,hdc->bhqd", seen, value_weight)
        mixed = mixed + of_own.sum(-1, keepdim=True) * value_bias.transpose(-2, -1)
        return self._join(of_templates @ values + mixed)

    def by_head(self, tokens: Float[Tensor, "b tokens dim"]) -> Float[Tensor, "b heads tokens head_dim"]:
        return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _join(self, mixed: Float[Tensor, "b heads queries head_dim"]) -> Float[Tensor, "b queries dim"]:
        return self.proj(mixed.transpose(1, 2).flatten(2))


def _attention(
    queries: Float[Tensor, "b heads queries head_dim"],
    keys: Float[Tensor, "b heads tokens head_dim"],
    values: Float[Tensor, "b heads tokens head_dim"],
) -> Float[Tensor, "b heads queries head_dim"]:
    # The plainest form, which every runtime fuses, where torch's exporter scales both factors and turns keys twice;
    # and a CPU learns from it in bf16 in a third of the time that the fused form takes for its gradients.
    learns_on_cpu = queries.requires_grad and queries.device.type == "cpu"
    if torch.compiler.is_exporting() or learns_on_cpu:
        return (queries * queries.shape[-1] ** -0.5 @ keys.transpose(-2, -1)).softmax(dim=-1) @ values
    return F.scaled_dot_product_attention(queries, keys, values)


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

    def both(
        self,
        templates: Float[Tensor, "b templates dim"],
        tokens: Float[Tensor, "b tokens dim"],
        symmetric: bool,
    ) -> tuple[Float[Tensor, "b templates dim"], Float[Tensor, "b tokens dim"]]:
        """Template tokens and all others after this block; ``symmetric``: every query sees every token."""
        if symmetric:
            joined, _ = self.encode_templates(torch.cat([templates, tokens], dim=1))
            return joined[:, : templates.shape[1]], joined[:, templates.shape[1] :]
        encoded, own = self.encode_templates(templates)
        return encoded, self.search(tokens, own)

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

        ``wanted``: only the last so many tokens are asked for; the others are still seen.
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
            attended = self.attn.attend_to_tokens(queries, templates, normed)
            return self._residual(tokens[:, -wanted:], attended)
        seen = KeyValue(*(torch.cat(pair, dim=1) for pair in zip(templates, own, strict=True)))
        return self._residual(tokens, self.attn.attend(queries, seen))

    def _project_with_constant(
        self, tokens: Float[Tensor, "b tokens dim"], constant: Float[Tensor, "1 constant dim"]
    ) -> tuple[Float[Tensor, "b all_tokens dim"], KeyValue]:
        queries, own = self.attn.project(self.norm1(tokens))
        fixed_queries, fixed = self.attn.project(self.norm1(constant))
        b = tokens.shape[0]
        joined = [
            torch.cat([varying, same.expand(b, -1, -1)], dim=1)
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
