"""Chunks of training examples, from frames decoded once into memory or read from disk by worker processes.

Chunk number k depends on the datasets, the configs, the seed and k alone: any number of workers gives the same stream,
a process of many takes its own chunks of it, and a run is resumed by going on at the next number.
"""

from __future__ import annotations

import collections.abc
import signal
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from mixformerv2.data.augment import DegradeConfig
from mixformerv2.data.memory import Decoded
from mixformerv2.data.pairs import Batch, Marking, Seen, compose
from mixformerv2.data.plan import SampleConfig
from mixformerv2.data.reading import Disk, MemoryPlans, Planned, Prepared, Stream, look_in_bank
from mixformerv2.data.sampler import Datasets, Sampler
from mixformerv2.data.views import ViewConfig

_SKIPPED_AFTER = 1000  # examples: fewer do not tell a share
_NAMED = 3  # of the files in a message


@dataclass(frozen=True)
class DataConfig:
    """Everything the examples depend on, but for their resolution, the seed and the datasets themselves."""

    sample: SampleConfig
    views: ViewConfig = field(default_factory=ViewConfig)
    degrade: DegradeConfig = field(default_factory=DegradeConfig)
    chunk: int = 32
    """examples drawn, read and composed together"""
    label_shift_px: float = 0.0
    """of the true boxes in the search crop, to the right and down: released training centres a crop of n px at
    (n - 1) / 2, which is -0.5 px, and released tracking at n / 2"""

    def __post_init__(self) -> None:
        if self.chunk < 1:
            raise ValueError(f"chunk must be at least 1, got {self.chunk}")


class Loader:
    """Examples by the number of their chunk."""

    def __init__(
        self,
        datasets: Datasets,
        config: DataConfig,
        search_px: int,
        template_px: int,
        seed: int,
        device: torch.device | str = "cpu",
        workers: int = 0,
        in_memory: bool = True,
        max_gigabytes: float = 8.0,
        max_skipped_share: float = 0.01,
        decoded: Decoded | None = None,
        template_surround: float = 1.0,
    ) -> None:
        """`workers` are processes that read ahead from disk, or plan ahead what is taken from memory; 0 is none.
        As many threads decode in the beginning.

        Frames in memory may take `max_gigabytes`. Of the examples so far,
        `max_skipped_share` may have had to be drawn anew because a file could not be read. `decoded` is another
        loader's, of the same datasets: what is there need not be decoded again. `template_surround` is the network's.
        Raises ValueError if a dataset with a weight is not there.
        """
        for name, value in (("search_px", search_px), ("template_px", template_px)):
            if value < 8 or (config.degrade.jpeg_share > 0 and value % 8):
                raise ValueError(f"{name} must be a multiple of 8, the side of JPEG's blocks, got {value}")
        if seed < 0 or workers < 0:
            raise ValueError(f"seed and workers must not be negative, got {seed} and {workers}")
        self.config = config
        self.stream = Stream(
            Sampler(datasets, config.sample, config.views), config.chunk, seed, search_px, template_px
        )
        self.marking = None
        if template_surround < 1:
            self.marking = Marking(
                template_surround, 1 / config.views.template_factor, config.views.online_aspect_jitter
            )
        self.device = torch.device(device)
        self.workers = workers
        self.in_memory = in_memory
        self.max_gigabytes = max_gigabytes
        self.max_skipped_share = max_skipped_share
        self.skipped: dict[str, int] = {}
        """file -> how often it was found not to be readable, by this process"""
        self._examples = self._redrawn = 0
        self.decoded = decoded
        """the frames in memory, once prepared"""
        self._source: Disk | MemoryPlans | None = None
        self._ahead: DataLoader[Any] | None = None
        self._indexes = _Indexes()

    def prepare(self) -> None:
        """Decodes the frames that are to be held in memory, if any and not yet done.

        Raises ValueError if they take more than is allowed.
        """
        if self._source is not None:
            return
        if not self.in_memory:
            self._source = Disk(self.stream)
            return
        sampler = self.stream.sampler
        if self.decoded is None or not self.decoded.holds(sampler.names, self.device):
            datasets = dict(zip(sampler.names, sampler.datasets, strict=True))
            self.decoded = None  # makes room
            self.decoded = Decoded.load(datasets, self.device, self.max_gigabytes, self.workers)
            for place in self.decoded.unreadable.values():
                self.skipped[place] = self.skipped.get(place, 0) + 1
        self._source = MemoryPlans(self.stream, self.decoded)

    def chunks(self, indexes: Iterable[int]) -> Iterator[Batch]:
        """The chunks with these numbers, in this order; one call at a time.

        Raises ValueError when more files cannot be read than allowed, ChildProcessError when a worker dies.
        """
        self.prepare()
        for prepared in self._prepared(indexes):
            self._count(prepared)
            yield self._compose(prepared)

    def close(self) -> None:
        """Ends the worker processes; the next chunks start new ones."""
        self._ahead = None

    def _prepared(self, indexes: Iterable[int]) -> Iterator[Prepared]:
        for chunk in self._from_source(indexes):
            if isinstance(chunk, ValueError):
                raise chunk
            if isinstance(chunk, Planned):
                assert self.decoded is not None
                chunk = look_in_bank(chunk, self.decoded.bank, self.stream)
            yield chunk

    def _from_source(self, indexes: Iterable[int]) -> Iterator[Planned | Prepared | ValueError]:
        self._indexes.numbers = indexes
        if self._ahead is None:
            self._ahead = self._start()
        try:
            yield from _begin(self._ahead)
        except (RuntimeError, ConnectionError, FileNotFoundError, EOFError) as error:
            if not _is_death(error):
                raise
            self.close()
            raise ChildProcessError(
                f"one of {self.workers} data workers died, most likely for lack of memory: start again with fewer "
                f"workers, and the run goes on where it was last saved ({error})"
            ) from error

    def _start(self) -> DataLoader[Any]:
        assert self._source is not None
        return DataLoader(
            _Chunks(self._source),
            sampler=self._indexes,
            batch_size=None,
            collate_fn=_as_it_is,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            worker_init_fn=_one_thread,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # else it takes a number from everybody's
        )

    def _compose(self, prepared: Prepared) -> Batch:
        _, rng, noise_seed = self.stream.generators(prepared.number)
        generator = torch.Generator(self.device).manual_seed(noise_seed)
        seen = prepared.seen
        seen = Seen(
            seen.templates.to(self.device, non_blocking=True),
            seen.search.to(self.device, non_blocking=True),
            seen.frame_sizes,
        )
        batch = compose(prepared.plan, seen, self.config.degrade, rng, generator, self.marking)
        if not self.config.label_shift_px:
            return batch
        shift_unit = self.config.label_shift_px / self.stream.search_px
        return batch._replace(box_unit=batch.box_unit + shift_unit * batch.present[:, None])

    def _count(self, prepared: Prepared) -> None:
        for place, times in prepared.skipped.items():
            self.skipped[place] = self.skipped.get(place, 0) + times
            self._redrawn += times
        self._examples += self.config.chunk
        if self._examples >= _SKIPPED_AFTER and self._redrawn > self.max_skipped_share * self._examples:
            first = ", ".join(list(self.skipped)[:_NAMED])
            raise ValueError(
                f"{self._redrawn} of {self._examples} examples had to be drawn anew because {len(self.skipped)} files "
                f"cannot be read, more than the share of {self.max_skipped_share:g} allowed: {first}"
            )


class _Indexes(collections.abc.Iterable[int]):
    """The numbers that the worker processes are to work on next."""

    def __init__(self) -> None:
        self.numbers: Iterable[int] = ()

    def __iter__(self) -> Iterator[int]:
        return iter(self.numbers)


class _Chunks(Dataset[Any]):
    """What a worker process does for one number."""

    def __init__(self, source: Disk | MemoryPlans) -> None:
        self.source = source

    def __getitem__(self, index: int) -> Planned | Prepared | ValueError:
        try:
            return self.source.prepare(index)
        except ValueError as error:
            # Raised here, its message would come with the worker's traceback in it.
            return error


def _begin(from_disk: DataLoader[Any]) -> Iterator[Any]:
    """Its worker processes, started, and what they give."""
    if threading.current_thread() is not threading.main_thread():
        return iter(from_disk)
    # torch would have the death of a worker raised wherever the program happens to be, in the middle of a step.
    before = signal.getsignal(signal.SIGCHLD)
    given = iter(from_disk)
    signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)
    return given


def _is_death(error: Exception) -> bool:
    """Whether this is what the main process sees of a worker that is no more."""
    if isinstance(error, RuntimeError):  # torch has no type for it
        return str(error).startswith("DataLoader worker (pid")
    # While it fetches what the worker had ready. Errors within a worker begin with "Caught".
    return not str(error).startswith("Caught")


def _as_it_is(prepared: Any) -> Any:
    """Without this, arrays would become tensors."""
    return prepared


def _one_thread(_: int) -> None:
    """As many processes as cores are at work, and OpenMP's or OpenCV's threads do not outlive a fork."""
    cv2.setNumThreads(0)
