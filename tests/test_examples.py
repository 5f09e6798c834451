"""The stand-alone examples: what they import, and that they find the tracker's own boxes from a copied folder."""

from __future__ import annotations

import ast
import importlib.util
import shutil
import subprocess
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import openvino
import pytest
import replay
from replay import BOX, NUM_FRAMES, paint
from test_looking_again import JUMPED, WIDENING
from test_size_rules import HOLDING, leave_and_return, square_frame
from test_tracker import BOX as SQUARE
from test_tracker import Seeing

from mixformerv2 import Tracker
from mixformerv2.config import TrackerConfig
from mixformerv2.evaluate.proof import Clip
from mixformerv2.model import checkpoint
from mixformerv2.runtime.backend import Located, open_backend
from mixformerv2.runtime.export import export
from mixformerv2.runtime.torch import NetworkBackend
from mixformerv2.target import Sight
from mixformerv2.video import open_source

STANDALONE = Path(__file__).parents[1] / "examples" / "standalone"
CONFIG = replace(replay.CONFIG, tracker=replace(replay.CONFIG.tracker, size_calibration=0.5))
RUNTIMES = {"track_onnxruntime": "onnxruntime", "track_openvino": "openvino", "track_torch": "torch"}


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("frames")
    for index in range(NUM_FRAMES):
        cv2.imwrite(str(folder / f"{index:03d}.png"), paint(index)[..., ::-1])
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of three targets, carried to another place."""
    made = tmp_path_factory.mktemp("made")
    checkpoint.save(replay.network(), CONFIG, made / "model.safetensors")
    export(made / "model.safetensors", made / "exported", ["onnx", "openvino", "torch"])
    return Path(shutil.move(made / "exported", tmp_path_factory.mktemp("elsewhere")))


def boxes_of(tracker: Any) -> np.ndarray:
    tracker.init(paint(0), BOX)
    found = [tracker.update(paint(index)) for index in range(1, NUM_FRAMES)]
    return np.array([[*answer[0], answer[1]] for answer in found])


def rows(printed: str) -> np.ndarray:
    table = np.array([[float(value) for value in line.split(",")] for line in printed.splitlines()])
    np.testing.assert_array_equal(table[:, 0], np.arange(1, NUM_FRAMES))
    return table[:, 1:]


@pytest.fixture(scope="module")
def expected(folder: Path) -> np.ndarray:
    found = boxes_of(Tracker(backend=open_backend(folder, "onnxruntime", threads=1)))
    assert np.abs(np.diff(found[:, :4], axis=0)).max() > 2, "a box that stands still proves nothing"
    return found


def both(folder: Path, **rules: Any) -> tuple[Tracker, Any]:
    """Our tracker and that of the page, with these rules."""
    backend = NetworkBackend(replay.network(), replace(CONFIG, tracker=replace(CONFIG.tracker, **rules)))
    (folder / "config.json").write_text(backend.config.to_json())
    theirs = page_of_tracking().Tracker(folder, backend.encode_templates, backend.search)
    return Tracker(backend=backend), theirs


def page_of_tracking() -> Any:
    spec = importlib.util.spec_from_file_location("tracking", STANDALONE / "tracking.py")
    assert spec is not None and spec.loader is not None
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    return page


@pytest.mark.parametrize("size_inertia", [0.0, 0.3])
def test_a_box_whose_sides_are_the_wrong_way_round_is_taken_alike(
    tmp_path: Path, size_inertia: float
) -> None:
    tracker, theirs = both(tmp_path, size_inertia=size_inertia)
    for each in (tracker, theirs):
        each.init(paint(0), BOX)
    assert tracker.target is not None
    inverted = np.array([60.0, 20.0, 40.0, 50.0])
    tracker.target.follow(paint(1), [Sight(inverted, 1.0)])
    theirs.move(inverted, paint(1))
    np.testing.assert_allclose(theirs.box, tracker.target.box_frame, rtol=0, atol=1e-4)


@pytest.mark.parametrize("published_mapping", [True, False])
def test_the_page_of_tracking_is_the_tracker(tmp_path: Path, published_mapping: bool) -> None:
    tracker, theirs = both(tmp_path, published_mapping=published_mapping)
    np.testing.assert_allclose(boxes_of(theirs), boxes_of(tracker), rtol=0, atol=1e-4)
    assert tracker.target is not None
    assert (np.abs(np.log(tracker.target.size_factors)) > 0.01).all(), "sizes that fit prove nothing"


def test_the_page_follows_the_demo_clip_as_the_tracker_does(tmp_path: Path) -> None:
    """Whose windows, wider than the frame, painted frames do not have."""
    backend = open_backend("tiny", "onnxruntime", threads=1)
    (tmp_path / "config.json").write_text(backend.config.to_json())
    theirs = page_of_tracking().Tracker(
        tmp_path, backend.encode_templates, lambda crop, cache: backend.search(crop, cache)
    )
    ours, clip = Tracker(backend=backend), Clip.of_demo()
    frames = [frame for _, frame in zip(range(60), open_source(clip.source), strict=False)]
    for each in (ours, theirs):
        each.init(frames[0], clip.box)
    found = [(ours.update(frame).box, theirs.update(frame)[0]) for frame in frames[1:]]
    np.testing.assert_allclose(*np.array(found).swapaxes(0, 1), rtol=0, atol=1e-3)


class Doubting(Seeing):
    """Finds the square, but in the frame of its return not for sure."""

    def search(self, crop: np.ndarray, cache: int) -> Located:
        self.crops.append(crop)
        box_unit, score = super().search(crop, cache)
        return Located(box_unit, score if len(self.crops) != 10 else np.full(1, 0.5, np.float32))


def test_a_target_that_leaves_and_returns_is_followed_alike(tmp_path: Path) -> None:
    tracker, theirs = both(tmp_path, **asdict(replace(HOLDING, size_inertia=0.3)))
    tracker.backend = Doubting()
    theirs.encode, theirs.search = (lambda *_: 0), Doubting().search
    first, *frames = leave_and_return()
    states = []
    tracker.init(first, SQUARE)
    theirs.init(first, SQUARE)
    for frame in frames:
        found, result = theirs.update(frame), tracker.update(frame)
        np.testing.assert_allclose(found[0], result.box, rtol=0, atol=1e-4)
        states.append(result.state)
    assert states == ["tracking"] * 7 + ["lost"] * 3 + ["tracking"] * 2


def test_a_target_that_jumps_is_followed_alike(tmp_path: Path) -> None:
    tracker, theirs = both(tmp_path, **asdict(WIDENING))
    tracker.backend = Seeing()
    theirs.encode, theirs.search = (lambda *_: 0), Seeing().search
    for each in (tracker, theirs):
        each.init(square_frame(), SQUARE)
    found, result = theirs.update(JUMPED), tracker.update(JUMPED)
    assert result.state == "tracking" and result.box[0] < 20
    np.testing.assert_allclose(found[0], result.box, rtol=0, atol=1e-4)


@pytest.mark.parametrize("page", ["tracking.py", "cpp/track.cpp"])
def test_the_examples_know_every_online_rule(page: str) -> None:
    rules = {field.name for field in fields(TrackerConfig)}
    unknown = {rule for rule in rules if f'"{rule}"' not in (STANDALONE / page).read_text()}
    assert not unknown


@pytest.mark.parametrize("name", ["tracking", *RUNTIMES])
def test_an_example_needs_its_runtime_numpy_and_opencv_alone(name: str) -> None:
    names = {
        (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name)
        for node in ast.walk(ast.parse((STANDALONE / f"{name}.py").read_text()))
        if isinstance(node, (ast.Import, ast.ImportFrom))
    }
    allowed = {"numpy", "cv2", "tracking", RUNTIMES.get(name), *sys.stdlib_module_names}
    assert {str(module).split(".")[0] for module in names} <= allowed


@pytest.mark.parametrize("name", RUNTIMES)
def test_every_python_example_finds_the_trackers_boxes(
    folder: Path, frames: Path, expected: np.ndarray, name: str
) -> None:
    box = ",".join(map(str, BOX))
    command = [sys.executable, STANDALONE / f"{name}.py", folder, frames / "%03d.png", box]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    np.testing.assert_allclose(rows(ran.stdout), expected, rtol=0, atol=0.01)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "give three arguments: python "),
        (["none.mp4", "1,2,3,4"], "none.mp4 must be a video that can be read"),
    ],
)
def test_a_python_example_says_in_one_line_what_is_wrong(
    folder: Path, arguments: list[str], sentence: str
) -> None:
    command = [sys.executable, STANDALONE / "track_onnxruntime.py", folder, *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 1 and ran.stderr.splitlines()[-1].startswith(sentence)


@pytest.fixture(scope="module")
def cpp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    missing = [tool for tool in ("cmake", "c++") if shutil.which(tool) is None]
    cmake = Path(openvino.__file__).parent / "cmake"
    if missing or not cmake.is_dir():
        pytest.skip(f"no {' and no '.join(missing)} here" if missing else f"this OpenVINO has no {cmake}")
    build = tmp_path_factory.mktemp("build")
    for command in (
        ["cmake", "-S", STANDALONE / "cpp", "-B", build, f"-DOpenVINO_DIR={cmake}"],
        ["cmake", "--build", build],
    ):
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stdout + ran.stderr
    return build / "track"


def ppm(picture: np.ndarray) -> bytes:
    return b"P6\n%d %d\n255\n" % picture.shape[1::-1] + picture.tobytes()


def test_the_cpp_example_finds_the_trackers_boxes(cpp: Path, folder: Path, expected: np.ndarray) -> None:
    pictures = b"".join(ppm(paint(index)) for index in range(NUM_FRAMES))
    box = ",".join(map(str, BOX))
    ran = subprocess.run([cpp, folder, box], input=pictures, capture_output=True, check=False)
    assert ran.returncode == 0, ran.stderr
    np.testing.assert_allclose(rows(ran.stdout.decode()), expected, rtol=0, atol=0.01)


def test_the_cpp_example_says_in_one_line_what_is_wrong(cpp: Path, folder: Path, tmp_path: Path) -> None:
    for arguments, pictures, words in (
        ([folder, "1,2,3"], b"", "usage: track FOLDER x,y,w,h"),
        ([tmp_path, "1,2,3,4"], b"", "config.json cannot be read"),
        ([folder, "1,2,3,4"], b"GIF89a 1 1 1", "must hold binary PPM pictures"),
    ):
        ran = subprocess.run([cpp, *arguments], input=pictures, capture_output=True, check=False)
        assert ran.returncode == 2
        assert words in ran.stderr.decode()
        assert ran.stderr.decode().count("\n") == 1
