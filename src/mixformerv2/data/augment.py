"""What real cameras do to a picture, in batches on the tensor's device: light, colour, blur, low resolution, noise."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

Images = Float[Tensor, "b 3 side side"]  # 0..255

_LUMA = (0.299, 0.587, 0.114)


def uniform(generator: torch.Generator, low: float, high: float, *shape: int) -> Float[Tensor, "*shape"]:
    """Even numbers in [low, high) on the generator's device."""
    return torch.rand(*shape, generator=generator, device=generator.device) * (high - low) + low


def normal(generator: torch.Generator, deviation: float, *shape: int) -> Float[Tensor, "*shape"]:
    """Normal numbers of mean 0 on the generator's device."""
    return torch.randn(*shape, generator=generator, device=generator.device) * deviation


def chance(generator: torch.Generator, probability: float, *shape: int) -> Bool[Tensor, "*shape"]:
    return torch.rand(*shape, generator=generator, device=generator.device) < probability


def grey(images: Images, which: Bool[Tensor, "b"]) -> Images:
    """The chosen images without colour."""
    luma = (images * images.new_tensor(_LUMA).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)
    return torch.where(which.view(-1, 1, 1, 1), luma, images)


def degrade(images: Images, generator: torch.Generator) -> Images:
    """Each image under its own light, through its own poor camera; some stay as they are."""
    images = _colour(images, generator)
    images = _blur(images, generator)
    images = _low_resolution(images, generator)
    deviation = uniform(generator, 0, 12, len(images), 1, 1, 1) * chance(generator, 0.3, len(images), 1, 1, 1)
    return (images + deviation * normal(generator, 1.0, *images.shape)).clamp(0, 255)


def _colour(images: Images, generator: torch.Generator) -> Images:
    b = len(images)
    mean = images.mean(dim=(2, 3), keepdim=True).mean(dim=1, keepdim=True)
    luma = (images * images.new_tensor(_LUMA).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)
    saturation = (1 + normal(generator, 0.25, b, 1, 1, 1)).clamp(0, 2)
    contrast = normal(generator, 0.12, b, 1, 1, 1).exp()
    gain = normal(generator, 0.15, b, 1, 1, 1).exp() * normal(generator, 0.04, b, 3, 1, 1).exp()
    images = luma + (images - luma) * saturation
    return (((images - mean) * contrast + mean) * gain).clamp(0, 255)


def _blur(images: Images, generator: torch.Generator, probability: float = 0.3) -> Images:
    """A line of random direction and length for motion, a disc of one pixel for defocus, in one 7 x 7 kernel."""
    b = len(images)
    angle = uniform(generator, 0, torch.pi, b, 1, 1)
    length = uniform(generator, 0.0, 3.5, b, 1, 1)
    width = uniform(generator, 0.4, 1.0, b, 1, 1)
    line = torch.arange(-3.0, 4.0, device=images.device)
    y, x = torch.meshgrid(line, line, indexing="ij")
    along, across = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    kernel = torch.exp(-((along / (width + length)) ** 2) - (across / width) ** 2)
    kernel = kernel / kernel.sum(dim=(1, 2), keepdim=True)
    identity = torch.zeros_like(kernel[0])
    identity[3, 3] = 1
    kernel = torch.where(chance(generator, probability, b, 1, 1), kernel, identity)
    padded = F.pad(images, (3, 3, 3, 3), mode="replicate")
    stacked = padded.reshape(1, b * 3, *padded.shape[-2:])
    weights = kernel.repeat_interleave(3, dim=0)[:, None]
    return F.conv2d(stacked, weights, groups=b * 3).view_as(images)


def _low_resolution(images: Images, generator: torch.Generator, probability: float = 0.2) -> Images:
    """A round trip through half the pixels, as after strong compression."""
    half = F.interpolate(
        F.avg_pool2d(images, 2), size=images.shape[-2:], mode="bilinear", align_corners=False
    )
    return torch.where(chance(generator, probability, len(images), 1, 1, 1), half, images)
