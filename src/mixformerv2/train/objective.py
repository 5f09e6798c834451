"""What one step of training computes: the loss of a batch, and the numbers that show a collapse early."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixformerv2.data.pairs import Batch
from mixformerv2.distill.replacement import Replacement, ReplacementSchedule
from mixformerv2.distill.targets import Teacher, matched_features
from mixformerv2.model.heads import CentreMaps
from mixformerv2.model.network import Network, Prediction
from mixformerv2.plugins import find_function
from mixformerv2.train import losses

# Of a step, beside the parts of its loss.
DIAGNOSTICS = ("iou", "side_spread", "token_norm", "token_distance")
OwnLoss = Callable[[Prediction, Batch], Tensor]  # of each example, (b,)


@dataclass(frozen=True)
class LossWeights:
    """Factors of the parts of the loss; a part of weight 0 is not computed. The defaults are the paper's."""

    l1: float = 5.0
    ciou: float = 2.0
    giou: float = 0.0
    side: float = 0.0  # cross-entropy of the distributions with the true coordinate
    centre: float = 0.0  # focal loss on the score map of a centre head
    divergence: float = 0.0  # KL from the teacher's distributions; 5 in the paper
    features: float = 0.0  # squared distance to the teacher's tokens in matched layers; 0.2 in the paper
    search_token: float = 0.0  # auxiliary: which search tokens lie in the target, and where its sides are
    attention: float = 0.0  # auxiliary: where the prediction tokens look in the last block
    score: float = 0.0  # is the template's target in the search crop?
    overlap: float = 0.0  # instead: the score is the box's IoU with the true one, 0 without the target
    own: Mapping[str, float] = field(default_factory=dict)  # by ``FILE.py:FUNCTION``, see ``own_losses``

    def __post_init__(self) -> None:
        given = [getattr(self, name) for name in self.built_in()] + [*self.own.values()]
        if not all(weight >= 0 for weight in given) or not any(given):
            raise ValueError(f"loss weights must not be negative, and one of them positive, got {self}")
        names = ["loss", *self.built_in(), *DIAGNOSTICS, *map(_name_of, self.own)]
        taken = sorted({name for name in names if names.count(name) > 1})
        if taken:
            raise ValueError(
                f"losses.own: functions are named for what they measure, and {taken[0]} is there already"
            )

    @classmethod
    def built_in(cls) -> list[str]:
        """Names of the parts that come with the package."""
        return [part.name for part in fields(cls) if part.name != "own"]

    def of(self, part: str) -> float:
        """The factor of a part of the loss, by its name."""
        own = {_name_of(target): weight for target, weight in self.own.items()}
        return own[part] if part in own else getattr(self, part)

    @property
    def of_teacher(self) -> bool:
        """Whether a teacher is asked."""
        return bool(self.divergence or self.features)

    @property
    def of_score(self) -> bool:
        return bool(self.score or self.overlap)

    @property
    def of_box(self) -> bool:
        return bool(self.l1 or self.ciou or self.giou or self.side)

    def auxiliary(self) -> LossWeights:
        """The auxiliary losses alone."""
        return LossWeights(l1=0.0, ciou=0.0, search_token=self.search_token, attention=self.attention)


def own_losses(weights: LossWeights) -> dict[str, OwnLoss]:
    """The functions of ``weights.own`` by their names: each says of a prediction and its batch how wrong every example
    is, (b,), and as with other losses on the box those count whose target is in sight.

    Raises ValueError, FileNotFoundError or ModuleNotFoundError about one that is not there.
    """
    return {
        _name_of(target): find_function(target, f"the loss {target}")
        for target, weight in weights.own.items()
        if weight
    }


def _name_of(target: str) -> str:
    return target.rpartition(":")[2]


class Answers(NamedTuple):
    """What student and teacher say to one batch."""

    student: Prediction
    teacher: Prediction | None
    student_features: list[Tensor]  # matched with the teacher's
    teacher_features: list[Tensor]


class Objective(nn.Module):
    """A network in training: its loss, and the probe on its search tokens that is dropped afterwards.

    ``feature_layers`` pairs blocks of the student with blocks of the teacher.
    """

    def __init__(
        self,
        network: Network,
        weights: LossWeights,
        teacher: Teacher | None = None,
        feature_layers: tuple[tuple[int, int], ...] = (),
    ) -> None:
        super().__init__()
        self.network = network
        self.weights = weights
        self.teacher = teacher
        self.feature_layers = feature_layers
        self.own = own_losses(weights)
        self.probe: nn.Module | None = None
        if weights.search_token:
            self.probe = nn.Sequential(nn.LayerNorm(network.config.dim), nn.Linear(network.config.dim, 5))

    def forward(
        self, batch: Batch, step: int = 0, finding_only: bool = False
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum, and its parts and diagnostics, each a scalar.

        Parts on the box are sums over the examples with the target in sight, divided by the size of the batch, so that
        the mean over parts of a batch is that of the whole; features and score are of all examples. ``finding_only``
        leaves the auxiliary losses alone. ``side_spread`` is the deviation of the predicted coordinates over the batch,
        ``token_norm`` the norm of the prediction tokens and ``token_distance`` their mutual distance over it: a fall of
        the first or the last to zero, or a rise of the second, is a collapse.
        """
        weights = self.weights.auxiliary() if finding_only else self.weights
        answers = self.answers(batch, step, weights.of_teacher)
        parts = self._box_parts(answers.student, batch, weights)
        parts |= self._auxiliary_parts(answers.student, batch, weights)
        parts |= _teacher_parts(answers, batch, weights)
        overlap = _overlap(answers.student, batch)
        parts |= _score_parts(answers.student, batch, overlap, weights)
        parts |= {} if finding_only else self._own_parts(answers.student, batch)
        total = torch.stack([weights.of(name) * part for name, part in parts.items()]).sum()
        with torch.no_grad():
            return total, parts | _diagnostics(answers.student, batch, overlap)

    def answers(self, batch: Batch, step: int, of_teacher: bool = True) -> Answers:  # noqa: ARG002 (for those that change)
        """Student and teacher on the same crops; the teacher only where it is asked."""
        student = self.network.search(
            batch.search, self.network.encode_templates(batch.template, batch.online)
        )
        if self.teacher is None or not of_teacher:
            return Answers(student, None, [], [])
        teacher = self.teacher.predict(batch.template, batch.online, batch.search)
        return Answers(student, teacher, *matched_features(student, teacher, self.feature_layers))

    def _box_parts(self, answer: Prediction, batch: Batch, weights: LossWeights) -> dict[str, Tensor]:
        box, truth = answer.box_unit.float(), batch.box_unit
        parts: dict[str, Tensor] = {}
        if answer.centre is not None:
            maps = CentreMaps(*(part.float() for part in answer.centre))
            # The box that the true centre's token gives: of others, which may be the peak yet, it is not asked.
            box = maps.box_at(losses.centre_token(truth, self.network.config.search_grid))
            if weights.centre:
                parts["centre"] = losses.centre_score_loss(maps, truth)
        if weights.l1:
            parts["l1"] = (box - truth).abs().mean(dim=1)
        if weights.ciou:
            parts["ciou"] = losses.ciou_loss(box, truth)
        if weights.giou:
            parts["giou"] = losses.giou_loss(box, truth)
        if weights.side:
            assert answer.side_logits is not None, "the stage's config says so"
            parts["side"] = losses.side_cross_entropy(answer.side_logits.float(), truth)
        return _in_sight(parts, batch)

    def _auxiliary_parts(self, answer: Prediction, batch: Batch, weights: LossWeights) -> dict[str, Tensor]:
        parts: dict[str, Tensor] = {}
        if weights.search_token:
            assert self.probe is not None
            probed = self.probe(self._search_tokens(answer)).float()
            parts["search_token"] = losses.search_token_loss(probed, batch.box_unit)
        if weights.attention:
            parts["attention"] = losses.attention_guidance_loss(self._last_attention(answer), batch.box_unit)
        return _in_sight(parts, batch)

    def _own_parts(self, answer: Prediction, batch: Batch) -> dict[str, Tensor]:
        parts = {name: function(answer, batch) for name, function in self.own.items()}
        for name, part in parts.items():
            if not isinstance(part, Tensor) or part.shape != batch.present.shape:
                shape = f"a tensor of shape {tuple(part.shape)}" if isinstance(part, Tensor) else repr(part)
                raise ValueError(
                    f"the loss {name} must give a number for each example of a batch, a tensor of shape "
                    f"({len(batch.present)},), got {shape}"
                )
        return _in_sight({name: part.float() for name, part in parts.items()}, batch)

    def _search_tokens(self, answer: Prediction) -> Tensor:
        """The search tokens that the box is read from."""
        tokens = self.network.config.num_prediction_tokens
        if not tokens:
            return answer.features[-1]
        # Those that enter the last block: it reads its answer from them, and nothing comes after.
        return answer.features[-2][:, :-tokens]

    def _last_attention(self, answer: Prediction) -> Tensor:
        """How the last block's prediction tokens share their attention among the search tokens, (b, 4, tokens).

        The mean over heads. Its inputs are cut off: the loss on it teaches the last block to find what earlier
        blocks have marked, and leaves the marking to the search tokens' own loss.
        """
        block = self.network.backbone.blocks[-1]
        normed = block.norm1(answer.features[-2].detach())
        queries = block.attn.by_head(block.attn.project_queries(normed[:, -4:]))
        keys = block.attn.by_head(block.attn.project_keys_values(normed[:, :-4]).keys)
        scores = (queries @ keys.transpose(-1, -2)).float() * queries.shape[-1] ** -0.5
        return scores.softmax(dim=-1).mean(dim=1)


class ReplacementObjective(Objective):
    """A student whose blocks take the place of the teacher's: in every step some, in the end all."""

    def __init__(
        self,
        student: Network,
        weights: LossWeights,
        teacher: Network,
        schedule: ReplacementSchedule,
        steps: int,
        seed: int,
    ) -> None:
        super().__init__(student, weights)
        # Held so that its student is not registered a second time.
        self._replacement = (Replacement(student, teacher, schedule),)
        self._steps, self._seed = steps, seed

    def answers(self, batch: Batch, step: int, of_teacher: bool = True) -> Answers:  # noqa: ARG002 (whose blocks take part)
        (replacement,) = self._replacement
        generator = torch.Generator().manual_seed(self._seed * self._steps + step)  # alike in every process
        chosen = replacement.draw(step / self._steps, generator)
        answer = replacement(batch.template, batch.online, batch.search, chosen)
        return Answers(answer.mixed, answer.teacher, answer.mixed_features, answer.teacher_features)


def _in_sight(parts: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
    """Of parts example by example: those of targets in sight, added up and divided by the size of the batch.

    All examples are gone through: to pick some a GPU would have to be waited for in every step.
    """
    absent = ~batch.present
    return {name: part.masked_fill(absent, 0.0).sum() / len(absent) for name, part in parts.items()}


def _teacher_parts(answers: Answers, batch: Batch, weights: LossWeights) -> dict[str, Tensor]:
    parts: dict[str, Tensor] = {}
    if weights.divergence:
        assert answers.teacher is not None
        student, teacher = answers.student.side_logits, answers.teacher.side_logits
        assert student is not None and teacher is not None, "the stage's config says so"
        # Of a target that is not there a teacher knows nothing.
        divergence = losses.side_divergence(student.float(), teacher.float())
        parts |= _in_sight({"divergence": divergence}, batch)
    if weights.features:
        ours = [tokens.float() for tokens in answers.student_features]
        theirs = [tokens.float() for tokens in answers.teacher_features]
        parts["features"] = losses.feature_mimicking(ours, theirs).mean()
    return parts


@torch.no_grad()
def _overlap(answer: Prediction, batch: Batch) -> Tensor:
    """IoU with the true box, (b,); 0 without one."""
    return losses.iou(answer.box_unit.float(), batch.box_unit).clamp(0, 1) * batch.present


def _score_parts(
    answer: Prediction, batch: Batch, overlap: Tensor, weights: LossWeights
) -> dict[str, Tensor]:
    """Of both kinds, cross-entropy: the overlap is a share, and of what it is a share need not be known."""
    truths = {}
    if weights.score:
        truths["score"] = batch.present.float()
    if weights.overlap:
        truths["overlap"] = overlap
    if not truths:
        return {}
    assert answer.score_logits is not None, "a loss on the score needs a score head"
    score = answer.score_logits.float()
    return {name: F.binary_cross_entropy_with_logits(score, truth) for name, truth in truths.items()}


def _diagnostics(answer: Prediction, batch: Batch, overlap: Tensor) -> dict[str, Tensor]:
    box, present = answer.box_unit.float(), batch.present
    tokens = answer.features[-1].float()
    norm = tokens.norm(dim=-1)
    centred = tokens - tokens.mean(dim=1, keepdim=True)
    values = (
        overlap.sum() / present.sum().clamp(min=1),
        box.std(dim=0, correction=0).mean(),
        norm.mean(),
        (centred.norm(dim=-1) / norm).mean(),
    )
    return dict(zip(DIAGNOSTICS, values, strict=True))
