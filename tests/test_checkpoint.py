"""Weights files: ours there and back, published ones by their shapes, and a clear line for every wrong one."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import published
import pytest
import safetensors.torch
import torch
from torch import Tensor

from mixformerv2.config import PRESETS, Config, ModelConfig, TrackerConfig
from mixformerv2.model import checkpoint
from mixformerv2.model.network import Network, build

MODEL = ModelConfig(dim=64, depth=2, heads=1, mlp_ratio=2.0, search_px=64, template_px=32, num_bins=16)
CONFIG = Config(MODEL, TrackerConfig(search_factor=4.0, update_interval=7))
TEACHER = dataclasses.replace(MODEL, box_head="corner", score_head=False)

# The published sizes and the small ones that take their place here.
WIDTHS = {768: 64, 2304: 192, 3072: 256, 324: 16, 196: 16, 64: 4, 49: 4}
TEACHER_WIDTHS = WIDTHS | {384: 32, 192: 16, 96: 8, 48: 4, 197: 5, 1000: 10}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "ours.safetensors"
    checkpoint.save(build(MODEL, seed=0), CONFIG, path)
    return path


def state_dict(model: str, widths: dict[int, int] = WIDTHS) -> dict[str, Tensor]:
    """A published state dict, every name of it, in small."""
    generator = torch.Generator().manual_seed(0)
    shapes = published.shapes(model).items()
    return {
        name: torch.randn([widths.get(side, side) for side in shape], generator=generator)
        for name, shape in shapes
    }


def saved(content: object, path: Path, legacy: bool = False) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def assert_same_weights(a: Network, b: Network, **tolerance: float) -> None:
    torch.testing.assert_close(
        dict(a.state_dict()), dict(b.state_dict()), **(tolerance or dict(rtol=0, atol=0))
    )


# --- ours


@pytest.mark.parametrize("model", [MODEL, TEACHER], ids=["tokens", "corner"])
def test_a_saved_network_comes_back_with_its_config(model: ModelConfig, tmp_path: Path) -> None:
    network, config = build(model, seed=0), Config(model, CONFIG.tracker)
    checkpoint.save(network, config, tmp_path / "a.safetensors")
    loaded, loaded_config = checkpoint.load(tmp_path / "a.safetensors")
    assert loaded_config == config
    assert not loaded.training
    assert_same_weights(loaded, network)


def test_half_precision_is_stored_and_widened(tmp_path: Path) -> None:
    network, path = build(MODEL, seed=0), tmp_path / "half.safetensors"
    checkpoint.save(network, CONFIG, path, torch.float16)
    assert {tensor.dtype for tensor in safetensors.torch.load_file(path).values()} == {torch.float16}
    loaded, _ = checkpoint.load(path)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    assert_same_weights(loaded, network, rtol=1e-3, atol=1e-6)
    assert next(network.parameters()).dtype == torch.float32  # saving does not change what it saves


def test_saving_replaces_a_file_and_leaves_nothing_else(weights: Path) -> None:
    checkpoint.save(build(MODEL, seed=1), CONFIG, weights)
    assert_same_weights(checkpoint.load(weights)[0], build(MODEL, seed=1))
    assert os.listdir(weights.parent) == [weights.name]


def test_a_file_that_cannot_be_written_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    for path in (tmp_path / "missing" / "a.safetensors", tmp_path / "taken"):
        with pytest.raises(ValueError, match="^weights: .* cannot be written: "):
            checkpoint.save(build(MODEL), CONFIG, path)
    assert os.listdir(tmp_path) == ["taken"]


# --- wrong files


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.safetensors", tmp_path):
        for read in (checkpoint.load, lambda path: checkpoint.convert(path, tmp_path / "out")):
            with pytest.raises(ValueError, match=f"there is no weights file {path}"):
                read(path)


@pytest.mark.parametrize("kept", [0, 5, 200, -1])
def test_a_truncated_file_is_refused(kept: int, weights: Path) -> None:
    weights.write_bytes(weights.read_bytes()[:kept])
    with pytest.raises(ValueError, match="is not a whole safetensors file"):
        checkpoint.load(weights)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("not weights at all, but long enough to be read as a header\n" * 9)
    with pytest.raises(ValueError, match="is not a whole safetensors file"):
        checkpoint.load(tmp_path / "a")


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_pickle_must_be_converted_first(legacy: bool, tmp_path: Path) -> None:
    path = saved({"net": {}}, tmp_path / "a.pth.tar", legacy)
    with pytest.raises(ValueError, match="convert it first with `mixformerv2 convert`"):
        checkpoint.load(path)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"format": "mixformerv2"}])
def test_safetensors_without_our_config_are_refused(metadata: dict[str, str] | None, tmp_path: Path) -> None:
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "a", metadata)
    with pytest.raises(ValueError, match="without the config of a mixformerv2 model"):
        checkpoint.load(tmp_path / "a")


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ("[]", "not the config"),
        ("{", "not the config"),
        ('{"model": {"width": 3}}', "not the config"),
        (CONFIG.to_json().replace('"depth": 2', '"depth": 0'), "depth must be at least 1"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused_with_the_name_of_its_file(
    config: str, complaint: str, tmp_path: Path
) -> None:
    metadata = {"format": "mixformerv2", "config": config}
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "odd", metadata)
    with pytest.raises(ValueError, match=f"odd: .*{complaint}"):
        checkpoint.load(tmp_path / "odd")


def test_weights_that_do_not_fit_their_config_are_named_with_both_shapes(weights: Path) -> None:
    tensors = safetensors.torch.load_file(weights)
    metadata = {"format": "mixformerv2", "config": CONFIG.to_json()}
    changes: list[tuple[Callable[[dict[str, Tensor]], Any], str]] = [
        (
            lambda t: t.update({"box_head.layers.0.bias": torch.zeros(3)}),
            r"box_head.layers.0.bias.*\(3,\).*\(64,\)",
        ),
        (lambda t: t.pop("score_head.layers.0.bias"), "lacks score_head.layers.0.bias$"),
        (lambda t: [t.pop(f"score_head.layers.{i}.bias") for i in (0, 2)], "lacks score_head.* and 1 more"),
        (lambda t: t.update(other=torch.zeros(1)), "has the unknown other"),
    ]
    for change, complaint in changes:
        changed = dict(tensors)
        change(changed)
        safetensors.torch.save_file(changed, weights, metadata)
        with pytest.raises(ValueError, match=complaint):
            checkpoint.load(weights)


# --- published files


def converted(content: object, folder: Path) -> tuple[Network, Config]:
    target = folder / "converted.safetensors"
    config = checkpoint.convert(saved(content, folder / "official.pth.tar"), target)
    network, saved_config = checkpoint.load(target)
    assert saved_config == config
    return network, config


def test_base_and_small_convert_with_sizes_read_from_the_shapes(tmp_path: Path) -> None:
    expected = dict(
        dim=64, heads=1, search_px=64, template_px=32, num_bins=96, box_head="tokens", score_head=True
    )
    for name, depth, mlp_ratio in (("base", 8, 4.0), ("small", 4, 1.0)):
        entries = state_dict(f"mixformerv2_{name}")
        network, config = converted({"net": entries, "epoch": 40}, tmp_path)
        assert config.model == ModelConfig(depth=depth, mlp_ratio=mlp_ratio, **expected)
        theirs = entries["backbone.reg_tokens"][0]  # left, right, top, bottom
        ours = network.backbone.prediction_tokens
        assert ours is not None
        torch.testing.assert_close(ours[0], torch.stack([theirs[0], theirs[2], theirs[1], theirs[3]]))
        last = f"backbone.blocks.{depth - 1}.mlp.fc2.weight"
        torch.testing.assert_close(network.state_dict()[last], entries[last])


def test_a_student_without_score_head_converts(tmp_path: Path) -> None:
    entries = {name: e for name, e in state_dict("mixformerv2_base").items() if not name.startswith("score")}
    for block in range(8, 12):
        entries |= {n.replace(".7.", f".{block}."): e for n, e in entries.items() if ".blocks.7." in n}
    network, config = converted({"net": entries}, tmp_path)
    assert (config.model.depth, config.model.score_head, network.score_head) == (12, False, None)


def test_a_teacher_converts_without_what_it_never_reads(tmp_path: Path) -> None:
    entries = state_dict("mixvit_b_teacher", TEACHER_WIDTHS)
    network, config = converted({"net": entries | {"box_head.indice": torch.zeros(16, 1)}}, tmp_path)
    assert config.model == dataclasses.replace(TEACHER, depth=12, mlp_ratio=4.0)
    variance = network.state_dict()["box_head.bottom_right.coarse_score.2.1.running_var"]
    torch.testing.assert_close(variance, entries["box_head.adjust3_br.2.1.running_var"])


def test_frozen_batch_normalisation_has_no_counters_and_converts(tmp_path: Path) -> None:
    entries = state_dict("mixvit_b_teacher", TEACHER_WIDTHS)
    kept = {name: e for name, e in entries.items() if not name.endswith("num_batches_tracked")}
    assert len(kept) < len(entries)
    assert_same_weights(converted({"net": kept}, tmp_path)[0], converted({"net": entries}, tmp_path)[0])


def test_a_bare_or_wrapped_or_legacy_state_dict_converts_all_the_same(tmp_path: Path) -> None:
    entries = state_dict("mixformerv2_small")
    wrapped = {f"module.{name}": entry for name, entry in entries.items()}
    expected, _ = checkpoint.from_published(entries)
    for content in (entries, {"net": wrapped}):
        assert_same_weights(converted(content, tmp_path)[0], expected)
    target = tmp_path / "from_legacy.safetensors"
    checkpoint.convert(saved({"net": entries}, tmp_path / "legacy.pth", legacy=True), target, torch.float16)
    assert_same_weights(checkpoint.load(target)[0], expected, rtol=1e-3, atol=1e-6)


def test_every_published_size_gives_the_preset_of_its_name() -> None:
    for model, preset in (
        ("mixformerv2_base", "base"),
        ("mixformerv2_small", "small"),
        ("mixvit_b_teacher", "mixvit-b"),
    ):
        with torch.device("meta"):
            entries = {name: torch.empty(shape) for name, shape in published.shapes(model).items()}
            _, config = checkpoint.from_published(entries)
        assert config == PRESETS[preset]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            lambda e: e.clear(),
            "is no MixFormerV2 or MixViT checkpoint: it has no usable 'backbone.patch_embed",
        ),
        (lambda e: e.pop("backbone.pos_embed_t"), "has no usable 'backbone.pos_embed_t'"),
        (lambda e: e.pop("backbone.blocks.2.attn.proj.bias"), "lacks backbone.blocks.2.attn.proj.bias"),
        (lambda e: e.update({"neck.weight": torch.zeros(1)}), "has the unknown neck.weight"),
        (
            lambda e: e.update({"backbone.blocks.1.norm1.bias": torch.zeros(9)}),
            r"norm1.bias has shape \(9,\)",
        ),
        (lambda e: e.update({"backbone.patch_embed.proj.weight": torch.zeros(60, 3, 16, 16)}), "width 60"),
    ],
)
def test_another_model_is_refused_and_nothing_is_written(
    change: Callable[[dict[str, Tensor]], Any], complaint: str, tmp_path: Path
) -> None:
    entries = state_dict("mixformerv2_small")
    change(entries)
    with pytest.raises(ValueError, match=complaint):
        converted({"net": entries}, tmp_path)
    assert os.listdir(tmp_path) == ["official.pth.tar"]


def test_a_file_without_a_state_dict_is_refused(tmp_path: Path) -> None:
    for content in ([1, 2], {"net": 3}):
        with pytest.raises(ValueError, match="holds no state dict"):
            converted(content, tmp_path)


def test_a_broken_checkpoint_is_refused(tmp_path: Path) -> None:
    path = saved({"net": state_dict("mixformerv2_small")}, tmp_path / "a.pth")
    whole = path.read_bytes()
    for content in (b"", b"text", whole[:1000], whole[:-100], pickle.dumps({"net": {}}, protocol=4)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="cannot be read as a PyTorch checkpoint: .") as caught:
            checkpoint.convert(path, tmp_path / "out")
        assert "weights_only" not in str(caught.value)  # never advise reading it unsafely


# --- pickles that hold more than weights


class Settings:
    """As in the released training code, whose classes the reader of a checkpoint does not have."""

    def __init__(self) -> None:
        self.batch_size, self.factors = 32, {"search": 4.5}

    def __setstate__(self, _: object) -> None:
        raise AssertionError("nothing of the file may run")


class Calls:
    """A pickle that calls a function when it is read."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return self.call


def test_settings_and_statistics_of_the_training_code_are_passed_over(tmp_path: Path) -> None:
    entries = state_dict("mixformerv2_small")
    extras = {
        "settings": Settings(),
        "stats": {"loss": [Settings()]},
        "constructor": Settings,
        "net_info": None,
    }
    assert_same_weights(
        converted({"net": entries, **extras}, tmp_path)[0], checkpoint.from_published(entries)[0]
    )


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("function", [os.system, exec, eval, os.mkdir, Path.touch])
def test_a_malicious_pickle_does_not_run(function: Callable[..., Any], legacy: bool, tmp_path: Path) -> None:
    evidence = tmp_path / "evidence"
    argument: object = {
        os.system: f"touch {evidence}",
        os.mkdir: str(evidence),
        Path.touch: evidence,
    }.get(function, f"open({str(evidence)!r}, 'w').close()")
    content = {"net": state_dict("mixformerv2_small"), "settings": Calls(function, argument)}
    path = saved(content, tmp_path / "official.pth.tar", legacy)
    torch.load(path, weights_only=False)
    assert evidence.exists()  # it is indeed malicious
    evidence.rmdir() if evidence.is_dir() else evidence.unlink()
    with contextlib.suppress(ValueError):  # refused, or read with an inert thing in its place
        checkpoint.convert(path, tmp_path / "out.safetensors")
    with pytest.raises(ValueError, match="convert it first"):
        checkpoint.load(path)
    assert not evidence.exists()


# --- masked autoencoders


def autoencoder(depth: int) -> dict[str, Tensor]:
    """The state dict of a masked autoencoder's encoder, in the names of facebookresearch/mae."""
    teacher = state_dict("mixvit_b_teacher", TEACHER_WIDTHS)
    trunk = {name.removeprefix("backbone."): e for name, e in teacher.items() if name.startswith("backbone.")}
    beyond = tuple(f"blocks.{index}." for index in range(depth, 12))
    return {name: e for name, e in trunk.items() if not name.startswith(("pos_embed_", "head.", *beyond))}


def test_a_masked_autoencoder_gives_the_trunk_and_nothing_else(tmp_path: Path) -> None:
    entries = autoencoder(depth=12)
    path = saved({"model": entries}, tmp_path / "mae.pth")
    config = dataclasses.replace(MODEL, depth=3, mlp_ratio=4.0)
    network, fresh = checkpoint.from_mae(path, config, seed=5), build(config, seed=5)
    for name, tensor in network.state_dict().items():
        source = entries.get(name.removeprefix("backbone."), fresh.state_dict()[name])
        torch.testing.assert_close(tensor, source, rtol=0, atol=0, msg=name)
    torch.testing.assert_close(network.backbone.blocks[2].mlp.fc2.weight, entries["blocks.2.mlp.fc2.weight"])


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (dict(depth=5, mlp_ratio=4.0), "lacks backbone.blocks.4.attn.proj.bias and 11 more"),
        (dict(mlp_ratio=1.0), r"mlp.fc1.* has shape \(256.*the model's is \(64"),
    ],
)
def test_a_masked_autoencoder_of_other_sizes_is_refused(
    change: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    path = saved({"model": autoencoder(depth=4)}, tmp_path / "mae.pth")
    with pytest.raises(ValueError, match=complaint):
        checkpoint.from_mae(path, dataclasses.replace(MODEL, **change))
