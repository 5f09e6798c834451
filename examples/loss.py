"""A loss of one's own: boxes that are too wide or too narrow, whatever their place.

mixformerv2 train finetune --data DIR --output RUN --set 'losses.own={"examples/loss.py:size_error": 0.5}'
"""

from torch import Tensor

from mixformerv2.data.pairs import Batch
from mixformerv2.model.network import Prediction


def size_error(answer: Prediction, batch: Batch) -> Tensor:
    """By what factor, as a logarithm, width and height of each example's box are wrong, (b,)."""
    found, true = answer.box_unit.float(), batch.box_unit
    sides = [(box[:, 2:] - box[:, :2]).clamp(min=1e-3).log() for box in (found, true)]
    return (sides[0] - sides[1]).abs().sum(dim=1)
