"""A checkpoint as two ONNX graphs that share one weights file, which is the checkpoint itself.

The graphs hold no weights: each initialiser points into ``model.safetensors`` by offset, and a Cast widens it from
half precision. What depends on weights alone (the folded normalisation, the prediction tokens' first projections) is
left in the graph as arithmetic on constants, which every runtime folds when it loads the graph.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import torch

from mixformerv2.model import checkpoint
from mixformerv2.runtime.backend import ENCODE_GRAPH, SEARCH_GRAPH, WEIGHTS_FILE, Backend, open_backend
from mixformerv2.runtime.export.graphs import ENCODE_INPUTS, SEARCH_OUTPUTS, Pair, quiet
from mixformerv2.runtime.export.loaded import in_openvino

# Not optimised: the weights have to stay in the graph as they stand in the file, and each runtime simplifies the rest.
_OPTIONS: dict[str, Any] = dict(dynamo=True, opset_version=18, optimize=False, verbose=False)


def write(pair: Pair, folder: Path) -> None:
    """``model.safetensors``, ``encode_templates.onnx`` and ``search.onnx``."""
    weights = folder / WEIGHTS_FILE
    checkpoint.save(pair.network, pair.config, weights, dtype=torch.float16)
    with quiet(), _without_advice():
        graphs = {ENCODE_GRAPH: _encode_graph(pair), SEARCH_GRAPH: _search_graph(pair)}
    for name, graph in graphs.items():
        _strip(graph)
        _point_into(graph, weights)
        onnx.save(graph, folder / name)


def load(folder: Path, pair: Pair) -> Iterator[Backend]:
    """The package's own backends: OpenVINO, and ONNX Runtime where it is installed."""
    if pair.batch in (None, 1):
        yield open_backend(folder, "openvino", "f32", device="cpu")
    else:  # which that backend does not run: it encodes one target at a time
        yield in_openvino(folder, "onnx", pair.config)
    if importlib.util.find_spec("onnxruntime"):
        yield open_backend(folder, "onnxruntime", "f32", device="cpu")


def _encode_graph(pair: Pair) -> Any:
    free = {0: "b"}
    return torch.onnx.export(
        pair.encode,
        pair.encode_inputs(),
        input_names=ENCODE_INPUTS,
        output_names=pair.cache_names,
        dynamic_shapes=None if pair.batch else (free, free | {1: "online"}),
        **_OPTIONS,
    ).model_proto


def _search_graph(pair: Pair) -> Any:
    free, names = {0: "b"}, pair.cache_names
    return torch.onnx.export(
        pair.search,
        pair.search_inputs(),
        input_names=["crop", *names],
        output_names=SEARCH_OUTPUTS,
        dynamic_shapes=None if pair.batch else (free, (free | {1: "template_tokens"},) * len(names)),
        **_OPTIONS,
    ).model_proto


@contextlib.contextmanager
def _without_advice() -> Iterator[None]:
    """Without the exporter's words about packages that are not needed here."""
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    registration.setLevel(logging.ERROR)
    try:
        yield
    finally:
        registration.setLevel(level)


def _strip(model: Any) -> None:
    """Without the exporter's notes on where each node came from: half of the file, and paths of the machine."""
    model.ClearField("metadata_props")
    model.graph.ClearField("metadata_props")
    model.graph.ClearField("value_info")
    for node in model.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        value.ClearField("metadata_props")
        value.ClearField("doc_string")


def _point_into(model: Any, weights: Path) -> None:
    """Every initialiser that stands in the weights file becomes a reference to it, widened by a Cast."""
    with weights.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        entries = json.loads(file.read(length))
    casts = []
    for tensor in model.graph.initializer:
        name = tensor.name.removeprefix("network.")
        if name not in entries or entries[name]["dtype"] != "F16":
            continue
        assert list(tensor.dims) == entries[name]["shape"], f"{name} changed its shape on the way"
        start, end = entries[name]["data_offsets"]
        casts.append(
            onnx.helper.make_node(
                "Cast", [f"{name}.f16"], [tensor.name], to=onnx.TensorProto.FLOAT, name=f"widen.{name}"
            )
        )
        tensor.Clear()
        tensor.name, tensor.data_type = f"{name}.f16", onnx.TensorProto.FLOAT16
        tensor.dims.extend(entries[name]["shape"])
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (
            ("location", weights.name),
            ("offset", 8 + length + start),
            ("length", end - start),
        ):
            tensor.external_data.add(key=key, value=str(value))
    for position, node in enumerate(casts):
        model.graph.node.insert(position, node)
