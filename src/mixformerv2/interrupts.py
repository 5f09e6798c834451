"""Work that is asked to end: by Ctrl-C, by the system, or because its terminal is closed."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

SAME_WISH_S = 2.0  # what comes so soon after the first signal asks for nothing new


class Interrupts:
    """What signals ask of a block of ``as_keyboard_interrupts``."""

    def __init__(self) -> None:
        self._first_s = -math.inf
        self._holding = False
        self._noted: KeyboardInterrupt | None = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """What must not be broken off in its midst: a signal that comes meanwhile interrupts at its end."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
            noted, self._noted = self._noted, None
            if noted is not None:
                raise noted

    def _end(self, number: int, _: Any) -> None:
        now_s = time.monotonic()
        if now_s <= self._first_s + SAME_WISH_S:
            return
        self._first_s = now_s
        interrupt = KeyboardInterrupt(signal.Signals(number).name)
        if not self._holding:
            raise interrupt
        self._noted = interrupt


@contextmanager
def as_keyboard_interrupts() -> Iterator[Interrupts]:
    """In the block SIGTERM and SIGHUP raise KeyboardInterrupt, as Ctrl-C does, and one that follows at once is ignored.

    `timeout`, `docker stop` and a session that is closed then leave what Ctrl-C leaves, and two signals for one wish
    do not break off what the first has begun to finish. A signal that is ignored, as by `nohup`, or that the program
    handles itself stays so. Does nothing in a thread other than the main one, to which signals go.
    """
    interrupts = Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield interrupts
        return
    names = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows lacks the last one
    found = {number: signal.getsignal(number) for name in names if (number := getattr(signal, name, None))}
    usual = {number: it for number, it in found.items() if it in (signal.SIG_DFL, signal.default_int_handler)}
    with handled_by(interrupts._end, usual):
        yield interrupts


@contextmanager
def handled_by(handler: Callable[[int, Any], None], numbers: Iterable[int]) -> Iterator[None]:
    """In the block these signals go to the handler, and afterwards to where they went before."""
    before = {number: signal.getsignal(number) for number in numbers}
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, usual in before.items():
            signal.signal(number, usual)
