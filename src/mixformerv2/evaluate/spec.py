"""Which tracker is meant, in one line of text and some options, and how it is opened and described.

- ``tiny``, a folder made by ``mixformerv2 export`` or a ``.safetensors`` checkpoint: our own tracker;
- ``opencv:nano`` and the like: OpenCV's (`mixformerv2.evaluate.peers`);
- ``python:module:Class`` or ``python:path/file.py:Class``: any object with ``init(frame, box)`` and ``update(frame)``;
- ``command:CMD ARGS``: a program that speaks the protocol of `mixformerv2.evaluate.command`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import math
import os
import platform
import shutil
import sys
import typing
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from mixformerv2.config import TrackerConfig
from mixformerv2.evaluate.command import CommandTracker, split
from mixformerv2.evaluate.peers import PEERS, class_of_peer, model_files, open_peer
from mixformerv2.evaluate.python_class import class_of, module_of, open_class
from mixformerv2.evaluate.run import AnyTracker
from mixformerv2.runtime.backend import (
    BACKENDS,
    PRECISIONS,
    WEIGHTS_FILE,
    files_of_graphs,
    find_weights,
    open_backend,
    shipped_models,
)
from mixformerv2.tracker import Tracker

CONFIG_TYPES: dict[str, type] = typing.get_type_hints(TrackerConfig)
_MODEL_TYPES: dict[str, type] = {"backend": str, "precision": str, "device": str, **CONFIG_TYPES}
_COMMAND_TYPES: dict[str, type] = {"answer_s": float, "start_s": float}
_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True)
class TrackerSpec:
    """A tracker that can be opened, in this process or in another one; ``parse`` makes checked ones."""

    text: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """``model``, ``opencv``, ``python`` or ``command``."""
        head = self.text.partition(":")[0]
        return head if head in ("opencv", "python", "command") else "model"

    @property
    def target(self) -> str:
        """The text without its kind: the model, OpenCV's name, ``module:Class`` or the command."""
        return self.text if self.kind == "model" else self.text.partition(":")[2]

    @property
    def label(self) -> str:
        """A short name for tables; options that change what is measured are part of it."""
        if self.kind == "model":
            path = Path(os.path.abspath(self.text))
            path = path.parent if path.name == WEIGHTS_FILE else path
            name = path.stem if path.suffix == ".safetensors" else path.name
        elif self.kind == "opencv":
            name = self.text
        elif self.kind == "python":
            name = self.target.rpartition(":")[2]
        else:
            name = " ".join(Path(word).name for word in split(self.target))[:40]
        silent = {
            "opencv": {"threads", "peers", *(PEERS[self.target].files if self.target in PEERS else ())},
            "command": {"threads", *_COMMAND_TYPES},
        }.get(self.kind, {"threads"})
        told = [f"{key}={value}" for key, value in sorted(self.options.items()) if key not in silent]
        return f"{name} ({', '.join(told)})" if told else name


def parse(text: str, options: Mapping[str, Any] | None = None) -> TrackerSpec:
    """The tracker that is meant by a person. Values may be text, as in KEY=VALUE on a command line.

    ``threads`` goes for every kind. Our own take ``backend``, ``precision``, ``device`` and the fields of
    ``TrackerConfig``; OpenCV's their model files, or the folder ``peers``; a command ``answer_s`` and ``start_s``,
    its time limits in seconds. What a Python class takes is not known here: text that is a JSON number, ``true``,
    ``false`` or ``null`` is passed as that value.
    Raises ValueError or FileNotFoundError, with what there is, for a name or an option that is not.
    """
    spec = TrackerSpec(text)
    given = {key: value for key, value in (options or {}).items() if value is not None}
    types = {**_option_types(spec, given), "threads": int}
    for key in given:
        if key not in types:
            raise ValueError(
                f"the tracker {text} has no option {key!r}: choose among {', '.join(sorted(types))}"
            )
    values = {key: _as(types[key], key, value) for key, value in given.items()}
    for key in ("threads", *(_COMMAND_TYPES if spec.kind == "command" else ())):
        if values.get(key, 1) <= 0:
            raise ValueError(f"the option {key} must be positive, got {values[key]}")
    if spec.kind == "model":
        _check_choice("backend", values, BACKENDS)
        _check_choice("precision", values, PRECISIONS)
        TrackerConfig(**_overrides(values))  # checks them
    return TrackerSpec(text, values)


def open_tracker(spec: TrackerSpec) -> AnyTracker:
    """The tracker, its models loaded, its program running.

    A tracker with a ``close`` wants it called in the end. Raises ValueError, ModuleNotFoundError or an OSError with
    one sentence where it cannot be opened.
    """
    threads = spec.options.get("threads")
    if spec.kind == "opencv":
        return open_peer(spec.target, spec.options)
    if spec.kind == "python":
        return open_class(
            spec.target, {key: spec.options[key] for key in spec.options if key != "threads"}, threads
        )
    if spec.kind == "command":
        limits = {key: spec.options[key] for key in _COMMAND_TYPES if key in spec.options}
        tracker = CommandTracker(spec.target, threads, **limits)
        tracker.start()
        return tracker
    chosen = {key: spec.options.get(key, "auto") for key in ("backend", "precision", "device")}
    backend = open_backend(spec.target, threads=threads, **chosen)
    config = dataclasses.replace(backend.config.tracker, **_overrides(spec.options))
    return Tracker(backend=backend, config=config)


def describe(spec: TrackerSpec) -> dict[str, Any]:
    """Everything that the tracker's results depend on, ready for JSON; the same again for the same tracker.

    Of a class or a program that is not ours only what can be seen from here: the files that are named, and modules that
    lie beside the class and lend it something.
    Opens our own tracker, whose precision and runtime may be left to the machine; raises as ``open_tracker`` does.
    """
    about: dict[str, Any] = {"text": spec.text, "options": dict(sorted(spec.options.items()))}
    packages = ["mixformerv2", "numpy", "cv2"]
    if spec.kind == "model":
        tracker = typing.cast(Tracker, open_tracker(spec))
        backend = tracker.backend
        about |= {"backend": backend.name, "precision": backend.precision}
        about["config"] = dataclasses.asdict(dataclasses.replace(backend.config, tracker=tracker.config))
        weights = find_weights(spec.target)
        graphs = () if backend.name == "torch" else files_of_graphs(backend.precision)
        files = {weights.name: weights} | {name: weights.parent / name for name in graphs}
        packages.append(backend.name)
    elif spec.kind == "opencv":
        class_of_peer(spec.target)
        files = model_files(spec.target, spec.options)
    elif spec.kind == "python":
        class_of(spec.target)
        module = module_of(spec.target)
        files = _modules_beside(module) if getattr(module, "__file__", None) else {}
        given = [value for value in spec.options.values() if isinstance(value, str)]
        files |= {value: Path(value) for value in given if Path(value).is_file()}
    else:
        program, *words = split(spec.target)
        named = [word.rpartition("=")[2] for word in words]
        files = {word: Path(word) for word in named if Path(word).is_file()}
        files[program] = Path(shutil.which(program) or program)
        packages = ["mixformerv2"]
    about["sha256"] = {name: _sha256(path) for name, path in files.items()}
    about["versions"] = {name: str(importlib.import_module(name).__version__) for name in packages}
    about["versions"]["python"] = platform.python_version()
    described: dict[str, Any] = json.loads(json.dumps(about, default=str))
    return described


def _modules_beside(first: ModuleType) -> dict[str, Path]:
    """The file of a module, and of those in its folder, or below, from which it has modules, classes or functions."""
    found: dict[str, Path] = {}
    folder, waiting = Path(str(first.__file__)).resolve().parent, [first]
    while waiting:
        module = waiting.pop()
        file = Path(str(getattr(module, "__file__", None))).resolve()
        if not file.is_file() or not file.is_relative_to(folder) or file in found.values():
            continue
        found[str(file.relative_to(folder))] = file
        for value in vars(module).values():
            of = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
            if isinstance(of, str) and of in sys.modules:
                waiting.append(sys.modules[of])
    return found


def settled(spec: TrackerSpec, described: Mapping[str, Any], *options: str) -> TrackerSpec:
    """The same tracker, these options as ``describe`` found them: what is left to the machine others may choose
    otherwise. Trackers that are not our own have no such options.
    """
    found = {option: described[option] for option in options if option in described}
    return dataclasses.replace(spec, options={**spec.options, **found})


def _option_types(spec: TrackerSpec, given: Mapping[str, Any]) -> Mapping[str, type]:
    """What each option must be, all but ``threads``. Raises as ``parse`` does where the tracker is unknown."""
    if spec.kind == "opencv":
        if spec.target not in PEERS:
            there = ", ".join(f"opencv:{name}" for name in PEERS)
            raise ValueError(f"OpenCV has no tracker {spec.target!r} here: choose one of {there}")
        files = PEERS[spec.target].files
        return dict.fromkeys([*files, *(["peers"] if files else [])], str)
    if spec.kind == "python":
        if not all(spec.target.rpartition(":")[::2]):
            raise ValueError(
                f"a Python tracker is python:module:Class or python:path/file.py:Class, got {spec.text!r}"
            )
        return dict.fromkeys(given, object)
    if spec.kind == "command":
        split(spec.target)
        return _COMMAND_TYPES
    _check_model(spec.text)
    return _MODEL_TYPES


def _check_model(text: str) -> None:
    if not text or (text not in shipped_models() and not os.path.exists(text)):
        others = [*(f"opencv:{name}" for name in PEERS), "python:MODULE:CLASS", "command:CMD ARGS"]
        raise ValueError(
            f"no tracker is called {text!r}: choose {', '.join(shipped_models())}, "
            f"a path to a model folder or a .safetensors file, {', '.join(others)}"
        )
    find_weights(text)


def _check_choice(key: str, values: Mapping[str, Any], there: tuple[str, ...]) -> None:
    if values.get(key, "auto") not in ("auto", *there):
        raise ValueError(f"{key} must be one of auto, {', '.join(there)}, got {values[key]!r}")


def _overrides(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key in CONFIG_TYPES}


def _as(kind: type, key: str, value: Any) -> Any:
    """A value of an option, from text too, as what it must be."""
    text = value.strip() if isinstance(value, str) else value
    if kind is object:
        return _literal(value) if isinstance(value, str) else value
    if kind is bool:
        if isinstance(text, bool) or (isinstance(text, str) and text.lower() in _TRUTH):
            return text if isinstance(text, bool) else _TRUTH[text.lower()]
    elif kind is str:
        if isinstance(value, str | os.PathLike) and str(value):
            return str(value)
    elif not isinstance(text, bool) and isinstance(text, str | int | float):
        with suppress(ValueError, OverflowError):
            number = kind(text)
            if math.isfinite(number) and (isinstance(text, str) or number == text):
                return number
    names = {bool: "true or false", int: "a whole number", float: "a finite number", str: "text"}
    raise ValueError(f"the option {key} must be {names[kind]}, got {value!r}")


def _literal(text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if value is None or isinstance(value, bool | int | float) else text


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
