"""Networks that differ from the paper's in one idea: other heads, fewer tokens, symmetric attention."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import training
from torch import Tensor

from mixformerv2 import MultiTracker, Tracker
from mixformerv2.bench.reference import joint_forward
from mixformerv2.config import Config, ModelConfig
from mixformerv2.data.datasets import open_datasets
from mixformerv2.data.pairs import Batch
from mixformerv2.data.sequence import Sequence as Video
from mixformerv2.distill import shrink
from mixformerv2.distill.targets import check_pair, matched_features
from mixformerv2.model import checkpoint
from mixformerv2.model.heads import CentreMaps
from mixformerv2.model.network import Network, build
from mixformerv2.runtime.backend import open_backend
from mixformerv2.runtime.export import export
from mixformerv2.runtime.torch import NetworkBackend
from mixformerv2.train import losses, stages
from mixformerv2.train.deadline import Deadline
from mixformerv2.train.engine import LAST, make_objective
from mixformerv2.train.objective import LossWeights
from mixformerv2.train.stages import Recipe

SIZES: dict[str, Any] = dict(dim=32, heads=2, mlp_ratio=1.0, search_px=64, template_px=32, num_bins=16)
PAPER = ModelConfig(depth=3, **SIZES, head_norm=True, learned_positions=True)
VARIANTS = {
    "one token": dataclasses.replace(PAPER, prediction_tokens=1),
    "numbers": dataclasses.replace(PAPER, regression="numbers"),
    "one token of numbers": dataclasses.replace(PAPER, prediction_tokens=1, regression="numbers"),
    "corner and score": dataclasses.replace(PAPER, box_head="corner"),
    "centre": dataclasses.replace(PAPER, box_head="centre"),
    "symmetric": dataclasses.replace(PAPER, attention="symmetric"),
    "symmetric and dense": dataclasses.replace(PAPER, attention="symmetric", box_head="centre"),
}
each_variant = pytest.mark.parametrize("model", VARIANTS.values(), ids=VARIANTS)


def weights_for(model: ModelConfig) -> LossWeights:
    """Every loss that the network can take."""
    return LossWeights(
        ciou=0.0,
        giou=2.0,
        side=float(model.has_distributions),
        centre=float(model.box_head == "centre"),
        search_token=1.0,
        attention=float(model.num_prediction_tokens == 4),
        score=1.0,
    )


def inputs(batch: int = 2, online: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    sides = ((batch, 32, 32, 3), (batch, online, 32, 32, 3), (batch, 64, 64, 3))
    template, online_template, search = (
        torch.randint(256, s, dtype=torch.uint8, generator=generator) for s in sides
    )
    return template, online_template, search


def moved(model: ModelConfig) -> Network:
    """With statistics and prediction tokens that are not what they start as."""
    network = build(model, seed=0).double()
    with torch.no_grad():
        for name, entry in network.named_buffers():
            if name.endswith("running_mean"):
                entry.add_(0.1)
        for name, parameter in network.named_parameters():
            if name.startswith("backbone.prediction_"):
                parameter.mul_(50)
    return network.eval()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Sequence[Video]]:
    return open_datasets(training.write_datasets(tmp_path_factory.mktemp("data")))


# --- each of them through the whole way


@each_variant
@torch.no_grad()
def test_the_two_calls_give_what_one_pass_of_all_tokens_gives(model: ModelConfig) -> None:
    network = moved(model)
    template, online, crop = inputs(online=2)
    prediction = network.search(crop, network.encode_templates(template, online))
    joint = joint_forward(network, template, online, crop)
    torch.testing.assert_close(prediction.box_unit, joint.box_unit, rtol=1e-9, atol=1e-9)
    assert prediction.score_logits is not None and joint.score_logits is not None
    torch.testing.assert_close(prediction.score_logits, joint.score_logits, rtol=1e-9, atol=1e-9)
    for ours, theirs in zip(prediction.features, joint.features, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    assert (prediction.side_logits is not None) == model.has_distributions


@each_variant
def test_it_trains_is_saved_and_tracks(
    model: ModelConfig, data: Mapping[str, Sequence[Video]], tmp_path: Path
) -> None:
    stage = training.stage(model=model, steps=12, losses=weights_for(model))
    engine = training.make_engine(stage, data, tmp_path)
    before = {name: entry.clone() for name, entry in engine.progress.objective.named_parameters()}
    assert engine.run(Deadline(None))
    still = [
        name
        for name, entry in engine.progress.objective.named_parameters()
        if torch.equal(entry, before[name])
    ]
    assert not still, "every parameter learns"
    curve = training.curve(tmp_path)
    assert float(curve[-1]["loss"]) < float(curve[0]["loss"])
    loaded, config = checkpoint.load(tmp_path / LAST)
    assert config.model == model and training.same_weights(loaded, engine.result())
    tracker, many = Tracker(tmp_path / LAST, backend="torch"), MultiTracker(tmp_path / LAST, backend="torch")
    tracker.init(tiny.square_frame(0), tiny.square_box(0))
    for _ in range(2):
        many.add(tiny.square_frame(0), tiny.square_box(0))
    for index in range(1, 4):
        alone, together = tracker.update(tiny.square_frame(index)), many.update(tiny.square_frame(index))
        assert np.isfinite(alone.box).all() and 0 <= alone.score <= 1
        for result in together.values():
            np.testing.assert_allclose(result.box, alone.box, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("name", ["one token of numbers", "symmetric and dense"])
def test_it_is_exported(name: str, tmp_path: Path) -> None:
    checkpoint.save(build(VARIANTS[name], seed=0).eval(), Config(VARIANTS[name]), tmp_path / "a.safetensors")
    export(tmp_path / "a.safetensors", tmp_path / "exported")
    network, config = checkpoint.load(tmp_path / "a.safetensors")
    template, online, crop = (part[:1].numpy() for part in inputs())
    answers = [
        backend.search(crop, backend.encode_templates(template, online))
        for backend in (NetworkBackend(network, config), open_backend(tmp_path / "exported", "onnxruntime"))
    ]
    np.testing.assert_allclose(answers[1].box_unit, answers[0].box_unit, atol=1e-4)
    np.testing.assert_allclose(answers[1].score, answers[0].score, atol=1e-4)


# --- what was there stays as it was


def test_a_config_from_before_the_variants_is_the_papers_network() -> None:
    fields = json.loads(Config(PAPER).to_json())
    for name in ("prediction_tokens", "regression", "attention"):
        del fields["model"][name]
    assert Config.from_json(json.dumps(fields)) == Config(PAPER)
    assert (PAPER.num_prediction_tokens, PAPER.has_distributions) == (4, True)


# --- the heads


def test_a_number_is_the_sigmoid_of_its_own_tokens_output() -> None:
    head = build(VARIANTS["numbers"], seed=0).box_head
    tokens = torch.randn(1, 4, 32, generator=torch.Generator().manual_seed(0))
    box = head(tokens)
    assert box.shape == (1, 4) and ((box > 0) & (box < 1)).all()
    tokens[0, 2] += 1.0
    assert torch.equal((head(tokens) != box)[0], torch.tensor([False, False, True, False]))


def test_one_token_gives_four_distributions_side_by_side() -> None:
    head = build(VARIANTS["one token"], seed=0).box_head
    linear, norm = head.layers[3], head.layers[4]
    token = torch.randn(3, 1, 32, generator=torch.Generator().manual_seed(0))
    hidden = head.layers[:3](token)[:, 0]
    for side in range(4):
        rows = slice(16 * side, 16 * side + 16)
        expected = norm(torch.nn.functional.linear(hidden, linear.weight[rows], linear.bias[rows]))
        torch.testing.assert_close(head(token)[:, side], expected)


def test_the_box_of_a_centre_head_by_hand() -> None:
    """Of 4 x 4 tokens the second of the third row has the peak: half and a quarter of a token further, the centre."""
    score, offset, size = torch.zeros(1, 16), torch.zeros(1, 16, 2), torch.zeros(1, 16, 2)
    score[0, 9], offset[0, 9], size[0, 9] = 1.0, torch.tensor([0.5, 0.25]), torch.tensor([0.25, 0.5])
    maps = CentreMaps(score, offset, size)
    assert maps.peak().tolist() == [9]
    torch.testing.assert_close(maps.box_at(maps.peak()), torch.tensor([[0.25, 0.3125, 0.5, 0.8125]]))
    assert losses.centre_token(maps.box_at(maps.peak()), 4).tolist() == [9]


@pytest.mark.parametrize("name", ["numbers", "centre"])
@torch.no_grad()
def test_in_half_precision_a_box_still_lies_between_pixels(name: str) -> None:
    network = build(VARIANTS[name], seed=0).eval()
    template, online, crop = inputs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        box = network.search(crop, network.encode_templates(template, online)).box_unit
    assert box.dtype == torch.float32
    assert not torch.equal(box, box.bfloat16().float())


def test_the_loss_of_a_score_map_by_hand() -> None:
    """Half everywhere on 2 x 2 tokens, a tiny target in the middle of the first: the others are far away from it."""
    maps = CentreMaps(torch.zeros(1, 4), torch.zeros(1, 4, 2), torch.zeros(1, 4, 2))
    box = torch.tensor([[0.24, 0.24, 0.26, 0.26]])
    assert float(losses.centre_score_loss(maps, box)[0]) == pytest.approx(4 * 0.25 * math.log(2))
    # A target as large as 20 crops: the others are as near to its centre as the first one is.
    huge = torch.tensor([[-9.75, -9.75, 10.25, 10.25]])
    assert float(losses.centre_score_loss(maps, huge)[0]) == pytest.approx(0.25 * math.log(2), rel=1e-3)
    sure = CentreMaps(torch.tensor([[20.0, -20.0, -20.0, -20.0]]), *maps[1:])
    assert float(losses.centre_score_loss(sure, box)[0]) == pytest.approx(0.0, abs=1e-6)


def test_boxes_of_a_centre_head_are_taught_where_the_true_centre_is() -> None:
    model = VARIANTS["centre"]
    stage = training.stage(model=model, losses=LossWeights(ciou=0.0, centre=1.0))
    network = build(model, seed=0)
    objective = make_objective(stage, network, None)
    template, online, search = inputs(batch=1)
    batch = Batch(template, online, search, torch.tensor([[0.5, 0.5, 0.75, 0.75]]), torch.tensor([True]))
    answer = objective.answers(batch, 0).student
    assert answer.centre is not None
    there = answer.centre.box_at(torch.tensor([10]))  # of 4 x 4
    _, parts = objective(batch)
    torch.testing.assert_close(parts["l1"], (there - batch.box_unit).abs().mean())


# --- what cannot be


@pytest.mark.parametrize(
    ("name", "weights", "sentence"),
    [
        ("numbers", LossWeights(side=1.0), "losses.side and losses.divergence are on the distributions"),
        ("centre", LossWeights(side=1.0, centre=1.0), "which this network has not: set them to 0"),
        ("one token", LossWeights(attention=1.0), "one for each side, which this network has not"),
        (
            "centre",
            LossWeights(),
            "losses.centre goes with a centre head, and a centre head with losses.centre, got 0",
        ),
        ("numbers", LossWeights(centre=1.0), "got 1 with box_head tokens"),
    ],
)
def test_a_loss_that_the_head_has_nothing_for_is_refused(
    name: str, weights: LossWeights, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        training.stage(model=VARIANTS[name], losses=weights)


def test_without_distributions_there_is_nothing_to_distil_from() -> None:
    teacher = stages.supervised("teacher", Config(VARIANTS["numbers"]), 64, "random")
    student = stages.dense_to_sparse("student", Config(PAPER), 64, "teacher")
    with pytest.raises(
        ValueError, match=r"stage student: losses.divergence is on the teacher's distributions of the"
    ):
        Recipe("both", (teacher, student))


# --- from one to another


def test_other_tokens_and_another_head_start_fresh_and_the_trunk_is_kept() -> None:
    paper = build(PAPER, seed=0)
    for model in VARIANTS.values():
        adapted = shrink.adapt(paper, model)
        assert adapted.config == model
        assert torch.equal(adapted.backbone.blocks[0].mlp.fc1.weight, paper.backbone.blocks[0].mlp.fc1.weight)
    symmetric = shrink.adapt(paper, VARIANTS["symmetric"])
    assert training.same_weights(symmetric, paper)


@torch.no_grad()
def test_narrower_mlps_of_symmetric_attention_are_fitted_on_what_it_sees() -> None:
    network = moved(VARIANTS["symmetric"]).float()
    same = shrink.narrow_mlps(network, 1.0, *inputs())
    assert training.same_weights(same, network)
    narrow = shrink.narrow_mlps(network, 0.5, *inputs())
    assert narrow.config.mlp_ratio == 0.5
    template, online, crop = inputs()
    wide, fitted = (
        each.search(crop, each.encode_templates(template, online)).features for each in (network, narrow)
    )
    blind = shrink.adapt(network, VARIANTS["symmetric"])
    for block in blind.backbone.blocks:
        block.mlp.fc2.weight[:, 16:] = 0.0
    left = blind.search(crop, blind.encode_templates(template, online)).features
    assert (fitted[0] - wide[0]).norm() < (left[0] - wide[0]).norm()


@torch.no_grad()
def test_networks_of_one_and_of_four_tokens_share_search_tokens() -> None:
    one, four = build(VARIANTS["one token"], seed=0), build(PAPER, seed=0)
    template, online, crop = inputs()
    answers = [each.search(crop, each.encode_templates(template, online)) for each in (one, four)]
    ours, theirs = matched_features(answers[0], answers[1], [(0, 0), (1, 1)])
    assert [tokens.shape[1] for tokens in (*ours, *theirs)] == [16] * 4
    torch.testing.assert_close(ours[0], answers[0].features[0][:, :16])
    with pytest.raises(
        ValueError, match="only prediction tokens leave layer 2 of the student, and the other"
    ):
        check_pair(one.config, four.config, [(2, 1)])
