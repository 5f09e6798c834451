"""Where frames come from: video files, folders and globs of images, cameras, URLs.

Whatever comes in, what comes out is RGB uint8 of shape (height, width, 3), or one sentence saying why not.
"""

from __future__ import annotations

import glob
import math
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from fractions import Fraction
from numbers import Integral
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from mixformerv2.images import IMAGE_SUFFIXES, Frame, as_rgb_uint8, is_image, quiet_opencv, read_image

if TYPE_CHECKING:  # imported where a video is opened: images and arrays are read without PyAV
    import av
    from av.container import InputContainer

URL_SCHEMES = ("rtsp", "rtsps", "rtmp", "http", "https", "srt", "udp")
DEFAULT_FPS = 25.0
URL_TIMEOUT_S = 10.0
_LAST_CAMERA = 9999  # numbers beyond name a driver of OpenCV, too
KINDS_OF_SOURCE = (
    "a video file, a folder or glob of images, a camera number, or an rtsp:// or http(s):// address"
)


class FrameSource(ABC):
    """Iterator of frames from `start_frame` on, contiguous RGB uint8 (height, width, 3); a context manager.

    `fps` is 25 where the source does not know. `num_frames` is what the file declares for the whole of it, None where
    it declares nothing, and `is_counted` whether that is a count and no guess from its duration. `warning` is None
    until the source ends early or turns out to be damaged, then one sentence that says so.
    """

    def __init__(self, name: str, fps: float = DEFAULT_FPS, num_frames: int | None = None) -> None:
        self.name = name
        self.fps = fps
        self.num_frames = num_frames
        self.is_counted = num_frames is not None
        self.start_frame = 0
        self.warning: str | None = None
        self._raw = self.raw_frames()
        self._first: Frame | None = None

    @abstractmethod
    def raw_frames(self) -> Iterator[Any]:
        """Frames before conversion, so that those before `start_frame` cost as little as possible."""

    @abstractmethod
    def to_rgb(self, raw: Any) -> Frame: ...

    @abstractmethod
    def _release(self) -> None: ...

    def start_at(self, start_frame: int) -> None:
        """Read up to `start_frame` and keep that frame: a source without it is refused before any work."""
        for index in range(start_frame + 1):
            raw = next(self._raw, None)
            if raw is None and index == 0:
                raise ValueError(
                    f"{self.name} has no frame that can be decoded: the source must be {KINDS_OF_SOURCE}"
                )
            if raw is None:
                raise ValueError(
                    f"start_frame must be below {index}, as many frames {self.name} has, got {start_frame}"
                )
        self.start_frame = start_frame
        self._first = self.to_rgb(raw)

    def __iter__(self) -> Iterator[Frame]:
        return self

    def __next__(self) -> Frame:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        return self.to_rgb(next(self._raw))

    def close(self) -> None:
        """Let go of the file, camera or connection; iteration is over. A second call does nothing."""
        self._first = None
        self._raw = iter(())
        self._release()

    def __enter__(self) -> FrameSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_source(source: str | Path | int, start_frame: int = 0) -> FrameSource:
    """The frames of `source` from the 0-based `start_frame` on; the first one is decoded before this returns.

    - a video file of any codec FFmpeg reads, turned upright where the file says that it is rotated;
    - a folder of images, a glob pattern, or one image, in natural order (2 before 10);
    - a camera: 0, "0" or "camera:0" (a file that is called 0 is "./0", or a `Path`);
    - an rtsp:// or http(s):// address.

    Raises FileNotFoundError for what is not there, ValueError for what holds no frames or not enough of them.
    """
    if not isinstance(start_frame, Integral) or start_frame < 0:
        raise ValueError(f"start_frame must be a whole number from 0 on, got {start_frame!r}")
    frames = _find(source)
    try:
        frames.start_at(start_frame)
    except BaseException:
        frames.close()
        raise
    return frames


def _find(source: str | Path | int) -> FrameSource:
    if isinstance(source, int) and not isinstance(source, bool):
        return _open_camera(source)
    if not isinstance(source, (str, os.PathLike)):
        raise ValueError(
            f"the source must be {KINDS_OF_SOURCE}, got {type(source).__name__}: frames in memory go to a tracker's "
            "init and update"
        )
    text = str(source)
    if isinstance(source, str):  # a Path is a file or a folder, whatever it is called
        if camera := re.fullmatch(r"(?:camera:)?([0-9]+)", text):
            return _open_camera(int(camera[1]))
        if scheme := re.match(r"([A-Za-z][A-Za-z0-9+.-]+)://", text):
            if scheme[1].lower() not in URL_SCHEMES:
                raise ValueError(
                    f"address must begin with one of {', '.join(URL_SCHEMES)}, got {without_password(text)}"
                )
            return open_video(text, name=without_password(text), is_url=True)
    if os.path.isdir(source) and text:
        images = [path for path in Path(source).iterdir() if is_image(path) and path.is_file()]
        if not images:
            raise ValueError(f"folder {source} must hold images ({', '.join(IMAGE_SUFFIXES)}), got none")
        return ImageSource(Path(source).resolve().name, images)
    if os.path.exists(source):  # a pipe, too
        path = Path(source)
        return ImageSource(path.name, [path]) if is_image(path) else open_video(text, name=path.name)
    if glob.has_magic(text):
        matches = [Path(match) for match in glob.glob(text, recursive=True)]
        images = [path for path in matches if is_image(path) and path.is_file()]
        if not images:
            raise ValueError(
                f"pattern {source} must match images ({', '.join(IMAGE_SUFFIXES)}), got {len(matches)} others"
            )
        return ImageSource(Path(os.path.commonpath([path.parent.resolve() for path in images])).name, images)
    raise FileNotFoundError(f"{text or 'an empty name'} does not exist: the source must be {KINDS_OF_SOURCE}")


class ImageSource(FrameSource):
    """Image files in natural order; each is read when its turn comes, and may have a size of its own."""

    def __init__(self, name: str, paths: list[Path]) -> None:
        self._paths = sorted(paths, key=_natural_order)
        super().__init__(name, num_frames=len(paths))

    def raw_frames(self) -> Iterator[Path]:
        return iter(self._paths)

    def to_rgb(self, raw: Path) -> Frame:
        return read_image(raw)

    def _release(self) -> None:
        pass


class VideoSource(FrameSource):
    """A file or stream decoded by FFmpeg. Damaged packets are skipped, and at the end `warning` says so."""

    def __init__(self, name: str, container: InputContainer, stream: av.VideoStream) -> None:
        from av.video.reformatter import VideoReformatter

        self.container = container
        self.stream = stream
        self._reformatter = VideoReformatter()
        self._turn: _Turn | None = None
        self._broke_off = False
        self._declared_s = _declared_seconds(container, stream)
        fps = _plausible_fps(stream.average_rate)
        num_frames = stream.frames or (round(self._declared_s * fps) if self._declared_s else None)
        super().__init__(name, fps, num_frames)
        self.is_counted = stream.frames > 0

    def packets(self) -> Iterator[av.Packet | None]:
        from av import FFmpegError  # by name: a generator may outlive what a module holds

        try:
            yield from self.container.demux(self.stream)
        except FFmpegError:
            self._broke_off = True
            yield None  # empties the decoder, as the packet at a proper end does

    def raw_frames(self) -> Iterator[av.VideoFrame]:
        from av import FFmpegError

        num_frames = num_damaged = 0
        tick_s = self.stream.time_base or Fraction(0)
        end_s = 0.0
        for packet in self.packets():
            try:
                frames = self.stream.decode(packet)
            except FFmpegError:
                # A live stream is joined between key frames: what comes before the first frame is no damage.
                num_damaged += num_frames > 0
                continue
            for frame in frames:
                num_frames += 1
                num_damaged += frame.is_corrupt
                start_s = (num_frames - 1) / self.fps if frame.pts is None else float(frame.pts * tick_s)
                end_s = max(end_s, start_s + (float((frame.duration or 0) * tick_s) or 1 / self.fps))
                yield frame
        self._warn(num_frames, num_damaged, end_s)

    def _warn(self, num_frames: int, num_damaged: int, end_s: float) -> None:
        slack_s = max(2.5 / self.fps, 0.2)  # headers round, and some count a frame that is never shown
        if self._broke_off or (self._declared_s and end_s + slack_s < self._declared_s):
            expected = f" of about {self.num_frames}" if self.num_frames else ""
            self.warning = f"{self.name} is cut off: it ended after {num_frames} frames{expected}"
        elif num_damaged:
            self.warning = f"{self.name} is damaged (flaws found: {num_damaged}): {num_frames} frames decoded"

    def to_rgb(self, raw: av.VideoFrame) -> Frame:
        # By one thread: FFmpeg would start some for every frame, which takes longer, and they do not outlive a fork.
        pixels = self._reformatter.reformat(raw, format="rgb24", threads=1).to_ndarray()
        if self._turn is None or self._turn.rotation != raw.rotation:
            self._turn = _Turn.of(raw)
        # FFmpeg pads the rows of widths that do not suit its vector code.
        return np.ascontiguousarray(self._turn.upright(pixels), np.uint8)

    def _release(self) -> None:
        self.container.close()


class _Turn(NamedTuple):
    """How a file says that its pictures are shown: mirrored, then turned by quarters counterclockwise."""

    rotation: int  # as FFmpeg tells it, which leaves out whether they are mirrored
    mirrored: bool = False
    quarters: int = 0

    @classmethod
    def of(cls, raw: av.VideoFrame) -> _Turn:
        # Not of every frame: one whose side data was looked at is freed late, for both refer to each other.
        matrix: Any = raw.side_data.get("DISPLAYMATRIX")
        if matrix is None:
            return cls(raw.rotation)
        # A pixel at x, y is shown at ax + cy, bx + dy.
        a, b, _, c, d = (int(number) for number in np.frombuffer(matrix, np.int32)[:5])
        mirrored = a * d < b * c
        if mirrored:
            a, b = -a, -b
        return cls(raw.rotation, mirrored, -round(math.atan2(b, a) / (math.pi / 2)))

    def upright(self, pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.rot90(pixels[:, ::-1] if self.mirrored else pixels, self.quarters)


# FFmpeg draws text files as pictures of a terminal; nobody wants to track in those.
_TEXT_CODECS = {"ansi", "bintext", "idf", "xbin"}


def open_video(address: str, name: str, is_url: bool = False) -> VideoSource:
    import av
    from av.stream import Disposition

    shown = name if is_url else address
    place = (
        address if is_url else os.path.abspath(address)
    )  # FFmpeg takes what comes before a colon for a protocol
    options = {"rtsp_transport": "tcp"} if is_url and address.lower().startswith("rtsp") else {}
    try:
        container = av.open(place, options=options, timeout=URL_TIMEOUT_S if is_url else None)
    except (av.error.ExitError, av.error.TimeoutError) as error:
        raise ValueError(f"{shown} did not answer within {URL_TIMEOUT_S:g} s") from error
    except av.FFmpegError as error:
        wrong, right = "cannot be opened", "a running stream"
        if not is_url:
            wrong = "is not a video that can be read"
            right = "a whole video file (this one may be cut off or of another kind)"
        raise ValueError(f"{shown} {wrong} ({error.strerror}): the source must be {right}") from error
    # The cover picture of a song is a video stream too, of one frame.
    streams = [each for each in container.streams.video if not each.disposition & Disposition.attached_pic]
    if not streams or streams[0].codec_context is None or streams[0].codec_context.name in _TEXT_CODECS:
        container.close()
        raise ValueError(
            f"{shown} has no video stream that can be decoded: the source must be {KINDS_OF_SOURCE}"
        )
    # Threads that decode a frame each give it out as many frames later: nothing to a file, much to a live stream.
    is_live = is_url and not address.lower().startswith("http")
    streams[0].thread_type = "SLICE" if is_live else "AUTO"
    return VideoSource(name, container, streams[0])


def _declared_seconds(container: InputContainer, stream: av.VideoStream) -> float | None:
    """How long the file says that its pictures last; None where it does not say."""
    if container.format.name == "avi" and stream.frames and stream.average_rate:
        # Its duration is guessed from the bytes that are left.
        return float(stream.frames / stream.average_rate)
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    if tag := re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", "")):  # Matroska
        return int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3])
    if container.duration and len(container.streams) == 1:
        return container.duration / 1_000_000  # FFmpeg counts in microseconds
    return None


class CameraSource(FrameSource):
    """A camera read through OpenCV; it ends only when the camera stops delivering."""

    def __init__(self, number: int, capture: cv2.VideoCapture) -> None:
        self._capture = capture
        super().__init__(f"camera {number}", _plausible_fps(capture.get(cv2.CAP_PROP_FPS)))

    def raw_frames(self) -> Iterator[npt.NDArray[Any]]:
        num_frames = 0
        while True:
            delivered, frame = self._capture.read()
            if not delivered:
                self.warning = f"{self.name} stopped after {num_frames} frames"
                return
            num_frames += 1
            yield frame

    def to_rgb(self, raw: npt.NDArray[Any]) -> Frame:
        return as_rgb_uint8(raw, channels="bgr")

    def _release(self) -> None:
        self._capture.release()


def _open_camera(number: int) -> CameraSource:
    if not 0 <= number <= _LAST_CAMERA:
        raise ValueError(f"camera must be a number from 0 to {_LAST_CAMERA}, got {number}")
    with quiet_opencv():
        capture = cv2.VideoCapture(number)
    if not capture.isOpened():
        raise ValueError(
            f"camera {number} cannot be opened: it must be plugged in, permitted and not in use elsewhere"
        )
    return CameraSource(number, capture)


def _natural_order(path: Path) -> list[str | int]:
    """A sort key by which frame2 comes before frame10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", str(path))]


def _plausible_fps(rate: float | Fraction | None) -> float:
    return float(rate) if rate and 0 < rate <= 1000 else DEFAULT_FPS


def without_password(address: str) -> str:
    """For messages and names of files."""
    return re.sub(r"://[^/]*@", "://", address)
