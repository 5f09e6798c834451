"""What a student learns from a teacher: whether the two fit, the teacher's answers, and which tokens are compared."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Num
from torch import Tensor

from mixformerv2.config import ModelConfig
from mixformerv2.distill.shrink import evenly
from mixformerv2.model.network import Network, Prediction

LayerPairs = Sequence[tuple[int, int]]  # blocks with matched tokens, the student's first


def default_feature_layers(student_depth: int, teacher_depth: int) -> tuple[tuple[int, int], ...]:
    """Up to four pairs of blocks, each at the same share of the depth in both networks, the last ones among them.

    As released: 12 with 12 is (2, 5, 8, 11) with the same, 8 with 12 is (1, 3, 5, 7) with (2, 5, 8, 11).
    """
    count = min(4, student_depth, teacher_depth)
    return tuple(zip(evenly(student_depth, count), evenly(teacher_depth, count), strict=True))


def check_pair(student: ModelConfig, teacher: ModelConfig, feature_layers: LayerPairs) -> None:
    """Raises ValueError, saying what to change, where a student of this config cannot learn from such a teacher.

    ``feature_layers`` are empty where no tokens are compared; then the widths may differ.
    """
    for name in ("search_px", "template_px", "template_surround"):
        theirs, ours = getattr(teacher, name), getattr(student, name)
        if theirs != ours:
            raise ValueError(
                f"teacher and student see the same crops, and the teacher's {name} is {theirs}, the student's {ours}: "
                f"set the student's {name} to {theirs} or choose another teacher"
            )
    both_distribute = teacher.has_distributions and student.has_distributions
    if both_distribute and teacher.num_bins != student.num_bins:
        raise ValueError(
            f"the teacher answers with {teacher.num_bins} bins and the student with {student.num_bins}: "
            f"set the student's num_bins to {teacher.num_bins} or choose another teacher"
        )
    if feature_layers and teacher.dim != student.dim:
        raise ValueError(
            f"tokens are compared in feature_layers, and the teacher is {teacher.dim} wide, the student {student.dim}: "
            "set feature_layers to none or choose a teacher of the student's width"
        )
    _check_layers(student, teacher, feature_layers)


def _check_layers(student: ModelConfig, teacher: ModelConfig, feature_layers: LayerPairs) -> None:
    for place, (role, depth) in enumerate((("student", student.depth), ("teacher", teacher.depth))):
        layers = [pair[place] for pair in feature_layers]
        beyond = [layer for layer in layers if not 0 <= layer < depth]
        if beyond:
            raise ValueError(
                f"feature_layers name layer {beyond[0]} of the {role}, which has {depth} blocks: "
                f"choose from 0 to {depth - 1}, in every pair the student's layer first"
            )
        twice = [layer for layer in layers if layers.count(layer) > 1]
        if twice:
            raise ValueError(
                f"feature_layers name layer {twice[0]} of the {role} twice: leave one of them out"
            )
    if student.num_prediction_tokens == teacher.num_prediction_tokens:
        return
    for place, (role, model) in enumerate((("student", student), ("teacher", teacher))):
        if model.num_prediction_tokens and any(pair[place] == model.depth - 1 for pair in feature_layers):
            other = (
                "none" if 0 in (student.num_prediction_tokens, teacher.num_prediction_tokens) else "others"
            )
            raise ValueError(
                f"only prediction tokens leave layer {model.depth - 1} of the {role}, and the other network has "
                f"{other}: take an earlier layer of the {role} in feature_layers"
            )


class Teacher:
    """A network that only answers: frozen, in evaluation mode, never among the parameters of a student that holds it.

    It takes the network over: nobody can train it any more.
    """

    def __init__(self, network: Network) -> None:
        self.network = network.eval().requires_grad_(False)

    @property
    def config(self) -> ModelConfig:
        return self.network.config

    def to(self, device: torch.device | str) -> Teacher:
        """The same teacher, moved there."""
        self.network.to(device)
        return self

    @torch.no_grad()
    def predict(
        self,
        template: Num[Tensor, "b template_px template_px 3"],
        online: Num[Tensor, "b online template_px template_px 3"],
        search: Num[Tensor, "b search_px search_px 3"],
    ) -> Prediction:
        """Its answer to the crops that the student sees."""
        return self.network.search(search, self.network.encode_templates(template, online))


def matched_features(
    student: Prediction, teacher: Prediction, layers: LayerPairs
) -> tuple[list[Float[Tensor, "b _ dim"]], list[Float[Tensor, "b _ dim"]]]:
    """Tokens after the paired blocks, the student's and the teacher's: only those that both have, in the same order.

    Both have search tokens everywhere but after a last block that leaves only prediction tokens; prediction tokens
    are compared where both networks have as many. The teacher's carry no gradient.
    """
    ours, theirs = _num_prediction_tokens(student), _num_prediction_tokens(teacher)
    matched: tuple[list[Tensor], list[Tensor]] = ([], [])
    for student_layer, teacher_layer in layers:
        a, b = student.features[student_layer], teacher.features[teacher_layer].detach()
        if ours == theirs:
            count = min(a.shape[1], b.shape[1])  # few after a last block, whose other tokens nobody reads
            a, b = a[:, -count:], b[:, -count:]
        else:
            a, b = a[:, : a.shape[1] - ours], b[:, : b.shape[1] - theirs]
        assert a.shape == b.shape, "check_pair finds out before"
        matched[0].append(a)
        matched[1].append(b)
    return matched


def _num_prediction_tokens(prediction: Prediction) -> int:
    """With them they alone leave the last block; without them all tokens do, as many as enter it."""
    first, last = prediction.features[0].shape[1], prediction.features[-1].shape[1]
    alone = last < first if len(prediction.features) > 1 else last in (1, 4)
    return last if alone else 0
