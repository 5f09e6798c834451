"""ExecuTorch with XNNPACK's kernels, for phones and small devices: one ``.pte`` file a graph, shapes fixed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge_transform_and_lower
from executorch.runtime import Runtime

from mixformerv2.runtime.backend import Backend
from mixformerv2.runtime.export.graphs import Pair, quiet
from mixformerv2.runtime.export.loaded import LoadedPair


def write(pair: Pair, folder: Path) -> None:
    """``encode_templates.pte`` and ``search.pte``, weights in single precision."""
    with quiet():
        for name, module, inputs in (
            ("encode_templates", pair.encode, pair.encode_inputs()),
            ("search", pair.search, pair.search_inputs()),
        ):
            program = torch.export.export(module.requires_grad_(False), inputs)
            # Node by node: what the partitioner would fuse of attention depends on itself in a circle.
            lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner(per_op_mode=True)])
            (folder / f"{name}.pte").write_bytes(lowered.to_executorch().buffer)


def load(folder: Path, pair: Pair) -> Iterator[Backend]:
    graphs = (_loaded(folder / f"{name}.pte") for name in ("encode_templates", "search"))
    yield LoadedPair("executorch", pair.config, *graphs)


def _loaded(graph: Path) -> Callable[..., list[np.ndarray]]:
    method = Runtime.get().load_program(graph).load_method("forward")

    def run(*arrays: np.ndarray) -> list[np.ndarray]:
        outputs = method.execute([torch.from_numpy(array.copy()) for array in arrays])
        return [output.numpy().copy() for output in outputs]

    return run
