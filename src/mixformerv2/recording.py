"""A whole video through the tracker and onto disk: overlay video, results file, contact sheet."""

from __future__ import annotations

import glob
import os
import time
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mixformerv2.files import PartialFile
from mixformerv2.images import Frame, is_image
from mixformerv2.interrupts import Interrupts, as_keyboard_interrupts
from mixformerv2.multitracker import MultiTracker
from mixformerv2.overlay import OverlayVideo, draw, draw_many
from mixformerv2.results import STANDARD_OUTPUT, Result, ResultFile, ResultRow, ResultStream
from mixformerv2.starts import Start
from mixformerv2.tracker import Tracker
from mixformerv2.video import open_source


@dataclass(frozen=True)
class Outputs:
    """Files to write; None for those not wanted."""

    video: Path | None = None
    results: Path | None = None  # `-`: each row on standard output as soon as it is known
    results_format: str | None = None
    contact_sheet: Path | None = None
    overwrite: bool = False
    kept: tuple[ResultRow, ...] | None = None
    """rows of the results that are there, which the new ones go on from; None: the new ones alone"""

    def check_apart(self, read: str | Path | int) -> None:
        """Raises ValueError where one of them is another one, or is what is read: it would be lost."""
        for number, written in enumerate(self.files):
            if os.path.realpath(written) in map(os.path.realpath, self.files[:number]):
                raise ValueError(f"{written} is to be written twice, and one would be lost: name two files")
            check_apart(written, read)

    @property
    def files(self) -> list[Path]:
        """Those that are wanted."""
        wanted = (self.video, self.contact_sheet, self.results)
        return [path for path in wanted if path not in (None, STANDARD_OUTPUT)]


def check_apart(written: Path, read: str | Path | int) -> None:
    """Raises ValueError where a file to write is what is read and would be lost, or would be one of its images."""
    path = Path(str(read))  # a camera or an address is neither a file nor a pattern that matches one
    files = [path] if path.exists() else [Path(match) for match in glob.glob(str(read), recursive=True)]
    if path.is_dir():
        joins = os.path.realpath(written.parent) == os.path.realpath(path)
    else:
        joins = bool(files) and fnmatch(os.path.abspath(written), os.path.abspath(path))
    joins = joins and is_image(written)
    if written.exists() and (joins or any(written.samefile(file) for file in files)):
        raise ValueError(f"{written} is read, and would be lost: name another file to write to")
    if joins:
        raise ValueError(f"{written} would be one of the images that are read: write it elsewhere")


@dataclass(frozen=True)
class Summary:
    """What a recording came to."""

    frames: int
    targets: int
    lost_frames: int  # of all targets together
    tracker_ms: float  # median time of one update; nan when there was none
    interrupted: bool
    warning: str | None  # the source ended early


Progress = Callable[[int, int | None], None]
_ById = dict[int, Result]
_ALONE = 1
_MANY_TIMES, _RECENT_TIMES = 10_000, 25  # of a camera that runs for days the last ones are kept


def record(
    source: str | Path | int,
    box: Any,
    tracker: Tracker,
    outputs: Outputs,
    start_frame: int = 0,
    progress: Progress | None = None,
) -> Summary:
    """Tracks from ``start_frame`` to the end and writes ``outputs``.

    Ctrl-C, SIGTERM and a closed terminal end it early, between two frames; the files are finished properly. Before the
    first frame is done it raises KeyboardInterrupt, and then, as on any other error before the first frame, nothing is
    left behind, and a file that was to be replaced stays as it was.
    ``progress`` is called with the frames done and the frames to do (None where the source does not know). Raises
    ValueError or an OSError with one sentence for bad input.
    """
    return _record(source, start_frame, _Alone(tracker, box), outputs, progress)


def record_many(
    source: str | Path | int,
    starts: Sequence[Start],
    tracker: MultiTracker,
    outputs: Outputs,
    progress: Progress | None = None,
) -> Summary:
    """Tracks every target from its own start to the end, and writes ``outputs`` from the first start on.

    As ``record`` otherwise. A start behind the last frame is an error too: at once where the source has counted its
    frames, else at the end, when all others are written.
    """
    assert starts
    return _record(source, min(start.frame for start in starts), _Many(tracker, starts), outputs, progress)


class _Alone:
    """One target, from the first frame on."""

    with_ids = False

    def __init__(self, tracker: Tracker, box: Any) -> None:
        self._tracker, self._box = tracker, box
        self._began = False

    def update(self, frame: Frame) -> _ById:
        return {_ALONE: self._tracker.update_rgb(frame)} if self._began else {}

    def begin(self, _index: int, frame: Frame) -> _ById:
        if self._began:
            return {}
        self._tracker.init_rgb(frame, self._box)
        self._began = True
        return {_ALONE: Result(self._tracker.box, 1.0, "tracking")}

    def check_end(self, num_frames: int) -> None:
        """The source itself has refused a start behind its end."""


class _Many:
    """Targets that begin in frames of their own."""

    with_ids = True

    def __init__(self, tracker: MultiTracker, starts: Sequence[Start]) -> None:
        self._tracker = tracker
        self._starts: dict[int, list[Start]] = defaultdict(list)
        for start in starts:
            self._starts[start.frame].append(start)

    def update(self, frame: Frame) -> _ById:
        return self._tracker.update_rgb(frame)

    def begin(self, index: int, frame: Frame) -> _ById:
        begun = self._starts.get(index, ())
        for start in begun:
            try:
                self._tracker.add_rgb(frame, start.box, start.id)
            except ValueError as error:
                raise ValueError(f"the target {start.id} cannot begin at frame {index}: {error}") from error
        boxes = self._tracker.boxes if begun else {}
        return {start.id: Result(boxes[start.id], 1.0, "tracking") for start in begun}

    def check_end(self, num_frames: int) -> None:
        last = max(self._starts)
        if last >= num_frames:
            raise ValueError(
                f"the target {self._starts[last][0].id} begins at frame {last}, counted from 0, "
                f"but the source has {num_frames} frames"
            )


def _record(
    source: str | Path | int,
    start_frame: int,
    targets: _Alone | _Many,
    outputs: Outputs,
    progress: Progress | None,
) -> Summary:
    outputs.check_apart(source)
    times_ms, recent_ms = deque[float](maxlen=_MANY_TIMES), deque[float](maxlen=_RECENT_TIMES)
    ids: set[int] = set()
    done = lost = 0
    interrupted = False
    with as_keyboard_interrupts() as interrupts, open_source(source, start_frame) as frames:
        total = None if frames.num_frames is None else frames.num_frames - start_frame
        if frames.num_frames is not None and frames.is_counted:
            targets.check_end(frames.num_frames)
        with _Files(outputs, targets.with_ids, frames.fps, interrupts) as files:
            try:
                for index, frame in enumerate(frames, start_frame):
                    began = time.perf_counter()
                    results = targets.update(frame)
                    if results:
                        for kept in (times_ms, recent_ms):
                            kept.append(1000 * (time.perf_counter() - began))
                    results |= targets.begin(index, frame)
                    with interrupts.held():
                        files.write(index, frame, results, recent_ms)
                        done += 1
                        ids |= results.keys()
                        lost += sum(result.state == "lost" for result in results.values())
                    if progress is not None:
                        progress(done, total)
                targets.check_end(start_frame + done)
            except KeyboardInterrupt:
                if not done:
                    raise
                interrupted = True
            except (ValueError, OSError) as error:
                if not done:
                    raise
                kind = OSError if isinstance(error, OSError) else ValueError
                raise kind(f"{error}; what was tracked before, {done} frames, is written") from error
        median_ms = float(np.median(times_ms)) if times_ms else float("nan")
        return Summary(done, len(ids), lost, median_ms, interrupted, frames.warning)


class _Files:
    """The wanted outputs, open while a recording runs: a context manager, which no signal breaks off in finishing."""

    def __init__(self, outputs: Outputs, with_ids: bool, fps: float, interrupts: Interrupts) -> None:
        self._kept, self._with_ids, self._interrupts = outputs.kept or (), with_ids, interrupts
        self._results: ResultFile | ResultStream | None = None
        self._pictures: list[OverlayVideo | ContactSheet] = []
        self._begun = False
        overwrite = outputs.overwrite
        with ExitStack() as stack:
            if outputs.results == STANDARD_OUTPUT:
                self._results = stack.enter_context(ResultStream(outputs.results_format, with_ids))
            elif outputs.results is not None:
                replace = overwrite or outputs.kept is not None
                results = ResultFile.open(outputs.results, outputs.results_format, replace, with_ids)
                self._results = stack.enter_context(results)
            if outputs.video is not None:
                self._pictures.append(stack.enter_context(OverlayVideo(outputs.video, fps, overwrite)))
            if outputs.contact_sheet is not None:
                self._pictures.append(stack.enter_context(ContactSheet(outputs.contact_sheet, overwrite)))
            self._open = stack.pop_all()

    def __enter__(self) -> _Files:
        return self

    def __exit__(self, *error: Any) -> None:
        with self._interrupts.held(), self._open:
            if not self._begun:  # what was to be replaced stays as it was
                for file in (self._results, *self._pictures):
                    if file is not None:
                        file.discard()

    def write(self, index: int, frame: Frame, results: _ById, recent_ms: Collection[float]) -> None:
        if self._pictures:
            fps = 1000 * len(recent_ms) / sum(recent_ms) if recent_ms else None
            drawn = draw_many(frame, results, fps) if self._with_ids else draw(frame, results[_ALONE], fps)
            for picture in self._pictures:
                picture.write(drawn)
        if self._results is not None:
            for row in () if self._begun else self._kept:
                self._results.write(*row)
            for id, result in results.items():
                self._results.write(index, result, id if self._with_ids else None)
        self._begun = True


class ContactSheet:
    """A picture of twelve frames evenly spread over a video of any length; a context manager that writes it."""

    COLUMNS, TILES, TILE_PX = 4, 12, 320

    def __init__(self, path: Path, overwrite: bool = False) -> None:
        """Claims `path`, which must end in .png. Raises ValueError for another suffix, and as ``PartialFile.claim``."""
        if path.suffix.lower() != ".png":
            raise ValueError(f"a contact sheet must end in .png, got {path}")
        self._file = PartialFile.claim(path, overwrite)
        self._tiles: list[Frame] = []
        self._seen, self._stride = 0, 1

    def write(self, frame: Frame) -> None:
        """Keeps every so many frames; twice as rarely each time that twice the tiles are there."""
        if self._seen % self._stride == 0:
            scale = self.TILE_PX / frame.shape[1]
            size = (self.TILE_PX, max(round(frame.shape[0] * scale), 1))
            self._tiles.append(np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), np.uint8))
            if len(self._tiles) == 2 * self.TILES:
                self._tiles, self._stride = self._tiles[::2], 2 * self._stride
        self._seen += 1

    def discard(self) -> None:
        """Give the picture up: nothing is left behind, and a file that was to be replaced stays as it was."""
        self._tiles.clear()
        self._file.discard()

    def __enter__(self) -> ContactSheet:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._tiles:
            self._file.discard()
            return
        chosen = np.linspace(0, len(self._tiles) - 1, min(self.TILES, len(self._tiles))).round().astype(int)
        height, width = self._tiles[0].shape[:2]
        rows = -(-len(chosen) // self.COLUMNS)
        sheet = np.zeros((rows * height, min(len(chosen), self.COLUMNS) * width, 3), np.uint8)
        for place, index in enumerate(chosen):
            y, x = place // self.COLUMNS * height, place % self.COLUMNS * width
            tile = self._tiles[index][:height]
            sheet[y : y + tile.shape[0], x : x + width] = tile
        try:
            self._file.path.write_bytes(cv2.imencode(".png", sheet[..., ::-1])[1].tobytes())
            self._file.commit()
        except BaseException:
            self._file.discard()
            raise
