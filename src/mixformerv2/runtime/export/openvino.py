"""OpenVINO's own format, for products that ship OpenVINO alone: the ONNX graphs, with weights in half precision."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import openvino as ov

from mixformerv2.runtime.backend import Backend
from mixformerv2.runtime.export import onnx
from mixformerv2.runtime.export.graphs import Pair
from mixformerv2.runtime.export.loaded import in_openvino
from mixformerv2.runtime.openvino import core


def write(pair: Pair, folder: Path) -> None:
    """``encode_templates.xml`` and ``search.xml``, each with its weights in a ``.bin``."""
    with tempfile.TemporaryDirectory(dir=folder) as graphs:
        onnx.write(pair, Path(graphs))
        for name in ("encode_templates", "search"):
            model = core().read_model(Path(graphs) / f"{name}.onnx")
            # The weights are in half precision already; the rest, such as the channel means, must not be.
            ov.save_model(model, folder / f"{name}.xml", compress_to_fp16=False)


def load(folder: Path, pair: Pair) -> Iterator[Backend]:
    yield in_openvino(folder, "xml", pair.config)
