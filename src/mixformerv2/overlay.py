"""Results made visible: drawn onto a frame, and such frames written as an H.264 video."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import cv2
import numpy as np
from av.container import OutputContainer
from av.video.reformatter import Colorspace, VideoReformatter

from mixformerv2.files import PartialFile
from mixformerv2.images import Frame
from mixformerv2.results import Result

COLOURS = {"tracking": (64, 224, 96), "lost": (255, 80, 48)}
_DARK = (16, 16, 16)
_LIGHT = (245, 245, 245)
_GOLDEN_SHARE = 0.618034  # steps of this size around a circle never meet
_FONT = cv2.FONT_HERSHEY_SIMPLEX

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv")
# Builds of PyAV without x264 exist; the last one is always there.
ENCODERS = ("libx264", "libopenh264", "mpeg4")
_BT709 = 1  # AVCOL_SPC_BT709; without the tag players guess the matrix from the frame's height


def draw(frame: Frame, result: Result, fps: float | None = None) -> Frame:
    """A copy of the RGB uint8 `frame` with the box, coloured by state, and a line "score state speed".

    Lines and letters grow with the frame. Words that a small frame has no room for are left out, speed first.
    """
    canvas = np.array(frame, order="C")
    colour = COLOURS.get(result.state, _LIGHT)
    words = [f"{result.score:.2f}", result.state]
    if fps is not None:
        words.append(f"{fps:.0f} fps")
    _label(canvas, words, colour)
    _outline(canvas, result.box, colour)
    return canvas


def draw_many(frame: Frame, results: Mapping[int, Result], fps: float | None = None) -> Frame:
    """A copy of the RGB uint8 `frame` with a box, coloured by id, and a label "#id score" for every target.

    The box of a target that is lost is drawn through, corner to corner. A line at the bottom, where labels seldom
    come, counts targets and speed.
    """
    canvas = np.array(frame, order="C")
    for id, result in results.items():
        _outline(canvas, result.box, colour_of(id))
        if result.state == "lost":
            (left, top), (right, bottom) = _corners(result.box)
            cv2.line(canvas, (left, bottom), (right, top), colour_of(id), _stroke(canvas), cv2.LINE_AA)
    for id, result in results.items():  # above all boxes
        (left, top), _ = _corners(result.box)
        _label(canvas, [f"#{id}", f"{result.score:.2f}"], colour_of(id), (left, top))
    words = [f"{len(results)} target{'s' * (len(results) != 1)}"]
    if fps is not None:
        words.append(f"{fps:.0f} fps")
    _label(canvas, words, _LIGHT, (0, canvas.shape[0]))
    return canvas


def colour_of(id: int) -> tuple[int, int, int]:
    """The colour of a target: neighbouring ids are far apart on the colour wheel, whatever their number."""
    red, green, blue = colorsys.hsv_to_rgb(id * _GOLDEN_SHARE % 1, 0.8, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def _stroke(canvas: Frame) -> int:
    return max(1, round(min(canvas.shape[:2]) / 250))


def _corners(box: tuple[float, float, float, float]) -> tuple[tuple[int, int], tuple[int, int]]:
    x, y, w, h = box
    return (round(x), round(y)), (round(x + w) - 1, round(y + h) - 1)


def _outline(canvas: Frame, box: tuple[float, float, float, float], colour: tuple[int, int, int]) -> None:
    stroke = _stroke(canvas)
    if stroke > 1:  # a dark rim keeps the box visible on any background
        cv2.rectangle(canvas, *_corners(box), _DARK, stroke + 2)
    cv2.rectangle(canvas, *_corners(box), colour, stroke)


def _label(
    canvas: Frame, words: list[str], colour: tuple[int, int, int], above: tuple[int, int] | None = None
) -> None:
    """Words on a dark ground, in the corner of the picture or ``above`` a point, as far as there is room."""
    height, width = canvas.shape[:2]
    scale = max(0.35, min(height, width) / 700)
    weight = max(1, round(scale * 1.5))
    margin = max(2, round(scale * 8))
    while True:
        (text_width, text_height), below = cv2.getTextSize(" ".join(words), _FONT, scale, weight)
        if text_width + 3 * margin <= width or len(words) == 1:
            break
        words = words[:-1]
    label_width, label_height = text_width + 3 * margin, text_height + below + 2 * margin
    left, top = (0, 0) if above is None else (above[0], above[1] - label_height)
    left, top = max(0, min(left, width - label_width)), max(0, min(top, height - label_height))
    cv2.rectangle(canvas, (left, top), (left + label_width, top + label_height), _DARK, cv2.FILLED)
    cv2.rectangle(canvas, (left, top), (left + margin // 2, top + label_height), colour, cv2.FILLED)
    baseline = (left + 2 * margin, top + margin + text_height)
    cv2.putText(canvas, " ".join(words), baseline, _FONT, scale, _LIGHT, weight, cv2.LINE_AA)


class OverlayVideo:
    """An H.264 video being written; a context manager.

    Leaving the block finishes the video, by Ctrl-C or an error too; without a single frame nothing is left.
    The first frame sets the size: later ones of another size are fitted into it with black bars, and an odd
    side is made even by repeating its last row or column.
    """

    def __init__(self, path: str | Path, fps: float, overwrite: bool = False) -> None:
        """Claim `path`, which must end in .mp4, .mov or .mkv.

        Raises ValueError for another suffix or an impossible `fps`, FileExistsError if the file is there and
        `overwrite` is false, another OSError if it cannot be written.
        """
        if Path(path).suffix.lower() not in VIDEO_SUFFIXES:
            raise ValueError(f"video to write must end in {', '.join(VIDEO_SUFFIXES)}, got {path}")
        if not (math.isfinite(fps) and 0 < fps <= 1000):
            raise ValueError(f"fps must be above 0 and at most 1000, got {fps}")
        self.fps = fps
        self.num_frames = 0
        self._partial = PartialFile.claim(path, overwrite)
        self.path = self._partial.target
        self._container: OutputContainer | None = None
        self._reformatter = VideoReformatter()
        self._size = (0, 0)
        self._closed = False

    def write(self, frame: Frame) -> None:
        """Append one RGB uint8 (height, width, 3) frame.

        Raises ValueError for a first frame that no encoder takes, OSError, naming the file, where it cannot be written.
        """
        assert not self._closed
        if self._container is None:
            self._size = frame.shape[1], frame.shape[0]
        container = self._container or self._start()
        if (frame.shape[1], frame.shape[0]) != self._size:
            frame = _letterbox(frame, self._size)
        width, height = self._size
        if width % 2 or height % 2:
            padded = cv2.copyMakeBorder(frame, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
            frame = np.asarray(padded, np.uint8)
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        picture = self._reformatter.reformat(
            picture, format="yuv420p", dst_colorspace=Colorspace.ITU709, threads=1
        )
        with self._named():
            container.mux(self._stream.encode(picture))
        self.num_frames += 1

    @contextmanager
    def _named(self) -> Iterator[None]:
        """What FFmpeg says of a file with a passing name, said of this one."""
        try:
            yield
        except av.FFmpegError as error:
            raise OSError(f"{self.path} cannot be written: {error.strerror}") from error

    def _start(self) -> OutputContainer:
        # The index at the front lets a browser play the file while it loads.
        container = av.open(str(self._partial.path), "w", options={"movflags": "+faststart"})
        self._container = container
        encoder = next(name for name in ENCODERS if name in av.codecs_available)
        options = {"preset": "veryfast", "crf": "20"} if encoder == "libx264" else {}
        stream = container.add_stream(
            encoder, rate=Fraction(self.fps).limit_denominator(1001), options=options
        )
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height = (side + side % 2 for side in self._size)
        stream.pix_fmt = "yuv420p"
        stream.codec_context.colorspace = _BT709
        if encoder != "libx264":
            stream.bit_rate = max(200_000, round(stream.width * stream.height * self.fps * 0.15))
        try:
            stream.codec_context.open()
        except av.FFmpegError as error:
            width, height = self._size
            raise ValueError(
                f"{self.path} cannot be written: the encoder {encoder} takes no frames of {width} x {height} px"
            ) from error
        self._stream = stream
        return container

    def close(self) -> None:
        """Finish the video and move it into place; a second call does nothing."""
        if self._closed:
            return
        if self._container is None or self.num_frames == 0:
            self.discard()
            return
        self._closed = True
        try:
            with self._named():
                self._container.mux(self._stream.encode(None))
                self._container.close()
            self._partial.commit()
        except BaseException:
            self._partial.discard()
            raise

    def discard(self) -> None:
        """Give the video up: nothing is left behind, and a file that was to be replaced stays as it was."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._container is not None:
                with suppress(av.FFmpegError):
                    self._container.close()
        finally:
            self._partial.discard()

    def __enter__(self) -> OverlayVideo:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _letterbox(frame: Frame, size: tuple[int, int]) -> Frame:
    """`frame` scaled to fit `size` (width, height), in the middle of black."""
    width, height = size
    scale = min(width / frame.shape[1], height / frame.shape[0])
    fitted_size = max(1, round(frame.shape[1] * scale)), max(1, round(frame.shape[0] * scale))
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    fitted = cv2.resize(frame, fitted_size, interpolation=interpolation)
    canvas = np.zeros((height, width, 3), np.uint8)
    left, top = (width - fitted_size[0]) // 2, (height - fitted_size[1]) // 2
    canvas[top : top + fitted_size[1], left : left + fitted_size[0]] = fitted
    return canvas
