"""What a training run tells: rows of means in JSON lines and CSV, TensorBoard's files, and a bar on the screen."""

from __future__ import annotations

import csv
import io
import json
import math
import time
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.text import Text
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from mixformerv2.files import write_text

JSON_LOG, CSV_LOG, TENSORBOARD = "log.jsonl", "log.csv", "tensorboard"
TELLING = ("loss", "iou", "gradient_norm", "learning_rate")
"""What the screen shows of a row; the files have all of it."""

Row = dict[str, int | float | str]


class RunLog:
    """The log of one stage of training in `folder`; a context manager. Without a folder it does nothing.

    A row has `kind`, `step` and `samples`, then its values. Rows of kind "train" are the means over `every_steps`
    steps and, where they were timed, `samples_per_second`; other kinds come from `event`. A run that goes on from
    `resume_step` drops later rows, which will come again. Leaving the block writes the means of the steps that
    are left over; an error does not.
    """

    def __init__(
        self,
        folder: Path | None,
        every_steps: int,
        total_samples: int,
        title: str = "training",
        resume_step: int = 0,
        screen: bool = True,
        console: Console | None = None,
    ) -> None:
        """`console` is the screen, standard output by default; in a terminal a bar lives there.

        Raises ValueError for numbers of steps or samples that cannot be.
        """
        if every_steps < 1 or total_samples < 1 or resume_step < 0:
            raise ValueError(
                "every_steps and total_samples must be at least 1 and resume_step at least 0, "
                f"got {every_steps}, {total_samples} and {resume_step}"
            )
        self.folder = folder
        self._every_steps, self._step, self._samples = every_steps, resume_step, 0
        self._means, self._speed = _Means(), _Speed()
        self._screen = _Screen(console or Console(), title, total_samples) if screen else None
        self._stack = ExitStack()

    def __enter__(self) -> RunLog:
        if self.folder is None:
            return self
        self.folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            self._files = _Files(self.folder, self._step)
            self._samples = self._files.samples
            # What TensorBoard has of later steps is hidden, as those rows are dropped.
            self._board = SummaryWriter(str(self.folder / TENSORBOARD), purge_step=self._step + 1)
            stack.callback(self._board.close)
            if self._screen is not None:
                self._screen.start()
                stack.callback(self._screen.stop)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            # After an error the device may not answer any more.
            if kind is None and self._means:
                self._write_means()

    def step(self, step: int, samples: int, parts: Mapping[str, Tensor]) -> None:
        """Counts the training step `step`, the first one is 1, after which `samples` have been seen in all.

        `parts` are scalars on any device. They are summed there, and read when a row is due.
        """
        if self.folder is None:
            return
        assert step > self._step, "steps are counted upwards"
        self._step, self._samples = step, samples
        self._means.add(parts)
        self._speed.step(samples)
        if step % self._every_steps == 0:
            self._write_means()
        elif self._screen is not None:
            self._screen.advance(samples, self._speed.overall)

    def event(self, kind: str, values: Mapping[str, int | float | str]) -> None:
        """A row of its own kind, such as "validation", after the last step; also on the screen.

        The time between the steps before and after it counts as time spent on it, not on training.
        """
        if self.folder is None:
            return
        assert kind != "train", "rows of that kind come from steps"
        self._speed.pause()
        self._write({"kind": kind, "step": self._step, "samples": self._samples, **values})

    def _write_means(self) -> None:
        row: Row = {"kind": "train", "step": self._step, "samples": self._samples}
        speed = self._speed.read()
        self._write(row | ({} if speed is None else {"samples_per_second": speed}) | self._means.read())

    def _write(self, row: Row) -> None:
        self._files.append(row)
        for name, value in row.items():
            if name not in ("step", "samples") and not isinstance(value, str):
                self._board.add_scalar(f"{row['kind']}/{name}", value, self._step)
        self._board.flush()
        if self._screen is not None:
            self._screen.row(row, self._speed.overall)


def read_log(path: Path) -> list[Row]:
    """The rows of a `log.jsonl`, oldest first; a number that was not finite is nan.

    A last line that was cut off while it was written is left out. Raises FileNotFoundError, or ValueError naming
    the line that is wrong.
    """
    rows: list[Row] = []
    *lines, _ = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            rows.append({name: math.nan if value is None else value for name, value in row.items()})
            whole = {"kind", "step", "samples"} <= {*row}
        except (ValueError, AttributeError):
            whole = False
        if not whole:
            raise ValueError(
                f"{path} line {number} must be a JSON object with kind, step and samples, got {line[:60]!r}"
            )
    return rows


class _Files:
    """The same rows twice: JSON lines, and a table whose columns grow."""

    def __init__(self, folder: Path, resume_step: int) -> None:
        self._json, self._csv = folder / JSON_LOG, folder / CSV_LOG
        rows = read_log(self._json) if self._json.exists() else []
        rows = [row for row in rows if int(row["step"]) <= resume_step]
        self.samples = int(rows[-1]["samples"]) if rows else 0
        write_text(self._json, "".join(map(_json_line, rows)))
        self._start_table(rows)

    def append(self, row: Row) -> None:
        with self._json.open("a", encoding="utf-8") as file:
            file.write(_json_line(row))
        if row.keys() <= {*self._columns}:
            with self._csv.open("a", encoding="utf-8", newline="") as file:
                self._table(file).writerow(row)
        else:
            self._start_table(read_log(self._json))

    def _start_table(self, rows: list[Row]) -> None:
        first = ("kind", "step", "samples", "samples_per_second")
        self._columns = list(dict.fromkeys([*first, *(name for row in rows for name in row)]))
        text = io.StringIO()
        table = self._table(text)
        table.writeheader()
        table.writerows(rows)
        write_text(self._csv, text.getvalue())

    def _table(self, file: io.TextIOBase) -> csv.DictWriter[str]:
        return csv.DictWriter(file, self._columns, restval="", lineterminator="\n")


def _json_line(row: Row) -> str:
    """JSON knows no number that is not finite."""
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in row.items()
    }
    return json.dumps(finite, allow_nan=False) + "\n"


class _Means:
    """Sums of what steps report, each on its own device until it is read."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def __bool__(self) -> bool:
        return bool(self._sums)

    def add(self, parts: Mapping[str, Tensor]) -> None:
        for name, value in parts.items():
            self._sums[name] = value.detach().float() + self._sums.get(name, 0.0)
            self._counts[name] = self._counts.get(name, 0) + 1

    def read(self) -> dict[str, float]:
        """The means, to seven digits, as many as float32 holds; and begins again."""
        means = {name: float(total) / self._counts[name] for name, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        return {name: float(f"{value:.7g}") for name, value in means.items()}


class _Speed:
    """Samples a second from step to step, from the end of the first one on and without what lies between others."""

    def __init__(self) -> None:
        self._last: tuple[int, float] | None = None
        self._samples, self._seconds = 0, 0.0  # since the last reading
        self._all_samples, self._all_seconds = 0, 0.0

    def step(self, samples: int) -> None:
        now = time.monotonic()
        if self._last is not None:
            self._samples += samples - self._last[0]
            self._seconds += now - self._last[1]
        self._last = samples, now

    def pause(self) -> None:
        """What passes until the next step is not timed."""
        self._last = None

    def read(self) -> float | None:
        """Since the last reading; None where nothing was timed."""
        speed = round(self._samples / self._seconds, 1) if self._seconds else None
        self._all_samples, self._all_seconds = (
            self._all_samples + self._samples,
            self._all_seconds + self._seconds,
        )
        self._samples, self._seconds = 0, 0.0
        return speed

    @property
    def overall(self) -> float | None:
        samples, seconds = self._all_samples + self._samples, self._all_seconds + self._seconds
        return samples / seconds if seconds else None


class _Screen:
    """A bar that lives in a terminal; elsewhere one plain line a row, so that a log file stays readable."""

    def __init__(self, console: Console, title: str, total_samples: int) -> None:
        self._console, self._title, self._total = console, title, total_samples
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=None), TaskProgressColumn())
        self._progress = Progress(*columns, TextColumn("{task.fields[counts]}"), console=console, expand=True)
        self._bar = self._progress.add_task(title, total=total_samples, counts="")
        self._numbers = ""
        self._live = Live(get_renderable=self._picture, console=console, refresh_per_second=2)

    def _picture(self) -> Group:
        return Group(self._progress, Text(self._numbers, style="dim"))

    def start(self) -> None:
        if self._console.is_terminal:
            self._live.start()

    def stop(self) -> None:
        self._live.stop()

    def advance(self, samples: int, speed: float | None) -> None:
        self._progress.update(self._bar, completed=samples, counts=self._counts(samples, speed))

    def _refresh(self) -> None:
        if self._live.is_started:
            self._live.refresh()

    def row(self, row: Row, speed: float | None) -> None:
        samples, kind = int(row["samples"]), row["kind"]
        named = [name for name in row if name not in ("kind", "step", "samples", "samples_per_second")]
        if kind != "train":
            self._refresh()
            self._line(f"{self._title}: {kind} after {samples:,} samples: {_numbers(row, named)}")
            return
        self.advance(samples, speed)
        self._numbers = _numbers(row, [name for name in TELLING if name in named])
        if not self._console.is_terminal:
            self._line(f"{self._title}: {self._counts(samples, speed)}  {self._numbers}")

    def _counts(self, samples: int, speed: float | None) -> str:
        counts = f"{samples:,} of {self._total:,} samples"
        if not speed:
            return counts
        rate = f"{speed:.0f}" if speed >= 10 else f"{speed:.2g}"
        left = timedelta(seconds=round(max(self._total - samples, 0) / speed))
        return f"{counts}  {rate}/s  {left} left"

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def _numbers(row: Row, names: list[str]) -> str:
    words = ((name, row[name]) for name in names)
    return "  ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in words
    )
