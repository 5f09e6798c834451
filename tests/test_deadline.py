"""When a training is to stop: at a signal, or when its time is up."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from mixformerv2.train import deadline
from mixformerv2.train.deadline import Deadline


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_step_end_and_a_later_one_acts_as_usual(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = [100.0]
    monkeypatch.setattr(deadline.time, "monotonic", lambda: now_s[0])
    limit, usual = Deadline(None), signal.getsignal(number)
    seen: list[int] = []
    signal.signal(number, lambda *_: seen.append(1))
    try:
        with limit.watching_signals():
            assert not limit.reached
            os.kill(os.getpid(), number)
            assert limit.reached and limit.signal == number and not seen
            now_s[0] = 101.0
            os.kill(os.getpid(), number)
            assert not seen, "one that comes at once says the same again"
            now_s[0] = 103.0
            os.kill(os.getpid(), number)
            assert seen == [1]
        os.kill(os.getpid(), number)
        assert seen == [1, 1]
    finally:
        signal.signal(number, usual)


def test_the_time_is_up_after_so_many_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(deadline.time, "monotonic", lambda: now[0])
    limited, unlimited = Deadline(2.0), Deadline(None)
    for at, reached in ((219.9, False), (220.0, True)):
        now[0] = at
        assert limited.reached == reached and not unlimited.reached
    assert Deadline(0.0).reached


def test_a_run_in_another_thread_is_stopped_by_its_time_alone() -> None:
    def watch() -> bool:
        with Deadline(0.0).watching_signals():
            return True

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(watch).result()
