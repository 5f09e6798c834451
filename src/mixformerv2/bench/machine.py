"""The machine a benchmark was run on, in words and versions."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
from collections.abc import Iterable
from typing import Any

from mixformerv2.evaluate.execute import usable_cores
from mixformerv2.runtime import cpu

_PACKAGES = {"openvino": "openvino", "onnxruntime": "onnxruntime", "torch": "torch", "reference": "torch"}


def load_average() -> float | None:
    """Of the last minute; None where the system does not say."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def describe_machine(device: str, backends: Iterable[str], load_before: float | None) -> dict[str, Any]:
    """What figures depend on, ready for JSON."""
    packages = ["mixformerv2", *sorted({_PACKAGES[name] for name in backends if name in _PACKAGES}), "numpy"]
    versions = {"python": platform.python_version()}
    versions |= {package: version(package) or "not installed" for package in packages}
    import cv2

    return {
        "processor": cpu.name(),
        "features": list(cpu.instructions()),
        "cores": usable_cores(),
        "load_before": load_before,
        "gpu": _gpu(device),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "versions": versions | {"opencv": cv2.__version__},
    }


def version(package: str) -> str | None:
    """None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        # Built from source, or under another name such as onnxruntime-gpu.
        return "of unknown version" if importlib.util.find_spec(package.replace("-", "_")) else None


def _gpu(device: str) -> str | None:
    if device == "cpu":
        return None
    from mixformerv2.bench.torch import gpu_name

    return gpu_name(device)
