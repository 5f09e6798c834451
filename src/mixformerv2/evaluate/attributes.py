"""What makes a sequence hard, in the words of the benchmarks, so that figures can be given for each kind of it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Float

from mixformerv2 import geometry
from mixformerv2.data.readers.annotation import read_lines
from mixformerv2.data.sequence import Sequence

ATTRIBUTES = {
    "IV": "illumination variation",
    "SV": "scale variation",
    "ARC": "aspect ratio change",
    "LR": "low resolution",
    "FM": "fast motion",
    "FOC": "full occlusion",
    "POC": "partial occlusion",
    "OV": "out of view",
    "DEF": "deformation",
    "ROT": "rotation",
    "MB": "motion blur",
    "BC": "background clutter",
    "SOB": "similar objects",
    "VC": "viewpoint change",
    "CM": "camera motion",
}
"""Code of every attribute -> words"""

PUBLISHED_ORDERS = {
    12: ("SV", "ARC", "LR", "FM", "FOC", "POC", "OV", "BC", "IV", "VC", "CM", "SOB"),
    14: ("IV", "POC", "DEF", "MB", "CM", "ROT", "BC", "VC", "SV", "FOC", "FM", "OV", "LR", "ARC"),
}
"""Number of flags in a file NAME.txt -> what they are: 12 in UAV123's anno/UAV123/att, 14 in LaSOT's annos/att"""

LARGEST_CHANGE = 2.0
LOW_RESOLUTION_PX = 1000.0


def attributes(sequence: Sequence, folder: str | Path | None = None) -> tuple[str, ...]:
    """The codes of a sequence's attributes, in the order of `ATTRIBUTES`.

    With a folder they are those that its published file ``NAME.txt`` flags, and no others. Without, they are what boxes
    and flags tell by LaSOT's definitions (Fan et al., 2019, section 3.4), over the frames with a true box:

    - SV: the area is below half or above twice that of the first box.
    - ARC: the ratio of width to height is below half or above twice that of the first box.
    - LR: a box of less than 1000 px. OTB and UAV123 say 400.
    - FM: from one frame to the next the target moves further than its size, here the square root of its area before.
      OTB and UAV123 say 20 px.
    - FOC, POC: a frame is flagged as occluded where the target is absent without being out of view, and where it is
      there.
    - OV: a frame is flagged as out of view, in GOT-10k as cut by the border of the picture.

    Raises ValueError where the file is missing or does not hold 12 or 14 flags.
    """
    found = _told_by_boxes(sequence) | _flagged(sequence) if folder is None else _annotated(sequence, folder)
    return tuple(code for code in ATTRIBUTES if code in found)


def check_attributes(sequences: Iterable[Sequence], folder: str | Path) -> None:
    """Raises ValueError as ``attributes`` would for one of them."""
    for sequence in sequences:
        _annotated(sequence, folder)


def _annotated(sequence: Sequence, folder: str | Path) -> set[str]:
    file = Path(folder) / f"{sequence.name}.txt"
    flags = " ".join(read_lines(file)).replace(",", " ").split()
    if len(flags) not in PUBLISHED_ORDERS or not set(flags) <= {"0", "1"}:
        raise ValueError(
            f"{file} must hold a 0 or 1 for each of UAV123's 12 or LaSOT's 14 attributes, got {' '.join(flags)[:80]!r}"
        )
    return {code for code, flag in zip(PUBLISHED_ORDERS[len(flags)], flags, strict=True) if flag == "1"}


def _told_by_boxes(sequence: Sequence) -> set[str]:
    boxes_frame = np.where(sequence.absent[:, None], np.nan, sequence.boxes_frame)
    known = boxes_frame[~sequence.absent]
    if not len(known):
        return set()
    sides = known[:, 2:] - known[:, :2]
    tells = {
        "SV": _changes(sides.prod(axis=1)),
        "ARC": _changes(sides[:, 0] / sides[:, 1]),
        "LR": bool((sides.prod(axis=1) < LOW_RESOLUTION_PX).any()),
        "FM": _moves_fast(boxes_frame),
    }
    return {code for code, told in tells.items() if told}


def _changes(values: Float[np.ndarray, " frames"]) -> bool:
    """Whether one of them is not within a factor of two of the first."""
    ratio = values / values[0]
    return bool(((ratio < 1 / LARGEST_CHANGE) | (ratio > LARGEST_CHANGE)).any())


def _moves_fast(boxes_frame: Float[np.ndarray, "frames 4"]) -> bool:
    centres = (boxes_frame[:, :2] + boxes_frame[:, 2:]) / 2
    moved = np.linalg.norm(np.diff(centres, axis=0), axis=1)  # nan beside a frame without a box
    return bool((moved > np.sqrt(geometry.area(boxes_frame[:-1]))).any())


def _flagged(sequence: Sequence) -> set[str]:
    nothing = np.zeros(len(sequence), bool)
    occluded = nothing if sequence.occluded is None else sequence.occluded
    outside = nothing if sequence.out_of_view is None else sequence.out_of_view
    tells = {
        "FOC": occluded & sequence.absent & ~outside,
        "POC": occluded & ~sequence.absent,
        "OV": outside,
    }
    return {code for code, frames in tells.items() if frames.any()}
