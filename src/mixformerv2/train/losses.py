"""Every loss of the paper and of our first weights, as functions of boxes, side logits and features.

Boxes are xyxy in any one unit; side logits are (b, 4, bins) in the order l, t, r, b. Each loss is given example by
example, so that a batch in parts, on one process or many, adds up to the same mean.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mixformerv2.model.heads import CentreMaps

BoxTensor = Float[Tensor, "b 4"]

_EPS = 1e-7  # keeps the quotients of boxes without area finite; others do not feel it


def _intersection_and_union(a: BoxTensor, b: BoxTensor) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
    overlap = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0).prod(dim=1)
    areas = [(box[:, 2:] - box[:, :2]).prod(dim=1) for box in (a, b)]
    return overlap, (areas[0] + areas[1] - overlap).clamp(min=_EPS)


def _enclosing_size(a: BoxTensor, b: BoxTensor) -> Float[Tensor, "b 2"]:
    return torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])


def iou(a: BoxTensor, b: BoxTensor) -> Float[Tensor, "b"]:
    """Intersection over union, pair by pair; 0 where a box is empty."""
    overlap, union = _intersection_and_union(a, b)
    return overlap / union


def giou_loss(predicted: BoxTensor, target: BoxTensor) -> Float[Tensor, "b"]:
    """1 - generalised IoU, in [0, 2] (Rezatofighi et al., 2019)."""
    overlap, union = _intersection_and_union(predicted, target)
    enclosing = torch.maximum(_enclosing_size(predicted, target).prod(dim=1), union)
    return 1 - overlap / union + (enclosing - union) / enclosing


def ciou_loss(predicted: BoxTensor, target: BoxTensor) -> Float[Tensor, "b"]:
    """1 - complete IoU: the distance of the centres counts too, and from an IoU of 0.5 on the difference of aspect
    (Zheng et al., 2021, equation 11).
    """
    overlap, union = _intersection_and_union(predicted, target)
    share = overlap / union
    diagonal = _enclosing_size(predicted, target).square().sum(dim=1).clamp(min=_EPS)
    centres = (predicted[:, :2] + predicted[:, 2:] - target[:, :2] - target[:, 2:]) / 2
    sizes = [(box[:, 2:] - box[:, :2]).clamp(min=_EPS) for box in (predicted, target)]
    angles = [torch.atan2(*size.unbind(1)) for size in sizes]
    aspect = 4 / math.pi**2 * (angles[1] - angles[0]).square()
    with torch.no_grad():
        weight = (share > 0.5) * aspect / (1 - share + aspect).clamp(min=_EPS)
    return 1 - share + centres.square().sum(dim=1) / diagonal + weight * aspect


def side_cross_entropy(side_logits: Float[Tensor, "b 4 bins"], box_unit: BoxTensor) -> Float[Tensor, "b"]:
    """Cross-entropy of each side against its coordinate shared between the two nearest bins; mean over sides."""
    bins = side_logits.shape[-1]
    position = (box_unit * bins).clamp(0, bins - 1)
    lower = position.floor().clamp(max=bins - 2)
    share = (position - lower)[..., None]
    index = lower.long()[..., None]
    log_probability = side_logits.log_softmax(dim=-1)
    pair = (log_probability.gather(-1, index), log_probability.gather(-1, index + 1))
    return -((1 - share) * pair[0] + share * pair[1]).mean(dim=(1, 2))


def side_divergence(
    student_logits: Float[Tensor, "b 4 bins"], teacher_logits: Float[Tensor, "b 4 bins"]
) -> Float[Tensor, "b"]:
    """KL of the student's side distributions from the teacher's, mean over sides, as in the released code.

    Both kinds of head answer with side logits, so this serves dense-to-sparse (paper, section 3.4.1, with the
    marginals of a corner head) and deep-to-shallow distillation (section 3.4.2) alike.
    """
    student = student_logits.log_softmax(dim=-1)
    teacher = teacher_logits.log_softmax(dim=-1)
    return F.kl_div(student, teacher, log_target=True, reduction="none").sum(dim=-1).mean(dim=1)


def feature_mimicking(
    student: list[Float[Tensor, "b _ dim"]], teacher: list[Float[Tensor, "b _ dim"]]
) -> Float[Tensor, "b"]:
    """Squared distance between matched layers' tokens, mean over tokens, channels and pairs of layers."""
    pairs = zip(student, teacher, strict=True)
    return torch.stack([(s - t).square().mean(dim=(1, 2)) for s, t in pairs]).mean(dim=0)


def search_grid_targets(
    box_unit: BoxTensor, grid: int
) -> tuple[Bool[Tensor, "b tokens"], Float[Tensor, "b tokens 4"]]:
    """For every search token: is its centre inside the box, and how far is each side from it (l, t, r, b, unit)?"""
    line = (torch.arange(grid, device=box_unit.device) + 0.5) / grid
    y, x = torch.meshgrid(line, line, indexing="ij")
    centres = torch.stack([x, y], dim=-1).reshape(1, -1, 2)
    to_sides = torch.cat([centres - box_unit[:, None, :2], box_unit[:, None, 2:] - centres], dim=-1)
    return (to_sides > 0).all(dim=-1), to_sides


def search_token_loss(outputs: Float[Tensor, "b tokens 5"], box_unit: BoxTensor) -> Float[Tensor, "b"]:
    """Auxiliary loss on the search tokens: inside the target or not (cross-entropy), and from inside the whole box
    (L1). It is learned within minutes, and leaves the answer where the prediction tokens only have to read it.
    """
    grid = round(outputs.shape[1] ** 0.5)
    inside, _ = search_grid_targets(box_unit, grid)
    found = F.binary_cross_entropy_with_logits(outputs[..., 0], inside.float(), reduction="none")
    # Half of the weight for the few tokens inside, half for the many outside.
    share = inside.float().mean(dim=1, keepdim=True).clamp(1 / grid**2, 1 - 1 / grid**2)
    balance = torch.where(inside, 0.5 / share, 0.5 / (1 - share))
    off = (outputs[..., 1:] - box_unit[:, None]).abs().mean(dim=-1)
    off_inside = (off * inside).sum(dim=1) / inside.sum(dim=1).clamp(min=1)
    return (found * balance).mean(dim=1) + 5 * off_inside


def centre_token(box_unit: BoxTensor, grid: int) -> Int[Tensor, "b"]:
    """The search token in which the centre of each box lies, counted row by row."""
    column, row = ((box_unit[:, :2] + box_unit[:, 2:]) / 2 * grid).long().clamp(0, grid - 1).unbind(1)
    return row * grid + column


def centre_score_loss(maps: CentreMaps, box_unit: BoxTensor) -> Float[Tensor, "b"]:
    """Focal loss on the score map of a centre head, with less of a penalty near the centre (CenterNet, equation 1).

    Near is a Gaussian as wide and high as the target, with 0.54 / 6 of its sides as deviations (TTFNet, section 3.2).
    """
    grid = round(maps.score_logits.shape[1] ** 0.5)
    is_centre = F.one_hot(centre_token(box_unit, grid), grid**2).bool()
    line = (torch.arange(grid, device=box_unit.device) + 0.5) / grid
    y, x = torch.meshgrid(line, line, indexing="ij")
    places = torch.stack([x, y], dim=-1).reshape(1, -1, 2)
    middle, sides = (box_unit[:, :2] + box_unit[:, 2:]) / 2, box_unit[:, 2:] - box_unit[:, :2]
    deviation = (0.54 / 6 * sides).clamp(min=_EPS)
    near = (-0.5 * ((places - middle[:, None]) / deviation[:, None]).square().sum(dim=-1)).exp()
    found, missed = F.logsigmoid(maps.score_logits), F.logsigmoid(-maps.score_logits)
    at_centre = missed.exp().square() * found
    elsewhere = (1 - near) ** 4 * found.exp().square() * missed
    return -torch.where(is_centre, at_centre, elsewhere).sum(dim=1)


def attention_guidance_loss(
    attention: Float[Tensor, "b 4 tokens"], box_unit: BoxTensor
) -> Float[Tensor, "b"]:
    """Auxiliary loss on where each prediction token looks: minus the log of the attention that falls on the search
    tokens along its own side, inside the target. Without it the four tokens answer with one constant box for the
    first tens of thousands of samples.
    """
    grid = round(attention.shape[-1] ** 0.5)
    inside, to_sides = search_grid_targets(box_unit, grid)
    along_side = (inside[..., None] & (to_sides < 1 / grid)).transpose(1, 2)  # (b, 4, tokens)
    some = along_side.any(dim=-1)
    on_side = (attention * along_side).sum(dim=-1).clamp(min=1e-6)
    return -(on_side.log() * some).sum(dim=1) / some.sum(dim=1).clamp(min=1)
