"""Video files as `Frames`: any frame by its index, the same picture as when the file is read from its beginning.

Each thread opens its own, a few at a time; what is sent to a worker is a path and the times of the frames.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from mixformerv2.video import VideoSource, open_video

VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts")

# Training reads the template, the online template and the search frame of one clip, then goes to another.
OPEN_VIDEOS = 4
KEPT_FRAMES = 4


class Stamp(NamedTuple):
    """Tells a file from another one that was there under the same name."""

    num_bytes: int
    changed_ns: int

    @classmethod
    def of(cls, path: Path) -> Stamp:
        state = path.stat()
        return cls(state.st_size, state.st_mtime_ns)


class Timeline(NamedTuple):
    """The frames of a video in the order in which they are shown."""

    ticks: Int[np.ndarray, " frames"] | None
    """when each is shown, by the clock of the stream; None if the clock does not tell the frames apart"""
    num_frames: int
    keys: Int[np.ndarray, " keys"]
    """indexes of the frames that decoding can start from; the first is 0"""

    @classmethod
    def of(cls, ticks: list[int | None], is_key: list[bool]) -> Timeline:
        known = np.array([tick for tick in ticks if tick is not None], np.int64)
        if len(known) < len(ticks) or (np.diff(known) <= 0).any():
            return cls(None, len(ticks), np.zeros(1, np.int64))
        return cls(known, len(ticks), np.union1d([0], np.flatnonzero(is_key)))


@dataclass(frozen=True, eq=False)
class VideoFrames:
    """The frames that `open_source` yields for a video file, in any order.

    Reading on is as fast as decoding. A frame elsewhere costs decoding from the key frame before it, often some
    hundred frames: who reads much and at random does better with the clips packed into images.
    """

    path: Path
    timeline: Timeline
    stamp: Stamp
    """of the file that the timeline was made from"""

    @classmethod
    def find(cls, path: Path | str, expected: int | None = None) -> VideoFrames:
        """The frames of a file, counted by decoding all of it, whatever its header says.

        A file that has as many packets as frames are `expected` is believed to hold them, and not decoded.
        Raises ValueError if it is no video that can be decoded.
        """
        path = Path(path)
        if not path.is_file():
            raise ValueError(f"the video file {path} is missing")
        stamp = Stamp.of(path)
        if expected is not None and (timeline := _timeline_of_packets(path, stamp)).num_frames == expected:
            return cls(path, timeline, stamp)
        return cls(path, _timeline_of_frames(path, stamp), stamp)

    def __len__(self) -> int:
        return self.timeline.num_frames

    def read(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        return _videos_of(os.getpid(), threading.get_ident()).read(self, range(len(self))[index])

    def place(self, index: int) -> str:
        return f"{self.path} frame {index}"


def _open(path: Path) -> VideoSource:
    return open_video(str(path), name=path.name)


@lru_cache(maxsize=256)
def _timeline_of_packets(path: Path, stamp: Stamp) -> Timeline:  # noqa: ARG001 - a changed file is another key
    with closing(_open(path)) as source:
        packets = (packet for packet in source.packets() if packet is not None and packet.size)
        shown = [(packet.pts, packet.is_keyframe) for packet in packets if not packet.is_discard]
    # They are stored in the order in which they are decoded.
    known = sorted((tick, is_key) for tick, is_key in shown if tick is not None)
    if len(known) < len(shown):
        return Timeline.of([None] * len(shown), [])
    return Timeline.of([tick for tick, _ in known], [is_key for _, is_key in known])


@lru_cache(maxsize=256)
def _timeline_of_frames(path: Path, stamp: Stamp) -> Timeline:  # noqa: ARG001
    with closing(_open(path)) as source:
        frames = [(frame.pts, bool(frame.key_frame)) for frame in source.raw_frames()]
    if not frames:
        raise ValueError(f"{path} has no frame that can be decoded: it must be a whole video file")
    return Timeline.of([tick for tick, _ in frames], [is_key for _, is_key in frames])


class _Decoder:
    """One open video. It decodes onward where it can, and else seeks to the key frame before the frame wanted."""

    def __init__(self, video: VideoFrames) -> None:
        self.path = video.path
        self.frames: Iterator[Any]
        self.ticks, _, self.keys = video.timeline
        self.kept: OrderedDict[int, UInt8[np.ndarray, "h w 3"]] = OrderedDict()
        self._start()

    def read(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        if index not in self.kept:
            self.kept[index] = self.source.to_rgb(self._decode(index))
        self.kept.move_to_end(index)
        if len(self.kept) > KEPT_FRAMES:
            self.kept.popitem(last=False)
        return self.kept[index].copy()  # the caller may draw on it

    def close(self) -> None:
        self.source.close()

    def _decode(self, index: int) -> Any:
        nearest = int(np.searchsorted(self.keys, index, side="right")) - 1
        if not self.keys[nearest] <= self.position <= index:
            self._seek(nearest)
        frame = self._forward(index)
        if frame is None or (self.ticks is not None and frame.pts != self.ticks[index]):
            # Damage, or a key frame that was none: only counting from the beginning is right.
            self._start_over()
            frame = self._forward(index)
        if frame is None:
            raise ValueError(f"frame {index} of {self.path} cannot be decoded: {self.position} frames can")
        return frame

    def _forward(self, index: int) -> Any:
        frame = None
        while self.position <= index:
            frame = next(self.frames, None)
            if frame is None:
                break
            self.position += 1
        return frame

    def _seek(self, nearest: int) -> None:
        """Go to a key frame, by way of one before it where the container's own table leads past it."""
        assert self.ticks is not None  # else there is but one key frame, the first
        wanted = int(self.ticks[self.keys[nearest]])
        for earlier in range(max(nearest - 2, 1), nearest + 1)[::-1]:
            self.source.container.seek(int(self.ticks[self.keys[earlier]]), stream=self.source.stream)
            self.frames = self.source.raw_frames()
            # What is stored after a key frame but shown before it may lack the pictures that it builds on.
            first = next((frame for frame in self.frames if (frame.pts or 0) >= wanted), None)
            if first is not None and first.pts == wanted:
                self.frames = itertools.chain([first], self.frames)
                self.position = int(self.keys[nearest])
                return
        self._start_over()

    def _start_over(self) -> None:
        self.source.close()
        self._start()

    def _start(self) -> None:
        self.source = _open(self.path)
        # The workers of a loader already keep all cores busy, and threads do not outlive a fork.
        self.source.stream.codec_context.thread_count = 1
        self.frames = self.source.raw_frames()
        self.position = 0


class _OpenVideos:
    """The videos that a thread holds open; the one that was read longest ago is closed for a new one."""

    def __init__(self) -> None:
        self._decoders: OrderedDict[tuple[Path, Stamp], _Decoder] = OrderedDict()

    def read(self, video: VideoFrames, index: int) -> UInt8[np.ndarray, "h w 3"]:
        which = (video.path, video.stamp)
        if which not in self._decoders:
            self._decoders[which] = _Decoder(video)
        self._decoders.move_to_end(which)
        if len(self._decoders) > OPEN_VIDEOS:
            self._decoders.popitem(last=False)[1].close()
        return self._decoders[which].read(index)


# Without a limit: a forked process must not even close what it has from its parent, for that waits for threads which
# the fork left behind.
@cache
def _videos_of(process: int, thread: int) -> _OpenVideos:  # noqa: ARG001
    return _OpenVideos()
