"""A tracker over many sequences: shared out to processes, kept as they finish, no failure stopping the others."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from multiprocessing.connection import wait
from typing import NamedTuple

from mixformerv2.data.sequence import Sequence
from mixformerv2.evaluate.run import check_max_frames
from mixformerv2.evaluate.spec import TrackerSpec, open_tracker, settled
from mixformerv2.evaluate.store import Failure, Store
from mixformerv2.evaluate.worker import Answer, OpenTracker, Task, Worker

EXECUTORS = ("local", "ray")
TIME_LIMIT_S = 60.0
_TICK_S = 0.2
"""between two looks at the workers for hangs and progress"""


class Progress(NamedTuple):
    """How far a run is; of the sequences that were not there before."""

    done: int
    failed: int
    sequences: int
    frames_done: int
    frames: int


class Outcome(NamedTuple):
    """What came of a run."""

    done: tuple[str, ...]
    """finished now"""
    kept: tuple[str, ...]
    """finished before"""
    failed: dict[str, str]
    """sequence -> one sentence"""
    warnings: dict[str, tuple[str, ...]]
    """sequence -> what the tracker warned of"""
    workers: int
    threads: int
    """of each worker"""
    frames: int
    """of the sequences finished now"""
    wall_s: float
    tracker_s: float
    """that the trackers took for their answers, all workers together"""

    @property
    def overhead(self) -> float:
        """What came on top of the trackers' own time, as a share of it; nan where nothing ran.

        Decoding, the start of processes, and workers that had nothing left to do.
        """
        return self.wall_s * self.workers / self.tracker_s - 1 if self.tracker_s else float("nan")


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def share_cores(workers: int | None, threads: int | None, cores: int) -> tuple[int, int]:
    """Workers and threads of each, so that all threads together are no more than the cores; what is given is kept.

    By default one thread each: more workers are faster than more threads. Raises ValueError for less than one.
    """
    for name, value in (("workers", workers), ("threads", threads)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if workers is None:
        threads = threads or 1
        return max(cores // threads, 1), threads
    return workers, threads or max(cores // workers, 1)


def shares_of(spec: TrackerSpec, workers: int | None, threads: int | None, executor: str) -> tuple[int, int]:
    """Workers and threads of each for a tracker on this machine, as ``share_cores`` has them; by default one worker
    where a model runs on another device than the CPU, which it fills by itself.
    """
    fills_it = spec.kind == "model" and spec.options.get("device", "auto") not in ("auto", "cpu")
    if workers is None and fills_it and executor == "local":
        workers = 1
    return share_cores(workers, threads or spec.options.get("threads"), usable_cores())


def check_execution(executor: str, address: str | None, time_limit_s: float) -> None:
    """Raises ValueError for what ``run_all`` cannot be given."""
    if executor not in EXECUTORS:
        raise ValueError(f"no executor is called {executor!r}: choose one of {', '.join(EXECUTORS)}")
    if address is not None and executor != "ray":
        raise ValueError(
            f"an address is that of a cluster, for the executor ray, got {address} for {executor}"
        )
    if not time_limit_s > 0:
        raise ValueError(f"the time limit must be positive, in seconds, got {time_limit_s:g}")


class Tally:
    """What has come of a run so far: kept in the store, counted, and told."""

    def __init__(self, store: Store, progress: Callable[[Progress], None] | None) -> None:
        self.done: list[str] = []
        self.failed: dict[str, str] = {}
        self.warnings: dict[str, tuple[str, ...]] = {}
        self.frames, self.tracker_s = 0, 0.0  # of what is done
        self._store = store
        self._progress = progress
        self._sequences = self._frames = self._frames_done = 0

    def fail(self, name: str, failure: Failure) -> None:
        self._store.fail(name, failure)
        self.failed[name] = failure.sentence

    def plan(self, sequences: Iterable[Sequence], read_ahead: bool) -> list[Task]:
        """What is to be done, the longest first so that all workers end together."""
        tasks = []
        for sequence in sorted(sequences, key=len, reverse=True):
            # Masks are for scores; a worker needs none.
            task = Task(replace(sequence, masks=None), self._store.description["max_frames"], read_ahead)
            try:
                self._frames += len(task.frames)
            except ValueError as error:
                self.fail(sequence.name, Failure(str(error)))
            else:
                tasks.append(task)
        self._sequences = len(tasks) + len(self.failed)
        self.tell(0)
        return tasks

    def take(self, task: Task, answer: Answer) -> None:
        name = task.sequence.name
        self._frames_done += len(task.frames)
        if answer.warnings:
            self.warnings[name] = answer.warnings
        if isinstance(answer.result, Failure):
            self.fail(name, answer.result)
        else:
            self._store.write(name, answer.result)
            self.done.append(name)
            self.frames += len(task.frames)
            self.tracker_s += float(answer.result.seconds.sum())

    def tell(self, frames_in_work: int) -> None:
        """``frames_in_work`` are those done of sequences that are not."""
        if self._progress is not None:
            frames = self._frames_done + frames_in_work
            self._progress(Progress(len(self.done), len(self.failed), self._sequences, frames, self._frames))


def run_all(
    spec: TrackerSpec,
    sequences: Iterable[Sequence],
    store: Store,
    workers: int | None = None,
    threads: int | None = None,
    time_limit_s: float = TIME_LIMIT_S,
    executor: str = "local",
    address: str | None = None,
    progress: Callable[[Progress], None] | None = None,
    broken: Mapping[str, Failure] | None = None,
) -> Outcome:
    """One pass over each sequence that the store does not hold yet; each result is kept as soon as it is there.

    ``workers`` are processes, each with a tracker of its own; with the executor "ray", how many sequences at once,
    by default all, and ``address`` says where the cluster is. ``broken`` are sequences that cannot be read. A tracker
    that raises, ends its process, gives a box that is not finite or takes longer than ``time_limit_s`` for a frame
    fails that sequence only. Raises ValueError where the tracker cannot be opened or an argument is wrong. Ctrl-C
    ends the workers and keeps what is finished.
    """
    check_execution(executor, address, time_limit_s)
    check_max_frames(store.description["max_frames"])
    began, cores = time.monotonic(), usable_cores()
    at_once, threads = shares_of(spec, workers, threads, executor)
    wanted, broken = list(sequences), dict(broken or {})
    finished = store.finished(wanted)
    kept = [name for name in (*(one.name for one in wanted), *broken) if name in finished]
    waiting = [sequence for sequence in wanted if sequence.name not in finished]
    at_once = max(min(at_once, len(waiting)), 1)
    tally = Tally(store, progress)
    for name, failure in broken.items():
        if name not in finished:
            tally.fail(name, failure)
    tasks = tally.plan(waiting, read_ahead=executor == "local" and at_once * (threads + 1) <= cores)
    as_described = settled(spec, store.description.get("tracker", {}), "backend", "precision")
    opener = partial(
        open_tracker, replace(as_described, options={**as_described.options, "threads": threads})
    )
    if executor == "ray":
        from mixformerv2.evaluate.ray import run_on_ray

        at_once = run_on_ray(opener, tasks, workers, threads, time_limit_s, address, tally)
    else:
        run_here(opener, tasks, at_once, threads, time_limit_s, tally)
    return Outcome(
        done=tuple(tally.done),
        kept=tuple(kept),
        failed=tally.failed,
        warnings=tally.warnings,
        workers=at_once,
        threads=threads,
        frames=tally.frames,
        wall_s=time.monotonic() - began,
        tracker_s=tally.tracker_s,
    )


def run_here(
    opener: OpenTracker, tasks: list[Task], workers: int, threads: int, limit_s: float, tally: Tally
) -> None:
    """On this machine. Raises ValueError where the tracker cannot be opened."""
    waiting, staff, leaving = deque(tasks), list[Worker](), list[Worker]()
    try:
        while waiting or any(worker.task is not None for worker in staff):
            for worker in staff:
                if worker.is_idle and waiting:
                    worker.give(waiting.popleft())
            free = sum(worker.task is None for worker in staff)  # still opening their trackers
            for _ in range(min(workers - len(staff), len(waiting) - free)):
                staff.append(Worker(opener, threads, limit_s))
            wait([worker.pipe for worker in staff], _TICK_S)
            for worker in [one for one in staff if not one.is_idle]:
                task, answer = worker.task, worker.answer()
                if task is not None and answer is not None:
                    tally.take(task, answer)
                    if isinstance(answer.result, Failure):
                        staff.remove(worker)
                        worker.dismiss()
                        leaving.append(worker)
            leaving = [worker for worker in leaving if not worker.has_left()]
            tally.tell(sum(worker.frames_done for worker in staff))
        for worker in staff:
            worker.dismiss()
        while leaving := [worker for worker in [*staff, *leaving] if not worker.has_left()]:
            staff = []
            time.sleep(_TICK_S / 10)
    finally:
        for worker in [*staff, *leaving]:
            worker.kill()
