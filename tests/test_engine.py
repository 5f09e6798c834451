"""A training run from a folder of stills to a weights file, in small, and what the loop does at every step."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from mixformerv2.config import Config, ModelConfig
from mixformerv2.data.pairs import PairConfig
from mixformerv2.model import checkpoint, initialise
from mixformerv2.model.network import build
from mixformerv2.train import engine
from mixformerv2.train.engine import learning_rate_factor, make_optimiser, run
from mixformerv2.train.recipes import RECIPES, OptimConfig, TrainConfig
from mixformerv2.train.supervised import SupervisedModel

TINY = ModelConfig(
    dim=32,
    depth=2,
    heads=2,
    mlp_ratio=1.0,
    search_px=64,
    template_px=32,
    num_bins=12,
    head_norm=True,
    learned_positions=True,
)
RECIPE = TrainConfig(
    name="test",
    target=Config(TINY),
    search_px=64,
    template_px=32,
    samples=6 * 8,
    batch=8,
    optim=OptimConfig(lr=2e-3, fresh_lr=2e-3, trunk_lr=2e-3, warmup_steps=2, ema_decay=0.9),
)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks as small as these gain nothing from more, and lose much where other programs run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images of one bright ellipse each, annotated as COCO does."""
    root = tmp_path_factory.mktemp("data")
    (root / "stills" / "images").mkdir(parents=True)
    draw = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(6):
        image = draw.integers(0, 90, (60, 80, 3), dtype=np.uint8)
        centre, axes = (int(draw.integers(30, 50)), int(draw.integers(25, 35))), (16, 12)
        cv2.ellipse(image, centre, axes, 0, 0, 360, [int(c) for c in draw.integers(150, 256, 3)], -1)
        cv2.imwrite(str(root / "stills" / "images" / f"{number}.png"), image)
        images.append({"id": number, "file_name": f"{number}.png", "width": 80, "height": 60})
        turn = np.linspace(0, 2 * math.pi, 24, endpoint=False)
        outline = np.stack([centre[0] + 16 * np.cos(turn), centre[1] + 12 * np.sin(turn)], axis=1)
        box = [centre[0] - 16, centre[1] - 12, 32, 24]
        annotations.append(
            {
                "id": number,
                "image_id": number,
                "category_id": 1,
                "bbox": box,
                "segmentation": [outline.reshape(-1).tolist()],
            }
        )
    (root / "stills" / "annotations.json").write_text(
        json.dumps({"images": images, "annotations": annotations})
    )
    return root


@pytest.fixture(scope="module")
def init(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights to start from, made for another input size."""
    path = tmp_path_factory.mktemp("init") / "init.safetensors"
    other = dataclasses.replace(TINY, search_px=96, template_px=48)
    checkpoint.save(build(other, seed=0), Config(other), path)
    return path


def logged(output: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]


# --- whole runs


def test_the_loss_falls_on_a_problem_that_is_always_the_same(data: Path, init: Path, tmp_path: Path) -> None:
    centred = PairConfig(
        centre_jitter=0.3, scale_jitter=0.1, aspect_jitter=0.0, rotation_deg=0.0, absent_share=0.0
    )
    recipe = dataclasses.replace(RECIPE, samples=60 * 8, pairs=centred)
    weights = run(recipe, data, tmp_path / "out", init, log_every=10)
    rows = logged(tmp_path / "out")
    assert [row["step"] for row in rows] == [10, 20, 30, 40, 50, 60]
    assert rows[-1]["loss"] < 0.75 * rows[0]["loss"]
    assert rows[-1]["l1"] < rows[0]["l1"] and rows[-1]["iou"] > rows[0]["iou"]
    assert all(math.isfinite(value) for row in rows for value in row.values())
    network, config = checkpoint.load(weights)
    assert config == recipe.target
    assert not torch.equal(
        network.box_head.layers[0].weight, checkpoint.load(init)[0].box_head.layers[0].weight
    )


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(data: Path, init: Path, tmp_path: Path) -> None:
    straight = run(RECIPE, data, tmp_path / "straight", init, log_every=1)
    for _ in range(2):  # each sees the time up after a step
        run(RECIPE, data, tmp_path / "stopped", init, log_every=1, max_minutes=0)
    assert [row["step"] for row in logged(tmp_path / "stopped")] == [1, 2]
    assert (tmp_path / "stopped" / "last.safetensors").is_file()
    resumed = run(RECIPE, data, tmp_path / "stopped", init, log_every=1)
    rows, expected = logged(tmp_path / "stopped"), logged(tmp_path / "straight")
    assert len(rows) == len(expected) == 6
    for row, reference in zip(rows, expected, strict=True):
        row["samples_per_second"] = reference["samples_per_second"] = 0
        assert row == pytest.approx(reference, abs=2e-4)
    ours, reference_weights = (checkpoint.load(path)[0].state_dict() for path in (resumed, straight))
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, reference_weights[name], rtol=0, atol=1e-6)


def test_the_first_line_after_a_stop_averages_only_the_steps_since(
    data: Path, init: Path, tmp_path: Path
) -> None:
    run(RECIPE, data, tmp_path / "each", init, log_every=1)
    for _ in range(2):
        run(RECIPE, data, tmp_path / "stopped", init, log_every=3, max_minutes=0)
    run(RECIPE, data, tmp_path / "stopped", init, log_every=3)
    each = [row["loss"] for row in logged(tmp_path / "each")]
    rows = logged(tmp_path / "stopped")
    assert [row["step"] for row in rows] == [3, 6]
    assert rows[0]["loss"] == pytest.approx(each[2], abs=2e-4)
    assert rows[1]["loss"] == pytest.approx(sum(each[3:]) / 3, abs=2e-4)


def test_a_finished_run_started_again_does_nothing(data: Path, init: Path, tmp_path: Path) -> None:
    short = dataclasses.replace(RECIPE, samples=8)
    weights = run(short, data, tmp_path, init, log_every=1)
    content = weights.read_bytes()
    assert run(short, data, tmp_path, init, log_every=1) == weights
    assert weights.read_bytes() == content
    assert len(logged(tmp_path)) == 1


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (dict(batch=16), "batch"),
        (dict(optim=dataclasses.replace(RECIPE.optim, lr=1e-3)), "optim"),
        (dict(pairs=PairConfig(absent_share=0.5)), "pairs"),
    ],
)
def test_a_run_is_not_resumed_with_another_recipe(
    data: Path, init: Path, tmp_path: Path, change: dict[str, Any], field: str
) -> None:
    run(RECIPE, data, tmp_path, init, max_minutes=0)
    before = (tmp_path / "resume.pt").read_bytes()
    with pytest.raises(ValueError, match=f"which differs in {field}: choose another output folder"):
        run(dataclasses.replace(RECIPE, **change), data, tmp_path, init, max_minutes=0)
    assert (tmp_path / "resume.pt").read_bytes() == before


def test_a_smaller_input_than_that_of_the_target_is_written_into_the_weights(
    data: Path, init: Path, tmp_path: Path
) -> None:
    recipe = dataclasses.replace(RECIPE, search_px=48, samples=8)
    _, config = checkpoint.load(run(recipe, data, tmp_path, init))
    assert (config.model.search_px, config.model.template_px) == (48, 32)
    assert config.tracker == recipe.target.tracker


def test_until_boxes_are_due_only_the_auxiliary_losses_teach(data: Path, init: Path, tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, samples=2 * 8, boxes_after_samples=8)
    run(recipe, data, tmp_path, init, log_every=1)
    auxiliary, whole = logged(tmp_path)
    weights = recipe.losses
    finding = {"search_token": weights.search_token, "attention": weights.attention}
    boxes = {"l1": weights.l1, "giou": weights.giou, "side": weights.side, "score": weights.score}
    for row, parts in ((auxiliary, finding), (whole, finding | boxes)):
        expected = sum(weight * row[name] for name, weight in parts.items())
        assert row["loss"] == pytest.approx(expected, abs=2e-3)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_its_batch(
    data: Path, init: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: SupervisedModel, batch: Any, weights: Any) -> tuple[torch.Tensor, dict[str, Any]]:
        return next(self.parameters()).sum() * math.nan, {}

    monkeypatch.setattr(SupervisedModel, "loss", broken)
    with pytest.raises(FloatingPointError, match="the loss is nan at step 0"):
        run(RECIPE, data, tmp_path, init)
    assert (tmp_path / "not-finite-batch.pt").is_file()
    assert not (tmp_path / "last.safetensors").exists()


def test_weights_resampled_to_another_input_keep_all_but_their_positions(data: Path, init: Path) -> None:
    source = checkpoint.load(init)[0].state_dict()
    banks = engine.Banks.load(data, torch.device("cpu"))
    ours = engine._initial_network(RECIPE, init, banks).state_dict()
    for name, tensor in ours.items():
        if "positions_" in name:
            continue
        assert torch.equal(tensor, source[name]), name
    expected = initialise.resize_positions(source["backbone.positions_search"], 4)
    assert torch.equal(ours["backbone.positions_search"], expected)


def test_every_nth_still_is_loaded_and_the_share_of_video_only_where_there_is_some(data: Path) -> None:
    banks = engine.Banks.load(data, torch.device("cpu"), every=2)
    assert len(banks.stills) == 3 and banks.videos == []
    batch = banks.batch(RECIPE, torch.Generator().manual_seed(0))
    assert len(batch.search) == 8
    banks.videos.append(banks.stills)  # frames with one object each serve as a video
    assert len(banks.batch(RECIPE, torch.Generator().manual_seed(0)).search) == 8


# --- parts


def test_the_learning_rate_rises_stays_and_falls_to_zero_by_hand() -> None:
    optim = OptimConfig(warmup_steps=4, decay_share=0.5)
    factors = [learning_rate_factor(optim, step, steps=10) for step in range(10)]
    assert factors == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])
    flat = dataclasses.replace(optim, warmup_steps=0, decay_share=0.0)
    assert [learning_rate_factor(flat, step, steps=3) for step in range(3)] == [1, 1, 1]


def test_trunk_fresh_parts_and_heads_learn_at_their_own_rates_and_vectors_do_not_decay() -> None:
    model = SupervisedModel(build(TINY, seed=0))
    optim = OptimConfig(lr=3.0, fresh_lr=2.0, trunk_lr=1.0, weight_decay=0.1)
    found = {
        parameter: (group["lr"], group["weight_decay"])
        for group in make_optimiser(model, optim).param_groups
        for parameter in group["params"]
    }
    named = dict(model.named_parameters())
    assert len(found) == len(named)
    settings = {name.removeprefix("network."): found[parameter] for name, parameter in named.items()}
    assert settings["backbone.patch_embed.proj.weight"] == (1.0, 0.1)
    assert settings["backbone.patch_embed.proj.bias"] == (1.0, 0.0)
    assert settings["backbone.positions_search"][0] == 1.0
    assert settings["backbone.blocks.0.attn.qkv.weight"] == (1.0, 0.1)
    assert settings["backbone.blocks.1.attn.qkv.weight"] == (2.0, 0.1)
    assert settings["backbone.blocks.1.norm1.weight"] == (2.0, 0.0)
    assert settings["backbone.prediction_tokens"][0] == settings["backbone.prediction_positions"][0] == 2.0
    for name in (
        "head_norm.weight",
        "box_head.layers.0.weight",
        "score_head.layers.0.weight",
        "probe.1.weight",
    ):
        assert settings[name][0] == 3.0


def test_positions_that_are_fixed_are_not_given_to_the_optimiser() -> None:
    model = SupervisedModel(build(dataclasses.replace(TINY, learned_positions=False), seed=0))
    given = {p for group in make_optimiser(model, OptimConfig()).param_groups for p in group["params"]}
    assert model.network.backbone.positions_search not in given


def test_the_average_follows_the_weights_by_its_decay() -> None:
    average, network = build(TINY, seed=0), build(TINY, seed=1)
    name = "box_head.layers.0.weight"
    before, target = average.state_dict()[name].clone(), network.state_dict()[name]
    engine._follow(average, network, decay=0.75)
    torch.testing.assert_close(average.state_dict()[name], 0.75 * before + 0.25 * target)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_complete_and_bears_its_name(name: str) -> None:
    recipe = RECIPES[name]()
    assert recipe.name == name
    assert (RECIPES[name].__doc__ or "").count(f"mixformerv2 train {name} ") == 1


@pytest.mark.parametrize("change", [dict(batch=1), dict(samples=7)])
def test_a_run_of_less_than_a_batch_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="batch must be at least 8 and samples at least one batch"):
        dataclasses.replace(RECIPE, **change)
