"""What the tracker says about one frame, and the files in which many such rows are kept.

Every file is written under a temporary name beside its target and moved into place when it is closed.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from mixformerv2.files import PartialFile

STANDARD_OUTPUT = Path("-")  # in place of a results file
FORMATS = ("csv", "jsonl", "otb", "lasot", "got10k", "mot")
SUFFIXES = {".csv": "csv", ".jsonl": "jsonl", ".txt": "lasot", ".mot.txt": "mot"}
COLUMNS = ("frame", "x", "y", "w", "h", "score", "state")
COLUMNS_WITH_ID = ("frame", "id", "x", "y", "w", "h", "score", "state")
_MOT_COLUMNS = COLUMNS_WITH_ID[:-1]
_BOX_COLUMNS = ("x", "y", "w", "h")
_FORMATS_WITH_ID = ("csv", "jsonl", "mot")
_FIRST_PIXEL = {"otb": 1, "mot": 1}  # what its left and top one is called; 0 elsewhere


class Result(NamedTuple):
    """One frame's answer. `box` is (x, y, w, h) in float frame pixels from the frame's top-left corner."""

    box: tuple[float, float, float, float]
    score: float  # 0..1, of the network's answer, be that taken as the box or not; with ours, the overlap to expect
    state: str  # "tracking" or "lost"


class ResultRow(NamedTuple):
    """A `Result`, the frame it belongs to, and which of several targets it is about."""

    frame: int  # 0-based index in the source
    result: Result
    id: int | None = None


class ResultFile:
    """A results file being written; a context manager.

    Leaving the block finishes the file, by Ctrl-C or an error too: what was written is kept and well formed.
    Only an error before the first row leaves nothing behind.
    """

    def __init__(self, partial: PartialFile, format: str, with_ids: bool = False) -> None:
        assert format in FORMATS
        self.path = partial.target
        self.format = format
        self.num_rows = 0
        self._partial = partial
        # Not buffered: of a process that is killed its rows are left.
        self._stream = partial.path.open("wb", 0)
        self._num_bytes = 0
        if format == "csv":
            self._write_line(_header(with_ids))

    @classmethod
    def open(
        cls, path: str | Path, format: str | None = None, overwrite: bool = False, with_ids: bool = False
    ) -> ResultFile:
        """Start the file `path` in one of `FORMATS`; without `format` the suffix decides.

        - "csv" (.csv): header `frame,x,y,w,h,score,state`, frame a 0-based index in the source.
        - "jsonl" (.jsonl): one JSON object a frame with the same keys.
        - "lasot" (.txt unless named otherwise), "got10k", "otb": `x,y,w,h` a line and nothing else, the first
          line being the frame where tracking starts. OTB counts pixels from 1: there x and y are 1 greater.
        - "mot" (.mot.txt): `frame,id,x,y,w,h,score,-1,-1,-1`, as MOT Challenge; frames, ids and pixels count from 1.

        With `with_ids`, for several targets, csv and jsonl have an `id` after the frame. Pixels have three decimals.
        Raises ValueError for an unknown format or suffix, or one without a place for ids that are wanted,
        FileExistsError if the file is there and `overwrite` is false, another OSError if it cannot be written.
        """
        chosen = _format_to_write(path, format, with_ids)
        return cls(PartialFile.claim(path, overwrite), chosen, with_ids)

    def write(self, frame: int, result: Result, id: int | None = None) -> None:
        """Append the row of the frame with the 0-based index `frame`; `id` is wanted of a file `with_ids`.

        Raises OSError, naming the file, where it cannot: on a disk that is full the rows before are kept.
        """
        self._write_line(_to_line(self.format, ResultRow(frame, result, id)))
        self.num_rows += 1

    def _write_line(self, line: str) -> None:
        content = f"{line}\n".encode()
        try:
            if self._stream.write(content) != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self._stream.seek(self._num_bytes)
            self._stream.truncate()
            raise OSError(f"{self.path} cannot be written: {error.strerror}") from error
        self._num_bytes += len(content)

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


class ResultStream:
    """Rows on standard output, each as soon as it is known, for a program that reads them; as a ``ResultFile``.

    JSON Lines, unless another of ``FORMATS`` is named; raises as ``ResultFile.open``, and KeyboardInterrupt when nobody
    reads any more.
    """

    def __init__(self, format: str | None = None, with_ids: bool = False) -> None:
        self._format = _format_to_write(STANDARD_OUTPUT, format or "jsonl", with_ids)
        self._stream = sys.stdout
        if self._format == "csv":
            self._write_line(_header(with_ids))

    def write(self, frame: int, result: Result, id: int | None = None) -> None:
        """As that of a ``ResultFile``."""
        self._write_line(_to_line(self._format, ResultRow(frame, result, id)))

    def _write_line(self, line: str) -> None:
        try:
            print(line, file=self._stream, flush=True)
        except BrokenPipeError:
            # Else Python would try again when it ends, and complain.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            raise KeyboardInterrupt("nobody reads the results any more") from None

    def discard(self) -> None:
        """What was read cannot be taken back."""

    def __enter__(self) -> ResultStream:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def read_results(path: str | Path, format: str | None = None) -> list[ResultRow]:
    """The rows of a results file, boxes 0-based whatever the file counts from.

    The benchmarks' text holds only boxes, parted by commas, tabs or spaces: there the frame is the line's
    index, the score NaN, and the state "tracking", or "lost" where the box is not finite. MOT rows have frame, id
    and score (their seventh column), and no state either. Where rows name their frames, empty lines are passed over.
    Raises FileNotFoundError, or ValueError naming the line that is wrong.
    """
    chosen = _format_of(path, format)
    if not os.path.isfile(path):
        what = "it is a folder" if os.path.isdir(path) else "there is no such file"
        raise FileNotFoundError(f"{path} is not a results file: {what}")
    lines = Path(path).read_text(encoding="utf-8-sig", errors="replace").rstrip().splitlines()
    wanted: dict[str, tuple[str, ...]] = {"mot": _MOT_COLUMNS, "csv": COLUMNS, "jsonl": COLUMNS}
    columns, first = wanted.get(chosen, _BOX_COLUMNS), 0
    if chosen == "csv":
        header = lines[0].strip() if lines else ""
        columns, first = COLUMNS_WITH_ID if header == ",".join(COLUMNS_WITH_ID) else COLUMNS, 1
        if header != ",".join(columns):
            raise ValueError(f"{path} must begin with the line {','.join(COLUMNS)}, got {header[:60]!r}")
    rows = []
    for index, line in enumerate(lines[first:]):
        if not line.strip() and columns is not _BOX_COLUMNS:
            continue
        try:
            rows.append(_from_line(chosen, columns, line, index))
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise ValueError(
                f"{path} line {first + index + 1} must hold {','.join(columns)} as {chosen}, got {line[:60]!r}"
            ) from error
    return rows


def _format_of(path: str | Path, format: str | None) -> str:
    suffixes = [suffix for suffix in SUFFIXES if Path(path).name.lower().endswith(suffix)]
    chosen = format or (SUFFIXES[max(suffixes, key=len)] if suffixes else None)
    if chosen is None:
        raise ValueError(
            f"results file must end in {', '.join(SUFFIXES)}, "
            f"or its format be named ({', '.join(FORMATS)}), got {path}"
        )
    if chosen not in FORMATS:
        raise ValueError(f"results format must be one of {', '.join(FORMATS)}, got {format!r}")
    return chosen


def _format_to_write(path: str | Path, format: str | None, with_ids: bool) -> str:
    chosen = _format_of(path, format)
    if with_ids and chosen not in _FORMATS_WITH_ID:
        raise ValueError(
            f"{path} would be written as {chosen}, which has no place for the ids of several targets: "
            f"name it .mot.txt, .csv or .jsonl, or choose the format {', '.join(_FORMATS_WITH_ID)}"
        )
    return chosen


def _header(with_ids: bool) -> str:
    return ",".join(COLUMNS_WITH_ID if with_ids else COLUMNS)


def _to_line(format: str, row: ResultRow) -> str:
    (x, y, w, h), score, state = row.result
    if format == "jsonl":
        which = {"frame": int(row.frame)} | ({} if row.id is None else {"id": int(row.id)})
        box = {key: round(float(value), 3) for key, value in zip("xywh", (x, y, w, h), strict=True)}
        # JSON has no NaN, which is the score of rows that come from a benchmark's text.
        certainty = None if math.isnan(score) else round(float(score), 4)
        return json.dumps({**which, **box, "score": certainty, "state": state}, allow_nan=False)
    origin = _FIRST_PIXEL.get(format, 0)
    text = f"{x + origin:.3f},{y + origin:.3f},{w:.3f},{h:.3f}"
    if format == "mot":  # a target that is alone is the first
        return f"{row.frame + 1:d},{1 if row.id is None else row.id:d},{text},{score:.4f},-1,-1,-1"
    if format == "csv":
        id = "" if row.id is None else f"{row.id:d},"
        return f"{row.frame:d},{id}{text},{score:.4f},{state}"
    return text


def _from_line(format: str, columns: tuple[str, ...], line: str, index: int) -> ResultRow:
    if format == "jsonl":
        return _from_fields(json.loads(line))
    words = re.split(r"[,\s]+", line.strip())
    if format == "mot":
        words = words[: len(columns)]  # what follows says nothing about a box in a picture
    fields: dict[str, Any] = {"frame": index, "score": None, **dict(zip(columns, words, strict=True))}
    origin = _FIRST_PIXEL.get(format, 0)
    fields |= {"x": float(fields["x"]) - origin, "y": float(fields["y"]) - origin}
    if format == "mot":
        fields["frame"] = int(fields["frame"]) - 1
    if "state" not in fields:
        known = all(math.isfinite(float(fields[side])) for side in _BOX_COLUMNS)
        fields["state"] = "tracking" if known else "lost"
    return _from_fields(fields)


def _from_fields(fields: dict[str, Any]) -> ResultRow:
    x, y, w, h = (float(fields[side]) for side in _BOX_COLUMNS)
    score = math.nan if fields["score"] is None else float(fields["score"])
    id = int(fields["id"]) if "id" in fields else None
    return ResultRow(int(fields["frame"]), Result((x, y, w, h), score, str(fields["state"])), id)
