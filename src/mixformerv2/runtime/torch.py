"""Torch: every checkpoint without an export, on the CPU or a GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from mixformerv2.model import checkpoint
from mixformerv2.model.backbone import TemplateCache
from mixformerv2.runtime.backend import Located


class TorchBackend:
    name = "torch"

    def __init__(self, weights: Path, precision: str, device: str, threads: int | None) -> None:
        network, self.config = checkpoint.load(weights)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self._device = torch.device(device)
            self._network = network.to(self._device).eval()
        except (RuntimeError, AssertionError):
            raise ValueError(f"torch has no device {device!r} here: choose cpu, or auto") from None
        if threads is not None:
            torch.set_num_threads(threads)
        self.precision = "f32" if precision == "auto" and self._device.type == "cpu" else precision
        if self.precision == "auto":
            self.precision = "bf16"

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16")

    def _tensor(
        self, crops: UInt8[np.ndarray, "*any side side 3"]
    ) -> UInt8[torch.Tensor, "*any side side 3"]:
        # A copy, because torch takes neither read-only arrays nor turned views.
        return torch.from_numpy(crops.copy(order="C")).to(self._device)

    @torch.inference_mode()
    def encode_templates(
        self, template: UInt8[np.ndarray, "b side side 3"], online: UInt8[np.ndarray, "b online side side 3"]
    ) -> TemplateCache:
        with self._autocast():
            return self._network.encode_templates(self._tensor(template), self._tensor(online))

    @torch.inference_mode()
    def search(self, crop: UInt8[np.ndarray, "b side side 3"], cache: TemplateCache) -> Located:
        with self._autocast():
            prediction = self._network.search(self._tensor(crop), cache)
        box_unit = prediction.box_unit.float().cpu().numpy()
        if prediction.score_logits is None:
            return Located(box_unit, np.ones(len(box_unit), np.float32))
        return Located(box_unit, prediction.score_logits.float().sigmoid().cpu().numpy())
