"""Frame sources and the overlay video, on videos and images made here."""

from __future__ import annotations

import itertools
import os
import re
import socket
import threading
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import tiny
from av.video.reformatter import Colorspace

from mixformerv2 import video
from mixformerv2.images import Frame, as_rgb_uint8, quiet_opencv, read_image
from mixformerv2.overlay import COLOURS, OverlayVideo, draw
from mixformerv2.results import Result
from mixformerv2.video import open_source, open_video

TRACKING = Result((20.0, 30.0, 40.0, 20.0), 0.87, "tracking")
NUM_FRAMES = 60


def grey_of(index: int) -> int:
    """Each frame of a test video is one grey, which tells it from its neighbours."""
    return 20 + 3 * index


def make_video(
    path: Path,
    num_frames: int = NUM_FRAMES,
    noise: bool = False,
    codec: str = "libx264",
    picture: Frame | None = None,
    **options: str,
) -> Path:
    random = np.random.default_rng(0)
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.bit_rate = 2_000_000
        stream.codec_context.gop_size = 10
        for index in range(num_frames):
            frame = np.full((48, 64, 3), grey_of(index), np.uint8)
            if noise:
                frame[:] = random.integers(0, 256, frame.shape)
            if picture is not None:
                frame = picture
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def cut(path: Path, fraction: float) -> Path:
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * fraction)])
    return path


def decode(path: Path) -> list[Frame]:
    with av.open(str(path)) as container:
        return [np.ascontiguousarray(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]


def assert_is_frame(frame: Frame, size: tuple[int, ...]) -> None:
    assert frame.shape == (*size, 3)
    assert frame.dtype == np.uint8
    assert frame.flags.c_contiguous


def sentence_of(caught: pytest.ExceptionInfo[BaseException]) -> str:
    sentence = str(caught.value)
    assert not re.search(r"\n|Errno", sentence)
    return sentence


# Video files


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.avi", "mpeg4"), ("a.webm", "libvpx-vp9")],
)
def test_every_frame_of_a_video_comes_once_and_in_order(tmp_path: Path, name: str, codec: str) -> None:
    with open_source(make_video(tmp_path / name, codec=codec)) as source:
        assert (source.name, source.fps, source.num_frames) == (name, 30.0, NUM_FRAMES)
        frames = list(source)
    assert len(frames) == NUM_FRAMES
    assert source.warning is None
    for index, frame in enumerate(frames):
        assert_is_frame(frame, (48, 64))
        assert abs(int(frame[24, 32, 1]) - grey_of(index)) <= 2


@pytest.mark.skipif(os.name == "nt", reason="no file has a colon in its name")
@pytest.mark.parametrize("name", ["12:30:00.mp4", "cam:1.mp4", "http:.mp4"])
def test_a_colon_in_the_name_of_a_file_is_no_protocol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    make_video(tmp_path / "a.mp4").rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    for source in (name, Path(name)):
        with open_source(source) as frames:
            assert len(list(frames)) == NUM_FRAMES


@pytest.mark.parametrize("width", [2, 50, 66, 202])
def test_frames_are_contiguous_whatever_their_width(tmp_path: Path, width: int) -> None:
    with OverlayVideo(tmp_path / "a.mp4", fps=25.0) as sink:
        sink.write(np.full((20, width, 3), 90, np.uint8))
    with open_source(tmp_path / "a.mp4") as source:
        assert_is_frame(next(source), (20, width))


@pytest.mark.parametrize("start_frame", [0, 1, 25, 59])
def test_a_video_can_start_at_any_frame(tmp_path: Path, start_frame: int) -> None:
    with open_source(str(make_video(tmp_path / "a.mp4")), start_frame) as source:
        frames = list(source)
    assert len(frames) == NUM_FRAMES - start_frame
    assert (source.start_frame, source.num_frames, source.warning) == (start_frame, NUM_FRAMES, None)
    assert abs(int(frames[0][24, 32, 1]) - grey_of(start_frame)) <= 2


def test_a_start_frame_outside_the_video_is_refused(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", num_frames=7)
    with pytest.raises(ValueError, match=r"start_frame must be below 7, as many frames a\.mp4 has, got 7"):
        open_source(path, 7)
    with pytest.raises(ValueError, match="start_frame must be a whole number from 0 on, got -1"):
        open_source(path, -1)


@pytest.mark.parametrize(
    ("matrix", "corner"),
    [
        # What an MP4 file says of x' = ax + cy, y' = bx + dy, as (a, b, c, d), and where the stored top left corner
        # is then seen. With (0, 1, -1, 0), which phones write, right becomes down: a quarter turn clockwise.
        ((1, 0, 0, 1), "top left"),
        ((0, 1, -1, 0), "top right"),
        ((-1, 0, 0, -1), "bottom right"),
        ((0, -1, 1, 0), "bottom left"),
        # Mirrored, as the front cameras of phones may write it, and then turned.
        ((-1, 0, 0, 1), "top right"),
        ((1, 0, 0, -1), "bottom left"),
        ((0, 1, 1, 0), "top left"),
        ((0, -1, -1, 0), "bottom right"),
    ],
)
def test_a_video_filmed_sideways_or_mirrored_is_turned_upright(
    tmp_path: Path, matrix: tuple[int, int, int, int], corner: str
) -> None:
    stored = np.zeros((48, 64, 3), np.uint8)
    stored[:16, :16] = 255
    path = make_video(tmp_path / "a.mp4", num_frames=2, picture=stored)
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 4 + 40
    for word, value in zip((0, 1, 3, 4), matrix, strict=True):
        content[place + 4 * word : place + 4 * word + 4] = (value << 16).to_bytes(4, "big", signed=True)
    path.write_bytes(content)
    with open_source(path) as source:
        frame = next(source)
    assert_is_frame(frame, (48, 64) if matrix[0] else (64, 48))
    corners = {"top left": (4, 4), "top right": (4, -4), "bottom left": (-4, 4), "bottom right": (-4, -4)}
    bright = [name for name, (row, column) in corners.items() if frame[row, column].min() > 200]
    assert bright == [corner]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
def test_a_video_cut_off_in_the_middle_gives_what_decodes_and_a_warning(tmp_path: Path, name: str) -> None:
    options = {"movflags": "+faststart"} if name == "a.mp4" else {}
    codec = "mpeg4" if name == "a.avi" else "libx264"
    path = cut(make_video(tmp_path / name, noise=True, codec=codec, **options), 0.6)
    with open_source(path) as source:
        frames = list(source)
        assert source.warning == (
            f"{name} is cut off: it ended after {len(frames)} frames of about {source.num_frames}"
        )
    assert 20 <= len(frames) <= 45


def test_a_stream_that_breaks_off_gives_the_frames_that_it_still_held(tmp_path: Path) -> None:
    class BreaksOff:
        def __init__(self, container: Any) -> None:
            self.container = container

        def demux(self, stream: Any) -> Any:
            yield from itertools.islice(self.container.demux(stream), 20)
            raise av.error.InvalidDataError(1, "broken")

    with av.open(str(make_video(tmp_path / "a.mp4"))) as container:
        source = video.VideoSource("a.mp4", container, container.streams.video[0])
        source.container = BreaksOff(container)  # type: ignore[assignment]
        assert len(list(source)) == 20
    assert source.warning == "a.mp4 is cut off: it ended after 20 frames of about 60"


def test_damage_in_the_middle_is_skipped_and_reported(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", noise=True)
    content = bytearray(path.read_bytes())
    middle, tenth = len(content) // 2, len(content) // 10
    content[middle : middle + tenth] = bytes(tenth)
    path.write_bytes(content)
    with open_source(path) as source:
        frames = list(source)
    assert NUM_FRAMES - 12 <= len(frames) < NUM_FRAMES
    expected = rf"a\.mp4 is damaged \(flaws found: \d\): {len(frames)} frames decoded"
    assert re.fullmatch(expected, str(source.warning))


def test_what_is_not_a_video_is_refused_in_one_sentence(tmp_path: Path) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("This is not a video.\n" * 100)
    notes = tmp_path / "notes.txt"  # FFmpeg would draw it as a terminal
    notes.write_text("This is not a video.\n" * 100)
    empty = tmp_path / "empty.mp4"
    empty.write_bytes(b"")
    without_index = cut(make_video(tmp_path / "cut.mp4", noise=True), 0.6)
    for path in (text, empty, without_index):
        with pytest.raises(ValueError, match="is not a video that can be read") as caught:
            open_source(path)
        assert str(path) in sentence_of(caught)
    with pytest.raises(ValueError, match=r"notes\.txt has no video stream"):
        open_source(notes)


def test_a_sound_file_has_no_video_stream(tmp_path: Path) -> None:
    path = tmp_path / "sound.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
    with pytest.raises(ValueError, match=r"sound\.wav has no video stream"):
        open_source(path)


def test_a_video_without_one_decodable_frame_is_refused(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", movflags="+faststart")
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"mdat") + 8])
    with pytest.raises(ValueError, match=r"a\.mp4 has no frame that can be decoded") as caught:
        open_source(path)
    sentence_of(caught)


def test_what_does_not_exist_is_refused(tmp_path: Path) -> None:
    for missing in (tmp_path / "none.mp4", str(tmp_path / "none"), ""):
        with pytest.raises(
            FileNotFoundError, match="does not exist: the source must be a video file"
        ) as caught:
            open_source(missing)
        assert str(missing) in sentence_of(caught)


def test_a_closed_source_gives_no_more_frames(tmp_path: Path) -> None:
    source = open_source(make_video(tmp_path / "a.mp4"))
    next(source)
    source.close()
    source.close()
    assert list(source) == []


# Images in folders and patterns


def test_a_folder_of_images_is_read_in_natural_order(tmp_path: Path) -> None:
    for number in (1, 2, 9, 10, 11, 100):
        cv2.imwrite(str(tmp_path / f"frame{number}.png"), np.full((4, 6, 3), number, np.uint8))
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "._frame1.png").write_bytes(b"a Mac leaves these")
    with open_source(tmp_path, start_frame=1) as source:
        assert (source.name, source.fps, source.num_frames) == (tmp_path.name, 25.0, 6)
        assert [int(frame[0, 0, 0]) for frame in source] == [2, 9, 10, 11, 100]
    with open_source(str(tmp_path / "frame1*.png")) as source:
        assert (source.name, source.num_frames) == (tmp_path.name, 4)
        assert [int(frame[0, 0, 0]) for frame in source] == [1, 10, 11, 100]
    with open_source(tmp_path / "frame9.png") as source:
        assert [int(frame[0, 0, 0]) for frame in source] == [9]
    with pytest.raises(ValueError, match="start_frame must be below 6"):
        open_source(tmp_path, start_frame=6)


def test_folders_and_patterns_without_images_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("no image")
    with pytest.raises(ValueError, match=r"must hold images \(\.jpg, .*got none") as caught:
        open_source(tmp_path)
    assert str(tmp_path) in sentence_of(caught)
    with pytest.raises(ValueError, match=r"must match images .*got 1 others"):
        open_source(str(tmp_path / "*.txt"))
    with pytest.raises(ValueError, match=r"must match images .*got 0 others"):
        open_source(str(tmp_path / "*.jpg"))


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif"])
def test_every_kind_of_image_comes_out_as_rgb(tmp_path: Path, suffix: str) -> None:
    cv2.imwrite(str(tmp_path / f"a{suffix}"), np.full((16, 16, 3), (40, 90, 200), np.uint8))  # BGR
    with open_source(tmp_path) as source:
        frame = next(source)
    assert_is_frame(frame, (16, 16))
    assert np.abs(frame[8, 8].astype(int) - (200, 90, 40)).max() <= 6


def test_grey_alpha_and_16_bit_images_are_converted(tmp_path: Path) -> None:
    pictures: dict[str, tuple[Any, tuple[int, int, int]]] = {
        "grey8.png": (np.full((4, 4), 77, np.uint8), (77, 77, 77)),
        "grey16.png": (np.full((4, 4), 77 * 257, np.uint16), (77, 77, 77)),
        "grey16.tif": (np.full((4, 4), 77 * 257, np.uint16), (77, 77, 77)),
        "bgr16.png": (np.full((4, 4, 3), (65535, 256, 0), np.uint16), (0, 1, 255)),
        "bgra8.png": (np.full((4, 4, 4), (10, 20, 30, 0), np.uint8), (30, 20, 10)),
        "bgra16.png": (np.full((4, 4, 4), (2570, 5140, 7710, 9), np.uint16), (30, 20, 10)),
    }
    for name, (stored, expected) in pictures.items():
        cv2.imwrite(str(tmp_path / name), stored)
        frame = read_image(tmp_path / name)
        assert_is_frame(frame, (4, 4))
        assert frame[2, 2].tolist() == list(expected), name


def test_reading_images_in_threads_leaves_opencvs_log_as_it_was(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8, 3), np.uint8))
    before = cv2.utils.logging.getLogLevel()
    first, second = quiet_opencv(), quiet_opencv()
    with first:
        second.__enter__()
        assert cv2.utils.logging.getLogLevel() == 0
    assert cv2.utils.logging.getLogLevel() == 0  # another thread still wants it quiet
    second.__exit__(None, None, None)
    assert cv2.utils.logging.getLogLevel() == before != 0


def test_an_unreadable_image_is_named(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "1.png"), np.zeros((4, 4, 3), np.uint8))
    for damage in (b"", b"not a picture"):
        (tmp_path / "2.png").write_bytes(damage)
        with open_source(tmp_path) as source:
            next(source)
            with pytest.raises(ValueError, match=r"2\.png is not an image that can be read"):
                next(source)
        with pytest.raises(ValueError, match=r"2\.png is not an image that can be read"):
            open_source(tmp_path, start_frame=1)
    with pytest.raises(FileNotFoundError, match=r"3\.png does not exist"):
        read_image(tmp_path / "3.png")


# Cameras and addresses


@pytest.mark.parametrize("address", [3, "3", "camera:3"])
def test_a_camera_gives_rgb_frames_until_it_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str | int
) -> None:
    for index in range(3):
        cv2.imwrite(str(tmp_path / f"{index}.png"), np.full((4, 4, 3), (200, 0, 0), np.uint8))  # BGR: blue
    capture = cv2.VideoCapture(str(tmp_path / "%d.png"))
    monkeypatch.setattr(video, "_open_camera", lambda number: video.CameraSource(number, capture))
    with open_source(address) as source:
        assert (source.name, source.num_frames) == ("camera 3", None)
        frames = list(source)
    assert [frame[0, 0].tolist() for frame in frames] == [[0, 0, 200]] * 3
    assert source.warning == "camera 3 stopped after 3 frames"
    assert not capture.isOpened()


def test_a_path_of_digits_is_a_folder_and_no_camera(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("0001").mkdir()
    cv2.imwrite("0001/0.png", np.zeros((8, 8, 3), np.uint8))
    with open_source(Path("0001")) as source:
        assert source.num_frames == 1


def test_a_camera_that_is_not_there_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="camera 97 cannot be opened"):
        open_source("camera:97")
    with pytest.raises(ValueError, match="camera must be a number from 0 to 9999, got 99999999999999"):
        open_source("99999999999999")
    with pytest.raises(ValueError, match="camera must be a number from 0 to 9999, got -1"):
        open_source(-1)
    assert capfd.readouterr().err == ""


def test_an_address_that_does_not_answer_is_refused_without_showing_the_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(video, "URL_TIMEOUT_S", 0.3)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        for scheme in ("http", "rtsp"):
            with pytest.raises(ValueError, match="cannot be opened") as caught:
                open_source(f"{scheme}://me:p@secret@127.0.0.1:{port}/a.mp4")
            assert "secret" not in sentence_of(caught)
        server.listen()  # takes the connection and says nothing
        with pytest.raises(ValueError, match=r"did not answer within 0\.3 s"):
            open_source(f"http://127.0.0.1:{port}/a.mp4")
    with pytest.raises(ValueError, match="address must begin with one of rtsp"):
        open_source("ftp://example.org/a.mp4")


# A caller's own frames


def test_an_rgb_uint8_frame_passes_untouched() -> None:
    frame = np.zeros((4, 5, 3), np.uint8)
    assert as_rgb_uint8(frame) is frame
    part = frame[1:3, 1:3]
    assert as_rgb_uint8(part) is part


@pytest.mark.parametrize(
    ("pixel", "dtype", "channels", "expected"),
    [
        ((1, 2, 3), np.uint8, "bgr", (3, 2, 1)),
        ((9,), np.uint8, "rgb", (9, 9, 9)),
        ((9,), np.uint8, "bgr", (9, 9, 9)),
        ((1, 2, 3, 4), np.uint8, "rgb", (1, 2, 3)),
        ((1, 2, 3, 4), np.uint8, "bgr", (3, 2, 1)),
        ((0, 257, 65535), np.uint16, "rgb", (0, 1, 255)),
        ((0, 257, 65535), ">u2", "bgr", (255, 1, 0)),
        ((0.0, 0.5, 1.0), np.float32, "rgb", (0, 128, 255)),
        ((0.0, 0.5, 1.0, 0.2), np.float64, "bgr", (255, 128, 0)),
        ((0.2,), np.float16, "rgb", (51, 51, 51)),
    ],
)
def test_frames_of_other_kinds_are_converted(
    pixel: tuple[float, ...], dtype: Any, channels: str, expected: tuple[int, int, int]
) -> None:
    frame = as_rgb_uint8(np.full((4, 5, len(pixel)), pixel, dtype), channels)
    assert_is_frame(frame, (4, 5))
    assert frame[2, 2].tolist() == list(expected)


def test_a_grey_frame_without_a_channel_axis_is_repeated() -> None:
    assert as_rgb_uint8(np.full((4, 5), 7, np.uint8)).tolist() == np.full((4, 5, 3), 7).tolist()


@pytest.mark.parametrize(
    ("frame", "sentence"),
    [
        (np.full((4, 4, 3), 255.0), r"float64 must lie in \[0, 1\], got 255 to 255"),
        (np.full((4, 4, 3), -0.1, np.float32), r"float32 must lie in \[0, 1\]"),
        (np.full((4, 4, 3), np.nan), r"must lie in \[0, 1\], got nan"),
        (np.full((4, 4, 3), np.inf), r"must lie in \[0, 1\], got inf"),
        (np.zeros((4, 4, 3), np.int32), "must be uint8, uint16, or float.*got int32"),
        (np.zeros((4, 4, 3), bool), "got bool"),
        (np.zeros((3, 4, 5), np.uint8), r"must have shape \(height, width, 3\).*got shape \(3, 4, 5\)"),
        (np.zeros((4, 4, 2), np.uint8), r"got shape \(4, 4, 2\)"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"got shape \(1, 4, 4, 3\)"),
        (np.zeros((0, 4, 3), np.uint8), r"not be empty, got shape \(0, 4, 3\)"),
        (None, "must be an array of pixels, got None"),
    ],
)
def test_frames_that_cannot_be_meant_are_refused(frame: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        as_rgb_uint8(frame)
    sentence_of(caught)


def test_an_unknown_order_of_channels_is_refused() -> None:
    with pytest.raises(ValueError, match='channels must be "rgb" or "bgr", got \'gbr\''):
        as_rgb_uint8(np.zeros((4, 4, 3), np.uint8), "gbr")


# The overlay


@pytest.mark.parametrize("size", [(1, 1), (9, 16), (48, 64), (480, 640), (1080, 1920)])
@pytest.mark.parametrize("state", ["tracking", "lost"])
def test_draw_marks_a_copy_of_a_frame_of_any_size(size: tuple[int, int], state: str) -> None:
    frame = np.full((*size, 3), 128, np.uint8)
    drawn = draw(
        frame, Result((size[1] * 0.3, size[0] * 0.5, size[1] * 0.4, size[0] * 0.3), 0.5, state), fps=31.4
    )
    assert_is_frame(drawn, size)
    assert (frame == 128).all()
    assert (drawn != 128).any()


def test_draw_puts_the_colour_of_the_state_on_the_edges_of_the_box() -> None:
    frame = np.zeros((200, 200, 3), np.uint8)
    for state in ("tracking", "lost"):
        drawn = draw(frame, Result((50.0, 80.0, 60.0, 40.0), 0.5, state))
        for x, y in [(50, 100), (109, 100), (80, 80), (80, 119)]:
            assert tuple(drawn[y, x]) == COLOURS[state]
        assert not drawn[85:115, 55:105].any()


@pytest.mark.parametrize(
    "box", [(-500.0, -500.0, 5000.0, 5000.0), (300.0, 300.0, 10.0, 10.0), (10.0, 10.0, 0.2, 0.2)]
)
def test_draw_accepts_boxes_larger_than_beside_and_smaller_than_a_pixel_of_the_frame(
    box: tuple[float, float, float, float],
) -> None:
    assert draw(np.zeros((100, 100, 3), np.uint8), Result(box, 0.5, "tracking")).shape == (100, 100, 3)


def test_the_speed_is_left_out_where_the_frame_is_too_narrow_for_it() -> None:
    narrow, wide = np.zeros((48, 64, 3), np.uint8), np.zeros((480, 640, 3), np.uint8)
    assert (draw(narrow, TRACKING, fps=30.0) == draw(narrow, TRACKING)).all()
    assert (draw(wide, TRACKING, fps=30.0) != draw(wide, TRACKING)).any()


# The overlay video


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv"])
def test_an_overlay_video_is_h264_with_every_frame_in_its_colours(tmp_path: Path, name: str) -> None:
    colour = np.full((48, 64, 3), (200, 60, 30), np.uint8)
    with OverlayVideo(tmp_path / name, fps=29.97) as sink:
        for _ in range(20):
            sink.write(colour)
        assert not (tmp_path / name).exists()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    with av.open(str(tmp_path / name)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert float(stream.average_rate or 0) == pytest.approx(29.97, abs=0.1)
        frames = list(container.decode(stream))
    assert len(frames) == 20
    # By BT.709: Y = 16 + 219 (0.2126 R + 0.7152 G + 0.0722 B) / 255, U and V from B - Y and R - Y.
    assert frames[5].colorspace == Colorspace.ITU709
    planes = frames[5].to_ndarray(format="yuv420p")
    assert np.abs(planes[[10, 50, 65], 10].astype(int) - (91, 101, 191)).max() <= 2


@pytest.mark.parametrize(("size", "even"), [((47, 64), (48, 64)), ((48, 63), (48, 64)), ((1, 1), (2, 2))])
def test_odd_sides_are_made_even(tmp_path: Path, size: tuple[int, int], even: tuple[int, int]) -> None:
    with OverlayVideo(tmp_path / "a.mp4", fps=25.0) as sink:
        sink.write(np.full((*size, 3), 200, np.uint8))
    (frame,) = decode(tmp_path / "a.mp4")
    assert_is_frame(frame, even)
    assert frame.min() > 190


def test_frames_of_another_size_are_fitted_into_the_first_size(tmp_path: Path) -> None:
    with OverlayVideo(tmp_path / "a.mp4", fps=25.0) as sink:
        for size in ((48, 64), (96, 128), (48, 16), (10, 200)):
            sink.write(np.full((*size, 3), 200, np.uint8))
    same, larger, tall, wide = (frame.astype(int) for frame in decode(tmp_path / "a.mp4"))
    assert min(same.min(), larger.min()) > 180
    assert tall[:, 28:36].min() > 150
    assert max(tall[:, :16].max(), tall[:, 48:].max()) < 50
    assert wide[24].min() > 150
    assert max(wide[:16].max(), wide[32:].max()) < 50


def test_frames_that_no_encoder_takes_are_refused_by_name(tmp_path: Path) -> None:
    with (
        pytest.raises(
            ValueError, match=r"a\.mp4 cannot be written: the encoder \w+ takes no frames of 70000 x 4"
        ),
        OverlayVideo(tmp_path / "a.mp4", fps=25.0) as sink,
    ):
        sink.write(np.zeros((4, 70000, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said_of_the_file_that_was_asked_for(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")  # not on Windows
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with (
            pytest.raises(OSError, match=r"^\S*a\.mp4 cannot be written: File too large"),
            OverlayVideo(tmp_path / "a.mp4", fps=25.0) as sink,
        ):
            for index in range(60):
                sink.write(np.random.default_rng(index).integers(0, 256, (64, 64, 3), np.uint8))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def fail_after_frames(sink: OverlayVideo, num_frames: int, error: type[BaseException]) -> None:
    for _ in range(num_frames):
        sink.write(np.zeros((48, 64, 3), np.uint8))
    raise error("stop")


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_ctrl_c_or_an_error_leaves_a_finished_video(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error, match="stop"), OverlayVideo(tmp_path / "a.mp4", fps=25.0) as sink:
        fail_after_frames(sink, 7, error)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
    assert len(decode(tmp_path / "a.mp4")) == 7


def test_without_a_frame_or_when_discarded_nothing_is_left_behind(tmp_path: Path) -> None:
    with OverlayVideo(tmp_path / "a.mp4", fps=25.0):
        pass
    sink = OverlayVideo(tmp_path / "a.mp4", fps=25.0)
    sink.write(np.zeros((48, 64, 3), np.uint8))
    sink.discard()
    sink.close()
    assert list(tmp_path.iterdir()) == []


def test_an_existing_video_is_replaced_only_on_request(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("mine")
    with pytest.raises(FileExistsError, match=r"a\.mp4 exists already.*--overwrite"):
        OverlayVideo(tmp_path / "a.mp4", fps=25.0)
    assert (tmp_path / "a.mp4").read_text() == "mine"
    with OverlayVideo(tmp_path / "a.mp4", fps=25.0, overwrite=True) as sink:
        sink.write(np.zeros((48, 64, 3), np.uint8))
    assert len(decode(tmp_path / "a.mp4")) == 1


def test_a_video_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="file is not a folder"):
        OverlayVideo(tmp_path / "file" / "a.mp4", fps=25.0)
    with pytest.raises(ValueError, match=r"must end in \.mp4, \.mov, \.mkv, got .*a\.gif"):
        OverlayVideo(tmp_path / "a.gif", fps=25.0)
    for fps in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="fps must be above 0"):
            OverlayVideo(tmp_path / "a.mp4", fps=fps)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_another_encoder_is_taken_where_x264_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(av, "codecs_available", set(av.codecs_available) - {"libx264"})
    with OverlayVideo(tmp_path / "a.mp4", fps=29.97) as sink:
        for _ in range(5):
            sink.write(np.full((48, 64, 3), 128, np.uint8))
    assert len(decode(tmp_path / "a.mp4")) == 5


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_video_may_come_through_a_pipe(tmp_path: Path) -> None:
    clip, pipe = tiny.write_clip(tmp_path / "clip.mkv", 5), tmp_path / "pipe"
    os.mkfifo(pipe)
    threading.Thread(target=lambda: pipe.write_bytes(clip.read_bytes()), daemon=True).start()
    with open_source(pipe) as frames:
        assert len(list(frames)) == 5


def test_a_live_stream_gives_its_first_frame_no_later_than_one_thread_would(tmp_path: Path) -> None:
    address = f"file:{tiny.write_clip(tmp_path / 'clip.mp4', 40)}"

    def packets_before_a_frame(threads: int) -> int:
        with open_video(address, "clip", is_url=True) as source:
            source.stream.codec_context.thread_count = threads
            return next(n for n, packet in enumerate(source.packets()) if source.stream.decode(packet))

    assert packets_before_a_frame(threads=8) == packets_before_a_frame(threads=1)
