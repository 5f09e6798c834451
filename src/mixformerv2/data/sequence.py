"""The one type that training and evaluation read video from: frames on disk, one box each.

Nothing is decoded before `frame` is called, so a sequence is cheap to list, to keep and to send to a worker.
"""

from __future__ import annotations

import collections.abc
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, overload, runtime_checkable

import cv2
import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8

from mixformerv2 import geometry


def read_rgb(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """The image as RGB, as stored: an EXIF rotation is ignored, because boxes are annotated without it.

    Raises ValueError if the file is missing or cannot be decoded.
    """
    # Checked first: for a missing file OpenCV also prints a warning of its own.
    if not path.is_file():
        raise ValueError(f"the image file {path} is missing")
    image = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise ValueError(f"the file {path} cannot be read as an image")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


@dataclass(frozen=True)
class NumberedFrames(collections.abc.Sequence[Path]):
    """The paths `folder/00000001.jpg`, ... made when asked for: a large dataset has millions of them."""

    folder: Path
    first: int
    """number in the first file's name"""
    length: int
    """frames, numbered without a gap"""
    digits: int
    """width of the number, filled with zeros"""
    suffix: str = ".jpg"

    @classmethod
    def find(cls, folder: Path, suffix: str = ".jpg", only: range | None = None) -> NumberedFrames:
        """The numbered files in `folder`, those in `only` if given.

        Raises ValueError if there are none or a number is missing between the first and the last.
        """
        names = os.listdir(folder) if folder.is_dir() else []
        stems = [name.removesuffix(suffix) for name in names if name.endswith(suffix)]
        stems = [stem for stem in stems if stem.isdigit() and (only is None or int(stem) in only)]
        # By value: some datasets write 9.jpg, 10.jpg.
        stems.sort(key=int)
        if not stems:
            raise ValueError(f"no frames in {folder}: expected numbered files such as 0001{suffix}")
        frames = cls(folder, int(stems[0]), int(stems[-1]) - int(stems[0]) + 1, len(stems[0]), suffix)
        if len(stems) != frames.length:
            present = set(stems)
            gap = next((path for path in frames if path.name.removesuffix(suffix) not in present), frames[0])
            raise ValueError(f"the frames in {folder} are incomplete: {gap.name} is missing or there twice")
        return frames

    def __len__(self) -> int:
        return self.length

    @overload
    def __getitem__(self, index: int) -> Path: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Path, ...]: ...
    def __getitem__(self, index: int | slice) -> Path | tuple[Path, ...]:
        numbers = range(self.first, self.first + self.length)
        if isinstance(index, slice):
            return tuple(self._path(number) for number in numbers[index])
        return self._path(numbers[index])

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:0{self.digits}d}{self.suffix}"


@runtime_checkable
class Frames(Protocol):
    """The pictures of a sequence; nothing is decoded before it is asked for."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """RGB. Raises ValueError, naming the file, if it cannot be read."""

    def place(self, index: int) -> str:
        """Where the picture lies, for messages."""


@runtime_checkable
class Masks(Protocol):
    """The pixels of the target, frame by frame."""

    def read(self, index: int) -> Bool[np.ndarray, "h w"]:
        """As large as the frame. Raises ValueError, naming the file, if it cannot be read."""


@dataclass(frozen=True)
class ImageFiles:
    """One image file a frame."""

    paths: collections.abc.Sequence[Path]
    """a tuple, or made on demand"""

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        return read_rgb(self.paths[index])

    def place(self, index: int) -> str:
        return str(self.paths[index])


@dataclass(frozen=True)
class _Part:
    """Some in a row of the frames or masks of a video."""

    whole: Any
    indexes: range

    def __len__(self) -> int:
        return len(self.indexes)

    def read(self, index: int) -> Shaped[np.ndarray, "h w *channels"]:
        return self.whole.read(self.indexes[index])

    def place(self, index: int) -> str:
        return str(self.whole.place(self.indexes[index]))


@dataclass(frozen=True, eq=False)
class Sequence:
    """One target in one video, or in one still image: a sequence of one frame.

    Raises ValueError where boxes, flags and frames do not fit together.
    """

    name: str
    frames: Frames
    boxes_frame: Float[np.ndarray, "frames 4"]
    """xyxy, continuous edges, frame px, first pixel from 0 to 1, float64; nan where there is no box"""
    absent: Bool[np.ndarray, " frames"]
    """target not visible, or no box known"""
    occluded: Bool[np.ndarray, " frames"] | None = None
    """target hidden in part or whole; None where the dataset does not say"""
    out_of_view: Bool[np.ndarray, " frames"] | None = None
    """target outside the picture; None where the dataset does not say"""
    masks: Masks | None = None
    """None where only boxes are annotated"""
    unknown: Bool[np.ndarray, " frames"] | None = None
    """of absent frames, those of which nobody says whether they show the target; None where each is annotated"""
    source: str | None = None
    """a name of the picture or video; None: the place of the first frame tells it"""

    def __post_init__(self) -> None:
        rows = {
            "boxes": self.boxes_frame,
            "absence flags": self.absent,
            "occlusion flags": self.occluded,
            "out-of-view flags": self.out_of_view,
            "unknown flags": self.unknown,
        }
        for what, per_frame in rows.items():
            if per_frame is not None and len(per_frame) != len(self.frames):
                raise ValueError(
                    f"sequence {self.name} has {len(per_frame)} {what} for {len(self.frames)} frames"
                )
        broken = np.flatnonzero(~has_area(self.boxes_frame) & ~self.absent)
        if len(broken):
            raise ValueError(
                f"sequence {self.name}: the box of frame {broken[0]} must be finite with positive width and height "
                f"or the frame be flagged absent, got {self.boxes_frame[broken[0]].tolist()}"
            )

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def lacking(self) -> Bool[np.ndarray, " frames"]:
        """Frames that are known to lack the target."""
        return self.absent if self.unknown is None else self.absent & ~self.unknown

    def same_pictures(self, other: Sequence) -> bool:
        """Several targets of one picture or video are sequences of their own."""
        return self.known_by == other.known_by

    @property
    def known_by(self) -> str:
        """The same for all sequences of one picture or video."""
        return self.source or self.frames.place(0)

    def part(self, indexes: range) -> Sequence:
        """Some of the frames in a row, and all that is known of them."""
        shown = slice(indexes.start, indexes.stop)

        def of(flags: Bool[np.ndarray, " frames"] | None) -> Bool[np.ndarray, " part"] | None:
            return None if flags is None else flags[shown]

        return replace(
            self,
            frames=_Part(self.frames, indexes),
            boxes_frame=self.boxes_frame[shown],
            absent=self.absent[shown],
            occluded=of(self.occluded),
            out_of_view=of(self.out_of_view),
            masks=None if self.masks is None else _Part(self.masks, indexes),
            unknown=of(self.unknown),
            source=self.known_by,
        )

    def frame(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """RGB. Raises ValueError, naming the file, if it cannot be read."""
        return self.frames.read(index)

    def check_box(self, index: int, frame: UInt8[np.ndarray, "h w 3"]) -> None:
        """Raises ValueError where the box of this frame, if it has one, lies wholly outside its picture."""
        if self.absent[index]:
            return
        try:
            geometry.check_on_frame(geometry.xyxy_to_xywh(self.boxes_frame[index]), frame.shape[1::-1])
        except ValueError as error:
            raise ValueError(f"sequence {self.name}, frame {index}: {error}") from None


@dataclass(frozen=True)
class LazySequences(
    collections.abc.Sequence
):  # bare: else a type checker at run time opens one to look at it
    """The sequences of a dataset, their files opened one by one when asked for: a large dataset has thousands."""

    names: tuple[str, ...]
    load: Callable[[str], Sequence]
    """raises ValueError, naming the sequence, if it is incomplete"""

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> Sequence: ...
    @overload
    def __getitem__(self, index: slice) -> LazySequences: ...
    def __getitem__(self, index: int | slice) -> Sequence | LazySequences:
        if isinstance(index, slice):
            return LazySequences(self.names[index], self.load)
        return self.load(self.names[index])

    def __iter__(self) -> Iterator[Sequence]:
        # Not the inherited one, which takes an IndexError inside a loader for the end of the list.
        return (self.load(name) for name in self.names)


if TYPE_CHECKING:
    Sequences = collections.abc.Sequence[Sequence]
else:
    # What readers return. A type checked at run time must not name the items: the check would open one.
    Sequences = collections.abc.Sequence


def names_of(sequences: Sequences) -> tuple[str, ...]:
    """The names of a dataset's sequences; none of a lazy one is opened for that."""
    if isinstance(sequences, LazySequences):
        return sequences.names
    return tuple(sequence.name for sequence in sequences)


def pictures_of(sequences: Sequences, names: collections.abc.Collection[str]) -> set[str]:
    """What the sequences of these names are `known_by`, and with them all other targets of the same videos."""
    if not names:
        return set()
    found = set()
    for number, name in enumerate(names_of(sequences)):
        if name in names:
            with suppress(ValueError):  # one that cannot be opened is learned from by nobody
                found.add(sequences[number].known_by)
    return found


def has_area(boxes: Float[np.ndarray, "*rows 4"]) -> Bool[np.ndarray, "*rows"]:
    """Whether each xyxy box is finite with positive width and height."""
    left_top, right_bottom = boxes[..., :2], boxes[..., 2:]
    return np.asarray(np.isfinite(boxes).all(axis=-1) & (right_bottom > left_top).all(axis=-1))
