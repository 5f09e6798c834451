"""What the tracker asks of a runtime, where models are found, and which runtime is taken."""

from __future__ import annotations

import importlib.resources
import importlib.util
import json
import os
import re
import struct
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8

from mixformerv2.config import PRESETS, Config

WEIGHTS_FILE = "model.safetensors"
ENCODE_GRAPH = "encode_templates.onnx"
SEARCH_GRAPH = "search.onnx"
INT8_GRAPH, INT8_WEIGHTS = "search.int8.xml", "search.int8.bin"
# Where a tensor of an ONNX file lies in another file: two of the entries of its field external_data.
_CONSTANT = re.compile(rb"\n\x06offset\x12.(\d+).{0,8}?\n\x06length\x12.(\d+)", re.DOTALL)
_MOST_THREADS = 1024

BACKENDS = ("openvino", "onnxruntime", "torch")
PRECISIONS = ("f32", "bf16", "f16", "int8")


def search_graph(precision: str) -> str:
    """The file of an exported model that is searched with."""
    return INT8_GRAPH if precision == "int8" else SEARCH_GRAPH


def files_of_graphs(precision: str) -> tuple[str, ...]:
    """What a runtime loads of an exported model, beside its weights."""
    graphs = (ENCODE_GRAPH, search_graph(precision))
    return (*graphs, INT8_WEIGHTS) if precision == "int8" else graphs


class Located(NamedTuple):
    """What a search crop says, one row an example."""

    box_unit: Float[np.ndarray, "b 4"]  # xyxy, fractions of the crop
    score: Float[np.ndarray, "b"]  # 0..1; 1 for a model without a score head


@runtime_checkable
class Backend(Protocol):
    """A loaded model. The cache is the runtime's own affair; it stays valid while the backend lives.

    Threads may share a backend, each with caches of its own.
    """

    name: str
    precision: str
    config: Config

    def encode_templates(
        self, template: UInt8[np.ndarray, "b side side 3"], online: UInt8[np.ndarray, "b online side side 3"]
    ) -> Any:
        """What later searches need of the fixed and the online templates."""

    def stack(self, caches: Sequence[Any]) -> Any:
        """One cache of all targets of several, in their order; each has as many online templates as the others."""

    def search(self, crop: UInt8[np.ndarray, "b side side 3"], cache: Any) -> Located:
        """The target in the search crop."""


def open_backend(
    model: str | Path,
    backend: str = "auto",
    precision: str = "auto",
    device: str = "auto",
    threads: int | None = None,
) -> Backend:
    """Loads a model into a runtime.

    ``model`` is a shipped name, a folder made by ``mixformerv2 export``, or a ``.safetensors`` checkpoint.
    ``auto`` takes OpenVINO where the exported graphs are there, else torch, and the fastest precision that is made for
    this machine: int8 only where the model has that graph.
    Raises ValueError for an unknown name, FileNotFoundError for a path without a model, ModuleNotFoundError for a
    runtime that is not installed.
    """
    if backend not in ("auto", *BACKENDS):
        raise ValueError(f"no backend is called {backend!r}: choose one of auto, {', '.join(BACKENDS)}")
    if precision not in ("auto", *PRECISIONS):
        raise ValueError(f"no precision is called {precision!r}: choose one of auto, {', '.join(PRECISIONS)}")
    if not isinstance(device, str):
        raise ValueError(f"a device is a name, such as cpu, got {device!r}")
    if threads is not None and (type(threads) is not int or not 1 <= threads <= _MOST_THREADS):
        raise ValueError(f"threads must be a whole number from 1 to {_MOST_THREADS}, got {threads!r}")
    weights = find_weights(model)
    has_graphs = all((weights.parent / graph).is_file() for graph in (ENCODE_GRAPH, SEARCH_GRAPH))
    has_graphs = has_graphs and weights.name == WEIGHTS_FILE
    if backend == "auto":
        backend = "openvino" if has_graphs else "torch"
    if backend != "torch" and not has_graphs:
        raise FileNotFoundError(
            f"{weights} has no graphs beside it for {backend}: make them with "
            f"`mixformerv2 export {weights} FOLDER` and track with that folder, or choose the torch backend"
        )
    if importlib.util.find_spec(backend) is None:  # each is called like its package
        extra = {"torch": "train", "onnxruntime": "onnx"}.get(backend)
        install = f"pip install 'mixformerv2[{extra}]'" if extra else f"pip install {backend}"
        raise ModuleNotFoundError(f"the {backend} backend needs the package {backend}: {install}")
    try:
        return _backend_class(backend)(
            weights if backend == "torch" else weights.parent, precision, device, threads
        )
    except ImportError as error:
        raise ValueError(f"the {backend} backend is installed, but cannot be loaded: {error}") from error


def _backend_class(name: str) -> Callable[..., Backend]:
    if name == "openvino":
        from mixformerv2.runtime.openvino import OpenVINOBackend

        return OpenVINOBackend
    if name == "onnxruntime":
        from mixformerv2.runtime.onnxruntime import OnnxRuntimeBackend

        return OnnxRuntimeBackend
    from mixformerv2.runtime.torch import TorchBackend

    return TorchBackend


def shipped_models() -> dict[str, Path]:
    """The models inside the package: name and weights file."""
    root = Path(str(importlib.resources.files("mixformerv2") / "weights"))
    return {path.parent.name: path for path in sorted(root.glob(f"*/{WEIGHTS_FILE}"))}


def find_weights(model: str | Path) -> Path:
    """The weights file of a shipped model, of a model folder, or the file itself.

    A Path is a folder or a file, whatever it is called.
    """
    if not isinstance(model, str | Path):
        raise ValueError(f"a model is a name or a path, got {model!r}")
    shipped, path = shipped_models(), Path(model)
    if isinstance(model, str) and model in shipped:
        if (path / WEIGHTS_FILE).is_file():
            warnings.warn(
                f"{model} is the shipped model, not the folder here: that is ./{model}", stacklevel=2
            )
        return shipped[model]
    if (path / WEIGHTS_FILE).is_file():
        return path / WEIGHTS_FILE
    if path.is_file() and path.suffix in (".onnx", ".xml") and (path.parent / WEIGHTS_FILE).is_file():
        raise ValueError(f"{path} is a graph of the model in {path.parent}: name that folder")
    if path.is_file():
        return path
    if path.is_dir():
        raise FileNotFoundError(
            f"the folder {path} has no {WEIGHTS_FILE}: a model folder comes from `mixformerv2 export MODEL FOLDER`, or "
            "with --target onnx beside others"
        )
    if model in PRESETS:
        raise ValueError(
            f"{model} is a preset whose weights do not ship: `mixformerv2 convert` makes them of a published "
            f"checkpoint, `mixformerv2 train` anew; those that ship are {', '.join(shipped) or '(none)'}"
        )
    if isinstance(model, str) and not path.suffix and len(path.parts) == 1:
        raise ValueError(
            f"no model is called {model!r}: the shipped ones are {', '.join(shipped) or '(none)'}, "
            f"and a path to a model folder or a .safetensors file works too"
        )
    raise FileNotFoundError(
        f"no model at {path}: expected a .safetensors file or a folder with {WEIGHTS_FILE}"
    )


def of_fixed_batch(batch: int, targets: int) -> str:
    """What is wrong with graphs that hold a fixed number of targets."""
    return f"this model was exported with --batch {batch}, it does not take {targets} at once: export without --batch"


def check_process(process: int) -> None:
    """Raises ValueError in another process than that which loaded a model: a fork copies no threads, and runtimes would
    wait for theirs for ever.
    """
    if os.getpid() != process:
        raise ValueError(
            "this model was loaded before the process was forked, and its threads are not here: start processes by "
            'the method "spawn"'
        )


def check_graph(graph: Path) -> None:
    """Raises ValueError where the graph points into other weights than those beside it.

    An exported graph holds none: each of its constants is the place of a whole tensor in the weights file.
    """
    constants = {(int(offset), int(length)) for offset, length in _CONSTANT.findall(graph.read_bytes())}
    start, header = _header_of(graph.parent / WEIGHTS_FILE)
    tensors = {
        (start + first, end - first)
        for first, end in (entry["data_offsets"] for name, entry in header.items() if name != "__metadata__")
    }
    if not constants <= tensors:
        raise ValueError(damaged(graph))


def damaged(graph: Path) -> str:
    """The sentence for a graph that a runtime cannot read."""
    return f"{graph} is damaged or does not belong to the weights beside it: export the model again"


def read_config(weights: Path) -> Config:
    """The config that a checkpoint carries, read without torch and without touching the tensors.

    Raises ValueError with one sentence when the file is not a whole checkpoint of ours.
    """
    size = weights.stat().st_size
    try:
        start, header = _header_of(weights)
        text = header.pop("__metadata__")["config"]
        end = start + max(entry["data_offsets"][1] for entry in header.values())
    except (struct.error, ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(
            f"{weights} is not a mixformerv2 checkpoint: `mixformerv2 convert` makes one of a published .pth.tar file"
        ) from None
    if end != size:
        raise ValueError(f"{weights} is cut off: {size} bytes of {end}; copy or download it again")
    try:
        return Config.from_json(text)
    except ValueError as error:
        raise ValueError(f"{weights}: {error}") from None


def _header_of(weights: Path) -> tuple[int, dict[str, Any]]:
    """Where the tensors begin, and what a safetensors file says of them."""
    with weights.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return 8 + length, json.loads(file.read(min(length, weights.stat().st_size)))
