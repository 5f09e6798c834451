"""Many targets: equal to as many trackers on real video, coming and going, what the network is asked, bad input."""

from __future__ import annotations

import dataclasses
import gc
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from test_tracker import BOX, RULES, STAY, Scripted, grey_frame, noise_frame

import mixformerv2
from mixformerv2 import MultiTracker, Tracker
from mixformerv2.config import TrackerConfig
from mixformerv2.images import Frame
from mixformerv2.results import Result
from mixformerv2.runtime.backend import Backend, Located, open_backend
from mixformerv2.video import open_source

DEMO = Path(mixformerv2.__file__).parent / "demo" / "cup.mp4"
NUM_FRAMES = 14
BEGINS = {1: (0, (316, 114, 114, 275)), 2: (0, (300, 60, 90, 90)), 3: (4, (60, 200, 120, 140))}
BACKENDS = ("openvino", "onnxruntime", "torch")


class Many(Scripted):
    """A backend that stacks, and says which targets each pass was about."""

    def __init__(self, scores: dict[int, list[float]] | None = None) -> None:
        super().__init__()
        self.passes: list[tuple[int, ...]] = []
        self.stacks = 0
        self._scores_of = {number: iter(values) for number, values in (scores or {}).items()}

    def encode_templates(self, template: np.ndarray, online: np.ndarray) -> tuple[int, ...]:  # type: ignore[override]
        return (super().encode_templates(template, online),)

    def stack(self, caches: Any) -> tuple[int, ...]:
        self.stacks += 1
        return tuple(number for cache in caches for number in cache)

    def search(self, crop: np.ndarray, cache: tuple[int, ...]) -> Located:  # type: ignore[override]
        assert len(crop) == len(cache)
        self.passes.append(cache)
        scores = [next(self._scores_of.get(place, iter(())), 0.9) for place in range(len(cache))]
        return Located(np.tile(np.float32(STAY), (len(cache), 1)), np.array(scores, np.float32))


def many(backend: Backend | None = None, **options: Any) -> MultiTracker:
    return MultiTracker(backend=backend or Many(), **options)


# As many trackers


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    with open_source(DEMO) as source:
        return list(islice(source, NUM_FRAMES))


@pytest.fixture(scope="module")
def opened() -> Iterator[Callable[[str], Backend]]:
    """The shipped model in float32, loaded once."""
    threads, loaded = torch.get_num_threads(), {}

    def get(name: str) -> Backend:
        if name not in loaded:
            loaded[name] = open_backend("tiny", name, "f32", threads=1)
        return loaded[name]

    yield get
    torch.set_num_threads(threads)


def alone(backend: Backend, config: TrackerConfig, frames: list[Frame], begin: int, box: Any) -> list[Result]:
    tracker = Tracker(backend=backend, config=config)
    tracker.init(frames[begin], box)
    return [tracker.update(frame) for frame in frames[begin + 1 :]]


@pytest.mark.parametrize("online_templates", [1, 2])
@pytest.mark.parametrize("name", BACKENDS)
def test_many_targets_in_a_real_video_are_followed_as_each_alone(
    opened: Callable[[str], Backend], frames: list[Frame], name: str, online_templates: int
) -> None:
    backend = opened(name)
    # New templates every three frames; the third target begins later, so it has its own at other frames.
    rules = dict(update_interval=3, update_threshold=0.0, search_factor=4.0, published_mapping=False)
    rules |= dict(lost_threshold=0.7, widen_when_lost=1.6)  # some are looked for twice
    config = TrackerConfig(**rules, online_templates=online_templates, size_calibration=0.5)  # type: ignore[arg-type]
    together = MultiTracker(backend=backend, config=config)
    results: dict[int, list[Result]] = {id: [] for id in BEGINS}
    for index, frame in enumerate(frames):
        for id, result in together.update(frame).items():
            results[id].append(result)
        for id, (begin, box) in BEGINS.items():
            if begin == index:
                assert together.add(frame, box) == id
    for id, (begin, box) in BEGINS.items():
        expected = alone(backend, config, frames, begin, box)
        assert len(expected) == len(results[id]) == NUM_FRAMES - begin - 1
        for ours, theirs in zip(results[id], expected, strict=True):
            assert ours.box == pytest.approx(theirs.box, abs=0.01)
            assert ours.score == pytest.approx(theirs.score, abs=1e-4)
            assert ours.state == theirs.state
    assert len({tuple(map(round, results[id][-1].box)) for id in BEGINS}) == 3, "three different objects"


# What the network is asked


def test_one_pass_a_frame_asks_about_every_target() -> None:
    backend = Many()
    tracker = many(backend)
    for offset in range(5):
        tracker.add(noise_frame(), (10 + 8 * offset, 20, 16, 16))
    for seed in range(2):
        tracker.update(noise_frame(seed))
    assert backend.passes == [(0, 1), *[(0, 1, 2, 3, 4)] * 2]  # the first of all when there were two
    assert backend.stacks == 2


def test_what_several_need_is_made_when_the_second_comes_not_in_the_midst_of_the_video() -> None:
    backend = Many()
    tracker = many(backend)
    for offset, passes in enumerate((0, 1, 1)):
        tracker.add(noise_frame(), (10 + 8 * offset, 20, 16, 16))
        assert len(backend.passes) == passes


def test_those_that_it_does_not_find_are_looked_for_again_in_one_pass() -> None:
    # Behind the pass when the second target came: of three targets in the first pass, of those that are lost in the
    # second, of what that showed in the third.
    backend = Many({0: [1, 0.9, 0.4, 0.7, 0.8, 0.5, 0.6], 1: [1, 0.3, 0.2, 0.1, 0.1], 2: [0.3, 0.1]})
    tracker = many(
        backend, config=dataclasses.replace(RULES, lost_threshold=0.4, found_threshold=0.6, widen_when_lost=2)
    )
    for _ in range(3):
        tracker.add(grey_frame(100), BOX)
    for scores in ([0.9, 0.7, 0.3], [0.8, 0.6, 0.1]):
        results = tracker.update(grey_frame(100))
        assert [result.score for result in results.values()] == pytest.approx(scores)
        assert [result.state for result in results.values()] == ["tracking", "tracking", "lost"]
    assert backend.passes == [(0, 1), *[(0, 1, 2), (1, 2), (1,)] * 2]
    assert backend.stacks == 4


def test_templates_change_target_by_target_and_are_stacked_anew_only_then() -> None:
    backend = Many({0: [0.9] * 9, 1: [0.1] * 9})  # RULES: every three frames, if the score is above 0.5
    tracker = many(backend, config=RULES)
    tracker.add(grey_frame(100), BOX)
    tracker.add(grey_frame(100), BOX)
    for _ in range(7):
        tracker.update(grey_frame(101))
    assert backend.passes == [(0, 1)] * (1 + 3) + [(2, 1)] * 3 + [(3, 1)]
    assert backend.stacks == 3


def test_targets_with_as_many_online_templates_share_a_pass() -> None:
    backend = Many()
    tracker = many(backend, config=TrackerConfig(update_interval=2, online_templates=2))
    first, second = tracker.add(grey_frame(100), BOX), 2
    for index in range(5):
        results = tracker.update(grey_frame(100))
        if index == 1:
            assert tracker.add(grey_frame(100), BOX) == second
    # The first has its second online template from the third frame on, the other one two frames later; each is asked
    # about once more when the other one comes.
    assert [len(asked) for asked in backend.passes] == [1] * 8 + [2]
    assert list(results) == [first, second]


# Coming and going


def test_targets_come_and_go_and_ids_are_not_used_twice() -> None:
    tracker = many()
    assert tracker.update(grey_frame(100)) == {}
    assert [tracker.add(grey_frame(100), BOX) for _ in range(3)] == [1, 2, 3]
    tracker.drop(3)
    tracker.drop(1)
    assert list(tracker.update(grey_frame(100))) == list(tracker.boxes) == [2]
    assert tracker.add(grey_frame(100), BOX) == 4
    assert tracker.add(grey_frame(100), BOX, id=40) == 40
    assert tracker.add(grey_frame(100), BOX) == 41
    tracker.drop(4)
    assert tracker.add(grey_frame(100), BOX, id=4) == 4, "who names it may use it again"
    assert list(tracker.update(grey_frame(100))) == [2, 40, 41, 4]


def test_nothing_is_kept_of_targets_that_went() -> None:
    tracker = many()
    ids = [tracker.add(noise_frame(), BOX) for _ in range(3)]
    tracker.update(noise_frame())
    targets = [weakref.ref(target) for target in tracker._targets.values()]
    for id in ids:
        tracker.drop(id)
    tracker.update(noise_frame())
    gc.collect()
    assert [target() for target in targets] == [None] * 3
    assert not tracker._stacks._of_last_frame


def test_a_target_that_comes_or_goes_leaves_the_others_as_they_are() -> None:
    undisturbed, disturbed = many(), many()
    for tracker in (undisturbed, disturbed):
        tracker.add(noise_frame(), BOX)
    for seed in range(1, 10):
        expected = undisturbed.update(noise_frame(seed))[1]
        if seed == 3:
            disturbed.add(noise_frame(seed - 1), (5, 5, 30, 20))
        if seed == 6:
            disturbed.drop(2)
        assert disturbed.update(noise_frame(seed))[1] == expected


def test_rules_may_be_changed_for_the_targets_to_come() -> None:
    tracker = many(Many({0: [0.6] * 2, 1: [0.6] * 2}))
    tracker.add(grey_frame(100), BOX)
    tracker.config = dataclasses.replace(tracker.config, lost_threshold=0.7)
    tracker.add(grey_frame(100), BOX)
    assert [result.state for result in tracker.update(grey_frame(100)).values()] == ["tracking", "lost"]


def test_a_result_is_plain_python() -> None:
    tracker = many(Many({0: [0.75]}), channels="bgr")
    tracker.add(grey_frame(100), BOX)
    results = tracker.update(grey_frame(100))
    assert results == {1: Result(BOX, 0.75, "tracking")}
    assert [type(value) for value in (*results[1].box, results[1].score)] == [float] * 5
    assert tracker.boxes == {1: BOX}


def test_frames_of_another_size_are_the_same_picture_for_every_target() -> None:
    tracker = many()
    tracker.add(grey_frame(100), BOX)
    tracker.add(grey_frame(100), (20, 20, 16, 16))
    results = tracker.update(np.zeros((200, 240, 3), np.uint8))
    assert [result.box for result in results.values()] == [(104, 84, 32, 32), (40, 40, 32, 32)]


# Bad input


def test_a_refused_target_leaves_those_that_are_followed() -> None:
    tracker = many()
    tracker.add(grey_frame(100), BOX)
    for frame, box in ((grey_frame(100), (500, 500, 5, 5)), (grey_frame(100), None), (None, BOX)):
        with pytest.raises(ValueError, match=r"outside the frame|four finite numbers|frame must"):
            tracker.add(frame, box)
    with pytest.raises(ValueError, match="the id 1 is taken: drop"):
        tracker.add(grey_frame(100), BOX, id=1)
    with pytest.raises(ValueError, match="the id of a target must be a whole number, got 'seven'"):
        tracker.add(grey_frame(100), BOX, id="seven")
    with pytest.raises(ValueError, match="frame must"):
        tracker.update(None)
    assert list(tracker.update(grey_frame(100))) == [1]
    assert tracker.add(grey_frame(100), BOX) == 2


def test_dropping_who_is_not_there_names_who_is() -> None:
    tracker = many()
    with pytest.raises(ValueError, match="no target has the id 7: followed are none"):
        tracker.drop(7)
    tracker.add(grey_frame(100), BOX)
    tracker.add(grey_frame(100), BOX)
    with pytest.raises(ValueError, match="no target has the id 7: followed are 1, 2"):
        tracker.drop(7)


def test_weights_that_answer_without_numbers_are_named() -> None:
    tracker = many(Many({1: [0.9, float("nan")]}))
    for _ in range(2):
        tracker.add(grey_frame(100), BOX)
    with pytest.raises(ValueError, match="the network answered with numbers that are not finite"):
        tracker.update(grey_frame(100))


# Many streams


@pytest.mark.parametrize("name", BACKENDS)
def test_trackers_in_threads_that_share_a_backend_answer_as_one_after_the_other(
    opened: Callable[[str], Backend], frames: list[Frame], name: str
) -> None:
    backend, config = opened(name), TrackerConfig(update_interval=2, update_threshold=0.0)
    streams = [(frames[shift : shift + 8], (300 - 20 * shift, 110, 100, 150)) for shift in range(6)]

    def follow(stream: tuple[list[Frame], Any]) -> list[Result]:
        return alone(backend, config, stream[0], 0, stream[1])

    expected = [follow(stream) for stream in streams]
    with ThreadPoolExecutor(max_workers=len(streams)) as threads:
        at_once = list(threads.map(follow, streams))
    assert at_once == expected


def test_the_example_of_many_videos_follows_each(tmp_path: Path) -> None:
    jobs = [(tiny.write_clip(tmp_path / f"{number}.mp4", 4), "10,8,12,12") for number in range(2)]
    example = Path(__file__).parents[1] / "examples" / "many_streams.py"
    command = [sys.executable, str(example), *(f"{clip}:{box}" for clip, box in jobs)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    said = [line.split() for line in ended.stdout.splitlines()]
    assert [words[0] for words in said] == [str(clip) for clip, _ in jobs]
    assert said[0][1:] == said[1][1:], "the same video twice"
