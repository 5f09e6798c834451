"""What of the benchmark needs torch: networks for the reference path and for presets, a GPU's clock and its limits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mixformerv2.bench.reference import ReferenceBackend
from mixformerv2.config import preset
from mixformerv2.model import checkpoint
from mixformerv2.model.network import build

_DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


def reference_backend(weights: Path, device: str) -> ReferenceBackend:
    network, config = checkpoint.load(weights)
    return ReferenceBackend(network.to(device).eval(), config)


def export_random(name: str, folder: Path) -> None:
    """The preset with random weights, as a model folder."""
    from mixformerv2.runtime.export import export

    config = preset(name)
    weights = folder.with_suffix(".safetensors")
    checkpoint.save(build(config.model, seed=0), config, weights)
    export(weights, folder)
    weights.unlink()


def use_torch_threads(threads: int) -> None:
    torch.set_num_threads(threads)


def matrix_product(precision: str, device: str, threads: int, side: int) -> Callable[[], object] | None:
    """Two square matrices multiplied; None for a precision that torch has no such product in."""
    if precision not in _DTYPES:
        return None
    left, right, product = (torch.ones(side, side, dtype=_DTYPES[precision], device=device) for _ in range(3))

    def multiply() -> None:
        torch.set_num_threads(threads)
        torch.mm(left, right, out=product)
        settle(device)

    return multiply


def memory_reader(num_bytes: int, device: str) -> Callable[[], object]:
    """Goes through so many bytes of the device's memory: half of them read, half written."""
    source, target = (torch.ones(max(num_bytes // 2, 1), dtype=torch.uint8, device=device) for _ in range(2))

    def copy() -> None:
        target.copy_(source)
        settle(device)

    return copy


def settle(device: str) -> None:
    """Waits for what is under way on the device."""
    if device != "cpu":
        torch.cuda.synchronize(device)


def check_gpu(device: str) -> None:
    """Raises ValueError where torch has no such GPU."""
    if not torch.cuda.is_available():
        raise ValueError(
            f"the device {device} needs an NVIDIA GPU and a torch built for CUDA: torch {torch.__version__} sees none"
        )
    index = torch.device(device).index or 0
    if index >= torch.cuda.device_count():
        raise ValueError(
            f"the device {device} is not there: this machine has {torch.cuda.device_count()} GPUs"
        )


def gpu_name(device: str) -> str:
    return torch.cuda.get_device_name(device)


def event_clock(call: Callable[[], Any]) -> float:
    """Seconds of a call on the GPU's own clock, from the first copy in to the last copy out."""
    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    began.record()
    call()
    ended.record()
    ended.synchronize()
    return began.elapsed_time(ended) / 1000


class Profiled(NamedTuple):
    """All calls of one operator, in milliseconds of its own: without the operators it calls."""

    kind: str
    calls: int
    ms: float


def profile(call: Callable[[], object], device: str) -> list[Profiled]:
    """What torch's profiler sees of one call: operators on a CPU, kernels on a GPU."""
    on_gpu = device != "cpu"
    activity = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[activity.CUDA if on_gpu else activity.CPU]) as profiler:
        call()
    found = []
    for event in profiler.key_averages():
        ms = (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1000
        if ms > 0:
            found.append(Profiled(event.key, event.count, ms))
    return found
