"""The readers of LaSOT, its extension, VastTrack, TNL2K and NfS on small datasets written by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from layouts import touch_images, write_images, write_lasot, write_text

from mixformerv2.data.benchmarks import READERS
from mixformerv2.data.readers.lasot import lasot_test_names, read_lasot
from mixformerv2.data.readers.nfs import read_nfs


def listed(sequences: object) -> list[str]:
    return list(sequences.names)  # type: ignore[attr-defined]


# --- LaSOT


def test_lasot_counts_pixels_from_one_and_keeps_both_flags(tmp_path: Path) -> None:
    boxes = ["2,3,10,5", "2,3,10,5", "2,3,10,5", "1,1,-1,-1"]
    write_lasot(tmp_path / "lion" / "lion-5", *boxes, occluded="0,1,0,0", outside="0,0,1,0")
    (lion,) = READERS["lasot"](tmp_path)
    assert lion.name == "lion-5"
    assert lion.boxes_frame[0].tolist() == [1, 2, 11, 7]
    # Covered, out of view, without a box: a published mistake in this sequence.
    assert lion.absent.tolist() == [False, True, True, True]
    assert np.isnan(lion.boxes_frame[1:]).all()
    assert lion.occluded is not None
    assert lion.occluded.tolist() == [False, True, False, False]
    assert lion.out_of_view is not None
    assert lion.out_of_view.tolist() == [False, False, True, False]
    assert Path(lion.frames.place(3)).name == "00000004.jpg"


def test_lasot_may_lie_without_folders_of_classes(tmp_path: Path) -> None:
    for name in ("lion-10", "lion-2", "bear-1"):
        write_lasot(tmp_path / name, "2,3,10,5")
    assert [sequence.name for sequence in READERS["lasot"](tmp_path)] == ["bear-1", "lion-2", "lion-10"]


def test_the_test_part_of_lasot_is_280_sequences_four_of_each_class() -> None:
    names = lasot_test_names()
    assert len(set(names)) == 280
    assert len({name.split("-")[0] for name in names}) == 70
    assert {"airplane-15", "tiger-6", "zebra-17"} < set(names)


def test_lasot_is_split_by_the_lists_beside_it_or_else_as_published(tmp_path: Path) -> None:
    for name in ("airplane-1", "airplane-2", "airplane-3"):
        write_lasot(tmp_path / "airplane" / name, "2,3,10,5")
    # The extension unpacked into the same folder stays out of training.
    write_lasot(tmp_path / "atv" / "atv-1", "2,3,10,5")
    assert listed(READERS["lasot-train"](tmp_path)) == ["airplane-2", "airplane-3"]
    assert listed(READERS["lasot-test"](tmp_path)) == lasot_test_names()
    write_text(tmp_path / "testing_set.txt", "airplane-2")
    assert listed(READERS["lasot-train"](tmp_path)) == ["airplane-1", "airplane-3"]
    assert listed(READERS["lasot-test"](tmp_path)) == ["airplane-2"]
    write_text(tmp_path / "training_set.txt", "airplane-3", "zebra-1")
    train = READERS["lasot-train"](tmp_path)
    assert train[0].name == "airplane-3"
    with pytest.raises(ValueError, match="sequence zebra-1 has no folder: expected .*zebra/zebra-1/img"):
        train[1]
    assert len(READERS["lasot"](tmp_path)) == 4


def test_the_extension_of_lasot_counts_pixels_from_zero(tmp_path: Path) -> None:
    write_lasot(tmp_path / "atv" / "atv-1", "0,3,10,5")
    (atv,) = READERS["lasot-ext"](tmp_path)
    assert atv.boxes_frame.tolist() == [[0, 3, 10, 8]]


def test_the_extension_is_told_from_lasot_in_one_folder(tmp_path: Path) -> None:
    write_lasot(tmp_path / "airplane" / "airplane-1", "2,3,10,5")
    with pytest.raises(ValueError, match=r"no LaSOT-ext in .*: expected files like"):
        READERS["lasot-ext"](tmp_path)
    write_lasot(tmp_path / "atv" / "atv-1", "0,3,10,5")
    assert listed(READERS["lasot-ext"](tmp_path)) == ["atv-1"]


def test_lasot_that_does_not_fit_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no LaSOT in .*expected files like .*CLASS-1/groundtruth\.txt"):
        read_lasot(tmp_path)
    folder = tmp_path / "lion" / "lion-5"
    write_lasot(folder, "2,3,10,5", "2,3,10,5", occluded="0,0,0")
    with pytest.raises(ValueError, match="split must be 'all', 'train' or 'test', got 'val'"):
        read_lasot(tmp_path, "val")
    with pytest.raises(ValueError, match=r"lion-5 has 3 labels in .*full_occlusion\.txt for 2 boxes"):
        read_lasot(tmp_path)[0]
    write_text(folder / "full_occlusion.txt", "0,0")
    (folder / "img" / "00000002.jpg").unlink()
    with pytest.raises(ValueError, match=r"sequence lion-5 has 2 boxes for 1 frames: .*groundtruth\.txt"):
        read_lasot(tmp_path)[0]
    (folder / "out_of_view.txt").unlink()
    with pytest.raises(ValueError, match=r"lion-5/out_of_view\.txt is missing"):
        read_lasot(tmp_path)[0]


# --- VastTrack


@pytest.mark.parametrize(("images", "digits"), [("imgs", 5), ("img", 8)])
def test_vasttrack_has_zeros_for_absent_and_names_with_spaces(
    tmp_path: Path, images: str, digits: int
) -> None:
    for name in ("Air Hockey-2", "Air Hockey-10"):
        folder = tmp_path / "Air Hockey" / name
        touch_images(folder / images, range(1, 4), digits=digits)
        write_text(folder / "Groundtruth.txt", "676,504,33,11", "469,514,33,12", "0,0,0,0")
    first, second = READERS["vasttrack"](tmp_path)
    assert (first.name, second.name) == ("Air Hockey-2", "Air Hockey-10")
    assert first.boxes_frame[0].tolist() == [676, 504, 709, 515]
    assert first.absent.tolist() == [False, False, True]
    assert (first.occluded, first.out_of_view) == (None, None)
    write_text(tmp_path / "Air Hockey" / "Air Hockey-10" / "out_of_view.txt", "0,1,0")
    second = READERS["vasttrack"](tmp_path)[1]
    assert second.absent.tolist() == [False, True, True]
    assert second.out_of_view is not None


def test_vasttrack_is_split_by_the_published_test_list(tmp_path: Path) -> None:
    for name in ("Actor-1", "Actor-2"):
        touch_images(tmp_path / "Actor" / name / "imgs", [1], digits=5)
        write_text(tmp_path / "Actor" / name / "Groundtruth.txt", "1,1,10,5")
    assert len(READERS["vasttrack-train"](tmp_path)) == 2
    with pytest.raises(
        ValueError, match=r"test part of VastTrack needs its published list: put vasttrack_test_list"
    ):
        READERS["vasttrack-test"](tmp_path)
    write_text(tmp_path / "vasttrack_test_list.txt", "Actor-2")
    assert listed(READERS["vasttrack-train"](tmp_path)) == ["Actor-1"]
    assert listed(READERS["vasttrack-test"](tmp_path)) == ["Actor-2"]


# --- TNL2K


@pytest.mark.parametrize("deeper", ["", "TNL2K_train_subset_p1"])
def test_tnl2k_frames_have_any_names_and_go_by_their_numbers(tmp_path: Path, deeper: str) -> None:
    folder = tmp_path / deeper / "Chess_video_16"
    (folder / "imgs").mkdir(parents=True)
    for name in ("frame_10.png", "frame_2.jpg", "frame_9.jpg", "notes.txt"):
        (folder / "imgs" / name).touch()
    write_text(folder / "groundtruth.txt", "2,3,10,5", "0,0,0,0", "2.5,3,10,5")
    (chess,) = READERS["tnl2k"](tmp_path)
    assert chess.name == "Chess_video_16"
    names = [Path(chess.frames.place(index)).name for index in range(3)]
    assert names == ["frame_2.jpg", "frame_9.jpg", "frame_10.png"]
    assert chess.boxes_frame[[0, 2]].tolist() == [[2, 3, 12, 8], [2.5, 3, 12.5, 8]]
    assert chess.absent.tolist() == [False, True, False]


def test_tnl2k_is_split_by_its_published_lists(tmp_path: Path) -> None:
    for name in ("a", "b"):
        touch_images(tmp_path / name / "imgs", [1])
        write_text(tmp_path / name / "groundtruth.txt", "2,3,10,5")
    write_text(tmp_path / "TNL2K_testing_set.txt", "b")
    assert listed(READERS["tnl2k-test"](tmp_path)) == ["b"]
    assert listed(READERS["tnl2k-train"](tmp_path)) == ["a"]
    (tmp_path / "b" / "imgs" / "00000001.jpg").unlink()
    with pytest.raises(ValueError, match="no frames in .*b/imgs"):
        READERS["tnl2k-test"](tmp_path)[0]


# --- NfS


def vatic(frame: int, box: str = "2 3 12 8", lost: int = 0, occluded: int = 0) -> str:
    return f'0 {box} {frame} {lost} {occluded} 0 "race car"'


def test_nfs_has_corners_and_flags_and_leaves_frames_without_a_row_unknown(tmp_path: Path) -> None:
    write_images(tmp_path / "car" / "240" / "car", range(1, 6), digits=5)
    rows = [vatic(1), vatic(2, occluded=1), vatic(4, lost=1), vatic(5, "0 0 0 0")]
    write_text(tmp_path / "car" / "240" / "car.txt", *rows)
    (car,) = READERS["nfs240"](tmp_path)
    assert car.name == "car"
    assert car.boxes_frame[:2].tolist() == [[2, 3, 12, 8]] * 2
    assert car.absent.tolist() == [False, False, True, True, True]
    assert car.occluded is not None
    assert car.occluded.tolist() == [False, True, False, False, False]
    assert car.out_of_view is not None
    assert car.out_of_view.tolist() == [False, False, False, True, False]


@pytest.mark.parametrize("fast_rows", [True, False])
def test_slow_nfs_takes_every_eighth_row_of_the_fast_annotation(tmp_path: Path, fast_rows: bool) -> None:
    touch_images(tmp_path / "car" / "30" / "car", range(1, 4), digits=5)
    rows = [vatic(frame, f"{frame} 0 100 8") for frame in (range(1, 25) if fast_rows else (1, 2, 3))]
    write_text(tmp_path / "car" / "30" / "car.txt", *rows)
    (car,) = READERS["nfs30"](tmp_path)
    assert car.boxes_frame[:, 0].tolist() == ([1, 9, 17] if fast_rows else [1, 2, 3])
    assert not car.absent.any()


@pytest.mark.parametrize("frames", [23, 25])
def test_nfs_videos_may_be_one_frame_longer_or_shorter_than_their_boxes(tmp_path: Path, frames: int) -> None:
    touch_images(tmp_path / "car" / "240" / "car", range(1, frames + 1), digits=5)
    write_text(tmp_path / "car" / "240" / "car.txt", *map(vatic, range(1, 25)))
    (car,) = READERS["nfs240"](tmp_path)
    assert len(car) == frames
    assert np.flatnonzero(car.absent).tolist() == [24][: frames - 24]


def test_nfs_that_does_not_fit_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="fps must be 30 or 240, got 60"):
        read_nfs(tmp_path, 60)
    with pytest.raises(ValueError, match=r"no NfS at 240 frames a second in .*expected .*240/car\.txt"):
        read_nfs(tmp_path, 240)
    touch_images(tmp_path / "car" / "240" / "car", range(1, 11), digits=5)
    file = tmp_path / "car" / "240" / "car.txt"
    write_text(file, *map(vatic, range(1, 31)))
    with pytest.raises(
        ValueError, match=r"sequence car has 30 annotated frames of 10: .*car\.txt, .*240/car"
    ):
        read_nfs(tmp_path, 240)[0]
    for row, message in (
        ("0 2 3 12 8 1 0", r"car\.txt: row 1 must have at least 8 numbers, got '0 2 3 12 8 1 0'"),
        ("0 2 3 12 x 1 0 0", r"car\.txt must begin every row with 8 numbers: .*'x'"),
        (vatic(0), r"car\.txt must count frames from 1 in column 6, got 0"),
    ):
        write_text(file, row)
        with pytest.raises(ValueError, match=message):
            read_nfs(tmp_path, 240)[0]
    file.write_text("\n")
    with pytest.raises(ValueError, match=r"car\.txt holds no boxes"):
        read_nfs(tmp_path, 240)[0]
