"""Rates by hand: how they change during a run, and which parameters have which."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
import training

from mixformerv2.model.network import build
from mixformerv2.train.objective import LossWeights, Objective
from mixformerv2.train.optim import OptimConfig, make_optimiser

SEEN = [0, 49, 99, 100, 499, 500, 625, 750, 799, 800, 900, 999]  # of 1000 samples, the first 100 to warm up
WARM = [0.01, 0.5, 1.0, 1.0]


@pytest.mark.parametrize(
    ("schedule", "decay_share", "after"),
    [
        ("constant", 0.5, [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("step", 0.2, [1.0, 1.0, 1.0, 1.0, 1.0, 0.1, 0.1, 0.1]),
        ("linear", 0.5, [1.0, 1.0, 0.75, 0.5, 0.402, 0.4, 0.2, 0.002]),
        (
            "cosine",
            0.5,
            [
                *(1.0, 1.0, (1 + math.sqrt(0.5)) / 2, 0.5, (1 + math.cos(0.598 * math.pi)) / 2),
                *((1 + math.cos(0.6 * math.pi)) / 2, (1 - math.cos(0.2 * math.pi)) / 2),
                (1 - math.cos(0.002 * math.pi)) / 2,
            ],
        ),
    ],
)
def test_rates_rise_stay_and_fall_by_hand(schedule: Any, decay_share: float, after: list[float]) -> None:
    config = OptimConfig(schedule=schedule, decay_share=decay_share, warmup_samples=100)
    assert [config.factor(seen, 1000) for seen in SEEN] == pytest.approx([*WARM, *after])


def test_without_warm_up_and_fall_the_rate_stays() -> None:
    config = OptimConfig(schedule="linear", decay_share=0.0)
    assert [config.factor(seen, 10) for seen in range(10)] == [1.0] * 10


def test_a_fall_over_the_whole_run_begins_while_the_rate_still_rises() -> None:
    config = OptimConfig(schedule="cosine", decay_share=1.0, warmup_samples=50)
    factors = [config.factor(seen, 100) for seen in (0, 24, 49, 75)]
    falling = [(1 + math.cos(math.pi * share)) / 2 for share in (0.0, 0.24, 0.49, 0.75)]
    assert factors == pytest.approx([0.02 * falling[0], 0.5 * falling[1], *falling[2:]])


# --- who has which rate

MODEL = dataclasses.replace(training.MODEL, depth=3, score_head=True)


def settings(config: OptimConfig, model: Any = MODEL) -> dict[str, tuple[float, float]]:
    """Rate and weight decay of every trained parameter."""
    objective = Objective(build(model, seed=0), LossWeights(search_token=1.0))
    named = {parameter: name for name, parameter in objective.named_parameters()}
    groups = make_optimiser(objective, config).param_groups
    found = {
        named[parameter].removeprefix("network."): (group["lr"], group["weight_decay"])
        for group in groups
        for parameter in group["params"]
    }
    assert len(found) == len(named) and len({*found.values()}) == len(groups)
    return found


def test_the_trunk_learns_slowly_heads_and_probe_fast_and_vectors_do_not_decay() -> None:
    found = settings(OptimConfig(lr=3.0, trunk_lr=1.0, weight_decay=0.1))
    assert found["backbone.patch_embed.proj.weight"] == (1.0, 0.1)
    assert found["backbone.patch_embed.proj.bias"] == (1.0, 0.0)
    for block in range(3):
        assert found[f"backbone.blocks.{block}.attn.qkv.weight"] == (1.0, 0.1)
        assert found[f"backbone.blocks.{block}.norm1.weight"] == (1.0, 0.0)
    for name in ("positions_search", "positions_template", "prediction_tokens", "prediction_positions"):
        assert found[f"backbone.{name}"][0] == 1.0
    for name in ("box_head.layers.0", "score_head.layers.0", "probe.1"):
        assert found[f"{name}.weight"] == (3.0, 0.1)
    assert found["head_norm.weight"] == (3.0, 0.0)


def test_fresh_parts_are_the_prediction_tokens_and_the_last_block() -> None:
    found = settings(OptimConfig(lr=3.0, trunk_lr=1.0, fresh_lr=2.0))
    assert found["backbone.prediction_tokens"][0] == found["backbone.prediction_positions"][0] == 2.0
    rates = [found[f"backbone.blocks.{block}.attn.qkv.weight"][0] for block in range(3)]
    assert rates == [1.0, 1.0, 2.0]
    assert found["backbone.positions_search"][0] == 1.0
    assert found["box_head.layers.0.weight"][0] == 3.0


def test_with_layer_decay_every_block_is_slower_than_the_one_after_it() -> None:
    found = settings(OptimConfig(lr=3.0, trunk_lr=1.0, layer_decay=0.5))
    rates = [found[f"backbone.blocks.{block}.mlp.fc1.weight"][0] for block in range(3)]
    assert rates == [0.25, 0.5, 1.0]
    assert found["backbone.patch_embed.proj.weight"][0] == found["backbone.positions_search"][0] == 0.125
    assert found["backbone.prediction_tokens"][0] == 1.0
    fresh = settings(OptimConfig(lr=3.0, trunk_lr=1.0, layer_decay=0.5, fresh_lr=2.0))
    rates = [fresh[f"backbone.blocks.{block}.mlp.fc1.weight"][0] for block in range(3)]
    assert rates == [0.25, 0.5, 2.0]


def test_what_is_frozen_is_left_out() -> None:
    network = build(dataclasses.replace(MODEL, learned_positions=False), seed=0)
    network.box_head.requires_grad_(False)
    objective = Objective(network, LossWeights())
    given = {p for group in make_optimiser(objective, OptimConfig()).param_groups for p in group["params"]}
    trained = {parameter for parameter in objective.parameters() if parameter.requires_grad}
    assert given == trained
    assert network.backbone.positions_search not in given and network.box_head.layers[0].weight not in given


def test_one_step_of_the_optimiser_is_adamw_by_hand() -> None:
    """The first step moves by the whole rate, whatever the gradient's size, after the weights' own decay."""
    objective = Objective(build(MODEL, seed=0), LossWeights())
    optimiser = make_optimiser(objective, OptimConfig(lr=0.01, weight_decay=0.5))
    weight = objective.network.box_head.layers[0].weight
    before = weight.detach().clone()
    for parameter in objective.parameters():
        parameter.grad = torch.full_like(parameter, -7.0)
    optimiser.step()
    torch.testing.assert_close(weight.detach(), before * (1 - 0.01 * 0.5) + 0.01)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (dict(decay_share=1.1), "decay_share must be in .0, 1., .*got 1.1, 0.999 and 1.0"),
        (dict(ema_decay=1.0), "ema_decay in .0, 1. and .*got 0.2, 1.0 and 1.0"),
        (dict(layer_decay=0.0), "layer_decay in .0, 1., got 0.2, 0.999 and 0.0"),
        (dict(clip_norm=0.0), "lr and clip_norm must be positive, got 0.0004 and 0.0"),
        (dict(lr=-1.0), "lr and clip_norm must be positive, got -1.0 and 0.1"),
        (dict(trunk_lr=-1.0), "trunk_lr must not be negative, got -1.0"),
        (dict(fresh_lr=-1.0), "fresh_lr must not be negative, got -1.0"),
        (dict(warmup_samples=-1), "warmup_samples must not be negative, got -1"),
    ],
)
def test_wrong_settings_are_refused(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        OptimConfig(**fields)
