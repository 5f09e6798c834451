"""What datasets a folder holds: opened for training, or gone through sequence by sequence and reported."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from rich.markup import escape
from rich.table import Table

from mixformerv2.data.benchmarks import LAYOUTS, READERS
from mixformerv2.data.folder import find_clips, is_clip, is_folder, read_folder
from mixformerv2.data.packing import Problem, Progress, name_of
from mixformerv2.data.sequence import Sequence, Sequences
from mixformerv2.data.shards import incomplete_shards, is_packed, read_shards
from mixformerv2.images import IMAGE_SUFFIXES

# How readers say that files are not there, as opposed to being wrong.
_NOT_THERE = ("has no folder", "no frames in", "is missing", "does not exist", "are incomplete")
_MOST_NAMED = 3
"""unreadable images of one sequence"""
_BATCH = 256
"""sequences that are looked at before the first of them is reported"""


class Found(NamedTuple):
    """A dataset that was recognised."""

    kind: str
    path: str
    reader: Callable[[], Sequences]
    """opens what training reads"""
    parts: dict[str, Callable[[], Sequences]]
    """opens each part that the layout has, present or not, such as GOT-10k's test part"""
    only_for_tests: bool = False
    """whether it is a benchmark that nobody should train on; of what was packed that is no longer known"""


def open_datasets(root: Path | str) -> dict[str, Sequences]:
    """The training part of every dataset that a folder is or holds, or that was packed at an address.

    Keys are kinds of layout, "coco" or "folder"; of two of one kind both get the names of their folders too,
    "folder:mine". Packed datasets keep the keys they were packed with. A sequence that is incomplete raises
    ValueError when asked for. Raises ValueError if nothing is recognised or a dataset cannot be opened.
    """
    opened = {}
    for key, dataset in find_datasets(root).items():
        try:
            opened[key] = dataset.reader()
        except ValueError:
            # A download of the test part alone is of no use here, and no mistake either.
            if not _open_parts(dataset):
                raise
    if not opened:
        raise ValueError(f"the datasets in {root} must have parts to train on, got test parts only")
    return opened


def open_part(root: Path | str, name: str) -> Sequences:
    """A part that training leaves alone, by the name that evaluation has for it, "got10k-val" or "lasot-test".

    Raises ValueError where no dataset in the folder has it.
    """
    for dataset in find_datasets(root).values():
        reader = dataset.parts.get(name)
        if reader is None and name in READERS and name.startswith(f"{dataset.kind}-"):
            reader = partial(READERS[name], Path(dataset.path))
        if reader is not None:
            return reader()
    raise ValueError(f"no dataset in {root} has a part {name}")


def find_datasets(root: Path | str) -> dict[str, Found]:
    """What `open_datasets` opens, by its keys. Raises ValueError if nothing is recognised."""
    if "://" not in str(root) and not Path(root).is_dir():
        raise ValueError(f"datasets are looked for in a folder, and {root} is none")
    found = _find_packed(root) if "://" in str(root) else _find(Path(root))
    if not found:
        raise ValueError(_nothing_recognised(root))
    several = Counter(dataset.kind for dataset in found)
    named: dict[str, Found] = {}
    for dataset in found:
        key = dataset.kind
        if several[key] > 1:
            key += f":{Path(dataset.path).resolve().name}"
        named[f"{dataset.kind}:{dataset.path}" if key in named else key] = dataset
    return named


def _nothing_recognised(root: Path | str) -> str:
    clips = ", ".join(_unlabelled(Path(root)).values())
    if clips:
        return (
            f"no dataset is recognised in {root}: it holds {clips}, and beside dog.mp4 belongs dog.csv, "
            "as `mixformerv2 track --results dog.csv` writes it"
        )
    return (
        f"no dataset is recognised in {root}: it must be or hold {', '.join(LAYOUTS)} as published, shards of "
        "`mixformerv2 data pack`, or clips with their boxes, dog.mp4 and dog.csv; docs/training.md shows the layouts"
    )


def _find(root: Path) -> list[Found]:
    itself = _recognise(root)
    if itself:
        return itself
    found = [dataset for path in _folders(root) for dataset in _recognise(path)]
    found += [_found_folder(path) for path in _folders(root) if is_folder(path) and not is_clip(path)]
    # Its clips may be folders themselves, which is why it is not a folder of folders.
    return found + ([_found_folder(root)] if is_folder(root) else [])


def _recognise(path: Path) -> list[Found]:
    """Packed datasets, or the published one."""
    if is_packed(path):
        return _find_packed(path)
    layout = next((layout for layout in LAYOUTS.values() if layout.recognise(path)), None)
    if layout is None:
        return []
    reader: Callable[[], Sequences] = partial(layout.reader, path)
    parts: dict[str, Callable[[], Sequences]] = {part: partial(READERS[part], path) for part in layout.parts}
    return [Found(layout.kind, str(path), reader, parts, layout.only_for_tests)]


def _find_packed(root: Path | str) -> list[Found]:
    def found(key: str, sequences: Sequences) -> Found:
        return Found(key, str(root), lambda: sequences, {key: lambda: sequences})

    return [found(key, sequences) for key, sequences in read_shards(root).items()]


def _found_folder(root: Path) -> Found:
    reader = partial(read_folder, root)
    return Found("folder", str(root), reader, {"folder": reader})


def _folders(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    paths = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    return [path for path in paths if os.access(path, os.R_OK | os.X_OK)]


def _open_parts(dataset: Found) -> dict[str, Sequences]:
    opened = {}
    for name, part in dataset.parts.items():
        with suppress(ValueError):  # not downloaded
            opened[name] = part()
    return opened


@dataclass(frozen=True)
class DatasetReport:
    """What is there of one part of a dataset."""

    dataset: str
    """its key in `open_datasets`, or what evaluation calls the part, "got10k-val" """
    path: str
    sequences: int
    """that fit together; an image may still be unreadable"""
    frames: int
    frames_absent: int
    """target not visible, or no box known"""
    frames_occluded: int | None
    """None where the dataset does not say"""
    sequences_with_masks: int
    images_read: int
    problems: tuple[Problem, ...]
    """of sequences, or of the whole where the name is empty"""


@dataclass(frozen=True)
class Report:
    """What is there of all datasets in a folder."""

    root: str
    datasets: tuple[DatasetReport, ...]
    notes: tuple[str, ...]
    """sentences on what is there but of no use, such as videos without boxes"""

    @property
    def broken(self) -> bool:
        return any(dataset.problems for dataset in self.datasets)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "broken": self.broken}


def check(root: Path | str, *, images_every: int | None = None, progress: Progress | None = None) -> Report:
    """Open every sequence of every dataset and read its first image, its box with it; stills are only looked for.

    With `images_every` all images, or the first of every so many of a sequence, are decoded, masks too.
    Raises ValueError if nothing is recognised.
    """
    if images_every is not None and images_every < 1:
        raise ValueError(f"images_every must be 1 or more, got {images_every}")
    reports = []
    for key, dataset in find_datasets(root).items():
        parts = _open_parts(dataset)
        for name, sequences in parts.items():
            shown = key if len(parts) == 1 else name
            reports.append(_check_part(shown, dataset.path, sequences, images_every, progress))
        if not parts:
            reports.append(_unopened(key, dataset))
    notes = (
        [] if "://" in str(root) else [f"{path}: {said}" for path, said in _unlabelled(Path(root)).items()]
    )
    return Report(str(root), tuple(reports), tuple(notes))


def _unopened(key: str, dataset: Found) -> DatasetReport:
    try:
        dataset.reader()
    except ValueError as error:
        return DatasetReport(key, dataset.path, 0, 0, 0, None, 0, 0, (Problem("", str(error)),))
    raise AssertionError("a dataset that opens has a part that opens")


class _Seen(NamedTuple):
    """One sequence gone through."""

    frames: int = 0
    absent: int = 0
    occluded: int | None = None
    masks: bool = False
    images_read: int = 0
    problem: Problem | None = None


def _check_part(
    name: str, path: str, sequences: Sequences, images_every: int | None, progress: Progress | None
) -> DatasetReport:
    seen = []
    for number, each in enumerate(_look_at_all(sequences, images_every)):
        seen.append(each)
        if progress is not None:
            progress(name, number + 1, len(sequences))
    good = [each for each in seen if each.frames]
    problems = [each.problem for each in seen if each.problem is not None]
    if is_packed(Path(path)) or "://" in path:
        problems = [Problem("", sentence) for sentence in incomplete_shards(path)] + problems
    gone = sum(any(words in problem.sentence for words in _NOT_THERE) for problem in problems)
    if gone:
        sentence = f"half-downloaded: files are missing of {gone:,} of its {len(sequences):,} sequences"
        problems.insert(0, Problem("", sentence))
    occluded = [each.occluded for each in good if each.occluded is not None]
    return DatasetReport(
        dataset=name,
        path=path,
        sequences=len(good),
        frames=sum(each.frames for each in good),
        frames_absent=sum(each.absent for each in good),
        frames_occluded=sum(occluded) if occluded else None,
        sequences_with_masks=sum(each.masks for each in good),
        images_read=sum(each.images_read for each in seen),
        problems=tuple(problems),
    )


def _look_at_all(sequences: Sequences, images_every: int | None) -> Iterator[_Seen]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for first in range(0, len(sequences), _BATCH):
            batch = range(first, min(first + _BATCH, len(sequences)))
            yield from pool.map(partial(_look_at, sequences, images_every), batch)


def _look_at(sequences: Sequences, images_every: int | None, number: int) -> _Seen:
    try:
        sequence = sequences[number]
    except (ValueError, OSError) as error:
        return _Seen(problem=Problem(name_of(sequences, number), str(error)))
    if images_every is not None:
        images = range(0, len(sequence), images_every)
    else:
        images = range(0 if _is_file_there(sequence) else min(len(sequence), 1))
    wrong = [said for said in (_read(sequence, index) for index in images) if said]
    if sequence.absent.all():
        wrong.insert(0, "no frame has a box")
    problem = None
    if wrong:
        more = f" (and {len(wrong) - _MOST_NAMED} more)" if len(wrong) > _MOST_NAMED else ""
        problem = Problem(sequence.name, "; ".join(wrong[:_MOST_NAMED]) + more)
    return _Seen(
        frames=len(sequence),
        absent=int(sequence.absent.sum()),
        occluded=None if sequence.occluded is None else int(sequence.occluded.sum()),
        masks=sequence.masks is not None,
        images_read=len(images),
        problem=problem,
    )


def _is_file_there(sequence: Sequence) -> bool:
    """Whether it is a still whose image exists; there are too many of them to decode each."""
    place = sequence.frames.place(0)
    return len(sequence) == 1 and place.lower().endswith(IMAGE_SUFFIXES) and os.path.isfile(place)


def _read(sequence: Sequence, index: int) -> str:
    """Decode one image and its mask; what is wrong comes out, or nothing."""
    try:
        frame = sequence.frame(index)
        sequence.check_box(index, frame)
        mask = None if sequence.masks is None else sequence.masks.read(index)
    except (ValueError, OSError) as error:
        return str(error)
    if mask is not None and mask.shape != frame.shape[:2]:
        return f"the mask of {sequence.frames.place(index)} has another size than the picture"
    return ""


def _unlabelled(root: Path) -> dict[str, str]:
    """Folder -> how many clips without boxes it holds."""
    said = {}
    for path in (root, *_folders(root)):
        clips = [clip for clip in find_clips(path).values() if not clip.boxes]
        videos = sum(clip.pictures.is_file() for clip in clips)
        if videos:
            said[str(path)] = f"{videos} {'video' if videos == 1 else 'videos'} without boxes"
    return said


def report_table(report: Report) -> Table:
    """One row per part of a dataset, for a terminal."""
    table = Table(title=escape(report.root), title_justify="left")
    for column in ("dataset", "folder"):
        table.add_column(column, overflow="fold")
    for column in ("sequences", "frames", "absent", "occluded", "masks", "problems"):
        table.add_column(column, justify="right")
    for each in report.datasets:
        counts = [each.sequences, each.frames, each.frames_absent, each.frames_occluded]
        counts += [each.sequences_with_masks, len(each.problems)]
        shown = ["-" if count is None else f"{count:,}" for count in counts]
        table.add_row(escape(each.dataset), escape(Path(each.path).name), *shown)
    return table


def report_lines(report: Report, most: int = 10) -> list[str]:
    """Sentences: the problems, the first `most` of each dataset, then the notes."""
    lines = []
    for each in report.datasets:
        for problem in each.problems[:most]:
            where = f"{each.dataset} {problem.sequence}".strip()
            lines.append(f"{where}: {problem.sentence}")
        if len(each.problems) > most:
            lines.append(f"{each.dataset}: and {len(each.problems) - most:,} more problems")
    return [*lines, *report.notes]
