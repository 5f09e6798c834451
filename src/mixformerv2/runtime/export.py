"""A checkpoint as two ONNX graphs that share one weights file, which is the checkpoint itself.

The graphs hold no weights: each initialiser points into ``model.safetensors`` by offset, and a Cast widens it from
half precision. What depends on weights alone (the folded normalisation, the prediction tokens' first projections) is
left in the graph as arithmetic on constants, which every runtime folds when it loads the graph.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import struct
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from mixformerv2.model import checkpoint
from mixformerv2.model.attention import KeyValue
from mixformerv2.model.network import Network
from mixformerv2.runtime.backend import ENCODE_GRAPH, SEARCH_GRAPH, WEIGHTS_FILE

# Not optimised: the weights have to stay in the graph as they stand in the file, and each runtime simplifies the rest.
_OPTIONS: dict[str, Any] = dict(dynamo=True, opset_version=18, optimize=False, verbose=False)


class _EncodeTemplates(nn.Module):
    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, template: UInt8[Tensor, "b side side 3"], online: UInt8[Tensor, "b online side side 3"]
    ) -> tuple[Tensor, ...]:
        cache = self.network.encode_templates(template, online)
        return tuple(part for keys_values in cache for part in keys_values)


class _Search(nn.Module):
    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, crop: UInt8[Tensor, "b side side 3"], cache: list[Tensor]
    ) -> tuple[Float[Tensor, "b 4"], Float[Tensor, "b"]]:
        pairs = tuple(KeyValue(*cache[i : i + 2]) for i in range(0, len(cache), 2))
        prediction = self.network.search(crop, pairs)
        if prediction.score_logits is None:
            return prediction.box_unit, torch.ones_like(prediction.box_unit[:, 0])
        return prediction.box_unit, prediction.score_logits.sigmoid()


def cache_names(depth: int) -> list[str]:
    """Names of the cache's tensors in the graphs, in order."""
    return [f"{part}_{block}" for block in range(depth) for part in ("keys", "values")]


def export(source: Path, folder: Path) -> None:
    """Writes ``model.safetensors``, ``encode_templates.onnx`` and ``search.onnx`` into ``folder``: all three or none.

    Raises ValueError where ``source`` is not a checkpoint of ours.
    """
    network, config = checkpoint.load(source)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=folder) as unfinished:
        weights = Path(unfinished) / WEIGHTS_FILE
        checkpoint.save(network, config, weights, dtype=torch.float16)
        with _quiet():
            graphs = {ENCODE_GRAPH: _encode_graph(network), SEARCH_GRAPH: _search_graph(network)}
        for name, graph in graphs.items():
            _strip(graph)
            _point_into(graph, weights)
            onnx.save(graph, weights.with_name(name))
        for name in (WEIGHTS_FILE, *graphs):
            os.replace(weights.with_name(name), folder / name)


def _examples(network: Network) -> tuple[Tensor, Tensor, Tensor]:
    """Two of everything: one would count as a fixed size."""
    sizes = network.config
    template = torch.zeros(2, sizes.template_px, sizes.template_px, 3, dtype=torch.uint8)
    crop = torch.zeros(2, sizes.search_px, sizes.search_px, 3, dtype=torch.uint8)
    return template, template[:, None].repeat(1, 2, 1, 1, 1), crop


def _encode_graph(network: Network) -> Any:
    template, online, _ = _examples(network)
    return torch.onnx.export(
        _EncodeTemplates(network).eval(),
        (template, online),
        input_names=["template", "online"],
        output_names=cache_names(network.config.depth),
        dynamic_shapes=({0: "b"}, {0: "b", 1: "online"}),
        **_OPTIONS,
    ).model_proto


def _search_graph(network: Network) -> Any:
    template, online, crop = _examples(network)
    with torch.no_grad():
        cache = list(_EncodeTemplates(network)(template, online))
    names = cache_names(network.config.depth)
    return torch.onnx.export(
        _Search(network).eval(),
        (crop, cache),
        input_names=["crop", *names],
        output_names=["box_unit", "score"],
        dynamic_shapes=({0: "b"}, [{0: "b", 1: "template_tokens"} for _ in names]),
        **_OPTIONS,
    ).model_proto


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch's exporter has to say about itself, and about packages that are not needed here."""
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    registration.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "# The axis name: .* will not be used", UserWarning)
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)`", FutureWarning)
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
