"""A tracker that is somebody's Python class: found in a module or a file, made, and looked over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import cv2

from mixformerv2.evaluate.run import AnyTracker
from mixformerv2.plugins import import_module


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
    """The class itself. Raises as ``module_of`` does, and ValueError where it is not in there."""
    module = module_of(target)
    name = target.rpartition(":")[2]
    kind = getattr(module, name, None)
    if not callable(kind):
        there = [key for key, value in vars(module).items() if _tracks(value)]
        others = (
            f"those with init and update are {', '.join(there)}" if there else "nor any with init and update"
        )
        raise ValueError(f"python:{target} cannot be opened: there is no class {name} in it, {others}")
    return kind


def module_of(target: str) -> ModuleType:
    """The module that the class is in. Raises as ``plugins.import_module`` does."""
    return import_module(target, f"python:{target}")


def _tracks(value: Any) -> bool:
    return all(callable(getattr(value, method, None)) for method in ("init", "update"))
