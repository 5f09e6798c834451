"""One pass of stand-in trackers over sequences in memory, and of networks that are not on disk."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tiny import CONFIG, MODEL, SIDE, square_box, square_frame, write_checkpoint

from mixformerv2.data.sequence import LazySequences, Sequence
from mixformerv2.evaluate.metrics import Scores
from mixformerv2.evaluate.pieces import overlaps
from mixformerv2.evaluate.run import AnyTracker, Evaluation, evaluate, one_pass
from mixformerv2.model import checkpoint
from mixformerv2.model.network import build
from mixformerv2.results import Result
from mixformerv2.runtime.backend import Backend
from mixformerv2.runtime.torch import NetworkBackend
from mixformerv2.tracker import Tracker

NONE = (np.nan,) * 4
BOX = (10.0, 20.0, 30.0, 60.0)  # xyxy


class Numbered:
    """Frames whose pixels are their number."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def read(self, index: int) -> np.ndarray:
        return np.full((4, 4, 3), index, np.uint8)

    def place(self, index: int) -> str:
        return f"frame {index}"


def sequence(name: str, *boxes_xyxy: tuple[float, ...], absent: tuple[int, ...] = ()) -> Sequence:
    boxes_frame = np.array(boxes_xyxy, np.float64)
    flags = np.isnan(boxes_frame).any(axis=1)
    flags[list(absent)] = True
    return Sequence(name, Numbered(len(boxes_frame)), boxes_frame, flags)


class Greedy:
    """A tracker that makes corners of the box that it was given, in place."""

    def init(self, frame: np.ndarray, box: np.ndarray) -> None:
        box[2:] += box[:2]
        self.corners = box

    def update(self, frame: np.ndarray) -> np.ndarray:
        return np.concatenate([self.corners[:2], self.corners[2:] - self.corners[:2]])


def test_what_a_tracker_does_with_its_box_is_its_own_affair() -> None:
    result = one_pass(Greedy(), sequence("a", BOX, BOX, BOX))
    assert np.array_equal(result.boxes_frame, [BOX] * 3)


class Still:
    """A tracker that stays where it was put, and notes what it was shown."""

    def __init__(self) -> None:
        self.frames: list[int] = []
        self.starts: list[tuple[float, ...]] = []

    def init(self, frame: np.ndarray, box: Any) -> None:
        self.frames.append(int(frame[0, 0, 0]))
        self.starts.append(tuple(box))

    def update(self, frame: np.ndarray) -> Result:
        self.frames.append(int(frame[0, 0, 0]))
        x, y, w, h = self.starts[-1]
        return Result((x, y, w, h), 1.0, "tracking")


class Bare(Still):
    """The same, answering with a tuple whose first item is the box."""

    def update(self, frame: np.ndarray) -> Any:
        return (super().update(frame).box, "something else")


class Attribute(Still):
    """The same, answering with an object that has a box."""

    def update(self, frame: np.ndarray) -> Any:
        return SimpleNamespace(box=super().update(frame).box)


class Plain(Still):
    """The same, answering with the box and nothing else."""

    def update(self, frame: np.ndarray) -> Any:
        return np.array(super().update(frame).box)


class Vanishing(Still):
    """Its boxes are not numbers."""

    def update(self, frame: np.ndarray) -> Any:
        return (NONE,)


# --- short pieces


def test_pieces_start_from_the_true_box_and_count_what_follows() -> None:
    half = (10.0, 20.0, 30.0, 40.0)  # overlaps BOX by a half
    tracker = Still()
    boxes = (BOX, BOX, half, half, half, BOX, BOX)
    assert overlaps(tracker, sequence("a", *boxes), 3) == [0.75, 0.75]  # a seventh frame alone is no track
    assert tracker.frames == [0, 1, 2, 3, 4, 5]
    assert [start[3] for start in tracker.starts] == [40, 20]


def test_pieces_without_a_start_or_a_true_box_after_it_are_left_out() -> None:
    one = sequence("a", BOX, NONE, NONE, BOX, BOX, BOX)
    # The second piece cannot start, the first one has nothing to show.
    assert overlaps(Still(), one, 2) == [1.0]
    assert overlaps(Vanishing(), sequence("a", BOX, BOX), 2) == [0.0]
    with pytest.raises(ValueError, match="a piece must have at least 2 frames, a start and an update, got 1"):
        overlaps(Still(), one, 1)


# --- one pass


def test_a_pass_shows_every_frame_once_and_keeps_a_box_for_each() -> None:
    tracker = Still()
    result = one_pass(tracker, sequence("a", BOX, BOX, BOX))
    assert tracker.frames == [0, 1, 2]
    assert tracker.starts == [(10.0, 20.0, 20.0, 40.0)]  # x, y, w, h
    np.testing.assert_array_equal(result.boxes_frame, [BOX] * 3)
    assert (result.first_frame, result.updates) == (0, 2)
    assert len(result.seconds) == 3 and (result.seconds > 0).all()
    assert result.update_seconds == result.seconds[1] + result.seconds[2]


@pytest.mark.parametrize("kind", [Still, Bare, Attribute, Plain])
def test_a_box_is_taken_from_an_attribute_or_from_the_first_place(kind: type[Still]) -> None:
    np.testing.assert_array_equal(one_pass(kind(), sequence("a", BOX, BOX)).boxes_frame, [BOX, BOX])


@pytest.mark.parametrize("answer", [None, (None, 0.3)])
def test_a_tracker_may_see_no_box(answer: Any) -> None:
    tracker = Still()
    tracker.update = lambda frame: answer  # type: ignore[method-assign]
    result = one_pass(tracker, sequence("a", BOX, BOX))
    assert np.isnan(result.boxes_frame[1]).all() and np.isnan(result.scores[1])


@pytest.mark.parametrize("answer", [(1.0, 2.0, 3.0), [1, 2, 3, 4, 0.9]])
def test_numbers_that_are_no_box_are_shown_as_they_came(answer: Any) -> None:
    tracker = Still()
    tracker.update = lambda frame: answer  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=f"four numbers x, y, w, h, or None, got {re.escape(repr(answer))}"):
        one_pass(tracker, sequence("a", BOX, BOX))


def test_it_starts_at_the_first_frame_whose_target_is_there_and_has_a_box() -> None:
    tracker = Still()
    result = one_pass(tracker, sequence("a", NONE, BOX, BOX, NONE, BOX, absent=(1,)))
    assert tracker.frames == [2, 3, 4]
    assert result.first_frame == 2
    assert len(result.boxes_frame) == 3


@pytest.mark.parametrize(("max_frames", "frames"), [(2, [1, 2]), (3, [1, 2, 3]), (99, [1, 2, 3])])
def test_max_frames_counts_from_the_start_and_stops_early(max_frames: int, frames: list[int]) -> None:
    tracker = Still()
    one_pass(tracker, sequence("a", NONE, BOX, BOX, BOX), max_frames)
    assert tracker.frames == frames


@pytest.mark.parametrize("max_frames", [1, 0, -5])
def test_a_pass_without_an_update_is_refused(max_frames: int) -> None:
    with pytest.raises(
        ValueError, match=f"max_frames must be at least 2, a start and an update, got {max_frames}"
    ):
        one_pass(Still(), sequence("a", BOX, BOX), max_frames)


def test_a_sequence_without_any_box_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="sequence empty has no frame with a box"):
        one_pass(Still(), sequence("empty", NONE, BOX, absent=(1,)))


# --- evaluation


def test_frames_without_target_or_box_do_not_count() -> None:
    # The tracker is right in the frames 1 and 4, and wrong in 3, where the target is absent.
    shifted = tuple(value + 500 for value in BOX)
    result = evaluate(Still(), [sequence("a", NONE, BOX, NONE, shifted, BOX, absent=(3,))])
    assert result.sequences == {"a": Scores(20 / 21, 1.0, 1.0)}


def test_a_lost_target_counts_as_missed() -> None:
    # The first frame counts, and is always right.
    result = evaluate(Vanishing(), [sequence("a", BOX, BOX)])
    assert result.mean == Scores(10 / 21, 0.5, 0.5)


def test_every_sequence_counts_the_same_however_long() -> None:
    far = tuple(value + 500 for value in BOX)
    result = evaluate(Still(), [sequence("long", *[BOX] * 9), sequence("short", BOX, far)])
    assert result.sequences["short"].precision == 0.5
    assert result.mean.precision == 0.75


def test_speed_is_updates_by_the_seconds_spent_in_them(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr("mixformerv2.evaluate.run.time.perf_counter", lambda: next(clock) / 4)
    result = evaluate(Still(), [sequence("a", BOX, BOX, BOX), sequence("b", BOX, BOX)])
    assert result.updates_per_second == 4.0


def test_a_still_is_a_sequence_with_nothing_to_update() -> None:
    result = evaluate(Still(), [sequence("still", BOX)])
    assert result == Evaluation({"still": Scores(20 / 21, 1.0, 1.0)}, Scores(20 / 21, 1.0, 1.0), 0.0)


def test_only_the_frames_that_were_shown_count() -> None:
    far = tuple(value + 500 for value in BOX)
    assert evaluate(Still(), [sequence("a", BOX, BOX, far)], max_frames=2).mean.precision == 1.0


def test_progress_tells_the_sequences_done_and_to_do() -> None:
    loaded = LazySequences(("a", "b"), lambda name: sequence(name, BOX, BOX))
    told: list[tuple[int, int]] = []
    evaluate(Still(), loaded, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 2), (2, 2)]


def test_no_sequences_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one sequence to evaluate on, got none"):
        evaluate(Still(), [])


def test_two_sequences_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="names of their own, got a twice"):
        evaluate(Still(), [sequence("a", BOX, BOX), sequence("a", BOX, BOX)])


def test_an_evaluation_is_frozen_and_goes_through_json() -> None:
    result = evaluate(Still(), [sequence("a", BOX, BOX)])
    with pytest.raises(FrozenInstanceError):
        result.updates_per_second = 1.0  # type: ignore[misc]
    scores = {"auc": 20 / 21, "precision": 1.0, "normalised_precision": 1.0}
    read = json.loads(json.dumps(result.as_dict()))
    assert read == {
        "mean": scores,
        "updates_per_second": result.updates_per_second,
        "sequences": {"a": scores},
    }


# --- trackers of our own


class Squares:
    """The moving square of the other tests."""

    def __len__(self) -> int:
        return 8

    def read(self, index: int) -> np.ndarray:
        return square_frame(index)

    def place(self, index: int) -> str:
        return f"square {index}"


def moving_square() -> Sequence:
    corners = [(x, y, x + SIDE, y + SIDE) for x, y, _, _ in (square_box(index) for index in range(8))]
    return Sequence("square", Squares(), np.array(corners), np.zeros(8, bool))


def test_a_network_in_memory_tracks_as_its_checkpoint_does(tmp_path: Path) -> None:
    network, config = checkpoint.load(write_checkpoint(tmp_path / "model.safetensors"))
    in_memory = Tracker(backend=NetworkBackend(network.eval(), config))
    assert isinstance(in_memory.backend, Backend)
    assert (in_memory.backend.name, in_memory.backend.precision) == ("torch", "f32")
    from_file = Tracker(tmp_path / "model.safetensors", backend="torch")
    assert isinstance(in_memory, AnyTracker)
    boxes = [one_pass(tracker, moving_square()).boxes_frame for tracker in (in_memory, from_file)]
    np.testing.assert_array_equal(*boxes)


def test_a_network_that_is_changed_later_tracks_as_it_then_is() -> None:
    network = build(MODEL, seed=0).eval()
    tracker = Tracker(backend=NetworkBackend(network, CONFIG))
    before = one_pass(tracker, moving_square()).boxes_frame
    with torch.no_grad():
        network.box_head.layers[-1].weight.mul_(-20)
    after = one_pass(tracker, moving_square()).boxes_frame
    assert np.abs(after - before).max() > 1


def test_a_network_in_training_mode_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"must be in evaluation mode to track: call network\.eval\(\) first"
    ):
        NetworkBackend(build(MODEL, seed=0).train(), CONFIG)


TRACKS_ARRAYS = """
import sys
sys.modules["av"] = None  # as where PyAV is not installed
import numpy as np
from mixformerv2.config import preset
from mixformerv2.evaluate.run import one_pass
from mixformerv2.runtime.backend import Located
from mixformerv2.tracker import Tracker

class Middle:
    name, precision, config = "middle", "f32", preset("tiny")
    def encode_templates(self, template, online):
        return None
    def stack(self, caches):
        return None
    def search(self, crop, cache):
        return Located(np.array([[0.4, 0.4, 0.6, 0.6]], np.float32), np.ones(1, np.float32))

tracker = Tracker(backend=Middle())
frame = np.zeros((100, 100, 3), np.uint8)
tracker.init(frame, (40, 40, 20, 20))
print(tracker.update(frame).state, *{name.split(".")[0] for name in sys.modules})
"""


def test_tracking_and_measuring_on_arrays_need_neither_pyav_nor_torch() -> None:
    run = subprocess.run([sys.executable, "-c", TRACKS_ARRAYS], capture_output=True, text=True, check=True)
    state, *loaded = run.stdout.split()
    assert state == "tracking"
    assert "mixformerv2" in loaded
    assert "torch" not in loaded
