"""The frames of some datasets, decoded once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Int64, UInt8

from mixformerv2.data.bank import ImageBank, read_rgbm
from mixformerv2.data.sampler import Datasets
from mixformerv2.data.sequence import Sequence

T = TypeVar("T")
_PROBED = 20  # sequences of a dataset from which its size is told


@dataclass(frozen=True, eq=False)
class Decoded:
    """Frames of datasets in the memory of one device."""

    bank: ImageBank
    rows: Int64[np.ndarray, " frames"]
    """in the bank, of all frames of all datasets; -1 where one is not held: of it nothing is known, or it could not be
    read"""
    first_frame: Int64[np.ndarray, " sequences"]
    """of each sequence of all datasets, in `rows`; -1 if it could not be opened"""
    first_sequence: dict[str, int]
    """of each dataset, in `first_frame`"""
    unreadable: dict[int, str]
    """place of each such frame, by its number in `rows`"""

    @classmethod
    def load(
        cls,
        datasets: Datasets,
        device: torch.device,
        max_gigabytes: float = 8.0,
        threads: int = 0,
    ) -> Decoded:
        """`threads` of 0 is none but the caller's. Raises ValueError where `max_gigabytes` of memory do not hold it."""
        _check_size(datasets, max_gigabytes)
        references = [(name, number) for name, dataset in datasets.items() for number in range(len(dataset))]
        rows: list[int] = []
        first_frame: list[int] = []
        unreadable = {}
        held = 0

        def pictures() -> Iterator[UInt8[np.ndarray, "_ _ 4"]]:
            nonlocal held
            for frames in _in_threads(threads, lambda at: _decode(datasets, *at), references):
                first_frame.append(len(rows) if frames else -1)
                for frame in frames:
                    if isinstance(frame, np.ndarray):
                        rows.append(held)
                        held += 1
                        yield frame
                        continue
                    if frame is not None:
                        unreadable[len(rows)] = frame
                    rows.append(-1)

        bank = ImageBank.pack(pictures(), device=device)
        starts = np.cumsum([0, *map(len, datasets.values())]).tolist()
        first_sequence = dict(zip(datasets, starts, strict=False))
        return cls(
            bank, np.array(rows, np.int64), np.array(first_frame, np.int64), first_sequence, unreadable
        )

    def holds(self, names: Iterable[str], device: torch.device) -> bool:
        """Whether the datasets of these names are here, on that device."""
        return self.first_sequence.keys() >= set(names) and self.bank.device.type == device.type


_Frame = UInt8[np.ndarray, "h w 4"]


def _decode(datasets: Datasets, name: str, index: int) -> list[_Frame | str | None]:
    """The frames of a sequence; the place of one that cannot be read; None where nothing is known of the target, for
    no example is made of it. Empty for a sequence that cannot be opened.
    """
    try:
        sequence = datasets[name][index]
    except ValueError:
        return []  # the sampler counts it whenever it is drawn
    frames: list[_Frame | str | None] = []
    for number, known in enumerate(_is_known(sequence)):
        if not known:
            frames.append(None)
            continue
        try:
            frames.append(read_rgbm(sequence, number))
        except ValueError:
            frames.append(sequence.frames.place(number))
    return frames


def _in_threads(
    threads: int, work: Callable[[tuple[str, int]], T], items: list[tuple[str, int]]
) -> Iterator[T]:
    """The results in order. Frames of one item are read by one thread, as a video must be."""
    if threads < 2:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(work, items)


def estimate_gigabytes(datasets: Datasets) -> float:
    """What all frames of the datasets take when decoded, told from a few sequences of each."""
    total = 0.0
    for name, dataset in datasets.items():
        probed = np.unique(np.linspace(0, len(dataset) - 1, _PROBED).astype(int)).tolist()
        held = [size for index in probed if (size := _bytes(datasets, name, index)) is not None]
        total += float(np.mean(held)) * len(dataset) if held else 0.0
    return total / 1e9


def _bytes(datasets: Datasets, name: str, index: int) -> float | None:
    try:
        sequence = datasets[name][index]
        height, width = sequence.frame(0).shape[:2]
    except ValueError:
        return None  # what cannot be read is counted later
    return 4.0 * int(_is_known(sequence).sum()) * height * width


def _is_known(sequence: Sequence) -> Bool[np.ndarray, " frames"]:
    return ~sequence.absent | sequence.lacking


def _check_size(datasets: Datasets, max_gigabytes: float) -> None:
    needed = estimate_gigabytes(datasets)
    if needed > max_gigabytes:
        raise ValueError(
            f"decoded, the frames of {' and '.join(datasets)} take about {needed:.1f} GB of memory, more than "
            f"the {max_gigabytes:g} GB allowed: read them from disk with --no-memory, allow more with "
            "--max-gigabytes, or pack them smaller with `data pack --longest-side`"
        )
