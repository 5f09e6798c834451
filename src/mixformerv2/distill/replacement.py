"""CompressTracker's replacement training: the student's blocks take the place of the teacher's, one stage at a time.

Described in arXiv 2409.17564; numbers below are those of its released code, which this page was written from.
Each of the student's blocks stands for one stage of the teacher's. In every step each stage is run either by the
student's block or by the teacher's frozen blocks, so that from the start every block learns its own part in company
that already knows its.

As released (``lib/train``, ``experiments/compresstracker``): 500 epochs of 60,000 samples, batch 32 a GPU, AdamW with
lr 4e-5 on all that is trained, a tenth of it from epoch 400 on, weight decay 1e-4, gradient clip 0.1. The loss is the
tracker's own (2 GIoU + 5 L1 + focal), plus the same 2 GIoU + 5 L1 with the teacher's box in place of the true one
(prediction guidance, weight 1), plus the squared distance of mixed and teacher's tokens at the ends of the stages,
mean over stages (feature mimicking, weight 0.2; there of template tokens too, here of search and prediction tokens).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn

from mixformerv2.distill.shrink import evenly
from mixformerv2.distill.targets import Teacher, check_pair, matched_features
from mixformerv2.model.network import Network, Prediction


@dataclass(frozen=True)
class ReplacementSchedule:
    """How likely a stage is run by the student's block: constant, then rising linearly to 1, then 1.

    The defaults are the released ones.
    """

    first: float = 0.5  # probability at the start
    constant_share: float = 0.1  # of the training, before it rises
    alone_share: float = 0.1  # of the training, at its end, when the student runs alone

    def __post_init__(self) -> None:
        if not 0 <= self.first <= 1:
            raise ValueError(f"first must be a probability, from 0 to 1, got {self.first}")
        if min(self.constant_share, self.alone_share) < 0 or self.constant_share + self.alone_share >= 1:
            raise ValueError(
                "constant_share and alone_share must not be negative and leave time to rise, "
                f"got {self.constant_share} and {self.alone_share}"
            )

    def probability(self, progress: float) -> float:
        """Of a student's block; ``progress`` is the share of the training that is done."""
        if progress >= 1 - self.alone_share:
            return 1.0
        risen = (progress - self.constant_share) / (1 - self.constant_share - self.alone_share)
        return self.first + (1 - self.first) * max(risen, 0.0)


class Replaced(NamedTuple):
    """What one step of replacement training compares."""

    mixed: Prediction  # of the mixed network; ``features`` hold the ends of the stages
    teacher: Prediction
    mixed_features: list[
        Float[Tensor, "b tokens dim"]
    ]  # at the ends of the stages, matched with the teacher's
    teacher_features: list[Float[Tensor, "b _ dim"]]


class Replacement(nn.Module):
    """The network of such a training: student and teacher mixed by a choice that changes from step to step.

    All of the student is trained: patch embedding, prediction tokens, heads and, where the stage is its own, blocks.
    It should start as ``shrink.adapt`` makes it of the teacher: each block as the last one of its stage. Blocks that
    are not chosen get no gradient; distributed training has to be told to expect that. The teacher moves along with
    the module, and is neither among its parameters nor in its state.
    """

    def __init__(self, student: Network, teacher: Network, schedule: ReplacementSchedule) -> None:
        """Raises ValueError where the two do not fit, or the student is not the shallower one."""
        super().__init__()
        if student.config.depth > teacher.config.depth:
            raise ValueError(
                f"the student has {student.config.depth} blocks and the teacher {teacher.config.depth}: "
                "replacement needs at least one of the teacher's for each of the student's"
            )
        self.student = student
        self.teacher = Teacher(teacher)
        self.schedule = schedule
        self.ends = evenly(
            teacher.config.depth, student.config.depth
        )  # last block of each stage, the teacher's
        self.matched_stages = tuple(range(student.config.depth))
        if student.config.num_prediction_tokens != teacher.config.num_prediction_tokens:
            # Of the last stage's tokens the two networks share none.
            self.matched_stages = self.matched_stages[:-1]
        check_pair(
            student.config, teacher.config, [(stage, self.ends[stage]) for stage in self.matched_stages]
        )

    def draw(self, progress: float, generator: torch.Generator) -> tuple[bool, ...]:
        """Which stages the student runs in this step, one at least.

        Generators in the same state give the same choice: every process needs its own, seeded alike.
        """
        stages = len(self.ends)
        device = generator.device
        shares = torch.rand(stages, generator=generator, device=device)
        spare = int(
            torch.randint(stages, (), generator=generator, device=device)
        )  # drawn in any case, so that
        # the state of the generator depends on the number of steps alone
        chosen = (shares < self.schedule.probability(progress)).tolist()
        return tuple(chosen) if any(chosen) else tuple(stage == spare for stage in range(stages))

    def forward(
        self,
        template: Num[Tensor, "b template_px template_px 3"],
        online: Num[Tensor, "b online template_px template_px 3"],
        search: Num[Tensor, "b search_px search_px 3"],
        chosen: Sequence[bool],
    ) -> Replaced:
        """``chosen`` says for each stage whether the student runs it: see ``draw``. All is the student alone; none is
        the teacher's blocks between the student's embedding and heads.
        """
        blocks, ends = self._mixed_blocks(chosen)
        trunk = self.student.backbone
        features = trunk.search(search, trunk.encode_templates(template, online, blocks), blocks)
        mixed = self.student.read([features[end] for end in ends])
        teacher = self.teacher.predict(template, online, search)
        pairs = [(stage, self.ends[stage]) for stage in self.matched_stages]
        return Replaced(mixed, teacher, *matched_features(mixed, teacher, pairs))

    def _mixed_blocks(self, chosen: Sequence[bool]) -> tuple[list[nn.Module], list[int]]:
        """The blocks to run, and which of them end a stage."""
        blocks: list[nn.Module] = []
        ends = []
        begin = 0
        for own, end, of_student in zip(self.student.backbone.blocks, self.ends, chosen, strict=True):
            blocks += [own] if of_student else self.teacher.network.backbone.blocks[begin : end + 1]
            ends.append(len(blocks) - 1)
            begin = end + 1
        return blocks, ends

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Replacement:
        self.teacher.network._apply(fn, recurse)
        super()._apply(fn, recurse)
        return self
