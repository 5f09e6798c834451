"""``track()``: a whole video, its source opened and closed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
from test_tracker import BOX, Scripted, Seeing

from mixformerv2 import Result, Tracker, track
from mixformerv2.geometry import iou, xywh_to_xyxy
from mixformerv2.video import open_source


def test_track_yields_every_frame_with_its_result(tmp_path: Path) -> None:
    clip = tiny.write_clip(tmp_path / "clip.mp4")
    tracker = Tracker(backend=Seeing())
    pairs = list(track(clip, tiny.square_box(0), tracker=tracker))
    assert len(pairs) == 12
    assert pairs[0][1] == Result(tiny.square_box(0), 1.0, "tracking")
    for index, (frame, result) in enumerate(pairs):
        assert np.abs(frame.astype(int) - tiny.square_frame(index)).mean() < 6
        truth = xywh_to_xyxy(tiny.square_box(index))
        assert float(iou(xywh_to_xyxy(result.box), truth)) > 0.7


def test_track_starts_at_the_frame_of_the_box(tmp_path: Path) -> None:
    clip = str(tiny.write_clip(tmp_path / "clip.mp4"))
    results = [
        result
        for _, result in track(clip, tiny.square_box(5), start_frame=5, tracker=Tracker(backend=Seeing()))
    ]
    assert len(results) == 7
    assert results[-1].box == pytest.approx(tiny.square_box(11), abs=2)


def test_track_takes_a_source_that_is_open_and_closes_it(tmp_path: Path) -> None:
    source = open_source(tiny.write_clip(tmp_path / "clip.mp4"), 3)
    results = track(source, tiny.square_box(3), tracker=Tracker(backend=Seeing()))
    next(results)
    results.close()
    assert list(source) == []


def test_a_source_of_which_no_frame_is_asked_for_is_closed(tmp_path: Path) -> None:
    source = open_source(tiny.write_clip(tmp_path / "clip.mp4"))
    track(source, tiny.square_box(0), tracker=Tracker(backend=Scripted())).close()
    assert list(source) == []


def test_one_tracker_may_follow_several_videos_at_once(tmp_path: Path) -> None:
    clip, tracker = tiny.write_clip(tmp_path / "clip.mp4"), Tracker(backend=Seeing())
    alone = [[result for _, result in track(clip, tiny.square_box(i), i, tracker)] for i in (0, 4)]
    together = zip(*(track(clip, tiny.square_box(i), i, tracker) for i in (0, 4)), strict=False)
    assert [(one[1], other[1]) for one, other in together] == list(zip(*alone, strict=False))


def test_a_thing_of_the_wrong_kind_is_named_with_what_would_be_right() -> None:
    """In a process of its own: here types are checked."""
    code = """
import dataclasses
from mixformerv2 import Tracker, track
tracker = Tracker("tiny")
box = (0, 0, 9, 9)
for call in (
    lambda: Tracker(backend=tracker),
    lambda: track([], box, tracker=tracker),
    lambda: track(True, box, tracker=tracker),
    lambda: track("a.mp4", box, tracker="tiny"),
    lambda: track("a.mp4", box, 1.5, tracker),
    lambda: Tracker(backend=tracker.backend, config={}),
    lambda: setattr(tracker, "config", {"lost_threshold": 0.3}),
    lambda: dataclasses.replace(tracker.config, lost_threshold="0.3"),
    lambda: dataclasses.replace(tracker.config, update_interval=2.5),
    lambda: dataclasses.replace(tracker.config, hold_when_lost="no"),
):
    try: call()
    except ValueError as error: print(error)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    frames = "frames in memory go to a tracker's init and update"
    config = "config must be a mixformerv2.config.TrackerConfig, got dict"
    for line, end in zip(
        said.splitlines(),
        [
            "backend must be a name or a loaded backend, as tracker.backend is, got Tracker",
            f"got list: {frames}",
            f"got bool: {frames}",
            "tracker must be a Tracker, such as Tracker('tiny'), got str",
            "start_frame must be a whole number from 0 on, got 1.5",
            config,
            config,
            "lost_threshold must be a number, got '0.3'",
            "update_interval must be a whole number, got 2.5",
            "hold_when_lost must be True or False, got 'no'",
        ],
        strict=True,
    ):
        assert line.endswith(end), line


def test_track_refuses_a_source_at_once_and_a_box_at_the_first_frame(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        track(tmp_path / "none.mp4", BOX, tracker=Tracker(backend=Scripted()))
    clip = tiny.write_clip(tmp_path / "clip.mp4", 2)
    with pytest.raises(ValueError, match="lies outside the frame"):
        next(track(clip, (500, 500, 5, 5), tracker=Tracker(backend=Scripted())))


def test_track_warns_of_a_video_that_is_cut_off(tmp_path: Path) -> None:
    clip = tiny.write_clip(tmp_path / "clip.mp4", 60)
    whole = clip.read_bytes()
    clip.write_bytes(whole[: int(0.7 * len(whole))])
    with pytest.warns(UserWarning, match=r"clip\.mp4 is cut off: it ended after \d+ frames of about 60"):
        results = list(track(clip, tiny.square_box(0), tracker=Tracker(backend=Scripted())))
    assert 1 <= len(results) < 60
