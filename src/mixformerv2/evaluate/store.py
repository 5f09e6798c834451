"""The folder of a run: what was measured, what the tracker said to each sequence, and what went wrong.

``run.json`` describes the run, ``results/NAME.csv`` holds one finished sequence, ``errors/NAME.txt`` one that failed.
A results file is there whole or not at all, so a run that was stopped goes on where it was.
"""

from __future__ import annotations

import json
import math
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple

import numpy as np
from jaxtyping import Float

import mixformerv2
from mixformerv2.data.sequence import Sequence
from mixformerv2.evaluate.run import OnePass
from mixformerv2.files import write_text

DESCRIPTION = "run.json"
HEADER = "frame,x,y,w,h,score,ms"
# What boxes do not depend on: a dataset may be moved, a label be chosen anew, a run go on with more sequences.
_NOT_COMPARED = ("root", "label", "measured_with", "sequences")
_MOST_NAMED = 3


class Failure(NamedTuple):
    """Why a sequence has no result."""

    sentence: str
    trace: str = ""
    """the traceback, where there is one"""


class Run(NamedTuple):
    """A run that is read back."""

    label: str
    """short name of the tracker, for tables"""
    description: dict[str, Any]
    folder: Path
    passes: dict[str, OnePass]
    """of the sequences that are finished"""


def describe_run(
    label: str,
    tracker: Mapping[str, Any],
    dataset: str,
    root: str | Path,
    lengths: Mapping[str, int | None],
    max_frames: int | None,
    measured_with: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """All that the results of a run depend on, and what its speeds depend on, ``measured_with``.

    ``lengths`` are the frames of each sequence, by its name; None for one that cannot be read as it is now.
    """
    return {
        "label": label,
        "tracker": dict(tracker),
        "dataset": dataset,
        "root": str(Path(root).resolve()),
        "sequences": dict(lengths),
        "max_frames": max_frames,
        "measured_with": dict(measured_with or {}),
        "version": mixformerv2.__version__,
    }


class Store:
    """A run being written; a context manager that keeps every other process out of its folder."""

    def __init__(self, folder: Path, description: Mapping[str, Any], lock: _Lock) -> None:
        self.folder = folder
        self.description = description
        self._lock = lock

    @classmethod
    def open(cls, folder: str | Path, description: Mapping[str, Any]) -> Store:
        """The folder, made if it is not there, with this description.

        A run that is there goes on, with the sequences of both; one of which no sequence is finished, such as that of a
        tracker that could not be opened or failed on all, makes room. Raises ValueError where it is another run, naming
        what differs, or the folder holds other files; OSError where another process writes to it, or it cannot be
        written.
        """
        folder = Path(folder)
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(f"the output of a run is a folder, and {folder} is a file")
        if folder.is_dir() and not (folder / DESCRIPTION).is_file() and _visible(folder):
            raise ValueError(
                f"{folder} holds other files ({_visible(folder)[0]}) and no {DESCRIPTION}: a new run needs a new "
                "or empty folder"
            )
        plain: dict[str, Any] = json.loads(json.dumps(description))
        folder.mkdir(parents=True, exist_ok=True)
        lock = _Lock.take(folder)
        try:
            if (folder / DESCRIPTION).is_file():
                there = read_description(folder)
                if any((folder / "results").glob("**/*.csv")):
                    _refuse_another(folder, there, plain)
                    sequences = _merged(there["sequences"], plain["sequences"])
                    plain = {**there, "root": plain["root"], "sequences": sequences}
            _write_text(folder / DESCRIPTION, json.dumps(plain, indent=1) + "\n")
            for left in folder.glob("**/.*.partial*"):  # of a process that was killed
                left.unlink()
        except BaseException:
            lock.release()
            raise
        return cls(folder, plain, lock)

    def finished(self, sequences: Iterable[Sequence] = ()) -> set[str]:
        """The sequences whose results are there.

        A file that is damaged or cut off warns and does not count; nor does one that began with another box than its
        sequence among ``sequences`` has now.
        """
        done, known = set(), {sequence.name: sequence for sequence in sequences}
        for name, length in self.description["sequences"].items():
            path = _results_path(self.folder, name)
            if length is None or not path.is_file():
                continue
            try:
                result = _read_whole(path, name, self.description)
                if name in known and not starts_as(result, known[name]):
                    raise ValueError(f"{path} began with another box than {name} has now")
            except ValueError as error:
                warnings.warn(f"{error}: sequence {name} is run again", stacklevel=2)
            else:
                done.add(name)
        return done

    def write(self, name: str, result: OnePass) -> None:
        """Keep what the tracker said; an error of an earlier attempt is forgotten."""
        _write_text(_results_path(self.folder, name), _to_csv(result))
        _error_path(self.folder, name).unlink(missing_ok=True)

    def read(self, name: str, sequence: Sequence | None = None) -> OnePass:
        """What was kept; boxes and scores are the same to the last bit.

        Raises ValueError where the file is missing or damaged, or does not fit the sequence.
        """
        result = _read_whole(_results_path(self.folder, name), name, self.description)
        if sequence is not None and result.first_frame + len(result.boxes_frame) > len(sequence):
            raise ValueError(
                f"the results of {name} in {self.folder} reach beyond its {len(sequence)} frames: "
                "the dataset has changed"
            )
        return result

    def fail(self, name: str, error: Failure) -> None:
        """Keep why a sequence has no result."""
        _write_text(_error_path(self.folder, name), f"{error.sentence}\n\n{error.trace}".rstrip() + "\n")

    def failures(self) -> dict[str, str]:
        """The sentence for each sequence that failed when it was last run."""
        paths = {name: _error_path(self.folder, name) for name in self.description["sequences"]}
        return {
            name: path.read_text("utf-8").split("\n")[0] for name, path in paths.items() if path.is_file()
        }

    def close(self) -> None:
        """Let other processes in."""
        self._lock.release()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_description(folder: str | Path) -> dict[str, Any]:
    """Raises ValueError where the folder holds no run, or one that cannot be read."""
    path = Path(folder) / DESCRIPTION
    if not path.is_file():
        runs = sorted(str(found.parent) for found in Path(folder).glob(f"*/{DESCRIPTION}"))
        others = f"; runs in it are {', '.join(runs)}" if runs else ""
        raise ValueError(f"{folder} is not the folder of a run: it has no {DESCRIPTION}{others}")
    try:
        description = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged ({error}): delete {folder}, or choose another folder for a new run"
        ) from None
    if not isinstance(description, dict) or not isinstance(description.get("sequences"), dict):
        raise ValueError(f"{path} is damaged: it must describe the run and its sequences")
    return description


def load_run(folder: str | Path) -> Run:
    """All that is finished in a run. Raises ValueError as ``read_description`` does."""
    folder = Path(folder)
    description = read_description(folder)
    passes = {}
    for name, length in description["sequences"].items():
        path = _results_path(folder, name)
        if length is not None and path.is_file():
            passes[name] = _read_whole(path, name, description)
    return Run(str(description.get("label", folder.name)), description, folder, passes)


def starts_as(result: OnePass, sequence: Sequence) -> bool:
    """Whether the pass began in the frame and with the box that the sequence begins with now."""
    first = int(np.argmin(sequence.absent))
    box_now, box_then = sequence.boxes_frame[first], result.boxes_frame[0]
    return result.first_frame == first and np.allclose(box_now, box_then, rtol=0, atol=1e-3)


def _visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def _results_path(folder: Path, name: str) -> Path:
    return _inside(folder / "results", f"{name}.csv")


def _error_path(folder: Path, name: str) -> Path:
    return _inside(folder / "errors", f"{name}.txt")


def _inside(folder: Path, name: str) -> Path:
    """A name may hold folders of its own, but not lead out."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"the name of a sequence must be a file name, got {name!r}")
    return folder / name


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)


# --- results


def _to_csv(result: OnePass) -> str:
    corners, sides = result.boxes_frame[:, :2], _sides(result.boxes_frame)
    lines = [HEADER]
    for row, (corner, side) in enumerate(zip(corners.tolist(), sides.tolist(), strict=True)):
        numbers = [*corner, *side, float(result.scores[row])]
        ms = 1000 * float(result.seconds[row])
        lines.append(f"{result.first_frame + row},{','.join(map(repr, numbers))},{ms:.4f}")
    return "\n".join(lines) + "\n"


def _sides(boxes_frame: Float[np.ndarray, "frames 4"]) -> Float[np.ndarray, "frames 2"]:
    """Widths and heights that give the very same far corners when they are added to the near ones."""
    near, far = boxes_frame[:, :2], boxes_frame[:, 2:]
    difference = far - near
    sides = difference.copy()
    # The difference is rounded, and so is the sum: a neighbouring number may be the one that was added.
    for direction in (np.inf, -np.inf):
        neighbour = np.nextafter(difference, direction)
        sides = np.where((near + sides != far) & (near + neighbour == far), neighbour, sides)
    return sides


def _read_whole(path: Path, name: str, description: Mapping[str, Any]) -> OnePass:
    """Raises ValueError, with half a sentence, where a row is wrong or missing."""
    if not path.is_file():
        raise ValueError(f"{path} is missing")
    try:
        lines = path.read_text("utf-8").splitlines()
        rows = np.array([line.split(",") for line in lines[1:]], np.float64)
    except ValueError:  # not text, not numbers, or rows of different lengths
        lines, rows = [], np.empty((0, 0))
    if not lines or lines[0] != HEADER or rows.ndim != 2 or rows.shape[1] != HEADER.count(",") + 1:
        raise ValueError(f"{path} is damaged, it must hold rows of {HEADER}")
    if not np.isfinite(rows[:, 0]).all():
        raise ValueError(f"{path} is damaged, it must name the frame of every row")
    first, length = int(rows[0, 0]), int(description["sequences"][name])
    last = min(length, first + (description["max_frames"] or length)) - 1
    if not np.array_equal(rows[:, 0], np.arange(first, last + 1)):
        raise ValueError(f"{path} is cut off, it must hold the frames {first} to {last}")
    boxes = np.concatenate([rows[:, 1:3], rows[:, 1:3] + rows[:, 3:5]], axis=1)
    return OnePass(boxes, rows[:, 5].copy(), rows[:, 6] / 1000, first)


# --- one configuration, one process


def _refuse_another(folder: Path, there: dict[str, Any], wanted: dict[str, Any]) -> None:
    kept, asked = ({key: one[key] for key in one if key not in _NOT_COMPARED} for one in (there, wanted))
    lengths = there["sequences"], wanted["sequences"]
    # A sequence that could not be read has no length: the other side knows better.
    both = [name for name in lengths[0] if None not in (lengths[0][name], lengths[1].get(name))]
    kept["sequences"], asked["sequences"] = ({name: one[name] for name in both} for one in lengths)
    found = [*_differences(kept, asked)]
    if found:
        more = f" and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
        raise ValueError(
            f"{folder} holds a run of another configuration, {'; '.join(found[:_MOST_NAMED])}{more}: "
            "choose another --output"
        )


def _merged(there: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    return {
        name: wanted.get(name) if there.get(name) is None else there[name] for name in {**there, **wanted}
    }


def _differences(there: Any, wanted: Any, place: str = "") -> Iterator[str]:
    if isinstance(there, dict) and isinstance(wanted, dict):
        for key in {**there, **wanted}:
            name = f"{place}.{key}" if place else str(key)
            if key not in wanted:
                yield f"{name} is {_short(there[key])} there and not in this one"
            elif key not in there:
                yield f"{name} is {_short(wanted[key])} in this one and not there"
            else:
                yield from _differences(there[key], wanted[key], name)
    elif there != wanted and not _both_nan(there, wanted):
        yield f"{place} is {_short(there)} there and {_short(wanted)} in this one"


def _both_nan(a: Any, b: Any) -> bool:
    return all(isinstance(value, float) and math.isnan(value) for value in (a, b))


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


class _Lock:
    """A lock on a folder that ends with the process, however it ends."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    @classmethod
    def take(cls, folder: Path) -> _Lock:
        stream = (folder / ".lock").open("a+", encoding="utf-8")
        try:
            _lock(stream)
        except OSError:
            stream.seek(0)
            owner = stream.read().strip()
            stream.close()
            who = f" (number {owner})" if owner else ""
            raise BlockingIOError(
                f"another process{who} is writing to {folder}: wait for it, or choose another --output"
            ) from None
        stream.truncate(0)
        stream.write(str(os.getpid()))
        stream.flush()
        return cls(stream)

    def release(self) -> None:
        self._stream.close()  # which unlocks it


if sys.platform == "win32":
    import msvcrt

    def _lock(stream: IO[str]) -> None:
        # A byte far behind the text, which so stays readable.
        stream.seek(1 << 20)
        msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)
        stream.seek(0)

else:
    import fcntl

    def _lock(stream: IO[str]) -> None:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
