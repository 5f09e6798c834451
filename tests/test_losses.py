"""Losses against the published numbers (tests/golden/losses.npz), hand-computed cases, and boxes without area."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import published
import pytest
import torch
from torch import Tensor

from mixformerv2.model.heads import CornerHead
from mixformerv2.train import losses

BoxLoss = Callable[[Tensor, Tensor], Tensor]


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    with np.load(published.GOLDEN / "losses.npz") as arrays:
        return {name: torch.from_numpy(np.asarray(array)) for name, array in arrays.items()}


class GivenMap(torch.nn.Module):
    """In the place of a corner map's convolutions."""

    def __init__(self, probabilities: Tensor) -> None:
        super().__init__()
        self.logits = probabilities.log().unflatten(1, (72, 72))

    def forward(self, _: Tensor) -> Tensor:
        return self.logits


# --- the published numbers


def test_iou_is_the_published_one(golden: dict[str, Tensor]) -> None:
    ours = losses.iou(golden["boxes_a"], golden["boxes_b"])
    torch.testing.assert_close(ours, golden["iou"], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("name", "loss"), [("ciou_loss", losses.ciou_loss), ("giou_loss", losses.giou_loss)])
def test_a_box_loss_is_the_published_one_in_both_directions(
    golden: dict[str, Tensor], name: str, loss: BoxLoss
) -> None:
    pairs = (golden["boxes_a"], golden["boxes_b"]), (golden["boxes_b"], golden["boxes_a"])
    for predicted, target in pairs:
        torch.testing.assert_close(loss(predicted, target).mean(), golden[name], rtol=0, atol=1e-6)


def test_dense_to_sparse_divergence_is_the_published_one_of_the_corner_heads_answer(
    golden: dict[str, Tensor],
) -> None:
    teacher = CornerHead(16)
    teacher.top_left = GivenMap(golden["teacher_prob_tl"])
    teacher.bottom_right = GivenMap(golden["teacher_prob_br"])
    student_logits = golden["student_logits_ltrb"].transpose(0, 1)
    ours = losses.side_divergence(student_logits, teacher(torch.zeros(3, 324, 16)))
    torch.testing.assert_close(ours.mean(), golden["dense_to_sparse_kl"], rtol=0, atol=2e-6)


def test_deep_to_shallow_divergence_is_the_published_one(golden: dict[str, Tensor]) -> None:
    student_logits = golden["student_logits_ltrb"].transpose(0, 1)
    teacher_logits = golden["teacher_prob_ltrb"].log().transpose(0, 1)
    ours = losses.side_divergence(student_logits, teacher_logits)
    torch.testing.assert_close(ours.mean(), golden["deep_to_shallow_kl"], rtol=0, atol=2e-6)


def test_feature_mimicking_is_the_published_one(golden: dict[str, Tensor]) -> None:
    student = [golden["student_features"][layer] for layer in golden["student_layers"]]
    teacher = [golden["teacher_features"][layer] for layer in golden["teacher_layers"]]
    ours = losses.feature_mimicking(student, teacher)
    torch.testing.assert_close(ours.mean(), golden["deep_to_shallow_feature_mse"], rtol=0, atol=1e-6)


# --- boxes


def boxes(*rows: tuple[float, float, float, float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def test_iou_giou_and_ciou_by_hand() -> None:
    left, right = boxes((0, 0, 2, 2)), boxes((1, 0, 3, 2))
    assert losses.iou(left, right).item() == pytest.approx(2 / 6)
    assert losses.giou_loss(left, right).item() == pytest.approx(
        1 - 2 / 6 + 0
    )  # they fill what encloses them
    assert losses.ciou_loss(left, right).item() == pytest.approx(1 - 2 / 6 + 1 / (3**2 + 2**2))
    apart = boxes((3, 3, 4, 4))
    assert losses.giou_loss(left, apart).item() == pytest.approx(1 + (16 - 5) / 16)
    wide, square = boxes((0, 0, 4, 2)), boxes((0.5, 0, 3.5, 2))
    aspect = 4 / math.pi**2 * (math.atan(2) - math.atan(1.5)) ** 2
    assert losses.iou(wide, square).item() == 0.75
    assert losses.ciou_loss(wide, square).item() == pytest.approx(0.25 + aspect**2 / (0.25 + aspect))


POINT, LINE, BOX = (0.3, 0.3, 0.3, 0.3), (0.2, 0.4, 0.6, 0.4), (0.2, 0.2, 0.4, 0.4)
INVERTED, TURNED = (0.4, 0.2, 0.2, 0.4), (0.9, 0.9, 0.1, 0.1)
SPECK = (0.0, 0.0, 1e-20, 1e-20)


@pytest.mark.parametrize("loss", [losses.iou, losses.giou_loss, losses.ciou_loss])
@pytest.mark.parametrize("target", [BOX, POINT, LINE, SPECK], ids=["box", "point", "line", "speck"])
@pytest.mark.parametrize("predicted", [BOX, POINT, LINE, INVERTED, TURNED, SPECK])
def test_boxes_without_area_give_finite_losses_and_gradients(
    loss: BoxLoss, predicted: tuple[float, ...], target: tuple[float, ...]
) -> None:
    inputs = torch.tensor([predicted], requires_grad=True)
    value = loss(inputs, torch.tensor([target]))
    value.sum().backward()
    assert value.isfinite() and value.item() >= 0
    assert loss is losses.ciou_loss or value.item() <= 2
    assert inputs.grad is not None and inputs.grad.isfinite().all()


def test_giou_pulls_boxes_together_that_do_not_touch() -> None:
    predicted = boxes((0.1, 0.1, 0.2, 0.2)).requires_grad_()
    losses.giou_loss(predicted, boxes((0.6, 0.1, 0.7, 0.2))).sum().backward()
    assert predicted.grad is not None and predicted.grad[0, 2] < 0


# --- distributions


def test_a_side_between_two_bins_is_shared_between_them() -> None:
    probabilities = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    side_logits = probabilities.log().expand(1, 4, 4)
    box_unit = boxes((0.25, 0.3125, 0.5, 0.75))  # bins 1, 1.25, 2, 3
    expected = -sum(math.log(p) for p in (0.2, 0.2**0.75 * 0.3**0.25, 0.3, 0.4)) / 4
    assert losses.side_cross_entropy(side_logits, box_unit).item() == pytest.approx(expected)


def test_a_side_beyond_the_crop_counts_as_at_its_edge() -> None:
    side_logits = torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    beyond = losses.side_cross_entropy(side_logits, boxes((-3, -0.01, 1, 7)))
    at_edge = losses.side_cross_entropy(side_logits, boxes((0, 0, 7 / 8, 7 / 8)))
    torch.testing.assert_close(beyond, at_edge)


def test_the_divergence_of_two_distributions_by_hand() -> None:
    teacher = torch.tensor([0.5, 0.5]).log().expand(1, 4, 2)
    student = torch.tensor([0.25, 0.75]).log().expand(1, 4, 2)
    by_hand = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert losses.side_divergence(student, teacher).item() == pytest.approx(by_hand, abs=1e-6)
    assert losses.side_divergence(teacher, teacher).item() == pytest.approx(0, abs=1e-7)


# --- search tokens: a grid of 4 x 4, centres at 0.125, 0.375, 0.625, 0.875

WIDE = boxes((0.25, 0.5, 1.0, 0.75))  # holds the centres of row 2, columns 1 to 3: tokens 9, 10, 11


def test_the_tokens_inside_a_box_and_their_distances_by_hand() -> None:
    inside, to_sides = losses.search_grid_targets(WIDE, 4)
    assert inside[0].nonzero()[:, 0].tolist() == [9, 10, 11]
    assert to_sides[0, 9].tolist() == [0.125, 0.125, 0.625, 0.125]
    assert to_sides[0, 0].tolist() == [-0.125, -0.375, 0.875, 0.625]


def test_the_search_token_loss_by_hand() -> None:
    outputs = torch.zeros(1, 16, 5, dtype=torch.float64)
    outputs[..., 1:] = WIDE
    # Undecided everywhere: log 2, whatever the weights; the box itself is right.
    assert losses.search_token_loss(outputs, WIDE).item() == pytest.approx(math.log(2))
    outputs[0, 9, 1:] += 0.3
    outputs[0, 0, 1:] += 9  # outside, so nobody asks it
    assert losses.search_token_loss(outputs, WIDE).item() == pytest.approx(math.log(2) + 5 * 0.3 / 3)
    outputs[..., 1:] = WIDE
    outputs[..., 0] = -2.0
    outputs[0, 9:12, 0] = 2.0
    wrong_nowhere = math.log(1 + math.exp(-2))
    assert losses.search_token_loss(outputs, WIDE).item() == pytest.approx(wrong_nowhere)
    # One of three tokens wrong inside weighs as much as a third of the thirteen outside.
    outputs[0, 9, 0] = -2.0
    expected = wrong_nowhere + 2 * 0.5 / 3
    assert losses.search_token_loss(outputs, WIDE).item() == pytest.approx(expected)


def test_the_search_token_loss_is_finite_where_no_token_is_inside() -> None:
    outputs = torch.zeros(1, 16, 5, dtype=torch.float64, requires_grad=True)
    loss = losses.search_token_loss(outputs, boxes((0.2, 0.2, 0.3, 0.3)))
    loss.backward()
    assert loss.isfinite() and outputs.grad is not None and outputs.grad.isfinite().all()


def test_the_attention_guidance_by_hand() -> None:
    attention = torch.full((1, 4, 16), 1 / 16, dtype=torch.float64)
    # Along the sides: left token 9, top all three, right token 11, bottom all three.
    expected = -(2 * math.log(1 / 16) + 2 * math.log(3 / 16)) / 4
    assert losses.attention_guidance_loss(attention, WIDE).item() == pytest.approx(expected)
    attention = torch.zeros(1, 4, 16, dtype=torch.float64)
    for side, token in enumerate((9, 10, 11, 10)):
        attention[0, side, token] = 1
    assert losses.attention_guidance_loss(attention, WIDE).item() == pytest.approx(0)


def test_the_attention_guidance_is_silent_where_no_token_is_inside() -> None:
    attention = torch.full((1, 4, 16), 1 / 16, requires_grad=True)
    loss = losses.attention_guidance_loss(attention, torch.tensor([[0.2, 0.2, 0.3, 0.3]]))
    loss.backward()
    assert loss.item() == 0
    assert attention.grad is not None and not attention.grad.any()
