"""A whole video onto disk: what is written, what is counted, and what is left behind when it ends early."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tiny
import torch

from mixformerv2 import recording
from mixformerv2.images import Frame, read_image
from mixformerv2.multitracker import MultiTracker
from mixformerv2.overlay import OverlayVideo
from mixformerv2.recording import ContactSheet, Outputs, Summary, record, record_many
from mixformerv2.results import read_results
from mixformerv2.starts import Start
from mixformerv2.tracker import Tracker, track
from mixformerv2.video import FrameSource, open_source

NUM_FRAMES = 12
BOX = tiny.square_box(0)


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracker]:
    threads = torch.get_num_threads()
    weights = tiny.write_checkpoint(tmp_path_factory.mktemp("model") / "tiny.safetensors")
    yield Tracker(weights, backend="torch", threads=1)
    torch.set_num_threads(threads)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return tiny.write_clip(tmp_path / "clip.mp4", NUM_FRAMES)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where to write; empty."""
    (tmp_path / "written").mkdir()
    return tmp_path / "written"


def everything(folder: Path, **options: Any) -> Outputs:
    return Outputs(folder / "out.mp4", folder / "out.csv", None, folder / "out.png", **options)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def num_frames(video: Path) -> int:
    with open_source(video) as frames:
        return sum(1 for _ in frames)


def test_video_results_and_contact_sheet_are_written_and_nothing_else(
    tracker: Tracker, clip: Path, folder: Path
) -> None:
    seen: list[tuple[int, int | None]] = []
    summary = record(
        clip, BOX, tracker, everything(folder), progress=lambda done, total: seen.append((done, total))
    )
    assert names(folder) == ["out.csv", "out.mp4", "out.png"]
    assert seen == [(done, NUM_FRAMES) for done in range(1, NUM_FRAMES + 1)]
    rows = read_results(folder / "out.csv")
    assert [row.frame for row in rows] == list(range(NUM_FRAMES))
    assert rows[0].result == (BOX, 1.0, "tracking")
    assert num_frames(folder / "out.mp4") == NUM_FRAMES
    assert (summary.frames, summary.interrupted, summary.warning) == (NUM_FRAMES, False, None)
    assert summary.lost_frames == sum(row.result.state == "lost" for row in rows)
    assert 0 < summary.tracker_ms < 60_000


def test_the_rows_say_what_the_tracker_says(tracker: Tracker, clip: Path, folder: Path) -> None:
    record(clip, BOX, tracker, Outputs(results=folder / "out.csv"))
    with open_source(clip) as frames:
        tracker.init(next(frames), BOX)
        expected = [tracker.update(frame) for frame in frames]
    for row, result in zip(read_results(folder / "out.csv")[1:], expected, strict=True):
        assert row.result.box == pytest.approx(result.box, abs=6e-4)
        assert row.result.score == pytest.approx(result.score, abs=6e-5)
        assert row.result.state == result.state


def test_only_what_was_asked_for_is_written(tracker: Tracker, clip: Path, folder: Path) -> None:
    record(clip, BOX, tracker, Outputs())
    assert names(folder) == []
    record(clip, BOX, tracker, Outputs(results=folder / "boxes", results_format="otb"))
    assert names(folder) == ["boxes"]
    assert read_results(folder / "boxes", "otb")[0].result.box == BOX


def test_frames_are_counted_from_the_start_of_the_source(tracker: Tracker, clip: Path, folder: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    summary = record(
        clip,
        tiny.square_box(9),
        tracker,
        Outputs(results=folder / "out.jsonl"),
        start_frame=9,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert summary.frames == 3
    assert [row.frame for row in read_results(folder / "out.jsonl")] == [9, 10, 11]
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_one_frame_is_a_recording_without_a_speed(tracker: Tracker, clip: Path, folder: Path) -> None:
    summary = record(clip, tiny.square_box(11), tracker, everything(folder), start_frame=11)
    assert summary.frames == 1
    assert math.isnan(summary.tracker_ms)
    assert names(folder) == ["out.csv", "out.mp4", "out.png"]


def test_frames_may_change_their_size(tracker: Tracker, tmp_path: Path, folder: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for index, scale in enumerate((1, 2, 1, 3)):
        frame = tiny.square_frame(index)
        size = (frame.shape[1] * scale, frame.shape[0] * scale)
        cv2.imwrite(str(images / f"{index}.png"), cv2.resize(frame, size)[..., ::-1])
    assert record(images, BOX, tracker, everything(folder)).frames == 4
    assert len(read_results(folder / "out.csv")) == num_frames(folder / "out.mp4") == 4


# Many targets


@pytest.fixture(scope="module")
def multitracker(tracker: Tracker) -> Callable[[], MultiTracker]:
    return lambda: MultiTracker(backend=tracker.backend)


STARTS = [Start(2, 1, tiny.square_box(2)), Start(2, 5, (40, 30, 20, 20)), Start(7, 3, tiny.square_box(7))]


def test_many_targets_are_recorded_from_the_first_start_on_each_as_if_alone(
    tracker: Tracker, multitracker: Callable[[], MultiTracker], clip: Path, folder: Path
) -> None:
    seen: list[tuple[int, int | None]] = []
    summary = record_many(
        clip, STARTS, multitracker(), everything(folder), lambda done, total: seen.append((done, total))
    )
    assert names(folder) == ["out.csv", "out.mp4", "out.png"]
    assert seen == [(done, 10) for done in range(1, 11)]
    assert num_frames(folder / "out.mp4") == 10
    rows = read_results(folder / "out.csv")
    assert (summary.frames, summary.targets) == (10, 3)
    assert summary.lost_frames == sum(row.result.state == "lost" for row in rows)
    assert [row.id for row in rows] == [1, 5] * 5 + [1, 5, 3] * 5
    for start in STARTS:
        record(clip, start.box, tracker, Outputs(results=folder / f"{start.id}.csv"), start.frame)
        together = [row for row in rows if row.id == start.id]
        for ours, alone in zip(together, read_results(folder / f"{start.id}.csv"), strict=True):
            assert ours.frame == alone.frame
            assert ours.result.box == pytest.approx(alone.result.box, abs=0.01)


def test_a_start_behind_the_end_is_refused_before_the_work_where_the_length_is_known(
    multitracker: Callable[[], MultiTracker], clip: Path, folder: Path
) -> None:
    late = [*STARTS, Start(12, 9, BOX)]
    with pytest.raises(ValueError, match="the target 9 begins at frame 12, .*, but the source has 12 frames"):
        record_many(clip, late, multitracker(), everything(folder))
    assert names(folder) == []


def test_a_start_behind_the_end_of_a_stream_is_an_error_when_all_others_are_written(
    multitracker: Callable[[], MultiTracker],
    folder: Path,
    stop: Callable[[int, BaseException], Stopping],
) -> None:
    stop(99, ValueError()).num_frames = None
    late = [Start(0, 1, BOX), Start(40, 9, BOX)]
    with pytest.raises(ValueError, match="the target 9 begins at frame 40, .*, but the source has 12 frames"):
        record_many("camera", late, multitracker(), everything(folder))
    assert len(read_results(folder / "out.csv")) == num_frames(folder / "out.mp4") == NUM_FRAMES


def test_a_length_guessed_from_a_duration_refuses_no_start(
    multitracker: Callable[[], MultiTracker],
    folder: Path,
    stop: Callable[[int, BaseException], Stopping],
) -> None:
    source = stop(99, ValueError())
    source.num_frames, source.is_counted = 6, False
    summary = record_many("video", [Start(9, 1, BOX)], multitracker(), everything(folder))
    assert summary.targets == 1


def test_a_box_outside_its_frame_names_the_target_and_keeps_what_was_tracked_before(
    multitracker: Callable[[], MultiTracker], clip: Path, folder: Path
) -> None:
    wrong = [Start(0, 1, BOX), Start(5, 2, (500, 500, 9, 9))]
    with pytest.raises(
        ValueError,
        match="target 2 cannot begin at frame 5: .*; what was tracked before, 5 frames, is written$",
    ):
        record_many(clip, wrong, multitracker(), Outputs(results=folder / "out.mot.txt"))
    assert [row.frame for row in read_results(folder / "out.mot.txt")] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="the target 2 cannot begin at frame 0"):
        record_many(clip, [Start(0, 2, (500, 500, 9, 9))], multitracker(), Outputs(folder / "out.mp4"))
    assert names(folder) == ["out.mot.txt"]


def test_a_tracker_for_bgr_sees_the_frames_of_a_video_as_they_are(
    tracker: Tracker, tmp_path: Path, folder: Path
) -> None:
    clip = tmp_path / "colours.mp4"
    with OverlayVideo(clip, fps=25.0) as video:
        for index in range(4):
            video.write(np.ascontiguousarray(tiny.square_frame(index) * np.uint8([1, 0, 0])))
    for channels in ("rgb", "bgr"):
        alone = Tracker(backend=tracker.backend, channels=channels)
        record(clip, BOX, alone, Outputs(results=folder / f"{channels}.csv"))
        several = MultiTracker(backend=tracker.backend, channels=channels)
        record_many(clip, [Start(0, 1, BOX)], several, Outputs(results=folder / f"{channels}.mot.txt"))
        followed = [result for _, result in track(clip, BOX, tracker=alone)]
        rows = read_results(folder / f"{channels}.csv")
        assert [row.result.score for row in rows] == pytest.approx([r.score for r in followed], abs=1e-4)
    for suffix in ("csv", "mot.txt"):
        assert (folder / f"rgb.{suffix}").read_text() == (folder / f"bgr.{suffix}").read_text()


# Ended early


class Stopping(FrameSource):
    """The test clip, until something happens."""

    def __init__(self, after: int, event: BaseException) -> None:
        self._after, self._event = after, event
        super().__init__("stopping", num_frames=NUM_FRAMES)

    def raw_frames(self) -> Iterator[Frame]:
        for index in range(NUM_FRAMES):
            if index == self._after:
                raise self._event
            yield tiny.square_frame(index)

    def to_rgb(self, raw: Frame) -> Frame:
        return raw

    def _release(self) -> None:
        pass


@pytest.fixture
def stop(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, BaseException], Stopping]:
    def replace(after: int, event: BaseException) -> Stopping:
        source = Stopping(after, event)
        monkeypatch.setattr(recording, "open_source", lambda *_: source)
        return source

    return replace


def test_ctrl_c_finishes_the_files(
    tracker: Tracker, folder: Path, stop: Callable[[int, BaseException], Stopping]
) -> None:
    source = stop(5, KeyboardInterrupt())
    summary = record("camera", BOX, tracker, everything(folder))
    assert (summary.frames, summary.interrupted) == (5, True)
    assert names(folder) == ["out.csv", "out.mp4", "out.png"]
    assert [row.frame for row in read_results(folder / "out.csv")] == [0, 1, 2, 3, 4]
    assert num_frames(folder / "out.mp4") == 5
    assert list(source) == [], "the source is closed"


def test_ctrl_c_before_the_first_frame_leaves_nothing(
    tracker: Tracker, folder: Path, stop: Callable[[int, BaseException], Stopping]
) -> None:
    stop(0, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        record("camera", BOX, tracker, everything(folder))
    assert names(folder) == []


def test_a_source_that_fails_midway_leaves_whole_files_of_what_came_before(
    tracker: Tracker, folder: Path, stop: Callable[[int, BaseException], Stopping]
) -> None:
    stop(5, ValueError("0005.png is not an image that can be read"))
    with pytest.raises(ValueError, match=r"0005\.png is not an image"):
        record("images", BOX, tracker, everything(folder))
    assert names(folder) == ["out.csv", "out.mp4", "out.png"]
    assert len(read_results(folder / "out.csv")) == num_frames(folder / "out.mp4") == 5


@pytest.mark.usefixtures("usual_signals")
def test_a_signal_while_a_frame_is_written_leaves_as_many_rows_as_pictures(
    tracker: Tracker, clip: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, came = OverlayVideo.write, []

    def interrupted(video: OverlayVideo, frame: Frame) -> None:
        if video.num_frames == 4 and not came:
            came.append(True)
            signal.raise_signal(signal.SIGTERM)
        write(video, frame)

    monkeypatch.setattr(OverlayVideo, "write", interrupted)
    summary = record(clip, BOX, tracker, everything(folder))
    assert (summary.frames, summary.interrupted) == (5, True)
    assert len(read_results(folder / "out.csv")) == num_frames(folder / "out.mp4") == 5


@pytest.mark.usefixtures("usual_signals")
def test_a_signal_while_files_are_finished_loses_none(
    tracker: Tracker, clip: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    close = OverlayVideo.close

    def interrupted(video: OverlayVideo) -> None:
        signal.raise_signal(signal.SIGTERM)
        close(video)

    monkeypatch.setattr(OverlayVideo, "close", interrupted)
    with pytest.raises(KeyboardInterrupt):
        record(clip, BOX, tracker, everything(folder))
    assert names(folder) == ["out.csv", "out.mp4", "out.png"]
    assert len(read_results(folder / "out.csv")) == num_frames(folder / "out.mp4") == NUM_FRAMES


@pytest.mark.parametrize("num_kept", [None, 2])
def test_a_first_frame_that_cannot_be_written_leaves_the_rows_that_were_there(
    tracker: Tracker, clip: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, num_kept: int | None
) -> None:
    def fail(*_: Any) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(OverlayVideo, "write", fail)
    (folder / "out.csv").write_text("frame,x,y,w,h,score,state\n" + "0,1,2,3,4,1.0,tracking\n" * 3)
    before = (folder / "out.csv").read_text()
    kept = tuple(read_results(folder / "out.csv")[:num_kept]) if num_kept else None
    with pytest.raises(OSError, match="^the disk is full$"):
        record(clip, BOX, tracker, everything(folder, overwrite=True, kept=kept))
    assert names(folder) == ["out.csv"]
    assert (folder / "out.csv").read_text() == before


def test_a_frame_that_cannot_be_written_later_is_an_error_that_says_what_is_there(
    tracker: Tracker, clip: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = OverlayVideo.write

    def fail(video: OverlayVideo, frame: Frame) -> None:
        if video.num_frames == 3:
            raise OSError("the disk is full")
        write(video, frame)

    monkeypatch.setattr(OverlayVideo, "write", fail)
    with pytest.raises(OSError, match="the disk is full; what was tracked before, 3 frames, is written"):
        record(clip, BOX, tracker, everything(folder))
    assert len(read_results(folder / "out.csv")) == num_frames(folder / "out.mp4") == 3


@pytest.mark.parametrize("box", [(500, 500, 5, 5), (1, 1, 0, 5)])
def test_a_wrong_box_leaves_nothing(tracker: Tracker, clip: Path, folder: Path, box: Any) -> None:
    with pytest.raises(ValueError, match="box"):
        record(clip, box, tracker, everything(folder))
    assert names(folder) == []


def test_files_that_were_to_be_replaced_stay_after_a_wrong_box(
    tracker: Tracker, clip: Path, folder: Path
) -> None:
    for name in ("out.csv", "out.mp4", "out.png"):
        (folder / name).write_text("precious")
    with pytest.raises(ValueError, match="box"):
        record(clip, (500, 500, 5, 5), tracker, everything(folder, overwrite=True))
    assert [(folder / name).read_text() for name in names(folder)] == ["precious"] * 3


@pytest.mark.parametrize("existing", ["out.csv", "out.mp4", "out.png"])
def test_files_that_exist_are_replaced_only_when_asked(
    tracker: Tracker, clip: Path, folder: Path, existing: str
) -> None:
    (folder / existing).write_text("precious")
    with pytest.raises(FileExistsError, match=f"{existing} exists already"):
        record(clip, BOX, tracker, everything(folder))
    assert names(folder) == [existing]
    assert (folder / existing).read_text() == "precious"
    record(clip, BOX, tracker, everything(folder, overwrite=True))
    assert names(folder) == ["out.csv", "out.mp4", "out.png"]
    assert (folder / existing).read_bytes() != b"precious"


def test_a_video_that_is_cut_off_is_recorded_as_far_as_it_goes(
    tracker: Tracker, tmp_path: Path, folder: Path
) -> None:
    clip = tiny.write_clip(tmp_path / "long.mp4", 60)
    whole = clip.read_bytes()
    clip.write_bytes(whole[: int(0.7 * len(whole))])
    summary: Summary = record(clip, BOX, tracker, Outputs(results=folder / "out.csv"))
    assert summary.warning is not None
    assert "long.mp4 is cut off" in summary.warning
    assert 1 <= summary.frames == len(read_results(folder / "out.csv")) < 60


# The contact sheet


@pytest.mark.parametrize(
    ("count", "size"),
    [(1, (1, 1)), (3, (1, 3)), (5, (2, 4)), (12, (3, 4)), (23, (3, 4)), (24, (3, 4)), (500, (3, 4))],
)
def test_a_contact_sheet_has_up_to_twelve_tiles_in_order(
    tmp_path: Path, count: int, size: tuple[int, int]
) -> None:
    with ContactSheet(tmp_path / "sheet.png") as sheet:
        for index in range(count):
            sheet.write(np.full((20, 40, 3), index % 250, np.uint8))
    picture = read_image(tmp_path / "sheet.png")
    rows, columns = size
    assert picture.shape == (rows * 160, columns * 320, 3)
    values = [
        int(picture[row * 160 + 80, column * 320 + 160, 0])
        for row in range(rows)
        for column in range(columns)
    ]
    if count <= 24:
        kept = values[: min(count, 12)]
        assert kept == sorted(set(kept)), "each frame at most once, in order"
        assert kept[0] == 0
        assert kept[-1] == count - 1 if count < 24 else 22
    assert names(tmp_path) == ["sheet.png"]


def test_a_contact_sheet_spans_the_whole_of_a_long_video(tmp_path: Path) -> None:
    with ContactSheet(tmp_path / "sheet.png") as sheet:
        for index in range(1000):
            sheet.write(np.full((8, 16, 3), index // 4, np.uint8))
    picture = read_image(tmp_path / "sheet.png")
    values = picture[80::160, 160::320, 0].ravel().astype(int) * 4
    assert values[0] == 0
    assert values[-1] > 900
    assert np.ptp(np.diff(values)) <= 80, "evenly spread"


def test_a_contact_sheet_keeps_tiles_of_frames_that_change_their_size(tmp_path: Path) -> None:
    with ContactSheet(tmp_path / "sheet.png") as sheet:
        for height in (20, 80, 5):
            sheet.write(np.full((height, 40, 3), 200, np.uint8))
    assert read_image(tmp_path / "sheet.png").shape == (160, 960, 3)


def test_a_contact_sheet_without_frames_leaves_nothing(tmp_path: Path) -> None:
    with ContactSheet(tmp_path / "sheet.png"):
        pass
    assert names(tmp_path) == []


@pytest.mark.parametrize("pattern", [".", "*.png"])
def test_a_picture_among_those_that_are_tracked_is_not_replaced(
    folder: Path, tracker: Tracker, pattern: str
) -> None:
    for index in range(2):
        cv2.imwrite(str(folder / f"{index}.png"), tiny.square_frame(index))
    before = (folder / "1.png").read_bytes()
    with pytest.raises(ValueError, match=r"1\.png is read, and would be lost: name another file to write to"):
        record(folder / pattern, BOX, tracker, Outputs(contact_sheet=folder / "1.png", overwrite=True))
    assert (folder / "1.png").read_bytes() == before
    (folder / "boxes.csv").write_text("of another run")
    record(
        folder / pattern, BOX, tracker, Outputs(results=folder / "boxes.csv", overwrite=True)
    )  # no picture


def test_a_picture_that_would_join_those_that_are_tracked_is_refused(folder: Path, tracker: Tracker) -> None:
    for index in range(2):
        cv2.imwrite(str(folder / f"{index}.png"), tiny.square_frame(index))
    for source in (folder, folder / "*.png"):
        with pytest.raises(ValueError, match=r"new\.png would be one of the images that are read"):
            record(source, BOX, tracker, Outputs(contact_sheet=folder / "new.png"))
    record(folder / "?.png", BOX, tracker, Outputs(contact_sheet=folder / "new.png"))
    assert names(folder) == ["0.png", "1.png", "new.png"]


def test_two_outputs_of_one_name_are_refused(clip: Path, folder: Path, tracker: Tracker) -> None:
    (folder / "link.csv").symlink_to(folder / "same.mp4")
    for results in (folder / "same.mp4", folder / "link.csv"):
        with pytest.raises(ValueError, match="is to be written twice, and one would be lost: name two files"):
            record(clip, BOX, tracker, Outputs(folder / "same.mp4", results, "csv", overwrite=True))
    assert names(folder) == ["link.csv"]
