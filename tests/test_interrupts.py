"""Which signals end the work, and when."""

from __future__ import annotations

import signal
import threading
from typing import Any

import pytest

from mixformerv2 import interrupts
from mixformerv2.interrupts import as_keyboard_interrupts

SIGNALS = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
pytestmark = pytest.mark.usefixtures("usual_signals")


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_raises_once_and_its_echo_is_ignored(number: signal.Signals) -> None:
    usual = signal.getsignal(number)
    with as_keyboard_interrupts():
        with pytest.raises(KeyboardInterrupt, match=number.name):
            signal.raise_signal(number)
        for echo in SIGNALS:
            signal.raise_signal(echo)
    assert signal.getsignal(number) == usual


def test_a_signal_that_comes_later_is_another_wish(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [0.0]
    monkeypatch.setattr(interrupts.time, "monotonic", lambda: now_s[0])
    with as_keyboard_interrupts():
        for now_s[0] in (100.0, 103.0):
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGTERM)


def test_what_a_program_ignores_or_handles_itself_stays_so() -> None:
    came: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with as_keyboard_interrupts():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
    assert came == [signal.SIGTERM]


def test_in_another_thread_nothing_changes() -> None:
    found: list[Any] = []

    def look() -> None:
        with as_keyboard_interrupts():
            found.extend(signal.getsignal(number) for number in SIGNALS)

    before = [signal.getsignal(number) for number in SIGNALS]
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == before


def test_what_is_held_is_interrupted_at_its_end() -> None:
    done: list[str] = []
    with as_keyboard_interrupts() as interrupts:
        with pytest.raises(KeyboardInterrupt, match="SIGTERM"), interrupts.held():
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)
            done.append("the rest of it")
        with interrupts.held():
            done.append("what comes then")
    assert done == ["the rest of it", "what comes then"]


def test_an_interrupt_that_was_held_comes_after_an_error() -> None:
    with (
        as_keyboard_interrupts() as interrupts,
        pytest.raises(KeyboardInterrupt) as caught,
        interrupts.held(),
    ):
        signal.raise_signal(signal.SIGINT)
        raise ValueError("of the work")
    assert isinstance(caught.value.__context__, ValueError)
