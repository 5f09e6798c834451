"""Labels for video that nobody has annotated: where a tracker agrees with itself, there and back."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from painted import Pictures

from mixformerv2.data.folder import read_folder
from mixformerv2.evaluate.labelling import (
    Agreement,
    Pair,
    Start,
    Track,
    follow,
    label,
    read_starts,
    write_track,
)
from mixformerv2.results import ResultFile

HEADER = "clip,frame,x,y,w,h,name\n"
SIDE = 10


class Red:
    """Finds the red square; says what it likes where there is none, and where it was told to be wrong."""

    def __init__(self, wrong: dict[int, float] | None = None) -> None:
        self._wrong = wrong or {}

    def init(self, frame: np.ndarray, box: object) -> None:
        self.box = tuple(box)  # type: ignore[call-overload]

    def update(self, frame: np.ndarray) -> SimpleNamespace:
        rows, columns = np.nonzero(frame[..., 0] > 200)
        if len(rows):
            size = (np.ptp(columns) + 1, np.ptp(rows) + 1)
            self.box = (float(columns.min()), float(rows.min()), float(size[0]), float(size[1]))
        x, y, w, h = self.box
        return SimpleNamespace(box=(x + self._wrong.get(int(frame[0, 0, 2]), 0.0), y, w, h))


def film(lefts: list[int], width: int = 100) -> Pictures:
    """A red square of 10 px whose left edge is where it is said; the blue of the corner pixel is the frame's number."""
    pictures = []
    for number, left in enumerate(lefts):
        picture = np.zeros((40, width, 3), np.uint8)
        picture[15 : 15 + SIDE, max(left, 0) : max(left + SIDE, 0), 0] = 255
        picture[0, 0, 2] = number
        pictures.append(picture)
    return Pictures(tuple(pictures), "film")


def lefts_of(boxes_frame: np.ndarray) -> list[float | None]:
    return [None if np.isnan(box[0]) else float(box[0]) for box in boxes_frame]


def start_box(left: int) -> tuple[int, int, int, int]:
    return (left, 15, SIDE, SIDE)


def test_a_target_is_followed_to_both_ends_of_the_video() -> None:
    lefts = [20, 23, 26, 29, 32, 35, 38]
    boxes = follow(Pair(Red(), Red()), film(lefts), 3, start_box(29), Agreement(2))
    assert lefts_of(boxes) == lefts
    np.testing.assert_array_equal(boxes[0], [20, 15, 30, 25])


def test_a_frame_on_which_the_two_ways_differ_has_no_box_and_a_small_difference_is_halved() -> None:
    lefts = [20, 23, 26, 29, 32]
    there = Red(wrong={2: 8.0, 3: 1.0})
    boxes = follow(Pair(there, Red()), film(lefts), 0, start_box(20), Agreement(4))
    assert lefts_of(boxes) == [20, 23, None, 29.5, 32]


def test_nothing_is_kept_from_the_segment_on_whose_way_back_goes_elsewhere() -> None:
    lefts = [20, 23, 26, 29, 32, 35]
    # On its way back it leaves the target for good.
    back = Red(wrong=dict.fromkeys((2, 3), 30.0))
    boxes = follow(Pair(Red(), back), film(lefts), 0, start_box(20), Agreement(2))
    assert lefts_of(boxes) == [20, 23, 26, None, None, None]


def test_a_target_that_leaves_has_no_box_from_the_border_on() -> None:
    boxes = follow(Pair(Red(), Red()), film([80, 84, 88, 92, 99, 99]), 0, start_box(80), Agreement(5))
    assert lefts_of(boxes) == [80, 84, 88, None, None, None]


def test_a_target_that_is_cut_off_from_the_start_is_followed() -> None:
    boxes = follow(Pair(Red(), Red()), film([0, 0, 2, 4]), 0, (0, 15, SIDE, SIDE), Agreement(3))
    assert lefts_of(boxes) == [0, 0, 2, 4]


class Mute(Red):
    """Gives up at once."""

    def update(self, frame: np.ndarray) -> SimpleNamespace:
        return SimpleNamespace(box=(np.nan,) * 4)


def test_a_tracker_that_answers_nothing_leaves_the_drawn_box_alone() -> None:
    boxes = follow(Pair(Mute(), Mute()), film([20, 23, 26]), 1, start_box(23), Agreement(1))
    assert lefts_of(boxes) == [None, 23, None]


class Bare(Red):
    """Answers with the four numbers alone."""

    def update(self, frame: np.ndarray) -> Any:
        return super().update(frame).box


class Short(Red):
    def update(self, frame: np.ndarray) -> Any:
        return super().update(frame).box[:3]


def test_the_answer_of_a_tracker_may_be_its_box_and_must_have_four_numbers() -> None:
    boxes = follow(Pair(Bare(), Bare()), film([20, 23, 26]), 0, start_box(20))
    assert lefts_of(boxes) == [20, 23, 26]
    with pytest.raises(ValueError, match="must have a box of four numbers"):
        follow(Pair(Short(), Short()), film([20, 23, 26]), 0, start_box(20))


@pytest.mark.parametrize("frame", [-1, 3])
def test_a_start_frame_that_is_not_there_is_refused(frame: int) -> None:
    with pytest.raises(ValueError, match=f"one of the 3 frames, got {frame}"):
        follow(Pair(Red(), Red()), film([20, 23, 26]), frame, start_box(20))


@pytest.mark.parametrize(("segment_frames", "min_iou"), [(0, 0.6), (12, 0.0), (12, 1.5)])
def test_an_agreement_that_cannot_be_is_refused(segment_frames: int, min_iou: float) -> None:
    with pytest.raises(ValueError, match="at least 1 and min_iou above 0"):
        Agreement(segment_frames, min_iou)


# Files


def write_film(folder: Path, lefts: list[int]) -> Path:
    folder.mkdir(parents=True)
    pictures = film(lefts)
    for index in range(len(pictures)):
        cv2.imwrite(str(folder / f"{index:03d}.png"), pictures.read(index)[..., ::-1])
    return folder


def test_labelled_tracks_are_clips_that_training_reads(tmp_path: Path) -> None:
    lefts = [80, 84, 88, 92]
    write_film(tmp_path / "clips/street", lefts)
    starts = [Start("street", 0, start_box(80), "one"), Start("street", 2, start_box(88), "two")]
    tracks = list(label(Pair(Red(), Red()), tmp_path / "clips", starts, tmp_path / "out", Agreement(3)))
    assert tracks == [Track("one", 3, 4, True, True), Track("two", 3, 4, True, True)]
    read = list(read_folder(tmp_path / "out"))
    assert [sequence.name for sequence in read] == ["one", "two"]
    assert read[0].same_pictures(read[1])
    for sequence in read:
        assert lefts_of(sequence.boxes_frame) == [80, 84, 88, None]
        assert sequence.absent.tolist() == [False, False, False, True]
        np.testing.assert_array_equal(sequence.frame(1), film(lefts).read(1))


def test_tracks_that_are_there_are_kept_as_people_have_corrected_them(tmp_path: Path) -> None:
    clip = write_film(tmp_path / "clips/street", [20, 23])
    write_track(tmp_path / "out/one", clip, np.array([[1.0, 2, 3, 4], [np.nan] * 4]))
    before = (tmp_path / "out/one/boxes.csv").read_bytes()
    starts = [Start("street", 0, start_box(20), "one")]
    tracks = list(label(Pair(Red(), Red()), tmp_path / "clips", starts, tmp_path / "out"))
    assert tracks == [Track("one", 1, 2, False, as_drawn=False)]
    assert (tmp_path / "out/one/boxes.csv").read_bytes() == before
    starts = [Start("street", 0, (1.0, 2.0, 2.0, 2.0), "one")]
    tracks = list(label(Pair(Red(), Red()), tmp_path / "clips", starts, tmp_path / "out"))
    assert tracks == [Track("one", 1, 2, False, as_drawn=True)]


def test_a_clip_that_is_not_there_is_refused_before_anything_is_followed(tmp_path: Path) -> None:
    write_film(tmp_path / "clips/street", [20, 23])
    starts = [Start("street", 0, start_box(20), "one"), Start("road", 0, start_box(20), "two")]
    with pytest.raises(ValueError, match="no clip is called 'road' in .*: it holds street"):
        list(label(Pair(Red(), Red()), tmp_path / "clips", starts, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_frame_that_is_not_there_is_refused_before_anything_is_followed(tmp_path: Path) -> None:
    write_film(tmp_path / "clips/street", [20, 23])
    starts = [Start("street", 0, start_box(20), "one"), Start("street", 2, start_box(20), "two")]
    with pytest.raises(ValueError, match="track two begins at frame 2 of street, .*, which has 2 frames"):
        list(label(Pair(Red(), Red()), tmp_path / "clips", starts, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_box_outside_the_frame_is_refused_before_anything_is_followed(tmp_path: Path) -> None:
    write_film(tmp_path / "clips/street", [20, 23])
    starts = [Start("street", 0, start_box(20), "one"), Start("street", 1, (500.0, 8.0, 6.0, 5.0), "two")]
    sentence = "track two on street: the box 500,8,6,5 lies outside the frame of 100 x 40 px"
    with pytest.raises(ValueError, match=sentence):
        list(label(Pair(Red(), Red()), tmp_path / "clips", starts, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_rows_that_a_person_took_out_leave_the_others_at_their_frames(tmp_path: Path) -> None:
    clip = write_film(tmp_path / "clips/street", [20, 23, 26])
    write_track(tmp_path / "out/one", clip, np.array([[1.0, 2, 3, 4], [23.0, 15, 33, 25], [1, 2, 3, 4]]))
    boxes = tmp_path / "out/one/boxes.csv"
    head, _, *others = boxes.read_text().splitlines(keepends=True)
    boxes.write_text("".join([head, *others]))
    starts = [Start("street", 1, start_box(23), "one")]
    (track,) = label(Pair(Red(), Red()), tmp_path / "clips", starts, tmp_path / "out")
    assert track == Track("one", 2, 3, False, as_drawn=True)


def test_a_track_that_was_broken_off_does_not_count_as_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = write_film(tmp_path / "clips/street", [20, 23, 26])
    write = ResultFile.write

    def broken_off(self: ResultFile, frame: int, *result: Any) -> None:
        if frame == 2:
            raise KeyboardInterrupt
        write(self, frame, *result)

    monkeypatch.setattr(ResultFile, "write", broken_off)
    with pytest.raises(KeyboardInterrupt):
        write_track(tmp_path / "one", clip, np.ones((3, 4)).cumsum(axis=1))
    assert not [*(tmp_path / "one").glob("boxes*")]


def test_starts_are_read_from_a_table(tmp_path: Path) -> None:
    path = tmp_path / "starts.csv"
    path.write_text(HEADER + "street,0,1.5,2,3,4,one\nroad,7,5,6,7,8,two\n", encoding="utf-8")
    assert read_starts(path) == [
        Start("street", 0, (1.5, 2.0, 3.0, 4.0), "one"),
        Start("road", 7, (5.0, 6.0, 7.0, 8.0), "two"),
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("clip,x,y,w,h\n", "must begin with the header clip,frame,x,y,w,h,name"),
        (HEADER, "must name every track differently, got no row"),
        (HEADER + "a,0,1,2,3,4,one\na,0,1,2,3,4,one\n", "differently, got one"),
        (HEADER + "a,0,1,2,x,4,one\n", "line 2: could not convert"),
        (HEADER + "a,0,1,2,3,0,one\n", "line 2: a box is x, y, width, height"),
        (HEADER + "a,-1,1,2,3,4,one\n", "line 2: frames count from 0"),
        (HEADER + "a,0,1,2,3,4,..\n", "line 2: frames count from 0 and a name is that of a new folder"),
        (HEADER + "a,0,1,2,3,4,../one\n", "line 2: frames count from 0 and a name is that of a new folder"),
        (HEADER + "a,0,1,2\n", "line 2: a row must have clip,frame,x,y,w,h,name"),
        (HEADER + "a,0,1,2,3,4,one,5\n", "line 2: a row must have clip,frame,x,y,w,h,name"),
    ],
)
def test_a_wrong_table_of_starts_is_refused_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "starts.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=words):
        read_starts(path)
