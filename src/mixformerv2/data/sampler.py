"""Which frames of which datasets make a training example.

A plan depends on the datasets, the configs and the generator alone, so that any process can draw any part of a run.
"""

from __future__ import annotations

import collections
import collections.abc
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from mixformerv2.data.laying import Cast, Known, Look, lay
from mixformerv2.data.plan import Plan, SampleConfig
from mixformerv2.data.sequence import Sequence, has_area, pictures_of
from mixformerv2.data.views import ViewConfig

if TYPE_CHECKING:
    Datasets = Mapping[str, collections.abc.Sequence[Sequence]]
else:  # bare: else a type checker at run time opens sequences to look at them
    Datasets = Mapping

_TRIES = 20  # for another object
_MANY_TRIES = 1000  # for a sequence to start from


class Sampler:
    """Draws plans from datasets, whose sequences are opened when first drawn."""

    def __init__(
        self,
        datasets: Datasets,
        config: SampleConfig,
        views: ViewConfig | None = None,
        keep: int = 4096,
    ) -> None:
        """`keep` is the number of sequences held open.

        Raises ValueError, naming it, if a dataset with a weight is not there or is empty.
        """
        shares = config.weights or dict.fromkeys(datasets, 1.0)
        names = [name for name, weight in shares.items() if weight > 0]
        for name in names:
            if name not in datasets:
                there = ", ".join(map(repr, datasets)) or "none"
                raise ValueError(f"weights name the dataset {name!r}, but the datasets are {there}")
            if not len(datasets[name]):
                raise ValueError(f"the dataset {name!r} has no sequences")
        if not names:
            raise ValueError("there must be at least one dataset to draw from, got none")
        self.names = names
        self.datasets = [datasets[name] for name in names]
        self.config = config
        self.views = views or ViewConfig()
        self.broken: collections.Counter[str] = collections.Counter()
        """sequences that could not be opened when they were drawn, by what is wrong with them"""
        weights = np.array([shares[name] for name in names])
        self._up_to = np.cumsum(weights / weights.sum())
        self._keep = keep
        self._held_out = {
            picture for dataset in self.datasets for picture in pictures_of(dataset, config.held_out)
        }
        self._kept: collections.OrderedDict[tuple[int, int], Known] = collections.OrderedDict()

    def draw(self, count: int, rng: np.random.Generator) -> Plan:
        """The next `count` examples.

        Without another sequence to take it from, an example is never one whose target is absent.
        Raises ValueError, naming the dataset, if it has no frame with a target.
        """
        return lay([self._cast(rng) for _ in range(count)], self.config, self.views, rng)

    def sequence(self, dataset: int, index: int) -> Sequence:
        """By the numbers in a plan."""
        return self._known(dataset, index).sequence

    def _known(self, dataset: int, index: int) -> Known:
        key = dataset, index
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        sequence = self.datasets[dataset][index]
        sides = sequence.boxes_frame[:, 2:] - sequence.boxes_frame[:, :2]
        with np.errstate(invalid="ignore"):
            large = sides.prod(axis=1) >= self.config.min_side_px**2
        visible = np.flatnonzero(~sequence.absent & has_area(sequence.boxes_frame) & large)
        absent = np.flatnonzero(sequence.lacking)
        if len(absent) > len(sequence) / 2:
            absent = absent[:0]  # more likely frames nobody has annotated
        known = self._kept[key] = Known(dataset, index, sequence, visible, absent)
        if len(self._kept) > self._keep:
            self._kept.popitem(last=False)
        return known

    def _usable(self, dataset: int, index: int) -> Known | None:
        """The sequence, if it can be opened, shows its target and is of no video that is held out."""
        try:
            known = self._known(dataset, index)
        except ValueError as error:
            self.broken[str(error)] += 1
            return None
        return known if len(known.visible) and known.sequence.known_by not in self._held_out else None

    def _first(self, rng: np.random.Generator) -> Known:
        dataset = min(int(np.searchsorted(self._up_to, rng.random(), side="right")), len(self.names) - 1)
        for _ in range(_MANY_TRIES):
            known = self._usable(dataset, int(rng.integers(len(self.datasets[dataset]))))
            if known is not None:
                return known
        reason = f": {next(iter(self.broken))}" if self.broken else ""
        raise ValueError(
            f"{_MANY_TRIES} sequences drawn from the dataset {self.names[dataset]!r} have no frame with a target of "
            f"at least {self.config.min_side_px:g} px a side{reason}"
        )

    def _another(self, known: Known, near: bool, segmented: bool, rng: np.random.Generator) -> Look | None:
        """A frame with another target in another picture, of the same dataset if that has one."""
        for attempt in range(_TRIES):
            at_home = attempt < _TRIES / 2
            dataset = known.dataset if at_home else int(rng.integers(len(self.names)))
            index = int(rng.integers(len(self.datasets[dataset])))
            if near and at_home:
                step = int(rng.integers(1, self.config.neighbours + 1))
                index = (known.number + step) % len(self.datasets[dataset])
            other = self._usable(dataset, index)
            if (
                other
                and (other.segmented or not segmented)
                and not other.sequence.same_pictures(known.sequence)
            ):
                return self._look(other, _one_of(other.visible, rng))
        return None

    def _look(self, known: Known, frame: int) -> Look:
        return Look(known, frame, known.sequence.boxes_frame[frame])

    def _cast(self, rng: np.random.Generator) -> Cast:
        known, config = self._first(rng), self.config
        search, present = None, True
        if rng.random() < config.absent_share:
            if rng.random() >= config.other_sequence_share:
                search = self._without_target(known, rng)
            search = search or self._another(known, rng.random() < config.neighbour_share, False, rng)
            present = search is None
        first, last = self._ends(known, search, rng)
        online = [self._within(known.visible, first, last, rng) for _ in range(config.online_templates)]
        targets = [self._look(known, first)]
        # A template that has grown old comes before a fresh one.
        targets += [self._look(known, frame) for frame in (sorted(online) if self._causal else online)]
        targets.append(search or self._look(known, last))
        other = behind = None
        if known.segmented or targets[-1].known.segmented:
            other = self._another(known, rng.random() < config.neighbour_share, True, rng)
            behind = self._another(known, False, False, rng)
        return Cast(targets, present, other, behind)

    @property
    def _causal(self) -> bool:
        return self.config.mode == "causal"

    def _ends(self, known: Known, search: Look | None, rng: np.random.Generator) -> tuple[int, int]:
        """The template's frame and the search frame, or where the online templates end if that is elsewhere."""
        gap = self.config.max_gap_frames
        if search is not None and search.known is known:
            low, high = search.frame - gap, search.frame + (0 if self._causal else gap)
            return _one_of(_between(known.visible, low, high), rng), search.frame
        first = _one_of(known.visible, rng)
        low, high = first - (0 if self._causal else gap), first + gap
        return first, _one_of(_between(known.visible, low, high), rng)

    def _within(
        self, visible: Int[np.ndarray, " visible"], first: int, last: int, rng: np.random.Generator
    ) -> int:
        """A frame for an online template: between the two in causal mode, else as near the template as any."""
        gap = self.config.max_gap_frames
        low, high = (first, last) if self._causal else (first - gap, first + gap)
        return _one_of(_between(visible, low, high), rng)

    def _without_target(self, known: Known, rng: np.random.Generator) -> Look | None:
        """A frame that lacks the target, near one that shows it; its window lies where that was seen last."""
        gap, visible = self.config.max_gap_frames, known.visible
        ahead = 0 if self._causal else gap
        count = np.searchsorted(visible, known.absent + ahead, side="right")
        count -= np.searchsorted(visible, known.absent - gap)
        if not count.any():
            return None
        frame = _one_of(known.absent[count > 0], rng)
        before = max(int(np.searchsorted(visible, frame)) - 1, 0)
        return Look(known, frame, known.sequence.boxes_frame[visible[before]])


def _between(frames: Int[np.ndarray, " n"], low: int, high: int) -> Int[np.ndarray, " m"]:
    """Of the frames, in order, those from `low` to `high`."""
    return frames[np.searchsorted(frames, low) : np.searchsorted(frames, high, side="right")]


def _one_of(frames: Int[np.ndarray, " n"], rng: np.random.Generator) -> int:
    return int(frames[rng.integers(len(frames))])
