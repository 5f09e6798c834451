"""The rows of the benchmark: each is started anew every round, and notes the milliseconds of its stages frame by frame.

The seam is the `Backend` protocol. A tracker calls its backend once in a frame, and up to three times where it does not
find its target: what comes before a call is cutting the crop, what comes after the last one is the box, the score and
the templates' bookkeeping.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8

from mixformerv2.bench.clip import Clip, as_bgr_view
from mixformerv2.config import Config
from mixformerv2.evaluate.run import AnyTracker
from mixformerv2.multitracker import MultiTracker
from mixformerv2.overlay import draw
from mixformerv2.results import Result
from mixformerv2.runtime.backend import Backend, Located
from mixformerv2.tracker import Tracker
from mixformerv2.video import open_source

REFERENCE = "reference"  # the backend that is the released code's path
WARM_UP = 3  # updates at the start of every round that do not count


class RowName(NamedTuple):
    """What a row measures."""

    model: str  # or opencv:nano and the like
    backend: str  # a runtime, reference for the released code's path, opencv
    precision: str
    device: str
    threads: int


class Row(ABC):
    """Milliseconds by stage, all rounds together."""

    def __init__(self, use_threads: Callable[[], None]) -> None:
        self.ms: dict[str, list[float]] = defaultdict(list)
        self._use_threads = use_threads

    def round(self, clip: Clip) -> None:
        """Once over the clip."""
        self._use_threads()
        self._round(clip)

    def warm_up(self, clip: Clip) -> None:
        """A short round that does not count: runtimes compile a network when they first see a batch of its size."""
        self.round(replace(clip, frames=clip.frames[: WARM_UP + 2]))
        self.ms.clear()

    @abstractmethod
    def _round(self, clip: Clip) -> None: ...

    def _note(self, stage: str, began_s: float, ended_s: float) -> None:
        self.ms[stage].append(1000 * (ended_s - began_s))


class Call(NamedTuple):
    """One call of a backend."""

    stage: str  # templates or network
    began_s: float
    ended_s: float


class StampedBackend:
    """A backend that notes when its calls began and ended.

    ``answer`` takes the place of what the network says: one with random weights follows nothing, and its window
    would shrink to nothing. ``settle`` waits for a device that works on after a call.
    """

    def __init__(
        self,
        backend: Backend,
        answer: Located | None = None,
        settle: Callable[[], None] = lambda: None,
    ) -> None:
        self.name, self.precision, self.config = backend.name, backend.precision, backend.config
        self.calls: list[Call] = []
        self._backend, self._answer, self._settle = backend, answer, settle

    def encode_templates(
        self, template: UInt8[np.ndarray, "b side side 3"], online: UInt8[np.ndarray, "b online side side 3"]
    ) -> Any:
        began = time.perf_counter()
        cache = self._backend.encode_templates(template, online)
        self._settle()
        self.calls.append(Call("templates", began, time.perf_counter()))
        return cache

    def stack(self, caches: Sequence[Any]) -> Any:
        return self._backend.stack(caches)

    def search(self, crop: UInt8[np.ndarray, "b side side 3"], cache: Any) -> Located:
        began = time.perf_counter()
        located = self._backend.search(crop, cache)
        self.calls.append(Call("network", began, time.perf_counter()))
        if self._answer is None:
            return located
        return Located(*(part.repeat(len(crop), axis=0) for part in self._answer))


def answer_that_stays(clip: Clip, search_factor: float) -> Located:
    """What a network says that finds a target of the clip's shape in the middle of the window, and is sure of it."""
    sides = np.array(clip.box[2:]) / (math.sqrt(clip.box[2] * clip.box[3]) * search_factor)
    box_unit = np.concatenate([0.5 - sides / 2, 0.5 + sides / 2]).astype(np.float32)
    return Located(box_unit[None], np.ones(1, np.float32))


class TrackerRow(Row):
    """Our tracker: ``crop``, ``network``, ``post``, ``update``, and ``templates`` for each time they are encoded."""

    def __init__(self, backend: StampedBackend, use_threads: Callable[[], None]) -> None:
        super().__init__(use_threads)
        self._backend = backend
        self.tracker = Tracker(backend=backend)

    def _round(self, clip: Clip) -> None:
        calls = self._backend.calls
        self.tracker.init(clip.frames[0], clip.box)
        self._note_templates(calls)
        for index, frame in enumerate(clip.frames[1:]):
            calls.clear()
            began = time.perf_counter()
            self.tracker.update(frame)
            ended = time.perf_counter()
            if index < WARM_UP:
                continue
            encoding_s, network_s = (
                sum(call.ended_s - call.began_s for call in calls if call.stage == stage)
                for stage in ("templates", "network")
            )
            searched = max(call.ended_s for call in calls if call.stage == "network")
            self._note("crop", began + network_s, searched)
            self._note("network", searched - network_s, searched)
            self._note("post", searched, ended - encoding_s)
            self._note("update", began, ended)
            self._note_templates(calls)

    def _note_templates(self, calls: list[Call]) -> None:
        for call in calls:
            if call.stage == "templates":
                self._note(*call)


class TargetsRow(Row):
    """One target followed many times over: ``together`` by a MultiTracker, ``apart`` by as many trackers."""

    def __init__(self, backend: StampedBackend, targets: int, use_threads: Callable[[], None]) -> None:
        super().__init__(use_threads)
        self._backend, self.targets = backend, targets

    def _round(self, clip: Clip) -> None:
        together = MultiTracker(backend=self._backend)
        apart = [Tracker(backend=self._backend) for _ in range(self.targets)]
        for tracker in apart:
            tracker.init(clip.frames[0], clip.box)
            together.add(clip.frames[0], clip.box)
        for index, frame in enumerate(clip.frames[1:]):
            began = time.perf_counter()
            together.update(frame)
            between = time.perf_counter()
            for tracker in apart:
                tracker.update(frame)
            if index >= WARM_UP:
                self._note("together", began, between)
                self._note("apart", between, time.perf_counter())
        self._backend.calls.clear()


class PeerRow(Row):
    """A tracker of which only whole updates can be seen."""

    def __init__(self, tracker: AnyTracker, use_threads: Callable[[], None]) -> None:
        super().__init__(use_threads)
        self._tracker = tracker

    def _round(self, clip: Clip) -> None:
        frames = [as_bgr_view(frame) for frame in clip.frames]
        self._tracker.init(frames[0], clip.box)
        for index, frame in enumerate(frames[1:]):
            began = time.perf_counter()
            self._tracker.update(frame)
            ended = time.perf_counter()
            if index >= WARM_UP:
                self._note("update", began, ended)


class ClipRow(Row):
    """What is the same for every tracker: ``decode`` and ``draw``."""

    def _round(self, clip: Clip) -> None:
        result = Result(clip.box, 1.0, "tracking")
        with open_source(clip.path) as source:
            for index in range(len(clip.frames)):
                began = time.perf_counter()
                frame = next(source)
                decoded = time.perf_counter()
                draw(frame, result, 100.0)
                if index >= WARM_UP:
                    self._note("decode", began, decoded)
                    self._note("draw", decoded, time.perf_counter())


class BatchRow(Row):
    """The network alone on a batch of crops, each with templates of its own: ``network``, in ms a batch."""

    def __init__(
        self,
        backend: Backend,
        batch: int,
        timed: Callable[[Callable[[], Any]], float],
        use_threads: Callable[[], None],
    ) -> None:
        super().__init__(use_threads)
        self._backend, self._timed = backend, timed
        *self._templates, self._crop = noise(backend.config, batch)

    def _round(self, clip: Clip) -> None:
        cache = self._backend.encode_templates(*self._templates)
        for index in range(len(clip.frames)):
            ms = 1000 * self._timed(lambda: self._backend.search(self._crop, cache))
            if index >= WARM_UP:
                self.ms["network"].append(ms)


def noise(config: Config, batch: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a network may be given that follows nothing: templates, online templates and search crops."""
    sizes, random = config.model, np.random.default_rng(0)
    template, crop = (
        random.integers(0, 256, (batch, side, side, 3), np.uint8)
        for side in (sizes.template_px, sizes.search_px)
    )
    return template, template[:, None].repeat(config.tracker.online_templates, axis=1), crop


def wall_clock(call: Callable[[], Any]) -> float:
    """Seconds of a call that is done when it returns."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def use_opencv_threads(threads: int) -> None:
    cv2.setNumThreads(threads)
