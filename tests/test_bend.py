"""Pictures warped smoothly: by how much, and that what is known of them goes along."""

from __future__ import annotations

import numpy as np
import torch

from mixformerv2.data.bend import bend
from mixformerv2.data.views import MAX_BEND_UNIT

SIDE = 48


def ramps(count: int) -> torch.Tensor:
    """Planes that say where each pixel came from, column and row, fractions of the side."""
    at = (torch.arange(SIDE) + 0.5) / SIDE
    return torch.stack([at.expand(SIDE, SIDE), at[:, None].expand(SIDE, SIDE)]).repeat(count, 1, 1, 1)


def test_an_image_that_is_not_to_bend_stays_as_it_is() -> None:
    images = torch.rand(3, 4, SIDE, SIDE)
    bent = bend(images, np.array([0.0, 0.05, 0.0]), np.random.default_rng(0))
    assert torch.equal(bent[[0, 2]], images[[0, 2]])
    assert not torch.equal(bent[1], images[1])
    assert bend(images, np.zeros(3), np.random.default_rng(0)) is images


def test_points_come_from_as_far_off_as_asked_and_neighbours_from_neighbours() -> None:
    deviation = np.repeat([0.01, 0.04], 200)
    images = ramps(400)
    shifts = (bend(images, deviation, np.random.default_rng(0)) - images)[..., 8:-8, 8:-8]
    small, large = shifts[:200].std(), shifts[200:].std()
    # Between the nodes, which are shifted by as much as asked, the surface is flatter than at them.
    assert 0.7 < small / 0.01 < 1.0 and 3.8 < large / small < 4.2
    assert abs(shifts.mean()) < 0.1 * small
    step = (shifts[..., 1:] - shifts[..., :-1]).std()
    assert step < 0.25 * shifts.std()  # smooth: a node is SIDE / 5 px from the next


def test_all_planes_of_an_image_bend_alike() -> None:
    images = torch.rand(2, 1, SIDE, SIDE).repeat(1, 4, 1, 1)
    bent = bend(images, np.full(2, 0.06), np.random.default_rng(0))
    assert torch.equal(bent, bent[:, :1].expand_as(bent))
    assert not torch.allclose(bent[0, 0] - images[0, 0], bent[1, 0] - images[1, 0])


def test_beyond_an_edge_the_last_pixels_go_on() -> None:
    images = ramps(50)
    bent = bend(images, np.full(50, 0.2), np.random.default_rng(0))
    assert bent.min() == images.min() and bent.max() == images.max()


def test_the_same_generator_bends_alike() -> None:
    images, deviation = ramps(2), np.full(2, 0.05)
    first, second, other = (bend(images, deviation, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, second) and not torch.equal(first, other)


def test_at_the_largest_deviation_next_to_nothing_folds() -> None:
    count = 300
    from_unit = bend(ramps(count), np.full(count, MAX_BEND_UNIT), np.random.default_rng(0))[..., 4:-4, 4:-4]
    right, down = (from_unit.diff(dim=axis) * SIDE for axis in (-1, -2))
    right, down = right[..., :-1, :], down[..., :-1]
    turned = right[:, 0] * down[:, 1] - right[:, 1] * down[:, 0] <= 0
    assert turned.flatten(1).any(dim=1).float().mean() < 0.1 and turned.float().mean() < 1e-3
