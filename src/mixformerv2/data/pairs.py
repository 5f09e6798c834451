"""Training examples: a template, online templates and a search crop of one target, with its box.

Drawn in batches on a device from what a plan's windows show: objects in their own picture or pasted on another, with a
second object behind or in front of them, and degraded as by real cameras.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped, UInt8
from torch import Tensor

from mixformerv2.data import augment
from mixformerv2.data.augment import DegradeConfig
from mixformerv2.data.bank import inside_box, send
from mixformerv2.data.bend import bend
from mixformerv2.data.plan import BEHIND, OTHER, TARGET, Plan


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


class Seen(NamedTuple):
    """What the used windows of a plan show, in the order of `plan.used`: red, green, blue, and mask up to 255."""

    templates: UInt8[Tensor, "n template_px template_px 4"]  # of all scenes but the last
    search: UInt8[Tensor, "m search_px search_px 4"]
    frame_sizes: Int[np.ndarray, "b scenes 3 2"]  # width, height; of used layers


class _Scenes(NamedTuple):
    """Scenes of one resolution, one row a scene."""

    windows: UInt8[Tensor, "n side side 4"]
    used: Bool[np.ndarray, "m 3"]
    to_frame: Float[np.ndarray, "m 3 2 3"]
    frame_sizes: Int[np.ndarray, "m 3 2"]
    pasted: Bool[np.ndarray, " m"]
    in_front: Bool[np.ndarray, " m"]
    part_frame: Float[np.ndarray, "m 4"]


class Marking(NamedTuple):
    """How templates show which box is meant."""

    brightness: float  # of what lies around it
    side_unit: float  # of the box that a template's window was laid around; sides are square roots of areas
    aspect_jitter: float  # deviation of the log of width over height of that box in online templates


@torch.no_grad()
def compose(
    plan: Plan,
    seen: Seen,
    config: DegradeConfig,
    rng: np.random.Generator,
    generator: torch.Generator,
    marking: Marking | None = None,
) -> Batch:
    """The planned examples on the device of `seen` and `generator`, which draws the noise.

    `marking` is for networks whose templates are darker around their boxes.
    """
    # Bytes have more steps than a half-precision number, should the caller work in such.
    with torch.autocast(seen.search.device.type, enabled=False):
        return _compose(plan, seen, config, rng, generator, marking)


def _compose(
    plan: Plan,
    seen: Seen,
    config: DegradeConfig,
    rng: np.random.Generator,
    generator: torch.Generator,
    marking: Marking | None,
) -> Batch:
    b, scenes = plan.pasted.shape
    grey = rng.random(b) < config.grey_share

    def drawn(which: slice, windows: Tensor) -> tuple[Tensor, Tensor]:
        parts = (plan.used, plan.to_frame, seen.frame_sizes, plan.pasted, plan.in_front, plan.part_frame)
        rgb, mask = _draw(_Scenes(windows, *(_flat(part[:, which]) for part in parts)))
        shown = bend(torch.cat([rgb, mask[:, None]], dim=1), _flat(plan.bend_unit[:, which]), rng)
        rgb, mask = shown[:, :3], shown[:, 3]
        how = augment.draw(np.repeat(grey, len(rgb) // b), config, rng)
        rgb = augment.degrade(rgb, how, generator)
        return rgb.round_().to(torch.uint8).permute(0, 2, 3, 1).contiguous(), mask

    templates, masks = drawn(slice(0, scenes - 1), seen.templates)
    search, mask = drawn(slice(scenes - 1, scenes), seen.search)
    if marking is not None:
        templates = _marked(templates, masks, np.arange(len(masks)) % (scenes - 1) > 0, marking, rng)
    templates = templates.reshape(b, scenes - 1, *templates.shape[1:])
    box_unit, visible = boxes_of_masks(mask)
    known_unit, known = _known_boxes(plan, seen.frame_sizes[:, -1, TARGET])
    box_unit = torch.where(
        send(known, box_unit.device)[:, None], send(known_unit, box_unit.device, torch.float32), box_unit
    )
    present = visible & send(plan.present, visible.device)
    box_unit = box_unit * present[:, None]
    return Batch(templates[:, 0].contiguous(), templates[:, 1:].contiguous(), search, box_unit, present)


def _marked(
    templates: UInt8[Tensor, "n side side 3"],
    masks: Float[Tensor, "n side side"],
    online: Bool[np.ndarray, " n"],
    marking: Marking,
    rng: np.random.Generator,
) -> UInt8[Tensor, "n side side 3"]:
    """Templates that are darker around their boxes; one that shows nothing of its target stays as it is.

    An online template marks what a tracker does: the box that its window was laid around, right or wrong.
    """
    boxes, visible = boxes_of_masks(masks)
    off = send(rng.normal(0, marking.aspect_jitter, len(masks)), boxes.device, torch.float32)
    width, height = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-6).unbind(1)
    stretch = torch.exp((torch.log(width / height) + off) / 2)
    half = torch.stack([stretch, 1 / stretch], dim=1) * marking.side_unit / 2
    laid = torch.cat([0.5 - half, 0.5 + half], dim=1)
    boxes = torch.where(send(online, boxes.device)[:, None], laid, boxes)
    whole = torch.eye(2, 3, device=boxes.device).expand(len(boxes), 2, 3)
    bright = inside_box(whole, boxes, masks.shape[-1]) | ~visible[:, None, None]
    dimmed = (templates * marking.brightness).round_().to(torch.uint8)
    return torch.where(bright[..., None], templates, dimmed)


def _flat(part: Shaped[np.ndarray, "b scenes *rest"]) -> Shaped[np.ndarray, "m *rest"]:
    """One row a scene."""
    return part.reshape(-1, *part.shape[2:])


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


def _known_boxes(
    plan: Plan, frame_sizes: Int[np.ndarray, "b 2"]
) -> tuple[Float[np.ndarray, "b 4"], Bool[np.ndarray, " b"]]:
    """Targets without an outline, as fractions of the search crops, and which are such: those of masks are whole pixels
    of the crop, which is up to a tenth of a small target's area.
    """
    low, high = (np.clip(plan.box_frame[:, of], 0, frame_sizes) for of in (slice(0, 2), slice(2, 4)))
    corners = np.stack(
        [low, high, np.stack([low[:, 0], high[:, 1]], 1), np.stack([high[:, 0], low[:, 1]], 1)], 1
    )
    affine = plan.to_frame[:, -1, TARGET]
    corners_unit = np.linalg.solve(affine[:, None, :, :2], (corners - affine[:, None, :, 2])[..., None])[
        ..., 0
    ]
    box_unit = np.concatenate([corners_unit.min(axis=1), corners_unit.max(axis=1)], axis=1)
    return np.clip(box_unit, 0, 1), plan.box_frame[:, 2] > plan.box_frame[:, 0]


def _draw(scenes: _Scenes) -> tuple[Float[Tensor, "m 3 side side"], Float[Tensor, "m side side"]]:
    """The layers of each scene one over the other, and the target's mask."""
    device = scenes.windows.device
    target = _layer(scenes, TARGET)
    pasted = send(scenes.pasted, device)[:, None, None, None]
    alpha = torch.where(pasted, target.mask, target.inside)
    rgb = target.rgb * alpha
    if scenes.used[:, BEHIND].any():
        behind = _layer(scenes, BEHIND)
        rgb[behind.rows] += behind.rgb * (1 - alpha[behind.rows])
    if scenes.used[:, OTHER].any():
        other = _layer(scenes, OTHER)
        front = send(scenes.in_front[scenes.used[:, OTHER]], device)[:, None, None, None]
        alpha = other.mask * (1 - target.mask[other.rows] * ~front)
        rgb[other.rows] = torch.lerp(rgb[other.rows], other.rgb, alpha)
    return rgb, target.mask[:, 0]


class _Layer(NamedTuple):
    """One layer of the scenes that use it."""

    rows: Int[Tensor, " n"]  # scenes
    rgb: Float[Tensor, "n 3 side side"]  # 0..255
    mask: Float[Tensor, "n 1 side side"]  # 1 on the object
    inside: Float[Tensor, "n 1 side side"]  # 1 where there is a picture at all


def _layer(scenes: _Scenes, layer: int) -> _Layer:
    windows, used, device = scenes.windows, scenes.used, scenes.windows.device
    order = (np.cumsum(used) - 1).reshape(used.shape)
    rows = np.flatnonzero(used[:, layer])

    rgbm = windows[send(order[rows, layer], device)].permute(0, 3, 1, 2).contiguous().float()
    inside = torch.ones_like(rgbm[:, :1])
    if layer != BEHIND:  # which fills its window
        affine, sizes = (
            send(part[rows, layer], device, torch.float32) for part in (scenes.to_frame, scenes.frame_sizes)
        )
        frame = torch.cat([torch.zeros_like(sizes), sizes], dim=1)
        inside = inside_box(affine, frame, windows.shape[1])[:, None].float()
    return _Layer(send(rows, device), rgbm[:, :3], _mask(scenes, layer, rows, rgbm) * inside, inside)


def _mask(
    scenes: _Scenes, layer: int, rows: Int[np.ndarray, " n"], rgbm: Float[Tensor, "n 4 side side"]
) -> Float[Tensor, "n 1 side side"]:
    """The object's own, or a rectangle where the target is a part of it."""
    mask = rgbm[:, 3:] / 255
    parts = np.flatnonzero((scenes.part_frame[rows, 2] > 0) & (layer == TARGET))
    if len(parts):
        affine, boxes = (
            send(values[rows[parts]], mask.device, torch.float32)
            for values in (scenes.to_frame[:, layer], scenes.part_frame)
        )
        mask[send(parts, mask.device)] = inside_box(affine, boxes, mask.shape[-1])[:, None].float()
    return mask
