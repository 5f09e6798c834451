"""What one step of supervised training computes: the loss of a batch, and the numbers that show a collapse early."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixformerv2.data.pairs import Batch
from mixformerv2.model.heads import expected_box
from mixformerv2.model.network import Network, Prediction
from mixformerv2.train import losses


@dataclass(frozen=True)
class LossWeights:
    """Factors of the parts of the loss."""

    l1: float = 5.0
    giou: float = 0.5
    side: float = 1.0  # cross-entropy on the distributions
    search_token: float = 1.0  # auxiliary: which search tokens lie in the target
    attention: float = 0.5  # auxiliary: where the prediction tokens look in the last block
    score: float = 0.3

    def auxiliary(self) -> LossWeights:
        """The auxiliary losses alone."""
        return replace(self, l1=0.0, giou=0.0, side=0.0, score=0.0)


class SupervisedModel(nn.Module):
    """A network and the probe on its search tokens that helps it to learn and is dropped afterwards."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self.probe = nn.Sequential(nn.LayerNorm(network.config.dim), nn.Linear(network.config.dim, 5))

    def loss(self, batch: Batch, weights: LossWeights) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum, and its parts and diagnostics, each a scalar; the batch must hold two targets in sight.

        ``side_spread`` is the deviation of the predicted coordinates over the batch, ``token_norm`` the norm of the
        prediction tokens and ``token_distance`` their mutual distance over it: a fall of the first or the last to
        zero, or a rise of the second, is a collapse.
        """
        prediction = self.network.search(
            batch.search, self.network.encode_templates(batch.template, batch.online)
        )
        side_logits = prediction.side_logits.float()
        box_unit = expected_box(side_logits)
        present = batch.present
        seen, truth = box_unit[present], batch.box_unit[present]
        # The tokens that enter the last block: it reads its answer from them, and nothing comes after.
        search_tokens = prediction.features[-2][:, :-4]
        probed = self.probe(search_tokens[present]).float()
        parts = {
            "l1": F.l1_loss(seen, truth),
            "giou": losses.giou_loss(seen, truth).mean(),
            "side": losses.side_cross_entropy(side_logits[present], truth).mean(),
            "search_token": losses.search_token_loss(probed, truth),
            "attention": losses.attention_guidance_loss(self._last_attention(prediction)[present], truth),
        }
        if prediction.score_logits is not None:
            score = prediction.score_logits.float()
            parts["score"] = F.binary_cross_entropy_with_logits(score, present.float())
        total = torch.stack([getattr(weights, name) * part for name, part in parts.items()]).sum()
        with torch.no_grad():
            tokens = prediction.features[-1].float()
            centred = tokens - tokens.mean(dim=1, keepdim=True)
            parts |= {
                "found": losses.best_token_inside(probed[..., 0], truth),
                "iou": losses.iou(seen, truth).clamp(0, 1).mean(),
                "side_spread": seen.std(dim=0).mean(),
                "token_norm": tokens.norm(dim=-1).mean(),
                "token_distance": (centred.norm(dim=-1) / tokens.norm(dim=-1)).mean(),
            }
        return total, parts

    def _last_attention(self, prediction: Prediction) -> Tensor:
        """How the last block's prediction tokens share their attention among the search tokens, (b, 4, tokens).

        The mean over heads. Its inputs are cut off: the loss on it teaches the last block to find what earlier
        blocks have marked, and leaves the marking to the search tokens' own loss.
        """
        block = self.network.backbone.blocks[-1]
        normed = block.norm1(prediction.features[-2].detach())
        queries = block.attn.project_queries(normed[:, -4:])
        keys = block.attn.project_keys_values(normed[:, :-4]).keys
        scores = (queries @ keys.transpose(-1, -2)).float() * queries.shape[-1] ** -0.5
        return scores.softmax(dim=-1).mean(dim=1)
