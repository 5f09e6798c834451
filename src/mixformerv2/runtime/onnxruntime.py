"""ONNX Runtime: the same graphs in float32, on the CPU or an NVIDIA GPU."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
from jaxtyping import Float, UInt8

from mixformerv2.runtime.backend import (
    ENCODE_GRAPH,
    SEARCH_GRAPH,
    WEIGHTS_FILE,
    Located,
    check_graph,
    check_process,
    damaged,
    of_fixed_batch,
    read_config,
)

_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}


class OnnxRuntimeBackend:
    """``device`` is ``cpu``, ``cuda`` or ``tensorrt``; ``auto`` is the CPU."""

    name = "onnxruntime"
    precision = "f32"

    def __init__(self, folder: Path, precision: str, device: str, threads: int | None) -> None:
        if precision not in ("auto", "f32"):
            raise ValueError(f"the onnxruntime backend runs in f32, got precision {precision}")
        self._providers = _providers("cpu" if device == "auto" else device.lower())
        self.config = read_config(folder / WEIGHTS_FILE)
        options = ort.SessionOptions()
        options.log_severity_level = 4  # its errors are raised, too
        if threads is not None:
            options.intra_op_num_threads = threads
        self._process = os.getpid()
        self._has_threads = threads != 1
        self._encoder, self._searcher = (
            self._read(folder / graph, options) for graph in (ENCODE_GRAPH, SEARCH_GRAPH)
        )
        crop, *cache = self._searcher.get_inputs()
        self._batch = crop.shape[0]  # a name where it is free
        self._cache_names = [entry.name for entry in cache]

    def _read(self, graph: Path, options: ort.SessionOptions) -> ort.InferenceSession:
        check_graph(graph)
        try:
            session = ort.InferenceSession(graph, options, providers=self._providers)
        except Exception as error:  # the runtime's own exceptions have no common base
            raise ValueError(f"{damaged(graph)} ({error})") from None
        if self._providers[0] not in session.get_providers():  # it goes on with the next one without a word
            raise ValueError(
                f"onnxruntime cannot load {self._providers[0]} here: its libraries (CUDA, cuDNN, TensorRT) must be "
                "installed in the versions that it asks for"
            )
        return session

    def _check(self, targets: int) -> None:
        if self._has_threads:
            check_process(self._process)
        if isinstance(self._batch, int) and self._batch != targets:
            raise ValueError(of_fixed_batch(self._batch, targets))

    def encode_templates(
        self, template: UInt8[np.ndarray, "b side side 3"], online: UInt8[np.ndarray, "b online side side 3"]
    ) -> dict[str, Float[np.ndarray, "b tokens dim"]]:
        self._check(len(template))
        outputs = self._encoder.run(None, {"template": template, "online": online})
        return dict(zip(self._cache_names, outputs, strict=True))

    def stack(
        self, caches: Sequence[dict[str, Float[np.ndarray, "_ tokens dim"]]]
    ) -> dict[str, Float[np.ndarray, "b tokens dim"]]:
        return {name: np.concatenate([cache[name] for cache in caches]) for name in self._cache_names}

    def search(
        self,
        crop: UInt8[np.ndarray, "b side side 3"],
        cache: dict[str, Float[np.ndarray, "b tokens dim"]],
    ) -> Located:
        self._check(len(crop))
        return Located(*self._searcher.run(None, {"crop": crop} | cache))


def available() -> list[str]:
    """ONNX Runtime's devices, as far as this package knows them and this build has them."""
    built = ort.get_available_providers()
    return [name for name, provider in _PROVIDERS.items() if provider in built]


def _providers(device: str) -> list[str]:
    """What a session tries in turn: a GPU leaves to the CPU what it cannot do."""
    there = available()
    if device not in there:
        gpu = ": the package onnxruntime-gpu has it" if device in _PROVIDERS else ""
        raise ValueError(f"onnxruntime has no device {device!r} here{gpu}; choose one of {', '.join(there)}")
    fallbacks = ("cuda", "cpu") if device == "tensorrt" else ("cpu",)
    return list(dict.fromkeys(_PROVIDERS[name] for name in (device, *fallbacks) if name in there))
