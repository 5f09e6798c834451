"""Datasets packed into a few large tar files, for object stores and many machines; read by byte range, never unpacked.

The members follow the WebDataset convention, so that other programs can stream them: `KEY.jpg`, `KEY.json` with box
and flags, and `KEY.png` where there is a mask. `index.json`, written last, says where every picture lies.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tarfile
import time
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Int, UInt8

from mixformerv2.data.sequence import LazySequences, Sequence

INDEX_NAME = "index.json"
_INDEX_BEGINS = b'{"packed": 1, '
_PAUSES_S = (0.5, 2.0, 8.0)  # before a request that failed is made again
_BLOCK = 512  # tar files consist of such


@dataclass(frozen=True, eq=False)
class ByteRanges:
    """Parts of one file, local or behind any address that fsspec opens."""

    url: str
    offsets: Int[np.ndarray, " parts"]
    sizes: Int[np.ndarray, " parts"]

    def read(self, part: int) -> bytes:
        """Raises ValueError, naming the file, if it cannot be read or ends too early."""
        offset, size = int(self.offsets[part]), int(self.sizes[part])
        content = _fetch(self.url, offset, offset + size)
        if len(content) != size:
            raise ValueError(f"{self.url} ends before byte {offset + size}: it was not copied whole")
        return content


@dataclass(frozen=True, eq=False)
class PackedFrames:
    """Pictures in a shard. Nothing is open in between, so that it can be sent to any worker."""

    ranges: ByteRanges

    def __len__(self) -> int:
        return len(self.ranges.offsets)

    def read(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        return decode_rgb(self.ranges.read(index), self.place(index))

    def place(self, index: int) -> str:
        return f"{self.ranges.url} at byte {self.ranges.offsets[index]}"


@dataclass(frozen=True, eq=False)
class PackedMasks:
    """Masks in a shard, beside their pictures."""

    ranges: ByteRanges

    def read(self, index: int) -> Bool[np.ndarray, "h w"]:
        encoded = np.frombuffer(self.ranges.read(index), np.uint8)
        mask = cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE)
        if mask is None:
            raise ValueError(f"{self.ranges.url} at byte {self.ranges.offsets[index]} holds no mask")
        return np.asarray(mask > 0)


def decode_rgb(encoded: bytes, place: str) -> UInt8[np.ndarray, "h w 3"]:
    """The picture as stored, not turned by its EXIF. Raises ValueError naming the place if it is none."""
    image = None
    if encoded:
        image = cv2.imdecode(
            np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        )
    if image is None:
        raise ValueError(f"{place} cannot be read as an image")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def is_packed(root: Path) -> bool:
    """Whether `pack` has written to this folder, perhaps without coming to its end."""
    index = root / INDEX_NAME
    if not index.is_file():
        return _is_unfinished(root)
    with index.open("rb") as stream:
        return stream.read(len(_INDEX_BEGINS)) == _INDEX_BEGINS


def read_shards(root: Path | str) -> dict[str, LazySequences]:
    """The packed datasets in a folder or behind an address such as s3://bucket/packed, under the keys they had.

    Raises ValueError if there are none, or if the packing was not finished.
    """
    index = _Index.read(str(root).rstrip("/"))
    return {
        key: LazySequences(tuple(lines), partial(_load_sequence, index, key))
        for key, lines in index.lines.items()
    }


def incomplete_shards(root: Path | str) -> list[str]:
    """A sentence for each shard that is missing or of another length than written; nothing is read."""
    index = _Index.read(str(root).rstrip("/"))
    sentences = []
    for name, num_bytes in index.shards:
        url = f"{index.root}/{name}"
        try:
            found = _size(url)
        except OSError:
            sentences.append(f"the shard {url} is missing")
            continue
        if found != num_bytes:
            sentences.append(
                f"the shard {url} must have {num_bytes} bytes, got {found}: it was not copied whole"
            )
    return sentences


class _Index:
    """The content of index.json: a line that names everything, and one line of numbers for each sequence.

    Lines are taken apart when asked for, as a large dataset has a hundred megabytes of them. Another process
    gets the address, and reads for itself.
    """

    def __init__(self, root: str, content: bytes) -> None:
        header, *numbers = content.split(b"\n")
        named = json.loads(header + b"]}")
        self.root = root
        self.shards: list[tuple[str, int]] = [(name, num_bytes) for name, num_bytes in named["shards"]]
        lines = iter(numbers)
        self.lines: dict[str, dict[str, bytes]] = {
            key: dict(zip(names, islice(lines, len(names)), strict=True))
            for key, names in named["datasets"].items()
        }
        if [*lines] != [b"]}", b""]:
            raise ValueError("it has another number of lines than sequences")

    def __reduce__(self) -> tuple[Any, ...]:
        return (_Index.read, (self.root,))

    @classmethod
    def read(cls, root: str) -> _Index:
        url = f"{root}/{INDEX_NAME}"
        try:
            content = _fetch(url)
        except FileNotFoundError as error:
            if _is_unfinished(Path(root)):
                raise ValueError(
                    f"{root} holds shards but no {INDEX_NAME}: its packing was not finished, delete it and pack again"
                ) from error
            raise ValueError(
                f"no packed dataset in {root}: expected {url}, as written last by data pack"
            ) from error
        try:
            return cls(root, content)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{url} is damaged, copy it again or pack again: {error}") from error


def _load_sequence(index: _Index, key: str, name: str) -> Sequence:
    columns = json.loads(index.lines[key][name].rstrip(b","))
    url = f"{index.root}/{columns['shard']}"
    flags = {
        which: None if columns.get(which) is None else np.array(columns[which], bool)
        for which in ("occluded", "out_of_view", "unknown")
    }
    return Sequence(
        name,
        PackedFrames(_ranges(url, columns["image"])),
        np.array([box or (np.nan,) * 4 for box in columns["box"]], np.float64),
        absent=np.array(columns["absent"], bool),
        masks=None if columns["mask"] is None else PackedMasks(_ranges(url, columns["mask"])),
        source=f"{index.root}, number {columns['source']}" if "source" in columns else None,
        **flags,
    )


def _ranges(url: str, places: list[list[int]]) -> ByteRanges:
    offsets, sizes = np.array(places, np.int64).T
    return ByteRanges(url, offsets, sizes)


class ShardFiles:
    """The tar files of one dataset, written one after another; a context manager.

    Members are appended to the sequence under way, which is then finished or given up.
    """

    def __init__(self, stem: Path, max_bytes: int) -> None:
        self.written: list[tuple[str, int]] = []
        """names and lengths of the closed ones"""
        self._stem = stem
        self._max_bytes = max_bytes
        self._path = Path(f"{self._stem}-000000.tar")
        self._stream = self._path.open("x+b")
        self._begin = 0

    def add(self, name: str, content: bytes) -> tuple[int, int]:
        """Append a member; where its content begins and how long it is."""
        member = tarfile.TarInfo(name)
        member.size = len(content)
        self._stream.write(member.tobuf(tarfile.GNU_FORMAT))
        offset = self._stream.tell()
        self._stream.write(content + bytes(-len(content) % _BLOCK))
        return offset, len(content)

    def give_up(self) -> None:
        self._stream.seek(self._begin)
        self._stream.truncate()

    def finish(self) -> tuple[str, int]:
        """Keep the sequence; the name of its shard, and by how many bytes it moved where that became too long."""
        end, shift = self._stream.tell(), 0
        if self._begin and end + 2 * _BLOCK > self._max_bytes:
            shift = -self._begin
            self._begin_next_shard()
        self._begin = end + shift
        return self._path.name, shift

    def _begin_next_shard(self) -> None:
        """Move the sequence under way into a new file."""
        path = Path(f"{self._stem}-{len(self.written) + 1:06d}.tar")
        stream = path.open("x+b")
        self._stream.seek(self._begin)
        shutil.copyfileobj(self._stream, stream)
        self.give_up()
        self.close()
        self._path, self._stream = path, stream

    def close(self) -> None:
        """Finish the last file; one without a sequence is removed."""
        if self._stream.tell():
            self._stream.write(bytes(2 * _BLOCK))
            self.written.append((self._path.name, self._stream.tell()))
        else:
            self._path.unlink()
        self._stream.close()

    def __enter__(self) -> ShardFiles:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()


def plain_name(name: str) -> str:
    """A name that is safe in files and archives everywhere."""
    return re.sub(r"[^\w.-]", "_", name, flags=re.ASCII)[:60]


def _is_unfinished(root: Path) -> bool:
    return root.is_dir() and not (root / INDEX_NAME).exists() and any(root.glob("*-000000.tar"))


def _fetch(url: str, start: int | None = None, end: int | None = None) -> bytes:
    """Bytes of a file. Raises FileNotFoundError for a missing one without a range, else ValueError."""
    try:
        if "://" in url:
            return _fetch_remote(url, start, end)
        with open(url, "rb") as stream:
            stream.seek(start or 0)
            return stream.read(-1 if end is None else end - (start or 0))
    except OSError as error:
        if start is None and isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{url} cannot be read: {error.strerror or error}") from error


def _fetch_remote(url: str, start: int | None, end: int | None) -> bytes:
    """A request that fails is made again, later and later. Raises FileNotFoundError at once, else ValueError."""
    files, path = _file_system(url)
    for pause_s in (*_PAUSES_S, None):
        try:
            return bytes(files.cat_file(path, start=start, end=end))
        except FileNotFoundError:
            raise
        except Exception as error:  # each file system has errors of its own
            if pause_s is None:
                raise ValueError(f"{url} cannot be read: {error}") from error
            time.sleep(pause_s)
    raise AssertionError("the last attempt returns or raises")


def _size(url: str) -> int:
    if "://" not in url:
        return os.path.getsize(url)
    files, path = _file_system(url)
    return int(files.size(path))


def _file_system(url: str) -> tuple[Any, str]:
    # Looked up each time: fsspec keeps one connection per process, and a forked worker must not use its parent's.
    try:
        import fsspec

        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise ValueError(f"{url} needs a package that is not installed: {error}") from error
