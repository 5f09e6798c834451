"""``torch.export``: each graph as a ``.pt2`` file that needs torch but none of this package's code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch.export import Dim, ExportedProgram

from mixformerv2.runtime.backend import Backend
from mixformerv2.runtime.export.graphs import Pair, quiet
from mixformerv2.runtime.export.loaded import LoadedPair

# Where each node came from: a third of the file, and paths of the machine.
_NOTES = ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node")


def write(pair: Pair, folder: Path) -> None:
    """``encode_templates.pt2`` and ``search.pt2``, weights in single precision."""
    free, several = {0: Dim.DYNAMIC}, {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}
    shapes = (free, several), (free, (several,) * len(pair.cache_names))
    with quiet():
        for name, module, inputs, dynamic in (
            ("encode_templates", pair.encode, pair.encode_inputs(), shapes[0]),
            ("search", pair.search, pair.search_inputs(), shapes[1]),
        ):
            program = torch.export.export(
                module.requires_grad_(False), inputs, dynamic_shapes=None if pair.batch else dynamic
            )
            torch.export.save(_bare(program), folder / f"{name}.pt2")


def _bare(program: ExportedProgram) -> ExportedProgram:
    for node in program.graph.nodes:
        for note in _NOTES:
            node.meta.pop(note, None)
    program.example_inputs = None
    return program


def load(folder: Path, pair: Pair) -> Iterator[Backend]:
    graphs = (_loaded(folder / f"{name}.pt2") for name in ("encode_templates", "search"))
    yield LoadedPair("torch.export", pair.config, *graphs)


def _loaded(graph: Path) -> Callable[..., list[np.ndarray]]:
    module = torch.export.load(graph).module()

    @torch.inference_mode()
    def run(*arrays: np.ndarray) -> list[np.ndarray]:
        return [output.numpy() for output in module(*(torch.from_numpy(array.copy()) for array in arrays))]

    return run
