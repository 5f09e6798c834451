"""A checkpoint as two ONNX graphs that share one weights file, which is the checkpoint itself.

The graphs hold no weights: each initialiser points into ``model.safetensors`` by offset, and a Cast widens it from
half precision. What depends on weights alone (the folded normalisation, the prediction tokens' first projections) is
left in the graph as arithmetic on constants, which every runtime folds when it loads the graph.
"""

from __future__ import annotations

import json
import os
import struct
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

OPSET = 18


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
    """Writes ``model.safetensors``, ``encode_templates.onnx`` and ``search.onnx`` into ``folder``.

    Raises ValueError where ``source`` is not a checkpoint of ours.
    """
    network, config = checkpoint.load(source)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint.save(network, config, folder / WEIGHTS_FILE, dtype=torch.float16)
    network, _ = checkpoint.load(folder / WEIGHTS_FILE)
    model = config.model
    template = torch.zeros(2, model.template_px, model.template_px, 3, dtype=torch.uint8)
    online = template[:, None].repeat(1, 2, 1, 1, 1)
    crop = torch.zeros(2, model.search_px, model.search_px, 3, dtype=torch.uint8)
    encode, search = _EncodeTemplates(network).eval(), _Search(network).eval()
    with torch.no_grad():
        cache = list(encode(template, online))
    names = cache_names(model.depth)
    b, count = torch.export.Dim("b"), torch.export.Dim("online")
    tokens = torch.export.Dim("template_tokens")
    graphs = {
        ENCODE_GRAPH: torch.onnx.export(
            encode,
            (template, online),
            dynamo=True,
            opset_version=OPSET,
            input_names=["template", "online"],
            output_names=names,
            dynamic_shapes=({0: b}, {0: b, 1: count}),
            optimize=False,
            verbose=False,
        ),
        SEARCH_GRAPH: torch.onnx.export(
            search,
            (crop, cache),
            dynamo=True,
            opset_version=OPSET,
            input_names=["crop", *names],
            output_names=["box_unit", "score"],
            dynamic_shapes=({0: b}, [{0: b, 2: tokens} for _ in names]),
            optimize=False,
            verbose=False,
        ),
    }
    for name, program in graphs.items():
        graph = program.model_proto
        _strip(graph)
        _point_into(graph, folder / WEIGHTS_FILE)
        partial = folder / f".{name}.part"
        onnx.save(graph, str(partial))
        os.replace(partial, folder / name)


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
