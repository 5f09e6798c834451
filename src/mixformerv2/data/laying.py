"""Where what appears in training examples comes to lie in their windows."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from mixformerv2.data.plan import BEHIND, OTHER, TARGET, Plan, SampleConfig
from mixformerv2.data.sequence import Sequence
from mixformerv2.data.views import (
    MAX_BEND_UNIT,
    ViewConfig,
    place_online,
    place_search,
    place_template,
    random_parts,
)

_SMALLEST_PART = 0.25  # of the object's sides


class Known(NamedTuple):
    """A sequence as far as sampling needs it."""

    dataset: int
    number: int
    sequence: Sequence
    visible: Int[np.ndarray, " visible"]  # frames to take the target from
    absent: Int[np.ndarray, " absent"]  # frames that lack it

    @property
    def segmented(self) -> bool:
        return self.sequence.masks is not None


class Look(NamedTuple):
    """A frame, and the box by which its window is laid."""

    known: Known
    frame: int
    box_frame: Float[np.ndarray, " 4"]

    @property
    def reference(self) -> tuple[int, int, int]:
        return self.known.dataset, self.known.number, self.frame


class Cast(NamedTuple):
    """What appears in one example."""

    targets: list[Look]  # scene by scene
    present: bool
    other: Look | None
    behind: Look | None


def lay(casts: list[Cast], config: SampleConfig, views: ViewConfig, rng: np.random.Generator) -> Plan:
    """The scenes of each example, the template first and the search region last, and how they show its cast."""
    b, scenes = len(casts), config.online_templates + 2
    frames = np.full((b, scenes, 3, 3), -1, np.int64)
    boxes = np.tile([0.0, 0.0, 1.0, 1.0], (b, scenes, 2, 1))
    segmented = np.zeros((b, scenes), bool)
    for row, cast in enumerate(casts):
        for scene, target in enumerate(cast.targets):
            frames[row, scene, TARGET], boxes[row, scene, TARGET] = target.reference, target.box_frame
            segmented[row, scene] = target.known.segmented
        if cast.other:
            frames[row, :, OTHER], boxes[row, :, OTHER] = cast.other.reference, cast.other.box_frame
        if cast.behind:
            frames[row, :, BEHIND] = cast.behind.reference
    part_frame = _parts(casts, boxes[..., TARGET, :], config.part_share, rng)
    is_part = part_frame[..., 2] > 0
    boxes[..., TARGET, :] = np.where(is_part[..., None], part_frame, boxes[..., TARGET, :])
    outlined = segmented & ~is_part
    there = frames[..., 0] >= 0
    pasted = outlined & there[..., BEHIND] & (rng.random((b, 1)) < config.paste_share)
    beyond = rng.random((b, scenes)) < config.beyond_share
    crowd = np.array([0.0] + [config.crowd_online_share] * (scenes - 2) + [config.crowd_search_share])
    used = np.ones((b, scenes, 3), bool)
    used[..., OTHER] = there[..., OTHER] & segmented & (rng.random((b, scenes)) < crowd)
    used[..., BEHIND] = there[..., BEHIND] & segmented & (pasted | beyond)
    in_front = rng.random((b, scenes)) < config.occluder_share
    present = np.array([cast.present for cast in casts], bool)
    moving = np.array([len(cast.targets[0].known.sequence) > 1 for cast in casts], bool)
    away = present & moving & (rng.random(b) < config.away_share)
    to_frame, side_unit = _windows(boxes, outlined, in_front, away, views, rng)
    bent = outlined & (rng.random((b, scenes)) < views.bend_share) & (np.arange(scenes) > 0)
    bend_unit = np.minimum(rng.uniform(0, views.bend, (b, scenes)) * side_unit, MAX_BEND_UNIT) * bent
    box_frame = np.where(outlined[:, -1:], 0.0, boxes[:, -1, TARGET])
    return Plan(frames, to_frame, used, pasted, in_front, part_frame, box_frame, bend_unit, present & ~away)


def _parts(
    casts: list[Cast], boxes: Float[np.ndarray, "b scenes 4"], share: float, rng: np.random.Generator
) -> Float[np.ndarray, "b scenes 4"]:
    """Of some stills a rectangle within the object's box, the same in all scenes; of the others zeros."""
    chosen = np.flatnonzero(rng.random(len(casts)) < share)
    parts = np.zeros(boxes.shape)
    for row in chosen:
        targets = casts[row].targets
        if targets[0].known.segmented and len({target.reference for target in targets}) == 1:
            low, high = np.split(boxes[row, 0], 2)
            sides = (high - low) * np.exp(rng.uniform(math.log(_SMALLEST_PART), 0, 2))
            corner = low + rng.random(2) * (high - low - sides)
            parts[row] = np.concatenate([corner, corner + sides])
    return parts


def _windows(
    boxes: Float[np.ndarray, "b scenes 2 4"],
    outlined: Bool[np.ndarray, "b scenes"],
    in_front: Bool[np.ndarray, "b scenes"],
    away: Bool[np.ndarray, " b"],
    views: ViewConfig,
    rng: np.random.Generator,
) -> tuple[Float[np.ndarray, "b scenes 3 2 3"], Float[np.ndarray, "b scenes"]]:
    """How the layers lie, and the targets' sides as fractions of the windows'."""
    b, scenes = outlined.shape
    flip = np.asarray(rng.random(b) < views.flip_share)
    shape = rng.normal(0, views.shape_jitter, b)
    to_frame, side_unit = np.zeros((b, scenes, 3, 2, 3)), np.zeros((b, scenes))
    for scene in range(scenes):
        if scene == 0:
            place = place_template(views, flip)
        elif scene < scenes - 1:
            place = place_online(views, flip, outlined[:, scene], rng)
        else:
            place = place_search(views, flip, outlined[:, scene], rng)
        place = place._replace(aspect=place.aspect + shape)
        beside = place.beside(rng, in_front[:, scene])
        if scene == scenes - 1:
            place = place.moved_out(away, boxes[:, scene, TARGET], rng)
        side_unit[:, scene] = place.side_unit
        to_frame[:, scene, TARGET] = place.to_frame(boxes[:, scene, TARGET])
        to_frame[:, scene, OTHER] = beside.to_frame(boxes[:, scene, OTHER])
        to_frame[:, scene, BEHIND] = random_parts(b, rng)
    return to_frame, side_unit
