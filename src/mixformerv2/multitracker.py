"""The online tracker of many objects in one video: each frame is decoded once and searched in one pass."""

from __future__ import annotations

from collections import defaultdict
from operator import index, is_
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mixformerv2 import geometry
from mixformerv2.config import DEFAULT_MODEL, TrackerConfig
from mixformerv2.images import as_rgb_uint8
from mixformerv2.results import Result
from mixformerv2.runtime.backend import Backend
from mixformerv2.target import RgbFrame, Sight, Target
from mixformerv2.tracker import Tracker


class _Stack(NamedTuple):
    """The caches of some targets, and the one cache that the backend made of them."""

    caches: list[Any]
    cache: Any


class _Stacks:
    """Caches of several targets as one, made anew only when a target came, went, was lost or changed its templates."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._of_last_frame: list[_Stack] = []
        self._of_this_frame: list[_Stack] = []

    def forget_unused(self) -> None:
        """At the end of a frame."""
        self._of_last_frame, self._of_this_frame = self._of_this_frame, []

    def stacked(self, caches: list[Any]) -> Any:
        known = (*self._of_this_frame, *self._of_last_frame)
        stack = next((stack for stack in known if _are_same(stack.caches, caches)), None)
        stack = stack or _Stack(caches, self._backend.stack(caches))
        self._of_this_frame.append(stack)
        return stack.cache


def _are_same(caches: list[Any], others: list[Any]) -> bool:
    return len(caches) == len(others) and all(map(is_, caches, others))


class MultiTracker:
    """Follows many objects through one video, each by the rules of a ``Tracker`` of its own.

    The options are those of ``Tracker``. Targets come with ``add`` and go with ``drop`` at any frame; ``update`` asks
    the network about all of them at once, and again about those that it does not find. They do not know of each
    other: two targets may end on the same object.
    """

    def __init__(
        self,
        model: str | Path = DEFAULT_MODEL,
        backend: str | Backend = "auto",
        precision: str = "auto",
        device: str = "auto",
        threads: int | None = None,
        channels: str = "rgb",
        config: TrackerConfig | None = None,
    ) -> None:
        self._beginner = Tracker(model, backend, precision, device, threads, channels, config)
        self.backend = self._beginner.backend
        self._channels = channels
        self._targets: dict[int, Target] = {}
        self._last_id = 0
        self._stacks = _Stacks(self.backend)

    @property
    def config(self) -> TrackerConfig:
        """The online rules of targets that are added from now on."""
        return self._beginner.config

    @config.setter
    def config(self, config: TrackerConfig) -> None:
        self._beginner.config = config

    @property
    def boxes(self) -> dict[int, tuple[float, float, float, float]]:
        """The current box of every target, ``(x, y, w, h)`` in pixels of the last frame."""
        return {id: target.box for id, target in self._targets.items()}

    def add(self, frame: Any, box: Any, id: Any = None) -> int:
        """Starts on one more object, in ``box``, ``(x, y, w, h)`` in pixels of ``frame``; gives its id.

        In the frame of an ``update`` it comes after that. The first and the second of a model take up to a second or
        two with OpenVINO, which then makes what it needs for one target, and for several. Without ``id`` the next
        number is taken, from 1 on; the number of a dropped target does not come again by itself. Raises ValueError for
        an id that is followed already or no whole number, and as ``Tracker.init``.
        """
        return self.add_rgb(as_rgb_uint8(frame, self._channels, copy=False), box, id)

    def add_rgb(self, rgb: RgbFrame, box: Any, id: Any = None) -> int:
        """``add`` for a frame that is RGB uint8 already, as those of a video source are, whatever ``channels`` is."""
        try:
            id = self._last_id + 1 if id is None else index(id)
        except TypeError:
            raise ValueError(f"the id of a target must be a whole number, got {id!r}") from None
        if id in self._targets:
            raise ValueError(
                f"the id {id} is taken: drop({id}) first, or choose another than {self._known()}"
            )
        self._beginner.init_rgb(rgb, box)
        assert self._beginner.target is not None
        self._targets[id], self._beginner.target = self._beginner.target, None
        self._last_id = max(self._last_id, id)
        # What a runtime makes for several targets it makes here, not in the midst of the video.
        if len(self._targets) == 2:
            try:
                self._look(rgb, {each: target.sought_frame for each, target in self._targets.items()})
            except ValueError:  # of a model that takes one alone, say
                self.drop(id)
                raise
        return id

    def drop(self, id: int) -> None:
        """Ends a target. Raises ValueError for an id that is not followed."""
        if id not in self._targets:
            raise ValueError(f"no target has the id {id}: followed are {self._known()}")
        del self._targets[id]

    def update(self, frame: Any) -> dict[int, Result]:
        """Where every target is in the next frame, by id in the order of ``add``; as ``Tracker.update``."""
        return self.update_rgb(as_rgb_uint8(frame, self._channels, copy=False))

    def update_rgb(self, rgb: RgbFrame) -> dict[int, Result]:
        """``update`` for a frame that is RGB uint8 already."""
        for target in self._targets.values():
            target.enter(rgb)
        sights: dict[int, list[Sight]] = {id: [] for id in self._targets}
        while around := self._next_looks(sights):
            for id, sight in self._look(rgb, around).items():
                sights[id].append(sight)
        self._stacks.forget_unused()
        return {id: target.follow(rgb, sights[id]) for id, target in self._targets.items()}

    def _next_looks(self, sights: dict[int, list[Sight]]) -> dict[int, geometry.Box]:
        """The boxes to look around next, of those targets of which no look so far is enough."""
        wanted = {id: target.next_look(sights[id]) for id, target in self._targets.items()}
        return {id: around_frame for id, around_frame in wanted.items() if around_frame is not None}

    def _look(self, rgb: RgbFrame, around_frame: dict[int, geometry.Box]) -> dict[int, Sight]:
        """What the network sees of these targets, by id, in search windows around these boxes."""
        # It takes targets together that have as many online templates: all, unless the config has several.
        groups: dict[int, list[int]] = defaultdict(list)
        for id in around_frame:
            groups[len(self._targets[id].memory.online)].append(id)
        side = self.backend.config.model.search_px
        sights: dict[int, Sight] = {}
        for ids in groups.values():
            windows = [self._targets[id].window(around_frame[id]) for id in ids]
            cache = self._stacks.stacked([self._targets[id].cache for id in ids])
            crops = np.empty((len(ids), side, side, 3), np.uint8)
            for crop, window in zip(crops, windows, strict=True):
                window.cut(rgb, out=crop)
            boxes_unit, scores = self.backend.search(crops, cache)
            for id, window, box_unit, score in zip(ids, windows, boxes_unit, scores, strict=True):
                sights[id] = Sight.through(window, box_unit, score)
        return sights

    def _known(self) -> str:
        return ", ".join(map(str, self._targets)) or "none"
