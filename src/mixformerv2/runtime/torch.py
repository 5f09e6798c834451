"""Torch: every checkpoint without an export, and a network in memory, on the CPU or a GPU."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
from jaxtyping import Float, UInt8

from mixformerv2.config import Config
from mixformerv2.model import checkpoint
from mixformerv2.model.attention import KeyValue
from mixformerv2.model.backbone import FoldedPatchEmbed, PatchEmbed, TemplateCache, TemplateTokens
from mixformerv2.model.network import Network
from mixformerv2.runtime.backend import Located, check_process
from mixformerv2.runtime.recorded import Recordings, record_on_gpu

_DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
MOST_RECORDED = 8  # targets at once: with more, the work on them hides what launching it takes


def available() -> list[str]:
    """Torch's devices here."""
    return ["cpu"] + ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available()


class NetworkBackend:
    """A network in memory, on the device where it lies; shared with the caller, neither copied nor moved.

    ``Tracker(backend=NetworkBackend(network, config))`` tracks with it. ``precision`` is ``f32``, ``bf16``, on a GPU
    also ``f16``, or ``auto``: f32 on a CPU, bf16 elsewhere. Raises ValueError for a network in training mode.
    """

    name = "torch"

    def __init__(self, network: Network, config: Config, precision: str = "auto") -> None:
        if network.training:
            raise ValueError("the network must be in evaluation mode to track: call network.eval() first")
        self._network, self.config = network, config
        self._device, self._process = next(network.parameters()).device, os.getpid()
        self.precision = precision
        if precision == "auto":
            self.precision = "f32" if self._device.type == "cpu" else "bf16"
        elif precision not in (there := ("f32", "bf16") if self._device.type == "cpu" else tuple(_DTYPES)):
            raise ValueError(
                f"the torch backend on {self._device.type} runs in {', '.join(there)}, got precision {precision}"
            )

    def _autocast(self) -> torch.autocast:
        return torch.autocast(
            self._device.type, dtype=_DTYPES[self.precision], enabled=self.precision != "f32"
        )

    def _check_process(self) -> None:
        if self._device.type == "cpu" and torch.get_num_threads() > 1:
            check_process(self._process)

    def _tensor(
        self, crops: UInt8[np.ndarray, "*any side side 3"]
    ) -> UInt8[torch.Tensor, "*any side side 3"]:
        # A copy, because torch takes neither read-only arrays nor turned views; a GPU fetches it when it comes to it.
        copied = torch.empty(crops.shape, dtype=torch.uint8, pin_memory=self._device.type == "cuda")
        copied.numpy()[...] = crops
        return copied.to(self._device, non_blocking=True)

    @torch.inference_mode()
    def encode_templates(
        self, template: UInt8[np.ndarray, "b side side 3"], online: UInt8[np.ndarray, "b online side side 3"]
    ) -> TemplateCache:
        self._check_process()
        return self._encoded(self._tensor(template), self._tensor(online))

    def _encoded(
        self,
        template: UInt8[torch.Tensor, "b side side 3"],
        online: UInt8[torch.Tensor, "b online side side 3"],
    ) -> TemplateCache:
        with self._autocast():
            return self._network.encode_templates(template, online)

    @torch.inference_mode()
    def stack(self, caches: Sequence[TemplateCache]) -> TemplateCache:
        entries = zip(*caches, strict=True)
        stacked = (type(entry[0])(*map(torch.cat, zip(*entry, strict=True))) for entry in entries)
        return cast("TemplateCache", tuple(stacked))

    @torch.inference_mode()
    def search(self, crop: UInt8[np.ndarray, "b side side 3"], cache: TemplateCache) -> Located:
        self._check_process()
        answer = self._answer(self._tensor(crop), cache).cpu().numpy()
        return Located(answer[:, :4], answer[:, 4])

    def _answer(
        self, crop: UInt8[torch.Tensor, "b side side 3"], cache: TemplateCache
    ) -> Float[torch.Tensor, "b 5"]:
        """Box and score, in one piece: a GPU's is waited for once."""
        with self._autocast():
            prediction = self._network.search(crop, cache)
        box_unit = prediction.box_unit.float()
        if prediction.score_logits is None:
            score = torch.ones_like(box_unit[:, 0])
        else:
            score = prediction.score_logits.float().sigmoid()
        return torch.cat([box_unit, score[:, None]], dim=1)


class TorchBackend(NetworkBackend):
    """The network of a checkpoint."""

    def __init__(self, weights: Path, precision: str, device: str, threads: int | None) -> None:
        network, config = checkpoint.load(weights)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            network.to(torch.device(device))
            known = torch.device(device).type in available()
        except torch.OutOfMemoryError:
            raise ValueError(f"the model does not fit into what is free of the memory of {device}") from None
        except (RuntimeError, AssertionError, NotImplementedError):
            known = False
        if not known:
            raise ValueError(
                f"torch has no device {device!r} here: choose {', '.join(available())}, or auto"
            ) from None
        if threads is not None:
            torch.set_num_threads(threads)
        super().__init__(network.eval(), config, precision)
        self._settle()
        self._recordings: Recordings | None = None
        if self._device.type == "cuda":
            self._recordings = Recordings(partial(record_on_gpu, self._device))

    def _settle(self) -> None:
        """Does once what a network that learns has to do in every pass: folds its patches, rounds its matrices."""
        trunk = self._network.backbone
        trunk.patch_embed = FoldedPatchEmbed(cast("PatchEmbed", trunk.patch_embed))
        for module in self._network.modules():
            if isinstance(module, torch.nn.Linear):
                module.to(_DTYPES[self.precision])

    def _encoded(
        self,
        template: UInt8[torch.Tensor, "b side side 3"],
        online: UInt8[torch.Tensor, "b online side side 3"],
    ) -> TemplateCache:
        if self._recordings is None or len(template) > MOST_RECORDED:
            return super()._encoded(template, online)

        def encoded(*crops: torch.Tensor) -> torch.Tensor:
            return torch.stack(_parts(super(TorchBackend, self)._encoded(*crops)))

        return self._cache_of(self._recordings.answer("encode", encoded, (template, online)).unbind())

    def _answer(
        self, crop: UInt8[torch.Tensor, "b side side 3"], cache: TemplateCache
    ) -> Float[torch.Tensor, "b 5"]:
        if self._recordings is None or len(crop) > MOST_RECORDED:
            return super()._answer(crop, cache)

        def answer(crop: torch.Tensor, *parts: torch.Tensor) -> torch.Tensor:
            return super(TorchBackend, self)._answer(crop, self._cache_of(parts))

        return self._recordings.answer("search", answer, (crop,), _parts(cache))

    def _cache_of(self, parts: Sequence[torch.Tensor]) -> TemplateCache:
        if self._network.backbone.symmetric:
            return (TemplateTokens(parts[0]),)
        return tuple(map(KeyValue, parts[::2], parts[1::2]))


def _parts(cache: TemplateCache) -> list[torch.Tensor]:
    """The tensors of a cache, in their order."""
    return [part for entry in cache for part in entry]
