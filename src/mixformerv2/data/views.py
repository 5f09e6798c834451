"""Where a target comes to lie in the windows of an example: placements drawn, and the affine maps they give.

A window is a unit square, so that a placement holds for crops of any resolution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

BEND_NODES = 6
"""points along a side of a window that are shifted where a target changes its form, a smooth surface between"""
MAX_BEND_UNIT = 0.15 / (BEND_NODES - 1)
"""deviation of those shifts, fractions of the window, at which less than a twentieth of the pictures fold anywhere"""


@dataclass(frozen=True)
class ViewConfig:
    """How far the views of one target differ. Sides are square roots of areas."""

    search_factor: float = 4.5
    """side of the search window over the target's"""
    template_factor: float = 2.0
    """side of the template window over the target's"""
    centre_jitter: float = 1.3
    """search centre off by at most so many target sides on each axis"""
    jitter_grows: bool = False
    """whether that is counted in sides as jittered, so that a window off in scale is off in place by as much more, and
    what lies within half the search factor stays in the window: the released code's rule"""
    far_share: float = 0.5
    """examples with that jitter; the others lie near the centre, as from frame to frame"""
    near_deviation: float = 0.25
    """of the centre of those others, target sides"""
    scale_jitter: float = 0.3
    """deviation of the log of the search scale"""
    aspect_jitter: float = 0.12
    """deviation of the log of width over height; half of it where there is only a box"""
    shape_jitter: float = 0.0
    """deviation of the log of width over height of the target itself, in all its views alike: else a network takes
    the shapes that are frequent in its training for everything's"""
    rotation_deg: float = 12.0
    """deviation; none where there is only a box, which would grow by turning"""
    bend_share: float = 0.0
    """online templates and search crops in which the target changes its form, where its outline is known"""
    bend: float = 0.1
    """largest deviation of the shifts of points a fifth of the window apart, target sides; of large targets a smaller
    one, at which pictures do not fold yet"""
    online_scale_jitter: float = 0.1
    """deviation of the log of the online template's scale: the tracker's own box is a little off"""
    online_deviation: float = 0.06
    """of the online template's centre, target sides"""
    online_aspect_jitter: float = 0.1
    """deviation of the log of width over height of the box that an online template marks, where templates do"""
    flip_share: float = 0.5
    """examples seen in a mirror, all their views alike"""

    def __post_init__(self) -> None:
        for name in ("search_factor", "template_factor"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in (
            *("centre_jitter", "near_deviation", "scale_jitter", "aspect_jitter", "rotation_deg"),
            *("shape_jitter", "online_scale_jitter", "online_deviation", "online_aspect_jitter", "bend"),
        ):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("far_share", "flip_share", "bend_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")


class Placement(NamedTuple):
    """How a target lies in a window, one row an example."""

    side_unit: Float[np.ndarray, " b"]  # of the target
    centre_unit: Float[np.ndarray, "b 2"]  # of the target
    rotation: Float[np.ndarray, " b"]  # radians
    aspect: Float[np.ndarray, " b"]  # log of the change of width over height
    flip: Bool[np.ndarray, " b"]

    def to_frame(self, box_frame: Float[np.ndarray, "b 4"]) -> Float[np.ndarray, "b 2 3"]:
        """The affine map from the unit window to frame px that puts each box where the placement says."""
        centre = (box_frame[:, :2] + box_frame[:, 2:]) / 2
        px = np.sqrt((box_frame[:, 2:] - box_frame[:, :2]).prod(axis=1)) / self.side_unit  # of the window
        stretch = np.exp(self.aspect / 2)
        x_scale, y_scale = np.where(self.flip, -px, px) / stretch, px * stretch
        cos, sin = np.cos(self.rotation), np.sin(self.rotation)
        turn = np.stack([cos * x_scale, -sin * y_scale, sin * x_scale, cos * y_scale], axis=1)
        turn = turn.reshape(-1, 2, 2)
        shift = centre - (turn @ self.centre_unit[:, :, None])[:, :, 0]
        return np.concatenate([turn, shift[:, :, None]], axis=2)

    def moved_out(
        self, which: Bool[np.ndarray, " b"], box_frame: Float[np.ndarray, "b 4"], rng: np.random.Generator
    ) -> Placement:
        """Some windows moved aside so far that nothing of the target's box is in them, however it is turned."""
        b = len(which)
        width, height = (box_frame[:, 2:] - box_frame[:, :2]).T
        diagonal = self.side_unit * np.hypot(width, height) / np.sqrt(width * height)
        reach = diagonal / 2 * np.exp(np.abs(self.aspect) / 2)
        offset = rng.uniform(-1, 1, (b, 2))
        offset[np.arange(b), rng.integers(2, size=b)] = rng.choice([-1, 1], b) * (
            0.5 + reach + rng.uniform(0, 0.7, b)
        )
        return self._replace(centre_unit=np.where(which[:, None], 0.5 + offset, self.centre_unit))

    def beside(self, rng: np.random.Generator, in_front: Bool[np.ndarray, " b"]) -> Placement:
        """A second object of about the target's size: close enough to hide it in part, or further away."""
        b = len(self.flip)
        angle = rng.uniform(0, 2 * np.pi, b)
        distance = np.where(in_front, rng.uniform(0.4, 0.9, b), rng.uniform(0.7, 2.2, b)) * self.side_unit
        away = distance[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        side_unit = self.side_unit * np.exp(rng.normal(0, 0.25, b))
        return Placement(side_unit, self.centre_unit + away, self.rotation, self.aspect, rng.random(b) < 0.5)


def place_template(views: ViewConfig, flip: Bool[np.ndarray, " b"]) -> Placement:
    """As a person's box shows it: exact and upright."""
    b = len(flip)
    return Placement(
        np.full(b, 1 / views.template_factor), np.full((b, 2), 0.5), np.zeros(b), np.zeros(b), flip
    )


def place_online(
    views: ViewConfig,
    flip: Bool[np.ndarray, " b"],
    segmented: Bool[np.ndarray, " b"],
    rng: np.random.Generator,
) -> Placement:
    """As the tracker's own box shows it: a little off."""
    side_unit = np.exp(rng.normal(0, views.online_scale_jitter, len(flip))) / views.template_factor
    offset = rng.normal(0, views.online_deviation, (len(flip), 2))
    return _off(views, side_unit, offset, flip, segmented, rng)


def place_search(
    views: ViewConfig,
    flip: Bool[np.ndarray, " b"],
    segmented: Bool[np.ndarray, " b"],
    rng: np.random.Generator,
) -> Placement:
    """Anywhere in the window, or near its middle as from frame to frame."""
    b = len(flip)
    scale = np.exp(rng.normal(0, views.scale_jitter, b))
    side_unit = scale / views.search_factor
    far = rng.random((b, 1)) < views.far_share
    wide = rng.uniform(-views.centre_jitter, views.centre_jitter, (b, 2))
    if views.jitter_grows:
        wide /= scale[:, None]
    offset = np.where(far, wide, rng.normal(0, views.near_deviation, (b, 2)))
    return _off(views, side_unit, offset, flip, segmented, rng)


def _off(
    views: ViewConfig,
    side_unit: Float[np.ndarray, " b"],
    offset: Float[np.ndarray, "b 2"],
    flip: Bool[np.ndarray, " b"],
    segmented: Bool[np.ndarray, " b"],
    rng: np.random.Generator,
) -> Placement:
    """`offset` in target sides; turned and stretched as far as the target's outline is known."""
    rotation = rng.normal(0, np.deg2rad(views.rotation_deg), len(flip)) * segmented
    aspect = rng.normal(0, views.aspect_jitter, len(flip)) * np.where(segmented, 1.0, 0.5)
    return Placement(side_unit, 0.5 + offset * side_unit[:, None], rotation, aspect, flip)


def random_parts(count: int, rng: np.random.Generator) -> Float[np.ndarray, "b 2 3"]:
    """Square parts of pictures of any size for `part_to_frame`, at least half as wide as the shorter side."""
    extent, start = rng.uniform(0.5, 1.0, count), rng.random((count, 2))
    parts = np.zeros((count, 2, 3))
    parts[:, 0, 0] = parts[:, 1, 1] = extent
    parts[:, :, 2] = start
    return parts


def part_to_frame(
    part: Float[np.ndarray, "*b 2 3"], frame_size: Int[np.ndarray, "*b 2"]
) -> Float[np.ndarray, "*b 2 3"]:
    """The map from the unit window to frame px. `part` has its side as a fraction of the frame's shorter one, and
    where it begins as a fraction of the room that leaves; `frame_size` is width, height.
    """
    turn = part[..., :2] * frame_size.min(axis=-1)[..., None, None]
    room = frame_size - turn.sum(axis=-1)
    return np.concatenate([turn, (part[..., 2] * room)[..., None]], axis=-1)
