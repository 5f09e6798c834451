"""A tracker in a process of its own, which may raise, hang or die without taking anything else along.

Each process opens the tracker once and takes one sequence after the other. Its parent watches it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
import types
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

import numpy as np

from mixformerv2.data.sequence import Frames, Sequence
from mixformerv2.evaluate.run import AnyTracker, OnePass, frames_to_show, one_pass
from mixformerv2.evaluate.store import Failure

OPEN_LIMIT_S = 300.0
"""for opening a tracker, which may compile its model"""
CLOSE_LIMIT_S = 5.0
# What numerical libraries look at when they are loaded.
THREAD_VARIABLES = (
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"),
    *("NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"),
)

OpenTracker = Callable[[], AnyTracker]
"""picklable"""


class Task(NamedTuple):
    """One pass over one sequence."""

    sequence: Sequence
    max_frames: int | None = None
    read_ahead: bool = False
    """decode the next frame while the tracker works: pays where a core is left over, and else takes the tracker's"""

    @property
    def frames(self) -> range:
        return frames_to_show(self.sequence, self.max_frames)


class Answer(NamedTuple):
    """What came of a task."""

    result: OnePass | Failure
    warnings: tuple[str, ...] = ()


class ReadAhead:
    """Frames of which the next one is read in the background."""

    def __init__(self, frames: Frames, pool: ThreadPoolExecutor) -> None:
        self._frames = frames
        self._pool = pool
        self._next: tuple[int, Future[Any]] | None = None

    def __len__(self) -> int:
        return len(self._frames)

    def read(self, index: int) -> Any:
        asked = self._next
        frame = asked[1].result() if asked and asked[0] == index else self._frames.read(index)
        following = index + 1
        self._next = None
        if following < len(self._frames):
            self._next = following, self._pool.submit(self._frames.read, following)
        return frame

    def place(self, index: int) -> str:
        return self._frames.place(index)


# --- in the process of its own


def run_task(tracker: AnyTracker, task: Task, on_frame: Callable[[int], None]) -> OnePass:
    """One pass, ended by the first box that is not finite. Raises what the tracker raises, and ValueError."""
    name = task.sequence.name

    def check(index: int, box: Any) -> None:
        if box is not None and not np.isfinite(np.asarray(box, np.float64)).all():
            raise ValueError(
                f"the box of frame {index} must be four finite numbers, or None for none, got {box!r}"
            )
        on_frame(index)

    if not task.read_ahead:
        return one_pass(tracker, task.sequence, task.max_frames, check)
    with ThreadPoolExecutor(1, thread_name_prefix=f"frames of {name}") as pool:
        sequence = replace(task.sequence, frames=ReadAhead(task.sequence.frames, pool))
        return one_pass(tracker, sequence, task.max_frames, check)


def serve(open_tracker: OpenTracker, pipe: Connection, beat: Any, threads: int) -> None:
    """Says that the tracker is open (None) or why not (Failure), then answers tasks until the pipe is closed.

    After a task that failed the process ends: a tracker that has raised may be in any state.
    """
    if hasattr(os, "setsid"):
        os.setsid()  # so that what a tracker starts can be killed with it
    threading.Thread(target=_die_with_parent, daemon=True).start()
    _limit_opencv(threads)
    try:
        tracker = open_tracker()
    except (Exception, SystemExit) as error:
        pipe.send(Failure(_sentence(error), traceback.format_exc()))
        return
    pipe.send(None)
    with suppress(EOFError, BrokenPipeError):
        while True:
            answer = _answer(tracker, pipe.recv(), beat)
            pipe.send(answer)
            if isinstance(answer.result, Failure):
                break
    close = getattr(tracker, "close", None)
    if callable(close):
        close()
    # The parent does this too, unless it was killed and that is why the pipe is closed.
    sys.stdout.flush()
    _kill_group(os.getpid())


def _answer(tracker: AnyTracker, task: Task, beat: Any) -> Answer:
    def on_frame(index: int) -> None:
        beat.value = index

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            result: OnePass | Failure = run_task(tracker, task, on_frame)
        except (Exception, SystemExit) as error:
            frame = beat.value + 1 if beat.value >= 0 else task.frames.start
            result = Failure(f"{_sentence(error)} (frame {frame})", traceback.format_exc())
    said = dict.fromkeys(str(one.message) for one in caught if issubclass(one.category, UserWarning))
    return Answer(result, tuple(said))


def _sentence(error: BaseException) -> str:
    said = " ".join(str(error).split())
    if isinstance(error, SystemExit):
        return f"the tracker asked to end its process, with exit code {error.code}"
    if isinstance(error, (ValueError, OSError, ModuleNotFoundError)) and said:
        return said
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _limit_opencv(threads: int) -> None:
    import cv2

    cv2.setNumThreads(threads)


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    _kill_group(os.getpid())


def _kill_group(process: int) -> None:
    with suppress(ProcessLookupError, PermissionError):  # it has ended already
        if hasattr(os, "killpg"):
            os.killpg(process, signal.SIGKILL)
        else:
            os.kill(process, signal.SIGTERM)  # ends it at once on Windows


# --- in the parent


class Worker:
    """One process and what it is doing. ``answer`` is to be called from time to time: it is what notices a hang."""

    def __init__(self, open_tracker: OpenTracker, threads: int, limit_s: float) -> None:
        """``limit_s`` is the longest time for one frame, its decoding and the tracker's answer."""
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.task: Task | None = None
        self.is_open = False
        self._limit_s = limit_s
        self._beat: Any = context.RawValue("q", -1)
        self._seen = -1
        self._since = time.monotonic()
        arguments = (open_tracker, theirs, self._beat, threads)
        # Not a daemon: those may not start processes, and a tracker may be one.
        self._process = context.Process(target=serve, args=arguments, name="tracker")
        with _for_a_child(threads):
            self._process.start()
        theirs.close()

    @property
    def is_idle(self) -> bool:
        return self.is_open and self.task is None

    @property
    def frames_done(self) -> int:
        """Of the task."""
        return (
            0 if self.task is None or self._beat.value < 0 else self._beat.value + 1 - self.task.frames.start
        )

    def give(self, task: Task) -> None:
        assert self.is_idle
        self._beat.value = self._seen = -1
        self._since = time.monotonic()
        self.task = task
        with suppress(BrokenPipeError):  # it has just died, which `answer` will tell
            self.pipe.send(task)

    def answer(self) -> Answer | None:
        """What came of the task, or None while it is worked on. After a failure the worker is at an end.

        Raises ValueError where the tracker cannot be opened.
        """
        try:
            if self.pipe.poll():
                return self._take(self.pipe.recv())
        except (EOFError, OSError):  # at its end, or in the middle of a message
            return self._fail(self._how_it_ended())
        if not self._process.is_alive() and not self.pipe.poll():
            return self._fail(self._how_it_ended())
        if self._beat.value != self._seen:
            self._seen, self._since = self._beat.value, time.monotonic()
        limit_s = self._limit_s if self.is_open else max(self._limit_s, OPEN_LIMIT_S)
        if (self.task is not None or not self.is_open) and time.monotonic() - self._since > limit_s:
            return self._fail(f"no answer{self._at(' to frame {}')} within {limit_s:g} s")
        return None

    def kill(self) -> None:
        """End the process, and those that the tracker has started, at once."""
        if self._process.pid is not None:
            _kill_group(self._process.pid)
        self._process.kill()  # before it has a group of its own
        self._process.join()
        self.pipe.close()

    def dismiss(self) -> None:
        """Let the process end by itself; ``has_left`` is to be asked until it has."""
        self.pipe.close()
        self._since = time.monotonic()

    def has_left(self) -> bool:
        """Whether a dismissed process is gone; one that takes too long is killed, and so is what it leaves behind."""
        late = time.monotonic() - self._since > (CLOSE_LIMIT_S if self.is_open else 0.0)
        if late or not self._process.is_alive():
            self.kill()
            return True
        return False

    def _take(self, message: Answer | Failure | None) -> Answer | None:
        if isinstance(message, Failure):
            raise ValueError(f"the tracker cannot be opened: {message.sentence}")
        if message is None:
            self.is_open, self._since = True, time.monotonic()
            return None
        self.task = None
        return message

    def _fail(self, sentence: str) -> Answer:
        self.kill()
        if not self.is_open:
            raise ValueError(f"the tracker cannot be opened: {sentence}")
        self.task = None
        return Answer(Failure(sentence))

    def _at(self, where: str) -> str:
        """``where`` with the frame that is worked on; nothing while the tracker is opened."""
        if self.task is None:
            return ""
        return where.format(self._beat.value + 1 if self._beat.value >= 0 else self.task.frames.start)

    def _how_it_ended(self) -> str:
        self._process.join(CLOSE_LIMIT_S)
        code = self._process.exitcode
        how = f"with exit code {code}"
        if code is not None and code < 0:
            how = f"by the signal {signal.Signals(-code).name}"
        return f"the tracker's process ended {how}{self._at(' at frame {}')}"


@contextmanager
def _for_a_child(threads: int) -> Iterator[None]:
    """What a process inherits when it is started meanwhile: few threads, no Ctrl-C, and not the parent's script.

    Ctrl-C is for the parent, which then ends its children. A child would run the script again to find what is
    defined there, and needs nothing of it.
    """
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    script = sys.modules["__main__"]
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    sys.modules["__main__"] = types.ModuleType("__main__")
    blocked = hasattr(signal, "pthread_sigmask") and signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked or ())
        sys.modules["__main__"] = script
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
