"""Views that pan until their target is out and back: what `benchmarks/leaving.py` shows a tracker."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import painted
import pytest

from mixformerv2.data.sequence import Sequence

WIDTH, HEIGHT, SIDE = 400, 300, 30
TARGET = 250  # its grey; all else is darker


@pytest.fixture
def leaving(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    import leaving

    return leaving


def video(frames: int, step: float = 0.0, jump: float = 0.0) -> Sequence:
    """A bright square that drifts to the right, from the middle of the frame, and jumps to and fro."""
    left = WIDTH / 2 + step * np.arange(frames) + jump * (np.arange(frames) // 10 % 2)
    boxes = np.stack(
        [left, np.full(frames, 130.0), left + SIDE, np.full(frames, 130.0 + SIDE)], axis=1
    ).round()
    pictures = []
    for x1, y1, x2, y2 in boxes.astype(int):
        picture = np.full((HEIGHT, WIDTH, 3), 40, np.uint8)
        picture[y1:y2, x1:x2] = TARGET
        pictures.append(picture)
    return Sequence("drift", painted.Pictures(tuple(pictures), "drift"), boxes, np.zeros(frames, bool))


def test_the_target_leaves_over_each_border_waits_and_returns(leaving: ModuleType) -> None:
    sequence = video(leaving.FRAMES, 0.2)
    pans = list(leaving.pans(sequence))
    assert len(pans) == 4 and {pan.axis for pan in pans} == {0, 1}
    borders = set()
    for pan in pans:
        seen = [pan.see(sequence, index) for index in range(leaving.FRAMES)]
        assert len({frame.shape for frame, _ in seen}) == 1
        for frame, box in seen:
            x1, y1, x2, y2 = box.round().astype(int)
            assert (frame[y1:y2, x1:x2] == TARGET).all()
            assert (frame == TARGET).sum() == 3 * (x2 - x1) * (y2 - y1)  # nothing of it outside its box
        areas = [int((frame == TARGET).sum()) // 3 for frame, _ in seen]
        out = leaving.BEFORE + leaving.PAN
        assert {*areas[: leaving.BEFORE], *areas[-leaving.JUDGED :]} == {SIDE**2}
        assert not any(areas[out : out + leaving.OUT])
        frame, box = seen[out - 4]  # the last of it, at a border
        ends = (box, np.tile(frame.shape[1::-1], 2) - box)
        borders |= {(pan.axis, side) for side in (0, 1) if ends[side][pan.axis + 2 * side] < 1}
    assert borders == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_a_video_that_is_too_short_or_too_fast_has_no_such_passes(leaving: ModuleType) -> None:
    assert not list(leaving.pans(video(leaving.FRAMES - 1)))
    assert {pan.axis for pan in leaving.pans(video(leaving.FRAMES, jump=60.0))} == {1}


class Still:
    """A tracker whose box stays where it began, or so many pixels beside."""

    def __init__(self, beside: float) -> None:
        self.beside = beside

    def init(self, frame: np.ndarray, box: np.ndarray) -> None:
        self.box = (box[0] + self.beside, *box[1:])

    def update(self, frame: np.ndarray) -> Still:
        return self


def test_what_counts_is_the_return_of_a_target_that_was_followed_before(leaving: ModuleType) -> None:
    sequence = video(leaving.FRAMES)
    pan = next(leaving.pans(sequence))
    assert leaving.follow(Still(0), sequence, pan) == pytest.approx(1.0)
    assert leaving.follow(Still(SIDE / 2), sequence, pan) is None
