"""FLOPs, weights and bytes of a network against torch's own count, and by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mixformerv2.bench.reference import joint_forward
from mixformerv2.bench.workload import cached_search, encode_templates, joint_pass
from mixformerv2.config import PRESETS, ModelConfig
from mixformerv2.model.network import Network, build

TOKENS = ModelConfig(dim=64, depth=3, heads=2, mlp_ratio=2.0, search_px=64, template_px=32, num_bins=12)
CONFIGS = {
    **{name: config.model for name, config in PRESETS.items()},
    "tokens": TOKENS,
    "one block": dataclasses.replace(TOKENS, depth=1),
    "no score head": dataclasses.replace(TOKENS, score_head=False, head_norm=True),
    "corner": dataclasses.replace(TOKENS, num_bins=16, box_head="corner", score_head=False),
    "corner and score": dataclasses.replace(TOKENS, num_bins=16, box_head="corner"),
    "centre": dataclasses.replace(TOKENS, box_head="centre"),
    "numbers": dataclasses.replace(TOKENS, regression="numbers"),
    "one token": dataclasses.replace(TOKENS, prediction_tokens=1),
    "one token of numbers": dataclasses.replace(TOKENS, prediction_tokens=1, regression="numbers"),
    "symmetric": dataclasses.replace(TOKENS, attention="symmetric"),
    "symmetric and dense": dataclasses.replace(TOKENS, attention="symmetric", box_head="centre"),
}


def on_meta(config: ModelConfig, templates: int) -> tuple[Network, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The network and its inputs without any memory behind them."""
    with torch.device("meta"):
        template = torch.zeros(1, config.template_px, config.template_px, 3, dtype=torch.uint8)
        crop = torch.zeros(1, config.search_px, config.search_px, 3, dtype=torch.uint8)
        return build(config).eval(), template, template[:, None].repeat(1, templates - 1, 1, 1, 1), crop


def counted(call: Callable[[], Any]) -> tuple[int, Any]:
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        returned = call()
    return counter.get_total_flops(), returned


@pytest.mark.parametrize("templates", [2, 3])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_flops_are_those_that_torch_counts(config: ModelConfig, templates: int) -> None:
    network, template, online, crop = on_meta(config, templates)
    encoding, cache = counted(lambda: network.encode_templates(template, online))
    search, _ = counted(lambda: network.search(crop, cache))
    joint, _ = counted(lambda: joint_forward(network, template, online, crop))
    assert encode_templates(config, templates).flops == encoding
    assert joint_pass(config, templates).flops == joint
    # Eager torch projects the prediction tokens of the first block in every frame; exported graphs hold the result.
    asymmetric = config.attention == "asymmetric"
    constant = 3 * config.dim**2 * config.num_prediction_tokens * asymmetric
    assert cached_search(config, templates).flops == search - 2 * constant


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_weights_are_the_parameters_of_the_network(config: ModelConfig) -> None:
    network, *_ = on_meta(config, 2)
    sizes = {name: parameter.numel() for name, parameter in network.named_parameters()}
    assert joint_pass(config).weights == sum(sizes.values())
    assert cached_search(config).weights == sum(sizes.values()) - sizes["backbone.positions_template"]
    # Templates pass no head, and of the last block only the norm, the keys and the values.
    last = f"backbone.blocks.{config.depth - 1}."
    passed: tuple[str, ...] = ("backbone.patch_embed", "backbone.positions_template", "backbone.blocks")
    if config.attention == "symmetric":  # before the search region is there they pass none
        assert encode_templates(config).weights == sum(
            n for name, n in sizes.items() if name.startswith(passed[:2])
        )
        return
    unread = (last + "attn.proj", last + "norm2", last + "mlp")
    read = sum(n for name, n in sizes.items() if name.startswith(passed) and not name.startswith(unread))
    assert encode_templates(config).weights == read - config.dim**2 - config.dim


def test_bytes_by_hand() -> None:
    work = cached_search(TOKENS)
    # Two templates of 2 x 2 tokens, keys and values of 64 numbers in three blocks.
    assert work.cached == 2 * 3 * 2 * 4 * 64
    assert work.pixel_bytes == 64 * 64 * 3
    assert work.bytes("f32", batch=5) == 4 * work.weights + 5 * (4 * work.cached + work.pixel_bytes)
    assert work.bytes("int8") == work.weights + work.cached + work.pixel_bytes
    # A joint pass reads no cache, and the pixels of the templates again.
    assert joint_pass(TOKENS).bytes("f32") == 4 * joint_pass(TOKENS).weights + 3 * (64**2 + 2 * 32**2)
