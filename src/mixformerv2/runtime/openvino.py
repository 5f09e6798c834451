"""OpenVINO: the default runtime, on any x86 or Arm CPU and Intel's accelerators."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from jaxtyping import UInt8

from mixformerv2.runtime.backend import (
    ENCODE_GRAPH,
    SEARCH_GRAPH,
    WEIGHTS_FILE,
    Located,
    damaged,
    read_config,
)


class OpenVINOBackend:
    """The two graphs, compiled for each batch size and number of templates when they are first seen."""

    name = "openvino"

    def __init__(self, folder: Path, precision: str, device: str, threads: int | None) -> None:
        self.config = read_config(folder / WEIGHTS_FILE)
        self._core = ov.Core()
        self._device = "CPU" if device == "auto" else device.upper()
        if self._device not in self._core.available_devices:
            there = ", ".join(self._core.available_devices)
            raise ValueError(f"OpenVINO has no device {device!r} here: choose one of {there}")
        self.precision = self._choose(precision)
        self._options: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": self.precision,
        }
        if threads is not None and self._device == "CPU":
            self._options["INFERENCE_NUM_THREADS"] = threads
        self._graphs = [self._read(folder / graph) for graph in (ENCODE_GRAPH, SEARCH_GRAPH)]
        self._encoders: dict[tuple[int, int], ov.InferRequest] = {}
        self._searchers: dict[tuple[int, int], ov.InferRequest] = {}
        self._bound: dict[tuple[int, int], Any] = {}

    def _read(self, graph: Path) -> ov.Model:
        try:
            return self._core.read_model(graph)
        except RuntimeError:
            raise ValueError(damaged(graph)) from None

    def _choose(self, precision: str) -> str:
        can_bf16 = "BF16" in self._core.get_property(self._device, "OPTIMIZATION_CAPABILITIES")
        if precision == "auto":
            return "bf16" if can_bf16 else "f32"
        if precision == "bf16" and not can_bf16:
            raise ValueError("this device has no bf16 arithmetic: choose precision f32, or auto")
        return precision

    def encode_templates(
        self, template: UInt8[np.ndarray, "b side side 3"], online: UInt8[np.ndarray, "b online side side 3"]
    ) -> list[ov.Tensor]:
        key = online.shape[:2]
        if key not in self._encoders:
            shapes = {"template": template.shape, "online": online.shape}
            self._encoders[key] = self._compile(self._graphs[0], shapes)
        request = self._encoders[key]
        request.infer({"template": template, "online": online}, share_inputs=True)
        # Copies: the request's own tensors are overwritten by its next call.
        return [ov.Tensor(tensor.data) for tensor in request.output_tensors]

    def search(self, crop: UInt8[np.ndarray, "b side side 3"], cache: list[ov.Tensor]) -> Located:
        key = (len(crop), cache[0].shape[2])
        if key not in self._searchers:
            names = [port.any_name for port in self._graphs[1].inputs[1:]]
            shapes = {"crop": crop.shape} | {n: tuple(t.shape) for n, t in zip(names, cache, strict=True)}
            self._searchers[key] = self._compile(self._graphs[1], shapes)
        request = self._searchers[key]
        if self._bound.get(key) is not cache:
            for index, tensor in enumerate(cache, start=1):
                request.set_input_tensor(index, tensor)
            self._bound[key] = cache
        request.get_input_tensor(0).data[:] = crop
        request.infer()
        box_unit, score = (tensor.data.copy() for tensor in request.output_tensors)
        return Located(box_unit, score)

    def _compile(self, graph: ov.Model, shapes: dict[str, tuple[int, ...]]) -> ov.InferRequest:
        fixed = graph.clone()
        fixed.reshape({name: list(shape) for name, shape in shapes.items()})
        return self._core.compile_model(fixed, self._device, self._options).create_infer_request()
