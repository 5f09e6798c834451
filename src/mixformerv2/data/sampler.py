"""Which frames of which datasets make a training example, and how its windows lie: everything but the pixels.

A plan depends on the datasets, the configs and the generator alone, so that any process can draw any part of a run.
"""

from __future__ import annotations

import collections
import collections.abc
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from mixformerv2.data import views as placing
from mixformerv2.data.sequence import Sequence, has_area
from mixformerv2.data.views import ViewConfig

if TYPE_CHECKING:
    Datasets = Mapping[str, collections.abc.Sequence[Sequence]]
else:  # bare: else a type checker at run time opens sequences to look at them
    Datasets = Mapping

TARGET, OTHER, BEHIND = range(3)
"""Layers of a scene: the target in its picture, a second object, and the picture behind or beyond."""

_TRIES = 20  # for another object
_MANY_TRIES = 1000  # for a sequence to start from
_SMALLEST_PART = 0.25  # of the object's sides


@dataclass(frozen=True)
class SampleConfig:
    """Which examples are made, and how often."""

    weights: Mapping[str, float] = field(default_factory=dict)
    """dataset -> its part of the examples; they need not add up to one; without any, all datasets count the same"""
    max_gap_frames: int = 100
    """between the template and any other frame"""
    mode: str = "symmetric"
    """"symmetric": frames in any order; "causal": template, online templates, search in the order of time"""
    held_out: tuple[str, ...] = ()
    """sequences, by name, that no example is drawn from: they are for measuring"""
    online_templates: int = 1
    """0 saves a third of the tokens at the start of a training"""
    min_side_px: float = 6.0
    """square root of the area of the smallest target worth looking at"""
    absent_share: float = 0.12
    """examples whose search crop lacks the target"""
    other_sequence_share: float = 0.5
    """of those, the ones that show another target although the sequence has frames without its own"""
    away_share: float = 0.0
    """of the examples that show the target, those whose search window then moves so far that it is out of sight: what
    lies around it, and others of its kind, are not it"""
    neighbour_share: float = 0.5
    """other objects taken from nearby in the dataset's list, where they are often of one kind: hard to tell apart"""
    neighbours: int = 12
    """how far that is"""
    paste_share: float = 0.6
    """segmented objects moved to another picture"""
    beyond_share: float = 0.75
    """segmented objects in their own picture that ends in another one, not in black"""
    crowd_search_share: float = 0.7
    """search crops with a second object, where targets are segmented"""
    crowd_online_share: float = 0.15
    """online templates likewise"""
    occluder_share: float = 0.3
    """second objects in front of the target"""
    part_share: float = 0.0
    """segmented stills of which a rectangle is the target, not the object: what to follow is up to the template, and
    no outline tells it"""

    def __post_init__(self) -> None:
        weights = list(self.weights.values())
        valid = all(math.isfinite(weight) and weight >= 0 for weight in weights)
        if not valid or (weights and not sum(weights) > 0):
            raise ValueError(
                "weights must map datasets to numbers that are not negative, one of them positive, "
                f"got {dict(self.weights)}"
            )
        if self.mode not in ("symmetric", "causal"):
            raise ValueError(f"mode must be 'symmetric' or 'causal', got {self.mode!r}")
        for name in ("max_gap_frames", "online_templates", "min_side_px"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not 0 <= self.absent_share < 1:
            raise ValueError(f"absent_share must be in [0, 1), got {self.absent_share}")
        if self.neighbours < 1:
            raise ValueError(f"neighbours must be at least 1, got {self.neighbours}")
        for name in (
            *("other_sequence_share", "away_share", "neighbour_share", "paste_share", "beyond_share"),
            *("crowd_search_share", "crowd_online_share", "occluder_share", "part_share"),
        ):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")


class Plan(NamedTuple):
    """What examples show. Scenes are the template, the online templates, and last the search region."""

    frames: Int[np.ndarray, "b scenes 3 3"]  # of each layer: dataset, sequence, frame
    to_frame: Float[np.ndarray, "b scenes 3 2 3"]  # unit window -> frame px; of BEHIND for `part_to_frame`
    used: Bool[np.ndarray, "b scenes 3"]  # is the layer seen at all?
    pasted: Bool[np.ndarray, "b scenes"]  # of TARGET only the object, BEHIND around it
    in_front: Bool[np.ndarray, "b scenes"]  # OTHER hides the target, not the target it
    part_frame: Float[np.ndarray, "b scenes 4"]  # the target, if it is but a rectangle of TARGET; else zeros
    bend_unit: Float[np.ndarray, "b scenes"]  # deviation of the shifts that bend the scene; 0: none
    present: Bool[np.ndarray, " b"]  # is the template's target what TARGET shows in the search region?


class _Known(NamedTuple):
    """A sequence as far as sampling needs it."""

    dataset: int
    number: int
    sequence: Sequence
    visible: Int[np.ndarray, " visible"]  # frames to take the target from
    absent: Int[np.ndarray, " absent"]  # frames that lack it

    @property
    def segmented(self) -> bool:
        return self.sequence.masks is not None


class _Look(NamedTuple):
    """A frame, and the box by which its window is laid."""

    known: _Known
    frame: int
    box_frame: Float[np.ndarray, " 4"]

    @property
    def reference(self) -> tuple[int, int, int]:
        return self.known.dataset, self.known.number, self.frame


class _Cast(NamedTuple):
    """What appears in one example."""

    targets: list[_Look]  # scene by scene
    present: bool
    away: bool
    other: _Look | None
    behind: _Look | None


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
        self._kept: collections.OrderedDict[tuple[int, int], _Known] = collections.OrderedDict()

    def draw(self, count: int, rng: np.random.Generator) -> Plan:
        """The next `count` examples.

        Without another sequence to take it from, an example is never one whose target is absent.
        Raises ValueError, naming the dataset, if it has no frame with a target.
        """
        return self._lay([self._cast(rng) for _ in range(count)], rng)

    def sequence(self, dataset: int, index: int) -> Sequence:
        """By the numbers in a plan."""
        return self._known(dataset, index).sequence

    # Which frames

    def _known(self, dataset: int, index: int) -> _Known:
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
        known = self._kept[key] = _Known(dataset, index, sequence, visible, absent)
        if len(self._kept) > self._keep:
            self._kept.popitem(last=False)
        return known

    def _usable(self, dataset: int, index: int) -> _Known | None:
        """The sequence, if it can be opened, shows its target and is not held out."""
        try:
            known = self._known(dataset, index)
        except ValueError as error:
            self.broken[str(error)] += 1
            return None
        return known if len(known.visible) and known.sequence.name not in self.config.held_out else None

    def _first(self, rng: np.random.Generator) -> _Known:
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

    def _another(self, known: _Known, near: bool, segmented: bool, rng: np.random.Generator) -> _Look | None:
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

    def _look(self, known: _Known, frame: int) -> _Look:
        return _Look(known, frame, known.sequence.boxes_frame[frame])

    def _cast(self, rng: np.random.Generator) -> _Cast:
        known, config = self._first(rng), self.config
        search, present = None, True
        if rng.random() < config.absent_share:
            if rng.random() >= config.other_sequence_share:
                search = self._without_target(known, rng)
            search = search or self._another(known, rng.random() < config.neighbour_share, False, rng)
            present = search is None
        away = present and rng.random() < config.away_share
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
        return _Cast(targets, present and not away, away, other, behind)

    @property
    def _causal(self) -> bool:
        return self.config.mode == "causal"

    def _ends(self, known: _Known, search: _Look | None, rng: np.random.Generator) -> tuple[int, int]:
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

    def _without_target(self, known: _Known, rng: np.random.Generator) -> _Look | None:
        """A frame that lacks the target, near one that shows it; its window lies where that was seen last."""
        gap, visible = self.config.max_gap_frames, known.visible
        ahead = 0 if self._causal else gap
        count = np.searchsorted(visible, known.absent + ahead, side="right")
        count -= np.searchsorted(visible, known.absent - gap)
        if not count.any():
            return None
        frame = _one_of(known.absent[count > 0], rng)
        before = max(int(np.searchsorted(visible, frame)) - 1, 0)
        return _Look(known, frame, known.sequence.boxes_frame[visible[before]])

    # Where in them

    def _lay(self, casts: list[_Cast], rng: np.random.Generator) -> Plan:
        b, scenes, config = len(casts), self.config.online_templates + 2, self.config
        frames = np.full((b, scenes, 3, 3), -1, np.int64)
        boxes = np.tile([0.0, 0.0, 1.0, 1.0], (b, scenes, 2, 1))
        segmented = np.zeros((b, scenes), bool)
        for row, cast in enumerate(casts):
            for scene, target in enumerate(cast.targets):
                frames[row, scene, TARGET], boxes[row, scene, TARGET] = target.reference, target.box_frame
                segmented[row, scene] = target.known.segmented
            if cast.other:
                frames[row, :, OTHER], boxes[row, :, OTHER] = cast.other.reference, cast.other.box_frame
            if cast.behind:
                frames[row, :, BEHIND] = cast.behind.reference
        part_frame = self._parts(casts, boxes[..., TARGET, :], rng)
        is_part = part_frame[..., 2] > 0
        boxes[..., TARGET, :] = np.where(is_part[..., None], part_frame, boxes[..., TARGET, :])
        outlined = segmented & ~is_part
        there = frames[..., 0] >= 0
        pasted = outlined & there[..., BEHIND] & (rng.random((b, 1)) < config.paste_share)
        beyond = rng.random((b, scenes)) < config.beyond_share
        crowd = np.array([0.0] + [config.crowd_online_share] * (scenes - 2) + [config.crowd_search_share])
        used = np.ones((b, scenes, 3), bool)
        used[..., OTHER] = there[..., OTHER] & segmented & (rng.random((b, scenes)) < crowd)
        used[..., BEHIND] = there[..., BEHIND] & segmented & (pasted | beyond)
        in_front = rng.random((b, scenes)) < config.occluder_share
        away = np.array([cast.away for cast in casts], bool)
        to_frame, side_unit = self._windows(boxes, outlined, in_front, away, rng)
        bent = outlined & (rng.random((b, scenes)) < self.views.bend_share) & (np.arange(scenes) > 0)
        present = np.array([cast.present for cast in casts], bool)
        bend_unit = rng.uniform(0, self.views.bend, (b, scenes)) * side_unit * bent
        return Plan(frames, to_frame, used, pasted, in_front, part_frame, bend_unit, present)

    def _parts(
        self, casts: list[_Cast], boxes: Float[np.ndarray, "b scenes 4"], rng: np.random.Generator
    ) -> Float[np.ndarray, "b scenes 4"]:
        """Of some stills a rectangle within the object's box, the same in all scenes; of the others zeros."""
        chosen = np.flatnonzero(rng.random(len(casts)) < self.config.part_share)
        parts = np.zeros(boxes.shape)
        for row in chosen:
            targets = casts[row].targets
            if targets[0].known.segmented and len({target.reference for target in targets}) == 1:
                low, high = np.split(boxes[row, 0], 2)
                sides = (high - low) * np.exp(rng.uniform(math.log(_SMALLEST_PART), 0, 2))
                corner = low + rng.random(2) * (high - low - sides)
                parts[row] = np.concatenate([corner, corner + sides])
        return parts

    def _windows(
        self,
        boxes: Float[np.ndarray, "b scenes 2 4"],
        outlined: Bool[np.ndarray, "b scenes"],
        in_front: Bool[np.ndarray, "b scenes"],
        away: Bool[np.ndarray, " b"],
        rng: np.random.Generator,
    ) -> tuple[Float[np.ndarray, "b scenes 3 2 3"], Float[np.ndarray, "b scenes"]]:
        """How the layers lie, and the targets' sides as fractions of the windows'."""
        b, scenes = outlined.shape
        flip = np.asarray(rng.random(b) < self.views.flip_share)
        shape = rng.normal(0, self.views.shape_jitter, b)
        to_frame, side_unit = np.zeros((b, scenes, 3, 2, 3)), np.zeros((b, scenes))
        for scene in range(scenes):
            if scene == 0:
                place = placing.place_template(self.views, flip)
            elif scene < scenes - 1:
                place = placing.place_online(self.views, flip, outlined[:, scene], rng)
            else:
                place = placing.place_search(self.views, flip, outlined[:, scene], rng)
            place = place._replace(aspect=place.aspect + shape)
            beside = place.beside(rng, in_front[:, scene])
            if scene == scenes - 1:
                place = place.moved_out(away, boxes[:, scene, TARGET], rng)
            side_unit[:, scene] = place.side_unit
            to_frame[:, scene, TARGET] = place.to_frame(boxes[:, scene, TARGET])
            to_frame[:, scene, OTHER] = beside.to_frame(boxes[:, scene, OTHER])
            to_frame[:, scene, BEHIND] = placing.random_parts(b, rng)
        return to_frame, side_unit


def _between(frames: Int[np.ndarray, " n"], low: int, high: int) -> Int[np.ndarray, " m"]:
    """Of the frames, in order, those from `low` to `high`."""
    return frames[np.searchsorted(frames, low) : np.searchsorted(frames, high, side="right")]


def _one_of(frames: Int[np.ndarray, " n"], rng: np.random.Generator) -> int:
    return int(frames[rng.integers(len(frames))])
