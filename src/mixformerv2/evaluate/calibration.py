"""What a tracker looks at while it follows targets through video: the examples that int8 is calibrated on."""

from __future__ import annotations

import collections.abc
import dataclasses
import math
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from mixformerv2 import geometry
from mixformerv2.data.datasets import open_datasets
from mixformerv2.data.sequence import Sequence
from mixformerv2.runtime.backend import Backend, Located
from mixformerv2.runtime.quantise import Example
from mixformerv2.tracker import Tracker, track

_STRIDE = 4  # frames between two that are used: neighbours are much alike


class _Watched(NamedTuple):
    template: UInt8[np.ndarray, "b side side 3"]
    online: UInt8[np.ndarray, "b online side side 3"]
    cache: Any


class Watching:
    """A backend that notes what the one behind it is asked."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.name, self.precision, self.config = backend.name, backend.precision, backend.config
        self.seen: list[Example] = []

    def encode_templates(
        self, template: UInt8[np.ndarray, "b side side 3"], online: UInt8[np.ndarray, "b online side side 3"]
    ) -> _Watched:
        return _Watched(template, online, self._backend.encode_templates(template, online))

    def stack(self, caches: collections.abc.Sequence[_Watched]) -> _Watched:
        template, online = (np.concatenate(part) for part in list(zip(*caches, strict=True))[:2])
        return _Watched(template, online, self._backend.stack([one.cache for one in caches]))

    def search(self, crop: UInt8[np.ndarray, "b side side 3"], cache: _Watched) -> Located:
        self.seen += map(Example, cache.template, cache.online, crop.copy())
        return self._backend.search(crop, cache.cache)


def examples(backend: Backend, source: Path, box: Any, count: int) -> list[Example]:
    """``count`` looks, or as many as there are: at the box of a video, or at targets of a folder of datasets.

    Raises ValueError for a folder without datasets, for a video without a box, and for less than one look.
    """
    if count < 1:
        raise ValueError(f"there must be at least one example to calibrate on, got {count}")
    watching = Watching(backend)
    # Its looks at the frame that the template was cut from are not what it will be asked later.
    tracker = Tracker(
        backend=watching, config=dataclasses.replace(backend.config.tracker, size_calibration=0.0)
    )
    if box is not None:
        for _ in islice(track(source, box, tracker=tracker), count * _STRIDE):
            pass
        return spread(watching.seen, count)
    if not source.exists():
        raise FileNotFoundError(f"there is no {source} to calibrate on: name a video or a folder of datasets")
    if not source.is_dir():
        raise ValueError(
            f"{source} is no folder of datasets: give the box in a video's first frame with --box x,y,w,h"
        )
    parts = open_datasets(source)
    looks = max(1, count // min(count, sum(map(len, parts.values()))))
    for part in parts.values():
        for sequence in spread(part, math.ceil(count / looks / len(parts))):
            _follow(tracker, sequence, looks)
    return spread(watching.seen, count)


def _follow(tracker: Tracker, sequence: Sequence, looks: int) -> None:
    """From the first frame with a box on; a still is looked at again."""
    there = np.flatnonzero(~sequence.absent)
    if not len(there):
        return
    first = int(there[0])
    tracker.init(sequence.frame(first), geometry.xyxy_to_xywh(sequence.boxes_frame[first]))
    later = range(min(first + 1, len(sequence) - 1), len(sequence), _STRIDE)
    for index in later[:looks]:
        tracker.update(sequence.frame(index))


def spread(items: collections.abc.Sequence, count: int) -> list[Any]:
    """At most ``count`` of the items, evenly apart."""
    return [items[i] for i in np.unique(np.linspace(0, len(items) - 1, min(count, len(items))).astype(int))]
