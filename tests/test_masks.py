"""Masks from polygons, run lengths and palette images, and the reader of COCO that has the first two."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import cv2
import layouts
import numpy as np
import pytest
from jaxtyping import Bool
from layouts import HEIGHT, WIDTH, write_coco, write_palette_png

from mixformerv2.data.benchmarks import READERS
from mixformerv2.data.masks import PaletteMasks, RunLengths, box_around, fill_polygons
from mixformerv2.data.readers.coco import read_coco

# Columns 2, 3, 4, 5 and rows 3, 4.
BLOCK = np.zeros((HEIGHT, WIDTH), bool)
BLOCK[3:5, 2:6] = True
BLOCK_RUNS = [2 * 24 + 3, 2, 22, 2, 22, 2, 22, 2, 26 * 24 + 19]


def runs_down_the_columns(mask: Bool[np.ndarray, "h w"]) -> list[int]:
    """Pixel by pixel: the lengths of runs, outside first."""
    runs, inside = [0], False
    for pixel in mask.T.ravel().tolist():
        if pixel != inside:
            runs.append(0)
            inside = pixel
        runs[-1] += 1
    return runs


def compress(runs: list[int]) -> str:
    """COCO's text, written from its description: differences to the last but one, five bits a character."""
    text = ""
    for place, run in enumerate(runs):
        number = run - runs[place - 2] if place > 2 else run
        more = True
        while more:
            bits = number & 31
            number >>= 5
            more = number != (-1 if bits & 16 else 0)
            text += chr(48 + (bits | 32 * more))
    return text


# --- Masks and boxes


def test_a_rectangle_fills_the_pixels_between_its_edges() -> None:
    outline = np.array([[2.0, 3], [6, 3], [6, 5], [2, 5]])
    mask = fill_polygons([outline], (WIDTH, HEIGHT), np.array([2.0, 3, 6, 5]))
    assert np.array_equal(mask, BLOCK)
    assert box_around(mask).tolist() == [2, 3, 6, 5]


def test_overlapping_outlines_unite_and_the_border_cuts_them() -> None:
    left = np.array([[-4.0, 2], [8, 2], [8, 6], [-4, 6]])
    right = np.array([[4.0, 2], [12, 2], [12, 6], [4, 6]])
    mask = fill_polygons([left, right], (WIDTH, HEIGHT), np.array([-4.0, 2, 12, 6]))
    assert mask[2:6, :12].all()
    assert mask.sum() == 4 * 12


def test_a_mask_without_pixels_has_no_box() -> None:
    assert np.isnan(box_around(np.zeros((4, 5), bool))).all()
    assert np.isnan(box_around(np.zeros((0, 0), bool))).all()
    assert box_around(np.ones((1, 1), bool)).tolist() == [0, 0, 1, 1]


def test_run_lengths_go_down_columns_or_along_rows() -> None:
    counts = np.array([1, 2, 3])
    assert RunLengths(counts, (3, 2), by_columns=True).decode().tolist() == [[0, 1, 0], [1, 0, 0]]
    assert RunLengths(counts, (3, 2), by_columns=False).decode().tolist() == [[0, 1, 1], [0, 0, 0]]
    assert np.array_equal(RunLengths(np.array(BLOCK_RUNS), (WIDTH, HEIGHT), by_columns=True).decode(), BLOCK)


@pytest.mark.parametrize("counts", [[1, 2, 4], [1, 2], [1, -2, 7], []])
def test_run_lengths_that_do_not_fit_the_image_are_refused(counts: list[int]) -> None:
    with pytest.raises(ValueError, match="run lengths must be positive and cover all 3 x 2 pixels, got"):
        RunLengths(np.array(counts, int), (3, 2), by_columns=True)


def test_compressed_run_lengths_read_by_hand() -> None:
    # 6; 33 = 1 + 32 in two characters, the first with 32 for "more follows"; 7; 33 - 3, where 29 is -3 in five bits.
    assert "".join(chr(48 + bits) for bits in (6, 1 + 32, 1, 7, 29)) == "6Q17M"
    assert RunLengths.from_text("6Q17M", (76, 1)).counts.tolist() == [6, 33, 7, 30]


@pytest.mark.parametrize("seed", range(4))
def test_compressed_run_lengths_agree_with_a_slow_encoder(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = cv2.resize(rng.integers(0, 2, (5, 7), np.uint8), (61, 47), interpolation=cv2.INTER_NEAREST) == 1
    mask ^= rng.random(mask.shape) < [0, 0.01, 0.1, 0.5][seed]
    runs = runs_down_the_columns(mask)
    decoded = RunLengths.from_text(compress(runs), (61, 47))
    assert decoded.counts.tolist() == runs
    assert np.array_equal(decoded.decode(), mask)


@pytest.mark.parametrize(("text", "message"), [("6 1", "' ' does not occur"), ("6Q", "end within a number")])
def test_broken_compressed_run_lengths_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RunLengths.from_text(text, (7, 1))


@pytest.mark.parametrize("grey", [False, True])
def test_palette_masks_are_picked_out_by_number(tmp_path: Path, grey: bool) -> None:
    numbers = np.array([[0, 1, 1], [2, 2, 255]], np.uint8)
    path = tmp_path / "00000.png"
    if grey:
        cv2.imwrite(str(path), numbers)
    else:
        write_palette_png(path, numbers)
    assert PaletteMasks((path,), 1).read(0).tolist() == [[0, 1, 1], [0, 0, 0]]
    assert PaletteMasks((path,), 255).read(0).tolist() == [[0, 0, 0], [0, 0, 1]]
    assert PaletteMasks((path,), None).read(0).tolist() == [[0, 1, 1], [1, 1, 1]]


def test_unreadable_palette_masks_are_named(tmp_path: Path) -> None:
    path = tmp_path / "00000.png"
    with pytest.raises(ValueError, match=r"00000\.png is missing"):
        PaletteMasks((path,), 1).read(0)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"00000\.png cannot be read as an image"):
        PaletteMasks((path,), 1).read(0)
    cv2.imwrite(str(path), np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(ValueError, match=r"00000\.png must be grey or have a palette"):
        PaletteMasks((path,), 1).read(0)


# --- COCO


def test_a_coco_object_is_a_sequence_of_one_frame_with_a_mask_inside_its_box(tmp_path: Path) -> None:
    write_coco(tmp_path, {"bbox": [2, 3, 4, 2], "segmentation": [[2, 3, 6, 3, 6, 5, 2, 5]]})
    (still,) = READERS["coco"](tmp_path)
    assert (still.name, len(still)) == ("0001.1", 1)
    assert still.boxes_frame.tolist() == [[2, 3, 6, 5]]
    assert still.boxes_frame.dtype == np.float64
    assert not still.absent.any()
    assert (still.occluded, still.out_of_view) == (None, None)
    assert still.frame(0).shape == (HEIGHT, WIDTH, 3)
    assert still.frames.place(0) == str(tmp_path / "images" / "0001.jpg")
    assert still.masks is not None
    assert np.array_equal(still.masks.read(0), BLOCK)


@pytest.mark.parametrize("counts", [BLOCK_RUNS, compress(BLOCK_RUNS)], ids=["plain", "compressed"])
def test_a_coco_mask_may_be_run_lengths(tmp_path: Path, counts: list[int] | str) -> None:
    write_coco(
        tmp_path,
        {"bbox": [0, 0, 4, 4], "segmentation": [[0, 0, 4, 0, 4, 4]]},
        {"bbox": [2, 3, 4, 2], "segmentation": {"counts": counts, "size": [HEIGHT, WIDTH]}},
    )
    outline, runs = read_coco(tmp_path)
    assert runs.masks is not None
    assert np.array_equal(runs.masks.read(0), BLOCK)
    assert outline.masks is not None
    assert outline.masks.read(0)[:4, :4].any()


def test_coco_objects_keep_their_outlines_apart(tmp_path: Path) -> None:
    two_parts = [[0, 0, 2, 0, 2, 2, 0, 2], [8, 0, 10, 0, 10, 2, 8, 2]]
    write_coco(
        tmp_path,
        {"bbox": [0, 0, 10, 2], "segmentation": two_parts},
        {"bbox": [4, 4, 2, 2]},
        {"bbox": [2, 3, 4, 2], "segmentation": [[2, 3, 6, 3, 6, 5, 2, 5]]},
    )
    first, second, third = read_coco(tmp_path)
    assert first.masks is not None
    assert first.masks.read(0)[:2, [0, 1, 8, 9]].all()
    assert not first.masks.read(0)[:, 4:7].any()
    assert second.masks is None
    assert third.masks is not None
    assert np.array_equal(third.masks.read(0), BLOCK)


def test_coco_leaves_out_crowds_and_boxes_without_area(tmp_path: Path) -> None:
    write_coco(
        tmp_path,
        {"bbox": [2, 3, 4, 2], "iscrowd": 1, "segmentation": {"counts": [5, 3], "size": [24, 32]}},
        {"bbox": [2, 3, 4, 0], "segmentation": [[2, 3, 6, 3, 6, 3]]},
        {"bbox": [2, 3, float("nan"), 2]},
        {"bbox": [2, 3, 4, 2]},
    )
    assert [still.name for still in read_coco(tmp_path)] == ["0001.4"]


def test_coco_objects_are_sliced_and_travel_to_a_worker(tmp_path: Path) -> None:
    write_coco(tmp_path, *({"bbox": [left, 0, 2, 2]} for left in range(5)))
    stills = read_coco(tmp_path)
    assert len(stills) == 5
    assert [still.boxes_frame[0, 0] for still in stills[1::2]] == [1, 3]
    assert stills[1:][-1].name == "0001.5"
    assert [still.name for still in pickle.loads(pickle.dumps(stills[:2]))] == ["0001.1", "0001.2"]
    with pytest.raises(IndexError):
        stills[5]


def test_a_coco_image_or_mask_of_another_size_is_refused_by_name(tmp_path: Path) -> None:
    write_coco(tmp_path, {"bbox": [2, 3, 4, 2], "segmentation": {"counts": [5, 3], "size": [HEIGHT, WIDTH]}})
    cv2.imwrite(str(tmp_path / "images" / "0001.jpg"), np.zeros((32, 24, 3), np.uint8))
    (still,) = read_coco(tmp_path)
    with pytest.raises(ValueError, match=r"0001\.jpg is 24 x 32 px, annotated for 32 x 24"):
        still.frame(0)
    assert still.masks is not None
    with pytest.raises(ValueError, match=r"the mask of the object at .*0001\.jpg: run lengths must"):
        still.masks.read(0)


def test_coco_finds_its_files_in_the_published_layout(tmp_path: Path) -> None:
    write_coco(tmp_path, {"bbox": [2, 3, 4, 2]})
    (tmp_path / "annotations").mkdir()
    published = (tmp_path / "annotations.json").rename(tmp_path / "annotations" / "instances_train2017.json")
    (tmp_path / "images").rename(tmp_path / "train2017")
    for root in (tmp_path, published):
        (still,) = read_coco(root)
        assert still.frames.place(0) == str(tmp_path / "train2017" / "0001.jpg")
    with pytest.raises(ValueError, match=r"no COCO annotations at .*instances_val2017\.json"):
        READERS["coco-val"](tmp_path)


def test_coco_that_does_not_fit_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no COCO annotations at .*annotations\.json"):
        read_coco(tmp_path)
    (tmp_path / "annotations.json").write_text("[]")
    with pytest.raises(ValueError, match=r"no images for .*expected one of"):
        read_coco(tmp_path)
    with pytest.raises(ValueError, match="is not a COCO instances file"):
        read_coco(tmp_path, image_folder=tmp_path)


@pytest.mark.parametrize(
    "row",
    [
        {"image_id": 8, "bbox": [0, 0, 2, 2]},
        {"bbox": [0, 0, 2]},
        {},
        {"bbox": [0, 0, 2, 2], "segmentation": [[1, 2, 3]]},
        {"bbox": [0, 0, 2, 2], "segmentation": {"size": [24, 32]}},
    ],
)
def test_a_coco_annotation_that_cannot_be_read_is_named(tmp_path: Path, row: dict[str, object]) -> None:
    write_coco(tmp_path, row)
    with pytest.raises(ValueError, match=r"annotation 1 in .*annotations\.json cannot be read"):
        read_coco(tmp_path)


def test_the_masks_of_the_development_stills_have_the_annotated_area() -> None:
    root = layouts.development_data() / "stills"
    stills = READERS["coco"](root)
    assert len(stills) == 9781
    listed = json.loads((root / "annotations.json").read_bytes())
    ratios = []
    for still, annotation in list(zip(stills[::50], listed["annotations"][::50], strict=True)):
        assert still.masks is not None
        mask = still.masks.read(0)
        assert still.frame(0).shape[:2] == mask.shape
        ratios.append(mask.sum() / annotation["area"])
    assert np.median(ratios) == pytest.approx(1, abs=0.01)
    assert np.percentile(ratios, [2, 98]) == pytest.approx(1, abs=0.1)
