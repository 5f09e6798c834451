"""Whole passes, and what counts as tracked in them: `benchmarks/passes.py`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from test_jumps import Sighted
from test_leaving import SIDE, video

from mixformerv2.results import Result


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    import passes

    return passes


class Doubting(Sighted):
    """Is sure of every second frame that it is asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def update(self, frame: np.ndarray) -> Result:
        self.asked += 1
        return super().update(frame)._replace(state="lost" if self.asked % 2 else "tracking")


def test_frames_with_a_target_and_without_are_counted_apart(passes: ModuleType) -> None:
    sequence = video(20, step=0.2)
    absent = np.arange(20) >= 14
    seen = passes.follow(Doubting(), dataclasses.replace(sequence, absent=absent), range(20))
    # The first frame is asked about by the double's init.
    assert seen.tracked == [True, False] * 6 + [True]
    assert seen.mistaken == [False, True] * 3
    assert np.mean(seen.overlaps) > 0.9
    assert np.mean(passes.follow(Sighted(off=SIDE), sequence, range(20)).overlaps) < 0.1


def test_a_stride_leaves_frames_out(passes: ModuleType) -> None:
    doubting = Doubting()
    seen = passes.follow(doubting, video(20, step=0.2), range(1, 20, 3))
    assert doubting.asked == 7 and len(seen.overlaps) == 6
    assert min(seen.overlaps) > 0.8
