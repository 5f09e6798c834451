"""Sequences, their frames on disk, and lists of sequences that are opened one by one."""

from __future__ import annotations

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
from layouts import write_images

from mixformerv2.data.sequence import ImageFiles, LazySequences, NumberedFrames, Sequence

BOX = np.array([[0.0, 0.0, 4.0, 4.0]])


def named(name: str) -> Sequence:
    return Sequence(name, ImageFiles((Path(f"{name}.jpg"),)), BOX, np.array([False]))


def test_a_frame_is_rgb_as_stored(tmp_path: Path) -> None:
    red = np.zeros((24, 32, 3), np.uint8)
    red[..., 2] = 255  # OpenCV writes BGR
    cv2.imwrite(str(tmp_path / "red.png"), red)
    frame = Sequence("one", ImageFiles((tmp_path / "red.png",)), BOX, np.array([False])).frame(0)
    assert frame.shape == (24, 32, 3)
    assert frame.dtype == np.uint8
    assert frame[0, 0].tolist() == [255, 0, 0]


def test_more_boxes_than_frames_is_refused_with_both_counts(tmp_path: Path) -> None:
    boxes_frame = np.repeat(BOX, 3, axis=0)
    with pytest.raises(ValueError, match="sequence short has 3 boxes for 2 frames"):
        Sequence(
            "short", ImageFiles((tmp_path / "1.jpg", tmp_path / "2.jpg")), boxes_frame, np.zeros(3, bool)
        )


@pytest.mark.parametrize("box", [[0, 0, 0, 4], [4, 0, 2, 4], [0, 0, np.nan, 4], [0, 0, np.inf, 4]])
def test_a_visible_frame_without_a_real_box_is_refused(box: list[float]) -> None:
    boxes_frame = np.array([box], np.float64)
    with pytest.raises(ValueError, match="sequence odd: the box of frame 0 must be finite"):
        Sequence("odd", ImageFiles((Path("1.jpg"),)), boxes_frame, np.array([False]))
    assert len(Sequence("odd", ImageFiles((Path("1.jpg"),)), boxes_frame, np.array([True]))) == 1


def test_a_part_has_all_that_is_known_of_its_frames(tmp_path: Path) -> None:
    class Ramp:
        def read(self, index: int) -> np.ndarray:
            return np.full((3, 4), index == 5)

    files = tuple(tmp_path / f"{number}.png" for number in range(8))
    for number, file in enumerate(files):
        cv2.imwrite(str(file), np.full((3, 4, 3), number, np.uint8))
    boxes = np.tile([0.0, 0.0, 2.0, 2.0], (8, 1)) + np.arange(8)[:, None] / 10
    at = [np.arange(8) == number for number in range(8)]
    whole = Sequence("a", ImageFiles(files), boxes, at[6], at[5], at[6], masks=Ramp(), unknown=at[6])
    part = whole.part(range(4, 7))
    assert len(part) == 3 and (part.frame(1) == 5).all()
    assert np.array_equal(part.boxes_frame, boxes[4:7])
    assert part.frames.place(2) == str(files[6])
    assert part.same_pictures(whole)
    for flagged, row in ((part.absent, 2), (part.unknown, 2), (part.occluded, 1), (part.out_of_view, 2)):
        assert flagged is not None and np.flatnonzero(flagged).tolist() == [row]
    assert part.masks is not None and part.masks.read(1).all() and not part.masks.read(0).any()


@pytest.mark.parametrize("content", [None, b"", b"not an image"])
def test_an_unreadable_frame_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "0001.jpg"
    if content is not None:
        path.write_bytes(content)
    sequence = Sequence("broken", ImageFiles((path,)), BOX, np.array([False]))
    with pytest.raises(ValueError, match=r"0001\.jpg"):
        sequence.frame(0)


def test_numbered_frames_count_index_and_slice_like_a_tuple(tmp_path: Path) -> None:
    write_images(tmp_path / "img", range(8, 13), digits=4)
    (tmp_path / "img" / "cover.jpg").touch()
    frames = NumberedFrames.find(tmp_path / "img")
    assert [path.name for path in frames] == ["0008.jpg", "0009.jpg", "0010.jpg", "0011.jpg", "0012.jpg"]
    assert frames[-1].name == "0012.jpg"
    assert [path.name for path in frames[1:3]] == ["0009.jpg", "0010.jpg"]
    with pytest.raises(IndexError):
        frames[5]
    assert pickle.loads(pickle.dumps(frames)) == frames


def test_frame_numbers_without_leading_zeros_are_in_order(tmp_path: Path) -> None:
    write_images(tmp_path / "img", range(9, 12), digits=1)
    assert [path.name for path in NumberedFrames.find(tmp_path / "img")] == ["9.jpg", "10.jpg", "11.jpg"]


def test_a_missing_frame_number_is_named(tmp_path: Path) -> None:
    write_images(tmp_path / "img", range(1, 6), digits=4)
    (tmp_path / "img" / "0003.jpg").unlink()
    with pytest.raises(ValueError, match=r"0003\.jpg"):
        NumberedFrames.find(tmp_path / "img")


def test_a_list_of_sequences_opens_those_asked_for_only() -> None:
    opened = []

    def load(name: str) -> Sequence:
        opened.append(name)
        return named(name)

    sequences = LazySequences(("a", "b", "c"), load)
    assert len(sequences) == 3
    assert len(sequences[1:]) == 2
    assert opened == []
    assert sequences[-1].name == "c"
    assert [sequence.name for sequence in sequences[:2]] == ["a", "b"]
    assert opened == ["c", "a", "b"]


def test_a_list_of_sequences_travels_to_a_worker() -> None:
    sequences = pickle.loads(pickle.dumps(LazySequences(("a", "b"), named)))
    assert [sequence.name for sequence in sequences] == ["a", "b"]
