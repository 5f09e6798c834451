"""Exported graphs behind the tracker's two calls, in whatever runtime; no torch is needed to use them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from mixformerv2.config import Config
from mixformerv2.runtime.backend import Backend, Located
from mixformerv2.runtime.openvino import core

Cache = tuple[np.ndarray, ...]


class LoadedPair:
    """Two graphs, each a function from arrays to arrays: a backend of a target that the package itself does not run."""

    precision = "f32"

    def __init__(
        self,
        name: str,
        config: Config,
        encode: Callable[..., Sequence[np.ndarray]],
        search: Callable[..., Sequence[np.ndarray]],
    ) -> None:
        self.name, self.config = name, config
        self._encode, self._search = encode, search

    def encode_templates(
        self, template: UInt8[np.ndarray, "b side side 3"], online: UInt8[np.ndarray, "b online side side 3"]
    ) -> Cache:
        return tuple(self._encode(template, online))

    def stack(self, caches: Sequence[Cache]) -> Cache:
        return tuple(np.concatenate(parts) for parts in zip(*caches, strict=True))

    def search(self, crop: UInt8[np.ndarray, "b side side 3"], cache: Cache) -> Located:
        return Located(*self._search(crop, *cache))


def in_openvino(folder: Path, suffix: str, config: Config) -> LoadedPair:
    """The pair as it stands, shapes and all; what OpenVINO reads is its own format and ONNX."""
    graphs = (folder / f"encode_templates.{suffix}", folder / f"search.{suffix}")
    return LoadedPair("openvino", config, *map(_compiled, graphs))


def _compiled(graph: Path) -> Callable[..., list[np.ndarray]]:
    options = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    model = core().compile_model(graph, "CPU", options)
    return lambda *arrays: list(model(list(arrays)).to_tuple())


class OneOfMany:
    """One target in graphs of a fixed batch; the other rows see the same crops upside down, to tell a mixture."""

    def __init__(self, backend: Backend, batch: int) -> None:
        self._backend, self._batch = backend, batch
        self.name, self.precision, self.config = backend.name, backend.precision, backend.config

    def _fill(self, crops: UInt8[np.ndarray, "1 *any"]) -> UInt8[np.ndarray, "b *any"]:
        others = np.repeat(crops[..., ::-1, :, :], self._batch - 1, axis=0)
        return np.concatenate([others, crops])

    def encode_templates(
        self, template: UInt8[np.ndarray, "1 side side 3"], online: UInt8[np.ndarray, "1 online side side 3"]
    ) -> object:
        return self._backend.encode_templates(self._fill(template), self._fill(online))

    def stack(self, caches: Sequence[object]) -> object:
        return self._backend.stack(caches)

    def search(self, crop: UInt8[np.ndarray, "1 side side 3"], cache: object) -> Located:
        located = self._backend.search(self._fill(crop), cache)
        return Located(located.box_unit[-1:], located.score[-1:])
