"""The sequences of a run shared out over a cluster by Ray.

A sequence is a task, which Ray starts again elsewhere if its machine is lost; its tracker runs in a process of its own
as on one machine, so that a crash or a hang fails that sequence only, and at once. Results come back to the machine
that the run was started on, which alone writes them. Every machine needs this package, the tracker and the dataset at
the same paths: a shared disk.
"""

from __future__ import annotations

import atexit
import logging
import os
import pickle
import platform
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait
from typing import Any

from mixformerv2.evaluate.execute import Tally, usable_cores
from mixformerv2.evaluate.store import Failure
from mixformerv2.evaluate.worker import Answer, OpenTracker, Task, Worker

MAX_RETRIES = 10
"""of a sequence whose machine is lost"""
_TICK_S = 0.5
_KNOCK_S = 10.0


def run_on_ray(
    opener: OpenTracker,
    tasks: list[Task],
    workers: int | None,
    threads: int,
    limit_s: float,
    address: str | None,
    tally: Tally,
) -> int:
    """Each task on some machine, ``workers`` at once at most; returns how many the cluster can run at once.

    ``address`` is "auto", HOST:PORT or ray://HOST:PORT of a cluster that is running; "local", or none, makes one of
    this machine. Raises ModuleNotFoundError without Ray, ConnectionError where no cluster answers, and ValueError
    where the address is none or the tracker cannot be opened.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the executor ray needs the package ray: pip install 'mixformerv2[ray]'"
        ) from error
    waiting, running = iter(tasks), dict[Any, Task]()
    with _cluster(ray, address or "local"), _cancelled_at_the_end(ray, running):
        most = max((int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]), default=0)
        if most < threads:
            raise ValueError(
                f"a tracker with {threads} threads fits on no node: the largest has {most} cores"
            )
        fits = int(ray.cluster_resources()["CPU"]) // threads
        at_once = fits if workers is None else min(workers, fits)
        track = ray.remote(num_cpus=threads, max_retries=MAX_RETRIES)(run_remotely)
        shared, folder = ray.put(opener), os.getcwd()
        while True:
            # Handed in all at once unless a number is given: machines may join.
            while workers is None or len(running) < workers:
                task = next(waiting, None)
                if task is None:
                    break
                running[track.remote(shared, task, threads, limit_s, folder)] = task
            if not running:
                return at_once
            done, _ = ray.wait(list(running), num_returns=1, timeout=_TICK_S)
            for reference in done:
                tally.take(running.pop(reference), _get(ray, reference))
            tally.tell(0)


@contextmanager
def _cancelled_at_the_end(ray: Any, running: Mapping[Any, Task]) -> Iterator[None]:
    """What still runs when a run breaks off, in a cluster that outlives it."""
    try:
        yield
    finally:
        for reference in running:
            ray.cancel(reference)


def _get(ray: Any, reference: Any) -> Answer:
    try:
        answer: Answer | Failure = ray.get(reference)
    except ray.exceptions.RayError as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        return Answer(
            Failure(f"Ray gave the sequence up: {(lines or [type(error).__name__])[-1]}", str(error))
        )
    if isinstance(answer, Failure):
        raise ValueError(answer.sentence)
    return answer


def _knock(address: str) -> None:
    """Ray itself tries for minutes. Raises OSError where nothing listens, ValueError where it is no address."""
    if address in ("local", "auto"):
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdecimal()):
        raise ValueError(
            f"the address of a Ray cluster is auto, HOST:PORT or ray://HOST:PORT, got {address!r}"
        )
    socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_S).close()


@contextmanager
def _cluster(ray: Any, address: str) -> Iterator[None]:
    if ray.is_initialized():  # by the program that called us, which will want it afterwards
        yield
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        quiet |= {"include_dashboard": False, "num_cpus": usable_cores()}
    try:
        _knock(address)
        ray.init(address=address, **quiet)
    except (OSError, RuntimeError) as error:
        raise ConnectionError(
            f"no Ray cluster answers at {address!r}, start one with `ray start --head` or pass --address local: {error}"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


# --- on a machine of the cluster


def run_remotely(
    opener: OpenTracker, task: Task, threads: int, limit_s: float, folder: str
) -> Answer | Failure:
    """What came of a task; a Failure where the tracker cannot be opened. Paths count from ``folder``."""
    with suppress(OSError):  # not there, so that relative paths will not be found either, and say so
        os.chdir(folder)
    try:
        worker = _kept_worker(opener, threads, limit_s)
        while not worker.is_idle:
            wait([worker.pipe], _TICK_S)
            worker.answer()
        worker.give(task)
        while (answer := worker.answer()) is None:
            wait([worker.pipe], _TICK_S)
    except ValueError as error:
        _forget()
        return Failure(f"{error} (on {platform.node()})")
    if isinstance(answer.result, Failure):
        _forget()
    return answer


_kept: dict[bytes, Worker] = {}
"""Ray uses its processes again; so is the tracker that is open in one."""


def _kept_worker(opener: OpenTracker, threads: int, limit_s: float) -> Worker:
    key = pickle.dumps((opener, threads, limit_s))
    if key not in _kept:
        _forget()
        _kept[key] = Worker(opener, threads, limit_s)
        atexit.register(_forget)
    return _kept[key]


def _forget() -> None:
    for key in list(_kept):
        _kept.pop(key).kill()
