"""Where a tracker lost its target, and which frames show it best; from the overlaps alone."""

from __future__ import annotations

from collections.abc import Sequence as ReadOnlySequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

LOST_BELOW = 0.2
"""Overlap under which the box is hardly on the target any more."""
JOINED_FRAMES = 5
"""Two stretches that are at most so many frames apart are one."""
_BEFORE, _AFTER = 4, 8  # pictures of a stretch, before and after its first frame
_LONGEST_STEP = 5


class Stretch(NamedTuple):
    """A stretch of frames on which the target was lost; frames count from 0, both ends belong to it."""

    first: int
    last: int
    worst: int  # frame of the lowest overlap, the first of them
    cost: float  # by how much the sequence's mean overlap would rise if the box were perfect here


def lost_stretches(overlaps: Float[np.ndarray, " frames"], below: float = LOST_BELOW) -> list[Stretch]:
    """The stretches with an overlap under ``below``, the most costly one first.

    A frame without an overlap (nan: the target is absent) neither begins nor ends one.
    """
    known = np.flatnonzero(np.isfinite(overlaps))
    lost = known[overlaps[known] < below]
    if not len(lost):
        return []
    stretches = []
    for frames in np.split(lost, np.flatnonzero(np.diff(lost) > JOINED_FRAMES + 1) + 1):
        first, last = int(frames[0]), int(frames[-1])
        inside = overlaps[first : last + 1]
        cost = float(np.nansum(1 - inside) / len(known))
        stretches.append(Stretch(first, last, first + int(np.nanargmin(inside)), cost))
    return sorted(stretches, key=lambda stretch: (-stretch.cost, stretch.first))


def worst_frames(overlaps: Float[np.ndarray, " frames"], count: int) -> list[int]:
    """At most ``count`` frames that show what went wrong, the worst first, never two of one moment.

    One of each stretch in the order of their cost, then the lowest overlaps that are left.
    """
    apart = max(len(overlaps) // 12, 1)
    known = np.flatnonzero(overlaps < 1)  # the box that it was started with is not among them
    lowest = known[np.argsort(overlaps[known], kind="stable")]
    chosen: list[int] = []
    for frame in [*(stretch.worst for stretch in lost_stretches(overlaps)), *lowest.tolist()]:
        if len(chosen) == count:
            break
        if all(abs(frame - other) >= apart for other in chosen):
            chosen.append(frame)
    return chosen


def frames_to_show(
    stretches: ReadOnlySequence[ReadOnlySequence[Stretch]],
    length: int,
    count: int,
    must: ReadOnlySequence[int],
) -> list[int]:
    """At most ``count`` of ``length`` frames to play back, in order: all where they fit.

    ``must`` come first, as far as they fit. Two thirds of the rest surround the beginnings of stretches: ``stretches``
    has a list per tracker, and every tracker's worst comes before anyone's second. The others fill the widest gaps.
    """
    if length <= count:
        return list(range(length))
    chosen = set(list(dict.fromkeys(must))[:count])
    room = len(chosen) + (count - len(chosen)) * 2 // 3
    for rank in range(max((len(of_one) for of_one in stretches), default=0)):
        for stretch in (of_one[rank] for of_one in stretches if rank < len(of_one)):
            step = int(np.clip((stretch.last - stretch.first) // _AFTER, 1, _LONGEST_STEP))
            around = range(stretch.first - _BEFORE * step, stretch.first + _AFTER * step, step)
            new = [frame for frame in around if 0 <= frame < length and frame not in chosen]
            chosen.update(new[: max(room - len(chosen), 0)])
    for end in (0, length - 1)[: count - len(chosen)]:
        chosen.add(end)
    while len(chosen) < count:
        edges = np.array([-1, *sorted(chosen), length])
        widest = int(np.argmax(np.diff(edges)))
        chosen.add(int(edges[widest] + edges[widest + 1]) // 2)
    return sorted(chosen)
