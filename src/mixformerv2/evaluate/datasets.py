"""What a tracker can be evaluated on: the benchmarks by name, and how the papers report each of them."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from collections.abc import Sequence as ReadOnlySequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mixformerv2.data.benchmarks import FIRST_PIXEL, LAYOUTS, READERS
from mixformerv2.data.datasets import find_datasets
from mixformerv2.data.folder import WHAT as FOLDER_WHAT
from mixformerv2.data.folder import read_folder
from mixformerv2.data.sequence import Sequence, Sequences, names_of
from mixformerv2.data.shards import is_packed
from mixformerv2.evaluate.store import Failure, Run, starts_as

AUTO = "auto"
FOLDER = "folder"
_MOST_NAMED = 8


@dataclass(frozen=True)
class Benchmark:
    """How one dataset is evaluated."""

    title: str
    reader: str
    """its key in `READERS`"""
    layout: str
    """its key in `LAYOUTS`"""
    protocol: str
    """how the papers report it; a key of `protocols.PROTOCOLS`"""
    submission: str | None = None
    """kind of archive that a server takes"""
    has_truth: bool = True
    """whether all boxes are public; else only the first of each sequence"""

    @property
    def first_pixel(self) -> int:
        """The number that the dataset's files give to the first pixel, 0 where they are masks or clips of one's own."""
        return FIRST_PIXEL.get(self.layout, 0)


_BENCHMARKS: dict[str, Benchmark] = {
    "otb": Benchmark("OTB100", "otb", "otb", "otb"),
    "lasot": Benchmark("LaSOT, test part", "lasot-test", "lasot", "lasot"),
    "lasot-ext": Benchmark("LaSOT extension", "lasot-ext", "lasot-ext", "lasot"),
    "got10k-train": Benchmark("GOT-10k, training part", "got10k-train", "got10k", "got10k"),
    "got10k-val": Benchmark("GOT-10k, validation part", "got10k-val", "got10k", "got10k", "got10k"),
    "got10k-test": Benchmark("GOT-10k, test part", "got10k-test", "got10k", "got10k", "got10k", False),
    "trackingnet-test": Benchmark(
        *("TrackingNet, test part", "trackingnet-test", "trackingnet", "pytracking"),
        submission="trackingnet",
        has_truth=False,
    ),
    "tnl2k": Benchmark("TNL2K, test part", "tnl2k-test", "tnl2k", "pytracking"),
    "uav123": Benchmark("UAV123", "uav123", "uav123", "pytracking-uav"),
    "nfs30": Benchmark("Need for Speed at 30 frames a second", "nfs30", "nfs30", "pytracking"),
    "nfs240": Benchmark("Need for Speed at 240 frames a second", "nfs240", "nfs240", "pytracking"),
    "vasttrack": Benchmark("VastTrack, test part", "vasttrack-test", "vasttrack", "pytracking"),
    "davis": Benchmark("DAVIS, boxes around the masks", "davis", "davis", "pytracking"),
    "vot": Benchmark("VOT, as one pass without restarts", "vot", "vot", "pytracking"),
}
EVALUATED: dict[str, Benchmark] = {
    **_BENCHMARKS,
    FOLDER: Benchmark("clips of one's own", "", "", "mixformerv2"),
}
"""Name on the command line -> benchmark. "auto" is whichever of them the folder is recognised as."""

# Kind of layout -> what "auto" evaluates on: of several parts the first that is there.
_OF_LAYOUT = {
    **{benchmark.layout: (name,) for name, benchmark in _BENCHMARKS.items()},
    "got10k": ("got10k-val", "got10k-test", "got10k-train"),
    FOLDER: (FOLDER,),
}


class Opened(NamedTuple):
    """A dataset that a tracker can be run over."""

    name: str
    """its key in `EVALUATED`"""
    root: Path
    """where "auto" has found it, or what was given"""
    benchmark: Benchmark
    sequences: dict[str, Sequence]
    broken: dict[str, Failure]
    """sequences that cannot be read"""
    lengths: dict[str, int | None]
    """frames of all of them, in the order of the dataset; None for the broken ones"""


def open_for_evaluation(name: str, root: str | Path, only: Collection[str] = ()) -> Opened:
    """The sequences of a dataset, or ``only`` those named.

    Raises ValueError where there is no such dataset, nothing of it in ``root`` that can be read or scored, no sequence
    of that name, or two sequences have one name.
    """
    root = Path(root)
    if name != AUTO and name not in EVALUATED:
        raise ValueError(f"no dataset is called {name!r}: choose one of {', '.join([*EVALUATED, AUTO])}")
    if not root.is_dir():
        raise ValueError(f"the dataset is looked for in the folder {root}, which is not there")
    if name == AUTO:
        name, root, listed = _recognise(root)
    else:
        listed = _read(name, root)
    return _scorable(_open(name, root, listed, only))


def _scorable(opened: Opened) -> Opened:
    """Raises ValueError where nothing of it can be read or scored."""
    name, root = opened.name, opened.root
    if not opened.sequences:
        first = next(iter(opened.broken.values())).sentence
        wanted = FOLDER_WHAT if name == FOLDER else LAYOUTS[opened.benchmark.layout].what
        raise ValueError(
            f"no sequence of {name} in {root} can be read, expected {wanted}: {first}"
            f"{_instead(opened.benchmark, root)}"
        )
    if opened.benchmark.has_truth and all(np.sum(~one.absent) < 2 for one in opened.sequences.values()):
        raise ValueError(
            f"sequences of {name} must have true boxes to be scored, those in {root} have a first one at most: "
            "parts whose boxes are secret are got10k-test and trackingnet-test, and their root is the folder above"
        )
    return opened


def scored_on(dataset: str, folder: Path) -> Benchmark:
    """The benchmark of the run in a folder. Raises ValueError where its boxes are not public, or there is none."""
    if dataset not in EVALUATED or not EVALUATED[dataset].has_truth:
        raise ValueError(f"runs are scored on a dataset whose boxes are public, got {dataset} in {folder}")
    return EVALUATED[dataset]


def reopen(runs: ReadOnlySequence[Run], root: str | Path | None = None) -> Opened:
    """The dataset of runs that exist, those of its sequences that one of them is of; ``root``: where it is now.

    Of sequences that it no longer has the results are left out, with a warning. Raises ValueError where the runs are
    not of the same frames, or the dataset has no public boxes, is not there or not what it was.
    """
    for key in ("dataset", "max_frames"):
        values = [run.description.get(key) for run in runs]
        other = next((index for index, value in enumerate(values) if value != values[0]), None)
        if other is not None:
            raise ValueError(
                f"runs must be of the same {key} to stand side by side, got {values[0]} in {runs[0].folder} "
                f"and {values[other]} in {runs[other].folder}"
            )
    dataset = runs[0].description["dataset"]
    scored_on(dataset, runs[0].folder)
    names = {name: None for run in runs for name in run.description["sequences"]}
    place = Path(runs[0].description["root"] if root is None else root)
    if not place.is_dir():
        raise ValueError(
            f"the dataset of {runs[0].folder} was in {place}, which is not there: name it with --root"
        )
    listed = _read(dataset, place)
    there = names_of(listed)
    if gone := [name for name in names if name not in there]:
        warnings.warn(f"no longer in {place}, and left out: {_some(tuple(gone))}", stacklevel=2)
    left = [name for name in names if name in there]
    if not left:
        raise ValueError(f"the dataset in {place} has none of the sequences of {runs[0].folder} any more")
    opened = _scorable(_open(dataset, place, listed, left))
    for run in runs:
        for name in gone:
            run.passes.pop(name, None)
        for name, result in run.passes.items():
            if name in opened.sequences and not starts_as(result, opened.sequences[name]):
                raise ValueError(
                    f"the dataset in {place} has changed: {name} began with another box in {run.folder}; "
                    "`mixformerv2 evaluate` runs it again"
                )
            then, now = run.description["sequences"][name], opened.lengths[name]
            if then != now:
                said = f"now has {now}" if now else f"cannot be read now: {opened.broken[name].sentence}"
                raise ValueError(
                    f"the dataset in {place} has changed: {name} had {then} frames in {run.folder} and {said}"
                )
    return opened


def _read(name: str, root: Path) -> Sequences:
    if name == FOLDER:
        return read_folder(root)
    benchmark = EVALUATED[name]
    try:
        sequences = READERS[benchmark.reader](root)
    except ValueError as error:
        raise ValueError(f"{error}{_instead(benchmark, root)}") from None
    if not len(sequences):
        raise ValueError(f"no sequences of {name} in {root}: expected {LAYOUTS[benchmark.layout].what}")
    return sequences


def _instead(benchmark: Benchmark, root: Path) -> str:
    """What is in the folder if it is not what was asked for, or not there."""
    if is_packed(root):
        return (
            f"; {root} holds shards, which are for training: evaluate on the dataset that they were packed of"
        )
    try:
        found = list(find_datasets(root).values())
    except ValueError:
        found = []  # nothing is recognised
    there = [
        f"{dataset.kind} in {dataset.path}"
        for dataset in found
        if (dataset.kind, Path(dataset.path)) != (benchmark.layout, root)
    ]
    return f"; what is there looks like {', '.join(there)}" if there else ""


def _recognise(root: Path) -> tuple[str, Path, Sequences]:
    found = find_datasets(root)
    usable = [dataset for dataset in found.values() if dataset.kind in _OF_LAYOUT]
    if len(usable) != 1:
        there = ", ".join(f"{dataset.kind} in {dataset.path}" for dataset in found.values())
        raise ValueError(f"the dataset auto must be the only one in {root}, which holds {there}: name it")
    errors, place = [], Path(usable[0].path)
    for name in _OF_LAYOUT[usable[0].kind]:
        try:
            return name, place, _read(name, place)
        except ValueError as error:
            errors.append(error)  # that part is not there
    raise errors[0]


def _open(name: str, root: Path, listed: Sequences, only: Collection[str]) -> Opened:
    names = names_of(listed)
    unknown = [one for one in only if one not in names]
    if unknown:
        raise ValueError(f"the dataset {name} has no sequence {', '.join(unknown)}: it has {_some(names)}")
    if len(set(names)) != len(names):
        twice = next(one for one in names if names.count(one) > 1)
        raise ValueError(f"sequences must have names of their own, got {twice} twice")
    opened = Opened(name, root, EVALUATED[name], {}, {}, {})
    for index, one in enumerate(names):
        if only and one not in only:
            continue
        try:
            sequence = listed[index]
        except (ValueError, OSError) as error:
            opened.broken[one], opened.lengths[one] = Failure(str(error)), None
        else:
            opened.sequences[one], opened.lengths[one] = sequence, len(sequence)
    if not opened.lengths:
        raise ValueError(f"there must be at least one sequence to evaluate on, the dataset {name} has none")
    return opened


def _some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more
