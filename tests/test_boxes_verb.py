"""The verb ``track --boxes``: many targets, each from its own frame."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from command_line import BOX, NUM_FRAMES, Ran, Run, assert_refused, content

from mixformerv2.video import open_source


@pytest.fixture
def track_many(run: Run, home: Path) -> Run:
    """``track --boxes`` with the tiny model, of a file with the text."""

    def run_track(text: str | None, *arguments: object) -> Ran:
        if text is not None:
            (home / "boxes.csv").write_text(text)
        model = ("--model", "model.safetensors", "--backend", "torch", "--threads", 1)
        return run("track", "clip.mp4", "--boxes", "boxes.csv", *model, *arguments)

    return run_track


BOXES = f"frame,id,x,y,w,h\n0,1,{BOX}\n4,2,40,30,20,20\n"


def test_many_targets_are_tracked_and_written_as_mot(track_many: Run, home: Path) -> None:
    ran = track_many(BOXES, "--results", "out.mot.txt", "--output", "out.mp4")
    assert (ran.code, ran.err) == (0, "")
    assert re.match(rf"{NUM_FRAMES} frames, 2 targets", ran.out), ran.out
    assert ran.out.splitlines()[1:] == ["  out.mp4", "  out.mot.txt"]
    lines = Path("out.mot.txt").read_text().splitlines()
    assert lines[0] == "1,1,11.000,9.000,12.000,12.000,1.0000,-1,-1,-1"
    assert len(lines) == NUM_FRAMES + NUM_FRAMES - 4
    with open_source("out.mp4") as frames:
        assert sum(1 for _ in frames) == NUM_FRAMES


def test_results_of_one_run_can_begin_another(track_many: Run, home: Path) -> None:
    mot = "1,1,11,9,12,12,1,-1,-1,-1\n5,2,41,31,20,20,1,-1,-1,-1\n"
    assert track_many(BOXES, "--results", "a.csv").code == 0
    assert track_many(mot, "--results", "b.csv").code == 0
    assert Path("a.csv").read_text() == Path("b.csv").read_text()


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        (None, [], ["boxes.csv is not a file of boxes: there is no such file"]),
        (BOXES + "0,1,1,1,5,5\n", [], ["boxes.csv line 4: the target 1 has a box already in line 2"]),
        (BOXES + "0,3,1,1,5\n", [], ["boxes.csv line 4 must hold frame,id,x,y,w,h"]),
        (BOXES + "12,3,1,1,5,5\n", [], ["the target 3 begins at frame 12", "12 frames"]),
        ("frame,id,x,y,w,h\n99,3,1,1,5,5\n", [], ["must be below 12", "got 99"]),
        ("frame,id,x,y,w,h\n0,3,500,1,5,5\n", [], ["the target 3 cannot begin at frame 0", "outside"]),
        (BOXES, ["--box", BOX], ["--box", "--boxes", "not both"]),
        (BOXES, ["--start-frame", "3"], ["--start-frame 3 belongs to --box"]),
        (BOXES, ["--results", "a.txt", "--overwrite"], ["written as lasot", ".mot.txt"]),
    ],
)
def test_wrong_boxes_of_many_targets_are_refused_in_one_line(
    track_many: Run, home: Path, text: str | None, options: list[str], words: list[str]
) -> None:
    ran = track_many(text, "--results", "a.csv", "--output", "a.mp4", *options)
    assert_refused(ran, *words)
    assert set(content(home)) <= {"boxes.csv", "clip.mp4", "model.safetensors"}
