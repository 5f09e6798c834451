"""The network against a slow, obvious reference; its savings, each exact; its sizes, gradients and configs."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import published
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mixformerv2.config import PRESETS, Config, ModelConfig, TrackerConfig, preset
from mixformerv2.model.attention import Block, KeyValue
from mixformerv2.model.backbone import MEAN, STD, PatchEmbed, sincos_positions
from mixformerv2.model.heads import expected_box
from mixformerv2.model.network import Network, build

TOKENS = ModelConfig(dim=64, depth=3, heads=2, mlp_ratio=2.0, search_px=64, template_px=32, num_bins=12)
OURS = dataclasses.replace(TOKENS, head_norm=True, learned_positions=True)
CORNER = dataclasses.replace(TOKENS, num_bins=16, box_head="corner", score_head=False)
EXACT = dict(rtol=1e-9, atol=1e-9)  # in float64


def random_crops(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(256, (*shape, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def inputs(batch: int, online: int) -> tuple[Tensor, Tensor, Tensor]:
    """A template, online templates and a search crop for the configs above."""
    return (
        random_crops(batch, 32, 32, seed=1),
        random_crops(batch, online, 32, 32, seed=2),
        random_crops(batch, 64, 64, seed=3),
    )


def double(config: ModelConfig) -> Network:
    """In float64, and with prediction tokens that differ enough to matter."""
    network = build(config, seed=0).double().eval()
    if network.backbone.prediction_tokens is not None:
        network.backbone.prediction_tokens.data *= 50
    return network


# --- the reference: all tokens together through every block, with a mask


def explicit_tokens(embed: PatchEmbed, crops: Tensor) -> Tensor:
    """Normalise, then embed, as the paper has it."""
    # In 0..255 and rounded to float32, as the network keeps them, so that nothing but float64 is left to differ.
    mean, std = (255 * torch.tensor(statistic) for statistic in (MEAN, STD))
    pixels = ((crops.double() - mean) / std).permute(0, 3, 1, 2)
    return F.conv2d(pixels, embed.proj.weight, embed.proj.bias, stride=16).flatten(2).transpose(1, 2)


def joint_features(network: Network, template: Tensor, online: Tensor, search: Tensor) -> list[Tensor]:
    """Search and prediction tokens after every block, by full masked attention over one sequence."""
    trunk = network.backbone
    parts = [
        explicit_tokens(trunk.patch_embed, crop) + trunk.positions_template
        for crop in (template, *online.unbind(1))
    ]
    template_count = sum(part.shape[1] for part in parts)
    parts.append(explicit_tokens(trunk.patch_embed, search) + trunk.positions_search)
    if trunk.prediction_tokens is not None:
        constant = trunk.prediction_tokens + trunk.prediction_positions
        parts.append(constant.expand(len(search), -1, -1))
    tokens = torch.cat(parts, dim=1)
    hidden = torch.zeros(tokens.shape[1], tokens.shape[1], dtype=torch.bool)
    hidden[:template_count, template_count:] = True  # templates see templates only
    features = []
    for block in trunk.blocks:
        tokens = tokens + masked_attention(block, block.norm1(tokens), hidden)
        tokens = tokens + block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(tokens))))
        features.append(tokens[:, template_count:])
    return features


def masked_attention(block: Block, tokens: Tensor, hidden: Tensor) -> Tensor:
    query, key, value = block.attn.qkv(tokens).split(tokens.shape[-1], dim=-1)
    width = tokens.shape[-1] // block.attn.heads
    heads = []
    for q, k, v in zip(query.split(width, -1), key.split(width, -1), value.split(width, -1), strict=True):
        scores = (q @ k.transpose(1, 2) / math.sqrt(width)).masked_fill(hidden, -math.inf)
        heads.append(scores.softmax(-1) @ v)
    return block.attn.proj(torch.cat(heads, dim=-1))


@pytest.mark.parametrize("online", [0, 1, 2, 3])
@pytest.mark.parametrize("batch", [1, 3])
def test_cached_templates_give_the_same_as_full_joint_attention(batch: int, online: int) -> None:
    network, crops = double(OURS), inputs(batch, online)
    with torch.inference_mode():
        prediction = network.search(crops[2], network.encode_templates(*crops[:2]))
        expected = joint_features(network, *crops)
    assert [f.shape[1] for f in prediction.features] == [20, 20, 4]  # the head reads four tokens
    for ours, reference in zip(prediction.features, expected, strict=True):
        torch.testing.assert_close(ours, reference[:, -ours.shape[1] :], **EXACT)


@pytest.mark.parametrize(
    "config", [CORNER, dataclasses.replace(TOKENS, depth=1)], ids=["corner", "one block"]
)
def test_the_other_shapes_of_the_trunk_agree_with_joint_attention_too(config: ModelConfig) -> None:
    network, crops = double(config), inputs(batch=2, online=1)
    with torch.inference_mode():
        prediction = network.search(crops[2], network.encode_templates(*crops[:2]))
        expected = joint_features(network, *crops)[-1]
    torch.testing.assert_close(
        prediction.features[-1], expected[:, -prediction.features[-1].shape[1] :], **EXACT
    )


@pytest.mark.parametrize("config", [TOKENS, CORNER], ids=["tokens", "corner"])
def test_a_batch_gives_what_its_samples_give_alone(config: ModelConfig) -> None:
    network, crops = double(config), inputs(batch=3, online=2)
    with torch.inference_mode():
        together = network.search(crops[2], network.encode_templates(*crops[:2]))
        for index in range(3):
            template, online, search = (part[index : index + 1] for part in crops)
            alone = network.search(search, network.encode_templates(template, online))
            torch.testing.assert_close(together.side_logits[index], alone.side_logits[0], **EXACT)
            torch.testing.assert_close(together.box_unit[index], alone.box_unit[0], **EXACT)


def test_one_cache_serves_many_frames() -> None:
    network, (template, online, search) = double(TOKENS), inputs(batch=1, online=1)
    with torch.inference_mode():
        cache = network.encode_templates(template, online)
        first = network.search(search, cache)
        network.search(random_crops(1, 64, 64, seed=9), cache)
        again = network.search(search, cache)
    torch.testing.assert_close(first.side_logits, again.side_logits, rtol=0, atol=0)


# --- the savings, one by one


@pytest.fixture
def block() -> Block:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Block(64, heads=2, mlp_ratio=2.0).double()


def random_tokens(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def templates(block: Block) -> KeyValue:
    return block.encode_templates(random_tokens(2, 8, 64, seed=1))[1]


def test_projecting_the_constant_tokens_apart_changes_nothing(block: Block, templates: KeyValue) -> None:
    tokens, constant = random_tokens(2, 16, 64, seed=2), random_tokens(1, 4, 64, seed=3)
    joined = torch.cat([tokens, constant.expand(2, -1, -1)], dim=1)
    apart = block.search(tokens, templates, constant=constant)
    torch.testing.assert_close(apart, block.search(joined, templates), **EXACT)


def test_a_block_asked_for_four_tokens_gives_the_last_four(block: Block, templates: KeyValue) -> None:
    tokens = random_tokens(2, 20, 64, seed=2)
    four = block.search(tokens, templates, wanted=4)
    torch.testing.assert_close(four, block.search(tokens, templates)[:, -4:], **EXACT)


def test_a_block_that_learns_gives_what_it_gives_fused(block: Block, templates: KeyValue) -> None:
    tokens = random_tokens(2, 20, 64, seed=2)
    learning = block.search(tokens, templates)
    with torch.no_grad():
        fused = block.search(tokens, templates)
    assert learning.requires_grad
    torch.testing.assert_close(learning.detach(), fused, **EXACT)


def test_the_last_block_caches_the_same_keys_without_computing_outputs(block: Block) -> None:
    tokens = random_tokens(2, 8, 64, seed=1)
    torch.testing.assert_close(block.template_keys_values(tokens), block.encode_templates(tokens)[1], **EXACT)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_folding_the_normalisation_into_the_embedding_changes_nothing(dtype: torch.dtype) -> None:
    embed = double(TOKENS).backbone.patch_embed
    crops = random_crops(2, 64, 64).to(dtype)
    torch.testing.assert_close(embed(crops), explicit_tokens(embed, crops), **EXACT)


def test_positions_are_sines_and_cosines_of_column_then_row() -> None:
    positions = sincos_positions(dim=8, grid=3).view(3, 3, 8)
    row, column = 2, 1
    expected = [
        f(place * rate) for place in (column, row) for f in (math.sin, math.cos) for rate in (1, 0.01)
    ]
    torch.testing.assert_close(positions[row, column], torch.tensor(expected))


# --- heads


def test_the_expected_box_is_whole_where_products_are_in_half_precision() -> None:
    side_logits = 4 * torch.randn(64, 4, 96, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        box = expected_box(side_logits)
    torch.testing.assert_close(box, expected_box(side_logits), rtol=0, atol=1e-6)
    assert expected_box(side_logits.bfloat16()).dtype == torch.float32


def test_the_expected_box_is_the_mean_of_each_side() -> None:
    probabilities = torch.zeros(1, 4, 10)
    probabilities[0, 0, 2] = 1
    probabilities[0, 1, [0, 9]] = 0.5
    probabilities[0, 2, :] = 0.1
    probabilities[0, 3, [4, 8]] = torch.tensor([0.75, 0.25])
    expected = torch.tensor([[0.2, 0.45, 0.45, 0.5]])
    torch.testing.assert_close(expected_box(probabilities.log().clamp(min=-1e4)), expected)


def test_the_corner_head_answers_with_the_means_of_its_maps() -> None:
    network, (template, online, search) = double(CORNER), inputs(batch=2, online=1)
    with torch.inference_mode():
        prediction = network.search(search, network.encode_templates(template, online))
        maps = (
            network.box_head.corner_logits(prediction.features[-1]).flatten(2).softmax(-1).view(2, 2, 16, 16)
        )
    place = torch.arange(16, dtype=torch.float64) / 16
    x, y = (maps.sum(2) * place).sum(-1), (maps.sum(3) * place).sum(-1)
    expected = torch.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], dim=1)
    torch.testing.assert_close(prediction.box_unit, expected, **EXACT)
    assert prediction.score_logits is None


# --- sizes


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_builds(name: str) -> None:
    with torch.device("meta"):
        network = Network(preset(name).model)
    assert network.config.dim // network.config.heads == 64


@pytest.mark.parametrize(("name", "millions"), [("base", 58.8), ("small", 16.2)])
def test_a_published_preset_has_the_published_parameters(name: str, millions: float) -> None:
    with torch.device("meta"):
        network = Network(preset(name).model)
    count = sum(entry.numel() for entry in network.state_dict().values())
    assert count == sum(math.prod(shape) for shape in published.shapes(f"mixformerv2_{name}").values())
    assert count / 1e6 == pytest.approx(millions, abs=0.1)


def test_the_corner_head_of_mixvit_l_is_no_wider_than_that_of_mixvit_b() -> None:
    with torch.device("meta"):  # the released code makes it 384 channels wide for both
        widths = [
            Network(preset(n).model).box_head.top_left.trunk[0][0].out_channels
            for n in ("mixvit-b", "mixvit-l")
        ]
    assert widths == [384, 384]


def test_the_same_seed_gives_the_same_weights_and_disturbs_no_other_randomness() -> None:
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    first, second, third = build(TOKENS, seed=3), build(TOKENS, seed=3), build(TOKENS, seed=4)
    assert torch.rand(1) == expected
    weights = [network.box_head.layers[0].weight for network in (first, second, third)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


# --- gradients


def backpropagate(config: ModelConfig) -> Network:
    network, (template, online, search) = build(config, seed=0), inputs(batch=2, online=1)
    prediction = network.search(search, network.encode_templates(template, online))
    weights = torch.randn(prediction.side_logits.shape, generator=torch.Generator().manual_seed(0))
    loss = (weights * prediction.side_logits).sum()
    if prediction.score_logits is not None:
        loss = loss + prediction.score_logits.sum()
    loss.backward()
    return network


@pytest.mark.parametrize("config", [TOKENS, OURS], ids=["published", "ours"])
def test_a_gradient_reaches_every_parameter(config: ModelConfig) -> None:
    network = backpropagate(config)
    idle = [
        n for n, p in network.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())
    ]
    assert idle == []


def test_a_gradient_reaches_every_parameter_of_the_corner_head() -> None:
    # Batch normalisation takes the constant out again, so a bias before it counts only as reached.
    assert [
        n for n, p in backpropagate(CORNER).named_parameters() if p.requires_grad and p.grad is None
    ] == []


def test_positions_are_trained_only_where_the_config_says_so() -> None:
    for config in (TOKENS, OURS):
        trunk = build(config).backbone
        assert trunk.positions_search.requires_grad == config.learned_positions
        assert trunk.positions_template.requires_grad == config.learned_positions


# --- configs


@pytest.mark.parametrize("name", PRESETS)
def test_a_config_survives_json(name: str) -> None:
    assert Config.from_json(preset(name).to_json()) == preset(name)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (dict(dim=66, heads=2), "dim must be a multiple of heads and of 4, got dim 66 and heads 2"),
        (dict(heads=3), "got dim 64 and heads 3"),
        (dict(heads=0), "got dim 64 and heads 0"),
        (dict(search_px=100), "search_px must be a positive multiple of 16, got 100"),
        (dict(template_px=0), "template_px must be a positive multiple of 16, got 0"),
        (dict(depth=0), "depth must be at least 1"),
        (dict(num_bins=1), "num_bins at least 2"),
        (dict(mlp_ratio=0.0), "mlp_ratio positive"),
        (
            dict(box_head="corner", score_head=False, num_bins=72),
            "a quarter of search_px bins, here 16, got 72",
        ),
        (
            dict(box_head="centre", regression="numbers"),
            "those of a token head: leave them out with a centre head",
        ),
    ],
)
def test_a_network_that_cannot_be_is_refused(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        dataclasses.replace(TOKENS, **change)


@pytest.mark.parametrize(
    "change",
    [dict(search_factor=1.0), dict(template_factor=0.5), dict(update_interval=0), dict(online_templates=0)],
)
def test_online_rules_that_cannot_be_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(change))}.* must be"):
        TrackerConfig(**change)


def test_a_preset_that_does_not_exist_is_answered_with_those_that_do() -> None:
    with pytest.raises(
        ValueError, match="no preset is called 'huge': choose one of base, small, compact, compact-224, tiny"
    ):
        preset("huge")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"model": {}}', '{"model": {"dim": 64}, "tracker": {"x": 1}}']
)
def test_text_that_is_no_config_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not the config of a mixformerv2 model: "):
        Config.from_json(text)
