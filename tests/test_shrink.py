"""Networks made smaller: what stays exactly, what is lost, and what a stage starts with."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mixformerv2.config import Config, ModelConfig
from mixformerv2.distill import shrink
from mixformerv2.distill.shrink import (
    Crops,
    adapt,
    evenly,
    fade_scale,
    keep_blocks,
    narrow_mlps,
    remove_blocks,
    set_branch_scale,
    skipped,
)
from mixformerv2.model import checkpoint
from mixformerv2.model.backbone import sincos_positions
from mixformerv2.model.initialise import resize_positions
from mixformerv2.model.network import Network, Prediction, build

TOKENS = ModelConfig(dim=32, depth=4, heads=2, mlp_ratio=2.0, search_px=64, template_px=32, num_bins=16)
CORNER = dataclasses.replace(TOKENS, box_head="corner", score_head=False)
BOTH = pytest.mark.parametrize("config", [TOKENS, CORNER], ids=["tokens", "corner"])


class Views(NamedTuple):
    template: Tensor
    online: Tensor
    search: Tensor


def views(count: int = 2, seed: int = 0, template_px: int = 32, search_px: int = 64) -> Views:
    """Crops with structure, unlike noise; one online template."""
    generator = torch.Generator().manual_seed(seed)

    def smooth(number: int, side: int) -> Tensor:
        coarse = 120 + 60 * torch.randn(number, 3, side // 8, side // 8, generator=generator)
        return F.interpolate(coarse, size=side, mode="bicubic").clamp(0, 255).permute(0, 2, 3, 1).byte()

    template, online = smooth(count, template_px), smooth(count, template_px)[:, None]
    return Views(template, online, smooth(count, search_px))


def lively(config: ModelConfig, seed: int = 0) -> Network:
    """A network whose blocks and prediction tokens matter, in evaluation mode."""
    network = build(config, seed).eval()
    with torch.no_grad():
        for block in network.backbone.blocks:
            block.attn.proj.weight *= 4
            block.mlp.fc1.weight *= 3
            block.mlp.fc2.weight *= 4
        if network.backbone.prediction_tokens is not None:
            network.backbone.prediction_tokens *= 50
    return network


def answer(network: Network, crops: Views) -> Prediction:
    return network.search(crops.search, network.encode_templates(crops.template, crops.online))


def difference(a: Network, b: Network, crops: Views) -> float:
    """The largest between what two networks say of the sides, the box and the score."""
    with torch.inference_mode():
        pairs = [p[:3] for p in (answer(a, crops), answer(b, crops))]
    return max(float((x - y).abs().max()) for x, y in zip(*pairs, strict=True) if x is not None)


# --- fading and removing blocks


def test_the_fade_is_a_cosine_from_one_to_zero() -> None:
    assert fade_scale(0.0) == 1.0
    assert fade_scale(1 / 3) == pytest.approx(0.75)
    assert fade_scale(0.5) == pytest.approx(0.5)
    assert fade_scale(1.0) == 0.0
    assert (fade_scale(-0.1), fade_scale(1.1)) == (1.0, 0.0)


def test_both_branches_of_both_sides_are_scaled() -> None:
    network, tokens = lively(TOKENS), torch.randn(2, 8, 32, generator=torch.Generator().manual_seed(1))
    set_branch_scale(network, [2], 0.25)
    block = network.backbone.blocks[2]
    with torch.no_grad():
        queries, own = block.attn.project(block.norm1(tokens))
        middle = tokens + 0.25 * block.attn.attend(queries, own)
        expected = middle + 0.25 * block.mlp(block.norm2(middle))
        torch.testing.assert_close(block.encode_templates(tokens)[0], expected)
        # Search tokens that see templates equal to themselves attend to the same thing twice.
        torch.testing.assert_close(block.search(tokens, own), expected)
    assert [b.branch_scale for b in network.backbone.blocks] == [1.0, 1.0, 0.25, 1.0]


def test_a_block_that_does_not_fade_costs_no_operation() -> None:
    block, branch = build(TOKENS, 0).backbone.blocks[0], torch.zeros(1, 4, 32)
    assert block._faded(branch) is branch


@BOTH
@pytest.mark.parametrize("blocks", [(0,), (3,), (0, 3), (1, 2), (0, 1, 2), (1, 2, 3), (0, 2), ()], ids=str)
def test_a_network_answers_the_same_before_and_after_its_faded_blocks_are_removed(
    config: ModelConfig, blocks: tuple[int, ...]
) -> None:
    network, crops = lively(config), views()
    set_branch_scale(network, blocks, 0.0)
    removed = remove_blocks(network, blocks)
    assert removed.config.depth == len(removed.backbone.blocks) == 4 - len(blocks)
    assert difference(network, removed, crops) < 2e-6
    if blocks:
        set_branch_scale(network, blocks, 1.0)
        assert difference(network, removed, crops) > 1e-3


@BOTH
def test_faded_blocks_get_no_gradient_and_the_others_do(config: ModelConfig) -> None:
    network = lively(config)
    set_branch_scale(network, [0, 2], 0.0)
    answer(network, views()).box_unit.sum().backward()
    for index, block in enumerate(network.backbone.blocks):
        total = sum(float(p.grad.abs().sum()) for p in block.parameters() if p.grad is not None)
        assert (total == 0) == (index in (0, 2))


def test_removal_leaves_the_network_itself_alone_and_keeps_what_still_fades() -> None:
    network = lively(TOKENS)
    set_branch_scale(network, [3], 0.5)
    removed = remove_blocks(network, [0])
    assert [block.branch_scale for block in removed.backbone.blocks] == [1.0, 1.0, 0.5]
    with torch.no_grad():
        removed.backbone.blocks[0].mlp.fc1.weight.zero_()
    assert network.config.depth == len(network.backbone.blocks) == 4
    assert network.backbone.blocks[1].mlp.fc1.weight.abs().sum() > 0


def test_a_shortened_network_is_saved_and_loaded_like_any_other(tmp_path: Path) -> None:
    removed = remove_blocks(lively(TOKENS), [0, 2])
    checkpoint.save(removed, Config(removed.config), tmp_path / "short.safetensors")
    loaded, _ = checkpoint.load(tmp_path / "short.safetensors")
    assert difference(loaded, removed, views()) == 0


def test_kept_blocks_stand_in_their_old_order() -> None:
    network = lively(TOKENS)
    kept = keep_blocks(network, [3, 1]).backbone.blocks
    for ours, theirs in zip(kept, (1, 3), strict=True):
        assert torch.equal(ours.attn.qkv.weight, network.backbone.blocks[theirs].attn.qkv.weight)


def test_blocks_are_kept_evenly_as_the_paper_and_compresstracker_do() -> None:
    assert skipped(12, 8) == (0, 3, 6, 9)  # paper, section 3.4.2
    assert evenly(12, 8) == (1, 2, 4, 5, 7, 8, 10, 11)
    assert evenly(12, 4) == (2, 5, 8, 11)
    assert evenly(8, 4) == (1, 3, 5, 7)
    assert evenly(24, 12) == tuple(range(1, 24, 2))
    assert evenly(5, 3) == (1, 3, 4)
    assert evenly(4, 4) == (0, 1, 2, 3)
    assert skipped(4, 4) == ()
    assert evenly(12, 1) == (11,)


@pytest.mark.parametrize("blocks", [[4], [-1], [1, 1]])
def test_blocks_that_are_not_there_or_named_twice_are_refused(blocks: list[int]) -> None:
    network = build(TOKENS, 0)
    for act in (remove_blocks, keep_blocks, lambda n, b: set_branch_scale(n, b, 0.5)):
        with pytest.raises(ValueError, match="different numbers from 0 to 3"):
            act(network, blocks)


def test_other_wrong_wishes_are_refused_in_a_sentence() -> None:
    network = build(TOKENS, 0)
    with pytest.raises(ValueError, match="of the 4 blocks at least one must stay"):
        remove_blocks(network, range(4))
    for keep in (0, 5):
        with pytest.raises(ValueError, match=f"between 1 and 4 can be kept, not {keep}"):
            evenly(4, keep)
    for scale in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="scale must lie between 0 and 1"):
            set_branch_scale(network, [0], scale)


# --- narrower MLPs


def with_idle_units(narrow: Network, units: str) -> Network:
    """The same network with twice as many hidden units: every second one idle, or sharing its twin's work."""
    config = dataclasses.replace(narrow.config, mlp_ratio=2 * narrow.config.mlp_ratio)
    wide = build(config, seed=5).eval()
    state = wide.state_dict() | {n: w for n, w in narrow.state_dict().items() if ".mlp.fc" not in n}
    for name, weight in narrow.state_dict().items():
        if name.endswith(("fc1.weight", "fc1.bias")):
            other = state[name][: len(weight)] if units == "dead" else weight
            state[name] = torch.stack([weight, other], dim=1).flatten(0, 1)
        elif name.endswith("fc2.weight"):
            shares = (weight, torch.zeros_like(weight)) if units == "dead" else (0.3 * weight, 0.7 * weight)
            state[name] = torch.stack(shares, dim=2).flatten(1)
        elif name.endswith("fc2.bias"):
            state[name] = weight
    wide.load_state_dict(state)
    return wide


@BOTH
@pytest.mark.parametrize("units", ["dead", "twins"])
def test_idle_units_are_removed_without_a_trace(config: ModelConfig, units: str) -> None:
    narrow = lively(dataclasses.replace(config, mlp_ratio=1.0))
    wide = with_idle_units(narrow, units)
    assert difference(wide, narrow, views()) < 2e-6
    ours = narrow_mlps(wide, 1.0, *views(32, seed=1))
    assert ours.config == narrow.config
    assert difference(ours, wide, views(8, seed=2)) < 1e-3  # a trace of the ridge
    for block, expected in zip(ours.backbone.blocks, narrow.backbone.blocks, strict=True):
        assert torch.equal(block.mlp.fc1.weight, expected.mlp.fc1.weight)


@BOTH
def test_mlps_of_the_same_ratio_stay_as_they_are(config: ModelConfig) -> None:
    network = lively(config)
    same = narrow_mlps(network, 2.0, *views())
    assert same.config == network.config
    assert same is not network
    for name, weight in same.state_dict().items():
        assert torch.equal(weight, network.state_dict()[name]), name


def by_magnitude(network: Network, hidden: int) -> Network:
    """Plain pruning: the units with the largest weights, and no refit."""
    return chosen_units(
        network,
        hidden,
        lambda mlp: (mlp.fc1.weight.norm(dim=1) * mlp.fc2.weight.norm(dim=0)).topk(hidden).indices,
    )


def at_random(network: Network, hidden: int, seed: int) -> Network:
    generator = torch.Generator().manual_seed(seed)
    return chosen_units(
        network, hidden, lambda mlp: torch.randperm(len(mlp.fc1.weight), generator=generator)[:hidden]
    )


def chosen_units(network: Network, hidden: int, choose) -> Network:
    narrow = build(dataclasses.replace(network.config, mlp_ratio=hidden / network.config.dim), 0).eval()
    state = {n: w for n, w in network.state_dict().items() if ".mlp.fc" not in n}
    for index, block in enumerate(network.backbone.blocks):
        kept, name = choose(block.mlp), f"backbone.blocks.{index}.mlp."
        state |= {
            f"{name}fc1.weight": block.mlp.fc1.weight[kept],
            f"{name}fc1.bias": block.mlp.fc1.bias[kept],
        }
        state |= {f"{name}fc2.weight": block.mlp.fc2.weight[:, kept], f"{name}fc2.bias": block.mlp.fc2.bias}
    narrow.load_state_dict(state)
    return narrow


@BOTH
@pytest.mark.parametrize("ratio", [1.0, 0.5])
def test_narrowing_loses_less_than_choosing_by_magnitude_or_at_random(
    config: ModelConfig, ratio: float
) -> None:
    network, held_out = lively(config), views(8, seed=4)
    hidden = int(32 * ratio)

    def lost(narrow: Network) -> float:
        with torch.inference_mode():
            return float(
                (answer(narrow, held_out).features[-1] - answer(network, held_out).features[-1]).norm()
            )

    ours = lost(narrow_mlps(network, ratio, *views(32, seed=3)))
    assert ours < 0.8 * lost(by_magnitude(network, hidden))
    assert ours < 0.8 * min(lost(at_random(network, hidden, seed)) for seed in range(5))


@pytest.mark.parametrize(
    ("config", "rows"),
    # Two templates of 4 tokens, 16 search tokens, 4 prediction tokens; the last block's output is read by the head.
    [(TOKENS, [28, 28, 28, 4]), (CORNER, [24, 24, 24, 16])],
    ids=["tokens", "corner"],
)
def test_every_token_that_is_read_counts(
    config: ModelConfig, rows: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def spy(wide: dict[str, Tensor], inputs: Tensor, hidden: int) -> dict[str, Tensor]:
        seen.append(inputs)
        return original(wide, inputs, hidden)

    original = shrink.shrink_mlp
    monkeypatch.setattr(shrink, "shrink_mlp", spy)
    crops = views(3)
    narrowed = narrow_mlps(lively(config), 1.0, *crops)
    assert [len(inputs) for inputs in seen] == [3 * count for count in rows]
    # What the last block was fitted on is what reaches it in the network that came out.
    block, given = narrowed.backbone.blocks[-1], []
    with block.mlp.register_forward_pre_hook(lambda _, args: given.append(args[0])), torch.no_grad():
        answer(narrowed, crops)
    torch.testing.assert_close(seen[-1], given[0].flatten(0, 1), rtol=0, atol=1e-4)


def test_narrowing_keeps_precision_and_leaves_the_network_alone() -> None:
    network = lively(TOKENS).double().requires_grad_(False)
    before = {name: weight.clone() for name, weight in network.state_dict().items()}
    state = torch.get_rng_state()
    narrow = narrow_mlps(network, 0.5, *views(4))
    assert torch.equal(torch.get_rng_state(), state)
    assert {weight.dtype for weight in narrow.parameters()} == {torch.float64}
    assert not any(weight.requires_grad for weight in narrow.parameters())
    assert all(torch.equal(weight, before[name]) for name, weight in network.state_dict().items())


@pytest.mark.parametrize("ratio", [2.5, 0.0, -1.0, 0.01])
def test_mlps_get_neither_wider_nor_empty(ratio: float) -> None:
    with pytest.raises(ValueError, match=f"ratio 2.0 cannot get ratio {ratio}"):
        narrow_mlps(build(TOKENS, 0), ratio, *views())


def test_calibration_crops_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"32 px \(templates\) and 64 px \(search\), got 48 and 64"):
        narrow_mlps(build(TOKENS, 0), 1.0, *views(template_px=48))
    with pytest.raises(ValueError, match="got 32 and 80"):
        adapt(build(TOKENS, 0), TOKENS, views(search_px=80))


# --- adapting to another config


def same_weights(a: Network, b: Network, prefix: str) -> bool:
    names = [name for name in a.state_dict() if name.startswith(prefix)]
    assert names, prefix
    return all(torch.equal(a.state_dict()[name], b.state_dict()[name]) for name in names)


@BOTH
def test_a_network_adapted_to_its_own_config_is_a_copy(config: ModelConfig) -> None:
    network = lively(config)
    copy = adapt(network, config).eval()
    assert difference(copy, network, views()) == 0
    assert copy.backbone.blocks[0] is not network.backbone.blocks[0]


def test_views_are_crops_as_a_batch_is() -> None:
    assert isinstance(views(), Crops)
    assert not isinstance(tuple(views()), Crops)


@pytest.mark.parametrize(("depth", "expected"), [(2, (1, 3)), (3, (1, 2, 3)), (1, (3,))])
def test_fewer_blocks_are_chosen_evenly(depth: int, expected: tuple[int, ...]) -> None:
    network = lively(TOKENS)
    adapted = adapt(network, dataclasses.replace(TOKENS, depth=depth)).eval()
    assert difference(adapted, keep_blocks(network, expected), views()) == 0


def test_fewer_blocks_can_be_given() -> None:
    network = lively(TOKENS)
    adapted = adapt(network, dataclasses.replace(TOKENS, depth=2), blocks=(0, 1)).eval()
    assert difference(adapted, keep_blocks(network, (0, 1)), views()) == 0
    with pytest.raises(ValueError, match="asks for 2 blocks, and 3 are to be kept"):
        adapt(network, dataclasses.replace(TOKENS, depth=2), blocks=(0, 1, 2))


def test_learned_positions_are_resampled_and_fixed_ones_counted_anew() -> None:
    larger = dict(search_px=96, template_px=48)
    fixed = adapt(lively(TOKENS), dataclasses.replace(TOKENS, **larger)).backbone
    torch.testing.assert_close(fixed.positions_search.data, sincos_positions(32, 6))
    torch.testing.assert_close(fixed.positions_template.data, sincos_positions(32, 3))
    network = lively(dataclasses.replace(TOKENS, learned_positions=True))
    with torch.no_grad():
        network.backbone.positions_search += 0.1 * torch.randn(
            1, 16, 32, generator=torch.Generator().manual_seed(0)
        )
    learned = adapt(network, dataclasses.replace(network.config, **larger)).backbone
    torch.testing.assert_close(
        learned.positions_search, resize_positions(network.backbone.positions_search, 6)
    )
    assert learned.positions_search.requires_grad
    assert not fixed.positions_search.requires_grad


def test_narrower_mlps_are_those_of_narrow_mlps() -> None:
    network, crops = lively(TOKENS), views(16)
    adapted = adapt(network, dataclasses.replace(TOKENS, mlp_ratio=0.5), crops).eval()
    assert difference(adapted, narrow_mlps(network, 0.5, *crops), views(seed=9)) == 0


def test_other_bins_start_a_fresh_box_head_and_keep_the_rest() -> None:
    network = lively(TOKENS)
    adapted = adapt(network, dataclasses.replace(TOKENS, num_bins=24), seed=7)
    assert answer(adapted, views()).side_logits.shape == (2, 4, 24)
    assert same_weights(adapted, network, "backbone.")
    assert same_weights(adapted, network, "score_head.")
    assert not torch.equal(adapted.box_head.layers[0].weight, network.box_head.layers[0].weight)


def test_a_score_head_is_added_fresh_or_dropped() -> None:
    without = dataclasses.replace(TOKENS, score_head=False)
    dropped = adapt(lively(TOKENS), without)
    assert dropped.score_head is None
    added = adapt(dropped, TOKENS, seed=3)
    assert added.score_head is not None
    assert same_weights(added, dropped, "backbone.")
    assert same_weights(added, dropped, "box_head.")


def test_prediction_tokens_take_the_place_of_a_corner_head_and_the_trunk_stays() -> None:
    teacher, crops = lively(CORNER), views(4)
    student = adapt(teacher, TOKENS, crops)
    for part in ("patch_embed.", "blocks.", "positions_"):
        assert same_weights(student, teacher, f"backbone.{part}")
    assert answer(student, crops).features[-1].shape == (4, 4, 32)
    back = adapt(student, CORNER)
    assert same_weights(back, student, "backbone.blocks.")
    assert back.backbone.prediction_tokens is None


@pytest.mark.parametrize("calibration", [None, views(4)], ids=["without crops", "with crops"])
def test_fresh_prediction_tokens_are_as_large_as_the_trunks_own(calibration: Views | None) -> None:
    teacher, scales = lively(CORNER), []
    with torch.no_grad():
        for size in (1.0, 10.0):
            teacher.backbone.patch_embed.proj.weight *= size
            teacher.backbone.patch_embed.proj.bias *= size
            teacher.backbone.positions_search *= size
            own = teacher.backbone.search_tokens(views(4).search).square().mean().sqrt()
            student = adapt(teacher, TOKENS, calibration)
            assert student.backbone.prediction_tokens is not None
            scales.append(float(student.backbone.prediction_tokens.square().mean().sqrt()))
            assert scales[-1] == pytest.approx(float(own), rel=0.3)
    assert scales[1] == pytest.approx(10 * scales[0], rel=0.01)


def test_the_same_seed_draws_the_same_fresh_parts() -> None:
    teacher = lively(CORNER)
    first, again, other = (adapt(teacher, TOKENS, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    for name in ("box_head.layers.0.weight", "score_head.layers.0.weight", "backbone.prediction_tokens"):
        assert not torch.equal(first[name], other[name])


def test_everything_can_change_at_once() -> None:
    config = dataclasses.replace(
        TOKENS,
        depth=2,
        mlp_ratio=0.5,
        search_px=96,
        template_px=48,
        num_bins=24,
        head_norm=True,
        learned_positions=True,
    )
    crops = views(8, template_px=48, search_px=96)
    student = adapt(lively(CORNER), config, crops)
    assert student.config == config
    assert answer(student, crops).box_unit.isfinite().all()
    answer(student, crops).side_logits.sum().backward()
    assert student.backbone.positions_search.grad is not None


def changed(**fields: object) -> ModelConfig:
    return dataclasses.replace(TOKENS, **fields)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (changed(dim=64), "the network has 32 and 2, the config asks for 64 and 2"),
        (changed(heads=4), "the network has 32 and 2, the config asks for 32 and 4"),
        (changed(depth=5), "depth can only get smaller: the network has 4, the config asks for 5"),
        (
            changed(mlp_ratio=4.0),
            "mlp_ratio can only get smaller: the network has 2.0, the config asks for 4.0",
        ),
        (changed(mlp_ratio=1.0), "from ratio 2.0 to 1.0 takes calibration crops"),
    ],
)
def test_what_a_network_cannot_become_is_said_in_one_sentence(config: ModelConfig, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as refused:
        adapt(lively(TOKENS), config)
    assert "\n" not in str(refused.value)
