"""What every target is made from: the two calls as modules, inputs to trace them with, and the names of both."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn

from mixformerv2.config import Config
from mixformerv2.model.attention import KeyValue
from mixformerv2.model.backbone import TemplateCache, TemplateTokens
from mixformerv2.model.network import Network

ENCODE_INPUTS = ["template", "online"]
SEARCH_OUTPUTS = ["box_unit", "score"]


class EncodeTemplates(nn.Module):
    """The cache as a flat tuple: keys and values of every block in turn, or the templates' tokens."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, template: Num[Tensor, "b side side 3"], online: Num[Tensor, "b online side side 3"]
    ) -> tuple[Tensor, ...]:
        cache = self.network.encode_templates(template, online)
        return tuple(part for keys_values in cache for part in keys_values)


class Search(nn.Module):
    """Box and score; a model without a score head is always sure."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, crop: Num[Tensor, "b side side 3"], *cache: Tensor
    ) -> tuple[Float[Tensor, "b 4"], Float[Tensor, "b"]]:
        prediction = self.network.search(crop, self._unflattened(cache))
        if prediction.score_logits is None:
            return prediction.box_unit, torch.ones_like(prediction.box_unit[:, 0])
        return prediction.box_unit, prediction.score_logits.sigmoid()

    def _unflattened(self, cache: tuple[Tensor, ...]) -> TemplateCache:
        if self.network.backbone.symmetric:
            return (TemplateTokens(*cache),)
        return tuple(KeyValue(*cache[i : i + 2]) for i in range(0, len(cache), 2))


@dataclass(frozen=True)
class Pair:
    """A network to be exported as two graphs."""

    network: Network
    config: Config
    batch: int | None = None  # targets at once; None leaves batch and number of templates free

    @property
    def encode(self) -> EncodeTemplates:
        return EncodeTemplates(self.network).eval()

    @property
    def search(self) -> Search:
        return Search(self.network).eval()

    @property
    def cache_names(self) -> list[str]:
        """Names of the cache's tensors in the graphs, in order."""
        if self.network.backbone.symmetric:
            return ["templates"]
        return [f"{part}_{block}" for block in range(self.config.model.depth) for part in ("keys", "values")]

    def encode_inputs(self) -> tuple[Tensor, Tensor]:
        """Two of everything that is free: one would count as a fixed size."""
        side, b, online = self.config.model.template_px, self.batch or 2, 1 if self.batch else 2
        template = torch.zeros(b, side, side, 3, dtype=torch.uint8)
        return template, template[:, None].repeat(1, online, 1, 1, 1)

    def search_inputs(self) -> tuple[Tensor, ...]:
        side = self.config.model.search_px
        with torch.no_grad():
            cache = [part.contiguous() for part in self.encode(*self.encode_inputs())]
        return torch.zeros(self.batch or 2, side, side, 3, dtype=torch.uint8), *cache


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what torch's exporter has to say about itself."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "# The axis name: .* will not be used", UserWarning)
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)`", FutureWarning)
        yield
