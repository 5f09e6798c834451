"""What a network has to compute and to read for one frame, counted from its sizes alone, without torch.

A FLOP is a multiplication or an addition of a matrix product or a convolution, as `torch.utils.flop_counter` has it;
everything else (normalisation, softmax, GELU) is left out of the count, though not out of the time.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from mixformerv2.config import PATCH_PX, ModelConfig

BYTES = {"f32": 4, "bf16": 2, "f16": 2, "int8": 1}  # of a weight or a cached number


class Workload(NamedTuple):
    """One call of a network on one crop."""

    flops: int
    weights: int  # numbers, read once for the whole batch
    cached: int  # numbers of the templates' keys and values, read for each crop
    pixel_bytes: int  # of the crops that come in

    def bytes(self, precision: str, batch: int = 1) -> int:
        """What must come from memory at the least: weights, cache and pixels, each once.

        What one operator leaves for the next may stay in the processor's caches, and is not counted.
        """
        return BYTES[precision] * (self.weights + batch * self.cached) + batch * self.pixel_bytes


def cached_search(config: ModelConfig, templates: int = 2) -> Workload:
    """A frame as tracked here: the templates cached, the last block for what the heads read.

    The prediction tokens' projections in the first block are constants, and not counted. With symmetric attention the
    templates go through every block again.
    """
    own, constant, cached = _counts(config, templates)
    flops = _patches(config, own) + _box_head(config).flops + _score_head(config).flops
    if config.attention == "symmetric":
        flops += _symmetric_blocks(config, own, constant, cached)
        weights = _weights(config) - config.template_grid**2 * config.dim
        return Workload(flops, weights, cached * config.dim, 3 * config.search_px**2)
    for block in range(config.depth):
        if constant and block == config.depth - 1 and block > 0:
            flops += _last_block(config, own, constant, cached)
            continue
        queries = own + constant
        projected = own if block == 0 else own + constant  # keys and values of every token
        queries_projected = queries - constant if block == 0 else queries
        flops += 2 * config.dim**2 * (2 * projected + queries_projected)
        flops += _after_projection(config, queries, cached + own + constant)
    weights = _weights(config) - config.template_grid**2 * config.dim  # the templates' positions are not read
    return Workload(flops, weights, 2 * config.depth * cached * config.dim, 3 * config.search_px**2)


def encode_templates(config: ModelConfig, templates: int = 2) -> Workload:
    """What is done when a template changes: through all blocks, of the last one keys and values alone.

    With symmetric attention only its patches are embedded.
    """
    _, _, tokens = _counts(config, templates)
    pixels = 3 * templates * config.template_px**2
    if config.attention == "symmetric":
        return Workload(_patches(config, tokens), _patch_weights(config), 0, pixels)
    flops = _patches(config, tokens) + (config.depth - 1) * _block(config, tokens, tokens)
    flops += 2 * config.dim**2 * 2 * tokens
    unread = _block_weights(config) - 2 * config.dim - 2 * (config.dim**2 + config.dim)
    return Workload(flops, _trunk_weights(config) - unread, 0, pixels)


def joint_pass(config: ModelConfig, templates: int = 2) -> Workload:
    """A frame as in the released code: templates and search region together through every block, nothing kept."""
    own, constant, template_tokens = _counts(config, templates)
    others = own + constant
    flops = _patches(config, own + template_tokens) + _box_head(config).flops + _score_head(config).flops
    seen_by_templates = template_tokens + (others if config.attention == "symmetric" else 0)
    for _ in range(config.depth):
        flops += _block(config, template_tokens, seen_by_templates)
        flops += _block(config, others, others + template_tokens)
    pixels = 3 * (config.search_px**2 + templates * config.template_px**2)
    return Workload(flops, _weights(config), 0, pixels)


def _counts(config: ModelConfig, templates: int) -> tuple[int, int, int]:
    """Search tokens, prediction tokens, tokens of all templates together."""
    return config.search_grid**2, config.num_prediction_tokens, templates * config.template_grid**2


def _patches(config: ModelConfig, tokens: int) -> int:
    return 2 * tokens * 3 * PATCH_PX**2 * config.dim


def _symmetric_blocks(config: ModelConfig, own: int, constant: int, template: int) -> int:
    """Templates and search region together, but in the last block for what the heads read."""
    tokens = template + own + constant
    before = (config.depth - 1) * _block(config, tokens, tokens)
    templates_projected = 2 * config.dim**2 * 2 * template  # in the last block to keys and values
    if constant:
        return before + templates_projected + _last_block(config, own, constant, template)
    return before + templates_projected + _block(config, own, tokens)


def _last_block(config: ModelConfig, own: int, constant: int, template: int) -> int:
    """Its few queries are turned to the tokens, head by head, and not the tokens to keys and values."""
    keys_bias = 2 * constant * config.dim
    return _block(config, constant, template + config.heads * (own + constant)) + keys_bias


def _block(config: ModelConfig, queries: int, keys: int) -> int:
    return 2 * config.dim**2 * 3 * queries + _after_projection(config, queries, keys)


def _after_projection(config: ModelConfig, queries: int, keys: int) -> int:
    """Attention, its output projection and the MLP."""
    attention = 2 * 2 * queries * keys * config.dim
    return attention + 2 * queries * config.dim * (config.dim + 2 * _hidden(config))


def _hidden(config: ModelConfig) -> int:
    return int(config.dim * config.mlp_ratio)


# --- heads


class _Head(NamedTuple):
    flops: int
    weights: int


def _box_head(config: ModelConfig) -> _Head:
    dim, bins = config.dim, config.num_bins
    if config.box_head == "corner":
        return _corner_head(config)
    if config.box_head == "centre":
        return _centre_head(config)
    tokens = config.prediction_tokens
    of_side, norm = (bins, 2 * bins) if config.regression == "distributions" else (1, 0)
    outputs = 4 // tokens * of_side
    layers = dim * dim + dim * outputs
    return _Head(2 * tokens * layers, layers + 3 * dim + outputs + norm)


def _corner_head(config: ModelConfig) -> _Head:
    """Two pyramids of 3 x 3 convolutions, each followed by a batch normalisation, and a 1 x 1 at the end."""
    dim, w = config.dim, min(config.dim // 2, 384)
    at_grid = [
        (dim, w),
        (w, w // 2),
        (dim, w // 2),
        (dim, w // 4),
        (w // 2, w // 4),
        (w // 4, w // 8),
        (w // 8, 1),
    ]
    at_twice = [(w // 2, w // 4), (w // 4, w // 8), (w // 8, 1)]
    flops, weights = 2 * 16 * config.search_grid**2 * (w // 8), w // 8 + 1
    for scale, layers in ((1, at_grid), (4, at_twice), (16, [(w // 4, w // 8)])):
        for inputs, outputs in layers:
            flops += 2 * scale * config.search_grid**2 * 9 * inputs * outputs
            weights += 9 * inputs * outputs + 3 * outputs
    return _Head(2 * flops, 2 * weights)


def _centre_head(config: ModelConfig) -> _Head:
    """Three towers of four 3 x 3 convolutions, each followed by a batch normalisation, and a 1 x 1 at the end."""
    widths = [config.dim, *(min(config.dim // 2, 256) // shrink for shrink in (1, 2, 4, 8))]
    flops = weights = 0
    for outputs in (1, 2, 2):
        layers = [9 * a * b for a, b in pairwise(widths)] + [widths[-1] * outputs]
        flops += 2 * config.search_grid**2 * sum(layers)
        weights += sum(layers) + 3 * sum(widths[1:]) + outputs
    return _Head(flops, weights)


def _score_head(config: ModelConfig) -> _Head:
    if not config.score_head:
        return _Head(0, 0)
    layers = config.dim**2 + config.dim
    tokens = config.num_prediction_tokens or config.search_grid**2
    return _Head(2 * tokens * layers, layers + config.dim + 1)


# --- weights


def _weights(config: ModelConfig) -> int:
    """All parameters of the network."""
    own, constant, _ = _counts(config, 1)
    norm = 2 * config.dim if config.head_norm else 0
    tokens = (own + 2 * constant) * config.dim
    return _trunk_weights(config) + tokens + norm + _box_head(config).weights + _score_head(config).weights


def _trunk_weights(config: ModelConfig) -> int:
    """Parameters that templates pass: patches, their positions, blocks."""
    return _patch_weights(config) + config.depth * _block_weights(config)


def _patch_weights(config: ModelConfig) -> int:
    """Of the patches and the positions of templates."""
    return (3 * PATCH_PX**2 + 1 + config.template_grid**2) * config.dim


def _block_weights(config: ModelConfig) -> int:
    dim, hidden = config.dim, _hidden(config)
    attention, mlp, norms = 4 * dim**2 + 4 * dim, 2 * dim * hidden + hidden + dim, 4 * dim
    return attention + mlp + norms
