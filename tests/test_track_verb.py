"""The verb ``track`` as a person meets it: what is written, what is said, and the exit code."""

from __future__ import annotations

import io
import itertools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tiny
from command_line import BOX, NUM_FRAMES, Run, assert_refused, content
from rich.console import Console

from mixformerv2 import cli, recording
from mixformerv2.cli.tracking import default_name
from mixformerv2.images import read_image
from mixformerv2.results import read_results
from mixformerv2.rulers import with_rulers
from mixformerv2.video import open_source


def test_track_writes_a_video_and_results_and_says_where(track: Run, home: Path) -> None:
    ran = track("clip.mp4", "--output", "out.mp4", "--results", "boxes.csv")
    assert ran.code == 0, ran
    assert f"{NUM_FRAMES} frames" in ran.out
    assert "with torch f32" in ran.out
    assert ran.out.splitlines()[1:] == ["  out.mp4", "  boxes.csv"]
    assert ran.err == ""
    assert sorted(content(home)) == ["boxes.csv", "clip.mp4", "model.safetensors", "out.mp4"]
    rows = read_results("boxes.csv")
    assert [row.frame for row in rows] == list(range(NUM_FRAMES))
    assert rows[0].result.box == tiny.square_box(0)
    with open_source("out.mp4") as frames:
        assert sum(1 for _ in frames) == NUM_FRAMES


def test_rows_on_standard_output_are_those_of_a_file_and_nothing_else(track: Run, home: Path) -> None:
    assert track("clip.mp4", "--results", "boxes.jsonl", "--results-format", "jsonl").code == 0
    ran = track("clip.mp4", "--results", "-")
    assert (ran.code, ran.out) == (0, (home / "boxes.jsonl").read_text())
    assert f"{NUM_FRAMES} frames" in ran.err
    ran = track("clip.mp4", "--results", "-", "--results-format", "csv", "--sheet", "sheet.png")
    assert ran.out.startswith("frame,x,y,w,h,score,state\n0,")
    assert len(ran.out.splitlines()) == NUM_FRAMES + 1
    assert "sheet.png" in ran.err and (home / "sheet.png").exists()
    assert not (home / "clip-tracked.mp4").exists()
    assert_refused(
        track("clip.mp4", "--sheet", "sheet.jpg"), "a contact sheet must end in .png, got sheet.jpg"
    )


def test_nobody_who_reads_the_rows_any_more_ends_the_tracking(home: Path) -> None:
    command = [sys.executable, "-m", "mixformerv2", "track", "clip.mp4", "--box", BOX, "--results", "-"]
    model = ["--model", "model.safetensors", "--backend", "torch", "--output", "out.mp4"]
    nobody, written = os.pipe()
    os.close(nobody)
    ran = subprocess.run([*command, *model], stdout=written, stderr=subprocess.PIPE, text=True)
    os.close(written)
    assert (ran.returncode, ran.stderr) == (130, "")
    assert not (home / "out.mp4").exists()


def test_a_frame_is_drawn_with_rulers_instead_of_tracking(run: Run, home: Path) -> None:
    ran = run("track", "clip.mp4", "--start-frame", "1", "--rulers", "frame.png")
    assert ran.code == 0, ran
    assert ran.out.splitlines() == ["frame 1 of clip.mp4, its pixels numbered: frame.png"]
    with open_source("clip.mp4", 1) as frames:
        assert np.array_equal(read_image("frame.png"), with_rulers(next(iter(frames))))
    again = ("track", "clip.mp4", "--rulers", "frame.png")
    assert_refused(run(*again), "frame.png exists already")
    assert_refused(run(*again, "--box", "1,2,3,4"), "leave out --box")
    assert_refused(run(*again, "--keep-before"), "leave out --keep-before")
    assert_refused(run(*again, "--results-format", "csv"), "leave out --results-format")
    (home / "images").mkdir()
    (home / "images" / "0.png").write_bytes((home / "frame.png").read_bytes())
    among = ("track", "images", "--rulers", "images/0.png", "--overwrite")
    assert_refused(run(*among), "images/0.png is read, and would be lost")
    assert_refused(run(*among[:3], "images/1.png"), "images/1.png would be one of the images that are read")
    assert_refused(run(*again, "--output", "a.mp4", "--results", "a.csv"), "leave out --output and --results")
    assert_refused(
        run("track", "clip.mp4", "--rulers", "frame.mp4"), "must end in .png or .jpg, got frame.mp4"
    )
    assert run(*again, "--overwrite").code == 0
    names = ["clip.mp4", "frame.png", "images", "images/0.png", "model.safetensors"]
    assert sorted(set(content(home)) | {"images"}) == names


def test_brackets_in_the_name_of_a_file_are_no_markup(track: Run, home: Path) -> None:
    (home / "[" / "x]").mkdir(parents=True)
    ran = track("clip.mp4", "--results", "[/x]/a[b].csv")
    assert ran.code == 0, ran
    assert ran.out.splitlines()[1:] == ["  [/x]/a[b].csv"]


def test_a_video_is_named_after_what_is_in_it(home: Path) -> None:
    for folder in ("clips.v2", "shots/left"):
        (home / folder).mkdir(parents=True)
    names = {
        "street.mp4": "street",
        "clips.v2/": "clips.v2",
        ".": home.name,
        "shots/left/*.jpg": "left",
        "shots/*/[0-9]*.png": "shots",
        "0": "0",
        "rtsp://nvr/ch1": "nvr_ch1",
        "rtsp://nvr/cam?channel=2": "nvr_cam_channel_2",
        "https://host/live/cam.m3u8?token=1": "host_live_cam.m3u8",
        f"https://host/{'é' * 300}.mp4": "host_" + 97 * "é",
    }
    assert {source: default_name(source) for source in names} == names


def test_the_password_of_a_camera_is_in_no_file_name() -> None:
    assert default_name("rtsp://admin:s3cret@10.0.0.2:554/stream") == "10.0.0.2_554_stream"


def test_track_without_outputs_writes_a_video_named_after_its_source(track: Run, home: Path) -> None:
    (home / "else").mkdir()
    shutil.move("clip.mp4", "else/my clip.mp4")
    assert track("else/my clip.mp4").code == 0
    assert (home / "my_clip-tracked.mp4").stat().st_size > 0


@pytest.mark.parametrize(
    ("name", "options", "line"),
    [
        ("a.csv", [], "7,31.000,22.000,12.000,12.000,1.0000,tracking"),
        (
            "a.jsonl",
            [],
            '{"frame": 7, "x": 31.0, "y": 22.0, "w": 12.0, "h": 12.0, "score": 1.0, "state": "tracking"}',
        ),
        ("a.txt", [], "31.000,22.000,12.000,12.000"),
        ("a.txt", ["--results-format", "got10k"], "31.000,22.000,12.000,12.000"),
        ("a.txt", ["--results-format", "lasot"], "31.000,22.000,12.000,12.000"),
        ("a.txt", ["--results-format", "otb"], "32.000,23.000,12.000,12.000"),
    ],
)
def test_track_writes_results_in_every_format_from_the_start_frame_on(
    track: Run, name: str, options: list[str], line: str
) -> None:
    ran = track("clip.mp4", "--start-frame", 7, "--results", name, *options, box="31,22,12,12")
    assert ran.code == 0, ran
    lines = Path(name).read_text().splitlines()
    assert lines[1 if name == "a.csv" else 0] == line
    assert len(lines) == NUM_FRAMES - 7 + (name == "a.csv")


def test_track_never_replaces_what_it_reads(track: Run, run: Run, home: Path) -> None:
    starts = f"frame,id,x,y,w,h\n0,1,{BOX}\n"
    (home / "starts.csv").write_text(starts)
    for name, ran in (
        ("clip.mp4", track("clip.mp4", "--output", "clip.mp4", "--overwrite")),
        (
            "starts.csv",
            run("track", "clip.mp4", "--boxes", "starts.csv", "--results", "starts.csv", "--overwrite"),
        ),
    ):
        assert_refused(ran, f"{name} is read, and would be lost: name another file to write to")
    assert (home / "starts.csv").read_text() == starts


def test_track_replaces_files_only_with_overwrite(track: Run, home: Path) -> None:
    Path("boxes.csv").write_text("precious")
    before = content(home)
    assert_refused(track("clip.mp4", "--results", "boxes.csv"), "boxes.csv exists already", "--overwrite")
    assert content(home) == before
    assert track("clip.mp4", "--results", "boxes.csv", "--overwrite").code == 0
    assert len(read_results("boxes.csv")) == NUM_FRAMES


def test_results_may_go_on_from_a_frame_where_they_went_wrong(track: Run, home: Path) -> None:
    assert track("clip.mp4", "--results", "a.csv").code == 0
    before = (home / "a.csv").read_text().splitlines()
    again = ("clip.mp4", "--results", "a.csv", "--start-frame", 7, "--keep-before")
    refused = track(*again, box="500,500,5,5")
    assert refused.code == 2 and (home / "a.csv").read_text().splitlines() == before
    assert track(*again, box="40,30,20,10").code == 0
    after = (home / "a.csv").read_text().splitlines()
    assert after[:8] == before[:8] and len(after) == len(before)
    assert after[8].startswith("7,40.000,30.000,20.000,10.000,")
    assert [line.split(",")[0] for line in after[1:]] == [line.split(",")[0] for line in before[1:]]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--results", "a.csv"], "give both"),
        (["--start-frame", 3], "give both"),
        (["--results", "a.txt", "--start-frame", 3], "the .csv or .jsonl of one target, got a.txt"),
        (["--results", "none.csv", "--start-frame", 3], "none.csv is not a results file"),
    ],
)
def test_what_cannot_go_on_is_refused(track: Run, home: Path, options: list[Any], words: str) -> None:
    for name in ("a.csv", "a.txt"):
        assert track("clip.mp4", "--results", name).code == 0
    refused = track("clip.mp4", *options, "--keep-before")
    assert refused.code == 2 and words in refused.err


def test_track_reads_folders_and_globs_of_images_of_any_size(track: Run, home: Path) -> None:
    (home / "images").mkdir()
    for index in range(3):
        frame = tiny.square_frame(index, width=96 + 32 * index)
        cv2.imwrite(f"images/{index}.png", frame[..., ::-1])
    for source in ("images", "images/*.png"):
        assert track(source, "--results", "a.csv", "--output", "a.mp4", "--overwrite").code == 0
        assert len(read_results("a.csv")) == 3


def test_a_box_over_the_border_is_clipped_with_a_warning(track: Run) -> None:
    ran = track("clip.mp4", "--results", "a.csv", box="-4,-4,20,20")
    assert ran.code == 0
    assert ran.err == (
        "warning: the box -4,-4,20,20 reaches over the border of the frame of 96 x 64 px: clipped to 0,0,16,16\n"
    )
    assert read_results("a.csv")[0].result.box == (0, 0, 16, 16)


def test_a_video_that_is_cut_off_is_tracked_as_far_as_it_goes_with_a_warning(track: Run, home: Path) -> None:
    clip = tiny.write_clip(home / "long.mp4", 60)
    whole = clip.read_bytes()
    clip.write_bytes(whole[: int(0.7 * len(whole))])
    ran = track("long.mp4", "--results", "a.csv", "--output", "a.mp4")
    assert ran.code == 0
    rows = read_results("a.csv")
    assert 1 <= len(rows) < 60
    assert ran.err == f"warning: long.mp4 is cut off: it ended after {len(rows)} frames of about 60\n"


def test_a_terminal_gets_a_bar_with_frames_per_second(track: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(cli.tracking, "err", Console(file=screen, force_terminal=True, width=100))
    assert track("clip.mp4", "--results", "a.csv").code == 0
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue()).strip().splitlines()[-1]
    assert re.fullmatch(r"tracking .* 12/12 \d+ frames/s", last.strip()), last


def test_ctrl_c_finishes_the_files_and_exits_with_130(track: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = itertools.count(1)
    update = recording.Tracker.update_rgb

    def interrupted(tracker: Any, frame: Any) -> Any:
        if next(calls) == 5:
            raise KeyboardInterrupt
        return update(tracker, frame)

    monkeypatch.setattr(recording.Tracker, "update_rgb", interrupted)
    ran = track("clip.mp4", "--results", "a.csv", "--output", "a.mp4")
    assert ran.code == 130
    assert ran.err == "warning: stopped after 5 frames, as asked; what was tracked is written\n"
    assert ran.out.splitlines()[1:] == ["  a.mp4", "  a.csv"]
    assert len(read_results("a.csv")) == 5
    with open_source("a.mp4") as frames:
        assert sum(1 for _ in frames) == 5


def test_ctrl_c_before_anything_was_tracked_leaves_nothing(
    track: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(recording.Tracker, "init_rgb", interrupted)
    before = content(home)
    ran = track("clip.mp4", "--results", "a.csv", "--output", "a.mp4")
    assert (ran.code, ran.out, ran.err) == (130, "", "")
    assert content(home) == before
