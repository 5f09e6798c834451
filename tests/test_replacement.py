"""Replacement training: the schedule, the choice, the mixed network, and who learns in a step."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from mixformerv2.config import ModelConfig
from mixformerv2.distill.replacement import Replacement, ReplacementSchedule
from mixformerv2.distill.shrink import adapt
from mixformerv2.model.network import Network, Prediction, build

TEACHER = ModelConfig(dim=32, depth=6, heads=2, mlp_ratio=2.0, search_px=64, template_px=32, num_bins=16)
STUDENT = dataclasses.replace(TEACHER, depth=3, mlp_ratio=1.0)
CORNER = dataclasses.replace(TEACHER, box_head="corner", score_head=False)


def crops(batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((batch, 32, 32, 3), (batch, 1, 32, 32, 3), (batch, 64, 64, 3))
    template, online, search = (
        torch.randint(256, shape, dtype=torch.uint8, generator=generator) for shape in shapes
    )
    return template, online, search


def answer(network: Network) -> Prediction:
    template, online, search = crops()
    return network.search(search, network.encode_templates(template, online))


def replacement(student: ModelConfig = STUDENT, teacher: ModelConfig = TEACHER) -> Replacement:
    return Replacement(build(student, seed=1), build(teacher, seed=2), ReplacementSchedule()).eval()


def assert_equal_answers(a: Prediction, b: Prediction) -> None:
    assert torch.equal(a.side_logits, b.side_logits)
    assert torch.equal(a.box_unit, b.box_unit)
    assert (a.score_logits is None) == (b.score_logits is None)
    if a.score_logits is not None and b.score_logits is not None:
        assert torch.equal(a.score_logits, b.score_logits)


# --- schedule and choice


def test_the_probability_is_constant_then_rises_to_one_as_released() -> None:
    schedule = ReplacementSchedule()
    assert [schedule.probability(p) for p in (0.0, 0.05, 0.1)] == [0.5] * 3
    assert schedule.probability(0.3) == pytest.approx(0.625)
    assert schedule.probability(0.5) == pytest.approx(0.75)
    assert schedule.probability(0.7) == pytest.approx(0.875)
    assert [schedule.probability(p) for p in (0.9, 0.95, 1.0, 1.1)] == [1.0] * 4


def test_another_schedule_has_its_own_shares() -> None:
    schedule = ReplacementSchedule(first=0.2, constant_share=0.0, alone_share=0.5)
    assert schedule.probability(0.0) == pytest.approx(0.2)
    assert schedule.probability(0.25) == pytest.approx(0.6)
    assert schedule.probability(0.5) == 1.0


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (dict(first=-0.1), "first must be a probability, from 0 to 1, got -0.1"),
        (dict(first=1.5), "got 1.5"),
        (dict(constant_share=-0.1), "must not be negative"),
        (dict(constant_share=0.5, alone_share=0.5), "leave time to rise, got 0.5 and 0.5"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(fields: dict[str, float], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        ReplacementSchedule(**fields)


def test_the_choice_follows_the_generator_and_the_probability() -> None:
    model = replacement()
    first, second = (torch.Generator().manual_seed(3) for _ in range(2))
    choices = [model.draw(0.05, first) for _ in range(2000)]
    assert choices == [model.draw(0.05, second) for _ in range(2000)]
    assert len(set(choices)) == 7  # every choice but none
    assert all(model.draw(0.95, first) == (True, True, True) for _ in range(50))
    # A stage is the student's by half, and by a third of the eighth in which none would be.
    for stage in range(3):
        share = sum(choice[stage] for choice in choices) / len(choices)
        assert share == pytest.approx(0.5 + 0.125 / 3, abs=0.04)


def test_one_stage_at_least_is_the_students_and_the_number_of_draws_does_not_depend_on_it() -> None:
    never = Replacement(build(STUDENT, 1), build(TEACHER, 2), ReplacementSchedule(first=0.0))
    always = replacement()
    generators = [torch.Generator().manual_seed(4) for _ in range(2)]
    choices = [never.draw(0.0, generators[0]) for _ in range(300)]
    for _ in range(300):
        always.draw(1.0, generators[1])
    assert {sum(choice) for choice in choices} == {1}
    assert len(set(choices)) == 3
    assert torch.equal(generators[0].get_state(), generators[1].get_state())


# --- the mixed network


@pytest.mark.parametrize("teacher", [TEACHER, CORNER], ids=["tokens", "corner"])
def test_with_all_stages_chosen_it_is_the_student_alone(teacher: ModelConfig) -> None:
    model = replacement(teacher=teacher)
    with torch.inference_mode():
        replaced = model(*crops(), chosen=(True, True, True))
        expected = answer(model.student)
    assert_equal_answers(replaced.mixed, expected)
    for ours, theirs in zip(replaced.mixed.features, expected.features, strict=True):
        assert torch.equal(ours, theirs)


def test_with_no_stage_chosen_it_is_the_teachers_trunk_with_the_students_heads() -> None:
    teacher = build(TEACHER, seed=2).eval()
    student = adapt(teacher, dataclasses.replace(STUDENT, mlp_ratio=2.0)).eval()
    with torch.no_grad():
        student.box_head.layers[3].bias += 1 - torch.arange(16) / 8
    model = Replacement(student, teacher, ReplacementSchedule()).eval()
    with torch.inference_mode():
        replaced = model(*crops(), chosen=(False, False, False))
        expected = answer(teacher)
        assert torch.equal(replaced.mixed.side_logits, student.box_head(expected.features[-1]))
    assert not torch.equal(replaced.mixed.side_logits, expected.side_logits)
    assert_equal_answers(replaced.teacher, expected)
    for mixed, of_teacher in zip(replaced.mixed_features, replaced.teacher_features, strict=True):
        assert torch.equal(mixed, of_teacher)


@pytest.mark.parametrize(
    ("chosen", "order"),
    [
        ((True, False, False), ("s0", "t2", "t3", "t4", "t5")),
        ((False, True, False), ("t0", "t1", "s1", "t4", "t5")),
        ((False, False, True), ("t0", "t1", "t2", "t3", "s2")),
        ((True, False, True), ("s0", "t2", "t3", "s2")),
    ],
)
def test_each_stage_is_run_by_whom_the_choice_says(chosen: tuple[bool, ...], order: tuple[str, ...]) -> None:
    model = replacement()
    # The same by hand: a network whose own blocks are these.
    by_hand = build(dataclasses.replace(STUDENT, depth=len(order)), seed=1).eval()
    weights = {n: w for n, w in model.student.state_dict().items() if ".blocks." not in n}
    by_hand.load_state_dict(weights, strict=False)
    for index, name in enumerate(order):
        owner = model.student if name[0] == "s" else model.teacher.network
        by_hand.backbone.blocks[index] = owner.backbone.blocks[int(name[1])]
    with torch.inference_mode():
        replaced, expected = model(*crops(), chosen=chosen), answer(by_hand)
    assert_equal_answers(replaced.mixed, expected)
    ends = [order.index(f"s{stage}" if own else f"t{2 * stage + 1}") for stage, own in enumerate(chosen)]
    for ours, end in zip(replaced.mixed.features, ends, strict=True):
        assert torch.equal(ours, expected.features[end])


def test_stages_divide_the_teacher_evenly() -> None:
    assert replacement().ends == (1, 3, 5)
    assert replacement(dataclasses.replace(STUDENT, depth=4)).ends == (1, 2, 4, 5)
    assert replacement(dataclasses.replace(STUDENT, depth=6)).ends == (0, 1, 2, 3, 4, 5)
    uneven = replacement(dataclasses.replace(STUDENT, depth=4))
    with torch.inference_mode():
        replaced = uneven(*crops(), chosen=(True, False, False, True))
    assert [tokens.shape[1] for tokens in replaced.mixed.features] == [20, 20, 20, 4]


@pytest.mark.parametrize(
    "chosen", [(True, True, False), (False, False, True)], ids=["teacher last", "student last"]
)
def test_tokens_at_the_ends_of_stages_are_matched(chosen: tuple[bool, ...]) -> None:
    model = replacement()
    replaced = model(*crops(), chosen=chosen)
    counts = [[tokens.shape[1] for tokens in features] for features in replaced[2:]]
    assert counts == [[20, 20, 4], [20, 20, 4]]
    for stage, end in enumerate((1, 3, 5)):
        assert torch.equal(replaced.teacher_features[stage], answer(model.teacher.network).features[end])


def test_of_a_corner_teachers_last_stage_nothing_is_compared() -> None:
    model = replacement(teacher=CORNER)
    replaced = model(*crops(), chosen=(True, False, False))
    assert [tokens.shape[1] for tokens in replaced.mixed_features] == [16, 16]
    assert [tokens.shape[1] for tokens in replaced.teacher_features] == [16, 16]
    assert replaced.teacher.score_logits is None
    assert replaced.mixed.score_logits is not None


# --- who learns


def loss_of(model: Replacement, chosen: tuple[bool, ...]) -> Tensor:
    replaced = model(*crops(), chosen=chosen)
    guidance = (replaced.mixed.side_logits - replaced.teacher.side_logits).square().mean()
    assert replaced.mixed.score_logits is not None
    pairs = zip(replaced.mixed_features, replaced.teacher_features, strict=True)
    mimicking = torch.stack([(ours - theirs).square().mean() for ours, theirs in pairs]).mean()
    return guidance + 0.2 * mimicking + replaced.mixed.score_logits.square().mean()


@pytest.mark.parametrize("teacher", [TEACHER, CORNER], ids=["tokens", "corner"])
@pytest.mark.parametrize("chosen", [(True, False, False), (False, True, False), (True, False, True)], ids=str)
def test_only_the_chosen_blocks_and_the_rest_of_the_student_learn(
    chosen: tuple[bool, ...], teacher: ModelConfig
) -> None:
    model = replacement(teacher=teacher).train()
    loss_of(model, chosen).backward()
    for block, own in zip(model.student.backbone.blocks, chosen, strict=True):
        assert all((p.grad is not None) == own for p in block.parameters())
        assert (sum(float(p.grad.abs().sum()) for p in block.parameters() if p.grad is not None) > 0) == own
    rest = [p for n, p in model.student.named_parameters() if ".blocks." not in n and p.requires_grad]
    assert all(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in rest)
    assert all(p.grad is None for p in model.teacher.network.parameters())


def test_a_stage_of_the_teachers_hands_gradients_on_to_the_students_block_before_it() -> None:
    model = replacement()
    model(*crops(), chosen=(True, False, False)).mixed.box_unit[:, 0].sum().backward()
    assert float(model.student.backbone.blocks[0].attn.qkv.weight.grad.abs().sum()) > 0


def test_the_teacher_moves_along_but_is_neither_parameter_nor_state() -> None:
    model = replacement()
    assert {name.partition(".")[0] for name, _ in model.named_parameters()} == {"student"}
    assert {name.partition(".")[0] for name in model.state_dict()} == {"student"}
    model.double().train()
    assert {p.dtype for p in model.teacher.network.parameters()} == {torch.float64}
    assert not model.teacher.network.training


# --- who fits


def test_a_student_that_cannot_take_the_place_of_the_teacher_is_refused() -> None:
    with pytest.raises(ValueError, match="the student has 7 blocks and the teacher 6"):
        replacement(dataclasses.replace(STUDENT, depth=7))
    with pytest.raises(ValueError, match="the teacher is 32 wide, the student 64"):
        replacement(dataclasses.replace(STUDENT, dim=64))
    with pytest.raises(ValueError, match="16 bins and the student with 24"):
        replacement(dataclasses.replace(STUDENT, num_bins=24))


def test_a_choice_of_another_length_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="zip"):
        replacement()(*crops(), chosen=(True, False))


def test_one_block_can_stand_for_the_whole_teacher() -> None:
    model = replacement(dataclasses.replace(STUDENT, depth=1))
    with torch.inference_mode():
        alone, none = model(*crops(), chosen=(True,)), model(*crops(), chosen=(False,))
        expected = answer(model.student)
    assert_equal_answers(alone.mixed, expected)
    assert [tokens.shape[1] for tokens in (*none.mixed_features, *none.teacher_features)] == [4, 4]
