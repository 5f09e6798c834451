"""What the tracker says about one frame, and the files in which many such rows are kept.

Every file is written under a temporary name beside its target and moved into place when it is closed.
"""

from __future__ import annotations

import json
import math
import os
import re
import secrets
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

FORMATS = ("csv", "jsonl", "otb", "lasot", "got10k")
SUFFIXES = {".csv": "csv", ".jsonl": "jsonl", ".txt": "lasot"}
COLUMNS = ("frame", "x", "y", "w", "h", "score", "state")


class Result(NamedTuple):
    """One frame's answer. `box` is (x, y, w, h) in float frame pixels from the frame's top-left corner."""

    box: tuple[float, float, float, float]
    score: float  # 0..1: how sure the network is of the crop under the box
    state: str  # "tracking" or "lost"


class ResultRow(NamedTuple):
    """A `Result` and the frame it belongs to."""

    frame: int  # 0-based index in the source
    result: Result


class PartialFile:
    """A claim on `target`: write to `path` beside it, then `commit` it into place or `discard` it."""

    def __init__(self, target: Path, path: Path) -> None:
        self.target = target
        self.path = path

    @classmethod
    def claim(cls, target: str | Path, overwrite: bool = False) -> PartialFile:
        """Create the empty file `path`, so that a folder that cannot be written is found out before the work.

        Raises FileExistsError if `target` exists and `overwrite` is false, or another OSError.
        """
        real = Path(os.path.realpath(target))  # a link keeps pointing to the new file
        if os.path.isdir(real):
            raise IsADirectoryError(f"{target} cannot be written: it is a folder, name a file inside it")
        if os.path.exists(real) and not os.path.isfile(real):
            raise OSError(f"{target} cannot be written: it is a device or pipe, name an ordinary file")
        if os.path.exists(real) and not overwrite:
            raise FileExistsError(
                f"{target} exists already: choose another name or pass --overwrite to replace it"
            )
        path = real.with_name(f".{real.stem}.{secrets.token_hex(4)}.partial{real.suffix}")
        try:
            path.open("xb").close()
        except OSError as error:
            if not os.path.exists(real.parent):
                reason = f"the folder {Path(target).parent} does not exist"
            elif not os.path.isdir(real.parent):
                reason = f"{Path(target).parent} is not a folder"
            else:
                reason = error.strerror or "the folder refuses new files"
            raise type(error)(f"{target} cannot be written: {reason}") from error
        return cls(real, path)

    def commit(self) -> None:
        os.replace(self.path, self.target)

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)


class ResultFile:
    """A results file being written; a context manager.

    Leaving the block finishes the file, by Ctrl-C or an error too: what was written is kept and well formed.
    Only an error before the first row leaves nothing behind.
    """

    def __init__(self, partial: PartialFile, format: str) -> None:
        assert format in FORMATS
        self.path = partial.target
        self.format = format
        self.num_rows = 0
        self._partial = partial
        self._stream = partial.path.open("w", encoding="utf-8", newline="\n")
        if format == "csv":
            self._stream.write(",".join(COLUMNS) + "\n")

    @classmethod
    def open(cls, path: str | Path, format: str | None = None, overwrite: bool = False) -> ResultFile:
        """Start the file `path` in one of `FORMATS`; without `format` the suffix decides.

        - "csv" (.csv): header `frame,x,y,w,h,score,state`, frame a 0-based index in the source.
        - "jsonl" (.jsonl): one JSON object a frame with the same keys.
        - "lasot" (.txt unless named otherwise), "got10k", "otb": `x,y,w,h` a line and nothing else, the first
          line being the frame where tracking starts. OTB counts pixels from 1: there x and y are 1 greater.

        Pixels have three decimals. Raises ValueError for an unknown format or suffix, FileExistsError if the
        file is there and `overwrite` is false, another OSError if it cannot be written.
        """
        chosen = _format_of(path, format)
        return cls(PartialFile.claim(path, overwrite), chosen)

    def write(self, frame: int, result: Result) -> None:
        """Append the row of the frame with the 0-based index `frame`."""
        self._stream.write(_to_line(self.format, ResultRow(frame, result)) + "\n")
        self.num_rows += 1

    def close(self) -> None:
        """Finish the file and move it into place; a second call does nothing."""
        if self._stream.closed:
            return
        try:
            self._stream.close()
            self._partial.commit()
        except BaseException:
            self._partial.discard()
            raise

    def discard(self) -> None:
        """Give the file up: nothing is left behind, and a file that was to be replaced stays as it was."""
        if self._stream.closed:
            return
        try:
            self._stream.close()
        finally:
            self._partial.discard()

    def __enter__(self) -> ResultFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and self.num_rows == 0:
            self.discard()
        else:
            self.close()


def read_results(path: str | Path, format: str | None = None) -> list[ResultRow]:
    """The rows of a results file, boxes 0-based whatever the file counts from.

    The benchmarks' text holds only boxes, parted by commas, tabs or spaces: there the frame is the line's
    index, the score NaN, and the state "tracking", or "lost" where the box is not finite.
    Raises FileNotFoundError, or ValueError naming the line that is wrong.
    """
    chosen = _format_of(path, format)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path} is not a results file: there is no such file")
    lines = Path(path).read_text(encoding="utf-8-sig", errors="replace").rstrip().splitlines()
    first = 0
    if chosen == "csv":
        header = lines[0] if lines else ""
        if header.strip() != ",".join(COLUMNS):
            raise ValueError(f"{path} must begin with the line {','.join(COLUMNS)}, got {header[:60]!r}")
        first = 1
    rows = []
    for index, line in enumerate(lines[first:]):
        try:
            rows.append(_from_line(chosen, line, index))
        except (ValueError, KeyError, TypeError) as error:
            wanted = ",".join(COLUMNS) if chosen in ("csv", "jsonl") else "x,y,w,h"
            raise ValueError(
                f"{path} line {first + index + 1} must hold {wanted} as {chosen}, got {line[:60]!r}"
            ) from error
    return rows


def _format_of(path: str | Path, format: str | None) -> str:
    chosen = format or SUFFIXES.get(Path(path).suffix.lower())
    if chosen is None:
        raise ValueError(
            f"results file must end in {', '.join(SUFFIXES)}, "
            f"or its format be named ({', '.join(FORMATS)}), got {path}"
        )
    if chosen not in FORMATS:
        raise ValueError(f"results format must be one of {', '.join(FORMATS)}, got {format!r}")
    return chosen


def _to_line(format: str, row: ResultRow) -> str:
    (x, y, w, h), score, state = row.result
    if format == "jsonl":
        box = {key: round(float(value), 3) for key, value in zip("xywh", (x, y, w, h), strict=True)}
        # JSON has no NaN, which is the score of rows that come from a benchmark's text.
        certainty = None if math.isnan(score) else round(float(score), 4)
        return json.dumps(
            {"frame": int(row.frame), **box, "score": certainty, "state": state}, allow_nan=False
        )
    if format == "csv":
        return f"{row.frame:d},{x:.3f},{y:.3f},{w:.3f},{h:.3f},{score:.4f},{state}"
    origin = 1 if format == "otb" else 0
    return f"{x + origin:.3f},{y + origin:.3f},{w:.3f},{h:.3f}"


def _from_line(format: str, line: str, index: int) -> ResultRow:
    if format == "jsonl":
        fields = json.loads(line)
        x, y, w, h = (float(fields[key]) for key in "xywh")
        score = math.nan if fields["score"] is None else float(fields["score"])
        return ResultRow(int(fields["frame"]), Result((x, y, w, h), score, str(fields["state"])))
    if format == "csv":
        frame, *box, certainty, state = line.strip().split(",")
        x, y, w, h = (float(value) for value in box)
        return ResultRow(int(frame), Result((x, y, w, h), float(certainty), state))
    x, y, w, h = (float(value) for value in re.split(r"[,\s]+", line.strip()))
    origin = 1 if format == "otb" else 0
    state = "tracking" if all(map(math.isfinite, (x, y, w, h))) else "lost"
    return ResultRow(index, Result((x - origin, y - origin, w, h), math.nan, state))
