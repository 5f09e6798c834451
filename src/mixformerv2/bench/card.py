"""A run as a card to show around: one picture, and the same as text."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console

from mixformerv2.bench.report import Report
from mixformerv2.bench.table import (
    SPEED_COLUMNS,
    SPEED_LEGEND,
    WIDTH,
    group,
    machine_lines,
    speed_cells,
    speed_table,
)
from mixformerv2.files import whole_file
from mixformerv2.images import Frame

_SCALE = 2  # drawn so many times larger, then made small: OpenCV's letters have rough edges
_WIDTH_PX, _MARGIN_PX, _ROW_PX = 1200, 40, 30
_PAPER, _INK, _FAINT, _LINE = (250, 250, 248), (28, 32, 40), (112, 118, 128), (222, 224, 226)
_COLOURS = {
    "openvino": (38, 110, 206),
    "onnxruntime": (28, 148, 128),
    "torch": (214, 88, 48),
    "reference": (90, 96, 104),
}
_OTHER_COLOUR = (150, 156, 164)
_FONT = cv2.FONT_HERSHEY_SIMPLEX

# Columns of the table: from where to where, and at which edge.
_COLUMNS = {
    "model": (40, 142, "left"),
    "backend": (150, 268, "left"),
    "precision": (275, 350, "left"),
    "threads": (360, 440, "right"),
    "update ms": (450, 545, "right"),
    "frames/s": (555, 645, "right"),
    "x ref.": (655, 775, "right"),
    "of limit": (785, 870, "right"),
}
_BAR_PX = (895, 1160)


def write_card(report: Report, path: Path, overwrite: bool) -> list[Path]:
    """Writes the picture, and a .txt beside it. Raises ValueError for another suffix, FileExistsError as usual."""
    check_card(path)
    written = []
    for target, content in (
        (path, cv2.imencode(".png", card_picture(report)[..., ::-1])[1].tobytes()),
        (path.with_suffix(".txt"), card_text(report).encode()),
    ):
        with whole_file(target, overwrite) as unfinished:
            unfinished.write_bytes(content)
        written.append(target)
    return written


def check_card(path: Path) -> None:
    if path.suffix.lower() != ".png":
        raise ValueError(f"a card is a .png file, and a .txt beside it, got {path}")


def card_text(report: Report) -> str:
    buffer = io.StringIO()
    console = Console(file=buffer, width=WIDTH, color_system=None)
    console.print(*machine_lines(report), sep="\n", highlight=False, markup=False)
    console.print(speed_table(report))
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


def card_picture(report: Report) -> Frame:
    """RGB: the machine, a line for each row, and its frames per second as a bar."""
    lines = machine_lines(report)
    sheet = _Sheet(_MARGIN_PX * 2 + 144 + 24 * len(lines) + _ROW_PX * len(report.rows))
    y = _MARGIN_PX + 24
    whole_width = (_MARGIN_PX, _WIDTH_PX - _MARGIN_PX)
    machine = report.machine["gpu"] or report.machine["processor"]
    sheet.write(f"MixFormerV2 on {machine}", y, *whole_width, size=0.95)
    y += 12
    for line in lines:
        y += 24
        sheet.write(line, y, *whole_width, colour=_FAINT)
    y += 44
    for column, place in _COLUMNS.items():
        sheet.write(column, y, *place, colour=_FAINT)
    sheet.write("frames per second", y, *_BAR_PX, colour=_FAINT)
    fastest = max(row.frames_per_second for row in report.rows)
    for index, row in enumerate(report.rows):
        if index == 0 or group(row) != group(report.rows[index - 1]):
            sheet.rule(y + 10)
        y += _ROW_PX
        for column, cell in zip(SPEED_COLUMNS, speed_cells(row), strict=True):
            if column in _COLUMNS:
                sheet.write(cell, y, *_COLUMNS[column], size=0.5)
        sheet.bar(y, row.frames_per_second / fastest, _COLOURS.get(row.name.backend, _OTHER_COLOUR))
    sheet.write(SPEED_LEGEND, y + 40, *whole_width, colour=_FAINT)
    return sheet.picture()


class _Sheet:
    """Paper to write on; all places are pixels of the finished picture."""

    def __init__(self, height_px: int) -> None:
        self._size = (_WIDTH_PX, height_px)
        self._canvas = np.full((_SCALE * height_px, _SCALE * _WIDTH_PX, 3), _PAPER, np.uint8)

    def write(
        self,
        text: str,
        y: int,
        left: int,
        right: int,
        side: str = "left",
        size: float = 0.45,
        colour: tuple[int, int, int] = _INK,
    ) -> None:
        """Text on a baseline, at one side of its place; smaller where the place is too narrow."""
        scale, room = _SCALE * size, _SCALE * (right - left)
        width = cv2.getTextSize(text, _FONT, scale, _SCALE)[0][0]
        if width > room:
            scale, width = scale * room / width, room
        at = (_SCALE * left if side == "left" else _SCALE * right - width, _SCALE * y)
        cv2.putText(self._canvas, text, at, _FONT, scale, colour, _SCALE, cv2.LINE_AA)

    def rule(self, y: int) -> None:
        ends = (_SCALE * _MARGIN_PX, _SCALE * y), (_SCALE * (_WIDTH_PX - _MARGIN_PX), _SCALE * y)
        cv2.line(self._canvas, *ends, _LINE, _SCALE)

    def bar(self, y: int, share: float, colour: tuple[int, int, int]) -> None:
        left, right = _BAR_PX
        end = left + max(round((right - left) * share), 2)
        corners = (_SCALE * left, _SCALE * (y - 14)), (_SCALE * end, _SCALE * (y + 2))
        cv2.rectangle(self._canvas, *corners, colour, cv2.FILLED)

    def picture(self) -> Frame:
        return np.asarray(cv2.resize(self._canvas, self._size, interpolation=cv2.INTER_AREA), np.uint8)
