"""A training run as pictures: what the network sees, and the curves of its log."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator
from torch import Tensor

from mixformerv2 import geometry
from mixformerv2.data.pairs import Batch
from mixformerv2.train.log import Row, read_log

Picture = UInt8[np.ndarray, "h w 3"]

TRUE, PREDICTED, ABSENT = (64, 224, 96), (255, 96, 255), (255, 176, 32)  # RGB
_BACKGROUND, _DARK, _LIGHT = (30, 32, 36), (16, 16, 16), (235, 235, 235)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_SEARCH_PX, _GAP_PX, _HEAD_PX = 256, 4, 40


# What the network sees ---------------------------------------------------------------------------------------------


def batch_grid(batch: Batch, predicted_unit: Float[Tensor, "b 4"] | None, count: int = 16) -> Picture:
    """The first `count` examples of a batch side by side: templates, then the search crop with its boxes.

    `predicted_unit` are the network's boxes, xyxy in fractions of the search crop; one that is not finite is not drawn.
    Raises ValueError where `count` is below 1, there are no examples, or the boxes are not as many as the examples.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    if not len(batch.search):
        raise ValueError("batch must hold at least one example, got none")
    if predicted_unit is not None and len(predicted_unit) != len(batch.search):
        raise ValueError(f"there are {len(predicted_unit)} predicted boxes for {len(batch.search)} examples")
    shown = Batch(*(part[:count].cpu() for part in batch))
    predicted = None if predicted_unit is None else predicted_unit[:count].detach().float().cpu().numpy()
    cells = [
        _cell(shown, index, None if predicted is None else predicted[index])
        for index in range(len(shown.search))
    ]
    sheet = _sheet(cells)
    _legend(sheet, with_predicted=predicted is not None)
    return sheet


def save_png(picture: Picture, path: Path) -> None:
    """Raises OSError where the file cannot be written."""
    whole, encoded = cv2.imencode(".png", picture[..., ::-1])
    assert whole
    path.write_bytes(encoded.tobytes())


def _cell(batch: Batch, index: int, predicted_unit: Float[np.ndarray, "4"] | None) -> Picture:
    """Templates in a column, the fixed one on top, and the search crop right of them."""
    templates = [batch.template[index], *batch.online[index]]
    side_px = (_SEARCH_PX - _GAP_PX * max(len(templates) - 1, 1)) // max(len(templates), 2)
    cell = np.full((_SEARCH_PX, side_px + _GAP_PX + _SEARCH_PX, 3), _BACKGROUND, np.uint8)
    for place, template in enumerate(templates):
        y = place * (side_px + _GAP_PX)
        cell[y : y + side_px, :side_px] = _resize(template.numpy(), side_px)
    search = _resize(batch.search[index].numpy(), _SEARCH_PX)
    present, true_unit = bool(batch.present[index]), batch.box_unit[index].numpy()
    if present:
        _box(search, true_unit, TRUE)
    else:
        _tag(search, "absent", ABSENT)
    if predicted_unit is not None:
        _box(search, predicted_unit, PREDICTED)
        if present:
            _tag(search, f"IoU {float(geometry.iou(predicted_unit, true_unit)):.2f}", _LIGHT)
    cell[:, -_SEARCH_PX:] = search
    return cell


def _sheet(cells: list[UInt8[np.ndarray, "cell_h cell_w 3"]]) -> Picture:
    """Cells in about as many columns as rows, below room for the legend."""
    columns = math.ceil(math.sqrt(len(cells)))
    height, width = cells[0].shape[:2]
    margin_px = 3 * _GAP_PX
    rows_px = math.ceil(len(cells) / columns) * (height + margin_px)
    columns_px = columns * (width + margin_px)
    sheet = np.full((_HEAD_PX + rows_px, margin_px + columns_px, 3), _BACKGROUND, np.uint8)
    for index, cell in enumerate(cells):
        row, column = divmod(index, columns)
        y, x = _HEAD_PX + row * (height + margin_px), margin_px + column * (width + margin_px)
        sheet[y : y + height, x : x + width] = cell
    return sheet


def _resize(
    picture: UInt8[np.ndarray, "side side 3"], side_px: int
) -> UInt8[np.ndarray, "{side_px} {side_px} 3"]:
    smaller = side_px < picture.shape[0]
    resized = cv2.resize(
        picture, (side_px, side_px), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    )
    return np.asarray(resized, np.uint8)


def _box(canvas: Picture, box_unit: Float[np.ndarray, "4"], colour: tuple[int, int, int]) -> None:
    if not np.isfinite(box_unit).all():
        return
    # One beyond the crop shows only the sides that cross it.
    left, top, right, bottom = (round(float(value) * _SEARCH_PX) for value in np.clip(box_unit, -1, 2))
    for stroke, ink in ((4, _DARK), (2, colour)):  # the rim keeps it visible on any background
        cv2.rectangle(canvas, (left, top), (right - 1, bottom - 1), ink, stroke)


def _tag(canvas: Picture, text: str, colour: tuple[int, int, int]) -> None:
    """Words in the corner at the bottom left."""
    (width, height), _ = cv2.getTextSize(text, _FONT, 0.45, 1)
    bottom = canvas.shape[0]
    cv2.rectangle(canvas, (0, bottom - height - 10), (width + 12, bottom), _DARK, cv2.FILLED)
    cv2.putText(canvas, text, (6, bottom - 5), _FONT, 0.45, colour, 1, cv2.LINE_AA)


def _legend(sheet: Picture, with_predicted: bool) -> None:
    x = 3 * _GAP_PX
    for name, colour in (("true box", TRUE), ("predicted", PREDICTED))[: 1 + with_predicted]:
        cv2.rectangle(sheet, (x, 14), (x + 14, 28), colour, 2)
        cv2.putText(sheet, name, (x + 22, 26), _FONT, 0.45, _LIGHT, 1, cv2.LINE_AA)
        x += 40 + cv2.getTextSize(name, _FONT, 0.45, 1)[0][0]
    words = "small: template, below it the online ones"
    if x + cv2.getTextSize(words, _FONT, 0.45, 1)[0][0] < sheet.shape[1]:
        cv2.putText(sheet, words, (x, 26), _FONT, 0.45, (150, 150, 150), 1, cv2.LINE_AA)


# The curves of a log -----------------------------------------------------------------------------------------------


class Curve(NamedTuple):
    """A number of a log over the samples seen."""

    name: str
    kind: str  # of its rows
    samples: Float[np.ndarray, "rows"]
    values: Float[np.ndarray, "rows"]  # finite


LOSSES, OVERLAP, RATE, SPEED, SIGNS = (
    *("Losses", "Overlap", "Learning rate", "Samples per second"),
    "Signs of collapse, relative to the start",
)
ROWS_OF_PANELS = ((LOSSES, OVERLAP), (RATE, SPEED, SIGNS))
PANEL_OF = {
    **dict.fromkeys(("iou", "auc", "precision", "normalised_precision"), OVERLAP),
    **dict.fromkeys(("gradient_norm", "side_spread", "token_norm", "token_distance"), SIGNS),
    "learning_rate": RATE,
    "samples_per_second": SPEED,
}
"""All other numbers are losses."""


def curves(log_path: Path, png_path: Path) -> None:
    """Draws a `log.jsonl`: losses, overlaps, learning rate, speed and signs of collapse, each where there are any.

    A log without rows gives a picture without curves. Raises FileNotFoundError or ValueError for a log that cannot
    be read, OSError where the picture cannot be written.
    """
    panels: dict[str, list[Curve]] = {}
    for curve in _curves(read_log(log_path)):
        panels.setdefault(PANEL_OF.get(curve.name, LOSSES), []).append(curve)
    figure = Figure(figsize=(15, 9), dpi=100, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12))
    name = log_path.resolve().parent.name
    figure.suptitle(name if panels else f"{name}: no rows yet", fontsize=15, fontweight="bold")
    rows = [row for titles in ROWS_OF_PANELS if (row := [title for title in titles if title in panels])]
    heights = [3 if row[0] in ROWS_OF_PANELS[0] else 2 for row in rows]
    for number, row in enumerate(rows):
        place = figure.add_gridspec(len(rows), 1, height_ratios=heights)[number].subgridspec(1, len(row))
        for column, title in enumerate(row):
            _draw(figure.add_subplot(place[column]), title, panels[title])
    figure.savefig(png_path, format="png")


def _curves(rows: list[Row]) -> Iterator[Curve]:
    """Every number of training and validation; those of single sequences, named with a slash, are left out."""
    for kind in ("train", "validation"):
        of_kind = [row for row in rows if row["kind"] == kind]
        names = dict.fromkeys(name for row in of_kind for name in row if "/" not in name)
        for name in names:
            points = [(row["samples"], row[name]) for row in of_kind if _is_finite(row.get(name))]
            if name not in ("step", "samples") and points:
                samples, values = np.array(points, np.float64).T
                yield Curve(name, kind, samples, values)


def _is_finite(value: float | int | str | None) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _draw(axes: Axes, title: str, members: list[Curve]) -> None:
    for number, curve in enumerate(members):
        samples, values, colour = curve.samples, curve.values, f"C{number % 10}"
        if curve.kind == "validation":
            axes.plot(
                samples, values, "o-", color=colour, markersize=4, linewidth=1.4, label=_label(curve, values)
            )
            continue
        smooth = values if title == RATE else _smoothed(values)
        scale = 1 / smooth[0] if title == SIGNS and smooth[0] else 1.0
        weight = 2.6 if curve.name == "loss" else 1.6
        axes.plot(samples, scale * values, color=colour, linewidth=0.8, alpha=0.3)
        axes.plot(samples, scale * smooth, color=colour, linewidth=weight, label=_label(curve, smooth))
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    if len(members) > 1:
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.02), frameon=False, fontsize=9)
    _dress(axes, title, np.concatenate([curve.values for curve in members]))


def _label(curve: Curve, values: Float[np.ndarray, "rows"]) -> str:
    """The name and where it stands at the end."""
    return f"{curve.name.replace('_', ' ')}  {values[-1]:.3g}"


def _dress(axes: Axes, title: str, values: Float[np.ndarray, "values"]) -> None:
    axes.set_xlabel("samples", fontsize=9)
    axes.tick_params(labelsize=9)
    axes.grid(color="0.9", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    if title == LOSSES and values.min() > 0 and values.max() > 10 * values.min():
        axes.set_yscale("log")  # parts of very different size
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
    elif title == OVERLAP:
        axes.set_ylim(0, 1)
    elif values.min() >= 0:
        axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(EngFormatter(sep="") if title == SPEED else "{x:.3g}")


def _smoothed(values: Float[np.ndarray, "rows"]) -> Float[np.ndarray, "rows"]:
    """Means around every row, weighed by a bell that is a 60th of the curve wide; a short curve stays as it is."""
    width = len(values) / 60
    reach = math.ceil(3 * width)
    bell = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    weights = np.convolve(np.ones_like(values), bell)[reach:-reach]
    return np.asarray(np.convolve(values, bell)[reach:-reach] / weights)
