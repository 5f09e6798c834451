"""Boxes and crop windows: values by hand, slow references, round trips inside, outside and across the border."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest

from mixformerv2 import geometry
from mixformerv2.geometry import CropWindow, xywh_to_xyxy, xyxy_to_xywh
from mixformerv2.images import as_rgb_uint8

FRAME_SIZE = (80, 60)
PLACES = {
    "inside": [30.5, 20.25, 45.0, 40.0],
    "across": [70.0, -8.0, 90.0, 12.0],
    "outside": [200.0, 100.0, 210.0, 140.0],
}


def noise(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 256, (height, width, 3), dtype=np.uint8)


def smooth(width: int, height: int) -> np.ndarray:
    """Pixels that differ little from their neighbours, brightest in the middle."""
    x, y = np.arange(width) / width, np.arange(height)[:, None] / height
    grey = 40 + 200 * np.sin(math.pi * x) * np.sin(math.pi * y)
    return np.repeat(grey[..., None], 3, axis=2).astype(np.uint8)


def random_boxes(count: int, seed: int = 0) -> np.ndarray:
    """xyxy boxes in, around and across a frame of 80 x 60 px."""
    random = np.random.default_rng(seed)
    corner = random.uniform(-100, 160, (count, 2))
    return np.concatenate([corner, corner + random.uniform(0.01, 150, (count, 2))], axis=1)


# Layouts


def test_a_box_of_sides_and_one_of_corners_say_the_same() -> None:
    np.testing.assert_array_equal(xywh_to_xyxy([1.5, 2, 10, 20]), [1.5, 2, 11.5, 22])
    np.testing.assert_array_equal(xyxy_to_xywh([1.5, 2, 11.5, 22]), [1.5, 2, 10, 20])


@pytest.mark.parametrize("leading", [(), (0,), (3,), (2, 3)])
def test_layouts_are_converted_there_and_back_in_any_number(leading: tuple[int, ...]) -> None:
    boxes = np.random.default_rng(0).uniform(-50, 50, (*leading, 4))
    np.testing.assert_allclose(xyxy_to_xywh(xywh_to_xyxy(boxes)), boxes, atol=1e-12)


# Overlap


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([0, 0, 10, 10], [0, 0, 10, 10], 1.0),
        ([0, 0, 10, 10], [5, 5, 15, 15], 25 / 175),
        ([0, 0, 10, 10], [2, 2, 4, 7], 10 / 100),  # one inside the other
        ([0, 0, 10, 10], [10, 0, 20, 10], 0.0),  # touching
        ([0, 0, 10, 10], [30, 30, 40, 40], 0.0),
        ([0, 0, 10, 10], [-5.5, -5.5, 0.5, 0.5], 0.25 / 135.75),
        ([3, 3, 3, 3], [3, 3, 3, 3], 0.0),  # no area
        ([0, 0, 10, 10], [5, 5, 5, 9], 0.0),
        ([10, 10, 0, 0], [0, 0, 10, 10], 0.0),  # inverted
        ([math.nan, 0, 10, 10], [0, 0, 10, 10], 0.0),
        ([0, 0, math.inf, math.inf], [0, 0, math.inf, math.inf], 0.0),
        ([0, 0, math.inf, 0], [0, 0, 10, 10], 0.0),
        ([-math.inf, 0, math.inf, 5], [0, 0, 10, 10], 0.0),
    ],
)
def test_iou_of_two_boxes_is_as_computed_by_hand(a: Any, b: Any, expected: float) -> None:
    assert float(geometry.iou(a, b)) == pytest.approx(expected)
    assert float(geometry.iou(b, a)) == pytest.approx(expected)


def test_iou_of_every_pair_comes_from_broadcasting() -> None:
    a, b = random_boxes(3, seed=1), random_boxes(4, seed=2)
    table = geometry.iou(a[:, None], b)
    assert table.shape == (3, 4)
    assert float(table[2, 1]) == float(geometry.iou(a[2], b[1]))


def test_iou_counts_the_same_pixels_as_two_painted_masks() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        corners = np.sort(random.integers(0, 20, (2, 2, 2)), axis=1)  # box, corner, axis
        masks = np.zeros((2, 20, 20), bool)
        for mask, ((x1, y1), (x2, y2)) in zip(masks, corners, strict=True):
            mask[y1:y2, x1:x2] = True
        both, either = np.logical_and(*masks).sum(), np.logical_or(*masks).sum()
        a, b = corners.reshape(2, 4)
        assert float(geometry.iou(a, b)) == pytest.approx(both / either if either else 0.0)


def test_iou_stays_when_both_boxes_are_moved_and_scaled() -> None:
    a, b = random_boxes(50, seed=1), random_boxes(50, seed=2)
    np.testing.assert_allclose(geometry.iou(3 * a + 7, 3 * b + 7), geometry.iou(a, b), atol=1e-12)


def test_area_is_never_negative() -> None:
    areas = geometry.area([(0, 0, 4, 5), (4, 5, 0, 0), (4, 0, 0, 5), (1, 1, 1, 9)])
    np.testing.assert_array_equal(areas, [20, 0, 0, 0])


# Clipping


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((10, 10, 40, 40), (10, 10, 40, 40)),
        ((-5, -6, 40, 40), (0, 0, 40, 40)),
        ((50, 30, 100, 90), (50, 30, 80, 60)),
        ((-50, 10, -20, 40), (0, 10, 10, 40)),  # gone to the left: ten pixels stay in sight
        ((100, 10, 130, 40), (70, 10, 80, 40)),
        ((10, 100, 40, 130), (10, 50, 40, 60)),
        ((10, 10, 12, 11), (10, 10, 20, 20)),  # smaller than allowed
        ((40, 40, 20, 20), (40, 40, 50, 50)),  # inverted
        ((-900, -900, 900, 900), (0, 0, 80, 60)),
    ],
)
def test_clipping_to_a_frame_of_80_by_60_px_is_as_computed_by_hand(box: Any, expected: Any) -> None:
    np.testing.assert_array_equal(geometry.clip(np.array(box, float), FRAME_SIZE, 10.0), expected)


def published_clip(box_xywh: np.ndarray, width: int, height: int, margin: float) -> list[float]:
    """The rule of the released tracker, in its own words."""
    x1, y1, w, h = box_xywh
    x2, y2 = x1 + w, y1 + h
    x1, y1 = min(max(0, x1), width - margin), min(max(0, y1), height - margin)
    x2, y2 = min(max(margin, x2), width), min(max(margin, y2), height)
    return [x1, y1, max(margin, x2 - x1), max(margin, y2 - y1)]


def test_any_box_is_clipped_as_the_released_tracker_does() -> None:
    for box in random_boxes(200):
        clipped = geometry.clip(box, FRAME_SIZE, 10.0)
        reference = published_clip(xyxy_to_xywh(box), *FRAME_SIZE, margin=10.0)
        np.testing.assert_allclose(xyxy_to_xywh(clipped), reference, atol=1e-9)


def test_a_clipped_box_lies_in_the_frame_keeps_its_least_side_and_stays_when_clipped_again() -> None:
    for box in random_boxes(200):
        clipped = geometry.clip(box, FRAME_SIZE, 4.0)
        assert (clipped >= 0).all() and (clipped <= np.tile(FRAME_SIZE, 2)).all()
        assert (clipped[2:] - clipped[:2] >= 4.0 - 1e-9).all()
        np.testing.assert_allclose(geometry.clip(clipped, FRAME_SIZE, 4.0), clipped, atol=1e-9)


# A person's box


@pytest.mark.parametrize(
    "box",
    [
        (1, 2, 3, 4),
        [1.0, 2.0, 3.0, 4.0],
        np.array([1, 2, 3, 4], np.uint8),
        np.array([1, 2, 3, 4], np.float32),
        range(1, 5),
        (value for value in (1, 2, 3, 4)),
    ],
    ids=repr,
)
def test_a_box_may_come_as_any_four_numbers(box: Any) -> None:
    np.testing.assert_array_equal(geometry.check_box_xywh(box), (1, 2, 4, 6))


@pytest.mark.parametrize(
    "box",
    [
        (1, 2, 0, 4),
        (1, 2, 3, -4),
        (1, 2, 3, math.nan),
        (math.inf, 2, 3, 4),
        (1, 2, 3),
        (1, 2, 3, 4, 5),
        ((1, 2, 3, 4),),
        (1, (2, 3), 4),
        (),
        "1,2,3,4",
        "1234",
        ("1", "2", "3", "4"),
        (1, 2, 3, None),
        (1, 2, 3, 4j),
        None,
        7,
    ],
    ids=repr,
)
def test_anything_else_is_refused_in_one_sentence_that_shows_it(box: Any) -> None:
    with pytest.raises(ValueError, match="four finite numbers with positive width and height; got") as caught:
        geometry.check_box_xywh(box)
    assert repr(box) in str(caught.value)
    assert "\n" not in str(caught.value)


# The window


def test_a_window_is_centred_on_the_box_with_its_side_rounded_up() -> None:
    # sqrt(17 * 50) * 4.5 = 131.2; the centre lies at (213.5, 176), the corner at (147.5, 110).
    box_frame = xywh_to_xyxy([205, 151, 17, 50])
    window = CropWindow.around(box_frame, 4.5, 224)
    assert window == CropWindow(148, 110, 132, 224, origin=(148.0, 110.0), rim=0)
    published = CropWindow.around(box_frame, 4.5, 224, published_mapping=True)
    assert published == CropWindow(148, 110, 132, 224, origin=(147.5, 110.0), rim=1)


def test_a_window_is_as_wide_wherever_its_box_lies() -> None:
    # 4.5 times 10 px are exactly 45 px, but the corners of such a box are seldom exactly 10 px apart.
    for x, y in np.random.default_rng(0).uniform(0, 2000, (300, 2)):
        assert CropWindow.around(np.array([x, y, x + 10, y + 10]), 4.5, 224).side == 45


def test_the_window_of_a_box_without_area_has_one_pixel() -> None:
    assert CropWindow.around(np.array([5.0, 5.0, 5.0, 9.0]), 4.5, 224).side == 1


@pytest.mark.parametrize("published_mapping", [False, True])
@pytest.mark.parametrize("box", PLACES.values(), ids=PLACES)
def test_a_box_mapped_into_the_crop_and_back_is_the_same(box: list[float], published_mapping: bool) -> None:
    window = CropWindow.around(np.array(box), 4.5, 224, published_mapping)
    np.testing.assert_allclose(window.to_frame(window.to_unit(box)), box, atol=1e-9)
    for other in random_boxes(20):
        np.testing.assert_allclose(window.to_frame(window.to_unit(other)), other, atol=1e-9)
        np.testing.assert_allclose(window.to_unit(window.to_frame(other)), other, atol=1e-9)


@pytest.mark.parametrize("box", PLACES.values(), ids=PLACES)
def test_the_box_of_a_window_lies_in_the_middle_of_its_crop(box: list[float]) -> None:
    window = CropWindow.around(np.array(box), 4.0, 128, published_mapping=True)
    x1, y1, x2, y2 = window.to_unit(box)
    assert ((x1 + x2) / 2, (y1 + y2) / 2) == pytest.approx((0.5, 0.5))
    assert (x2 - x1) * (y2 - y1) == pytest.approx(1 / 16, rel=0.1)


def test_the_corners_of_the_crop_are_the_corners_of_the_window() -> None:
    window = CropWindow.around(np.array(PLACES["inside"]), 4.5, 224)
    left, top, right, bottom = window.to_frame([0, 0, 1, 1])
    assert (left, top) == (window.left, window.top)
    assert (right, bottom) == (window.left + window.side, window.top + window.side)


# The cut


def test_a_window_inside_the_frame_cuts_its_own_pixels() -> None:
    frame = noise(*FRAME_SIZE)
    crop = CropWindow(left=7, top=5, side=32, out_px=32, origin=(7.0, 5.0)).cut(frame)
    np.testing.assert_array_equal(crop, frame[5:37, 7:39])


@pytest.mark.parametrize(
    ("left", "top"), [(-10, 5), (7, -12), (60, 40), (-10, -10), (79, 59), (-31, 10), (10, 59)]
)
def test_a_window_across_the_border_is_black_outside_it(left: int, top: int) -> None:
    frame = noise(*FRAME_SIZE)
    crop = CropWindow(left, top, side=32, out_px=32, origin=(left, top)).cut(frame)
    wide = np.zeros((60 + 200, 80 + 200, 3), np.uint8)
    wide[100:160, 100:180] = frame
    np.testing.assert_array_equal(crop, wide[top + 100 : top + 132, left + 100 : left + 132])


@pytest.mark.parametrize(("left", "top"), [(80, 0), (0, 60), (-32, 0), (0, -32), (500, 500), (-500, -500)])
@pytest.mark.parametrize("rim", [0, 1])
def test_a_window_outside_the_frame_is_all_black(left: int, top: int, rim: int) -> None:
    crop = CropWindow(left, top, side=32, out_px=48, origin=(left, top), rim=rim).cut(noise(*FRAME_SIZE))
    np.testing.assert_array_equal(crop, np.zeros((48, 48, 3), np.uint8))


def test_a_published_window_leaves_the_last_row_and_column_black() -> None:
    frame = np.full((60, 80, 3), 255, np.uint8)
    crop = CropWindow(left=60, top=40, side=32, out_px=32, origin=(60.0, 40.0), rim=1).cut(frame)
    assert (crop[:19, :19] == 255).all()
    assert not crop[19:].any() and not crop[:, 19:].any()


def test_a_frame_of_one_pixel_can_be_cut() -> None:
    for published_mapping in (False, True):
        window = CropWindow.around(np.array([0.0, 0.0, 1.0, 1.0]), 4.5, 16, published_mapping)
        assert window.cut(np.full((1, 1, 3), 9, np.uint8)).shape == (16, 16, 3)


@pytest.mark.parametrize(
    "view",
    [
        lambda frame: frame[..., ::-1],
        lambda frame: frame[::-1],
        lambda frame: frame[:, ::-1],
        np.asfortranarray,
        lambda frame: frame[::2, ::2],
    ],
)
@pytest.mark.parametrize("left", [10, -10])
def test_a_frame_may_lie_in_memory_in_any_way(view: Callable[[np.ndarray], np.ndarray], left: int) -> None:
    frame = view(noise(160, 120))
    window = CropWindow(left, 5, side=30, out_px=64, origin=(left, 5))
    np.testing.assert_array_equal(window.cut(frame), window.cut(np.ascontiguousarray(frame)))


@pytest.mark.parametrize("factor", [2.0, 4.5])
@pytest.mark.parametrize(
    "centre", [(40, 30), (6, 30), (76, 57)], ids=["inside", "across the left", "across the corner"]
)
def test_what_is_bright_in_the_crop_maps_back_to_what_is_bright_in_the_frame(
    centre: tuple[int, int], factor: float
) -> None:
    x, y = centre
    box = np.array([x - 3, y - 2, x + 3, y + 2], float)
    frame = np.zeros((60, 80, 3), np.uint8)
    cv2.rectangle(frame, (x - 3, y - 2), (x + 2, y + 1), (255, 255, 255), cv2.FILLED)
    window = CropWindow.around(box, factor, 224)
    rows, columns = np.nonzero(window.cut(frame)[..., 0] > 127)
    bright = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / 224
    np.testing.assert_allclose(window.to_frame(bright), box, atol=window.side / 224)


def test_the_crop_of_a_huge_window_is_that_of_a_full_canvas() -> None:
    frame = smooth(1100, 900)
    window = CropWindow.around(np.array([20.0, 30.0, 1090.0, 880.0]), 4.5, 224, published_mapping=True)
    assert window.side > 4096
    canvas = np.zeros((window.side, window.side, 3), np.uint8)
    canvas[-window.top :, -window.left :][:899, :1099] = frame[:899, :1099]
    reference = cv2.resize(canvas, (224, 224), interpolation=cv2.INTER_LINEAR)
    assert reference.max() > 230
    np.testing.assert_array_equal(window.cut(frame), reference)


@pytest.mark.parametrize("side", [512, 513, 640, 1001, 3000])
@pytest.mark.parametrize("rim", [0, 1])
def test_a_wide_window_over_the_border_is_that_of_a_full_canvas(side: int, rim: int) -> None:
    frame = noise(500, 350)
    canvas = np.zeros((side, side, 3), np.uint8)
    part = canvas[20:, 200:]
    shown = frame[: 350 - rim, : 500 - rim]
    part[: len(shown), : shown.shape[1]] = shown[: len(part), : part.shape[1]]
    reference = cv2.resize(canvas, (32, 32), interpolation=cv2.INTER_LINEAR)
    crop = CropWindow(-200, -20, side, 32, (-200.0, -20.0), rim).cut(frame)
    np.testing.assert_array_equal(crop, reference)


def test_a_huge_window_costs_no_memory_to_speak_of() -> None:
    frame = smooth(*FRAME_SIZE)
    tracemalloc.start()
    try:
        crop = CropWindow(-30_000, -30_000, side=60_000, out_px=224, origin=(-3e4, -3e4)).cut(frame)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert crop.shape == (224, 224, 3)
    assert peak_bytes < 10_000_000


@pytest.mark.parametrize("published_mapping", [False, True])
@pytest.mark.parametrize(
    "box_frame",
    [
        (40, 30, 70, 60),
        (-20, -10, 30, 30),
        (0, 0, 12.5, 12.5),
        (500, 500, 530, 530),
        (-3000, -3000, 3000, 3000),
    ],
    ids=["inside", "across the border", "as large as the crop", "outside", "huge"],
)
def test_a_crop_cut_into_a_used_buffer_is_the_same_crop(
    box_frame: tuple[float, ...], published_mapping: bool
) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    window = CropWindow.around(np.array(box_frame, np.float64), 4.0, 50, published_mapping)
    buffer = np.full((50, 50, 3), 77, np.uint8)
    crop = window.cut(frame, out=buffer)
    assert np.shares_memory(crop, buffer)
    np.testing.assert_array_equal(buffer, window.cut(frame))


# What a template marks


@pytest.mark.parametrize(
    ("box_px", "bright"),
    [
        ([2, 1, 5, 6], (2, 1, 5, 6)),
        ([1.6, 1.4, 4.4, 5.6], (2, 1, 4, 6)),  # a pixel goes by its middle
        ([-3, 2, 99, 4], (0, 2, 8, 4)),
        ([5, 5, 5, 5], (0, 0, 0, 0)),
    ],
)
def test_pixels_outside_the_box_are_dimmed(box_px: list[float], bright: tuple[int, int, int, int]) -> None:
    crop = noise(8, 8)
    dimmed = geometry.dim_around(crop, np.array(box_px, float) / 8, 0.25)
    expected = np.rint(crop * 0.25)
    x1, y1, x2, y2 = bright
    expected[y1:y2, x1:x2] = crop[y1:y2, x1:x2]
    np.testing.assert_array_equal(dimmed, expected)
    np.testing.assert_array_equal(crop, noise(8, 8))


@pytest.mark.parametrize("side", [40.0, 130.0, 4000.0])
@pytest.mark.parametrize("middle", [(100.0, 80.0), (4.0, 155.0)])
def test_bgr_that_is_read_backwards_is_cut_as_rgb_is(middle: tuple[float, float], side: float) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (160, 200, 3), np.uint8)
    bgr = np.ascontiguousarray(rgb[..., ::-1])
    half = side / 8
    box = np.array([middle[0] - half, middle[1] - half, middle[0] + half, middle[1] + half])
    window = CropWindow.around(box, 4.0, 32)
    out = np.empty((32, 32, 3), np.uint8)
    backwards = as_rgb_uint8(bgr, "bgr", copy=False)
    assert np.shares_memory(backwards, bgr)
    assert window.cut(backwards, out=out) is out
    assert np.array_equal(out, window.cut(rgb))
    assert np.array_equal(window.cut(backwards), out)
