"""Training examples: a template, an online template and a search crop of one target, with its box.

Stills become pairs by changing one object's geometry and light and by pasting it on other images; video gives pairs
of real frames. Everything is drawn in batches on the bank's device.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from mixformerv2.data import augment
from mixformerv2.data.augment import chance, normal, uniform
from mixformerv2.data.bank import ImageBank, Layer, Picked


class Batch(NamedTuple):
    """Examples for one step."""

    template: UInt8[Tensor, "b template_px template_px 3"]
    online: UInt8[Tensor, "b online template_px template_px 3"]
    search: UInt8[Tensor, "b search_px search_px 3"]
    box_unit: Float[Tensor, "b 4"]  # xyxy, fractions of the search crop; zeros where absent
    present: Bool[Tensor, "b"]  # is the template's target in the search crop?

    @staticmethod
    def join(batches: list[Batch]) -> Batch:
        return Batch(*(torch.cat(parts) for parts in zip(*batches, strict=True)))


@dataclass(frozen=True)
class PairConfig:
    """How far the views of one target differ."""

    search_factor: float = 4.5
    template_factor: float = 2.0
    search_px: int = 224
    template_px: int = 112
    centre_jitter: float = 1.3  # search centre off by at most so many target sides on each axis
    far_share: float = (
        0.5  # examples with that jitter; the others lie near the centre, as from frame to frame
    )
    scale_jitter: float = 0.3  # deviation of the log of the search scale
    aspect_jitter: float = 0.12  # deviation of the log of width over height, stills
    rotation_deg: float = 12.0  # deviation, stills
    absent_share: float = 0.12  # examples whose search crop lacks the target
    max_gap_frames: int = 100  # between template and search, video
    online_templates: int = 1  # 0 saves a third of the tokens at the start of a training

    def __post_init__(self) -> None:
        if self.online_templates < 0:
            raise ValueError(f"online_templates must not be negative, got {self.online_templates}")
        if not 0 <= self.absent_share < 1:
            raise ValueError(f"absent_share must be in [0, 1), got {self.absent_share}")


class Placement(NamedTuple):
    """Where a target comes to lie in a window, one row an example."""

    zoom: Float[Tensor, "b"]  # window px per image px
    offset: Float[Tensor, "b 2"]  # of the target's centre from the window's, window px
    rotation: Float[Tensor, "b"]  # radians
    aspect: Float[Tensor, "b"]  # log of the change of width over height
    flip: Bool[Tensor, "b"]


def still_pairs(bank: ImageBank, count: int, config: PairConfig, generator: torch.Generator) -> Batch:
    """Pairs from stills, half of them pasted on another image, most with another object as distractor or occluder."""
    index = _random_index(bank, count, generator)

    def further(reach: int) -> Int[Tensor, "b"]:
        steps = max(min(reach, len(bank)), 2)  # never round to the target itself
        return index + torch.randint(1, steps, (count,), generator=generator, device=bank.device)

    # Neighbours in the list come from one collection and often show the same kind of thing: hard distractors.
    other = torch.where(chance(generator, 0.5, count), further(12), further(len(bank))) % len(bank)
    background = bank.pick(_random_index(bank, count, generator))
    present = ~chance(generator, config.absent_share, count)
    pasted = chance(generator, 0.6, count)
    flip = chance(generator, 0.5, count)
    without_colour = chance(generator, 0.1, count)

    target, second = bank.pick(index), bank.pick(other)
    shown = bank.pick(torch.where(present, index, other))

    def scene(first: Picked, place: Placement, side_px: int, crowd: float) -> tuple[Tensor, Tensor]:
        behind = background.view(_cover(background, side_px, generator), side_px)
        own = first.view(_to_image(first, place, side_px), side_px)
        # Sometimes there is nothing outside the picture, as at the border of a frame.
        beyond = behind.rgb * (pasted | ~chance(generator, 0.25, count)).view(-1, 1, 1, 1)
        alpha = torch.where(pasted.view(-1, 1, 1, 1), own.mask, own.covered)
        rgb = _over(own.rgb, alpha, beyond)
        if crowd:
            target_px = place.zoom * first.target_side()
            rgb = _add_other(rgb, own, second, place, target_px, crowd, generator)
        return rgb, own.mask

    template, _ = scene(target, _place(target, config, "template", flip, generator), config.template_px, 0)
    online = [
        scene(target, _place(target, config, "online", flip, generator), config.template_px, 0.15)[0]
        for _ in range(config.online_templates)
    ]
    place = _place(shown, config, "search", flip, generator)
    search, mask = scene(shown, place, config.search_px, 0.7)
    box_unit, visible = boxes_of_masks(mask[:, 0])
    return _finish(template, online, search, without_colour, box_unit, present & visible, generator)


def video_pairs(bank: ImageBank, count: int, config: PairConfig, generator: torch.Generator) -> Batch:
    """Pairs of frames of one video within the maximum gap; frames without the target are never taken."""
    with_target = bank.boxes_frame.isfinite().all(dim=1)
    candidates = with_target.nonzero()[:, 0]
    first = candidates[_random_index(candidates, count, generator)]
    near = (candidates[None] - first[:, None]).abs() <= config.max_gap_frames

    def nearby() -> Int[Tensor, "b"]:
        return candidates[torch.multinomial(near.float(), 1, generator=generator)[:, 0]]

    second = [nearby() for _ in range(config.online_templates)]
    third = nearby()
    flip = chance(generator, 0.5, count)
    # The mask of a frame is its filled box: turning it would enlarge the label.
    upright = replace(config, rotation_deg=0.0, aspect_jitter=config.aspect_jitter / 2)

    def crop(index: Int[Tensor, "b"], role: str, side_px: int) -> Layer:
        picked = bank.pick(index)
        place = _place(picked, upright, role, flip, generator)
        return picked.view(_to_image(picked, place, side_px), side_px)

    template = crop(first, "template", config.template_px).rgb
    online = [crop(index, "online", config.template_px).rgb for index in second]
    search = crop(third, "search", config.search_px)
    box_unit, visible = boxes_of_masks(search.mask[:, 0])
    without_colour = chance(generator, 0.1, count)
    return _finish(template, online, search.rgb, without_colour, box_unit, visible, generator)


def boxes_of_masks(
    masks: Float[Tensor, "b side side"], threshold: float = 0.5
) -> tuple[Float[Tensor, "b 4"], Bool[Tensor, "b"]]:
    """The tight box of each mask as fractions of the crop, and whether there is one of at least 3 px a side."""
    side = masks.shape[-1]
    inside = masks > threshold
    edges = []
    for along in (inside.any(dim=1), inside.any(dim=2)):  # columns, rows
        first = along.float().argmax(dim=1)
        last = side - along.flip(1).float().argmax(dim=1)
        edges.append((first, last))
    (x1, x2), (y1, y2) = edges
    visible = inside.any(dim=2).any(dim=1) & (x2 - x1 >= 3) & (y2 - y1 >= 3)
    boxes = torch.stack([x1, y1, x2, y2], dim=1) / side
    return boxes * visible[:, None], visible


def _random_index(items: ImageBank | Tensor, count: int, generator: torch.Generator) -> Int[Tensor, "b"]:
    return torch.randint(0, len(items), (count,), generator=generator, device=items.device)


def _over(top: Tensor, alpha: Tensor, below: Tensor) -> Tensor:
    return top * alpha + below * (1 - alpha)


def _place(
    images: Picked,
    config: PairConfig,
    role: str,
    flip: Bool[Tensor, "b"],
    generator: torch.Generator,
) -> Placement:
    side = images.target_side()
    b = len(side)
    rotation = normal(generator, config.rotation_deg * torch.pi / 180, b)
    aspect = normal(generator, config.aspect_jitter, b)
    if role == "template":  # the user's box: exact and upright
        zoom = config.template_px / (config.template_factor * side)
        return Placement(zoom, torch.zeros(b, 2, device=side.device), 0 * rotation, 0 * aspect, flip)
    if role == "online":  # the tracker's own box: a little off
        target_px = config.template_px / config.template_factor * normal(generator, 0.1, b).exp()
        offset = normal(generator, 0.06, b, 2) * target_px[:, None]
        return Placement(target_px / side, offset, rotation, aspect, flip)
    target_px = config.search_px / config.search_factor * normal(generator, config.scale_jitter, b).exp()
    wide = uniform(generator, -config.centre_jitter, config.centre_jitter, b, 2)
    near = normal(generator, 0.25, b, 2)
    offset = torch.where(chance(generator, config.far_share, b, 1), wide, near)
    return Placement(target_px / side, offset * target_px[:, None], rotation, aspect, flip)


def _to_image(images: Picked, place: Placement, side_px: int) -> Float[Tensor, "b 2 3"]:
    """The affine map from window pixels to image pixels that puts each box where ``place`` says."""
    box = images.boxes_frame
    centre = (box[:, :2] + box[:, 2:]) / 2
    cos, sin = place.rotation.cos(), place.rotation.sin()
    stretch = (place.aspect / 2).exp()
    mirror = 1 - 2 * place.flip.float()
    x_scale, y_scale = mirror / (place.zoom * stretch), stretch / place.zoom
    turn = torch.stack(
        [
            torch.stack([cos * x_scale, -sin * y_scale], dim=1),
            torch.stack([sin * x_scale, cos * y_scale], dim=1),
        ],
        dim=1,
    )
    at = side_px / 2 + place.offset
    shift = centre - (turn @ at[:, :, None])[:, :, 0]
    return torch.cat([turn, shift[:, :, None]], dim=2)


def _cover(images: Picked, side_px: int, generator: torch.Generator) -> Float[Tensor, "b 2 3"]:
    """A random part of each image, enlarged where needed, that fills the whole window."""
    size = images.sizes
    extent = size.min(dim=1).values * uniform(generator, 0.5, 1.0, len(size))  # image px across the window
    scale = extent / side_px
    start = (size - extent[:, None]) * uniform(generator, 0, 1, len(size), 2)
    zero = torch.zeros_like(scale)
    rows = [torch.stack([scale, zero, start[:, 0]], dim=1), torch.stack([zero, scale, start[:, 1]], dim=1)]
    return torch.stack(rows, dim=1)


def _add_other(
    rgb: Float[Tensor, "b 3 side side"],
    own: Layer,
    other: Picked,
    place: Placement,
    target_px: Float[Tensor, "b"],
    probability: float,
    generator: torch.Generator,
) -> Float[Tensor, "b 3 side side"]:
    """A second object of about the target's size: behind the target as a distractor, or in front of it."""
    b = len(rgb)
    zoom = target_px / other.target_side() * normal(generator, 0.25, b).exp()
    angle = uniform(generator, 0, 2 * torch.pi, b)
    in_front = chance(generator, 0.3, b)
    distance = torch.where(in_front, uniform(generator, 0.4, 0.9, b), uniform(generator, 0.7, 2.2, b))
    away = torch.stack([angle.cos(), angle.sin()], dim=1) * (distance * target_px)[:, None]
    there = Placement(zoom, place.offset + away, place.rotation, place.aspect, chance(generator, 0.5, b))
    layer = other.view(_to_image(other, there, rgb.shape[-1]), rgb.shape[-1])
    alpha = layer.mask * chance(generator, probability, b).view(-1, 1, 1, 1)
    alpha = torch.where(in_front.view(-1, 1, 1, 1), alpha, alpha * (1 - own.mask))
    return _over(layer.rgb, alpha, rgb)


def _finish(
    template: Float[Tensor, "b 3 template_px template_px"],
    online: list[Float[Tensor, "b 3 template_px template_px"]],
    search: Float[Tensor, "b 3 search_px search_px"],
    without_colour: Bool[Tensor, "b"],
    box_unit: Float[Tensor, "b 4"],
    present: Bool[Tensor, "b"],
    generator: torch.Generator,
) -> Batch:
    """Every crop degraded on its own and rounded to pixels."""

    def pixels(images: Float[Tensor, "b 3 side side"]) -> UInt8[Tensor, "b side side 3"]:
        images = augment.grey(augment.degrade(images, generator), without_colour)
        return images.permute(0, 2, 3, 1).round().to(torch.uint8)

    box_unit = box_unit * present[:, None]
    first = pixels(template)
    others = torch.stack([pixels(images) for images in online], dim=1) if online else first[:, None][:, :0]
    return Batch(first, others, pixels(search), box_unit, present)
