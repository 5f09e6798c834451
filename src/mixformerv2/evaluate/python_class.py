"""A tracker that is somebody's Python class: found in a module or a file, made, and looked over."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2

from mixformerv2.evaluate.run import AnyTracker


def open_class(target: str, options: Mapping[str, Any], threads: int | None = None) -> AnyTracker:
    """The object that the class ``module:Class`` or ``path/file.py:Class`` makes of the options as keywords.

    Raises ValueError where there is no such class, it cannot be made, or it lacks ``init`` or ``update``.
    """
    kind = class_of(target)
    if threads is not None:
        cv2.setNumThreads(threads)
    try:
        tracker: AnyTracker = kind(**options)
    except (Exception, SystemExit) as error:  # whatever a stranger's class raises
        given = f" with the options {', '.join(options)}" if options else ""
        raise ValueError(f"python:{target} cannot be made{given}: {type(error).__name__}: {error}") from error
    if not _tracks(tracker):
        raise ValueError(f"python:{target} must have the methods init(frame, box) and update(frame)")
    return tracker


def class_of(target: str) -> Callable[..., Any]:
    """The class itself. Raises as ``import_module`` does, and ValueError where it is not in there."""
    module = import_module(target)
    name = target.rpartition(":")[2]
    kind = getattr(module, name, None)
    if not callable(kind):
        there = [key for key, value in vars(module).items() if _tracks(value)]
        others = (
            f"those with init and update are {', '.join(there)}" if there else "nor any with init and update"
        )
        raise ValueError(f"python:{target} cannot be opened: there is no class {name} in it, {others}")
    return kind


def import_module(target: str) -> ModuleType:
    """The module of ``module:Class`` or ``path/file.py:Class``; modules beside that file, or here, are found as well.

    Raises FileNotFoundError, or ValueError or ModuleNotFoundError where the import fails.
    """
    place = target.rpartition(":")[0]
    path = Path(place).resolve() if place.endswith(".py") else None
    if path is not None and not path.is_file():
        raise FileNotFoundError(f"python:{target} cannot be opened: there is no file {place}")
    folder = os.getcwd() if path is None else str(path.parent)
    if folder not in sys.path:
        sys.path.append(folder)  # last: nothing that is installed is hidden by it
    try:
        return importlib.import_module(place) if path is None else _load(path)
    except (Exception, SystemExit) as error:  # whatever a stranger's module raises
        kind = ModuleNotFoundError if isinstance(error, ModuleNotFoundError) else ValueError
        raise kind(f"python:{target} cannot be imported: {type(error).__name__}: {error}") from error


def _load(path: Path) -> ModuleType:
    # A name of its own: another file of this name may be loaded, or a package be called so.
    name = f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name not in sys.modules:
        found = importlib.util.spec_from_file_location(name, path)
        assert found is not None and found.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(found)  # first: dataclasses look there
        try:
            found.loader.exec_module(sys.modules[name])
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def _tracks(value: Any) -> bool:
    return all(callable(getattr(value, method, None)) for method in ("init", "update"))
