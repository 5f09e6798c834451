"""Training examples from small banks whose every object has a colour of its own, so that pixels tell what is where."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from mixformerv2.data import augment, pairs
from mixformerv2.data.bank import ImageBank, Layer, Picked
from mixformerv2.data.coco import StillObject
from mixformerv2.data.pairs import (
    Batch,
    PairConfig,
    Placement,
    boxes_of_masks,
    still_pairs,
    video_pairs,
)
from mixformerv2.data.sequence import ImageFiles, Sequence

WIDTH, HEIGHT = 48, 40
BOX = (10, 12, 30, 32)  # 20 px a side
# Every object in the middle of its crop, 16 px a side in a search crop and in a template.
CENTRED = PairConfig(
    search_factor=4.0,
    template_factor=2.0,
    search_px=64,
    template_px=32,
    centre_jitter=0.0,
    far_share=1.0,
    scale_jitter=0.0,
    aspect_jitter=0.0,
    rotation_deg=0.0,
    absent_share=0.0,
)
ANYHOW = PairConfig(search_px=64, template_px=32)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def colour(index: int) -> tuple[int, int, int]:
    """Of object ``index``: no background and no other object has this red."""
    return (60 + 6 * index, 10, 200)


def make_bank(count: int, boxes: list[tuple[int, int, int, int]] | None = None) -> ImageBank:
    """Flat rectangles on a flat background."""
    boxes = boxes or [BOX] * count
    rgbm = torch.zeros(count, 4, HEIGHT, WIDTH, dtype=torch.uint8)
    rgbm[:, 1] = 120
    for index, (x1, y1, x2, y2) in enumerate(boxes):
        for channel, value in enumerate((*colour(index), 1)):
            rgbm[index, channel, y1:y2, x1:x2] = value
    sizes = torch.tensor([[WIDTH, HEIGHT]] * count, dtype=torch.float32)
    return ImageBank(rgbm, sizes, torch.tensor(boxes, dtype=torch.float32))


def who(pixel: Tensor) -> int:
    """The object that has this colour."""
    index, rest = divmod(int(pixel[0]) - 60, 6)
    assert rest == 0 and tuple(pixel.tolist()) == colour(index), pixel
    return index


def where(crop: Tensor, index: int) -> Tensor:
    """The pixels of object ``index``, (side, side) bool."""
    return (crop.int() - torch.tensor(colour(index))).abs().amax(dim=-1) <= 1


@pytest.fixture
def in_daylight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Colours stay what they are."""
    monkeypatch.setattr(augment, "degrade", lambda images, _: images)
    monkeypatch.setattr(augment, "grey", lambda images, _: images)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No second object, neither beside the first nor in the background."""
    monkeypatch.setattr(pairs, "_add_other", lambda rgb, *_: rgb)
    corner = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    monkeypatch.setattr(pairs, "_cover", lambda images, *_: corner.expand(len(images.sizes), 2, 3))


# --- banks and windows


def slowly_viewed(picked: Picked, to_image: Tensor, side_px: int) -> Layer:
    """Pixel by pixel: the mean of the four nearest pixels by their closeness; nothing outside the tensor."""
    b, _, height, width = picked.rgbm.shape
    seen, covered = torch.zeros(b, 4, side_px, side_px), torch.zeros(b, 1, side_px, side_px)
    for n in range(b):
        for row in range(side_px):
            for column in range(side_px):
                x, y = (to_image[n] @ torch.tensor([column + 0.5, row + 0.5, 1.0])).tolist()
                covered[n, 0, row, column] = 0 < x < picked.sizes[n, 0] and 0 < y < picked.sizes[n, 1]
                left, top = math.floor(x - 0.5), math.floor(y - 0.5)
                for i, j in ((left, top), (left + 1, top), (left, top + 1), (left + 1, top + 1)):
                    if 0 <= i < width and 0 <= j < height:
                        share = (1 - abs(x - 0.5 - i)) * (1 - abs(y - 0.5 - j))
                        seen[n, :, row, column] += share * picked.rgbm[n, :, j, i]
    return Layer(seen[:, :3], seen[:, 3:], covered)


def test_a_view_is_the_same_as_pixel_by_pixel() -> None:
    rgbm = torch.randint(256, (3, 4, 9, 12), generator=generator(), dtype=torch.uint8)
    sizes = torch.tensor([[12.0, 9.0], [7.0, 9.0], [12.0, 5.0]])
    bank = ImageBank(rgbm, sizes, torch.tensor([[2.0, 2.0, 5.0, 5.0]] * 3))
    picked = bank.pick(torch.tensor([0, 1, 2, 1]))
    to_image = torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, 1.0]]).repeat(4, 1, 1)
    to_image[1:] += 0.6 * torch.randn(3, 2, 3, generator=generator(1))
    ours, reference = picked.view(to_image, 10), slowly_viewed(picked, to_image, 10)
    for ours_part, reference_part in zip(ours, reference, strict=True):
        torch.testing.assert_close(ours_part, reference_part, rtol=0, atol=2e-3)
    # Shifted by whole pixels, a view is a cut.
    torch.testing.assert_close(ours.rgb[0, :, :8], rgbm[0, :3, 1:9, 2:12].float(), rtol=0, atol=1e-3)


def test_a_bank_of_stills_holds_pixels_masks_sizes_and_boxes(tmp_path: Path) -> None:
    objects = []
    for number, (width, height) in enumerate([(12, 8), (6, 10)]):
        path = tmp_path / f"{number}.png"
        cv2.imwrite(str(path), np.full((height, width, 3), (30, 20, 10 + number), np.uint8))  # BGR
        outline = np.array([[1, 2], [5, 2], [5, 6], [1, 6]], np.float32)
        box_frame = np.array([1.0, 2.0, 5.0, 6.0])
        objects.append(StillObject(path, (width, height), box_frame, (outline,), "", ""))
    bank = ImageBank.of_stills(objects)
    assert len(bank) == 2
    assert bank.rgbm.shape == (2, 4, 10, 12) and bank.rgbm.dtype == torch.uint8
    assert bank.sizes.tolist() == [[12, 8], [6, 10]]
    assert bank.boxes_frame.tolist() == [[1, 2, 5, 6]] * 2
    assert bank.rgbm[1, :3, 9, 5].tolist() == [11, 20, 30]
    assert not bank.rgbm[1, :, :, 6:].any() and not bank.rgbm[0, :, 8:].any()  # beyond the smaller image
    expected = torch.zeros(10, 12, dtype=torch.uint8)
    expected[2:6, 1:5] = 1
    assert torch.equal(bank.rgbm[0, 3], expected)


def test_a_bank_of_a_video_masks_the_box_and_leaves_absent_frames_without_one(tmp_path: Path) -> None:
    paths = tuple(tmp_path / f"{number}.png" for number in range(3))
    for path in paths:
        cv2.imwrite(str(path), np.zeros((8, 12, 3), np.uint8))
    boxes_frame = np.array([[-2.0, 1.2, 3.4, 4.0], [1.0, 1.0, 4.0, 4.0], [8.0, 5.0, 14.0, 9.0]])
    bank = ImageBank.of_sequence(
        Sequence("clip", ImageFiles(paths), boxes_frame, np.array([False, True, False]))
    )
    masks = bank.rgbm[:, 3]
    assert masks[0].nonzero().amin(0).tolist() == [1, 0] and masks[0].nonzero().amax(0).tolist() == [3, 2]
    assert not masks[1].any() and bank.boxes_frame[1].isnan().all()
    assert masks[2].nonzero().amin(0).tolist() == [5, 8] and masks[2].nonzero().amax(0).tolist() == [7, 11]


# --- labels


@pytest.mark.usefixtures("in_daylight", "alone")
def test_a_centred_object_has_the_label_computed_by_hand_and_lies_there() -> None:
    batch = still_pairs(make_bank(4), 12, CENTRED, generator())
    # 16 px of the 64 px search crop, in its middle.
    assert batch.box_unit.tolist() == [[0.375, 0.375, 0.625, 0.625]] * 12
    assert batch.present.all()
    for template, online, search in zip(batch.template, batch.online, batch.search, strict=True):
        index = who(search[32, 32])
        for crop, first, last in ((search, 24, 40), (template, 8, 24)):
            inside = where(crop, index)
            assert inside[first:last, first:last].all()
            assert inside.sum() == 16**2
        # The tracker's own box is a little off.
        assert 0.5 < where(online[0], index).sum() / 16**2 < 1.8


@pytest.mark.parametrize("pasted", [False, True])
@pytest.mark.usefixtures("in_daylight", "alone")
def test_a_template_shows_the_box_in_its_middle_at_the_share_of_the_factor(
    monkeypatch: pytest.MonkeyPatch, pasted: bool
) -> None:
    box = (6, 14, 38, 22)  # 32 x 8 px: as large as 16 x 16
    monkeypatch.setattr(pairs, "chance", lambda _, __, *shape: torch.full(shape, pasted))
    batch = still_pairs(make_bank(1, [box]), 2, PairConfig(search_px=64, template_px=16), generator())
    rows, columns = where(batch.template[0], 0).nonzero().unbind(1)
    # 16 px / 2 for the 16 px of a square: the box is 16 x 4 px there.
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (6, 10, 0, 16)


def placed(bank: ImageBank, side_px: int, **changes: Tensor) -> Layer:
    """The first image with its object in the window's middle, but for ``changes``."""
    place = Placement(
        torch.ones(1), torch.zeros(1, 2), torch.zeros(1), torch.zeros(1), torch.zeros(1, dtype=torch.bool)
    )
    picked = bank.pick(torch.tensor([0]))
    return picked.view(pairs._to_image(picked, place._replace(**changes), side_px), side_px)


@pytest.mark.parametrize(
    ("changes", "box_px"),
    [
        ({}, (22, 22, 42, 42)),
        (dict(zoom=torch.tensor([0.5])), (27, 27, 37, 37)),
        (dict(offset=torch.tensor([[6.0, -9.0]])), (28, 13, 48, 33)),
        (dict(offset=torch.tensor([[-27.0, 0.0]])), (0, 22, 15, 42)),  # cut off by the window
        (dict(rotation=torch.tensor([math.pi / 4])), (32 - 14, 32 - 14, 32 + 14, 32 + 14)),
        (
            dict(aspect=torch.tensor([2 * math.log(1.2)])),
            (20, 24, 44, 40),
        ),  # 1.2 times as wide, as much less high
    ],
)
def test_the_label_of_a_placed_square_by_hand(
    changes: dict[str, Tensor], box_px: tuple[int, int, int, int]
) -> None:
    boxes, visible = boxes_of_masks(placed(make_bank(1), 64, **changes).mask[:, 0])
    assert visible.all()
    torch.testing.assert_close(boxes[0] * 64, torch.tensor(box_px, dtype=torch.float32), rtol=0, atol=1.01)


def test_a_flip_mirrors_the_window_and_with_it_the_label() -> None:
    bank = make_bank(1, [(4, 12, 30, 20)])
    bank.rgbm[0, :, 16:, :12] = 0  # without its lower left part it is no longer symmetric
    offset = torch.tensor([[5.0, 3.0]])
    plain = placed(bank, 64, offset=offset)
    mirrored = placed(bank, 64, offset=offset * torch.tensor([-1.0, 1.0]), flip=torch.tensor([True]))
    for ours, reference in zip(mirrored, plain, strict=True):
        torch.testing.assert_close(ours, reference.flip(-1), rtol=0, atol=1e-3)


def test_the_label_of_a_turned_stretched_mirrored_box_holds_its_corners_tightly() -> None:
    bank, draw = make_bank(1, [(8, 15, 40, 25)]), generator(5)
    for _ in range(30):
        place = dict(
            zoom=torch.rand(1, generator=draw) + 0.8,
            offset=8 * torch.randn(1, 2, generator=draw),
            rotation=torch.randn(1, generator=draw),
            aspect=0.3 * torch.randn(1, generator=draw),
            flip=torch.rand(1, generator=draw) < 0.5,
        )
        to_image = pairs._to_image(bank.pick(torch.tensor([0])), Placement(**place), 128)[0].double()
        corners = torch.tensor([[8, 15], [40, 15], [40, 25], [8, 25]], dtype=torch.float64)
        in_window = torch.linalg.solve(to_image[:, :2], (corners - to_image[:, 2]).T)
        expected = torch.cat([in_window.amin(1), in_window.amax(1)]).clamp(0, 128)
        boxes, _ = boxes_of_masks(placed(bank, 128, **place).mask[:, 0])
        # The corners themselves cover less than half of their pixels.
        torch.testing.assert_close(boxes[0].double() * 128, expected, rtol=0, atol=2.5)


def test_the_box_of_a_mask_by_hand() -> None:
    masks = torch.zeros(4, 16, 16)
    masks[0, 4:8, 2:16] = 1
    masks[1, 5:7, 2:16] = 1  # two rows are not enough
    masks[2, 4:8, 2:6] = 0.5  # half covered is not yet inside
    boxes, visible = boxes_of_masks(masks)
    assert visible.tolist() == [True, False, False, False]
    assert boxes.tolist() == [[2 / 16, 4 / 16, 1, 8 / 16]] + [[0, 0, 0, 0]] * 3


@pytest.mark.usefixtures("in_daylight", "alone")
def test_the_search_box_is_where_the_templates_object_is_and_absent_ones_have_none() -> None:
    bank = make_bank(30, [(10 + i % 5, 8, 26 + i % 7, 22 + i % 3) for i in range(30)])
    batch = still_pairs(bank, 200, PairConfig(search_px=64, template_px=32, absent_share=0.3), generator())
    assert 30 < (~batch.present).sum() < 120
    for template, search, box_unit, present in zip(
        batch.template, batch.search, batch.box_unit, batch.present, strict=True
    ):
        inside = where(search, who(template[16, 16]))
        if not present:
            assert box_unit.tolist() == [0, 0, 0, 0]
            assert not inside.any()
            continue
        seen = boxes_of_masks(inside.float()[None])[0][0]
        assert (box_unit[2:] > box_unit[:2]).all() and box_unit.min() >= 0 and box_unit.max() <= 1
        torch.testing.assert_close(seen * 64, box_unit * 64, rtol=0, atol=2)


@pytest.mark.usefixtures("in_daylight")
def test_other_objects_come_beside_before_and_behind_but_change_no_label() -> None:
    bank = make_bank(30)
    crowded = still_pairs(bank, 64, CENTRED, generator())
    assert crowded.box_unit.tolist() == [[0.375, 0.375, 0.625, 0.625]] * 64
    covered = others = 0
    for template, search in zip(crowded.template, crowded.search, strict=True):
        index = who(template[16, 16])
        covered += int(where(search, index)[24:40, 24:40].sum() < 256)
        others += any(where(search, other).sum() > 20 for other in range(30) if other != index)
    assert 5 < covered < 40  # 0.7 of the crops have a second object, 0.3 of those in front
    assert others > 30


# --- batches


@pytest.mark.parametrize("online_templates", [0, 1, 2])
@pytest.mark.parametrize("make", [still_pairs, video_pairs])
def test_a_batch_has_the_asked_for_shapes_and_pixels_over_the_whole_range(
    make: Any, online_templates: int
) -> None:
    config = PairConfig(search_px=64, template_px=32, online_templates=online_templates)
    batch = make(make_bank(20), 24, config, generator())
    assert batch.template.shape == (24, 32, 32, 3)
    assert batch.online.shape == (24, online_templates, 32, 32, 3)
    assert batch.search.shape == (24, 64, 64, 3)
    for crops in (batch.template, batch.search):
        assert crops.dtype == torch.uint8
        assert crops.min() < 10 and crops.max() > 245  # bytes, not fractions
    assert batch.box_unit[~batch.present].eq(0).all()
    assert (batch.box_unit[batch.present, 2:] > batch.box_unit[batch.present, :2]).all()


@pytest.mark.parametrize("make", [still_pairs, video_pairs])
def test_the_same_seed_gives_the_same_batch_and_another_one_another(make: Any) -> None:
    bank = make_bank(20)
    first, again, other = (make(bank, 8, ANYHOW, generator(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.search, other.search)
    drawn = generator(1)
    make(bank, 8, ANYHOW, drawn)
    assert not torch.equal(make(bank, 8, ANYHOW, drawn).search, first.search)


def test_batches_join_in_order() -> None:
    bank = make_bank(20)
    parts = [still_pairs(bank, 3, ANYHOW, generator()), video_pairs(bank, 2, ANYHOW, generator())]
    joined = Batch.join(parts)
    assert torch.equal(joined.search[:3], parts[0].search) and torch.equal(
        joined.box_unit[3:], parts[1].box_unit
    )
    assert len(joined.present) == 5


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (dict(online_templates=-1), "online_templates must not be negative, got -1"),
        (dict(absent_share=1.0), r"absent_share must be in \[0, 1\), got 1.0"),
    ],
)
def test_a_config_that_cannot_be_is_refused(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        PairConfig(**change)


# --- video


@pytest.mark.usefixtures("in_daylight")
def test_frames_of_a_video_pair_lie_within_the_gap_and_show_the_target() -> None:
    bank = make_bank(30)
    absent = [3, 4, 11, 29]
    bank.boxes_frame[absent] = torch.nan
    bank.rgbm[absent, 3] = 0
    config = PairConfig(**{**vars(CENTRED), "max_gap_frames": 4, "online_templates": 2})
    batch = video_pairs(bank, 300, config, generator())
    gaps, used = set(), set()
    for template, online, search in zip(batch.template, batch.online, batch.search, strict=True):
        first, *others = (who(crop[len(crop) // 2, len(crop) // 2]) for crop in (template, *online, search))
        gaps |= {other - first for other in others}
        used |= {first, *others}
    assert gaps == set(range(-4, 5))
    assert used == set(range(30)) - set(absent)
    assert batch.present.all()
    assert batch.box_unit.tolist() == [[0.375, 0.375, 0.625, 0.625]] * 300


@pytest.mark.parametrize("make", [still_pairs, video_pairs])
def test_a_target_moved_out_of_the_crop_is_an_absent_example(make: Any) -> None:
    config = PairConfig(search_px=64, template_px=32, centre_jitter=6.0, far_share=1.0, absent_share=0.0)
    batch = make(make_bank(10), 40, config, generator())
    assert 20 < (~batch.present).sum() < 40
    assert torch.equal(batch.present, batch.box_unit.any(dim=1))


# --- light and lenses


def test_grey_images_have_their_luma_in_every_channel() -> None:
    images = torch.tensor([100.0, 200.0, 50.0]).view(1, 3, 1, 1).expand(2, 3, 4, 4)
    ours = augment.grey(images, torch.tensor([True, False]))
    torch.testing.assert_close(ours[0], torch.full((3, 4, 4), 0.299 * 100 + 0.587 * 200 + 0.114 * 50))
    assert torch.equal(ours[1], images[1])


@pytest.mark.parametrize("weaken", [augment._blur, augment._low_resolution])
def test_blur_and_low_resolution_smooth_the_chosen_images_and_leave_the_mean(weaken: Any) -> None:
    images = 255 * torch.rand(6, 3, 32, 32, generator=generator())
    assert torch.equal(weaken(images, generator(), probability=0.0), images)
    smoothed = weaken(images, generator(), probability=1.0)
    assert (smoothed.std(dim=(2, 3)) < 0.9 * images.std(dim=(2, 3))).all()
    torch.testing.assert_close(smoothed.mean((2, 3)), images.mean((2, 3)), rtol=0.03, atol=0)
    flat = torch.full((2, 3, 16, 16), 77.0)
    torch.testing.assert_close(weaken(flat, generator(), probability=1.0), flat)


def test_degraded_images_stay_in_range_and_differ_from_each_other() -> None:
    images = (255 * torch.rand(1, 3, 32, 32, generator=generator())).expand(40, 3, 32, 32)
    ours = augment.degrade(images, generator())
    assert ours.min() >= 0 and ours.max() <= 255
    assert len({round(float(image.mean()), 3) for image in ours}) == 40
    assert (ours.mean() - images.mean()).abs() < 15
