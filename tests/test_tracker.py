"""The online tracker: template rule by hand, windows and mapping by a backend that sees, bad input one by one."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import tiny
import torch

from mixformerv2.config import Config, TrackerConfig
from mixformerv2.geometry import CropWindow, xywh_to_xyxy
from mixformerv2.images import Frame
from mixformerv2.results import Result
from mixformerv2.runtime.backend import Backend, Located
from mixformerv2.tracker import Tracker

# A box of 16 px has a search window of 64 px at this factor, and these are the box's place in it.
RULES = TrackerConfig(search_factor=4.0, update_interval=3, min_side_px=4.0, published_mapping=False)
STAY = [0.375, 0.375, 0.625, 0.625]
BOX = (52.0, 42.0, 16.0, 16.0)


class Encoded(NamedTuple):
    template: np.ndarray
    online: np.ndarray


class Scripted:
    """A backend that gives the answers it was told, and keeps what it was asked."""

    name, precision = "scripted", "f32"

    def __init__(self, scores: Iterable[float] = (), box_unit: list[float] = STAY) -> None:
        self.config = Config(tiny.MODEL, RULES)
        self.encoded: list[Encoded] = []
        self.crops: list[np.ndarray] = []
        self.caches: list[int] = []
        self._scores = iter(scores)
        self._box_unit = box_unit

    def encode_templates(self, template: np.ndarray, online: np.ndarray) -> int:
        self.encoded.append(Encoded(template[0].copy(), online[0].copy()))
        return len(self.encoded) - 1

    def stack(self, caches: Any) -> Any:
        raise AssertionError("one target needs no stack")

    def search(self, crop: np.ndarray, cache: int) -> Located:
        self.crops.append(crop[0].copy())
        self.caches.append(cache)
        score = next(self._scores, 0.9)
        return Located(np.array([self._box_unit], np.float32), np.array([score], np.float32))


class Seeing(Scripted):
    """A backend that finds the bright square of the test clip in the crop."""

    def search(self, crop: np.ndarray, cache: int) -> Located:
        rows, columns = np.nonzero(crop[0].min(axis=-1) > 150)
        found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] if len(rows) else [0, 0, 1, 1]
        box_unit = np.array([found], np.float32) / crop.shape[1]
        return Located(box_unit, np.array([0.9 if len(rows) else 0.1], np.float32))


def grey_frame(value: int) -> Frame:
    """120 x 100 px of one grey, so that every crop tells which frame it comes from."""
    return np.full((100, 120, 3), value, np.uint8)


def noise_frame(seed: int = 0, width: int = 120, height: int = 100) -> Frame:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def started(backend: Backend, frame: Frame | None = None, box: Any = BOX, **options: Any) -> Tracker:
    tracker = Tracker(backend=backend, **options)
    tracker.init(grey_frame(100) if frame is None else frame, box)
    return tracker


def online_templates(scores: list[float], **rules: Any) -> list[list[int]]:
    """The online templates after each change, by the number of the frame they were cut from; 0 is the first."""
    backend = Scripted(scores)
    config = TrackerConfig(**({"search_factor": 4.0, "published_mapping": False} | rules))
    tracker = started(backend, grey_frame(100), config=config)
    for number in range(1, len(scores) + 1):
        tracker.update(grey_frame(100 + number))
    assert all((encoded.template == 100).all() for encoded in backend.encoded), "the first template is fixed"
    return [[int(crop[16, 16, 0]) - 100 for crop in encoded.online] for encoded in backend.encoded]


# Templates


def test_the_best_crop_of_an_interval_becomes_the_online_template() -> None:
    assert online_templates([0.6, 0.9, 0.7, 0.8, 0.6, 0.7], update_interval=3) == [[0], [2], [4]]


def test_an_interval_without_a_good_crop_brings_the_first_template_back() -> None:
    scores = [0.6, 0.9, 0.7, 0.4, 0.5, 0.3, 0.2, 0.2, 0.2]  # a crop must be above 0.5
    assert online_templates(scores, update_interval=3) == [[0], [2], [0]], "and is not encoded twice"


def test_a_crop_must_be_better_than_the_threshold() -> None:
    assert online_templates([0.6, 0.65, 0.7], update_interval=3, update_threshold=0.7) == [[0]]
    assert online_templates([0.6, 0.65, 0.75], update_interval=3, update_threshold=0.7) == [[0], [3]]


@pytest.mark.parametrize(
    ("decay", "best"),
    [
        (1.0, 1),
        (0.9, 1),  # 0.81 in the second frame, 0.729 in the third
        (0.7, 3),  # 0.63, then 0.441
        (0.5, 3),  # 0.45: the second frame wins, 0.3 a frame later
    ],
)
def test_the_score_to_beat_decays_with_every_frame(decay: float, best: int) -> None:
    assert online_templates([0.9, 0.6, 0.7], update_interval=3, score_decay=decay) == [[0], [best]]


def test_several_online_templates_are_filled_and_then_replaced_in_turn() -> None:
    changes = online_templates([0.9] * 4, update_interval=1, online_templates=2)
    assert changes == [[0], [0, 1], [2, 1], [2, 3], [4, 3]]


def test_a_longer_interval_waits_longer() -> None:
    assert online_templates([0.9] * 4, update_interval=5) == [[0]]


def test_a_new_template_is_used_from_the_next_frame_on() -> None:
    backend = Scripted([0.9] * 7)
    tracker = started(backend)
    for _ in range(7):
        tracker.update(grey_frame(101))
    assert backend.caches == [0, 0, 0, 1, 1, 1, 2]


def test_a_template_is_cut_around_the_box_that_was_found_in_its_frame() -> None:
    to_the_right = [0.5, 0.375, 0.75, 0.625]  # by 8 px
    backend = Scripted([0.9] * 3, to_the_right)
    tracker = started(backend)
    frames = [noise_frame(seed) for seed in range(3)]
    results = [tracker.update(frame) for frame in frames]
    assert [result.box[0] for result in results] == [60.0, 68.0, 76.0]
    window = CropWindow.around(xywh_to_xyxy(results[0].box), 2.0, 32)
    np.testing.assert_array_equal(backend.encoded[1].online, [window.cut(frames[0])])


@pytest.mark.parametrize(("hold", "lefts"), [(False, [60.0, 68.0, 76.0]), (True, [60.0, 60.0, 68.0])])
def test_the_box_of_a_lost_target_may_stay_where_it_was(hold: bool, lefts: list[float]) -> None:
    to_the_right = [0.5, 0.375, 0.75, 0.625]  # by 8 px
    rules = dataclasses.replace(RULES, hold_when_lost=hold, lost_threshold=0.4)
    tracker = started(Scripted([0.9, 0.39, 0.4], to_the_right), config=rules)
    results = [tracker.update(grey_frame(100)) for _ in range(3)]
    assert [result.box[0] for result in results] == lefts
    assert [result.state for result in results] == ["tracking", "lost", "tracking"]


def test_a_box_that_is_held_is_no_template() -> None:
    """Its score is that of another place."""
    rules = dataclasses.replace(RULES, hold_when_lost=True, lost_threshold=0.7, update_interval=1)
    backend = Scripted([0.6, 0.8])
    tracker = started(backend, config=rules)
    frames = [noise_frame(seed) for seed in (1, 2)]
    tracker.update(frames[0])
    assert len(backend.encoded) == 1
    tracker.update(frames[1])
    window = CropWindow.around(xywh_to_xyxy(BOX), 2.0, 32)
    np.testing.assert_array_equal(backend.encoded[1].online, [window.cut(frames[1])])


def test_a_template_is_dimmed_around_the_box_where_the_network_wants_that() -> None:
    backend = Scripted([0.9] * 3)
    model = dataclasses.replace(backend.config.model, template_surround=0.5)
    backend.config = dataclasses.replace(backend.config, model=model)
    frame = noise_frame()
    started(backend, frame)
    # The template of 32 px shows 32 px of the frame, the box of 16 px in the middle of them.
    around = CropWindow.around(xywh_to_xyxy(BOX), 2.0, 32).cut(frame)
    expected = np.rint(around / 2)
    expected[8:24, 8:24] = around[8:24, 8:24]
    np.testing.assert_array_equal(backend.encoded[0].template, expected)


def test_the_search_crop_is_cut_around_the_last_box() -> None:
    backend = Scripted()
    tracker = started(backend)
    frame = noise_frame()
    tracker.update(frame)
    np.testing.assert_array_equal(backend.crops[0], frame[18:82, 28:92])  # 64 px around (60, 50)


# Boxes


@pytest.mark.parametrize("published_mapping", [False, True])
def test_a_moving_square_is_followed_over_the_border_of_the_frame(published_mapping: bool) -> None:
    rules = TrackerConfig(min_side_px=4.0, published_mapping=published_mapping)
    tracker = started(Seeing(), tiny.square_frame(0), tiny.square_box(0), config=rules)
    for index in range(1, 26):
        result = tracker.update(tiny.square_frame(index))
        visible = np.clip(xywh_to_xyxy(tiny.square_box(index)), 0, [tiny.WIDTH, tiny.HEIGHT] * 2)
        # One pixel of the crop, and with the published mapping the black rim of the frame.
        np.testing.assert_allclose(xywh_to_xyxy(result.box), visible, atol=2.0)
        assert result.state == "tracking"


def test_a_result_is_plain_python() -> None:
    tracker = started(Scripted([0.75]))
    result = tracker.update(grey_frame(100))
    assert result == Result(BOX, 0.75, "tracking")
    assert type(result) is Result
    assert [type(value) for value in result.box] == [float] * 4
    assert (type(result.score), type(result.state)) == (float, str)
    assert tracker.box == result.box


def test_a_low_score_means_lost_and_the_tracker_goes_on() -> None:
    tracker = started(Scripted([0.5, 0.499, 0.001, 0.9]))
    states = [tracker.update(grey_frame(100)).state for _ in range(4)]
    assert states == ["tracking", "lost", "lost", "tracking"]
    config = TrackerConfig(lost_threshold=0.2)
    assert started(Scripted([0.21]), config=config).update(grey_frame(100)).state == "tracking"


@pytest.mark.parametrize("box_unit", [[-9.0, -9, -8, -8], [8.0, 8, 9, 9], [0.9, 0.9, 0.1, 0.1]])
def test_a_box_is_never_outside_the_frame_nor_without_size(box_unit: list[float]) -> None:
    tracker = started(Scripted(box_unit=box_unit))
    for _ in range(5):
        x, y, w, h = tracker.update(grey_frame(100)).box
        assert x >= 0 and y >= 0 and x + w <= 120 and y + h <= 100
        assert w >= 4 and h >= 4


@pytest.mark.parametrize(("score", "side"), [(float("nan"), 0.4), (0.9, float("nan")), (0.9, float("inf"))])
def test_weights_that_answer_without_numbers_are_named(score: float, side: float) -> None:
    tracker = started(Scripted([score], box_unit=[side, 0.4, 0.6, 0.6]))
    with pytest.raises(ValueError, match="the network answered with numbers that are not finite"):
        tracker.update(grey_frame(100))
    assert np.isfinite(tracker.box).all()


def test_a_target_of_two_pixels_can_be_followed() -> None:
    frame = np.zeros((40, 60, 3), np.uint8)
    frame[20:22, 30:32] = 255
    tracker = started(Seeing(), frame, (30, 20, 2, 2), config=TrackerConfig(min_side_px=2.0))
    for _ in range(3):
        x, y, w, h = tracker.update(frame).box
        assert abs(x - 30) <= 1 and abs(y - 20) <= 1
        assert 2 <= w <= 4 and 2 <= h <= 4


def test_a_target_in_a_frame_smaller_than_the_least_box_can_be_followed() -> None:
    tracker = started(Scripted(), np.zeros((3, 5, 3), np.uint8), (1, 1, 2, 1), config=TrackerConfig())
    assert tracker.update(np.zeros((3, 5, 3), np.uint8)).box == pytest.approx((0, 0, 3, 3), abs=5)


def test_a_target_larger_than_the_frame_is_followed_as_the_whole_frame() -> None:
    frame = noise_frame(width=1920, height=1080)
    backend = Scripted()
    with pytest.warns(UserWarning, match=r"clipped to 0,0,1920,1080"):
        tracker = started(backend, frame, (-5000, -5000, 20000, 20000))
    assert tracker.box == (0, 0, 1920, 1080)
    x, y, w, h = tracker.update(frame).box
    assert 0 <= x < x + w <= 1920 and 0 <= y < y + h <= 1080
    assert backend.crops[0].shape == (64, 64, 3)


def test_a_frame_of_another_size_is_the_same_picture_at_another_resolution() -> None:
    tracker = started(Scripted())
    x, y, w, h = BOX
    assert tracker.update(np.zeros((200, 240, 3), np.uint8)).box == (2 * x, 2 * y, 2 * w, 2 * h)
    assert tracker.update(grey_frame(100)).box == BOX
    # 16 px wide and 24 high now: the window is square, so a box of equal sides comes out, around the same centre.
    x, y, w, h = tracker.update(np.zeros((150, 120, 3), np.uint8)).box
    assert (x + w / 2, y + h / 2) == pytest.approx((60, 75), abs=0.6)


# One loaded model, many objects


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_checkpoint(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture(autouse=True)
def _threads_of_torch_as_before() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def open_tiny(weights: Path) -> Tracker:
    return Tracker(weights, backend="torch", threads=1)


def follow(tracker: Tracker, box: Any, seeds: range) -> list[Result]:
    tracker.init(noise_frame(seeds[0]), box)
    return [tracker.update(noise_frame(seed)) for seed in seeds[1:]]


def test_a_tracker_starts_afresh_when_init_is_called_again(weights: Path) -> None:
    used = open_tiny(weights)
    follow(used, (10, 20, 30, 20), range(6))
    assert follow(used, BOX, range(10, 18)) == follow(open_tiny(weights), BOX, range(10, 18))


def test_the_interval_begins_again_with_init() -> None:
    backend = Scripted()
    tracker = started(backend)
    for _ in range(2):
        tracker.update(grey_frame(101))
    tracker.init(grey_frame(110), BOX)
    for _ in range(2):
        tracker.update(grey_frame(111))
    assert len(backend.encoded) == 2
    tracker.update(grey_frame(111))
    assert [int(encoded.online[0, 0, 0, 0]) for encoded in backend.encoded] == [100, 110, 111]


def test_two_trackers_that_share_a_backend_answer_as_two_with_their_own(weights: Path) -> None:
    first, second = open_tiny(weights), open_tiny(weights)
    apart = follow(first, BOX, range(8)), follow(second, (5, 5, 40, 30), range(8))
    first, second = Tracker(backend=first.backend), Tracker(backend=first.backend)
    first.init(noise_frame(0), BOX)
    second.init(noise_frame(0), (5, 5, 40, 30))
    together: tuple[list[Result], list[Result]] = ([], [])
    for seed in range(1, 8):
        together[0].append(first.update(noise_frame(seed)))
        together[1].append(second.update(noise_frame(seed)))
    assert together == apart
    assert apart[0] != apart[1]


def test_a_shared_backend_brings_its_own_rules_unless_others_are_given(weights: Path) -> None:
    backend = open_tiny(weights).backend
    assert Tracker(backend=backend).config == tiny.CONFIG.tracker
    others = TrackerConfig(update_interval=7)
    assert Tracker(backend=backend, config=others).config == others


# Bad input


@pytest.mark.parametrize(
    ("box", "clipped"),
    [
        ((-6, 10, 20, 20), (0, 10, 14, 20)),
        ((110, 90, 20, 20), (110, 90, 10, 10)),
        ((10, -1.5, 20, 20), (10, 0, 20, 18.5)),
    ],
)
def test_a_box_partly_outside_is_clipped_with_a_warning(box: Any, clipped: Any) -> None:
    tracker = Tracker(backend=Scripted())
    with pytest.warns(
        UserWarning, match="over the border of the frame of 120 x 100 px: clipped to"
    ) as caught:
        tracker.init(grey_frame(100), box)
    assert len(caught) == 1
    assert tracker.box == pytest.approx(clipped)


def test_the_warning_names_the_line_of_the_caller(tmp_path: Path) -> None:
    tiny.write_checkpoint(tmp_path / "model.safetensors")
    program = tmp_path / "program.py"
    program.write_text(
        "import numpy as np\n"
        "from mixformerv2 import MultiTracker, Tracker\n"
        "frame, box = np.zeros((100, 120, 3), np.uint8), (-6, 10, 20, 20)\n"
        "Tracker('model.safetensors').init(frame, box)\n"
        "MultiTracker('model.safetensors').add(frame, box)\n"
    )
    ran = subprocess.run([sys.executable, program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert re.findall(r"program\.py:(\d+): UserWarning", ran.stderr) == ["4", "5"]


def test_a_box_in_fractions_of_the_frame_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"0\.4,0\.3,0\.2,0\.2 lies within one pixel: .* not in fractions of it"
    ):
        Tracker(backend=Scripted([0.9])).init(np.zeros((100, 120, 3), np.uint8), (0.4, 0.3, 0.2, 0.2))


@pytest.mark.parametrize("box", [(0, 0, 120, 100), (119, 99, 1, 1), (0.0, 99.5, 0.5, 0.5)])
def test_a_box_that_touches_the_border_is_accepted_as_it_is(box: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert started(Scripted(), box=box).box == pytest.approx(box)


@pytest.mark.parametrize(
    "box", [(120, 10, 5, 5), (-5, 10, 5, 5), (10, 100, 5, 5), (500, 500, 9, 9), (-1e9, 0, 10, 10)]
)
def test_a_box_wholly_outside_is_refused(box: Any) -> None:
    with pytest.raises(
        ValueError, match="lies outside the frame of 120 x 100 px: it must overlap it"
    ) as caught:
        started(Scripted(), box=box)
    assert f"the box {','.join(f'{value:g}' for value in box)} " in str(caught.value)


@pytest.mark.parametrize(
    "box",
    [
        (10, 10, 0, 5),
        (10, 10, 5, 0),
        (10, 10, -5, 5),
        (10, 10, float("nan"), 5),
        (10, float("inf"), 5, 5),
        (10, 10, 5),
        (10, 10, 5, 5, 5),
        "10,10,5,5",
        "1234",
        None,
    ],
    ids=repr,
)
def test_a_box_of_a_wrong_form_is_refused(box: Any) -> None:
    with pytest.raises(ValueError, match="four finite numbers with positive width and height"):
        started(Scripted(), box=box)


def test_update_before_init_is_refused() -> None:
    tracker = Tracker(backend=Scripted())
    with pytest.raises(ValueError, match=r"call init\(frame, box\) before update\(frame\)"):
        tracker.update(grey_frame(100))
    with pytest.raises(ValueError, match=r"call init\(frame, box\)"):
        _ = tracker.box


def test_a_refused_init_leaves_the_object_that_was_followed() -> None:
    tracker = started(Scripted())
    for frame, box in ((grey_frame(100), (500, 500, 5, 5)), (grey_frame(100), None), (None, BOX)):
        with pytest.raises(ValueError, match=r"outside the frame|four finite numbers|frame must"):
            tracker.init(frame, box)
    assert tracker.update(grey_frame(100)).box == BOX


# Kinds of frames


def repeated(grey: np.ndarray) -> Frame:
    return np.repeat(grey[..., None], 3, axis=2)


@pytest.mark.parametrize(
    ("convert", "seen"),
    [
        (lambda rgb: rgb[..., 0], lambda rgb: repeated(rgb[..., 0])),
        (lambda rgb: rgb[..., :1], lambda rgb: repeated(rgb[..., 0])),
        (lambda rgb: np.dstack([rgb, rgb[..., 1]]), lambda rgb: rgb),
        (lambda rgb: rgb.astype(np.uint16) * 257, lambda rgb: rgb),
        (lambda rgb: rgb.astype(np.float32) / 255, lambda rgb: rgb),
        (lambda rgb: rgb.astype(np.float64) / 255, lambda rgb: rgb),
        (np.asfortranarray, lambda rgb: rgb),
        (lambda rgb: rgb.tolist(), None),
    ],
    ids=["grey", "one channel", "RGBA", "16 bit", "float32", "float64", "column-major", "list"],
)
def test_every_kind_of_frame_is_seen_as_rgb_or_refused(
    convert: Callable[[Frame], Any], seen: Callable[[Frame], Frame] | None
) -> None:
    rgb = noise_frame()
    backend = Scripted()
    tracker = Tracker(backend=backend)
    if seen is None:
        with pytest.raises(ValueError, match="frame must be uint8, uint16, or float"):
            tracker.init(convert(rgb), BOX)
        return
    tracker.init(convert(rgb), BOX)
    tracker.update(convert(rgb))
    np.testing.assert_array_equal(backend.crops[0], seen(rgb)[18:82, 28:92])
    np.testing.assert_array_equal(backend.encoded[0].template, seen(rgb)[34:66, 44:76])


def test_bgr_frames_are_seen_as_rgb_where_the_tracker_was_told() -> None:
    rgb = noise_frame()
    backend = Scripted()
    tracker = started(backend, rgb[..., ::-1], channels="bgr")
    tracker.update(rgb[..., ::-1])
    np.testing.assert_array_equal(backend.crops[0], rgb[18:82, 28:92])
    with pytest.raises(ValueError, match='channels must be "rgb" or "bgr"'):
        started(Scripted(), channels="hsv")


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((100, 120, 3), np.float32) + 200,
        np.full((100, 120, 3), np.nan, np.float32),
        np.zeros((100, 120, 3), np.int32),
        np.zeros((100, 120, 3), bool),
        np.zeros((100, 120, 2), np.uint8),
        np.zeros((2, 100, 120, 3), np.uint8),
        np.zeros((0, 120, 3), np.uint8),
        None,
        "frame.jpg",
    ],
    ids=["float up to 200", "NaN", "int32", "bool", "two channels", "a batch", "empty", "None", "a path"],
)
def test_other_frames_are_refused_by_init_and_by_update(frame: Any) -> None:
    with pytest.raises(ValueError, match="frame"):
        started(Scripted(), frame=frame if frame is not None else np.array(None))
    tracker = started(Scripted())
    with pytest.raises(ValueError, match="frame"):
        tracker.update(frame)


def test_what_opencv_gives_at_the_end_of_a_video_is_named() -> None:
    with pytest.raises(ValueError, match="frame must be an array of pixels, got None, which OpenCV"):
        started(Scripted()).update(None)


@pytest.mark.parametrize("option", [{"precision": "int9"}, {"device": "cuda"}, {"threads": -5}], ids=str)
def test_a_loaded_backend_takes_no_options_of_loading(option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="a backend that is loaded has its own"):
        Tracker(backend=Scripted(), **option)


def test_a_wrong_order_of_colours_is_found_before_a_model_is_loaded() -> None:
    with pytest.raises(ValueError, match='channels must be "rgb" or "bgr"'):
        Tracker("nonsense", channels="brg")
