"""Pictures in one tensor and windows of them, against pixel-by-pixel references and torch's own sampling."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from painted import HEIGHT, WIDTH, Outlines, colour, rectangle, still, video

from mixformerv2.data.bank import ImageBank, inside_box, look, read_rgbm


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 4), np.uint8)


def smooth(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Waves of some 200 px: without fine detail, ways to shrink agree."""
    y, x = np.mgrid[:height, :width] / 30.0
    phases = np.random.default_rng(seed).uniform(0, 6, (4, 2))
    waves = [np.sin(x + a) * np.cos(0.7 * y + b) for a, b in phases]
    return np.round(127 + 120 * np.stack(waves, axis=-1)).astype(np.uint8)


def affine(scale: float, angle: float, x: float, y: float) -> np.ndarray:
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    return np.array([[cos, -sin, x], [sin, cos, y]])


def slowly_viewed(picture: np.ndarray, to_image: np.ndarray, side_px: int) -> np.ndarray:
    """Pixel by pixel: the mean of the four nearest pixels by their closeness; the last ones go on."""
    height, width = picture.shape[:2]
    window = np.zeros((side_px, side_px, 4))
    for row in range(side_px):
        for column in range(side_px):
            x, y = to_image @ [(column + 0.5) / side_px, (row + 0.5) / side_px, 1]
            left, top = math.floor(x - 0.5), math.floor(y - 0.5)
            for i, j in ((left, top), (left + 1, top), (left, top + 1), (left + 1, top + 1)):
                share = (1 - abs(x - 0.5 - i)) * (1 - abs(y - 0.5 - j))
                window[row, column] += share * picture[min(max(j, 0), height - 1), min(max(i, 0), width - 1)]
    return window


MAPS = [
    affine(10, 0, 2, 1),
    affine(14, 0.3, -3, 2.5),
    affine(6.5, -2.0, 9, 8),
    affine(10, 0, 50, 3),  # nothing but outside
    np.array([[-12.0, 0, 12], [0, 9, 0]]),  # mirrored
]


# --- frames with masks


def test_a_frame_with_a_box_has_the_boxs_share_of_every_pixel_as_its_mask() -> None:
    sequence = video(1)
    sequence.boxes_frame[0] = (10.25, 12, 13, 13.5)
    rgbm = read_rgbm(sequence, 0)
    assert rgbm.shape == (HEIGHT, WIDTH, 4)
    assert np.array_equal(rgbm[..., :3], sequence.frame(0))
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[12, 10:13] = (191, 255, 255)
    expected[13, 10:13] = (96, 128, 128)
    assert np.array_equal(rgbm[..., 3], expected)


@pytest.mark.parametrize(
    ("box", "filled"),
    [
        ((-5, -3, 4, 2), (slice(0, 2), slice(0, 4))),
        ((40, 38, 60, 50), (slice(38, 40), slice(40, 48))),
        ((-9, 3, -2, 8), (slice(0, 0), slice(0, 0))),
        ((60, 3, 70, 8), (slice(0, 0), slice(0, 0))),
    ],
)
def test_a_box_across_the_border_fills_what_is_inside(
    box: tuple[float, ...], filled: tuple[slice, slice]
) -> None:
    sequence = video(1)
    sequence.boxes_frame[0] = box
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[filled] = 255
    assert np.array_equal(read_rgbm(sequence, 0)[..., 3], expected)


def test_a_frame_without_its_target_has_an_empty_mask() -> None:
    assert not read_rgbm(video(3, absent=[1]), 1)[..., 3].any()


def test_an_annotated_mask_is_taken_as_it_is() -> None:
    mask = rectangle((11, 13, 20, 30))
    rgbm = read_rgbm(still(3, mask=mask), 0)
    assert np.array_equal(rgbm[..., 3], 255 * mask)
    assert tuple(rgbm[15, 12, :3].tolist()) == colour(3)


def test_a_mask_of_another_size_is_refused_with_the_frames_place() -> None:
    sequence = dataclasses.replace(still(0), masks=Outlines((np.ones((3, 4), bool),)))
    with pytest.raises(ValueError, match="still 0/0 is 48 x 40 px, its mask 4 x 3"):
        read_rgbm(sequence, 0)


# --- windows


@pytest.mark.parametrize("to_image", MAPS)
def test_a_window_is_the_same_as_pixel_by_pixel(to_image: np.ndarray) -> None:
    picture = noise(9, 12)
    ours = look(picture, to_image, 10)
    # Older OpenCV rounds positions to 1/32 px.
    np.testing.assert_allclose(ours, slowly_viewed(picture, to_image, 10), atol=17)
    assert np.abs(ours - slowly_viewed(picture, to_image, 10)).mean() < 2


def test_a_window_shifted_by_whole_pixels_is_a_cut() -> None:
    picture = noise(30, 40)
    assert np.array_equal(look(picture, affine(16, 0, 5, 7), 16), picture[7:23, 5:21])


def test_a_coarse_window_has_the_mean_of_the_pixels_it_leaves_out() -> None:
    board = np.zeros((64, 64, 4), np.uint8)
    board[::2, ::2] = board[1::2, 1::2] = 200
    coarse = look(board, affine(48, 0, 8, 8), 12)  # 4 px a side into one
    assert (coarse == 100).all()
    blocks = np.kron(noise(16, 16)[..., 0], np.ones((4, 4), np.uint8))
    blocks = np.repeat(blocks[..., None], 4, axis=2)
    assert np.array_equal(look(blocks, affine(64, 0, 0, 0), 16), blocks[::4, ::4])


@pytest.mark.parametrize("scale", [110.0, 250.0])
def test_a_coarse_turned_window_is_close_to_the_mean_over_its_pixels(scale: float) -> None:
    picture, to_image = smooth(400, 400), affine(scale, 0.4, 120, 5)
    fine = slowly_viewed(picture, to_image, 120).reshape(20, 6, 20, 6, 4).mean(axis=(1, 3))
    assert np.abs(look(picture, to_image, 20) - fine).mean() < 3


@pytest.mark.parametrize(("scale", "x"), [(300, -2000), (300, 5000), (1e-3, 3), (4000, -1500)])
def test_windows_far_outside_minute_or_huge_are_still_windows(scale: float, x: float) -> None:
    for side_px in (8, 32):
        assert look(noise(9, 12), affine(scale, 0.2, x, 2), side_px).shape == (side_px, side_px, 4)


def test_which_pixels_are_inside_the_frame_by_hand() -> None:
    to_frame = torch.tensor([[[8.0, 0, -2], [0, 8, 0]], [[-8.0, 0, 8], [0, 8, 0]]])
    inside = inside_box(to_frame, torch.tensor([[0.0, 0.0, 4.0, 3.0], [0.0, 0.0, 4.0, 99.0]]), 8)
    expected = torch.zeros(2, 8, 8, dtype=torch.bool)
    expected[0, :3, 2:6] = True
    expected[1, :, 4:] = True
    assert torch.equal(inside, expected)


# --- banks


def make_bank() -> tuple[ImageBank, list[np.ndarray]]:
    pictures = [noise(9, 12), noise(20, 5, seed=1), noise(7, 7, seed=2)]
    return ImageBank.pack(list(pictures)), pictures


def test_a_bank_holds_pictures_of_any_size_one_after_the_other() -> None:
    bank, pictures = make_bank()
    assert len(bank) == 3 and bank.pixels.dtype == torch.int32
    assert bank.starts.tolist() == [0, 108, 208] and len(bank.pixels) == 257
    assert bank.sizes.tolist() == [[12, 9], [5, 20], [7, 7]]
    red, green, blue, mask = pictures[1][19, 4].tolist()
    assert int(bank.pixels[207]) & 0xFFFFFFFF == red | green << 8 | blue << 16 | mask << 24


@pytest.mark.parametrize("slab_bytes", [1, 400, 600])
def test_pictures_come_to_lie_alike_however_many_are_gathered_at_once(
    slab_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mixformerv2.data.bank._SLAB_BYTES", slab_bytes)
    bank, pictures = make_bank()
    assert bank.starts.tolist() == [0, 108, 208]
    assert bank.pixels.numpy().tobytes() == b"".join(picture.tobytes() for picture in pictures)


def test_pictures_may_come_one_by_one_and_may_be_none() -> None:
    bank, pictures = make_bank()
    assert torch.equal(ImageBank.pack(iter(pictures)).pixels, bank.pixels)
    assert len(ImageBank.pack([])) == 0


def test_a_view_of_a_bank_is_the_look_at_its_pictures() -> None:
    bank, pictures = make_bank()
    index = np.array([2, 0, 0, 1, 2])
    windows = bank.view(index, np.stack(MAPS), 10)
    for window, row, to_image in zip(windows, index, MAPS, strict=True):
        assert np.array_equal(window, look(pictures[row], to_image, 10))
    assert bank.view(index[:0], np.zeros((0, 2, 3)), 10).shape == (0, 10, 10, 4)


def test_gathering_neighbours_gives_the_same_windows_as_pixel_by_pixel() -> None:
    """What other devices than the CPU do."""
    bank, pictures = make_bank()
    index = np.array([2, 0, 0, 1, 2])
    gathered = bank._gather(index, np.stack(MAPS), 10)
    for window, row, to_image in zip(gathered, index, MAPS, strict=True):
        np.testing.assert_allclose(window, slowly_viewed(pictures[row], to_image, 10), atol=0.51)


@pytest.mark.parametrize("samples_at_once", [1, 800, 10_000])
def test_windows_that_are_gathered_in_turns_are_those_gathered_together(
    samples_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = ImageBank.pack([smooth(300, 400), smooth(400, 300, seed=1)])
    index = np.array([0, 1, 0, 1, 1, 0])
    maps = np.stack([affine(scale, 0.2, 40, 40) for scale in (9.0, 25.0, 70.0, 12.0, 20.0, 90.0)])
    together = bank._gather(index, maps, 10)
    monkeypatch.setattr("mixformerv2.data.bank._SAMPLES_AT_ONCE", samples_at_once)
    sizes = []
    sample = ImageBank._sample
    monkeypatch.setattr(
        ImageBank,
        "_sample",
        lambda self, *given: sizes.append(len(given[0]) * given[2] ** 2) or sample(self, *given),
    )
    assert torch.equal(bank._gather(index, maps, 10), together)
    assert all(size <= max(samples_at_once, 40**2) for size in sizes)


def test_gathering_is_torchs_own_sampling_where_there_is_picture() -> None:
    picture = noise(60, 80)
    bank = ImageBank.pack([picture])
    to_image = affine(40, 0.3, 30, 3)
    line = (torch.arange(32) + 0.5) / 32
    x, y = torch.meshgrid(line, line, indexing="xy")
    at = torch.stack([x, y, torch.ones_like(x)], dim=-1).double() @ torch.from_numpy(to_image).T
    grid = at / torch.tensor([80, 60]) * 2 - 1
    planes = torch.from_numpy(picture).permute(2, 0, 1)[None].double()
    reference = F.grid_sample(planes, grid[None], mode="bilinear", align_corners=False)[0]
    ours = bank._gather(np.zeros(1, np.int64), to_image[None], 32)[0].permute(2, 0, 1)
    torch.testing.assert_close(ours.double(), reference, rtol=0, atol=0.51)


@pytest.mark.parametrize("scale", [30.0, 70.0, 130.0, 250.0])
def test_gathering_and_looking_agree_on_coarse_windows(scale: float) -> None:
    bank = ImageBank.pack([smooth(300, 400), smooth(400, 300, seed=1)])
    index = np.array([0, 1, 0])
    maps = np.stack([affine(scale, angle, 40, 40) for angle in (0.0, 0.2, -0.1)])
    ours, reference = bank._gather(index, maps, 30), bank._look(index, maps, 30)
    assert (ours.float() - reference.float()).abs().mean() < 2
