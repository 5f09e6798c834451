"""The readers of DAVIS and VOT, whose masks become boxes, on small datasets written by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from layouts import HEIGHT, WIDTH, write_images, write_palette_png, write_text

from mixformerv2.data.benchmarks import LAYOUTS, READERS
from mixformerv2.data.readers.davis import read_davis
from mixformerv2.data.readers.vot import parse_region, read_vot

# Columns 2, 3, 4, 5 and rows 3, 4.
BLOCK = np.zeros((HEIGHT, WIDTH), bool)
BLOCK[3:5, 2:6] = True


# --- DAVIS


def write_davis(root: Path, video: str, *masks: list[list[int]]) -> None:
    write_images(root / "JPEGImages" / "480p" / video, range(len(masks)), digits=5)
    for number, mask in enumerate(masks):
        numbers = np.zeros((HEIGHT, WIDTH), np.uint8)
        numbers[: len(mask), : len(mask[0])] = mask
        write_palette_png(root / "Annotations" / "480p" / video / f"{number:05d}.png", numbers)


def test_a_davis_video_is_a_sequence_per_object_of_its_first_frame(tmp_path: Path) -> None:
    write_davis(tmp_path, "dogs", [[0, 1, 1], [2, 2, 255]], [[0, 0, 1], [0, 3, 0]])
    first, second = READERS["davis"](tmp_path)
    assert (first.name, second.name) == ("dogs.1", "dogs.2")
    assert first.boxes_frame.tolist() == [[1, 0, 3, 1], [2, 0, 3, 1]]
    assert second.boxes_frame[0].tolist() == [0, 1, 2, 2]
    assert second.absent.tolist() == [False, True]
    assert np.isnan(second.boxes_frame[1]).all()
    assert second.masks is not None
    assert np.argwhere(second.masks.read(0)).tolist() == [[1, 0], [1, 1]]
    assert second.frame(1)[0, 0].tolist() == [1, 1, 1]


def test_davis_2016_takes_all_objects_of_a_video_together(tmp_path: Path) -> None:
    write_davis(tmp_path, "dogs", [[0, 1, 1], [2, 2, 0]])
    write_davis(tmp_path, "bear", [[0, 255], [0, 0]])
    write_text(tmp_path / "ImageSets" / "2016" / "val.txt", "dogs")
    write_text(tmp_path / "ImageSets" / "2017" / "train.txt", "bear")
    (dogs,) = READERS["davis-2016-val"](tmp_path)
    assert dogs.name == "dogs"
    assert dogs.boxes_frame.tolist() == [[0, 0, 3, 2]]
    (bear,) = READERS["davis-2017-train"](tmp_path)
    assert bear.name == "bear"
    assert bear.boxes_frame.tolist() == [[1, 0, 2, 1]]
    assert [sequence.name for sequence in read_davis(tmp_path)] == ["bear", "dogs.1", "dogs.2"]
    to_learn = LAYOUTS["davis"].reader
    assert [sequence.name for sequence in to_learn(tmp_path)] == ["bear"]
    (tmp_path / "ImageSets" / "2017" / "train.txt").unlink()
    assert len(to_learn(tmp_path)) == 3


def test_davis_that_does_not_fit_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no DAVIS in .*expected files like .*00000\.png"):
        read_davis(tmp_path)
    write_davis(tmp_path, "bear", [[1]], [[1]])
    with pytest.raises(ValueError, match=r"ImageSets/2017/val\.txt is missing"):
        READERS["davis-2017-val"](tmp_path)
    (tmp_path / "JPEGImages" / "480p" / "bear" / "00001.jpg").unlink()
    with pytest.raises(ValueError, match="sequence bear has 2 masks for 1 frames"):
        read_davis(tmp_path)[0]
    (tmp_path / "Annotations" / "480p" / "bear" / "00000.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"sequence bear has|bear/00000\.png cannot be read"):
        read_davis(tmp_path)[0]


# --- VOT


def write_vot(folder: Path, *rows: str, color: bool = True) -> None:
    write_images(folder / "color" if color else folder, range(1, len(rows) + 1))
    write_text(folder / "groundtruth.txt", *rows)


@pytest.mark.parametrize("color", [True, False])
def test_vot_rectangles_are_boxes_and_the_rest_is_absent(tmp_path: Path, color: bool) -> None:
    write_vot(tmp_path / "bag", "2.5,3,4,2", "nan,nan,nan,nan", "0", "1,1,0,0", color=color)
    write_text(tmp_path / "list.txt", "bag")
    (bag,) = READERS["vot"](tmp_path)
    assert bag.name == "bag"
    assert bag.boxes_frame[0].tolist() == [2.5, 3, 6.5, 5]
    assert bag.absent.tolist() == [False, True, True, True]
    assert (bag.masks, bag.occluded, bag.out_of_view) == (None, None, None)
    assert bag.frame(3)[0, 0].tolist() == [4, 4, 4]


def test_vot_polygons_and_masks_have_tight_boxes_and_pixels(tmp_path: Path) -> None:
    mask = "m2,3,4,2,1,6,1"  # 4 x 2 px whose first and last pixel are outside
    write_vot(tmp_path / "bag", "2,3,6,3,6,5,2,5", mask, "m0,0,0,0,0", "0,0,2,0,1,2", "m30,22,4,3,0,12")
    (bag,) = read_vot(tmp_path)
    assert bag.boxes_frame[[0, 1, 3, 4]].tolist() == [
        [2, 3, 6, 5],
        [2, 3, 6, 5],
        [0, 0, 2, 2],
        [30, 22, 34, 25],
    ]
    assert bag.absent.tolist() == [False, False, True, False, False]
    assert bag.masks is not None
    assert np.array_equal(bag.masks.read(0), BLOCK)
    inside = BLOCK.copy()
    inside[3, 2] = inside[4, 5] = False
    assert np.array_equal(bag.masks.read(1), inside)
    assert not bag.masks.read(2).any()
    # Cut at the border of the picture.
    assert np.argwhere(bag.masks.read(4)).tolist() == [[22, 30], [22, 31], [23, 30], [23, 31]]


def test_a_vot_mask_may_begin_outside_the_picture_or_end_its_runs_early() -> None:
    region = parse_region("m-1,-1,3,3,4,1")  # the pixel in the middle
    assert region.box().tolist() == [0, 0, 1, 1]
    assert np.argwhere(region.mask((4, 4))).tolist() == [[0, 0]]
    assert parse_region("m0,0,2,2,1").box().tolist() != parse_region("m0,0,2,2,1,3").box().tolist()
    assert np.isnan(parse_region("m0,0,2,2,1").box()).all()


def test_vot_flags_end_early_where_they_are_no_more_set(tmp_path: Path) -> None:
    write_vot(tmp_path / "bag", "2,3,4,2", "2,3,4,2", "2,3,4,2")
    write_text(tmp_path / "bag" / "occlusion.tag", 0, 1)
    write_text(tmp_path / "bag" / "out_of_view.label", 0, 0, 1)
    (bag,) = read_vot(tmp_path)
    assert bag.occluded is not None
    assert bag.occluded.tolist() == [False, True, False]
    assert bag.out_of_view is not None
    assert bag.out_of_view.tolist() == [False, False, True]


def test_several_vot_targets_are_known_as_far_as_their_files_go(tmp_path: Path) -> None:
    write_images(tmp_path / "bag" / "color", range(1, 4))
    write_text(tmp_path / "bag" / "groundtruth_left.txt", "m2,3,4,2,0,8")
    write_text(tmp_path / "bag" / "groundtruth_right.txt", "0", "8,3,4,2")
    left, right = read_vot(tmp_path)
    assert (left.name, right.name) == ("bag.left", "bag.right")
    assert left.absent.tolist() == [False, True, True]
    assert right.boxes_frame[1].tolist() == [8, 3, 12, 5]
    assert right.absent.tolist() == [True, False, True]


def test_vot_that_does_not_fit_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no VOT sequences in .*expected files like .*groundtruth\.txt"):
        read_vot(tmp_path)
    write_vot(tmp_path / "bag", "2,3,4,2", "2,3,4,2", "2,3,4,2")
    write_text(tmp_path / "list.txt", "bag", "box")
    assert len(read_vot(tmp_path)) == 2
    with pytest.raises(ValueError, match="sequence box has no folder"):
        read_vot(tmp_path)[1]
    truth = tmp_path / "bag" / "groundtruth.txt"
    write_text(truth, "2,3,4,2", "2,3,4,2")
    with pytest.raises(ValueError, match=r"sequence bag has 2 regions for 3 frames: .*groundtruth\.txt"):
        read_vot(tmp_path)[0]
    for row in ("2,3,4,2,1", "2,3,4,x", "m1,2", "m1,1,2,2,9", "2,3"):
        write_text(truth, "2,3,4,2", row, "2,3,4,2")
        with pytest.raises(
            ValueError, match=r"groundtruth\.txt: row 2 must be a rectangle, a polygon or a mask"
        ):
            read_vot(tmp_path)[0]
