"""The log of a training run: its rows, its files after a stop, and what the screen shows."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mixformerv2.train import log
from mixformerv2.train.log import RunLog, read_log


def parts(**values: float) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value) for name, value in values.items()}


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def curve(rows: list[dict], kind: str = "train") -> list[int]:
    """The steps of the rows of a kind."""
    return [row["step"] for row in rows if row["kind"] == kind]


def board(folder: Path, tag: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    return [(event.step, round(event.value, 5)) for event in events.Scalars(tag)]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets seconds pass for the log alone."""
    now = [0.0]

    def wait(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(log, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return wait


# --- rows


def test_a_row_holds_the_means_of_its_steps(tmp_path: Path) -> None:
    with RunLog(tmp_path, every_steps=2, total_samples=100, screen=False) as run:
        for step, loss in enumerate([1.0, 2.0, 5.0, 8.0], 1):
            run.step(step, 4 * step, parts(loss=loss, iou=loss / 10))
    rows = read_log(tmp_path / "log.jsonl")
    kept = [{name: row[name] for name in ("kind", "step", "samples", "loss", "iou")} for row in rows]
    assert kept == [
        {"kind": "train", "step": 2, "samples": 8, "loss": 1.5, "iou": 0.15},
        {"kind": "train", "step": 4, "samples": 16, "loss": 6.5, "iou": 0.65},
    ]


def test_a_part_that_comes_and_goes_is_averaged_over_the_steps_that_have_it(tmp_path: Path) -> None:
    with RunLog(tmp_path, 3, 100, screen=False) as run:
        run.step(1, 1, parts(loss=1.0))
        run.step(2, 2, parts(loss=1.0, score=4.0))
        run.step(3, 3, parts(loss=1.0, score=8.0))
    assert read_log(tmp_path / "log.jsonl")[0]["score"] == 6.0


def test_nothing_is_read_from_the_device_before_a_row_is_due(tmp_path: Path) -> None:
    class Watched(torch.Tensor):
        read = 0

        def __float__(self) -> float:
            Watched.read += 1
            return super().__float__()

        item = tolist = cpu = numpy = None  # type: ignore[assignment]

    with RunLog(tmp_path, 3, 100, screen=False) as run:
        for step in (1, 2):
            run.step(step, step, {"loss": torch.tensor(1.0).as_subclass(Watched)})
        assert Watched.read == 0
        run.step(3, 3, {"loss": torch.tensor(1.0).as_subclass(Watched)})
        assert Watched.read == 1


def test_what_the_caller_does_with_a_tensor_later_changes_no_sum(tmp_path: Path) -> None:
    value = torch.tensor(1.0, requires_grad=True)
    with RunLog(tmp_path, 2, 100, screen=False) as run:
        run.step(1, 1, {"loss": value})
        with torch.no_grad():
            value.mul_(100)
        run.step(2, 2, {"loss": value})
    assert read_log(tmp_path / "log.jsonl")[0]["loss"] == 50.5


def test_half_precision_is_summed_in_full(tmp_path: Path) -> None:
    with RunLog(tmp_path, 300, 1000, screen=False) as run:
        for step in range(1, 301):  # in bfloat16 the sum would stop at 256
            run.step(step, step, {"loss": torch.tensor(1.0, dtype=torch.bfloat16)})
    assert read_log(tmp_path / "log.jsonl")[0]["loss"] == 1.0


def test_small_numbers_keep_their_digits(tmp_path: Path) -> None:
    with RunLog(tmp_path, 1, 10, screen=False) as run:
        run.step(1, 1, parts(learning_rate=1.234567e-6))
    assert read_log(tmp_path / "log.jsonl")[0]["learning_rate"] == 1.234567e-6


def test_numbers_that_are_not_finite_stay_json(tmp_path: Path) -> None:
    with RunLog(tmp_path, 1, 10, screen=False) as run:
        run.step(1, 1, parts(loss=math.nan, iou=math.inf))
        run.event("validation", {"auc": math.nan})
    first = (tmp_path / "log.jsonl").read_text().splitlines()[0]
    assert json.loads(first, parse_constant=lambda name: pytest.fail(name))["loss"] is None
    row, validation = read_log(tmp_path / "log.jsonl")
    assert math.isnan(float(row["loss"]))
    assert math.isnan(float(row["iou"]))
    assert math.isnan(float(validation["auc"]))
    assert table(tmp_path)[0]["loss"] == "nan"


def test_steps_left_over_make_a_row_at_the_end_but_not_after_an_error(tmp_path: Path) -> None:
    with RunLog(tmp_path, 10, 100, screen=False) as run:
        run.step(1, 1, parts(loss=1.0))
        run.step(2, 2, parts(loss=3.0))
    (row,) = read_log(tmp_path / "log.jsonl")
    assert (row["step"], row["loss"]) == (2, 2.0)

    def fail() -> None:
        with RunLog(tmp_path, 10, 100, resume_step=2, screen=False) as run:
            run.step(3, 3, parts(loss=9.0))
            raise RuntimeError("the device is gone")

    with pytest.raises(RuntimeError, match="the device is gone"):
        fail()
    assert curve(read_log(tmp_path / "log.jsonl")) == [2]


# --- events and speed


def test_an_event_is_a_row_of_its_kind_at_the_last_step(tmp_path: Path) -> None:
    with RunLog(tmp_path, 1, 10, screen=False) as run:
        run.step(1, 4, parts(loss=1.0))
        run.event("validation", {"auc": 0.5, "frames": 7})
        run.event("skipped", {"file": "a, b.jpg", "times": 3})
    _, validation, skipped = read_log(tmp_path / "log.jsonl")
    assert validation == {"kind": "validation", "step": 1, "samples": 4, "auc": 0.5, "frames": 7}
    assert skipped == {"kind": "skipped", "step": 1, "samples": 4, "file": "a, b.jpg", "times": 3}


def test_the_table_grows_a_column_when_a_new_name_comes(tmp_path: Path) -> None:
    with RunLog(tmp_path, 1, 10, screen=False) as run:
        run.step(1, 4, parts(loss=1.0))
        run.event("validation", {"auc": 0.5})
        run.step(2, 8, parts(loss=2.0))
    rows = table(tmp_path)
    assert list(rows[0]) == ["kind", "step", "samples", "samples_per_second", "loss", "auc"]
    assert [(row["kind"], row["loss"], row["auc"]) for row in rows] == [
        ("train", "1.0", ""),
        ("validation", "", "0.5"),
        ("train", "2.0", ""),
    ]


def test_speed_counts_from_the_first_step_on(tmp_path: Path, clock: Callable[[float], None]) -> None:
    with RunLog(tmp_path, 2, 100, screen=False) as run:
        clock(500)  # until the first step is done: opening files, compiling
        for step in range(1, 5):
            run.step(step, 8 * step, parts(loss=1.0))
            clock(2)
    assert [row["samples_per_second"] for row in read_log(tmp_path / "log.jsonl")] == [4.0, 4.0]


def test_speed_leaves_out_the_time_of_validation(tmp_path: Path, clock: Callable[[float], None]) -> None:
    with RunLog(tmp_path, 4, 100, screen=False) as run:
        for step in range(1, 5):
            run.step(step, 8 * step, parts(loss=1.0))
            clock(2)
            if step == 2:
                clock(1000)
                run.event("validation", {"auc": 0.5})
    assert read_log(tmp_path / "log.jsonl")[1]["samples_per_second"] == 4.0


def test_a_row_without_a_timed_step_has_no_speed(tmp_path: Path) -> None:
    with RunLog(tmp_path, 1, 100, screen=False) as run:
        run.step(1, 8, parts(loss=1.0))
    assert "samples_per_second" not in read_log(tmp_path / "log.jsonl")[0]


# --- going on


def run_to(folder: Path, first: int, last: int, factor: float = 1.0) -> None:
    with RunLog(folder, 1, 100, resume_step=first - 1, screen=False) as run:
        for step in range(first, last + 1):
            run.step(step, 4 * step, parts(loss=factor * step))
            if step % 2 == 0:
                run.event("validation", {"auc": factor * step / 100})


def test_rows_after_the_step_that_a_run_goes_on_from_are_dropped_everywhere(tmp_path: Path) -> None:
    run_to(tmp_path, 1, 5)
    run_to(tmp_path, 4, 6, factor=10)  # it had been saved after step 3
    rows = read_log(tmp_path / "log.jsonl")
    assert curve(rows) == [1, 2, 3, 4, 5, 6]
    assert curve(rows, "validation") == [2, 4, 6]
    assert [row["loss"] for row in rows if row["kind"] == "train"] == [1, 2, 3, 40, 50, 60]
    assert [row["loss"] for row in table(tmp_path) if row["kind"] == "train"] == [
        *("1.0", "2.0", "3.0"),
        *("40.0", "50.0", "60.0"),
    ]
    assert board(tmp_path, "train/loss") == [(1, 1), (2, 2), (3, 3), (4, 40), (5, 50), (6, 60)]
    assert board(tmp_path, "validation/auc") == [(2, 0.02), (4, 0.4), (6, 0.6)]


def test_a_run_that_was_stopped_before_it_was_saved_starts_its_log_anew(tmp_path: Path) -> None:
    run_to(tmp_path, 1, 5)
    run_to(tmp_path, 1, 2)
    assert curve(read_log(tmp_path / "log.jsonl")) == [1, 2]
    assert len(table(tmp_path)) == 3


def test_a_line_that_was_cut_off_by_a_kill_is_dropped(tmp_path: Path) -> None:
    run_to(tmp_path, 1, 3)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"kind": "train", "step": 4, "sam')
    assert curve(read_log(tmp_path / "log.jsonl")) == [1, 2, 3]
    run_to(tmp_path, 4, 4)
    assert curve(read_log(tmp_path / "log.jsonl")) == [1, 2, 3, 4]


def test_the_folder_is_made_where_it_is_missing(tmp_path: Path) -> None:
    run_to(tmp_path / "recipe" / "stage", 1, 1)
    assert {path.name for path in (tmp_path / "recipe" / "stage").iterdir()} == {
        *("log.jsonl", "log.csv", "tensorboard"),
    }


def test_an_event_before_the_first_step_belongs_to_where_the_run_goes_on(tmp_path: Path) -> None:
    run_to(tmp_path, 1, 3)
    with RunLog(tmp_path, 1, 100, resume_step=3, screen=False) as run:
        run.event("skipped", {"times": 1})
    assert read_log(tmp_path / "log.jsonl")[-1] == {"kind": "skipped", "step": 3, "samples": 12, "times": 1}


# --- bad input


@pytest.mark.parametrize("line", ["not json", "[1, 2]", '{"step": 3}', "7", ""])
def test_a_line_that_is_no_row_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"kind": "train", "step": 1, "samples": 4}\n' + line + "\n")
    with pytest.raises(
        ValueError, match=r"log\.jsonl line 2 must be a JSON object with kind, step and samples"
    ):
        read_log(path)


def test_a_log_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_log(tmp_path / "log.jsonl")


@pytest.mark.parametrize(("every_steps", "total_samples", "resume_step"), [(0, 1, 0), (1, 0, 0), (1, 1, -1)])
def test_numbers_that_cannot_be_are_refused(every_steps: int, total_samples: int, resume_step: int) -> None:
    with pytest.raises(ValueError, match="at least 1 and resume_step at least 0, got"):
        RunLog(None, every_steps, total_samples, resume_step=resume_step)


def test_a_full_disk_ends_the_run_and_leaves_the_rows_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    def train() -> None:
        with RunLog(tmp_path, 1, 100, screen=False) as run:
            run.step(1, 4, parts(loss=1.0))
            monkeypatch.setattr(os, "replace", full)
            run.event("validation", {"auc": 0.5})  # a new column: the table is written anew

    with pytest.raises(OSError, match="No space left"):
        train()
    monkeypatch.undo()
    assert table(tmp_path)[0]["loss"] == "1.0"
    assert curve(read_log(tmp_path / "log.jsonl")) == [1]


def test_without_a_folder_nothing_is_written_or_said(capsys: pytest.CaptureFixture[str]) -> None:
    with RunLog(None, 1, 100) as run:
        run.step(1, 4, parts(loss=1.0))
        run.event("validation", {"auc": 0.5})
    assert capsys.readouterr().out == ""


# --- the screen and TensorBoard


def shown(folder: Path, clock: Callable[[float], None], terminal: bool) -> str:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=100)
    with RunLog(folder, 2, 80, title="pruning", console=console) as run:
        for step in range(1, 5):
            run.step(step, 8 * step, parts(loss=1.5, iou=0.25, l1=7.0))
            clock(2)
        run.event("validation", {"auc": 0.512345})
    return out.getvalue()


def test_where_there_is_no_terminal_every_row_is_a_plain_line(
    tmp_path: Path, clock: Callable[[float], None]
) -> None:
    assert shown(tmp_path, clock, terminal=False).splitlines() == [
        "pruning: 16 of 80 samples  4/s  0:00:16 left  loss 1.5  iou 0.25",
        "pruning: 32 of 80 samples  4/s  0:00:12 left  loss 1.5  iou 0.25",
        "pruning: validation after 32 samples: auc 0.5123",
    ]


def test_in_a_terminal_a_bar_shows_the_last_numbers_and_events_stay_above_it(
    tmp_path: Path, clock: Callable[[float], None]
) -> None:
    text = shown(tmp_path, clock, terminal=True)
    assert text.count("pruning: validation after 32 samples: auc 0.5123") == 1
    assert "━" in text
    assert "32 of 80 samples  4/s  0:00:12 left" in text
    assert "loss 1.5  iou 0.25" in text
    assert text.endswith("\x1b[?25h")  # the cursor is back


def test_the_bar_is_gone_when_an_error_ends_the_run(tmp_path: Path) -> None:
    out = io.StringIO()

    def fail() -> None:
        with RunLog(tmp_path, 2, 80, console=Console(file=out, force_terminal=True)) as run:
            run.step(1, 8, parts(loss=1.0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert out.getvalue().endswith("\x1b[?25h")
