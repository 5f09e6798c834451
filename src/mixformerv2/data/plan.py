"""Which training examples are asked for, and what was drawn of them: everything but the pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

TARGET, OTHER, BEHIND = range(3)
"""Layers of a scene: the target in its picture, a second object, and the picture behind or beyond."""


@dataclass(frozen=True)
class SampleConfig:
    """Which examples are made, and how often."""

    weights: Mapping[str, float] = field(default_factory=dict)
    """dataset -> its part of the examples; they need not add up to one; without any, all datasets count the same"""
    max_gap_frames: int = 100
    """between the template and any other frame"""
    mode: str = "symmetric"
    """"symmetric": frames in any order; "causal": template, online templates, search in the order of time"""
    held_out: tuple[str, ...] = ()
    """sequences, by name, that no example is drawn from: they are for measuring"""
    online_templates: int = 1
    """0 saves a third of the tokens at the start of a training"""
    min_side_px: float = 6.0
    """square root of the area of the smallest target worth looking at"""
    absent_share: float = 0.12
    """examples whose search crop lacks the target"""
    other_sequence_share: float = 0.5
    """of those, the ones that show another target although the sequence has frames without its own"""
    away_share: float = 0.0
    """of the examples from video that show the target, those whose search window then moves so far that it is out of
    sight: what lies around it is not it. Stills end too soon for that"""
    neighbour_share: float = 0.5
    """other objects taken from nearby in the dataset's list, where they are often of one kind: hard to tell apart"""
    neighbours: int = 12
    """how far that is"""
    paste_share: float = 0.6
    """segmented objects moved to another picture"""
    beyond_share: float = 0.75
    """segmented objects in their own picture that ends in another one, not in black"""
    crowd_search_share: float = 0.7
    """search crops with a second object, where targets are segmented"""
    crowd_online_share: float = 0.15
    """online templates likewise"""
    occluder_share: float = 0.3
    """second objects in front of the target"""
    part_share: float = 0.0
    """segmented stills of which a rectangle is the target, not the object: what to follow is up to the template, and
    no outline tells it"""

    def __post_init__(self) -> None:
        weights = list(self.weights.values())
        valid = all(math.isfinite(weight) and weight >= 0 for weight in weights)
        if not valid or (weights and not sum(weights) > 0):
            raise ValueError(
                "weights must map datasets to numbers that are not negative, one of them positive, "
                f"got {dict(self.weights)}"
            )
        if self.mode not in ("symmetric", "causal"):
            raise ValueError(f"mode must be 'symmetric' or 'causal', got {self.mode!r}")
        for name in ("max_gap_frames", "online_templates", "min_side_px"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not 0 <= self.absent_share < 1:
            raise ValueError(f"absent_share must be in [0, 1), got {self.absent_share}")
        if self.neighbours < 1:
            raise ValueError(f"neighbours must be at least 1, got {self.neighbours}")
        for name in (
            *("other_sequence_share", "away_share", "neighbour_share", "paste_share", "beyond_share"),
            *("crowd_search_share", "crowd_online_share", "occluder_share", "part_share"),
        ):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")


class Plan(NamedTuple):
    """What examples show. Scenes are the template, the online templates, and last the search region."""

    frames: Int[np.ndarray, "b scenes 3 3"]  # of each layer: dataset, sequence, frame
    to_frame: Float[np.ndarray, "b scenes 3 2 3"]  # unit window -> frame px; of BEHIND for `part_to_frame`
    used: Bool[np.ndarray, "b scenes 3"]  # is the layer seen at all?
    pasted: Bool[np.ndarray, "b scenes"]  # of TARGET only the object, BEHIND around it
    in_front: Bool[np.ndarray, "b scenes"]  # OTHER hides the target, not the target it
    part_frame: Float[np.ndarray, "b scenes 4"]  # the target, if it is but a rectangle of TARGET; else zeros
    box_frame: Float[
        np.ndarray, "b 4"
    ]  # of the target in the search region, where it has no outline; else zeros
    bend_unit: Float[np.ndarray, "b scenes"]  # deviation of the shifts that bend the scene; 0: none
    present: Bool[np.ndarray, " b"]  # is the template's target what TARGET shows in the search region?
