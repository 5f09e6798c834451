"""What this machine can do at best: products of large matrices, and reading memory, measured between the rows.

A network on it takes no less than its FLOPs at that rate, and no less than reading its weights and cache once
(Williams, Waterman and Patterson, "Roofline", 2009).
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from mixformerv2.bench.workload import Workload

SIDES = (512, 1024)  # of the square matrices; the better one counts
GPU_SIDES = (4096, 8192)
_SECONDS_A_ROUND = 0.1


class Peak(NamedTuple):
    """Products of matrices in one runtime."""

    runtime: str
    precision: str
    threads: int


class Read(NamedTuple):
    """Going through so many bytes again and again: those that fit into a cache come from there, as weights do."""

    bytes: int
    threads: int


class Limit(NamedTuple):
    """The least time that a call of a network can take here."""

    arithmetic_ms: float
    memory_ms: float

    @property
    def ms(self) -> float:
        return max(self)


class Roofline:
    """The best rates so far; each ``round`` tries again."""

    def __init__(self, peaks: Iterable[Peak], reads: Iterable[Read], device: str = "cpu") -> None:
        self.flops_per_second: dict[Peak, float] = {}
        self.bytes_per_second: dict[Read, float] = {}
        self._products: list[tuple[Peak, int, Callable[[], object]]] = []
        for peak in dict.fromkeys(peaks):
            for side in SIDES if device == "cpu" else GPU_SIDES:
                call = _product(peak, device, side)
                if call is not None:
                    self._products.append((peak, side, call))
        self._readers = [(read, _reader(read, device)) for read in dict.fromkeys(reads)]

    def round(self) -> None:
        for peak, side, call in self._products:
            rate = 2 * side**3 / _best_seconds(call)
            self.flops_per_second[peak] = max(rate, self.flops_per_second.get(peak, 0.0))
        for read, reader in self._readers:
            rate = read.bytes / _best_seconds(reader)
            self.bytes_per_second[read] = max(rate, self.bytes_per_second.get(read, 0.0))

    def limit(self, workload: Workload, precision: str, threads: int, batch: int = 1) -> Limit | None:
        """By the fastest runtime in that precision; None where none was measured."""
        rates = [
            rate
            for peak, rate in self.flops_per_second.items()
            if (peak.precision, peak.threads) == (precision, threads)
        ]
        if not rates:
            return None
        read = Read(workload.bytes(precision, batch), threads)
        memory = read.bytes / self.bytes_per_second[read]
        return Limit(1000 * batch * workload.flops / max(rates), 1000 * memory)


def _best_seconds(call: Callable[[], object]) -> float:
    best, until = float("inf"), time.perf_counter() + _SECONDS_A_ROUND
    while True:
        began = time.perf_counter()
        call()
        ended = time.perf_counter()
        best = min(best, ended - began)
        if ended > until:
            return best


def _product(peak: Peak, device: str, side: int) -> Callable[[], object] | None:
    """The product of two square matrices; None where the runtime has no such arithmetic."""
    if peak.runtime == "torch":
        from mixformerv2.bench.torch import matrix_product

        return matrix_product(peak.precision, device, peak.threads, side)
    if peak.runtime == "openvino":
        return _openvino_product(peak, side)
    if peak.runtime == "onnxruntime" and importlib.util.find_spec("onnx") is not None:
        return _onnxruntime_product(peak, side)
    return None


def _openvino_product(peak: Peak, side: int) -> Callable[[], object]:
    import openvino as ov
    from openvino import opset13 as op

    from mixformerv2.runtime.openvino import core

    def quantised(values: ov.Output, levels: int) -> ov.Output:
        low, high = (op.constant(np.array([bound], np.float32)) for bound in (-1.0, 1.0))
        return op.fake_quantize(values, low, high, low, high, levels)

    left = op.parameter([side, side], np.float32)
    right = op.constant(np.random.default_rng(0).uniform(-1, 1, (side, side)).astype(np.float32))
    factors = (quantised(left, 256), quantised(right, 255)) if peak.precision == "int8" else (left, right)
    model = ov.Model([op.result(op.matmul(*factors, False, True))], [left], "product")
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32" if peak.precision == "int8" else peak.precision,
        "INFERENCE_NUM_THREADS": peak.threads,
    }
    request = core().compile_model(model, "CPU", options).create_infer_request()
    request.get_input_tensor(0).data[:] = 0.5
    return request.infer


def _onnxruntime_product(peak: Peak, side: int) -> Callable[[], object] | None:
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    kinds = {
        "f32": (np.float32, "MatMul", TensorProto.FLOAT),
        "int8": (np.int8, "MatMulInteger", TensorProto.INT32),
    }
    if peak.precision not in kinds:
        return None
    dtype, operator, result = kinds[peak.precision]
    matrix = np.ones((side, side), dtype)
    graph = helper.make_graph(
        [helper.make_node(operator, ["left", "right"], ["product"])],
        "product",
        [helper.make_tensor_value_info("left", helper.np_dtype_to_tensor_dtype(matrix.dtype), [side, side])],
        [helper.make_tensor_value_info("product", result, [side, side])],
        [numpy_helper.from_array(matrix, "right")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    options = ort.SessionOptions()
    options.intra_op_num_threads = peak.threads
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"left": matrix})


def _reader(read: Read, device: str) -> Callable[[], object]:
    if device != "cpu":
        from mixformerv2.bench.torch import memory_reader

        return memory_reader(read.bytes, device)
    parts = np.array_split(np.ones(max(read.bytes // 8, 1), np.int64), read.threads)
    if read.threads == 1:
        return parts[0].sum
    pool = ThreadPoolExecutor(read.threads)
    return lambda: [*pool.map(np.sum, parts)]
