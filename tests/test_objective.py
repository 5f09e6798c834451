"""The loss of a batch: its parts, what each of them counts, and that they add up over parts of the batch."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import training
from torch import Tensor

from mixformerv2.data.pairs import Batch
from mixformerv2.distill.replacement import ReplacementSchedule
from mixformerv2.distill.shrink import adapt
from mixformerv2.distill.targets import Teacher
from mixformerv2.model.network import Network, build
from mixformerv2.train import losses
from mixformerv2.train.objective import DIAGNOSTICS, LossWeights, Objective, ReplacementObjective

MODEL = dataclasses.replace(training.MODEL, depth=3, score_head=True)
EVERYTHING = LossWeights(
    *(5.0, 2.0, 1.5),
    **dict(side=0.7, divergence=3.0, features=0.2, search_token=1.1, attention=0.5, score=0.3, overlap=0.4),
)
PARTS = [name for name in LossWeights.built_in() if name != "centre"]  # see test_variants


def batch(*present: bool, seed: int = 0) -> Batch:
    count, generator = len(present), torch.Generator().manual_seed(seed)

    def crops(*shape: int) -> Tensor:
        return torch.randint(256, (count, *shape, 3), dtype=torch.uint8, generator=generator)

    corner = torch.rand(count, 2, generator=generator) * 0.5
    size = 0.2 + 0.3 * torch.rand(count, 2, generator=generator)
    there = torch.tensor(present)
    boxes = torch.cat([corner, corner + size], dim=1) * there[:, None]
    return Batch(crops(32, 32), crops(1, 32, 32), crops(64, 64), boxes, there)


def part_of(whole: Batch, first: int, end: int) -> Batch:
    return Batch(*(part[first:end] for part in whole))


def objective(weights: LossWeights = EVERYTHING, model: Any = MODEL, seed: int = 1) -> Objective:
    layers = ((0, 0), (2, 2)) if weights.features else ()
    torch.manual_seed(seed)  # for the probe
    return Objective(build(model, seed=seed), weights, Teacher(build(model, seed=9)), layers).eval()


def number(value: Tensor) -> float:
    return float(value.detach())


def gradients(of: Objective) -> dict[str, Tensor]:
    found = {name: p.grad.clone() for name, p in of.named_parameters() if p.grad is not None}
    of.zero_grad()
    return found


# --- parts of a batch


@pytest.mark.parametrize("present", [(1, 1, 1, 1, 0, 0), (1, 0, 0, 0, 1, 1), (1, 1, 0, 0, 0, 0)])
@pytest.mark.parametrize("kind", ["tokens", "corner", "replacement"])
def test_the_mean_over_two_halves_is_the_whole_batch_for_every_part_and_its_gradients(
    kind: str, present: tuple[int, ...]
) -> None:
    if kind == "corner":
        weights = dataclasses.replace(EVERYTHING, attention=0.0, score=0.0, overlap=0.0)
        of = objective(weights, dataclasses.replace(MODEL, box_head="corner", score_head=False))
    elif kind == "replacement":
        weights = dataclasses.replace(EVERYTHING, search_token=0.0)
        of = ReplacementObjective(
            build(MODEL, seed=1), weights, build(MODEL, seed=9), ReplacementSchedule(), steps=10, seed=0
        ).eval()
    else:
        of = objective()
    whole = batch(*map(bool, present))
    total, parts = of(whole, step=3)
    assert parts.keys() - DIAGNOSTICS == {name for name in PARTS if getattr(of.weights, name)}
    total.backward()
    of_whole = gradients(of)
    halves = [of(part_of(whole, *ends), step=3) for ends in ((0, 3), (3, 6))]
    sum(half[0] for half in halves).div(2).backward()
    torch.testing.assert_close((halves[0][0] + halves[1][0]) / 2, total)
    for name in parts.keys() - DIAGNOSTICS:
        torch.testing.assert_close((halves[0][1][name] + halves[1][1][name]) / 2, parts[name], msg=name)
    of_halves = gradients(of)
    assert of_whole.keys() == of_halves.keys()
    for name, gradient in of_whole.items():
        torch.testing.assert_close(of_halves[name], gradient, rtol=1e-3, atol=1e-5, msg=name)


def test_without_any_target_in_sight_all_is_finite_and_boxes_teach_nothing() -> None:
    of = objective()
    total, parts = of(batch(False, False))
    total.backward()
    for name in ("l1", "ciou", "giou", "side", "divergence", "search_token", "attention", "iou"):
        assert parts[name] == 0, name
    assert parts["features"] > 0 and parts["score"] > 0
    assert all(torch.isfinite(value) for value in [total, *parts.values()])
    assert all(torch.isfinite(gradient).all() for gradient in gradients(of).values())


def test_an_absent_target_adds_nothing_but_counts_as_an_example() -> None:
    of = objective(LossWeights())
    whole = batch(True, False)
    alone, with_absent = of(part_of(whole, 0, 1))[1], of(whole)[1]
    for name in ("l1", "ciou"):
        torch.testing.assert_close(with_absent[name], alone[name] / 2)
    torch.testing.assert_close(with_absent["iou"], alone["iou"])  # of those that are there


# --- the parts themselves


def test_the_total_is_the_weighted_sum_of_the_parts() -> None:
    total, parts = objective()(batch(True, True, False))
    expected = sum(getattr(EVERYTHING, name) * number(parts[name]) for name in PARTS)
    assert number(total) == pytest.approx(expected, rel=1e-5)


def test_the_parts_are_the_losses_of_what_network_and_teacher_say() -> None:
    of, crops = objective(), batch(True, True)
    _, parts = of(crops)
    student, teacher = (
        network.search(crops.search, network.encode_templates(crops.template, crops.online))
        for network in (of.network, build(MODEL, seed=9).eval())
    )
    truth = crops.box_unit
    expected = {
        "l1": (student.box_unit - truth).abs().mean(),
        "ciou": losses.ciou_loss(student.box_unit, truth).mean(),
        "giou": losses.giou_loss(student.box_unit, truth).mean(),
        "side": losses.side_cross_entropy(student.side_logits, truth).mean(),
        "divergence": losses.side_divergence(student.side_logits, teacher.side_logits).mean(),
        "score": F.softplus(-student.score_logits).mean(),
        "iou": losses.iou(student.box_unit, truth).mean(),
    }
    for name, value in expected.items():
        torch.testing.assert_close(parts[name].detach(), value.detach(), msg=name)


def test_the_score_learns_presence_from_every_example() -> None:
    of, crops = objective(LossWeights(l1=0.0, ciou=0.0, score=1.0)), batch(True, False)
    logits = of.network.search(
        crops.search, of.network.encode_templates(crops.template, crops.online)
    ).score_logits
    expected = (F.softplus(-logits[0]) + F.softplus(logits[1])) / 2
    torch.testing.assert_close(of(crops)[0], expected)


def test_the_score_learns_the_overlap_of_the_box_and_leaves_the_box_alone() -> None:
    of, crops = objective(LossWeights(l1=0.0, ciou=0.0, overlap=1.0)), batch(True, False)
    answer = of.network.search(crops.search, of.network.encode_templates(crops.template, crops.online))
    assert answer.score_logits is not None
    overlap = losses.iou(answer.box_unit, crops.box_unit)[0].item()
    assert 0 < overlap < 1
    truth = torch.tensor([overlap, 0.0])  # of the second the target is not there
    total, parts = of(crops)
    expected = F.binary_cross_entropy(answer.score_logits.sigmoid(), truth)
    torch.testing.assert_close(total, expected)
    assert parts.keys() - DIAGNOSTICS == {"overlap"}
    total.backward()
    assert not any(name.startswith("network.box_head") for name in gradients(of))


def test_a_teacher_that_says_the_same_teaches_nothing() -> None:
    student = build(MODEL, seed=9).eval()
    weights = LossWeights(divergence=5.0, features=0.2)
    _, parts = Objective(student, weights, Teacher(build(MODEL, seed=9)), ((0, 0), (2, 2)))(batch(True, True))
    assert number(parts["divergence"]) == pytest.approx(0, abs=1e-6)
    assert number(parts["features"]) == pytest.approx(0, abs=1e-10)


def test_at_first_only_the_auxiliary_losses_may_teach() -> None:
    of, crops = objective(), batch(True, True)
    of.teacher = None  # it is not asked
    total, parts = of(crops, finding_only=True)
    assert parts.keys() - DIAGNOSTICS == {"search_token", "attention"}
    expected = EVERYTHING.search_token * parts["search_token"] + EVERYTHING.attention * parts["attention"]
    torch.testing.assert_close(total, expected)
    total.backward()
    taught = gradients(of)
    assert taught["probe.1.weight"].abs().sum() > 0
    assert not any(name.startswith(("network.box_head", "network.score_head")) for name in taught)


def test_the_guidance_of_attention_changes_the_last_block_alone() -> None:
    of = objective(LossWeights(l1=0.0, ciou=0.0, attention=1.0))
    of(batch(True, True))[0].backward()
    taught = {name for name, gradient in gradients(of).items() if gradient.abs().sum() > 0}
    assert taught and all(name.startswith("network.backbone.blocks.2.") for name in taught)


def test_the_probe_is_there_only_for_its_loss_and_is_no_part_of_the_network() -> None:
    assert objective(LossWeights()).probe is None
    of = objective()
    assert not any("probe" in name for name in of.network.state_dict())
    assert any(name.startswith("probe.") for name in of.state_dict())


# --- signs of a collapse


def test_equal_crops_show_as_a_spread_of_zero_and_different_ones_do_not() -> None:
    of, crops = objective(), batch(True, True)
    twice = Batch(*(part[:1].repeat(2, *(1 for _ in part.shape[1:])) for part in crops))
    assert number(of(twice)[1]["side_spread"]) == pytest.approx(0, abs=1e-6)
    assert number(of(crops)[1]["side_spread"]) > 1e-4


def test_norm_and_distance_of_the_prediction_tokens_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    of, crops = objective(LossWeights()), batch(True)
    tokens = torch.zeros(1, 4, MODEL.dim)
    tokens[0, :, 0] = torch.tensor([3.0, 3.0, 1.0, 1.0])  # the mean is 2
    search = Network.search
    monkeypatch.setattr(
        Network, "search", lambda *arguments: search(*arguments)._replace(features=[tokens, tokens])
    )
    _, parts = of(crops)
    assert number(parts["token_norm"]) == pytest.approx(2)
    assert number(parts["token_distance"]) == pytest.approx((1 / 3 + 1 / 3 + 1 + 1) / 4)


# --- replacement


def replaced(steps: int = 10, seed: int = 0) -> ReplacementObjective:
    teacher = build(dataclasses.replace(MODEL, depth=6), seed=9).eval()
    student = adapt(teacher, dataclasses.replace(MODEL, depth=2)).eval()
    for parameter in student.parameters():
        parameter.data.mul_(1.1)  # one that does not say the same any more
    weights = LossWeights(features=0.2)
    return ReplacementObjective(student, weights, teacher, ReplacementSchedule(), steps, seed)


def test_the_choice_of_blocks_belongs_to_the_step() -> None:
    of, crops = replaced(), batch(True, True)
    boxes = [of.answers(crops, step).student.box_unit for step in range(5)]
    again = [replaced().answers(crops, step).student.box_unit for step in range(5)]
    assert all(torch.equal(a, b) for a, b in zip(boxes, again, strict=True))
    assert len({tuple(box.flatten().tolist()) for box in boxes}) > 1


def test_in_the_last_steps_the_student_runs_alone() -> None:
    of, crops = replaced(steps=10), batch(True, True)
    alone = of.network.search(crops.search, of.network.encode_templates(crops.template, crops.online))
    assert torch.equal(of.answers(crops, 9).student.box_unit, alone.box_unit)
    _, parts = of(crops, 9)
    assert number(parts["features"]) > 0


def test_the_teacher_of_a_replacement_is_no_part_of_what_is_trained_or_saved() -> None:
    of = replaced()
    assert {name.split(".")[0] for name, _ in of.named_parameters()} == {"network"}
    assert {name.split(".")[0] for name in of.state_dict()} == {"network"}


# --- weights


def test_the_default_weights_are_the_published_ones() -> None:
    assert LossWeights() == LossWeights(l1=5.0, ciou=2.0)
    assert LossWeights().of_box and not LossWeights().of_teacher
    assert LossWeights(divergence=5.0).of_teacher and LossWeights(features=0.2).of_teacher
    assert not LossWeights(l1=0.0, ciou=0.0, score=1.0).of_box
    assert LossWeights(l1=0.0, ciou=0.0, side=1.0).of_box
    assert EVERYTHING.auxiliary() == LossWeights(l1=0.0, ciou=0.0, search_token=1.1, attention=0.5)


@pytest.mark.parametrize("fields", [dict(l1=-1.0), dict(l1=0.0, ciou=0.0), dict(score=-0.5)])
def test_negative_weights_and_none_at_all_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must not be negative, and one of them positive, got LossWeights"):
        LossWeights(**fields)


def test_a_weight_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        LossWeights(l1=math.nan)
