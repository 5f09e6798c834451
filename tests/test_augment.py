"""Degradations of pictures against numbers by hand and a slow JPEG."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from painted import DAYLIGHT
from torch import Tensor

from mixformerv2.data import augment
from mixformerv2.data.augment import Degradation, DegradeConfig


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(b: int, side: int = 32, seed: int = 0) -> Tensor:
    return 255 * torch.rand(b, 3, side, side, generator=generator(seed))


def as_they_are(b: int, **changes: Any) -> Degradation:
    """Nothing happens, but for `changes`."""
    plain = {
        "grey": np.zeros(b, bool),
        "saturation": np.ones(b),
        "contrast": np.ones(b),
        "gain": np.ones((b, 3)),
        "shade": np.tile([0.0, 0.0, 0.1, 0.0], (b, 1)),
        "blur": np.zeros((b, 3)),
        "coarser": np.ones(b),
        "noise": np.zeros(b),
        "quality": np.zeros(b, int),
    }
    return Degradation(**plain | changes)


def test_a_config_of_zeros_leaves_every_picture_as_it_is() -> None:
    how = augment.draw(np.zeros(6, bool), DAYLIGHT, np.random.default_rng(0))
    images = noise(6)
    torch.testing.assert_close(augment.degrade(images, how, generator()), images, rtol=0, atol=1e-3)


def test_a_shade_darkens_one_side_of_its_edge() -> None:
    images = torch.full((2, 3, 32, 32), 100.0)
    shade = np.array([[0.0, 0.0, 0.02, np.log(0.5)], [np.pi / 2, 0.25, 0.02, np.log(2.0)]])
    ours = augment.degrade(images, as_they_are(2, shade=shade), generator())
    torch.testing.assert_close(ours[0, :, :, :14], torch.full((3, 32, 14), 100.0), atol=1, rtol=0)
    torch.testing.assert_close(ours[0, :, :, 18:], torch.full((3, 32, 14), 50.0), atol=1, rtol=0)
    torch.testing.assert_close(ours[1, :, :22], torch.full((3, 22, 32), 100.0), atol=2, rtol=0)
    torch.testing.assert_close(ours[1, :, 26:], torch.full((3, 6, 32), 200.0), atol=2, rtol=0)


def test_each_degradation_happens_as_often_and_as_far_as_asked() -> None:
    b = 20000
    config = DegradeConfig(shade_share=0.2)
    how = augment.draw(np.arange(b) < b // 10, config, np.random.default_rng(0))
    for happened, share in (
        (how.shade[:, 3] != 0, 0.2),
        (how.blur[:, 2] > 0, 0.3),
        (how.coarser > 1, 0.2),
        (how.noise > 0, 0.3),
        (how.quality > 0, 0.3),
    ):
        assert abs(happened.mean() - share) < 0.02
    assert abs(how.shade[how.shade[:, 3] != 0, 3].std() - 0.5) < 0.02
    assert how.blur[:, 1].max() <= 5 and how.blur[:, 2].max() <= 1.5
    assert set(how.coarser) == {1, 1.5, 2, 3}
    assert 11 < how.noise.max() <= 12
    quality = how.quality[how.quality > 0]
    assert (quality.min(), quality.max()) == (20, 90)
    coloured = ~how.grey
    assert abs(how.saturation[coloured].std() - 0.25) < 0.01 and not how.saturation[how.grey].any()
    assert abs(np.log(how.contrast).std() - 0.12) < 0.01
    assert abs(np.log(how.gain[:, 0]).std() - math.hypot(0.15, 0.04)) < 0.01
    assert (how.gain[how.grey] == how.gain[how.grey][:, :1]).all()


def test_light_by_hand() -> None:
    images = torch.tensor([[100.0, 200.0, 50.0], [20.0, 40.0, 60.0]])[:, :, None, None].repeat(1, 1, 8, 8)
    images[:, :, :4] += 10
    how = as_they_are(
        2,
        saturation=np.array([0.0, 1.0]),
        contrast=np.array([1.0, 0.5]),
        gain=np.array([[1.0, 1.0, 1.0], [1.0, 2.0, 10.0]]),
    )
    ours = augment.relight(images, how)
    luma = 0.299 * 100 + 0.587 * 200 + 0.114 * 50
    torch.testing.assert_close(ours[0, :, 7, 0], torch.full((3,), luma))
    # The mean of the second is 45: (20 + 45) / 2, twice (40 + 45) / 2, ten times (60 + 45) / 2 and no more than 255.
    torch.testing.assert_close(ours[1, :, 7, 0], torch.tensor([32.5, 85.0, 255.0]))
    torch.testing.assert_close(ours[1, 0, 0, 0], torch.tensor((30.0 + 45.0) / 2))


def test_grey_pictures_stay_grey_to_the_end() -> None:
    config = dataclasses.replace(
        DegradeConfig(), blur_share=1.0, low_resolution_share=1.0, noise_share=1.0, jpeg_share=1.0
    )
    grey = np.array([True, False] * 4)
    images = augment.degrade(noise(8), augment.draw(grey, config, np.random.default_rng(0)), generator())
    spread = (images.amax(dim=1) - images.amin(dim=1)).amax(dim=(1, 2))
    assert (spread[::2] < 0.01).all() and (spread[1::2] > 1).all()


def test_blur_kernels_add_up_to_one_and_lie_along_the_motion() -> None:
    blur = torch.tensor([[0.0, 4.0, 0.5], [math.pi / 2, 4.0, 0.5], [0.3, 0.0, 1.5]])
    kernels = augment.blur_kernels(blur, 6)[:, 0]
    torch.testing.assert_close(kernels.sum(dim=(1, 2)), torch.ones(3))
    across = kernels[0].sum(dim=0)
    torch.testing.assert_close(across[2:11], across[6].expand(9))  # even over the whole line, 4 px each way
    assert across[1] < 0.1 * across[2] and across[0] < 1e-4
    torch.testing.assert_close(kernels[1], kernels[0].T, rtol=0, atol=1e-6)
    torch.testing.assert_close(kernels[2], kernels[2].T, rtol=0, atol=1e-6)
    assert abs(float((kernels[2].sum(dim=0) * torch.arange(-6.0, 7) ** 2).sum()) - 1.5**2 / 2) < 0.02


def test_no_weight_of_a_blur_is_too_small_to_be_a_normal_number() -> None:
    kernels = augment.blur_kernels(torch.tensor([[0.3, 4.0, 0.4], [1.0, 0.0, 0.3]]), 9)
    assert kernels[kernels > 0].min() > torch.finfo(torch.float32).tiny
    torch.testing.assert_close(kernels.sum(dim=(1, 2, 3)), torch.ones(2))


def test_blur_works_on_the_chosen_pictures_and_keeps_flat_ones() -> None:
    blur = np.array([[0.5, 3.0, 1.0], [0.5, 3.0, 0.0], [1.0, 0.5, 0.6], [0.0, 5.0, 1.5]])
    images = noise(4)
    ours = augment.degrade(images.clone(), as_they_are(4, blur=blur), generator())
    torch.testing.assert_close(ours[1], images[1], rtol=0, atol=1e-3)
    ratio = ours.std(dim=(1, 2, 3)) / images.std(dim=(1, 2, 3))
    assert (ratio[[0, 2, 3]] < 0.8).all() and ratio[3] < ratio[0] < ratio[2]
    torch.testing.assert_close(ours.mean((2, 3)), images.mean((2, 3)), rtol=0.03, atol=0)
    flat = torch.full((4, 3, 16, 16), 77.0)
    ours = augment.degrade(flat.clone(), as_they_are(4, blur=blur), generator())
    torch.testing.assert_close(ours, flat, rtol=0, atol=1e-3)


def test_low_resolution_keeps_the_means_of_its_coarse_pixels() -> None:
    images = noise(2)
    for factor in (2.0, 4.0):
        coarse = augment.coarsen(images, factor)
        assert (coarse.std(dim=(2, 3)) < 0.7 * images.std(dim=(2, 3))).all()
        torch.testing.assert_close(coarse.mean((2, 3)), images.mean((2, 3)), rtol=0.03, atol=0)
    ramp = torch.arange(32.0).expand(1, 3, 32, 32)
    torch.testing.assert_close(augment.coarsen(ramp, 2.0)[..., 2:-2], ramp[..., 2:-2])
    ours = augment.degrade(images.clone(), as_they_are(2, coarser=np.array([1.0, 3.0])), generator())
    torch.testing.assert_close(ours[0], images[0], rtol=0, atol=1e-3)
    assert not torch.equal(ours[1], images[1])


def test_noise_has_the_drawn_deviation() -> None:
    images = torch.full((3, 3, 64, 64), 128.0)
    ours = augment.degrade(images.clone(), as_they_are(3, noise=np.array([0.0, 4.0, 11.0])), generator())
    deviation = ours.std(dim=(1, 2, 3))
    assert deviation[0] < 1e-3 and abs(deviation[1] - 4) < 0.2 and abs(deviation[2] - 11) < 0.5


# --- JPEG


def slow_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """Block by block, coefficient by coefficient; (3, side, side)."""
    r, g, b = image
    planes = [
        0.299 * r + 0.587 * g + 0.114 * b - 128,
        -0.168736 * r - 0.331264 * g + 0.5 * b,
        0.5 * r - 0.418688 * g - 0.081312 * b,
    ]
    scale = 5000 / quality if quality < 50 else 200 - 2 * quality
    side = image.shape[1]
    for number, plane in enumerate(planes):
        table = np.array(augment._QUANTA_CHROMA if number else augment._QUANTA_LUMA).reshape(8, 8)
        quanta = np.clip(np.floor((table * scale + 50) / 100), 1, 255)
        for top in range(0, side, 8):
            for left in range(0, side, 8):
                block = plane[top : top + 8, left : left + 8].copy()
                back = np.zeros((8, 8))
                for v in range(8):
                    for u in range(8):
                        down = np.cos((2 * np.arange(8) + 1) * v * math.pi / 16) * (0.5 if v else 0.5**1.5)
                        across = np.cos((2 * np.arange(8) + 1) * u * math.pi / 16) * (0.5 if u else 0.5**1.5)
                        wave = np.outer(down, across)
                        kept = np.round((block * wave).sum() / quanta[v, u]) * quanta[v, u]
                        back += kept * wave
                plane[top : top + 8, left : left + 8] = back
    y, cb, cr = planes[0] + 128, planes[1], planes[2]
    rgb = [y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb]
    return np.clip(np.stack(rgb), 0, 255)


@pytest.mark.parametrize("quality", [5, 49, 50, 90])
def test_jpeg_is_the_same_as_block_by_block(quality: int) -> None:
    y, x = np.mgrid[:16, :16]
    image = np.stack([8.0 * x + 3 * y, 120 + 60 * np.sin(x / 2 + y / 3), 255.0 * (x + y > 15)])
    ours = augment.jpeg(torch.from_numpy(image).float()[None], torch.tensor([float(quality)]))
    np.testing.assert_allclose(ours[0], slow_jpeg(image, quality), atol=1e-2)


def test_jpeg_looks_like_opencvs() -> None:
    """Its chroma is halved and its numbers are rounded in between, so only closely."""
    import cv2

    y, x = np.mgrid[:64, :64]
    grey = np.round(127 + 90 * np.sin(x / 3.0) * np.cos(y / 5.0) + 30 * (x > 30)).astype(np.uint8)
    for quality in (15, 40, 80):
        _, packed = cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, quality])
        theirs = cv2.imdecode(packed, cv2.IMREAD_GRAYSCALE)
        images = torch.from_numpy(grey).float().expand(1, 3, 64, 64)
        ours = augment.jpeg(images, torch.tensor([float(quality)]))[0, 0]
        assert (ours - torch.from_numpy(theirs).float()).abs().mean() < 0.6
        assert (images[0, 0] - ours).abs().mean() > 0.8


def test_jpeg_loses_more_at_lower_quality_and_next_to_nothing_at_the_highest() -> None:
    images = noise(5).clamp(40, 215)  # within every colour's range, else the last step clips
    quality = torch.tensor([100.0, 90.0, 60.0, 30.0, 10.0])
    ours = augment.jpeg(images[:1].expand(5, 3, 32, 32), quality)
    loss = (ours - images[0]).abs().mean(dim=(1, 2, 3))
    assert loss[0] < 1 and (loss.diff() > 0).all()


def test_jpeg_leaves_an_even_picture_even() -> None:
    middle = torch.full((2, 3, 16, 16), 128.0)
    torch.testing.assert_close(augment.jpeg(middle, torch.tensor([10.0, 90.0])), middle, rtol=0, atol=1e-3)
    # Otherwise it is a step of the mean away at most: 16 of luma at a quality of 50, by the transform's 8.
    ours = augment.jpeg(torch.full((1, 3, 16, 16), 77.0), torch.tensor([50.0]))
    assert ours.max() - ours.min() < 1e-3 and abs(float(ours.mean()) - 77) <= 1


def test_only_the_chosen_pictures_are_compressed() -> None:
    images = noise(3)
    ours = augment.degrade(images.clone(), as_they_are(3, quality=np.array([0, 30, 0])), generator())
    torch.testing.assert_close(ours[[0, 2]], images[[0, 2]], rtol=0, atol=1e-3)
    torch.testing.assert_close(ours[1], augment.jpeg(images[1:2], torch.tensor([30.0]))[0], rtol=0, atol=0.1)


# --- all together


def test_degraded_pictures_stay_in_range_and_differ_from_each_other() -> None:
    images = noise(1).expand(40, 3, 32, 32).contiguous()
    how = augment.draw(np.arange(40) < 4, DegradeConfig(), np.random.default_rng(0))
    ours = augment.degrade(images, how, generator())
    assert ours.min() >= 0 and ours.max() <= 255
    assert len({round(float(image.mean()), 3) for image in ours}) == 40
    assert (ours.mean() - images.mean()).abs() < 15
    assert torch.equal(images[0], images[1])  # what came in is as it was


def test_the_same_generators_degrade_alike() -> None:
    def degraded(seed: int) -> Tensor:
        how = augment.draw(np.zeros(9, bool), DegradeConfig(noise_share=1.0), np.random.default_rng(seed))
        return augment.degrade(noise(9), how, generator(seed))

    assert torch.equal(degraded(1), degraded(1)) and not torch.equal(degraded(1), degraded(2))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"blur_share": -0.1}, r"blur_share must be in \[0, 1\], got -0.1"),
        ({"noise_levels": -1.0}, "noise_levels must not be negative, got -1.0"),
        ({"motion_px": math.nan}, "motion_px must not be negative, got nan"),
        ({"low_resolution_factors": ()}, r"low_resolution_factors must be numbers from 1 on, got \(\)"),
        ({"low_resolution_factors": (2.0, 0.5)}, "must be numbers from 1 on"),
        ({"jpeg_quality": (0, 90)}, "jpeg_quality must be lowest and highest within 1 and 100, got 0 and 90"),
        ({"jpeg_quality": (90, 20)}, "got 90 and 20"),
    ],
)
def test_a_config_that_cannot_be_is_refused(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        DegradeConfig(**change)
