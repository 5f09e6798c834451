"""What this machine can run, what ``auto`` takes here and why, and what would be faster."""

from __future__ import annotations

import platform
import shutil
from dataclasses import dataclass
from importlib import import_module

from mixformerv2.bench.machine import version
from mixformerv2.evaluate.execute import usable_cores
from mixformerv2.runtime import compiled, cpu
from mixformerv2.runtime.backend import BACKENDS, shipped_models

PACKAGES = ("mixformerv2", "numpy", "opencv-python-headless", "av", *BACKENDS, "nncf")

# Instruction sets that matter, and how Linux calls them: for 8 and 16 floats at once, then for shorter numbers.
_FLAGS = {
    "avx2": ("avx2",),
    "avx512": ("avx512f",),
    "vnni": ("avx512_vnni", "avx_vnni"),
    "bf16": ("avx512_bf16", "amx_bf16", "bf16"),
    "amx": ("amx_tile",),
}


@dataclass(frozen=True)
class Choice:
    """What ``auto`` takes for a model."""

    model: str
    backend: str
    precision: str
    why: str


@dataclass(frozen=True)
class Diagnosis:
    processor: str
    cores: int  # that this process may use
    instruction_sets: dict[str, bool] | None  # None where the system does not say
    versions: dict[str, str | None]  # None: not installed
    devices: dict[str, list[str]]  # by backend, those installed
    broken: dict[str, str]  # by backend that is installed and cannot be loaded, what it says
    precisions: list[str]  # of OpenVINO on the CPU, widest first
    cache: str | None  # folder of compiled graphs; None: switched off
    choices: list[Choice]
    faster: list[str]  # a sentence each, with the command


def diagnose() -> Diagnosis:
    """Of this machine and this environment. Loads every backend that is installed, torch among them.

    Raises ImportError where OpenVINO itself cannot be loaded.
    """
    from mixformerv2.runtime.openvino import available, choose

    devices, precisions = available()
    instruction_sets = _instruction_sets()
    versions = {"python": platform.python_version()} | {package: version(package) for package in PACKAGES}
    taken = {name: choose(weights.parent, "auto", "CPU")[0] for name, weights in shipped_models().items()}
    choices = [
        Choice(name, "openvino", precision, _why(name, precision)) for name, precision in taken.items()
    ]
    found, broken = {"openvino": devices}, {}
    for backend in ("onnxruntime", "torch"):
        if versions[backend]:
            try:
                found[backend] = import_module(f"mixformerv2.runtime.{backend}").available()
            except ImportError as error:
                broken[backend] = str(error)
    place = compiled.folder()
    return Diagnosis(
        processor=cpu.name(),
        cores=usable_cores(),
        instruction_sets=instruction_sets,
        versions=versions,
        devices=found,
        broken=broken,
        precisions=list(precisions),
        cache=None if place is None else str(place),
        choices=choices,
        faster=_faster(found, instruction_sets),
    )


def _instruction_sets() -> dict[str, bool] | None:
    there = set(cpu.instructions())
    return {name: not there.isdisjoint(called) for name, called in _FLAGS.items()} if there else None


def _why(model: str, precision: str) -> str:
    if precision == "int8":
        reason = "it has a graph in int8, and this CPU has instructions for that"
    elif cpu.is_made_for_int8():
        reason = (
            "its graph in int8 is missing, damaged or of other weights: "
            f"mixformerv2 quantise {model} --calibrate VIDEO --box x,y,w,h --overwrite"
        )
    elif precision != "f32":
        reason = f"this CPU computes in {precision}, in less time than in f32"
    elif cpu.instructions():
        reason = "this CPU has no arithmetic shorter than f32"
    else:
        reason = "this system does not say what else its CPU is made for"
    return f"its graphs are there, and OpenVINO needs no torch; {reason}"


def _faster(devices: dict[str, list[str]], instruction_sets: dict[str, bool] | None) -> list[str]:
    advice = []
    if instruction_sets is None:
        advice = [
            f"{name} in int8, if this CPU has VNNI or AMX: --model {name} --precision int8"
            for name in shipped_models()
        ]
    others = [device for device in devices["openvino"] if device != "CPU"]
    advice += [f"the device {device} of OpenVINO, not measured by us: --device {device}" for device in others]
    if "cuda" in devices.get("torch", ()):
        advice.append("the GPU, for large models and many targets: --backend torch --device cuda")
    elif shutil.which("nvidia-smi"):
        advice.append(
            "the NVIDIA GPU of this machine: install a torch that is built with CUDA "
            "(https://pytorch.org/get-started), then --backend torch --device cuda"
        )
    if compiled.folder() is None:
        advice.append(f"starting, with compiled graphs kept on disk: unset {compiled.VARIABLE}")
    return advice
