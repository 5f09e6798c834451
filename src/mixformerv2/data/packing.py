"""Writing datasets into shards; `shards` says what they are and reads them.

Pictures are encoded by all cores, in order: what is written is the same on any machine.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from mixformerv2.data.sequence import Frames, ImageFiles, LazySequences, Sequence, Sequences, has_area
from mixformerv2.data.shards import INDEX_NAME, PackedFrames, ShardFiles, decode_rgb, plain_name
from mixformerv2.data.video_frames import VideoFrames
from mixformerv2.files import whole_file

Progress = Callable[[str, int, int], None]
"""called with the key of a dataset, how many of its sequences are done, and how many it has"""

_JPEG_BEGINS = b"\xff\xd8\xff"


@dataclass(frozen=True)
class Problem:
    """A sequence that cannot be used, and why."""

    sequence: str
    sentence: str


@dataclass(frozen=True)
class Packed:
    """What `pack` wrote."""

    sequences: int
    frames: int
    shards: int
    num_bytes: int
    problems: tuple[Problem, ...]
    """of the sequences that were left out"""


def pack(
    datasets: Mapping[str, Sequences],
    folder: Path | str,
    *,
    max_bytes: int = 1_000_000_000,
    longest_side_px: int | None = None,
    every: int = 1,
    quality: int = 90,
    progress: Progress | None = None,
) -> Packed:
    """Write `KEY-000000.tar`, ... for each dataset and, when all is done, `index.json` into a new or empty folder.

    A sequence lies whole in one shard; no shard is longer than `max_bytes`, unless a single sequence is.
    Pictures with a side longer than `longest_side_px` are reduced to it, boxes and masks with them. JPEG files are
    copied byte for byte where nothing changes, others encoded with `quality` 1 to 100. Of each sequence the frames
    0, `every`, 2 `every`, ... are kept. A sequence that cannot be read whole is left out and reported.
    Raises ValueError for a wrong argument or if nothing can be packed, FileExistsError if the folder holds files,
    another OSError if it cannot be written to. Whatever ends it early, Ctrl-C too, nothing is left in the folder.
    """
    for what, value in (("max_bytes", max_bytes), ("every", every), ("longest_side_px", longest_side_px)):
        if value is not None and value < 1:
            raise ValueError(f"{what} must be 1 or more, got {value}")
    if not 1 <= quality <= 100:
        raise ValueError(f"quality must be from 1 to 100, got {quality}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise FileExistsError(f"{folder} must be a new or empty folder to pack into, but it holds files")
    packing = _Packing(folder, max_bytes, every, _Encoder(longest_side_px, quality), progress)
    try:
        for key, dataset in datasets.items():
            packing.add(key, dataset)
        return packing.finish()
    except BaseException as error:
        for shard in folder.glob("*.tar"):  # without an index no dataset, and in the way of the next packing
            shard.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror or str(error), str(folder)) from error
        raise


def name_of(dataset: Sequences, number: int) -> str:
    """What to call a sequence that cannot be read: the name in its dataset's list, else its number, from 0."""
    return dataset.names[number] if isinstance(dataset, LazySequences) else f"number {number}"


class _Packing:
    """A folder being filled, one dataset after another."""

    def __init__(
        self, folder: Path, max_bytes: int, every: int, encode: _Encoder, progress: Progress | None
    ) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self.every = every
        self.encode = encode
        self.progress = progress
        self.lines: dict[str, dict[str, str]] = {}
        self.shards: list[tuple[str, int]] = []
        self.sources: dict[str, int] = {}  # pictures and videos, numbered
        self.problems: list[Problem] = []
        self.num_frames = 0

    def add(self, key: str, dataset: Sequences) -> None:
        stem = plain_name(key)
        if any(name == f"{stem}-000000.tar" for name, _ in self.shards):
            stem += f"_{len(self.shards)}"  # two names in another script may look alike in plain letters
        with ShardFiles(self.folder / stem, self.max_bytes) as shards:
            writer = _Writer(key, shards, self.sources, self.problems)
            for job, sample in _ahead(self.encode, _jobs(dataset, self.every, self.problems)):
                writer.take(job, sample)
                if self.progress is not None and job.last:
                    self.progress(key, job.number + 1, len(dataset))
            shards.close()
        if self.progress is not None:
            self.progress(key, len(dataset), len(dataset))
        if writer.lines:
            self.lines[key] = writer.lines
        self.shards += shards.written
        self.num_frames += writer.num_frames

    def finish(self) -> Packed:
        if not self.lines:
            reason = f": {self.problems[0].sentence}" if self.problems else ", there are no sequences"
            raise ValueError(f"nothing can be packed into {self.folder}{reason}")
        self._write_index()
        return Packed(
            sequences=sum(map(len, self.lines.values())),
            frames=self.num_frames,
            shards=len(self.shards),
            num_bytes=sum(num_bytes for _, num_bytes in self.shards),
            problems=tuple(self.problems),
        )

    def _write_index(self) -> None:
        """A JSON object that a reader may also take line by line: all names, then a line for each sequence."""
        with (
            whole_file(self.folder / INDEX_NAME) as path,
            path.open("w", encoding="ascii", newline="\n") as stream,
        ):
            names = {key: [*lines] for key, lines in self.lines.items()}
            header = json.dumps({"packed": 1, "datasets": names, "shards": self.shards})
            stream.write(header.removesuffix("}") + ', "sequences": [\n')
            stream.write(",\n".join(line for lines in self.lines.values() for line in lines.values()))
            stream.write("\n]}\n")


class _Job(NamedTuple):
    """One picture to be packed."""

    number: int
    """of the sequence in its dataset"""
    sequence: Sequence
    frame: int
    last: bool
    """whether it is the last that is kept of its sequence"""
    given: UInt8[np.ndarray, "h w 3"] | ValueError | None
    """RGB of a frame that had to be read in its turn, or why it cannot be read; None if it is still to be read"""


def _jobs(dataset: Sequences, every: int, problems: list[Problem]) -> Iterator[_Job]:
    names: set[str] = set()
    for number in range(len(dataset)):
        try:
            sequence = dataset[number]
        except (ValueError, OSError) as error:
            problems.append(Problem(name_of(dataset, number), str(error)))
            continue
        if sequence.name in names or not len(sequence):
            what = "has the name of another one" if len(sequence) else "has no frames"
            problems.append(Problem(sequence.name, f"sequence {sequence.name} {what}"))
            continue
        names.add(sequence.name)
        kept = range(0, len(sequence), every)
        for frame in kept:
            yield _Job(number, sequence, frame, frame == kept[-1], _in_turn(sequence.frames, frame))


def _in_turn(frames: Frames, frame: int) -> UInt8[np.ndarray, "h w 3"] | ValueError | None:
    if not isinstance(frames, VideoFrames):
        return None  # images can be read in any order, by several threads
    try:
        return frames.read(frame)
    except ValueError as error:
        return error


class _Sample(NamedTuple):
    """What becomes of a picture."""

    jpg: bytes
    png: bytes | None
    size: tuple[int, int]
    """width, height in px"""
    scale: tuple[float, float]
    """by which x and y have changed"""


def _ahead(encode: _Encoder, jobs: Iterator[_Job]) -> Iterator[tuple[_Job, _Sample | ValueError]]:
    """Each job with its sample, in order, while the next ones are being encoded."""
    threads = os.cpu_count() or 1
    waiting: deque[tuple[_Job, Future[_Sample | ValueError]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for job in jobs:
            waiting.append((job, pool.submit(encode, job)))
            if len(waiting) > 2 * threads:
                first, sample = waiting.popleft()
                yield first, sample.result()
        while waiting:
            first, sample = waiting.popleft()
            yield first, sample.result()


@dataclass(frozen=True)
class _Encoder:
    longest_side_px: int | None
    quality: int

    def __call__(self, job: _Job) -> _Sample | ValueError:
        try:
            return self._encode(job)
        except ValueError as error:
            return error
        except OSError as error:
            return ValueError(f"{job.sequence.frames.place(job.frame)} cannot be read: {error.strerror}")

    def _encode(self, job: _Job) -> _Sample:
        pixels, jpg = _pixels_and_original(job)
        mask = _mask(job, pixels)
        height, width = pixels.shape[:2]
        reduction = min(1.0, (self.longest_side_px or np.inf) / max(height, width))
        size = max(1, round(width * reduction)), max(1, round(height * reduction))
        if reduction < 1:
            jpg = None
            pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
            if mask is not None:
                mask = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA) >= 0.5
        if jpg is None:
            bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
            jpg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, self.quality])[1].tobytes()
        png = None if mask is None else cv2.imencode(".png", mask.astype(np.uint8) * 255)[1].tobytes()
        return _Sample(jpg, png, size, (size[0] / width, size[1] / height))


def _pixels_and_original(job: _Job) -> tuple[UInt8[np.ndarray, "h w 3"], bytes | None]:
    """RGB, and the JPEG file that shows exactly that, if there is one."""
    frames, place = job.sequence.frames, job.sequence.frames.place(job.frame)
    original = None
    if isinstance(frames, PackedFrames):
        original = frames.ranges.read(job.frame)
    elif place.lower().endswith((".jpg", ".jpeg")) and os.path.isfile(place):
        original = Path(place).read_bytes()
    shown = None
    if original is not None and original.startswith(_JPEG_BEGINS):
        shown = decode_rgb(original, place)
        if isinstance(frames, (ImageFiles, PackedFrames)):  # these read likewise
            return shown, original
    if isinstance(job.given, ValueError):
        raise job.given
    pixels = frames.read(job.frame) if job.given is None else job.given
    return pixels, original if shown is not None and np.array_equal(shown, pixels) else None


def _mask(job: _Job, pixels: UInt8[np.ndarray, "h w 3"]) -> Bool[np.ndarray, "h w"] | None:
    if job.sequence.masks is None:
        return None
    mask = job.sequence.masks.read(job.frame)
    if mask.shape != pixels.shape[:2]:
        place = job.sequence.frames.place(job.frame)
        raise ValueError(f"the mask of {place} must have the size of the picture, got another")
    return mask


class _Writer:
    """Turns the samples of a dataset into members of shards and lines of the index."""

    def __init__(
        self, key: str, shards: ShardFiles, sources: dict[str, int], problems: list[Problem]
    ) -> None:
        self.lines: dict[str, str] = {}
        self.num_frames = 0
        self._key = key
        self._shards = shards
        self._sources = sources
        self._problems = problems
        self._taken: list[dict[str, Any]] = []
        self._broken = False

    def take(self, job: _Job, sample: _Sample | ValueError) -> None:
        name = job.sequence.name
        if self._broken:
            pass
        elif isinstance(sample, ValueError):
            self._problems.append(Problem(name, str(sample)))
            self._broken = True
        else:
            self._taken.append(self._write(job, sample))
        if not job.last:
            return
        if self._broken:
            self._shards.give_up()
        else:
            shard, shift = self._shards.finish()
            number = self._sources.setdefault(job.sequence.known_by, len(self._sources))
            self.lines[name] = _line(self._taken, shard, shift, number)
            self.num_frames += len(self._taken)
        self._taken, self._broken = [], False

    def _write(self, job: _Job, sample: _Sample) -> dict[str, Any]:
        """Append the members; what the index says of the frame comes out."""
        sequence, frame = job.sequence, job.frame
        box = np.round(sequence.boxes_frame[frame] * np.tile(sample.scale, 2), 4)
        facts: dict[str, Any] = {
            "frame": frame,
            "box": box.tolist() if np.isfinite(box).all() else None,
            "absent": bool(sequence.absent[frame] or not has_area(box)),
            "occluded": None if sequence.occluded is None else bool(sequence.occluded[frame]),
            "out_of_view": None if sequence.out_of_view is None else bool(sequence.out_of_view[frame]),
            "unknown": None if sequence.unknown is None else bool(sequence.unknown[frame]),
        }
        width, height = sample.size
        told = {"dataset": self._key, "sequence": sequence.name, **facts, "width": width, "height": height}
        member = f"{job.number:06d}-{plain_name(sequence.name)}/{frame:08d}"
        facts["image"] = self._shards.add(f"{member}.jpg", sample.jpg)
        self._shards.add(f"{member}.json", json.dumps(told).encode())
        facts["mask"] = None if sample.png is None else self._shards.add(f"{member}.png", sample.png)
        return facts


def _line(frames: list[dict[str, Any]], shard: str, shift: int, source: int) -> str:
    """One sequence of the index: a list per column, null for a column that the sequence lacks.

    ``source`` is the same for all that are of one picture or video, which lies in the shards once for each.
    """
    columns: dict[str, Any] = {"shard": shard, "source": source}
    for column, first in frames[0].items():
        values = [facts[column] for facts in frames]
        if column in ("image", "mask"):
            values = [value and (value[0] + shift, value[1]) for value in values]
        elif isinstance(first, bool):
            values = [int(value) for value in values]
        columns[column] = None if first is None and column != "box" else values
    return json.dumps(columns, separators=(",", ":"))
