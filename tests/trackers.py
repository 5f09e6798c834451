"""Trackers that follow a bright square, well or badly, as ``python:tests/trackers.py:NAME``; and videos of one.

A tracker cannot know which sequence it is shown, but each sequence has a background of its own: its level.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

HERE = f"python:{__file__}"
WIDTH, HEIGHT, SIDE = 64, 48, 10
LEVELS = {name: 10 * (place + 1) for place, name in enumerate("abcdefghij")}
"""grey value of the background, by the name of the sequence"""


class Answer(NamedTuple):
    box: Any
    score: float = 0.5


class Follow:
    """The box of the first frame, put around the middle of what is bright. ``log``: a folder for notes."""

    def __init__(self, log: str | None = None, sleep_s: float = 0.0) -> None:
        self.log = None if log is None else Path(log)
        self.sleep_s = sleep_s
        self.level = self.frame = 0

    def init(self, frame: np.ndarray, box: Any) -> None:
        self.level, self.frame = 10 * round(float(np.median(frame)) / 10), 0
        self.sides = tuple(float(side) for side in box[2:])
        note(self.log, f"start {self.level} {os.getpid()}")

    def update(self, frame: np.ndarray) -> Answer:
        self.frame += 1
        time.sleep(self.sleep_s)
        rows, columns = np.nonzero(frame[..., 1] > 180)
        w, h = self.sides
        return Answer((float(columns.mean()) + 0.5 - w / 2, float(rows.mean()) + 0.5 - h / 2, w, h))


class Flawed(Follow):
    """Goes wrong in one sequence, at one frame, unless the file ``unless`` is there."""

    def __init__(
        self, fault: str, level: int, at: int = 3, unless: str | None = None, log: str | None = None
    ) -> None:
        super().__init__(log)
        self.fault, self.where, self.unless = fault, (level, at), unless

    def update(self, frame: np.ndarray) -> Any:
        answer = super().update(frame)
        if (self.level, self.frame) != self.where or (self.unless and Path(self.unless).exists()):
            return answer
        return getattr(self, self.fault)()

    def raises(self) -> None:
        raise RuntimeError("lost\nmy way")

    def nan(self) -> Answer:
        return Answer((1.0, float("nan"), 1.0, 1.0))

    def nothing(self) -> object:
        return object()

    def three(self) -> Answer:
        return Answer((1, 2, 3))

    def hangs(self) -> None:
        time.sleep(600)

    def leaves(self) -> None:
        sys.exit(3)

    def exits(self) -> None:
        os._exit(7)

    def dies(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class WithHelper(Follow):
    """Starts a process of its own, as many trackers do, and never ends it."""

    def init(self, frame: np.ndarray, box: Any) -> None:
        super().init(frame, box)
        helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        note(self.log, f"helper {self.level} {helper.pid}")


class Doomed(Follow):
    """Never ends where the environment says so."""

    def update(self, frame: np.ndarray) -> Answer:
        if os.environ.get("DOOMED"):
            note(self.log, f"doomed {self.level} {os.getpid()}")
            time.sleep(600)
        return super().update(frame)


class Threads(Follow):
    """Its boxes are how many threads it may use: by the environment, by OpenCV, by its options."""

    def __init__(self) -> None:
        super().__init__()
        assert "OMP_NUM_THREADS" in os.environ

    def update(self, frame: np.ndarray) -> Answer:
        variables = [
            int(os.environ[name]) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        ]
        return Answer((*variables, cv2.getNumThreads()))


class Talks(Follow):
    """Warns, and has no idea how sure it is; says nothing of the target in frame 2."""

    def update(self, frame: np.ndarray) -> Any:
        import warnings

        box = super().update(frame).box
        warnings.warn("this square is strange", stacklevel=1)
        return (box if self.frame != 2 else None,)


class Unopenable(Follow):
    def __init__(self) -> None:
        raise OSError("the model is somewhere else")


def note(folder: Path | None, text: str) -> None:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"{os.getpid()}.txt").open("a") as file:
            file.write(text + "\n")


def notes(folder: Path, what: str) -> list[tuple[int, int]]:
    """(level, process) of every note that begins so."""
    lines = [line.split() for path in sorted(folder.glob("*.txt")) for line in path.read_text().splitlines()]
    return [(int(level), int(process)) for kind, level, process in lines if kind == what]


def box_of(index: int) -> tuple[int, int, int, int]:
    """Where the square is in a frame, x, y, w, h from 0."""
    return (5 + 2 * index % 40, 4 + index % 30, SIDE, SIDE)


def write_otb(root: Path, lengths: Mapping[str, int]) -> Path:
    """A dataset in OTB's layout; names are among `LEVELS`."""
    for name, length in lengths.items():
        write_frames(root / name / "img", LEVELS[name], range(length))
        lines = [f"{x + 1},{y + 1},{w},{h}" for x, y, w, h in map(box_of, range(length))]
        (root / name / "groundtruth_rect.txt").write_text("\n".join(lines) + "\n")
    return root


def write_frames(folder: Path, level: int, indices: Sequence[int], digits: int = 4) -> None:
    folder.mkdir(parents=True)
    for index in indices:
        frame = np.full((HEIGHT, WIDTH, 3), level, np.uint8)
        x, y, w, h = box_of(index)
        frame[y : y + h, x : x + w] = 240
        cv2.imwrite(str(folder / f"{index + 1:0{digits}d}.jpg"), frame, [cv2.IMWRITE_JPEG_QUALITY, 95])
