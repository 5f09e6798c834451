"""A whole video through the tracker and onto disk: overlay video, results file, contact sheet."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mixformerv2.overlay import OverlayVideo, draw
from mixformerv2.results import PartialFile, Result, ResultFile
from mixformerv2.tracker import Tracker
from mixformerv2.video import Frame, open_source


@dataclass(frozen=True)
class Outputs:
    """Files to write; None for those not wanted."""

    video: Path | None = None
    results: Path | None = None
    results_format: str | None = None
    contact_sheet: Path | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class Summary:
    """What a recording came to."""

    frames: int
    lost_frames: int
    tracker_ms: float  # median time of one update; nan when there was none
    interrupted: bool
    warning: str | None  # the source ended early


def record(
    source: str | Path | int,
    box: Any,
    tracker: Tracker,
    outputs: Outputs,
    start_frame: int = 0,
    progress: Callable[[int, int | None], None] | None = None,
) -> Summary:
    """Tracks from ``start_frame`` to the end and writes ``outputs``.

    Ctrl-C ends it early; the files are finished properly. Before the first frame is done it raises KeyboardInterrupt,
    and then, as on any other error before the first frame, nothing is left behind. ``progress`` is called with the
    frames done and the frames to do (None where the source does not know). Raises ValueError or an OSError with one
    sentence for bad input.
    """
    times_ms: list[float] = []
    done = lost = 0
    interrupted = False
    with ExitStack() as stack:
        frames = stack.enter_context(open_source(source, start_frame))
        total = None if frames.num_frames is None else frames.num_frames - start_frame
        results = video = sheet = None
        if outputs.results is not None:
            opened = ResultFile.open(outputs.results, outputs.results_format, outputs.overwrite)
            results = stack.enter_context(opened)
        if outputs.video is not None:
            video = stack.enter_context(OverlayVideo(outputs.video, frames.fps, outputs.overwrite))
        if outputs.contact_sheet is not None:
            sheet = stack.enter_context(ContactSheet(outputs.contact_sheet, outputs.overwrite))
        try:
            for frame in frames:
                if done == 0:
                    tracker.init(frame, box)
                    result = Result(tracker.box, 1.0, "tracking")
                else:
                    began = time.perf_counter()
                    result = tracker.update(frame)
                    times_ms.append(1000 * (time.perf_counter() - began))
                if results is not None:
                    results.write(start_frame + done, result)
                if video is not None or sheet is not None:
                    recent_ms = float(np.mean(times_ms[-25:])) if times_ms else None
                    drawn = draw(frame, result, 1000 / recent_ms if recent_ms else None)
                    for picture in (video, sheet):
                        if picture is not None:
                            picture.write(drawn)
                done += 1
                lost += result.state == "lost"
                if progress is not None:
                    progress(done, total)
        except KeyboardInterrupt:
            if not done:
                raise
            interrupted = True
        median_ms = float(np.median(times_ms)) if times_ms else float("nan")
        return Summary(done, lost, median_ms, interrupted, frames.warning)


class ContactSheet:
    """A picture of twelve frames evenly spread over a video of any length; a context manager that writes it."""

    COLUMNS, TILES, TILE_PX = 4, 12, 320

    def __init__(self, path: Path, overwrite: bool = False) -> None:
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
