"""Teacher and student: who fits whom, what the teacher says, and which tokens are compared."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from mixformerv2.config import ModelConfig
from mixformerv2.distill.targets import Teacher, check_pair, default_feature_layers, matched_features
from mixformerv2.model.network import Prediction, build

STUDENT = ModelConfig(dim=32, depth=2, heads=2, mlp_ratio=1.0, search_px=64, template_px=32, num_bins=16)
TEACHER = dataclasses.replace(STUDENT, depth=3, mlp_ratio=2.0)
CORNER = dataclasses.replace(TEACHER, box_head="corner", score_head=False)


def crops(batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((batch, 32, 32, 3), (batch, 1, 32, 32, 3), (batch, 64, 64, 3))
    template, online, search = (
        torch.randint(256, shape, dtype=torch.uint8, generator=generator) for shape in shapes
    )
    return template, online, search


def answer(config: ModelConfig) -> Prediction:
    network = build(config, seed=0).eval()
    template, online, search = crops()
    return network.search(search, network.encode_templates(template, online))


# --- layers


def test_layers_are_matched_as_published() -> None:
    thirds = (2, 5, 8, 11)
    assert default_feature_layers(12, 12) == tuple(zip(thirds, thirds, strict=True))  # while blocks fade
    assert default_feature_layers(8, 12) == tuple(
        zip((1, 3, 5, 7), thirds, strict=True)
    )  # once they are gone


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        (4, 8, ((0, 1), (1, 3), (2, 5), (3, 7))),
        (4, 12, ((0, 2), (1, 5), (2, 8), (3, 11))),
        (2, 12, ((0, 5), (1, 11))),
        (3, 4, ((0, 1), (1, 2), (2, 3))),
        (1, 8, ((0, 7),)),
        (12, 24, ((2, 5), (5, 11), (8, 17), (11, 23))),
    ],
)
def test_other_depths_are_matched_at_the_same_shares(
    student: int, teacher: int, expected: tuple[tuple[int, int], ...]
) -> None:
    assert default_feature_layers(student, teacher) == expected


# --- who fits whom


@pytest.mark.parametrize(
    "teacher", [TEACHER, dataclasses.replace(TEACHER, heads=4, score_head=False), CORNER]
)
def test_a_fitting_pair_passes(teacher: ModelConfig) -> None:
    check_pair(STUDENT, teacher, [(0, 1)])
    check_pair(STUDENT, teacher, [])


def test_without_compared_tokens_the_teacher_may_be_wider() -> None:
    check_pair(STUDENT, dataclasses.replace(TEACHER, dim=64), [])


def changed(**fields: object) -> ModelConfig:
    return dataclasses.replace(TEACHER, **fields)


@pytest.mark.parametrize(
    ("teacher", "layers", "sentence"),
    [
        (
            changed(num_bins=56),
            [],
            "the teacher answers with 56 bins and the student with 16: set the student's num_bins to 56 or choose",
        ),
        (
            changed(search_px=96),
            [],
            "search_px is 96, the student's 64: set the student's search_px to 96 or",
        ),
        (
            changed(template_px=48),
            [],
            "template_px is 48, the student's 32: set the student's template_px to 48",
        ),
        (
            changed(dim=64),
            [(1, 2)],
            "the teacher is 64 wide, the student 32: set feature_layers to none or choose",
        ),
        (TEACHER, [(2, 2)], "layer 2 of the student, which has 2 blocks: choose from 0 to 1"),
        (TEACHER, [(1, 3)], "layer 3 of the teacher, which has 3 blocks: choose from 0 to 2"),
        (TEACHER, [(-1, 2)], "layer -1 of the student"),
        (TEACHER, [(0, 1), (0, 2)], "layer 0 of the student twice"),
        (TEACHER, [(0, 1), (1, 1)], "layer 1 of the teacher twice"),
        (
            CORNER,
            [(0, 0), (1, 2)],
            "only prediction tokens leave layer 1 of the student, and the other network has",
        ),
    ],
)
def test_a_pair_that_does_not_fit_is_told_what_to_change(
    teacher: ModelConfig, layers: list[tuple[int, int]], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence) as refused:
        check_pair(STUDENT, teacher, layers)
    assert "\n" not in str(refused.value)


def test_a_corner_student_is_not_matched_with_a_teachers_prediction_tokens() -> None:
    with pytest.raises(ValueError, match="only prediction tokens leave layer 2 of the teacher"):
        check_pair(dataclasses.replace(CORNER, depth=2), TEACHER, [(1, 2)])


# --- the teacher


def test_a_teacher_answers_as_its_network_does_and_without_gradients() -> None:
    teacher = Teacher(build(CORNER, seed=0))
    with torch.no_grad():  # the other form of attention rounds otherwise
        expected = answer(CORNER)
    said = teacher.predict(*crops())
    assert torch.equal(
        said.side_logits, expected.side_logits
    )  # in evaluation mode: batch statistics stay out
    assert not any(tensor.requires_grad for tensor in (said.side_logits, said.box_unit, *said.features))
    assert not any(parameter.requires_grad for parameter in teacher.network.parameters())
    assert teacher.config == CORNER


def test_a_teacher_is_not_among_the_parameters_of_who_holds_it() -> None:
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.student = build(STUDENT, seed=0)
            self.teacher = Teacher(build(TEACHER, seed=1))

    holder = Holder()
    holder.train()
    assert {name.partition(".")[0] for name, _ in holder.named_parameters()} == {"student"}
    assert {name.partition(".")[0] for name in holder.state_dict()} == {"student"}
    assert not holder.teacher.network.training


def test_a_teacher_moves_and_answers_under_autocast() -> None:
    teacher = Teacher(build(TEACHER, seed=1))
    assert teacher.to("cpu") is teacher
    exact = teacher.predict(*crops())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        said = teacher.predict(*crops())
    torch.testing.assert_close(said.box_unit.float(), exact.box_unit, rtol=0, atol=0.02)
    on_meta = teacher.to("meta").network
    assert {parameter.device.type for parameter in on_meta.parameters()} == {"meta"}


def test_after_a_teacher_under_autocast_the_student_still_learns() -> None:
    teacher, student = Teacher(build(TEACHER, seed=1)), build(STUDENT, seed=0)
    template, online, search = crops()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        said = teacher.predict(template, online, search)
        own = student.search(search, student.encode_templates(template, online))
        loss = (own.side_logits.float() - said.side_logits.float()).square().mean()
    loss.backward()
    assert all(
        p.grad is not None for n, p in student.named_parameters() if p.requires_grad and "score" not in n
    )
    assert all(p.grad is None for p in teacher.network.parameters())


# --- which tokens


def test_two_networks_of_tokens_share_all_but_in_the_last_block_only_prediction_tokens() -> None:
    student, teacher = answer(STUDENT), answer(TEACHER)
    ours, theirs = matched_features(student, teacher, [(0, 1), (1, 1), (0, 2), (1, 2)])
    assert [tokens.shape[1] for tokens in ours] == [tokens.shape[1] for tokens in theirs] == [20, 4, 4, 4]
    assert torch.equal(ours[0], student.features[0])
    assert torch.equal(ours[2], student.features[0][:, -4:])
    assert torch.equal(theirs[1], teacher.features[1][:, -4:])
    assert torch.equal(theirs[3], teacher.features[2])


def test_a_corner_teacher_is_compared_in_search_tokens_alone() -> None:
    student, teacher = answer(STUDENT), answer(CORNER)
    ours, theirs = matched_features(student, teacher, [(0, 2)])
    assert torch.equal(ours[0], student.features[0][:, :-4])
    assert torch.equal(theirs[0], teacher.features[2])
    ours, theirs = matched_features(teacher, student, [(2, 0)])
    assert torch.equal(ours[0], teacher.features[2])
    assert torch.equal(theirs[0], student.features[0][:, :-4])


def test_two_corner_networks_share_every_token() -> None:
    ours, theirs = matched_features(
        answer(dataclasses.replace(CORNER, depth=2)), answer(CORNER), [(0, 1), (1, 2)]
    )
    assert [tokens.shape[1] for tokens in (*ours, *theirs)] == [16] * 4


@pytest.mark.parametrize("search_px", [32, 48])
def test_a_grid_of_four_search_tokens_is_not_taken_for_prediction_tokens(search_px: int) -> None:
    small = dataclasses.replace(CORNER, search_px=search_px, num_bins=search_px // 4)
    count = (search_px // 16) ** 2
    features = [torch.zeros(1, tokens, 32) for tokens in (count + 4, count + 4, 4)]
    of_tokens = Prediction(torch.zeros(1, 4, 8), torch.zeros(1, 4), None, features)
    of_corners = Prediction(torch.zeros(1, 4, 8), torch.zeros(1, 4), None, [torch.zeros(1, count, 32)] * 3)
    assert small.search_grid**2 == count
    ours, theirs = matched_features(of_tokens, of_corners, [(0, 0), (1, 2)])
    assert [tokens.shape[1] for tokens in (*ours, *theirs)] == [count] * 4


def test_gradients_reach_the_student_and_not_what_the_teacher_said() -> None:
    student, teacher = answer(STUDENT), answer(TEACHER)
    ours, theirs = matched_features(student, teacher, [(0, 1)])
    assert ours[0].requires_grad
    assert not theirs[0].requires_grad
