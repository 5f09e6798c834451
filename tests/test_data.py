"""The readers on small datasets written by hand, and on the development data where it is present."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest

from mixformerv2.data.benchmarks import READERS, read_got10k, read_otb
from mixformerv2.data.coco import read_coco_instances
from mixformerv2.data.sequence import ImageFiles, NumberedFrames, Sequence


@pytest.fixture
def development_data() -> Path:
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the development data, ../shared/data, is not here")
    return folder


def write_images(folder: Path, numbers: range, digits: int = 4) -> None:
    """Images of 32 x 24 px whose brightness is their number."""
    folder.mkdir(parents=True)
    for number in numbers:
        cv2.imwrite(str(folder / f"{number:0{digits}d}.jpg"), np.full((24, 32, 3), number % 256, np.uint8))


def write_got10k(root: Path, boxes: str, absence: str, cover: str, frames: int) -> None:
    folder = root / "train" / "GOT-10k_Train_000001"
    write_images(folder, range(1, frames + 1), digits=8)
    (folder / "groundtruth.txt").write_text(boxes)
    (folder / "absence.label").write_text(absence)
    (folder / "cover.label").write_text(cover)
    (root / "train" / "list.txt").write_text(f"{folder.name}\n")


def write_coco(root: Path, **annotation: object) -> None:
    write_images(root / "images", range(1, 2))
    images = [{"id": 7, "file_name": "0001.jpg", "width": 32, "height": 24, "source": "studio"}]
    annotations = [{"id": 1, "image_id": 7, "category_id": 3, "iscrowd": 0, **annotation}]
    categories = [{"id": 3, "name": "cup"}]
    (root / "annotations.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )


# --- Sequence


def test_a_frame_is_rgb_as_stored(tmp_path: Path) -> None:
    red = np.zeros((24, 32, 3), np.uint8)
    red[..., 2] = 255  # OpenCV writes BGR
    cv2.imwrite(str(tmp_path / "red.png"), red)
    sequence = Sequence(
        "one", ImageFiles((tmp_path / "red.png",)), np.array([[0.0, 0.0, 4.0, 4.0]]), np.array([False])
    )
    frame = sequence.frame(0)
    assert frame.shape == (24, 32, 3)
    assert frame.dtype == np.uint8
    assert frame[0, 0].tolist() == [255, 0, 0]


def test_more_boxes_than_frames_is_refused_with_both_counts(tmp_path: Path) -> None:
    boxes_frame = np.array([[0.0, 0.0, 4.0, 4.0]] * 3)
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


@pytest.mark.parametrize("content", [None, b"", b"not an image"])
def test_an_unreadable_frame_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "0001.jpg"
    if content is not None:
        path.write_bytes(content)
    sequence = Sequence("broken", ImageFiles((path,)), np.array([[0.0, 0.0, 4.0, 4.0]]), np.array([False]))
    with pytest.raises(ValueError, match=r"0001\.jpg"):
        sequence.frame(0)


def test_numbered_frames_count_index_and_slice_like_a_tuple(tmp_path: Path) -> None:
    write_images(tmp_path / "img", range(8, 13))
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
    write_images(tmp_path / "img", range(1, 6))
    (tmp_path / "img" / "0003.jpg").unlink()
    with pytest.raises(ValueError, match=r"0003\.jpg"):
        NumberedFrames.find(tmp_path / "img")


# --- OTB


@pytest.mark.parametrize("separator", [",", "\t", " ", ", "])
def test_otb_counts_pixels_from_one_and_takes_any_separator(tmp_path: Path, separator: str) -> None:
    write_images(tmp_path / "Car4" / "img", range(1, 3))
    rows = [separator.join(row) for row in (["1", "1", "10", "5"], ["3", "2", "7.5", "6"])]
    (tmp_path / "Car4" / "groundtruth_rect.txt").write_text("\n".join(rows) + "\n")
    (sequence,) = read_otb(tmp_path)
    assert sequence.name == "Car4"
    assert sequence.boxes_frame.dtype == np.float64
    assert sequence.boxes_frame.tolist() == [[0, 0, 10, 5], [2, 1, 9.5, 7]]
    assert not sequence.absent.any()
    assert sequence.frame(1)[0, 0].tolist() == [2, 2, 2]


def test_otb_with_two_ground_truth_files_has_two_targets(tmp_path: Path) -> None:
    write_images(tmp_path / "Jogging" / "img", range(1, 2))
    (tmp_path / "Jogging" / "groundtruth_rect.1.txt").write_text("1,1,10,5\n")
    (tmp_path / "Jogging" / "groundtruth_rect.2.txt").write_text("11,1,10,5\n")
    (tmp_path / "Jogging" / "groundtruth_rect_ilchae.txt").write_text("5,5,5,5\n")  # in the published archive
    first, second = read_otb(tmp_path)
    assert (first.name, second.name) == ("Jogging.1", "Jogging.2")
    assert first.boxes_frame.tolist() == [[0, 0, 10, 5]]
    assert second.boxes_frame.tolist() == [[10, 0, 20, 5]]


@pytest.mark.parametrize("first", [1, 300])
def test_otb_david_starts_at_file_0300_whether_or_not_earlier_frames_are_there(
    tmp_path: Path, first: int
) -> None:
    write_images(tmp_path / "David" / "img", range(first, 771))
    (tmp_path / "David" / "groundtruth_rect.txt").write_text("129,80,64,78\n" * 471)
    (sequence,) = read_otb(tmp_path)
    assert len(sequence) == 471
    assert sequence.frames.paths[0].name == "0300.jpg"
    assert sequence.frames.paths[-1].name == "0770.jpg"


def test_otb_boxes_without_area_mean_an_absent_target(tmp_path: Path) -> None:
    write_images(tmp_path / "Car4" / "img", range(1, 4))
    (tmp_path / "Car4" / "groundtruth_rect.txt").write_text("1,1,10,5\nNaN,NaN,NaN,NaN\n0,0,0,0\n")
    (sequence,) = read_otb(tmp_path)
    assert sequence.absent.tolist() == [False, True, True]
    assert np.isnan(sequence.boxes_frame[1:]).all()


def test_otb_that_does_not_fit_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no OTB sequences in .*expected folders like"):
        read_otb(tmp_path)
    write_images(tmp_path / "Car4" / "img", range(1, 4))
    with pytest.raises(ValueError, match=r"no ground truth in .*groundtruth_rect\.txt"):
        read_otb(tmp_path)
    ground_truth = tmp_path / "Car4" / "groundtruth_rect.txt"
    ground_truth.write_text("1,1,10,5\n" * 2)
    with pytest.raises(ValueError, match="sequence Car4 has 2 boxes for 3 frames"):
        read_otb(tmp_path)
    ground_truth.write_text("1,1,10,5\n1,1,10\n1,1,10,5\n")
    with pytest.raises(ValueError, match=r"groundtruth_rect\.txt: row 2 must have 4 numbers, got '1 1 10'"):
        read_otb(tmp_path)
    ground_truth.write_text("1,1,10,5\n1,1,10,x\n1,1,10,5\n")
    with pytest.raises(ValueError, match=r"groundtruth_rect\.txt must hold numbers only.*'x'"):
        read_otb(tmp_path)


# --- GOT-10k


def test_got10k_is_absent_where_flagged_or_covered_entirely_or_without_a_box(tmp_path: Path) -> None:
    boxes = "2.5,1.0,10.0,5.0\n2.5,1.0,10.0,5.0\n2.5,1.0,10.0,5.0\n0.0,0.0,0.0,0.0\n"
    write_got10k(tmp_path, boxes, absence="0\n1\n0\n0\n", cover="8\n3\n0\n8\n", frames=4)
    (sequence,) = read_got10k(tmp_path, "train")
    assert sequence.name == "GOT-10k_Train_000001"
    assert sequence.frames.paths[3].name == "00000004.jpg"
    assert sequence.absent.tolist() == [False, True, True, True]
    assert sequence.boxes_frame[0].tolist() == [2.5, 1.0, 12.5, 6.0]
    assert np.isnan(sequence.boxes_frame[1:]).all()


def test_indexing_decodes_no_frame(tmp_path: Path) -> None:
    write_got10k(tmp_path, "1,1,5,5\n" * 2, absence="0\n" * 2, cover="8\n" * 2, frames=2)
    (tmp_path / "train" / "GOT-10k_Train_000001" / "00000002.jpg").write_bytes(b"")
    (sequence,) = READERS["got10k-train"](tmp_path)
    assert len(sequence) == 2


def test_got10k_that_does_not_fit_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no GOT-10k in .*expected .*list\.txt"):
        read_got10k(tmp_path, "train")
    with pytest.raises(ValueError, match="split must be 'train' or 'val', got 'test'"):
        read_got10k(tmp_path, "test")
    write_got10k(tmp_path, "1,1,5,5\n" * 2, absence="0\n", cover="8\n" * 2, frames=2)
    with pytest.raises(ValueError, match="has 1 absence labels for 2 boxes"):
        read_got10k(tmp_path, "train")
    (tmp_path / "train" / "GOT-10k_Train_000001" / "cover.label").unlink()
    with pytest.raises(ValueError, match=r"cover\.label is missing"):
        read_got10k(tmp_path, "train")


# --- COCO


def test_a_coco_object_has_its_box_as_edges_and_its_mask_inside_the_box(tmp_path: Path) -> None:
    # A rectangle from x 2 to 6 and y 3 to 5: columns 2, 3, 4, 5 and rows 3, 4.
    write_coco(tmp_path, bbox=[2, 3, 4, 2], segmentation=[[2, 3, 6, 3, 6, 5, 2, 5]])
    (still,) = read_coco_instances(tmp_path)
    assert still.box_frame.tolist() == [2, 3, 6, 5]
    assert (still.image_size, still.source, still.category) == ((32, 24), "studio", "cup")
    assert still.frame().shape == (24, 32, 3)
    expected = np.zeros((24, 32), bool)
    expected[3:5, 2:6] = True
    assert np.array_equal(still.mask(), expected)


def test_overlapping_polygons_unite(tmp_path: Path) -> None:
    left, right = [2, 2, 8, 2, 8, 6, 2, 6], [4, 2, 12, 2, 12, 6, 4, 6]
    write_coco(tmp_path, bbox=[2, 2, 10, 4], segmentation=[left, right])
    (still,) = read_coco_instances(tmp_path)
    assert still.mask()[2:6, 2:12].all()
    assert still.mask().sum() == 40


def test_a_mask_reaching_past_the_image_is_cut_at_its_border(tmp_path: Path) -> None:
    write_coco(tmp_path, bbox=[-4, -4, 8, 8], segmentation=[[-4, -4, 4, -4, 4, 4, -4, 4]])
    (still,) = read_coco_instances(tmp_path)
    assert still.mask()[:4, :4].all()
    assert still.mask().sum() == 16


def test_crowds_and_boxes_without_area_are_left_out(tmp_path: Path) -> None:
    write_coco(
        tmp_path / "crowd", bbox=[2, 3, 4, 2], iscrowd=1, segmentation={"counts": [5, 3], "size": [24, 32]}
    )
    assert read_coco_instances(tmp_path / "crowd") == []
    write_coco(tmp_path / "flat", bbox=[2, 3, 4, 0], segmentation=[[2, 3, 6, 3, 6, 3]])
    assert read_coco_instances(tmp_path / "flat") == []


def test_run_length_masks_are_refused_by_name(tmp_path: Path) -> None:
    write_coco(tmp_path, bbox=[2, 3, 4, 2], segmentation={"counts": [5, 3], "size": [24, 32]})
    with pytest.raises(ValueError, match="RLE masks are not supported yet, only polygons: annotation 1"):
        read_coco_instances(tmp_path)


def test_an_object_without_polygons_has_a_box_but_no_mask(tmp_path: Path) -> None:
    write_coco(tmp_path, bbox=[2, 3, 4, 2])
    (still,) = read_coco_instances(tmp_path)
    assert still.box_frame.tolist() == [2, 3, 6, 5]
    with pytest.raises(ValueError, match="has no polygons"):
        still.mask()


def test_an_image_of_another_size_than_annotated_is_refused(tmp_path: Path) -> None:
    write_coco(tmp_path, bbox=[2, 3, 4, 2])
    cv2.imwrite(str(tmp_path / "images" / "0001.jpg"), np.zeros((32, 24, 3), np.uint8))
    (still,) = read_coco_instances(tmp_path)
    with pytest.raises(ValueError, match="is 24 x 32 px, annotated for 32 x 24"):
        still.frame()


def test_coco_finds_its_images_in_the_published_layout(tmp_path: Path) -> None:
    write_coco(tmp_path, bbox=[2, 3, 4, 2])
    (tmp_path / "annotations").mkdir()
    published = (tmp_path / "annotations.json").rename(tmp_path / "annotations" / "instances_val2017.json")
    (tmp_path / "images").rename(tmp_path / "val2017")
    (still,) = read_coco_instances(published)
    assert still.image_path == tmp_path / "val2017" / "0001.jpg"


def test_coco_that_does_not_fit_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no COCO annotations at .*annotations\.json"):
        read_coco_instances(tmp_path)
    (tmp_path / "annotations.json").write_text("[]")
    with pytest.raises(ValueError, match=r"no images for .*expected one of"):
        read_coco_instances(tmp_path)
    with pytest.raises(ValueError, match="is not a COCO instances file"):
        read_coco_instances(tmp_path, image_folder=tmp_path)


# --- Development data


def test_the_development_otb_has_eleven_targets_and_4151_frames(development_data: Path) -> None:
    sequences = {sequence.name: sequence for sequence in read_otb(development_data / "otb")}
    assert len(sequences) == 11
    assert sum(len(sequence) for sequence in sequences.values()) == 4151
    assert {"Jogging.1", "Jogging.2"} < set(sequences)
    assert sequences["David"].frames.paths[0].name == "0300.jpg"
    assert sequences["David"].boxes_frame[0].tolist() == [128, 79, 192, 157]
    assert not any(sequence.absent.any() for sequence in sequences.values())
    assert sequences["David"].frame(470).shape == (240, 320, 3)


def test_the_development_got10k_has_2280_frames_230_of_them_absent(development_data: Path) -> None:
    sequences = READERS["got10k-train"](development_data / "got10k")
    assert [sequence.name for sequence in sequences][:2] == ["TLD_jumping", "TLD_pedestrian2"]
    assert sum(len(sequence) for sequence in sequences) == 2280
    assert sum(int(sequence.absent.sum()) for sequence in sequences) == 230
    assert all(np.isnan(sequence.boxes_frame[sequence.absent]).all() for sequence in sequences)


def test_the_masks_of_the_development_stills_have_the_annotated_area(development_data: Path) -> None:
    stills = read_coco_instances(development_data / "stills")
    assert len(stills) == 9781
    assert len({still.image_path for still in stills}) == 9026
    assert {still.category for still in stills} == {"object"}
    listed = json.loads((development_data / "stills" / "annotations.json").read_bytes())
    ratios = []
    for still, annotation in list(zip(stills, listed["annotations"], strict=True))[::50]:
        assert still.frame().shape[:2] == still.mask().shape
        ratios.append(still.mask().sum() / annotation["area"])
    assert np.median(ratios) == pytest.approx(1, abs=0.01)
    assert np.percentile(ratios, [2, 98]) == pytest.approx(1, abs=0.1)
