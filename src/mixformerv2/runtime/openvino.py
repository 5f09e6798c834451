"""OpenVINO: the default runtime, on any x86 or Arm CPU and Intel's accelerators."""

from __future__ import annotations

import functools
import io
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import openvino as ov
from jaxtyping import UInt8

from mixformerv2.runtime import compiled, cpu
from mixformerv2.runtime.backend import (
    ENCODE_GRAPH,
    INT8_GRAPH,
    INT8_WEIGHTS,
    SEARCH_GRAPH,
    WEIGHTS_FILE,
    Located,
    check_graph,
    check_process,
    damaged,
    files_of_graphs,
    of_fixed_batch,
    read_config,
)

MADE_OF = ["mixformerv2", "made_of"]  # where an int8 graph holds the digest of what it was made of

# OpenVINO fills its tables of dtypes at their first use, and two threads that come first together wait for each
# other for ever. A module is imported by one thread: here they are filled, in both directions.
_ = ov.Tensor(np.zeros(1, np.uint8)).data

# As OpenVINO calls what a device can do.
_CAPABILITIES = {"f32": "FP32", "bf16": "BF16", "f16": "FP16", "int8": "INT8"}

# What a graph is compiled for: the shortest answer about one target, or the most answers about many.
_ONE, _MANY = "LATENCY", "THROUGHPUT"


class _Templates(NamedTuple):
    """The keys and values of one target, and the requests that read them, by what they were compiled for."""

    keys_values: list[ov.Tensor]
    requests: dict[str, ov.InferRequest]


_making_core = Lock()


def core() -> ov.Core:
    """The one of this process, which lives as long.

    A core gives the main thread another stack for signals and takes it back at its end. Of two that overlap, the second
    gives back what the first has freed, and the next signal, Ctrl-C among them, is a segmentation fault (2026.4).
    """
    with _making_core:
        return _the_core()


@functools.cache
def _the_core() -> ov.Core:
    return ov.Core()


def precisions(device: str) -> tuple[str, ...]:
    """In which precisions a device computes, widest first; int8 also where it has no instructions made for it."""
    there = core().get_property(device, "OPTIMIZATION_CAPABILITIES")
    return tuple(name for name, capability in _CAPABILITIES.items() if capability in there)


def available() -> tuple[list[str], tuple[str, ...]]:
    """OpenVINO's devices here, and the precisions of the CPU."""
    return list(core().available_devices), precisions("CPU")


def choose(folder: Path, precision: str, device: str) -> tuple[str, ov.Model | None]:
    """The precision of a model, and its int8 graph where it is that one.

    ``auto`` is the fastest: int8 where the processor is made for it and the folder has that graph, whole and made of
    what lies beside it. Raises ValueError or FileNotFoundError for one that the device or the folder does not have.
    """
    if precision == "auto":
        is_made_for_int8 = device == "CPU" and cpu.is_made_for_int8()
        int8 = _int8_graph(folder) if is_made_for_int8 else None
        return (fastest_floating(device), None) if int8 is None else ("int8", int8)
    there = precisions(device)
    if precision not in there:
        raise ValueError(
            f"this device has no {precision} arithmetic: choose precision {', '.join(there)}, or auto"
        )
    if precision != "int8":
        return precision, None
    int8 = _int8_graph(folder)
    if int8 is None:
        if not (folder / INT8_GRAPH).is_file():
            raise FileNotFoundError(
                f"{folder} has no graph in int8: make one with `mixformerv2 quantise {folder} --calibrate VIDEO`, or "
                "choose another precision"
            )
        raise ValueError(_unfit_int8(folder))
    return "int8", int8


def _unfit_int8(folder: Path) -> str:
    return (
        f"{folder / INT8_GRAPH} is damaged, or was made of other weights or graphs than those beside it: make it anew "
        f"with `mixformerv2 quantise {folder} --calibrate VIDEO --overwrite`"
    )


def fastest_floating(device: str) -> str:
    """The shortest floating point that the device computes in."""
    return next((name for name in ("bf16", "f16") if name in precisions(device)), "f32")


def floating_precision(precision: str, device: str) -> str:
    """In which everything is computed that is not in int8."""
    return fastest_floating(device) if precision == "int8" else precision


def digest_of_source(folder: Path) -> str:
    """Of the files that an int8 graph is made of, and works beside."""
    return compiled.digest(folder / file for file in (WEIGHTS_FILE, ENCODE_GRAPH, SEARCH_GRAPH))


def _int8_graph(folder: Path) -> ov.Model | None:
    """None where there is none that can be read, or it was made of other files."""
    if not all((folder / file).is_file() for file in (INT8_GRAPH, INT8_WEIGHTS)):
        return None
    try:
        graph = core().read_model(folder / INT8_GRAPH)
    except RuntimeError:
        return None
    made_of = graph.get_rt_info(MADE_OF).value if graph.has_rt_info(MADE_OF) else None
    return graph if made_of == digest_of_source(folder) else None


class OpenVINOBackend:
    """The two graphs, compiled for each number of templates when it is first seen.

    Many targets are no batch here but as many requests at once, spread over streams of few threads: that needs no
    compiling for every number of targets, copies no caches, and is about as fast (docs/many-targets.md).

    In int8 the search graph is the one that ``mixformerv2 quantise`` made; templates are encoded in the shortest
    floating point there is, and so is what the search graph leaves in it.
    """

    name = "openvino"

    def __init__(self, folder: Path, precision: str, device: str, threads: int | None) -> None:
        self.config = read_config(folder / WEIGHTS_FILE)
        self._core = core()
        self._device = "CPU" if device == "auto" else device.upper()
        if self._device not in self._core.available_devices:
            devices = ", ".join(self._core.available_devices)
            raise ValueError(f"OpenVINO has no device {device!r} here: choose one of {devices}")
        self.precision, int8 = choose(folder, precision, self._device)
        could = precision == "auto" and self._device == "CPU" and cpu.is_made_for_int8()
        if could and int8 is None and (folder / INT8_GRAPH).is_file():
            warnings.warn(f"{_unfit_int8(folder)}; meanwhile it runs in {self.precision}", stacklevel=2)
        floating = floating_precision(self.precision, self._device)
        self._options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": floating}
        if threads is not None and self._device == "CPU":
            self._options["INFERENCE_NUM_THREADS"] = threads
        encoder = self._read(folder / ENCODE_GRAPH)
        searcher = int8 or self._read(folder / SEARCH_GRAPH)
        self._files = [folder / file for file in (WEIGHTS_FILE, *files_of_graphs(self.precision))]
        self._source = compiled.digest(self._files)
        if floating == "bf16":  # else every search would convert keys and values anew
            encoder, searcher = _of_bf16_cache(encoder), search_of_bf16_cache(searcher)
        self._graphs = {ENCODE_GRAPH: encoder, SEARCH_GRAPH: searcher}
        self._compiled: dict[Any, ov.CompiledModel] = {}
        self._compiling = Lock()
        self._process = os.getpid()

    def _check_files(self) -> None:
        """What was compiled of files that changed meanwhile must not be taken for what they hold now."""
        try:
            changed = compiled.digest(self._files) != self._source
        except OSError:  # gone, as a folder for the time being
            return
        if changed:
            raise ValueError(f"{self._files[0].parent} has changed since it was opened: open the model again")

    def _read(self, graph: Path) -> ov.Model:
        check_graph(graph)
        try:
            model = self._core.read_model(graph)
        except RuntimeError:
            raise ValueError(damaged(graph)) from None
        targets = model.inputs[0].partial_shape[0]
        if targets.is_static and targets.get_length() != 1:
            raise ValueError(of_fixed_batch(targets.get_length(), 1))
        return model

    def encode_templates(
        self, template: UInt8[np.ndarray, "b side side 3"], online: UInt8[np.ndarray, "b online side side 3"]
    ) -> list[_Templates]:
        check_process(self._process)
        encoded = []
        for one, several in zip(template[:, None], online[:, None], strict=True):
            shapes = {"template": one.shape, "online": several.shape}
            # A request of its own: its answer is kept where it lies.
            request = self._compile(ENCODE_GRAPH, _ONE, shapes).create_infer_request()
            request.infer({"template": one, "online": several}, share_inputs=True)
            encoded.append(_Templates(list(request.output_tensors), {}))
        return encoded

    def stack(self, caches: Sequence[list[_Templates]]) -> list[_Templates]:
        return [templates for cache in caches for templates in cache]

    def search(self, crop: UInt8[np.ndarray, "b side side 3"], cache: list[_Templates]) -> Located:
        check_process(self._process)
        goal = _ONE if len(cache) == 1 else _MANY
        requests = [self._request(templates, goal) for templates in cache]
        for request, pixels in zip(requests, crop, strict=True):
            request.get_input_tensor(0).data[0] = pixels
            request.start_async()
        for request in requests:
            request.wait()
        answers = [[request.get_output_tensor(index).data for request in requests] for index in (0, 1)]
        return Located(*map(np.concatenate, answers))

    def _request(self, templates: _Templates, goal: str) -> ov.InferRequest:
        if goal not in templates.requests:
            side, keys_values = self.config.model.search_px, templates.keys_values
            names = [port.any_name for port in self._graphs[SEARCH_GRAPH].inputs]
            shapes = [(1, side, side, 3), *(tuple(t.shape) for t in keys_values)]
            model = self._compile(SEARCH_GRAPH, goal, dict(zip(names, shapes, strict=True)))
            request = templates.requests[goal] = model.create_infer_request()
            for index, tensor in enumerate(keys_values, start=1):
                request.set_input_tensor(index, tensor)
        return templates.requests[goal]

    def _compile(self, graph: str, goal: str, shapes: dict[str, tuple[int, ...]]) -> ov.CompiledModel:
        key = (graph, goal, *shapes.values())
        with self._compiling:
            if key not in self._compiled:
                fixed = self._graphs[graph].clone()
                fixed.reshape({name: list(shape) for name, shape in shapes.items()})
                options = self._options | {"PERFORMANCE_HINT": goal}
                self._compiled[key] = self._restore_or_compile(fixed, options, call=graph, shapes=shapes)
            return self._compiled[key]

    def _restore_or_compile(self, graph: ov.Model, options: dict[str, Any], **about: Any) -> ov.CompiledModel:
        if (
            self._device != "CPU" or compiled.folder() is None
        ):  # few other devices hand out what they compiled
            return self._core.compile_model(graph, self._device, options)
        processor = self._core.get_property(self._device, "FULL_DEVICE_NAME")
        able = precisions(self._device)
        # As made ready here, which another version of this package may do otherwise.
        ports = [port.get_element_type().get_type_name() for port in (*graph.inputs, *graph.outputs)]
        name = compiled.name(
            **about,
            options=options,
            ports=ports,
            openvino=ov.__version__,
            on=[processor, *able],
            source=self._source,
        )
        kept = compiled.load(name)
        if kept is not None:
            try:
                return self._core.import_model(io.BytesIO(kept), self._device, options)
            except RuntimeError:  # of a build of OpenVINO that only calls itself the same
                compiled.remove(name)
        model = self._core.compile_model(graph, self._device, options)
        self._check_files()
        content = io.BytesIO()
        model.export_model(content)
        compiled.save(name, content.getvalue())
        return model


def search_of_bf16_cache(searcher: ov.Model) -> ov.Model:
    """The search graph, given the templates' keys and values as arithmetic in bf16 wants them."""
    made = ov.preprocess.PrePostProcessor(searcher)
    for port in searcher.inputs[1:]:
        made.input(port.any_name).tensor().set_element_type(ov.Type.bf16)
    return made.build()


def _of_bf16_cache(encoder: ov.Model) -> ov.Model:
    """The encoder, giving them so."""
    made = ov.preprocess.PrePostProcessor(encoder)
    for port in encoder.outputs:
        made.output(port.any_name).tensor().set_element_type(ov.Type.bf16)
    return made.build()
