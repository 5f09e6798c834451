"""Pictures that are thrown aside every few frames: what `benchmarks/jumps.py` shows a tracker."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from test_leaving import SIDE, TARGET, video

from mixformerv2.geometry import xyxy_to_xywh
from mixformerv2.results import Result


@pytest.fixture
def jumps(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    import jumps

    return jumps


class Sighted:
    """Sees the bright square, some pixels off."""

    def __init__(self, off: float = 0.0) -> None:
        self._off = off

    def init(self, frame: np.ndarray, box: Any) -> None:
        assert self.update(frame).box == pytest.approx(np.add(box, (self._off, 0, 0, 0)), abs=1)

    def update(self, frame: np.ndarray) -> Result:
        rows, columns = np.nonzero(frame[..., 0] > TARGET // 2)
        corners = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], float)
        x, y, w, h = xyxy_to_xywh(corners)
        return Result((x + self._off, y, w, h), 1.0, "tracking")


def test_every_so_many_frames_the_target_jumps_by_its_sides_and_stays_in_the_frame(jumps: ModuleType) -> None:
    sequence = video(100, step=0.2)
    moved = jumps.jumps(sequence, every=10, sides=2.0)
    steps = np.linalg.norm(np.diff(moved, axis=0, prepend=moved[:1]), axis=1)
    assert steps[10::10] == pytest.approx(np.full(9, 2.0 * SIDE))
    assert np.count_nonzero(steps) == 9
    boxes = sequence.boxes_frame + np.tile(moved, 2)
    assert (boxes >= 0).all() and (boxes[:, 2:] <= sequence.frame(0).shape[1::-1]).all()
    assert len({tuple(np.sign(step)) for step in np.diff(moved, axis=0)[9::10]}) > 1, (
        "in different directions"
    )


def test_a_jump_that_no_direction_allows_is_left_out(jumps: ModuleType) -> None:
    assert not jumps.jumps(video(30), every=10, sides=20.0).any()


def test_the_boxes_follow_the_pictures(jumps: ModuleType) -> None:
    sequence = video(40, step=0.2)
    moved = jumps.jumps(sequence, every=5, sides=1.0)
    assert jumps.follow(Sighted(), sequence, moved) > 0.9
    assert jumps.follow(Sighted(off=SIDE), sequence, moved) < 0.1
