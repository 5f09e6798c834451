"""What real cameras do to a picture, in batches on its device: light, colour, blur, low resolution, noise, JPEG.

How each picture is treated is drawn first and apart from the pixels, so that nothing waits for the device and only the
pictures concerned are worked on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mixformerv2.data.bank import send

Images = Float[Tensor, "b 3 side side"]  # 0..255

_SHARP_PX = 0.4  # radius of the spot that a point is in focus
_LUMA = (0.299, 0.587, 0.114)
# JFIF: luma, and blue and red less luma, without the offset of 128.
_TO_YCC = np.array([_LUMA, (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312)])
_TO_RGB = np.array([(1.0, 0.0, 1.402), (1.0, -0.344136, -0.714136), (1.0, 1.772, 0.0)])
# ITU-T T.81, annex K.
_QUANTA_LUMA = (
    *(16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55),
    *(14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62),
    *(18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99),
)
_QUANTA_CHROMA = (
    *(17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99),
    *(24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99, 99, 99, 99, 99),
    *(99,) * 32,
)


@dataclass(frozen=True)
class DegradeConfig:
    """How often and how far. Shares are of the pictures, each on its own; deviations of normal numbers."""

    grey_share: float = 0.1
    """of the examples, all their pictures alike"""
    saturation: float = 0.25
    """deviation of the factor"""
    contrast: float = 0.12
    """deviation of the factor's log"""
    brightness: float = 0.15
    """deviation of the factor's log"""
    tint: float = 0.04
    """likewise, channel by channel"""
    shade_share: float = 0.0
    """a part in another light than the rest: the shadow of a bridge, the sun through leaves"""
    shade: float = 0.5
    """deviation of the log of its brightness over the rest's"""
    blur_share: float = 0.3
    motion_px: float = 5.0
    """longest half-length of the line a point is drawn out to; the object is about 50 px wide"""
    defocus_px: float = 1.5
    """largest radius of the spot a point becomes"""
    low_resolution_share: float = 0.2
    low_resolution_factors: tuple[float, ...] = (1.5, 2.0, 3.0)
    """how many times coarser, one of these"""
    noise_share: float = 0.3
    noise_levels: float = 12.0
    """largest deviation of a pixel"""
    jpeg_share: float = 0.3
    jpeg_quality: tuple[int, int] = (20, 90)
    """lowest and highest, on the scale of 1 to 100 that libjpeg uses"""

    def __post_init__(self) -> None:
        for name in (
            "grey_share",
            "shade_share",
            "blur_share",
            "low_resolution_share",
            "noise_share",
            "jpeg_share",
        ):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        for name in (
            *("saturation", "contrast", "brightness", "tint", "shade"),
            *("motion_px", "defocus_px", "noise_levels"),
        ):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        factors = self.low_resolution_factors
        if not (factors and all(factor >= 1 for factor in factors)):
            raise ValueError(f"low_resolution_factors must be numbers from 1 on, got {factors}")
        low, high = self.jpeg_quality
        if not 1 <= low <= high <= 100:
            raise ValueError(
                f"jpeg_quality must be lowest and highest within 1 and 100, got {low} and {high}"
            )


class Degradation(NamedTuple):
    """What happens to each picture, one row a picture."""

    grey: Bool[np.ndarray, " b"]
    saturation: Float[np.ndarray, " b"]  # factor
    contrast: Float[np.ndarray, " b"]  # factor
    gain: Float[np.ndarray, "b 3"]  # factor, channel by channel
    shade: Float[
        np.ndarray, "b 4"
    ]  # direction in radians, its edge and the edge's width in sides, log; log 0: none
    blur: Float[np.ndarray, "b 3"]  # direction in radians, half-length and radius px; radius 0: none
    coarser: Float[np.ndarray, " b"]  # factor of resolution; 1: none
    noise: Float[np.ndarray, " b"]  # deviation in levels; 0: none
    quality: Int[np.ndarray, " b"]  # of JPEG; 0: none


def draw(grey: Bool[np.ndarray, " b"], config: DegradeConfig, rng: np.random.Generator) -> Degradation:
    """One way for each picture; `grey` are those without colour."""
    b = len(grey)

    def some(share: float) -> Bool[np.ndarray, " b"]:
        return np.asarray(rng.random(b) < share)

    tint = rng.normal(0, config.tint, (b, 3)) * ~grey[:, None]
    blur = rng.uniform(0, [math.pi, config.motion_px, 0], (b, 3))
    blur[:, 2] = rng.uniform(_SHARP_PX, max(_SHARP_PX, config.defocus_px), b) * some(config.blur_share)
    shade = rng.uniform((0, -0.35, 0.02, 0), (2 * math.pi, 0.35, 0.3, 0), (b, 4))
    shade[:, 3] = rng.normal(0, config.shade, b) * some(config.shade_share)
    low, high = config.jpeg_quality
    return Degradation(
        grey,
        saturation=np.clip(1 + rng.normal(0, config.saturation, b), 0, 2) * ~grey,
        contrast=np.exp(rng.normal(0, config.contrast, b)),
        gain=np.exp(rng.normal(0, config.brightness, (b, 1)) + tint),
        shade=shade,
        blur=blur,
        coarser=np.where(
            some(config.low_resolution_share), rng.choice(config.low_resolution_factors, b), 1.0
        ),
        noise=rng.uniform(0, config.noise_levels, b) * some(config.noise_share),
        quality=np.where(some(config.jpeg_share), rng.integers(low, high + 1, b), 0),
    )


def degrade(images: Images, how: Degradation, generator: torch.Generator) -> Images:
    """Each picture under its own light, through its own poor camera; some keep all but the light. 0..255.

    Sides must be multiples of 8 where `how` has JPEG.
    """
    images = relight(images, how)
    if how.shade[:, 3].any():
        part = _rows(how.shade[:, 3] != 0, images)
        images[part] = shaded(images[part], _send(how.shade[how.shade[:, 3] != 0], images))
    for part, kernels in _blurred(how.blur, images):
        images[part] = convolve(images[part], kernels)
    for factor in np.unique(how.coarser[how.coarser > 1]):
        part = _rows(how.coarser == factor, images)
        images[part] = coarsen(images[part], float(factor))
    if how.noise.any():
        part = _rows(how.noise > 0, images)
        images[part] += _noise(images[part], how, generator)
        images.clamp_(0, 255)
    if how.quality.any():
        part = _rows(how.quality > 0, images)
        images[part] = jpeg(images[part], _send(how.quality[how.quality > 0], images))
    return images


def relight(images: Images, how: Degradation) -> Images:
    """Saturation, contrast around the picture's mean, brightness and tint; new tensors."""
    b, _, side, _ = images.shape
    luma = np.broadcast_to(_LUMA, (3, 3))
    mix = luma + (np.eye(3) - luma) * how.saturation[:, None, None]
    mix = mix * (how.contrast[:, None] * how.gain)[:, :, None]
    lift = _send((1 - how.contrast)[:, None] * how.gain, images)[:, :, None]
    flat = images.reshape(b, 3, side * side)
    lift = lift * flat.mean(dim=(1, 2), keepdim=True)
    return torch.baddbmm(lift, _send(mix, images), flat).clamp_(0, 255).view_as(images)


def shaded(images: Images, shade: Float[Tensor, "b 4"]) -> Images:
    """One side of a straight edge brighter or darker than the other, with a soft passage."""
    angle, edge, width, log = shade[:, :, None, None].unbind(1)
    line = (torch.arange(images.shape[-1], device=images.device) + 0.5) / images.shape[-1] - 0.5
    across = line * angle.cos() + line[:, None] * angle.sin()
    gain = torch.exp(log * torch.sigmoid((across - edge) * 4 / width))
    return (images * gain[:, None]).clamp_(0, 255)


def _blurred(
    blur: Float[np.ndarray, "b 3"], images: Images
) -> Iterator[tuple[Int[Tensor, " n"], Float[Tensor, "n 1 taps taps"]]]:
    """The pictures to blur, with a kernel each: strong blurs apart from the others, which need fewer taps."""
    reach = np.ceil(blur[:, 1] + blur[:, 2]).astype(int)
    for low, high in ((0, 3), (3, max(int(reach.max(initial=0)), 3))):
        chosen = (blur[:, 2] > 0) & (reach > low) & (reach <= high)
        if chosen.any():
            yield _rows(chosen, images), blur_kernels(_send(blur[chosen], images), high)


def blur_kernels(blur: Float[Tensor, "n 3"], reach: int) -> Float[Tensor, "n 1 taps taps"]:
    """A line of a direction and half-length for motion, a spot of a radius for defocus, in one kernel each."""
    angle, length, width = blur[:, :, None, None].unbind(1)
    line = torch.arange(-reach, reach + 1, device=blur.device, dtype=blur.dtype)
    y, x = line[:, None], line
    along, across = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    # The line's even part, and beyond its ends and to its sides the spot.
    past = (along.abs() - length).clamp(min=0)
    # A millionth shows nowhere, and numbers too small to be normal take a CPU ten times as long.
    kernels = F.threshold(torch.exp(-(past**2 + across**2) / width**2), 1e-6, 0.0)
    return (kernels / kernels.sum(dim=(1, 2), keepdim=True))[:, None]


def convolve(images: Images, kernels: Float[Tensor, "b 1 taps taps"]) -> Images:
    """Every picture with its own kernel; at the border its last pixels go on."""
    b, reach = len(images), kernels.shape[-1] // 2
    padded = F.pad(images, (reach, reach, reach, reach), mode="replicate").transpose(0, 1)
    return F.conv2d(padded, kernels, groups=b).transpose(0, 1)


def coarsen(images: Images, factor: float) -> Images:
    """There and back through so many times fewer pixels a side."""
    side = images.shape[-1]
    small = F.interpolate(images, size=(max(round(side / factor), 1),) * 2, mode="area")
    return F.interpolate(small, size=(side, side), mode="bilinear", align_corners=False)


def _noise(images: Images, how: Degradation, generator: torch.Generator) -> Images:
    noisy = how.noise > 0
    noise = torch.randn(images.shape, generator=generator, device=images.device)
    noise *= _send(how.noise[noisy], images)[:, None, None, None]
    # A camera without colour has one noise.
    grey = send(how.grey[noisy], images.device)[:, None, None, None]
    return torch.where(grey, noise[:, :1], noise)


def jpeg(images: Images, quality: Float[Tensor, " b"]) -> Images:
    """After strong compression: 8 x 8 blocks of cosines, rounded as JPEG does at a quality of 1 to 100; 0..255.

    Colour has as many pixels as light here, where cameras often halve it. Sides must be multiples of 8.
    """
    b, _, side, _ = images.shape
    flat = images.reshape(b, 3, side * side)
    ycc = (_send(_TO_YCC, images) @ flat).view(b, 3, side // 8, 8, side // 8, 8)
    ycc[:, 0] -= 128
    blocks = ycc.transpose(3, 4).reshape(b, 3, -1, 64)
    basis = _send(np.kron(_cosines(), _cosines()), images)  # rows: frequencies, columns: pixels
    quanta = _quanta(quality)[:, :, None]
    waves = (blocks @ basis.T / quanta).round_() * quanta
    ycc = (waves @ basis).view(b, 3, side // 8, side // 8, 8, 8).transpose(3, 4).reshape(b, 3, side * side)
    ycc[:, 0] += 128
    return (_send(_TO_RGB, images) @ ycc).clamp_(0, 255).view_as(images)


def _cosines() -> Float[np.ndarray, "8 8"]:
    """The orthonormal transform of eight pixels."""
    frequency, pixel = np.arange(8)[:, None], np.arange(8)
    waves = np.cos((2 * pixel + 1) * frequency * np.pi / 16) / 2
    waves[0] /= math.sqrt(2)
    return waves


def _quanta(quality: Float[Tensor, " b"]) -> Float[Tensor, "b 3 64"]:
    """How coarsely each frequency of luma and the two colours is kept: annex K, scaled as libjpeg does."""
    scale = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality)[:, None, None]
    table = _send(np.array([_QUANTA_LUMA, _QUANTA_CHROMA, _QUANTA_CHROMA]), quality)
    return ((table * scale + 50) / 100).floor().clamp_(1, 255)


def _rows(chosen: Bool[np.ndarray, " b"], images: Images) -> Int[Tensor, " n"]:
    """Their numbers: indexing by truth values would wait for the device."""
    return send(np.flatnonzero(chosen), images.device)


def _send(values: np.ndarray, like: Tensor) -> Tensor:
    return send(values, like.device, torch.float32)
