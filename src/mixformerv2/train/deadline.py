"""When a run has to stop."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mixformerv2.interrupts import SAME_WISH_S, handled_by


class Deadline:
    """When a run has to stop: its time is up, or the process was asked to end (SIGTERM, Ctrl-C)."""

    def __init__(self, max_minutes: float | None) -> None:
        self._end = None if max_minutes is None else time.monotonic() + 60 * max_minutes
        self.signal: int | None = None

    @property
    def reached(self) -> bool:
        return self.signal is not None or (self._end is not None and time.monotonic() >= self._end)

    @contextmanager
    def watching_signals(self) -> Iterator[None]:
        """The first SIGTERM or Ctrl-C lets the step end and the run be saved; a second one acts as usual, unless it
        comes at once and says the same again.

        Does nothing in a thread other than the main one, to which signals go.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        first_s = -math.inf

        def note(number: int, _: object) -> None:
            nonlocal first_s
            if self.signal is None:
                self.signal, first_s = number, time.monotonic()
            elif time.monotonic() > first_s + SAME_WISH_S:
                signal.signal(number, before[signal.Signals(number)])
                signal.raise_signal(number)

        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        with handled_by(note, before):
            yield
