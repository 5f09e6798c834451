"""What a person asks to be measured, and the rows that come of it: models x backends x precisions x threads."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mixformerv2.bench.clip import Clip
from mixformerv2.bench.stages import (
    REFERENCE,
    BatchRow,
    PeerRow,
    Row,
    RowName,
    StampedBackend,
    TargetsRow,
    TrackerRow,
    answer_that_stays,
    use_opencv_threads,
    wall_clock,
)
from mixformerv2.config import PRESETS, Config
from mixformerv2.evaluate.execute import usable_cores
from mixformerv2.evaluate.peers import open_peer
from mixformerv2.evaluate.spec import TrackerSpec
from mixformerv2.runtime.backend import (
    BACKENDS,
    PRECISIONS,
    Backend,
    find_weights,
    open_backend,
    read_config,
    shipped_models,
)

PEERS = ("nano", "vit")
_NEEDED = {
    "a preset with random weights": ("torch", "safetensors", "onnx", "onnxscript"),
    "the reference path": ("torch", "safetensors"),
}


@dataclass(frozen=True)
class BenchConfig:
    """What is measured, and how often. Empty tuples stand for all that is installed and runs here."""

    models: tuple[
        str, ...
    ] = ()  # shipped names, presets, model folders, .safetensors files; empty: what ships
    backends: tuple[str, ...] = ()  # openvino, or openvino:bf16
    threads: tuple[int, ...] = ()  # empty: as many as cores
    device: str = "cpu"
    peers: Path | None = None  # folder with the models of OpenCV's NanoTrack and VitTrack
    batches: tuple[int, ...] = ()  # crops at once, the network alone; empty: none on a CPU, 1 and 64 on a GPU
    targets: int | None = None  # also so many at once, by one MultiTracker and by as many trackers
    clip: Path | None = None  # a video; the shipped one without
    box: tuple[float, ...] | None = None  # x, y, w, h of the target in its first frame
    frames: int = 40  # of the clip, in each round
    rounds: int = 5
    operators: bool = False  # also where the time goes inside each network
    reference: bool = True  # the released code's path beside every model, where torch is there

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"rounds must be at least 1, got {self.rounds}")
        for name in ("threads", "batches"):
            for value in getattr(self, name):
                if value < 1:
                    raise ValueError(f"{name} must be at least 1, got {value}")
        if self.targets is not None and self.targets < 2:
            raise ValueError(f"targets must be at least 2, got {self.targets}")
        for text in self.backends:
            parse_backend(text)


def parse_backend(text: str) -> tuple[str, tuple[str, ...]]:
    """A backend and the precisions to try. Raises ValueError where there is no such thing."""
    backend, colon, precision = text.partition(":")
    if backend not in BACKENDS:
        raise ValueError(f"no backend is called {backend!r}: choose one of {', '.join(BACKENDS)}")
    if not colon:
        return backend, PRECISIONS
    if precision not in PRECISIONS:
        raise ValueError(f"no precision is called {precision!r}: {backend} takes {', '.join(PRECISIONS)}")
    return backend, (precision,)


class Model(NamedTuple):
    """A network that is measured."""

    name: str
    weights: Path
    config: Config
    is_random: bool


@dataclass(frozen=True)
class Plan:
    """The rows, opened and ready."""

    models: dict[str, Model]
    trackers: dict[RowName, Row]
    backends: dict[RowName, Backend]  # of the trackers that are ours
    batches: dict[tuple[RowName, int], Row]
    targets: dict[RowName, TargetsRow]
    left_out: list[str]  # a sentence each

    def rows(self) -> list[Row]:
        return [*self.trackers.values(), *self.batches.values(), *self.targets.values()]


def make_plan(config: BenchConfig, clip: Clip, scratch: Path) -> Plan:
    """Opens everything; graphs of random weights are written to ``scratch``.

    Raises ValueError, ModuleNotFoundError or an OSError with one sentence for what cannot be had.
    """
    if config.device != "cpu":
        _check_gpu(config.device)
    plan, peers = Plan({}, {}, {}, {}, {}, []), _peers(config)
    for text in dict.fromkeys(config.models or shipped_models()):
        model = _find_model(text, scratch)
        if model.name in plan.models:
            raise ValueError(f"two models are called {model.name}: give one of their folders another name")
        plan.models[model.name] = model
        for threads in _threads(config):
            _add_model(plan, model, threads, config, clip)
    plan.trackers.update(peers)
    return plan


def _add_model(plan: Plan, model: Model, threads: int, config: BenchConfig, clip: Clip) -> None:
    answer = answer_that_stays(clip, model.config.tracker.search_factor) if model.is_random else None
    use_threads = thread_setter(threads)
    for backend in _backends(model, config, threads, plan.left_out):
        name = RowName(model.name, backend.name, backend.precision, config.device, threads)
        plan.backends[name] = backend
        stamped = StampedBackend(backend, answer, _settler(config.device))
        plan.trackers[name] = TrackerRow(stamped, use_threads)
        for batch in config.batches or ((1, 64) if config.device != "cpu" else ()):
            plan.batches[name, batch] = BatchRow(backend, batch, _clock(config.device), use_threads)
        if config.targets is not None and backend.name != REFERENCE:
            plan.targets[name] = TargetsRow(stamped, config.targets, use_threads)


def _peers(config: BenchConfig) -> dict[RowName, Row]:
    rows: dict[RowName, Row] = {}
    if config.peers is None:
        return rows
    if not config.peers.is_dir():
        raise FileNotFoundError(f"peers must be a folder with OpenCV's models, got {config.peers}")
    for threads in _threads(config):
        for peer in PEERS:
            tracker = open_peer(peer, {"peers": str(config.peers)})
            name = RowName(f"opencv:{peer}", "opencv", "f32", "cpu", threads)
            rows[name] = PeerRow(tracker, thread_setter(threads))
    return rows


def _threads(config: BenchConfig) -> tuple[int, ...]:
    return tuple(dict.fromkeys(config.threads)) or (usable_cores(),)


def _find_model(text: str, scratch: Path) -> Model:
    """A model with weights, or a preset with random ones."""
    if text in PRESETS and text not in shipped_models():
        _need("a preset with random weights")
        from mixformerv2.bench.torch import export_random

        export_random(text, scratch / text)
        return Model(text, find_weights(scratch / text), PRESETS[text], is_random=True)
    if text not in shipped_models() and not Path(text).exists():
        names = ", ".join(dict.fromkeys([*shipped_models(), *PRESETS]))
        raise ValueError(
            f"no model is called {text!r}: choose one of {names}, a model folder or a .safetensors file"
        )
    weights = find_weights(text)
    return Model(TrackerSpec(text).label, weights, read_config(weights), is_random=False)


def _backends(model: Model, config: BenchConfig, threads: int, left_out: list[str]) -> Iterator[Backend]:
    """The reference path, then every backend and precision that is asked for or runs here."""
    if config.reference and has("the reference path"):
        from mixformerv2.bench.torch import reference_backend

        yield reference_backend(model.weights, config.device)
    for text in dict.fromkeys(config.backends or filter(installed, BACKENDS)):
        backend, precisions = parse_backend(text)
        refused: list[Exception] = []
        for precision in precisions:
            try:
                yield open_backend(model.weights, backend, precision, config.device, threads)
            except (ValueError, FileNotFoundError) as error:
                refused.append(error)
        if len(refused) == len(precisions) and config.backends:
            raise refused[0]
        if len(refused) == len(precisions) and threads == _threads(config)[0]:
            left_out.append(f"{model.name} on {backend}: {refused[0]}")


def installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def has(what: str) -> bool:
    """Are the packages there that it needs?"""
    return all(map(installed, _NEEDED[what]))


def _need(what: str) -> None:
    if not has(what):
        missing = next(package for package in _NEEDED[what] if not installed(package))
        raise ModuleNotFoundError(f"{what} needs the package {missing}: pip install 'mixformerv2[train]'")


def thread_setter(threads: int) -> Callable[[], None]:
    """Sets, before a row's turn, the numbers of threads that go for the whole process."""
    if not has("the reference path"):
        return lambda: use_opencv_threads(threads)
    from mixformerv2.bench.torch import use_torch_threads

    def use_threads() -> None:
        use_opencv_threads(threads)
        use_torch_threads(threads)

    return use_threads


def _check_gpu(device: str) -> None:
    if not re.fullmatch(r"cuda(:\d+)?", device):
        raise ValueError(f"the device is cpu, cuda or cuda:N, got {device!r}")
    if not has("the reference path"):
        raise ModuleNotFoundError(
            f"the device {device} needs the package torch: pip install 'mixformerv2[train]'"
        )
    from mixformerv2.bench.torch import check_gpu

    check_gpu(device)


def _settler(device: str) -> Callable[[], None]:
    if device == "cpu":
        return lambda: None
    from mixformerv2.bench.torch import settle

    return lambda: settle(device)


def _clock(device: str) -> Callable[[Callable[[], Any]], float]:
    if device == "cpu":
        return wall_clock
    from mixformerv2.bench.torch import event_clock

    return event_clock
