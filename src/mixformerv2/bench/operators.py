"""Where the time goes inside a network: milliseconds of a frame by kind of operator, as the runtime itself counts them.

OpenVINO and ONNX Runtime count only in a graph that was loaded for counting, so the exported one is loaded once more.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mixformerv2.bench.stages import RowName, noise
from mixformerv2.config import ModelConfig
from mixformerv2.runtime.backend import Backend, search_graph

WARM_UP, PASSES = 3, 20


class Operator(NamedTuple):
    """All operators of one kind in one pass."""

    kind: str
    kernel: str  # what the runtime runs it with; empty where it does not say
    calls: int
    ms: float


class Event(NamedTuple):
    """One node in one pass."""

    node: str
    kind: str
    kernel: str
    calls: int
    ms: float


def operators(name: RowName, backend: Backend, weights: Path) -> list[Operator]:
    """The slowest kind first: the sum over its nodes of their median times."""
    graph = weights.parent / search_graph(backend.precision)
    templates = 1 + backend.config.tracker.online_templates
    if name.backend == "openvino":
        return by_kind(_openvino_events(name, backend, graph))
    if name.backend == "onnxruntime":
        return by_kind(_onnxruntime_events(name, backend.config.model, templates, graph))
    return by_kind(_torch_events(name, backend))


def by_kind(events: Iterable[Event]) -> list[Operator]:
    """The first WARM_UP events of every node do not count."""
    of_node: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        of_node[event.node].append(event)
    calls: dict[tuple[str, str], int] = defaultdict(int)
    ms: dict[tuple[str, str], float] = defaultdict(float)
    for same in of_node.values():
        key = same[0].kind, same[0].kernel
        calls[key] += same[0].calls
        ms[key] += float(np.median([event.ms for event in same[WARM_UP:] or same]))
    found = [Operator(*key, calls[key], ms[key]) for key in ms]
    return sorted(found, key=lambda operator: -operator.ms)


def _openvino_events(name: RowName, backend: Backend, graph: Path) -> Iterator[Event]:
    import openvino as ov

    from mixformerv2.runtime.openvino import core, floating_precision, search_of_bf16_cache

    model, floating = core().read_model(graph), floating_precision(name.precision, "CPU")
    if floating == "bf16":
        model = search_of_bf16_cache(model)
    # As long as numbers that are none or huge lie there, operators take several times as long.
    template, online, crop = noise(backend.config)
    (templates,) = backend.encode_templates(template, online)
    tensors = [ov.Tensor(crop), *templates.keys_values]
    model.reshape(
        {port.any_name: list(tensor.shape) for port, tensor in zip(model.inputs, tensors, strict=True)}
    )
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": floating,
        "INFERENCE_NUM_THREADS": name.threads,
        "PERF_COUNT": True,
    }
    request = core().compile_model(model, "CPU", options).create_infer_request()
    for index, tensor in enumerate(tensors):
        request.set_input_tensor(index, tensor)
    for _ in range(WARM_UP + PASSES):
        request.infer()
        for node in request.profiling_info:
            if node.status == ov.ProfilingInfo.Status.EXECUTED:
                ms = 1000 * node.real_time.total_seconds()
                yield Event(node.node_name, node.node_type, node.exec_type, 1, ms)


def _onnxruntime_events(name: RowName, sizes: ModelConfig, templates: int, graph: Path) -> Iterator[Event]:
    import onnxruntime as ort

    with tempfile.TemporaryDirectory() as scratch:
        options = ort.SessionOptions()
        options.enable_profiling, options.profile_file_prefix = True, str(Path(scratch) / "profile")
        options.intra_op_num_threads, options.log_severity_level = name.threads, 3
        session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        feed = {}
        for entry in session.get_inputs():
            dtype = np.uint8 if entry.type == "tensor(uint8)" else np.float32
            known = [size if isinstance(size, int) else None for size in entry.shape]
            feed[entry.name] = np.zeros(_shape(known, sizes, templates), dtype)
        for _ in range(WARM_UP + PASSES):
            session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text())
    for event in events:
        if (
            event.get("cat") == "Node"
            and "op_name" in event["args"]
            and event["name"].endswith("_kernel_time")
        ):
            yield Event(event["name"], event["args"]["op_name"], "", 1, event["dur"] / 1000)


def _shape(known: Sequence[int | None], sizes: ModelConfig, templates: int) -> list[int]:
    """One crop; an open axis other than the batch counts the templates' tokens."""
    tokens = templates * sizes.template_grid**2
    return [1 if axis == 0 else tokens if size is None else size for axis, size in enumerate(known)]


def _torch_events(name: RowName, backend: Backend) -> Iterator[Event]:
    from mixformerv2.bench.torch import profile, use_torch_threads

    use_torch_threads(name.threads)
    template, online, crop = noise(backend.config)
    cache = backend.encode_templates(template, online)
    for _ in range(WARM_UP + PASSES):
        for kind, calls, ms in profile(lambda: backend.search(crop, cache), name.device):
            yield Event(kind, kind, "", calls, ms)
