"""The file that says where many targets begin: two layouts, and every wrong row named."""

from __future__ import annotations

from pathlib import Path

import pytest

from mixformerv2.starts import Start, read_starts

HEADER = "frame,id,x,y,w,h\n"


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "boxes.csv"
    path.write_text(text)
    return path


def test_rows_under_the_header_count_from_0_and_come_in_the_order_of_frames(tmp_path: Path) -> None:
    text = HEADER + "30,2,1.5,2,3,4\n0, 7, 10, 20, 30, 40\n\n"
    assert read_starts(written(tmp_path, text)) == [
        Start(0, 7, (10, 20, 30, 40)),
        Start(30, 2, (1.5, 2, 3, 4)),
    ]


def test_the_header_may_come_from_a_spreadsheet(tmp_path: Path) -> None:
    text = "\ufeffFrame, ID, X, Y, W, H\r\n0,1,10,20,30,40\r\n"
    assert read_starts(written(tmp_path, text)) == [Start(0, 1, (10, 20, 30, 40))]


@pytest.mark.parametrize("rest", ["1", "1,-1,-1,-1", "1,1,0.5", "0.93,-1,-1,-1"])
def test_rows_of_mot_challenge_count_frames_and_pixels_from_1(tmp_path: Path, rest: str) -> None:
    text = f"1,4,11,21,30,40,{rest}\n3,5,1,1,8,9,{rest}\n"
    assert read_starts(written(tmp_path, text)) == [Start(0, 4, (10, 20, 30, 40)), Start(2, 5, (0, 0, 8, 9))]


def test_empty_lines_are_passed_over_and_counted(tmp_path: Path) -> None:
    text = "1,4,11,21,30,40,1\n\n3,5,1,1,8,9,1\n"
    assert read_starts(written(tmp_path, text)) == [Start(0, 4, (10, 20, 30, 40)), Start(2, 5, (0, 0, 8, 9))]
    with pytest.raises(ValueError, match="line 3: the target 4 has a box already in line 1"):
        read_starts(written(tmp_path, text.replace("3,5", "3,4")))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "",
            "must begin with the line frame,id,x,y,w,h and have a row for each target, or hold the rows of MOT",
        ),
        (HEADER, "has no row under its header: give one for each target"),
        ("0,1,10,20,30,40\n", "must begin with the line .*; got '0,1,10,20,30,40'"),
        ("x,y,w,h\n1,2,3,4\n", "must begin with the line"),
        (
            "frame,x,y,w,h,score,state\n0,1,2,3,4,1,tracking\n",
            "must begin with the line .*; got 'frame,x,y,w,h",
        ),
        (HEADER + "0,1,10,20,30\n", "line 2 must hold frame,id,x,y,w,h, got '0,1,10,20,30'"),
        (HEADER + "0,1,10,20,30,40\n0,2,a,20,30,40\n", "line 3 must hold"),
        (HEADER + "\n0.5,1,10,20,30,40\n", "line 3 must hold"),
        (HEADER + "0,1,10,20,30,40,1\n", "line 2 must hold"),
        (
            HEADER + "-1,1,10,20,30,40\n",
            "line 2: ids count from 1, and frames from 0 .* the frame here comes",
        ),
        (HEADER + "0,0,10,20,30,40\n", "line 2: ids count from 1, .* the id here comes before"),
        (HEADER + "0,3,10,20,30,40\n9,3,1,2,3,4\n", "line 3: the target 3 has a box already in line 2; each"),
        (HEADER + "0,1,10,20,0,40\n", "line 2: a box is x, y, width, height .* positive"),
        (HEADER + "0,1,nan,20,30,40\n", "line 2: a box is"),
        ("1,1,10,20,30,40,1\n1,1,10,20,30\n", "line 2 must hold frame,id,x,y,w,h,score as mot"),
        ("1,-1,10,20,30,40,1\n", "line 1: ids count from 1, .* the id here"),
        ("0,1,10,20,30,40,1\n", "line 1: .*, from 1 in rows of MOT Challenge; the frame here"),
        ("1,1,10,20,30,40,1\n2,1,10,20,30,40,1\n", "line 2: the target 1 has a box already in line 1"),
    ],
)
def test_a_wrong_row_is_named_in_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=rf"boxes\.csv {sentence}") as refused:
        read_starts(written(tmp_path, text))
    assert "\n" not in str(refused.value)


def test_a_file_that_is_not_there_or_no_text_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.csv is not a file of boxes: there is no such file"):
        read_starts(tmp_path / "none.csv")
    (tmp_path / "boxes.csv").write_bytes(bytes(range(256)))
    with pytest.raises(ValueError, match=r"boxes\.csv must begin with the line"):
        read_starts(tmp_path / "boxes.csv")
