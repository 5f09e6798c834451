"""Attributes from boxes at their limits, from flags, and from files in the published layouts."""

from __future__ import annotations

from collections.abc import Sequence as ReadOnlySequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from layouts import write_text
from test_protocols import NoFrames

from mixformerv2.data.sequence import Sequence
from mixformerv2.evaluate.attributes import ATTRIBUTES, PUBLISHED_ORDERS, attributes

NOTHING = (np.nan,) * 4
# What the files say of UAV123's order of flags and of LaSOT's, from the toolkits.
UAV123_FLAGS = "1,0,0,1,0,0,0,0,0,0,1,1"
LASOT_FLAGS = "0,1,0,0,0,1,0,0,1,0,0,0,1,0"  # airplane-1


def sequence_of(*boxes: tuple[float, ...], name: str = "s", **flags: ReadOnlySequence[int]) -> Sequence:
    """``absent``, ``occluded`` and ``out_of_view`` are the frames so flagged."""
    boxes_frame = np.array(boxes, np.float64)
    told: dict[str, Any] = {key: np.isin(np.arange(len(boxes)), frames) for key, frames in flags.items()}
    absent = told.pop("absent", np.zeros(len(boxes), bool)) | np.isnan(boxes_frame[:, 0])
    return Sequence(name, NoFrames(len(boxes)), boxes_frame, absent, **told)


def box(width: float, height: float, left: float = 0.0, top: float = 0.0) -> tuple[float, ...]:
    return (left, top, left + width, top + height)


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        (box(40, 40), ()),
        (box(80, 40), ()),  # twice the area and twice the ratio
        (box(40, 80), ()),
        (box(60, 60), ("SV",)),
        (box(80.1, 40), ("SV", "ARC")),
        (box(59, 28), ("ARC",)),
        (box(28, 28), ("SV", "LR")),
        (box(40, 25), ()),  # 1000 px
        (box(40, 24.9), ("LR",)),
    ],
)
def test_size_shape_and_resolution_are_told_from_boxes(
    second: tuple[float, ...], expected: tuple[str, ...]
) -> None:
    assert attributes(sequence_of(box(40, 40), second, box(40, 40))) == expected


def test_change_is_measured_against_the_first_box_and_not_the_frame_before() -> None:
    assert attributes(sequence_of(*(box(side, side) for side in (40, 50, 57)))) == ("SV",)
    assert attributes(sequence_of(*(box(side, side) for side in (40, 50, 56)))) == ()


@pytest.mark.parametrize(("shift", "expected"), [(40.0, ()), (40.5, ("FM",))])
def test_fast_is_further_than_ones_own_size_from_frame_to_frame(
    shift: float, expected: tuple[str, ...]
) -> None:
    assert attributes(sequence_of(box(80, 20), box(80, 20, shift), box(80, 20, 2 * shift))) == expected
    # 1.5 times the size over two frames, nobody knows how fast.
    assert attributes(sequence_of(box(40, 40), NOTHING, box(40, 40, 60))) == ()


def test_a_box_on_an_absent_target_tells_nothing() -> None:
    boxes = box(40, 40), box(5, 5, 300), box(40, 40)
    assert attributes(sequence_of(*boxes)) == ("SV", "LR", "FM")
    assert attributes(sequence_of(*boxes, absent=[1])) == ()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"occluded": [1]}, ("POC",)),
        ({"occluded": [1], "absent": [1]}, ("FOC",)),
        ({"occluded": [1, 2], "absent": [1]}, ("FOC", "POC")),
        ({"out_of_view": [1]}, ("OV",)),
        ({"out_of_view": [1], "occluded": [1], "absent": [1]}, ("OV",)),
        ({"out_of_view": [], "occluded": []}, ()),
    ],
)
def test_occlusion_and_leaving_the_view_are_told_from_flags(
    flags: dict[str, list[int]], expected: tuple[str, ...]
) -> None:
    assert attributes(sequence_of(*[box(40, 40)] * 3, **flags)) == expected


def test_a_sequence_without_a_single_box_has_no_attributes() -> None:
    assert attributes(sequence_of(NOTHING, NOTHING)) == ()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (UAV123_FLAGS, ("SV", "FM", "SOB", "CM")),
        (LASOT_FLAGS, ("SV", "LR", "POC", "ROT")),
        (LASOT_FLAGS.replace(",", "\n"), ("SV", "LR", "POC", "ROT")),
        ("\t".join("0" * 12), ()),
    ],
)
def test_a_published_file_is_taken_at_its_word(tmp_path: Path, line: str, expected: tuple[str, ...]) -> None:
    write_text(tmp_path / "car-1.txt", line)
    tiny_and_hidden = sequence_of(box(5, 5), box(5, 5, 90), name="car-1", occluded=[1])
    assert attributes(tiny_and_hidden, tmp_path) == expected
    assert attributes(tiny_and_hidden, str(tmp_path)) == expected


def test_every_code_of_a_published_file_has_words() -> None:
    for count, order in PUBLISHED_ORDERS.items():
        assert len(set(order)) == count
        assert set(order) <= ATTRIBUTES.keys()


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the file .*s\.txt is missing"):
        attributes(sequence_of(box(40, 40)), tmp_path)


@pytest.mark.parametrize("line", ["", "1,0,1", "0," * 10 + "2,0", "no,flags"])
def test_a_file_of_anything_else_is_refused(tmp_path: Path, line: str) -> None:
    write_text(tmp_path / "s.txt", line)
    with pytest.raises(
        ValueError, match=r"s\.txt must hold a 0 or 1 for each of UAV123's 12 or LaSOT's 14 attributes, got"
    ):
        attributes(sequence_of(box(40, 40)), tmp_path)
