"""Equality with the published online tracker: window, mapping, clipping and template updates (tests/golden)."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import published
import pytest
import torch

from mixformerv2.config import TrackerConfig
from mixformerv2.geometry import CropWindow, xywh_to_xyxy
from mixformerv2.images import Frame, read_image
from mixformerv2.model import checkpoint
from mixformerv2.target import TemplateMemory
from mixformerv2.tracker import Tracker

FRAMES = Path(__file__).parents[2] / "shared" / "data" / "otb" / "Crossing" / "img"
NUM_FRAMES = 39
BOX_PX = 2e-3  # float32 leaves some 4e-4 in a search window of up to 370 px
SCORE = 1e-5


@pytest.fixture(scope="module")
def reference() -> dict[str, np.ndarray]:
    with np.load(published.GOLDEN / "trajectory_small.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    """The frame of the first box, and the 39 after it."""
    paths = [FRAMES / f"{number:04}.jpg" for number in range(1, NUM_FRAMES + 2)]
    if not all(path.is_file() for path in paths):
        pytest.skip("the golden frames, ../shared/data/otb/Crossing/img, are not here")
    return [read_image(path) for path in paths]


@pytest.fixture(scope="module")
def tracker(reference: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracker]:
    network, config = published.network("mixformerv2_small", str(reference["salt"]))
    with torch.no_grad():
        network.box_head.layers[4].weight *= 6  # box_head.layers.1.1.weight in the published names
    path = tmp_path_factory.mktemp("published") / "small.safetensors"
    checkpoint.save(network, config, path)
    online_rules = TrackerConfig(
        search_factor=float(reference["search_factor"]), update_interval=int(reference["update_interval"])
    )
    threads = torch.get_num_threads()
    tracker = Tracker(path, backend="torch", threads=1, config=online_rules)
    path.unlink()  # 65 MB
    yield tracker
    torch.set_num_threads(threads)


class PublishedRun:
    """The published tracker's box and templates, frame by frame, from its own boxes and scores."""

    def __init__(self, tracker: Tracker, frame: Frame, box_xywh: Sequence[float]) -> None:
        self.tracker = tracker
        self.box_frame = xywh_to_xyxy(box_xywh)
        self.memory = TemplateMemory(self._template(frame), tracker.config)

    def _template(self, frame: Frame) -> np.ndarray:
        return CropWindow.around(self.box_frame, 2.0, 112, published_mapping=True).cut(frame)

    def hand_over(self) -> None:
        """Puts the tracker into the published state; its template cache must follow by itself."""
        assert self.tracker.target is not None
        self.tracker.target.box_frame = self.box_frame
        self.tracker.target.memory = copy.deepcopy(self.memory)

    def advance(self, frame: Frame, box_xywh: Sequence[float], score: float) -> bool:
        """Takes the published answer; did the templates change?"""
        self.box_frame = xywh_to_xyxy(box_xywh)
        if self.memory.wants(score):
            self.memory.propose(self._template(frame), score)
        return self.memory.refresh()


def test_every_step_from_a_published_state_is_the_published_step(
    tracker: Tracker, reference: dict[str, np.ndarray], frames: list[Frame]
) -> None:
    tracker.init(frames[0], reference["init_box_xywh"])
    run = PublishedRun(tracker, frames[0], reference["init_box_xywh"])
    golden = reference["boxes_xywh_score"]
    assert len(golden) == NUM_FRAMES
    changes = 0
    for frame, (*box, score) in zip(frames[1:], golden.tolist(), strict=True):
        run.hand_over()
        result = tracker.update(frame)
        np.testing.assert_allclose(result.box, box, rtol=0, atol=BOX_PX)
        assert result.score == pytest.approx(score, abs=SCORE)
        changes += run.advance(frame, box, score)
        for ours, theirs in zip(tracker.target.memory.online, run.memory.online, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert changes >= 1, "the golden frames must exercise a template update"


def test_the_first_frames_without_help_are_the_published_ones(
    tracker: Tracker, reference: dict[str, np.ndarray], frames: list[Frame]
) -> None:
    tracker.init(frames[0], reference["init_box_xywh"])
    for frame, (*box, score) in zip(frames[1:11], reference["boxes_xywh_score"][:10].tolist(), strict=True):
        result = tracker.update(frame)
        np.testing.assert_allclose(result.box, box, rtol=0, atol=BOX_PX)
        assert result.score == pytest.approx(score, abs=SCORE)
