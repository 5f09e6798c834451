"""MixFormerV2: efficient fully transformer tracking.

``Tracker`` follows one object, ``MultiTracker`` many at once; ``track`` goes through a whole video; ``Result`` is what
they say of a frame.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mixformerv2.multitracker import MultiTracker
    from mixformerv2.results import Result
    from mixformerv2.tracker import Tracker, track

__version__ = "0.1.0"
__all__ = ["MultiTracker", "Result", "Tracker", "track"]

_HOMES = {"MultiTracker": "multitracker", "Result": "results", "Tracker": "tracker", "track": "tracker"}


def __getattr__(name: str) -> Any:
    # OpenCV, PyAV and OpenVINO are loaded when a name is first used, not on import.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
