"""OpenVINO: the default runtime, on any x86 or Arm CPU and Intel's accelerators."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

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

# What a graph is compiled for: the shortest answer about one target, or the most answers about many.
_ONE, _MANY = "LATENCY", "THROUGHPUT"


class _Templates(NamedTuple):
    """The keys and values of one target, and the requests that read them, by what they were compiled for."""

    keys_values: list[ov.Tensor]
    requests: dict[str, ov.InferRequest]


class OpenVINOBackend:
    """The two graphs, compiled for each number of templates when it is first seen.

    Many targets are no batch here but as many requests at once, spread over streams of few threads: that needs no
    compiling for every number of targets, copies no caches, and is about as fast (docs/many-targets.md).
    """

    name = "openvino"

    def __init__(self, folder: Path, precision: str, device: str, threads: int | None) -> None:
        self.config = read_config(folder / WEIGHTS_FILE)
        self._core = ov.Core()
        self._device = "CPU" if device == "auto" else device.upper()
        if self._device not in self._core.available_devices:
            there = ", ".join(self._core.available_devices)
            raise ValueError(f"OpenVINO has no device {device!r} here: choose one of {there}")
        self.precision = self._choose(precision)
        self._options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": self.precision}
        if threads is not None and self._device == "CPU":
            self._options["INFERENCE_NUM_THREADS"] = threads
        self._graphs = {graph: self._read(folder / graph) for graph in (ENCODE_GRAPH, SEARCH_GRAPH)}
        self._compiled: dict[Any, ov.CompiledModel] = {}
        self._compiling = Lock()

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
    ) -> list[_Templates]:
        encoded = []
        for one, several in zip(template[:, None], online[:, None], strict=True):
            shapes = {"template": one.shape, "online": several.shape}
            # A request of its own: its answer is kept where it lies.
            request = self._compile(ENCODE_GRAPH, _ONE, shapes).create_infer_request()
            request.infer({"template": one, "online": several}, share_inputs=True)
            encoded.append(_Templates(list(request.output_tensors), {}))
        return encoded

    def stack(self, caches: Sequence[list[_Templates]]) -> list[_Templates]:
        return [templates for cache in caches for templates in cache]

    def search(self, crop: UInt8[np.ndarray, "b side side 3"], cache: list[_Templates]) -> Located:
        goal = _ONE if len(cache) == 1 else _MANY
        requests = [self._request(templates, goal) for templates in cache]
        for request, pixels in zip(requests, crop, strict=True):
            request.get_input_tensor(0).data[0] = pixels
            request.start_async()
        for request in requests:
            request.wait()
        answers = [[request.get_output_tensor(index).data for request in requests] for index in (0, 1)]
        return Located(*map(np.concatenate, answers))

    def _request(self, templates: _Templates, goal: str) -> ov.InferRequest:
        if goal not in templates.requests:
            model, keys_values = self.config.model, templates.keys_values
            names = [port.any_name for port in self._graphs[SEARCH_GRAPH].inputs]
            shapes = [(1, model.search_px, model.search_px, 3), *(tuple(t.shape) for t in keys_values)]
            compiled = self._compile(SEARCH_GRAPH, goal, dict(zip(names, shapes, strict=True)))
            request = templates.requests[goal] = compiled.create_infer_request()
            for index, tensor in enumerate(keys_values, start=1):
                request.set_input_tensor(index, tensor)
        return templates.requests[goal]

    def _compile(self, graph: str, goal: str, shapes: dict[str, tuple[int, ...]]) -> ov.CompiledModel:
        key = (graph, goal, *shapes.values())
        with self._compiling:
            if key not in self._compiled:
                fixed = self._graphs[graph].clone()
                fixed.reshape({name: list(shape) for name, shape in shapes.items()})
                options = self._options | {"PERFORMANCE_HINT": goal}
                self._compiled[key] = self._core.compile_model(fixed, self._device, options)
            return self._compiled[key]
