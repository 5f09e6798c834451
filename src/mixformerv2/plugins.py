"""Python of the user's own, in a module or a file that no package knows."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any


def import_module(target: str, called: str) -> ModuleType:
    """The module of ``module:name`` or ``path/file.py:name``; modules beside that file, or here, are found as well.

    Raises FileNotFoundError, or ValueError or ModuleNotFoundError where the import fails, about what is ``called`` so.
    """
    place = target.rpartition(":")[0]
    path = Path(place).resolve() if place.endswith(".py") else None
    if path is not None and not path.is_file():
        raise FileNotFoundError(f"{called} cannot be opened: there is no file {place}")
    folder = os.getcwd() if path is None else str(path.parent)
    if folder not in sys.path:
        sys.path.append(folder)  # last: nothing that is installed is hidden by it
    try:
        return importlib.import_module(place) if path is None else _load(path)
    except (Exception, SystemExit) as error:  # whatever a stranger's module raises
        kind = ModuleNotFoundError if isinstance(error, ModuleNotFoundError) else ValueError
        raise kind(f"{called} cannot be imported: {type(error).__name__}: {error}") from error


def find_function(target: str, called: str) -> Callable[..., Any]:
    """The function ``module:name`` or ``path/file.py:name``. Raises as ``import_module`` does, and ValueError where it
    is not in there, with the names of those that are.
    """
    place, _, name = target.rpartition(":")
    if not (place and name):
        raise ValueError(f"{called} must be named as FILE.py:FUNCTION or module:FUNCTION")
    module = import_module(target, called)
    function = getattr(module, name, None)
    if callable(function):
        return function
    own = [
        key
        for key, value in vars(module).items()
        if callable(value) and getattr(value, "__module__", "") == module.__name__
    ]
    raise ValueError(
        f"{called} is not there: {place} has no function {name}, those in it are {', '.join(own) or '(none)'}"
    )


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
