"""Pictures of a training run: where things are drawn, and what the curves are made of."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from mixformerv2.data.pairs import Batch
from mixformerv2.train import pictures
from mixformerv2.train.pictures import ABSENT, PREDICTED, TRUE, batch_grid, curves, save_png

RED, GREEN, BLUE = (200, 0, 0), (0, 120, 0), (0, 0, 200)
# A cell's corner is at (12, 40): the template of 126 px, 4 px below it the online one, and 4 px right the search crop.
X, Y = 12 + 126 + 4, 40
BOX = (0.25, 0.5, 0.75, 1.0)  # 64, 128, 192, 256 px


def plain(*shape: int, colour: tuple[int, int, int]) -> torch.Tensor:
    return torch.tensor(colour, dtype=torch.uint8).expand(*shape, 3).clone()


def make_batch(b: int = 1, online: int = 1, present: bool = True) -> Batch:
    box_unit = torch.tensor(BOX).repeat(b, 1) * present
    return Batch(
        plain(b, 32, 32, colour=RED),
        plain(b, online, 32, 32, colour=GREEN),
        plain(b, 64, 64, colour=BLUE),
        box_unit,
        torch.full((b,), present),
    )


def has(picture: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool((picture[40:] == colour).all(axis=-1).any())  # below the legend


# --- the grid


def test_template_online_template_and_search_crop_have_their_places() -> None:
    sheet = batch_grid(make_batch(), None)
    assert sheet.shape == (40 + 256 + 12, 12 + 126 + 4 + 256 + 12, 3)
    assert tuple(sheet[Y + 60, 12 + 60]) == RED
    assert tuple(sheet[Y + 126 + 4 + 60, 12 + 60]) == GREEN
    assert tuple(sheet[Y + 20, X + 20]) == BLUE


def test_the_true_box_is_drawn_on_its_sides() -> None:
    sheet = batch_grid(make_batch(), None)
    for x, y in ((64, 180), (191, 180), (120, 128), (120, 255)):  # left, right, top, bottom
        assert tuple(sheet[Y + y, X + x]) == TRUE
    assert tuple(sheet[Y + 190, X + 128]) == BLUE
    assert not has(sheet, PREDICTED)


def test_the_predicted_box_has_another_colour_and_its_overlap_is_told() -> None:
    without = batch_grid(make_batch(), None)
    sheet = batch_grid(make_batch(), torch.tensor([[0.25, 0.25, 0.5, 0.5]]))
    assert tuple(sheet[Y + 90, X + 64]) == PREDICTED
    assert tuple(sheet[Y + 180, X + 64]) == TRUE
    corner = np.s_[Y + 240 : Y + 256, X : X + 60]
    assert tuple(without[Y + 250, X + 3]) == BLUE
    assert (sheet[corner] != without[corner]).any()


def test_an_absent_target_has_a_word_instead_of_a_box() -> None:
    sheet = batch_grid(make_batch(present=False), torch.tensor([BOX]))
    assert not has(sheet, TRUE)
    assert has(sheet, PREDICTED)
    assert np.abs(sheet[Y + 236 : Y + 256, X : X + 60].astype(int) - ABSENT).sum(axis=-1).min() < 60


def test_a_prediction_that_is_not_finite_is_not_drawn() -> None:
    assert not has(batch_grid(make_batch(), torch.full((1, 4), torch.nan)), PREDICTED)


def test_a_prediction_far_outside_leaves_the_other_crops_alone() -> None:
    sheet = batch_grid(make_batch(2), torch.tensor([[-9.0, -9.0, 9.0, 9.0], BOX]))
    assert not has(sheet[:, : X + 256], PREDICTED)
    assert has(sheet[:, X + 256 :], PREDICTED)


@pytest.mark.parametrize("online", [0, 2, 5])
def test_any_number_of_online_templates_fits(online: int) -> None:
    sheet = batch_grid(make_batch(online=online), None)
    assert has(sheet, RED)
    assert has(sheet, GREEN) == bool(online)
    assert has(sheet, BLUE)
    assert sheet.shape[0] == 40 + 256 + 12


@pytest.mark.parametrize(
    ("b", "count", "shape"), [(5, 16, (2, 3)), (5, 4, (2, 2)), (5, 1, (1, 1)), (16, 16, (4, 4))]
)
def test_so_many_examples_are_shown_as_there_are_and_asked_for(
    b: int, count: int, shape: tuple[int, int]
) -> None:
    sheet = batch_grid(make_batch(b), None, count)
    assert sheet.shape[:2] == (40 + 268 * shape[0], 12 + 398 * shape[1])


def test_the_batch_is_not_drawn_on() -> None:
    batch = make_batch()
    batch_grid(batch, torch.tensor([BOX]))
    assert (batch.search == torch.tensor(BLUE, dtype=torch.uint8)).all()


def test_predictions_straight_from_a_network_are_taken() -> None:
    predicted = torch.tensor([BOX], dtype=torch.bfloat16, requires_grad=True)
    assert has(batch_grid(make_batch(), predicted), PREDICTED)


def test_bad_input_to_a_grid_gets_one_sentence() -> None:
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        batch_grid(make_batch(), None, 0)
    with pytest.raises(ValueError, match="there are 2 predicted boxes for 1 examples"):
        batch_grid(make_batch(), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="batch must hold at least one example, got none"):
        batch_grid(make_batch(0), None)


def test_a_saved_picture_is_the_same_when_read(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (7, 9, 3), np.uint8)
    save_png(picture, tmp_path / "a.png")
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "a.png"))[..., ::-1], picture)
    with pytest.raises(OSError, match=r"b\.png"):
        save_png(picture, tmp_path / "missing" / "b.png")


# --- the curves


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were made."""
    figures: list[Figure] = []

    class Watched(Figure):
        def __init__(self, *arguments: object, **settings: object) -> None:
            super().__init__(*arguments, **settings)
            figures.append(self)

    monkeypatch.setattr(pictures, "Figure", Watched)
    return figures


def write_log(folder: Path, *rows: dict[str, object]) -> Path:
    path = folder / "log.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def train_row(step: int, **values: object) -> dict[str, object]:
    return {"kind": "train", "step": step, "samples": 32 * step, **values}


def titles(figure: Figure) -> dict[str, list[str]]:
    """Title of every panel, and the labels in it."""
    labels = {}
    for axes in figure.axes:
        lines = [str(line.get_label()) for line in axes.lines]
        labels[axes.get_title(loc="left")] = [label for label in lines if not label.startswith("_")]
    return labels


def test_every_number_finds_its_panel(tmp_path: Path, drawn: list[Figure]) -> None:
    numbers = dict(loss=2.0, l1=0.02, iou=0.5, learning_rate=1e-4, samples_per_second=30.0, token_norm=40.0)
    path = write_log(
        tmp_path,
        train_row(1, **numbers),
        train_row(2, **numbers),
        {"kind": "validation", "step": 2, "samples": 64, "auc": 0.25, "auc/Car4": 0.5},
        {"kind": "skipped", "step": 2, "samples": 64, "file": "a.jpg", "times": 1},
    )
    curves(path, tmp_path / "curves.png")
    assert titles(drawn[0]) == {
        "Losses": ["loss  2", "l1  0.02"],
        "Overlap": ["iou  0.5", "auc  0.25"],
        "Learning rate": ["learning rate  0.0001"],
        "Samples per second": ["samples per second  30"],
        "Signs of collapse, relative to the start": ["token norm  40"],
    }
    assert all(axes.get_xlabel() == "samples" for axes in drawn[0].axes)
    image = cv2.imread(str(tmp_path / "curves.png"))
    assert image.shape == (900, 1500, 3)
    assert image.min() < 50  # something is drawn
    assert image.mean() > 200  # on white


def test_panels_without_numbers_are_left_out(tmp_path: Path, drawn: list[Figure]) -> None:
    curves(write_log(tmp_path, train_row(1, loss=1.0), train_row(2, loss=2.0)), tmp_path / "curves.png")
    assert list(titles(drawn[0])) == ["Losses"]
    assert drawn[0].axes[0].get_yscale() == "linear"


def test_losses_of_very_different_size_are_drawn_by_their_logarithm(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    curves(write_log(tmp_path, train_row(1, loss=5.0, l1=0.05)), tmp_path / "curves.png")
    curves(write_log(tmp_path, train_row(1, loss=5.0, l1=0.0)), tmp_path / "curves.png")  # which has none
    assert [figure.axes[0].get_yscale() for figure in drawn] == ["log", "linear"]


def test_curves_go_over_samples_raw_and_smoothed(tmp_path: Path, drawn: list[Figure]) -> None:
    curves(write_log(tmp_path, train_row(10, loss=3.0), train_row(20, loss=1.0)), tmp_path / "curves.png")
    raw, smooth = drawn[0].axes[0].lines
    assert list(raw.get_xdata()) == list(smooth.get_xdata()) == [320, 640]
    assert list(raw.get_ydata()) == [3.0, 1.0]


def test_signs_of_collapse_are_drawn_by_their_first_value(tmp_path: Path, drawn: list[Figure]) -> None:
    rows = [train_row(1, token_norm=40.0, side_spread=0.0), train_row(2, token_norm=10.0, side_spread=0.0)]
    curves(write_log(tmp_path, *rows), tmp_path / "curves.png")
    raw, _, zero, _ = drawn[0].axes[0].lines
    np.testing.assert_allclose(raw.get_ydata(), [1.0, 0.25])
    np.testing.assert_array_equal(zero.get_ydata(), [0.0, 0.0])


def test_numbers_that_are_not_finite_leave_a_gap(tmp_path: Path, drawn: list[Figure]) -> None:
    rows = [train_row(1, loss=1.0, iou=None), train_row(2, loss=None, iou=None), train_row(3, loss=3.0)]
    curves(write_log(tmp_path, *rows), tmp_path / "curves.png")
    assert list(drawn[0].axes[0].lines[0].get_xdata()) == [32, 96]
    assert list(titles(drawn[0])) == ["Losses"]


def test_a_log_without_rows_gives_a_picture_that_says_so(tmp_path: Path, drawn: list[Figure]) -> None:
    curves(write_log(tmp_path), tmp_path / "curves.png")
    assert drawn[0].get_suptitle() == f"{tmp_path.name}: no rows yet"
    assert (tmp_path / "curves.png").is_file()


def test_smoothing_keeps_a_short_curve_and_a_straight_one() -> None:
    short = np.array([3.0, 1.0, 2.0])
    np.testing.assert_allclose(pictures._smoothed(short), short)
    straight = np.arange(600.0)
    np.testing.assert_allclose(pictures._smoothed(straight)[40:-40], straight[40:-40])
    np.testing.assert_allclose(pictures._smoothed(np.full(600, 7.0)), 7.0)


def test_smoothing_takes_most_of_the_noise_away() -> None:
    noise = np.random.default_rng(0).normal(size=2000)
    assert pictures._smoothed(noise).std() < 0.15


def test_drawing_changes_nothing_for_others_who_draw(tmp_path: Path) -> None:
    settings, modules = dict(matplotlib.rcParams), {*sys.modules}
    curves(write_log(tmp_path, train_row(1, loss=1.0)), tmp_path / "curves.png")
    assert dict(matplotlib.rcParams) == settings
    assert "matplotlib.pyplot" not in {*sys.modules} - modules


def test_a_log_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        curves(tmp_path / "log.jsonl", tmp_path / "curves.png")
