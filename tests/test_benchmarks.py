"""The readers of datasets whose boxes are text files, on small ones written by hand, and their recognition."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from layouts import (
    development_data,
    touch_images,
    write_coco,
    write_got10k,
    write_images,
    write_lasot,
    write_palette_png,
    write_text,
)

from mixformerv2.data.benchmarks import FIRST_PIXEL, LAYOUTS, READERS
from mixformerv2.data.readers.annotation import read_labels, read_rows
from mixformerv2.data.readers.got10k import read_got10k, read_trackingnet
from mixformerv2.data.readers.otb import read_otb, uav123_frames

# --- Text files


@pytest.mark.parametrize("separator", [",", "\t", " ", ", "])
def test_rows_take_any_separator_and_skip_blank_lines(tmp_path: Path, separator: str) -> None:
    write_text(tmp_path / "boxes.txt", separator.join("1234"), "", separator.join(["5", "6.5", "nan", "-8"]))
    rows = read_rows(tmp_path / "boxes.txt", columns=4)
    assert rows.dtype == np.float64
    assert rows[0].tolist() == [1, 2, 3, 4]
    assert rows[1, [0, 1, 3]].tolist() == [5, 6.5, -8]
    assert np.isnan(rows[1, 2])


def test_a_mark_of_the_byte_order_is_no_number(tmp_path: Path) -> None:
    (tmp_path / "boxes.txt").write_bytes(b"\xef\xbb\xbf1,2,3,4\r\n5,6,7,8\r\n")
    assert read_rows(tmp_path / "boxes.txt", columns=4).tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"boxes\.txt is missing"),
        (b"1,1,9,5\n1,1,9\n", r"boxes\.txt: row 2 must have 4 numbers, got '1 1 9'"),
        (b"1,1,9,5\n1,1,9,x\n", r"boxes\.txt must hold numbers only: .*'x'"),
        (b"\xff\xfe\x00", r"boxes\.txt is not text"),
    ],
)
def test_rows_that_cannot_be_read_are_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "boxes.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_rows(path, columns=4)


@pytest.mark.parametrize("text", ["0,1,0", "0\n1\n0\n", "0 1 0\n"])
def test_labels_stand_in_one_line_or_in_many(tmp_path: Path, text: str) -> None:
    (tmp_path / "flags.txt").write_text(text)
    assert read_labels(tmp_path / "flags.txt", 3, "one").tolist() == [0, 1, 0]
    with pytest.raises(ValueError, match=r"sequence one has 3 labels in .*flags\.txt for 4 boxes"):
        read_labels(tmp_path / "flags.txt", 4, "one")


# --- OTB


def test_otb_counts_pixels_from_one(tmp_path: Path) -> None:
    write_images(tmp_path / "Car4" / "img", range(1, 3), digits=4)
    write_text(tmp_path / "Car4" / "groundtruth_rect.txt", "1,1,10,5", "3,2,7.5,6")
    (sequence,) = read_otb(tmp_path)
    assert sequence.name == "Car4"
    assert sequence.boxes_frame.dtype == np.float64
    assert sequence.boxes_frame.tolist() == [[0, 0, 10, 5], [2, 1, 9.5, 7]]
    assert not sequence.absent.any()
    assert sequence.frame(1)[0, 0].tolist() == [2, 2, 2]


def test_an_empty_file_beside_another_is_no_target_as_in_human4(tmp_path: Path) -> None:
    touch_images(tmp_path / "Human4" / "img", range(1, 3), digits=4)
    (tmp_path / "Human4" / "groundtruth_rect.1.txt").write_text("\n")
    write_text(tmp_path / "Human4" / "groundtruth_rect.2.txt", "1,1,10,5", "3,2,7,6")
    (sequence,) = read_otb(tmp_path)
    assert sequence.name == "Human4" and len(sequence) == 2


def test_otb_with_two_ground_truth_files_has_two_targets(tmp_path: Path) -> None:
    touch_images(tmp_path / "Jogging" / "img", range(1, 2), digits=4)
    write_text(tmp_path / "Jogging" / "groundtruth_rect.1.txt", "1,1,10,5")
    write_text(tmp_path / "Jogging" / "groundtruth_rect.2.txt", "11,1,10,5")
    write_text(tmp_path / "Jogging" / "groundtruth_rect_ilchae.txt", "5,5,5,5")  # in the published archive
    first, second = read_otb(tmp_path)
    assert (first.name, second.name) == ("Jogging.1", "Jogging.2")
    assert first.boxes_frame.tolist() == [[0, 0, 10, 5]]
    assert second.boxes_frame.tolist() == [[10, 0, 20, 5]]


@pytest.mark.parametrize("first", [1, 300])
def test_otb_david_starts_at_file_0300_whether_or_not_earlier_frames_are_there(
    tmp_path: Path, first: int
) -> None:
    touch_images(tmp_path / "David" / "img", range(first, 771), digits=4)
    write_text(tmp_path / "David" / "groundtruth_rect.txt", *["129,80,64,78"] * 471)
    (sequence,) = read_otb(tmp_path)
    assert len(sequence) == 471
    assert Path(sequence.frames.place(0)).name == "0300.jpg"
    assert Path(sequence.frames.place(470)).name == "0770.jpg"


def test_otb_boxes_without_area_mean_an_absent_target(tmp_path: Path) -> None:
    touch_images(tmp_path / "Car4" / "img", range(1, 4), digits=4)
    write_text(tmp_path / "Car4" / "groundtruth_rect.txt", "1,1,10,5", "NaN,NaN,NaN,NaN", "0,0,0,0")
    (sequence,) = read_otb(tmp_path)
    assert sequence.absent.tolist() == [False, True, True]
    assert np.isnan(sequence.boxes_frame[1:]).all()


def test_otb_that_does_not_fit_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no OTB sequences in .*expected folders like"):
        read_otb(tmp_path)
    touch_images(tmp_path / "Car4" / "img", range(1, 4), digits=4)
    with pytest.raises(ValueError, match=r"the file .*Car4/groundtruth_rect\.txt is missing"):
        read_otb(tmp_path)[0]
    write_text(tmp_path / "Car4" / "groundtruth_rect.txt", *["1,1,10,5"] * 2)
    with pytest.raises(
        ValueError, match=r"sequence Car4 has 2 boxes for 3 frames: .*groundtruth_rect\.txt, .*img"
    ):
        read_otb(tmp_path)[0]


def test_one_broken_sequence_does_not_keep_the_others_from_being_read(tmp_path: Path) -> None:
    for name in ("Car4", "Dog", "Man"):
        touch_images(tmp_path / name / "img", range(1, 2), digits=4)
        write_text(tmp_path / name / "groundtruth_rect.txt", "1,1,x,5" if name == "Dog" else "1,1,10,5")
    sequences = read_otb(tmp_path)
    assert [sequences[0].name, sequences[2].name] == ["Car4", "Man"]
    with pytest.raises(ValueError, match=r"Dog/groundtruth_rect\.txt"):
        sequences[1]


# --- UAV123


def test_the_uav123_table_has_the_published_number_of_sequences_and_frames() -> None:
    frames = uav123_frames()
    assert len(frames) == 123
    assert sum(len(numbers) for _, numbers in frames.values()) == 112_578
    assert frames["bird1_2"] == ("bird1", range(775, 1478))
    assert frames["car1_s"] == ("car1_s", range(1, 1476))


def test_uav123_takes_its_part_of_a_longer_video_and_counts_pixels_from_one(tmp_path: Path) -> None:
    touch_images(tmp_path / "data_seq" / "UAV123" / "bird1", range(1, 2438), digits=6)
    boxes = ["2,3,10,5"] * 252
    write_text(tmp_path / "anno" / "UAV123" / "bird1_1.txt", *boxes, "NaN,NaN,NaN,NaN")
    write_text(tmp_path / "anno" / "UAV123" / "bird1_3.txt", *["2,3,10,5"] * 865)
    first, third = READERS["uav123"](tmp_path)
    assert (first.name, third.name) == ("bird1_1", "bird1_3")
    assert first.boxes_frame[0].tolist() == [1, 2, 11, 7]
    assert np.flatnonzero(first.absent).tolist() == [252]
    assert Path(third.frames.place(0)).name == "001573.jpg"
    assert Path(third.frames.place(864)).name == "002437.jpg"


def test_uav123_that_does_not_fit_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no UAV123 in .*expected .*bike1\.txt"):
        READERS["uav123"](tmp_path)
    write_text(tmp_path / "anno" / "UAV123" / "uav6.txt", *["2,3,10,5"] * 109)
    with pytest.raises(ValueError, match="sequence uav6 has no folder: expected .*UAV123/uav6"):
        READERS["uav123"](tmp_path)[0]
    touch_images(tmp_path / "data_seq" / "UAV123" / "uav6", range(1, 109), digits=6)
    with pytest.raises(ValueError, match="sequence uav6 has 109 boxes for 108 frames"):
        READERS["uav123"](tmp_path)[0]


# --- GOT-10k


def test_got10k_keeps_absence_cover_and_cuts(tmp_path: Path) -> None:
    boxes = "2.5,1.0,10.0,5.0\n2.5,1.0,10.0,5.0\n2.5,1.0,10.0,5.0\n0.0,0.0,0.0,0.0\n"
    folder = write_got10k(tmp_path, boxes, absence="0\n1\n0\n0\n", cover="8\n3\n0\n8\n", frames=4)
    (sequence,) = READERS["got10k-train"](tmp_path)
    assert sequence.name == "GOT-10k_Train_000001"
    assert Path(sequence.frames.place(3)).name == "00000004.jpg"
    # Flagged, covered entirely, without a box.
    assert sequence.absent.tolist() == [False, True, True, True]
    assert sequence.boxes_frame[0].tolist() == [2.5, 1.0, 12.5, 6.0]
    assert np.isnan(sequence.boxes_frame[1:]).all()
    assert sequence.occluded is not None
    assert sequence.occluded.tolist() == [False, True, True, False]
    assert sequence.out_of_view is None
    write_text(folder / "cut_by_image.label", 1, 0, 0, 1)
    (sequence,) = READERS["got10k-train"](tmp_path)
    assert sequence.out_of_view is not None
    assert sequence.out_of_view.tolist() == [True, False, False, True]


def test_of_got10k_test_only_the_first_boxes_are_known(tmp_path: Path) -> None:
    touch_images(tmp_path / "test" / "GOT-10k_Test_000001", range(1, 4))
    write_text(tmp_path / "test" / "GOT-10k_Test_000001" / "groundtruth.txt", "2,1,10,5")
    write_text(tmp_path / "test" / "list.txt", "GOT-10k_Test_000001")
    (sequence,) = READERS["got10k-test"](tmp_path)
    assert sequence.absent.tolist() == [False, True, True]
    assert sequence.boxes_frame[0].tolist() == [2, 1, 12, 6]
    assert sequence.occluded is None


def write_names(root: Path, count: int) -> list[str]:
    names = [f"GOT-10k_Train_{number:06d}" for number in range(1, count + 1)]
    write_text(root / "train" / "list.txt", *names)
    return names


def listed(sequences: object) -> list[str]:
    return list(sequences.names)  # type: ignore[attr-defined]


def test_the_vot_split_of_got10k_is_a_list_of_positions_or_the_rest_of_the_excluded(tmp_path: Path) -> None:
    names = write_names(tmp_path, 5)
    with pytest.raises(
        ValueError, match=r"'train-vot' needs its published list: put got10k_vot_train_split\.txt or"
    ):
        READERS["got10k-train-vot"](tmp_path)
    write_text(tmp_path / "train" / "list0_prohibited_1000.txt", names[0], names[3])
    assert listed(READERS["got10k-train-vot"](tmp_path)) == [names[1], names[2], names[4]]
    write_text(tmp_path / "train" / "got10k_vot_train_split.txt", 4, 0)
    assert listed(READERS["got10k-train-vot"](tmp_path)) == [names[4], names[0]]
    write_text(tmp_path / "train" / "got10k_vot_val_split.txt", names[2])
    assert listed(READERS["got10k-val-vot"](tmp_path)) == [names[2]]
    write_text(tmp_path / "train" / "got10k_vot_train_split.txt", 5)
    with pytest.raises(ValueError, match=r"names sequence 5, counted from 0, but list\.txt has 5"):
        READERS["got10k-train-vot"](tmp_path)


def test_listing_opens_nothing_but_the_list(tmp_path: Path) -> None:
    write_names(tmp_path, 9335)
    sequences = READERS["got10k-train"](tmp_path)
    assert len(sequences) == 9335
    with pytest.raises(ValueError, match="sequence GOT-10k_Train_009335 has no folder"):
        sequences[-1]


def test_got10k_that_does_not_fit_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no GOT-10k in .*expected .*list\.txt"):
        read_got10k(tmp_path, "train")
    with pytest.raises(ValueError, match="split must be 'train', 'val', 'test', .* got 'testing'"):
        read_got10k(tmp_path, "testing")
    folder = write_got10k(tmp_path, "1,1,5,5\n" * 2, absence="0\n", cover="8\n" * 2, frames=2)
    with pytest.raises(ValueError, match=r"000001 has 1 labels in .*absence\.label for 2 boxes"):
        read_got10k(tmp_path, "train")[0]
    write_text(folder / "absence.label", 0, 0)
    (folder / "00000002.jpg").unlink()
    with pytest.raises(ValueError, match="has 2 boxes for 1 frames"):
        read_got10k(tmp_path, "train")[0]
    (folder / "cover.label").unlink()
    with pytest.raises(ValueError, match=r"cover\.label is missing"):
        read_got10k(tmp_path, "train")[0]


# --- TrackingNet


def test_trackingnet_is_read_part_by_part_with_frames_in_order_of_their_numbers(tmp_path: Path) -> None:
    for part, video in (("TRAIN_10", "c"), ("TRAIN_2", "b")):
        write_images(tmp_path / part / "frames" / video, range(12), digits=1)
        write_text(tmp_path / part / "anno" / f"{video}.txt", *["-2.5,1,10,5"] * 11, "0,0,0,0")
    first, second = READERS["trackingnet-train"](tmp_path)
    assert (first.name, second.name) == ("b", "c")
    assert first.boxes_frame[0].tolist() == [-2.5, 1, 7.5, 6]
    assert np.flatnonzero(first.absent).tolist() == [11]
    assert first.frame(10)[0, 0].tolist() == [10, 10, 10]


def test_of_trackingnet_test_only_the_first_boxes_are_known(tmp_path: Path) -> None:
    touch_images(tmp_path / "TEST" / "frames" / "a", range(3), digits=1)
    write_text(tmp_path / "TEST" / "anno" / "a.txt", "2,1,10,5")
    (sequence,) = READERS["trackingnet-test"](tmp_path)
    assert sequence.absent.tolist() == [False, True, True]


def test_trackingnet_that_does_not_fit_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="split must be 'train' or 'test', got 'val'"):
        read_trackingnet(tmp_path, "val")
    for split, part in (("train", "TRAIN_0"), ("test", "TEST")):
        with pytest.raises(ValueError, match=f"no TrackingNet {split} part in .*expected .*{part}/anno"):
            read_trackingnet(tmp_path, split)
    write_text(tmp_path / "TRAIN_3" / "anno" / "a.txt", "2,1,10,5", "2,1,10,5")
    with pytest.raises(ValueError, match="sequence a has no folder: expected .*TRAIN_3/frames/a"):
        read_trackingnet(tmp_path, "train")[0]
    touch_images(tmp_path / "TRAIN_3" / "frames" / "a", [0], digits=1)
    with pytest.raises(ValueError, match="sequence a has 2 boxes for 1 frames"):
        read_trackingnet(tmp_path, "train")[0]


# --- Names and recognition


def write_otb(root: Path) -> None:
    touch_images(root / "Car4" / "img", [1], digits=4)
    write_text(root / "Car4" / "groundtruth_rect.txt", "1,1,10,5")


def write_vasttrack(root: Path) -> None:
    touch_images(root / "Actor" / "Actor-3" / "imgs", [1], digits=5)
    write_text(root / "Actor" / "Actor-3" / "Groundtruth.txt", "1,1,10,5")


def write_tnl2k(root: Path) -> None:
    touch_images(root / "Ship_video_X05-Done" / "imgs", [1], digits=5)
    write_text(root / "Ship_video_X05-Done" / "groundtruth.txt", "1,1,10,5")


def write_trackingnet(root: Path) -> None:
    touch_images(root / "TRAIN_0" / "frames" / "a", [0], digits=1)
    write_text(root / "TRAIN_0" / "anno" / "a.txt", "1,1,10,5")


def write_uav123(root: Path) -> None:
    touch_images(root / "data_seq" / "UAV123" / "mine", [1], digits=6)
    write_text(root / "anno" / "UAV123" / "mine.txt", "1,1,10,5")


def write_nfs(root: Path, fps: int) -> None:
    touch_images(root / "car" / str(fps) / "car", [1], digits=5)
    write_text(root / "car" / str(fps) / "car.txt", '0 1 1 11 6 1 0 0 0 "car"')


def write_vot(root: Path) -> None:
    touch_images(root / "bag" / "color", [1])
    write_text(root / "bag" / "groundtruth.txt", "1,1,10,5")
    write_text(root / "list.txt", "bag")


def write_davis(root: Path) -> None:
    touch_images(root / "JPEGImages" / "480p" / "bear", [0], digits=5)
    write_palette_png(root / "Annotations" / "480p" / "bear" / "00000.png", np.ones((4, 4), np.uint8))


WRITERS: dict[str, Callable[[Path], object]] = {
    "coco": lambda root: write_coco(root, {"bbox": [1, 1, 10, 5]}),
    "davis": write_davis,
    "got10k": lambda root: write_got10k(root, "1,1,10,5\n", "0\n", "8\n", frames=1),
    "lasot-ext": lambda root: write_lasot(root / "atv" / "atv-1", "1,1,10,5"),
    "lasot": lambda root: write_lasot(root / "airplane" / "airplane-2", "1,1,10,5"),
    "vasttrack": write_vasttrack,
    "tnl2k": write_tnl2k,
    "trackingnet": write_trackingnet,
    "uav123": write_uav123,
    "nfs30": lambda root: (write_nfs(root, 30), write_nfs(root, 240)),
    "nfs240": lambda root: write_nfs(root, 240),
    "vot": write_vot,
    "otb": write_otb,
}


@pytest.mark.parametrize("kind", LAYOUTS)
def test_each_layout_is_recognised_as_itself_alone_and_read(tmp_path: Path, kind: str) -> None:
    WRITERS[kind](tmp_path)
    assert [name for name, layout in LAYOUTS.items() if layout.recognise(tmp_path)] == [kind]
    # As a worker gets them.
    (sequence,) = pickle.loads(pickle.dumps(LAYOUTS[kind].reader(tmp_path)))
    assert len(sequence) == 1
    assert not sequence.absent.any()


def test_the_layout_of_an_empty_or_missing_folder_is_none(tmp_path: Path) -> None:
    (tmp_path / "empty" / "inner").mkdir(parents=True)
    for root in (tmp_path / "missing", tmp_path, tmp_path / "empty"):
        assert not [kind for kind, layout in LAYOUTS.items() if layout.recognise(root)]


def test_every_layout_names_its_readers_and_every_reader_refuses_an_empty_folder(tmp_path: Path) -> None:
    for kind, layout in LAYOUTS.items():
        assert layout.kind == kind
        assert layout.what
        assert layout.parts
        assert set(layout.parts) <= set(READERS)
    assert set(FIRST_PIXEL.values()) == {0, 1}
    for reader in READERS.values():
        with pytest.raises(ValueError, match="^no "):
            reader(tmp_path)


# --- Development data


def test_the_development_otb_has_eleven_targets_and_4151_frames() -> None:
    root = development_data() / "otb"
    assert LAYOUTS["otb"].recognise(root)
    sequences = {sequence.name: sequence for sequence in read_otb(root)}
    assert len(sequences) == 11
    assert sum(len(sequence) for sequence in sequences.values()) == 4151
    assert {"Jogging.1", "Jogging.2"} < set(sequences)
    assert Path(sequences["David"].frames.place(0)).name == "0300.jpg"
    assert sequences["David"].boxes_frame[0].tolist() == [128, 79, 192, 157]
    assert not any(sequence.absent.any() for sequence in sequences.values())
    assert sequences["David"].frame(470).shape == (240, 320, 3)


def test_the_development_got10k_has_2280_frames_230_of_them_absent() -> None:
    root = development_data() / "got10k"
    assert LAYOUTS["got10k"].recognise(root)
    sequences = READERS["got10k-train"](root)
    assert [sequence.name for sequence in sequences][:2] == ["TLD_jumping", "TLD_pedestrian2"]
    assert sum(len(sequence) for sequence in sequences) == 2280
    assert sum(int(sequence.absent.sum()) for sequence in sequences) == 230
    assert all(np.isnan(sequence.boxes_frame[sequence.absent]).all() for sequence in sequences)
