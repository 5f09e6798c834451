"""Where targets begin in a video: the file of boxes that a person gives for many of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from mixformerv2 import geometry
from mixformerv2.results import read_results

COLUMNS = ("frame", "id", "x", "y", "w", "h")
_HEADER = ",".join(COLUMNS)


class Start(NamedTuple):
    """A target, and the frame and box where it begins."""

    frame: int  # 0-based index in the source
    id: int
    box: tuple[float, float, float, float]  # x, y, w, h in pixels


def read_starts(path: str | Path) -> list[Start]:
    """The targets of a file, one row each, in the order of their frames.

    With the header ``frame,id,x,y,w,h`` the frame is a 0-based index and pixels count from 0. Without it the rows are
    those of MOT Challenge, ``frame,id,x,y,w,h,conf`` and whatever follows, where frames and pixels count from 1.
    Raises FileNotFoundError, or ValueError naming the line that is wrong.
    """
    if not os.path.isfile(path):
        what = "it is a folder" if os.path.isdir(path) else "there is no such file"
        raise FileNotFoundError(f"{path} is not a file of boxes: {what}")
    lines = Path(path).read_text(encoding="utf-8-sig", errors="replace").splitlines()
    header = lines[0].replace(" ", "").lower() if lines else ""
    if header == _HEADER:
        numbered = {number: line for number, line in enumerate(lines[1:], 2) if line.strip()}
        rows = {number: _from_line(path, number, line) for number, line in numbered.items()}
    elif len(header.split(",")) > len(COLUMNS) and not header.startswith("frame,"):  # which results do
        rows = {}
        numbers = [number for number, line in enumerate(lines, 1) if line.strip()]
        for number, row in zip(numbers, read_results(path, "mot"), strict=True):
            assert row.id is not None, "rows of MOT have ids"
            rows[number] = Start(row.frame, row.id, row.result.box)
    else:
        rows = {}
    if header == _HEADER and not rows:
        raise ValueError(f"{path} has no row under its header: give one for each target")
    if not rows:
        raise ValueError(
            f"{path} must begin with the line {_HEADER} and have a row for each target, or hold the rows of "
            f"MOT Challenge, {_HEADER},conf; got {lines[0][:60] if lines else ''!r}"
        )
    _check(path, rows)
    return sorted(rows.values(), key=lambda start: start.frame)


def _from_line(path: str | Path, number: int, line: str) -> Start:
    words = line.split(",")
    try:
        frame, id = int(words[0]), int(words[1])
        x, y, w, h = map(float, words[2:])
    except (ValueError, IndexError):
        raise ValueError(f"{path} line {number} must hold {_HEADER}, got {line[:60]!r}") from None
    return Start(frame, id, (x, y, w, h))


def _check(path: str | Path, rows: dict[int, Start]) -> None:
    lines_of_ids: dict[int, int] = {}
    for number, start in rows.items():
        if start.frame < 0 or start.id < 1:
            raise ValueError(
                f"{path} line {number}: ids count from 1, and frames from 0 below the header {_HEADER}, from 1 in rows "
                f"of MOT Challenge; the {'id' if start.id < 1 else 'frame'} here comes before the first"
            )
        if start.id in lines_of_ids:
            raise ValueError(
                f"{path} line {number}: the target {start.id} has a box already in line {lines_of_ids[start.id]}; "
                "each target has one row, where it begins"
            )
        lines_of_ids[start.id] = number
        try:
            geometry.check_box_xywh(start.box)
        except ValueError as error:
            raise ValueError(f"{path} line {number}: {error}") from None
