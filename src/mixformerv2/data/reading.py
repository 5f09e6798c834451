"""What a chunk of examples shows: plans drawn, their frames looked at from disk or from a bank that holds them all.

An example whose file cannot be read is drawn anew, always in the same way, and the file is counted.
"""

from __future__ import annotations

import collections
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Int, Int64, UInt8
from torch import Tensor

from mixformerv2.data.bank import ImageBank, look, read_rgbm
from mixformerv2.data.memory import Decoded
from mixformerv2.data.pairs import Seen
from mixformerv2.data.plan import BEHIND, Plan
from mixformerv2.data.sampler import Sampler
from mixformerv2.data.views import part_to_frame

T = TypeVar("T")
_TRIES = 50  # for an example whose files can be read


class UnreadableError(ValueError):
    """A frame that cannot be read."""

    def __init__(self, place: str) -> None:
        super().__init__(place)
        self.place = place


@dataclass(frozen=True)
class Stream:
    """Which examples follow each other: all that chunk number k depends on, but for their pixels."""

    sampler: Sampler
    chunk: int
    seed: int
    search_px: int
    template_px: int

    def generators(self, index: int) -> tuple[np.random.Generator, np.random.Generator, int]:
        """Of a chunk's plan, of how its pictures are degraded, and the seed of the noise on its device."""
        plan, degrade, noise = np.random.SeedSequence([self.seed, index]).spawn(3)
        return (
            np.random.default_rng(plan),
            np.random.default_rng(degrade),
            int(noise.generate_state(1, np.uint64)[0] >> 1),
        )

    def plan(
        self, index: int, show: Callable[[Plan, int], T]
    ) -> tuple[Plan, list[T], collections.Counter[str]]:
        """The plan of a chunk, what `show` gives for each of its examples, and how often each file was skipped.

        `show` takes an example by its row and raises UnreadableError to have another drawn.
        Raises ValueError if that never ends.
        """
        skipped: collections.Counter[str] = collections.Counter()
        plan = self.sampler.draw(self.chunk, self.generators(index)[0])
        shown = [self._shown(plan, index, row, show, skipped) for row in range(self.chunk)]
        skipped.update(self.sampler.broken)
        self.sampler.broken.clear()
        return plan, shown, skipped

    def _shown(
        self,
        plan: Plan,
        index: int,
        row: int,
        show: Callable[[Plan, int], T],
        skipped: collections.Counter[str],
    ) -> T:
        for attempt in range(1, _TRIES + 1):
            try:
                return show(plan, row)
            except UnreadableError as error:
                skipped[error.place] += 1
            # Words of zero do not count in a seed: these are never the ones of a whole chunk.
            again = self.sampler.draw(1, np.random.default_rng([self.seed, index, row + 1, attempt]))
            for all_rows, one in zip(plan, again, strict=True):
                all_rows[row] = one[0]
        raise ValueError(
            f"{_TRIES} examples in a row could not be read, the last for {next(reversed(skipped))}"
        )


class Prepared(NamedTuple):
    """A chunk ready to be composed."""

    number: int
    plan: Plan
    seen: Seen
    skipped: dict[str, int]


class Disk:
    """Looks at frames as they are needed."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    def prepare(self, index: int) -> Prepared:
        """Raises ValueError as `Stream.plan` does."""
        plan, shown, skipped = self.stream.plan(index, self._show)
        last = plan.used.shape[1] - 1

        def windows(search: bool, side_px: int) -> UInt8[Tensor, "n side side 4"]:
            chosen = [w for windows, _ in shown for scene, w in windows if (scene == last) == search]
            stacked = np.stack(chosen) if chosen else np.empty((0, side_px, side_px, 4), np.uint8)
            return torch.from_numpy(stacked)

        seen = Seen(
            windows(False, self.stream.template_px),
            windows(True, self.stream.search_px),
            np.stack([sizes for _, sizes in shown]),
        )
        return Prepared(index, plan, seen, dict(skipped))

    def _show(
        self, plan: Plan, row: int
    ) -> tuple[list[tuple[int, UInt8[np.ndarray, "_ _ 4"]]], Int64[np.ndarray, "scenes 3 2"]]:
        """The windows of an example, with their scenes, and the sizes of the frames they lie in."""
        used = plan.used[row]
        # Stills serve several windows; videos are read onward.
        needed = sorted({tuple(reference) for reference in plan.frames[row][used].tolist()})
        pictures = {reference: self._read(*reference) for reference in needed}
        windows = []
        sizes = np.ones((*used.shape, 2), np.int64)
        for scene, layer in np.argwhere(used):
            picture = pictures[tuple(plan.frames[row, scene, layer].tolist())]
            sizes[scene, layer] = picture.shape[1::-1]
            affine = plan.to_frame[row, scene, layer]
            if layer == BEHIND:
                affine = part_to_frame(affine, sizes[scene, layer])
            side_px = self.stream.search_px if scene == len(used) - 1 else self.stream.template_px
            windows.append((int(scene), look(picture, affine, side_px)))
        return windows, sizes

    def _read(self, dataset: int, index: int, frame: int) -> UInt8[np.ndarray, "h w 4"]:
        sequence = self.stream.sampler.sequence(dataset, index)
        try:
            return read_rgbm(sequence, frame)
        except ValueError as error:
            raise UnreadableError(sequence.frames.place(frame)) from error


class Planned(NamedTuple):
    """A chunk whose frames are known but not yet looked at: small, whatever its pictures."""

    number: int
    plan: Plan
    rows: Int64[np.ndarray, "b scenes 3"]  # of each layer in the bank; any for a layer not used
    frame_sizes: Int[np.ndarray, "b scenes 3 2"]
    skipped: dict[str, int]


class MemoryPlans:
    """Finds the frames of each chunk among those held decoded; without their pixels, so that any process can."""

    def __init__(self, stream: Stream, decoded: Decoded) -> None:
        """`decoded` must have all of the stream's datasets."""
        self.stream = stream
        self._first_sequence = np.array([decoded.first_sequence[name] for name in stream.sampler.names])
        self._first_frame, self._rows = decoded.first_frame, decoded.rows
        self._unreadable, self._frame_sizes = decoded.unreadable, decoded.bank.sizes

    def prepare(self, index: int) -> Planned:
        """Raises ValueError as `Stream.plan` does."""
        plan, shown, skipped = self.stream.plan(index, self._show)
        rows = np.stack(shown)
        sizes = np.where(plan.used[..., None], self._frame_sizes[rows], 1)
        return Planned(index, plan, rows, sizes, dict(skipped))

    def _show(self, plan: Plan, row: int) -> Int64[np.ndarray, "scenes 3"]:
        dataset, sequence, frame = np.moveaxis(np.maximum(plan.frames[row], 0), -1, 0)
        first = self._first_frame[self._first_sequence[dataset] + sequence]
        if (first[plan.used[row]] < 0).any():
            raise UnreadableError("a sequence that could not be opened before")
        numbers = np.where(plan.used[row], first + frame, 0)
        rows = np.where(plan.used[row], self._rows[numbers], 0)
        if (rows < 0).any():
            raise UnreadableError(self._unreadable[int(numbers[rows < 0][0])])
        return rows


def look_in_bank(planned: Planned, bank: ImageBank, stream: Stream) -> Prepared:
    """The windows of a chunk, cut on the bank's device."""
    used = planned.plan.used
    to_frame = planned.plan.to_frame.copy()
    to_frame[:, :, BEHIND] = part_to_frame(to_frame[:, :, BEHIND], planned.frame_sizes[:, :, BEHIND])

    def windows(which: slice, side_px: int) -> UInt8[Tensor, "n side side 4"]:
        chosen = used[:, which]
        return bank.view(planned.rows[:, which][chosen], to_frame[:, which][chosen], side_px)

    last = used.shape[1] - 1
    seen = Seen(
        windows(slice(0, last), stream.template_px),
        windows(slice(last, None), stream.search_px),
        planned.frame_sizes,
    )
    return Prepared(planned.number, planned.plan, seen, planned.skipped)
