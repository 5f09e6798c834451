"""OpenCV's trackers behind our two calls, with their own model files where the development data is."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from tiny import square_box, square_frame

from mixformerv2 import geometry
from mixformerv2.evaluate.peers import PEERS, OpenCVTracker
from mixformerv2.evaluate.spec import describe, open_tracker, parse


@pytest.fixture
def model_files() -> Path:
    folder = Path(__file__).parents[2] / "shared" / "peers"
    if not folder.is_dir():
        pytest.skip("the development data, ../shared/peers, is not here")
    return folder


class Native:
    """What OpenCV's own object looks like; remembers what it is given."""

    def __init__(self, answers: list[tuple[bool, tuple[int, int, int, int]]], score: float = 0.75) -> None:
        self.answers, self.score = answers, score

    def init(self, frame: np.ndarray, box: Any) -> None:
        self.first = frame, box

    def update(self, frame: np.ndarray) -> tuple[bool, tuple[int, int, int, int]]:
        return self.answers.pop(0)

    def getTrackingScore(self) -> float:  # noqa: N802
        return self.score


def textured(dx: int) -> np.ndarray:
    """A textured square that has moved by ``dx``, on noise."""
    frame = np.random.default_rng(0).integers(0, 60, (120, 160, 3), np.uint8)
    pattern = np.random.default_rng(1).integers(80, 255, (5, 5, 3), np.uint8)
    frame[40:70, 50 + dx : 80 + dx] = cv2.resize(pattern, (30, 30), interpolation=cv2.INTER_NEAREST)
    return frame


# --- what they are given and what they give


def test_opencv_is_given_bgr_and_whole_pixels() -> None:
    native = Native([])
    tracker = OpenCVTracker("nano", lambda: native)
    tracker.init(np.full((20, 30, 3), (1, 2, 3), np.uint8), (4.6, 5.4, 0.3, 7.5))
    frame, box = native.first
    assert frame[0, 0].tolist() == [3, 2, 1] and frame.flags.c_contiguous
    assert box == (5, 5, 1, 8)  # at least one pixel wide


def test_where_nothing_is_found_the_last_box_stands() -> None:
    nothing = (False, (0, 0, 0, 0))
    tracker = OpenCVTracker("nano", lambda: Native([nothing, (True, (7, 8, 9, 10)), nothing]))
    tracker.init(square_frame(0), (1.5, 2, 3, 4))
    results = [tracker.update(square_frame(index)) for index in (1, 2, 3)]
    assert [result.box for result in results] == [(1.5, 2, 3, 4), (7, 8, 9, 10), (7, 8, 9, 10)]
    assert [result.state for result in results] == ["lost", "tracking", "lost"]
    assert results[0].score == 0.75


def test_a_score_that_opencv_does_not_have_is_nan() -> None:
    tracker = OpenCVTracker("nano", lambda: Native([(True, (1, 1, 5, 5))], score=-1.0))
    tracker.init(square_frame(0), square_box(0))
    assert np.isnan(tracker.update(square_frame(1)).score)


def test_mil_follows_without_any_file() -> None:
    tracker = open_tracker(parse("opencv:mil"))
    tracker.init(textured(0), (50, 40, 30, 30))
    for dx in (3, 6, 9):
        result = tracker.update(textured(dx))
    boxes = geometry.xywh_to_xyxy([result.box, (59, 40, 30, 30)])
    assert geometry.iou(*boxes) > 0.6
    assert all(type(value) is float for value in result.box)
    assert np.isnan(result.score)


@pytest.mark.skipif(os.name != "posix", reason="C's rand() is only one for all libraries on POSIX")
def test_mil_gives_the_same_boxes_whatever_was_tracked_before() -> None:
    tracker = open_tracker(parse("opencv:mil"))
    passes = []
    for _ in range(2):
        tracker.init(textured(0), (50, 40, 30, 30))
        passes.append([tracker.update(textured(dx)).box for dx in (3, 6, 9, 14)])
    assert passes[0] == passes[1]


@pytest.mark.parametrize("name", ["nano", "vit"])
def test_a_network_of_opencv_follows_and_starts_anew(model_files: Path, name: str) -> None:
    tracker = open_tracker(parse(f"opencv:{name}", {"peers": model_files}))
    for _ in range(2):
        tracker.init(textured(0), (50, 40, 30, 30))
        result = tracker.update(textured(4))
        assert geometry.iou(*geometry.xywh_to_xyxy([result.box, (54, 40, 30, 30)])) > 0.5
        assert 0 <= result.score <= 1


def test_making_a_network_of_opencv_prints_nothing(
    model_files: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    level = cv2.utils.logging.getLogLevel()
    tracker = open_tracker(parse("opencv:vit", {"peers": str(model_files)}))
    tracker.init(textured(0), (50, 40, 30, 30))
    assert capfd.readouterr() == ("", "")
    assert cv2.utils.logging.getLogLevel() == level


def test_a_description_names_the_model_files_by_their_content(model_files: Path, tmp_path: Path) -> None:
    published = model_files / PEERS["vit"].files["net"][0]
    net = shutil.copy(published, tmp_path / "other.onnx")
    by_folder = describe(parse("opencv:vit", {"peers": model_files}))
    by_file = describe(parse("opencv:vit", {"net": net}))
    assert by_folder["sha256"] == by_file["sha256"]
    net.write_bytes(net.read_bytes() + b"\0")
    assert describe(parse("opencv:vit", {"net": net}))["sha256"] != by_file["sha256"]


# --- what is wrong


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("vit", {}, "opencv:vit needs model files: give net=FILE, or peers=FOLDER with object_tracking_vit"),
        ("nano", {"peers": "."}, "needs nanotrack_v2_backbone.onnx or .* as its backbone, and . holds none"),
        ("vit", {"net": "there/is/none.onnx"}, "needs a model file for net, got there/is/none.onnx"),
    ],
)
def test_a_model_file_that_is_missing_is_named(
    name: str, options: dict, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cv2, PEERS[name].kind, SimpleNamespace(), raising=False)
    for use in (open_tracker, describe):
        with pytest.raises((ValueError, FileNotFoundError), match=sentence):
            use(parse(f"opencv:{name}", options))


def test_a_damaged_model_file_is_said_so(tmp_path: Path) -> None:
    if not hasattr(cv2, "TrackerVit"):
        pytest.skip("this OpenCV has no TrackerVit")
    path = tmp_path / "net.onnx"
    path.write_bytes(b"not a network")
    with pytest.raises(ValueError, match=r"opencv:vit cannot be made from .*net\.onnx: "):
        open_tracker(parse("opencv:vit", {"net": path}))


@pytest.mark.parametrize("name", ["csrt", "kcf"])
def test_a_tracker_of_contrib_that_is_not_installed_says_what_to_install(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(cv2, PEERS[name].kind, raising=False)
    with pytest.raises(ModuleNotFoundError, match=rf"opencv:{name} is not in .*pip install 'opencv-contrib"):
        open_tracker(parse(f"opencv:{name}"))


def test_an_update_before_init_and_a_box_without_size_are_refused() -> None:
    tracker = open_tracker(parse("opencv:mil"))
    with pytest.raises(ValueError, match="call init"):
        tracker.update(square_frame(0))
    with pytest.raises(ValueError, match="positive width and height"):
        tracker.init(square_frame(0), (1, 2, 0, 4))


def test_what_opencv_refuses_is_one_sentence_with_frame_and_box() -> None:
    def refuse(*_: Any) -> None:
        error = cv2.error("all of it, with OpenCV's own file and line")
        error.err = "assertion failed\n in function"
        raise error

    native = Native([])
    native.init = native.update = refuse  # type: ignore[assignment, method-assign]
    tracker = OpenCVTracker("vit", lambda: native)
    with pytest.raises(
        ValueError,
        match=r"opencv:vit cannot init on a frame of 96 x 64 px with the box 10,8,12,12: assertion failed in f",
    ):
        tracker.init(square_frame(0), square_box(0))
    with pytest.raises(ValueError, match="cannot update on a frame of 96 x 64 px with the box 10,8,12,12"):
        tracker.update(square_frame(1))
