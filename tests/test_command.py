"""A tracker behind a pipe: the protocol, and every way in which a program can go wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from tiny import square_box, square_frame

from mixformerv2.evaluate import command
from mixformerv2.evaluate.command import CommandTracker
from mixformerv2.evaluate.spec import open_tracker, parse

EXAMPLE = Path(__file__).parents[1] / "examples" / "command_tracker.py"
# `say` answers, `requests` are the lines; a test adds what the program does.
PRELUDE = """
import json, os, signal, subprocess, sys, time

def say(answer):
    print(json.dumps(answer), flush=True)

requests = map(json.loads, sys.stdin)
"""
HELLO = 'say({"protocol": 1, "name": "test"})\n'
STARTED = HELLO + "next(requests); say({}); request = next(requests)\n"

Make = Callable[..., CommandTracker]


@pytest.fixture
def frames_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the trackers of a test keep their frames."""
    folder = tmp_path / "memory"
    folder.mkdir()
    monkeypatch.setattr(command, "_memory_folder", lambda: str(folder))
    return folder


@pytest.fixture
def make(tmp_path: Path, frames_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterable[Make]:
    """Makes a tracker of a program's body; in the end nothing may be left of any."""
    monkeypatch.setattr(command, "_LEAVE_S", (0.3, 0.3))
    made: list[CommandTracker] = []

    def make(body: str, **options: float) -> CommandTracker:
        path = tmp_path / f"program_{len(made)}.py"
        path.write_text(PRELUDE + textwrap.dedent(body))
        made.append(CommandTracker(f"{sys.executable} {path}", **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for tracker in made:
        tracker.close()
    assert not list(frames_folder.iterdir())


def assert_ended(process: int, within_s: float = 10.0) -> None:
    """It is gone, or waits to be collected by whoever is its parent now."""
    end = time.monotonic() + within_s
    while True:
        ps = ["ps", "-o", "stat=", "-p", str(process)]
        state = subprocess.run(ps, capture_output=True, text=True, check=False).stdout.strip()
        if not state or state.startswith("Z"):
            return
        assert time.monotonic() < end, f"process {process} is still there: {state}"
        time.sleep(0.02)


def two_frames(tracker: CommandTracker) -> tuple[float, ...]:
    tracker.init(square_frame(0), square_box(0))
    return tracker.update(square_frame(1)).box


def around(index: int) -> tuple[float, ...]:
    """The square and a rim of 3 px: within its edges there is nothing to match."""
    x, y, w, h = square_box(index)
    return (x - 3, y - 3, w + 6, h + 6)


# --- all goes well


def test_the_example_follows_a_square_through_two_sequences(frames_folder: Path) -> None:
    tracker = open_tracker(parse(f"command:{sys.executable} {EXAMPLE}", {"threads": "1"}))
    assert isinstance(tracker, CommandTracker)
    with tracker:
        assert tracker.name == "template matching"
        for start in (0, 5):
            tracker.init(square_frame(start), around(start))
            for index in range(start + 1, start + 5):
                result = tracker.update(square_frame(index))
                assert result.box == around(index)
                assert 0.99 < result.score < 1.01
    assert not list(frames_folder.iterdir())


def test_requests_are_those_that_are_documented(make: Make, tmp_path: Path) -> None:
    log = tmp_path / "requests"
    body = f"""
    {HELLO}
    for request in requests:
        pixels = open(request.pop("frame"), "rb").read()
        open({str(log)!r}, "a").write(json.dumps([request, pixels[:13].decode("latin1"), list(pixels[-3:])]) + "\\n")
        say({{}} if request["type"] == "init" else {{"box": [1, 2, 3.5, 4]}})
    """
    frame = np.full((20, 30, 3), (7, 8, 9), np.uint8)
    tracker = make(body)
    tracker.init(frame, (1, 2, 3, 4))
    result = tracker.update(frame[:10, ::2] + 1)  # smaller, and not contiguous
    assert result.box == (1, 2, 3.5, 4) and np.isnan(result.score)
    first, second = (json.loads(line) for line in log.read_text().splitlines())
    box = {"box": [1.0, 2.0, 3.0, 4.0]}
    assert first == [
        {"type": "init", "index": 0, "width": 30, "height": 20} | box,
        "P6\n30 20\n255\n",
        [7, 8, 9],
    ]
    assert second[0] == {"type": "update", "index": 1, "width": 15, "height": 10}
    assert second[2] == [8, 9, 10]


def test_the_frame_file_is_never_longer_than_its_frame(make: Make) -> None:
    size = 'os.path.getsize(request["frame"])'
    tracker = make(f'{HELLO}for request in requests: say({{"box": [0, 0, {size}, 1]}})')
    tracker.init(np.zeros((40, 40, 3), np.uint8), (1, 1, 5, 5))
    assert tracker.update(np.zeros((10, 12, 3), np.uint8)).box[2] == len(b"P6\n12 10\n255\n") + 360


def test_the_number_of_threads_reaches_the_program(make: Make) -> None:
    threads = 'int(os.environ["OMP_NUM_THREADS"])'
    tracker = make(f'{HELLO}for request in requests: say({{"box": [0, 0, {threads}, 1]}})', threads=3)
    assert two_frames(tracker)[2] == 3


def test_a_program_that_writes_much_to_standard_error_is_not_held_up(make: Make) -> None:
    tracker = make(f"""
    {HELLO}
    for request in requests:
        sys.stderr.write("progress\\r" * 100_000)
        say({{"box": [1, 2, 3, 4]}})
    """)  # fmt: skip
    assert two_frames(tracker) == (1, 2, 3, 4)


def test_an_update_before_init_is_refused(make: Make) -> None:
    tracker = make(HELLO + "time.sleep(60)")
    tracker.start()
    with pytest.raises(ValueError, match="call init"):
        tracker.update(square_frame(0))
    with pytest.raises(ValueError, match="positive width and height"):
        tracker.init(square_frame(0), (1, 2, 3, -4))


# --- what goes wrong


@pytest.mark.parametrize(
    ("body", "kind", "sentence"),
    [
        ("sys.exit(3)", ChildProcessError, "ended with exit code 3 when its first line was awaited"),
        ("time.sleep(60)", TimeoutError, "did not answer within 0.5 s to its first line"),
        ("print('Loading ...', flush=True); time.sleep(60)", ValueError, "one JSON object, got 'Loading ...'"),
        ("say({'protocol': 2})", ValueError, 'must begin with {"protocol": 1}, got {"protocol": 2}'),
        ("say([1])", ValueError, r"to its first line with one JSON object, got '\[1\]'"),
        (HELLO + "next(requests); sys.exit(0)", ChildProcessError, "exit code 0 when the init of frame 0"),
        (HELLO + "sys.stdin.close(); time.sleep(0.2); sys.exit(5)", ChildProcessError, "with exit code 5"),
        (STARTED + "1 / 0", ChildProcessError, "update of frame 1 was awaited; .*ZeroDivisionError"),
        (STARTED + "os.kill(os.getpid(), 9)", ChildProcessError, "ended by SIGKILL when the update of frame 1"),
        (STARTED + "os.close(1); time.sleep(60)", ChildProcessError, "ended its standard output when"),
        (STARTED + "time.sleep(60)", TimeoutError, "did not answer within 0.5 s to the update of frame 1"),
        (STARTED + "os.write(1, b'{'); time.sleep(60)", TimeoutError, "within 0.5 s to the update of frame 1"),
        (STARTED + "print('tracking...'); say({})", ValueError, "one JSON object, got 'tracking...'"),
        (STARTED + "os.write(1, bytes([255, 254, 10]))", ValueError, "one JSON object, got"),
        (STARTED + "os.write(1, b'x' * (1 << 21))", ValueError, "one JSON object, got 'xxx"),
        (STARTED + "say({'box': [1, 2, float('nan'), 4]})", ValueError, "four finite numbers, got .*NaN"),
        (STARTED + "say({'box': [1, 2, 3]})", ValueError, r"four finite numbers, got {\"box\": \[1, 2, 3\]}"),
        (STARTED + "say({'box': None})", ValueError, "four finite numbers"),
        (STARTED + "say({'box': [1, 2, 3, True]})", ValueError, "four finite numbers"),
        (STARTED + "say({'score': 1})", ValueError, "four finite numbers"),
        (STARTED + "say({'error': 'out of memory'})", ValueError, "gave up at the update of frame 1: out of mem"),
    ],
)  # fmt: skip
def test_a_fault_names_the_command_and_the_frame(
    body: str, kind: type[Exception], sentence: str, make: Make
) -> None:
    late = kind is TimeoutError
    tracker = make(body, answer_s=0.5 if late else 20.0, start_s=0.5 if late and HELLO not in body else 20.0)
    with pytest.raises(kind, match=sentence) as caught:
        two_frames(tracker)
    assert str(caught.value).startswith(f"the command {sys.executable} ")
    assert "\n" not in str(caught.value)


def test_what_was_said_on_standard_error_ends_the_sentence(make: Make) -> None:
    tracker = make(
        STARTED + "for line in range(20): print('line', line, file=sys.stderr)\nsys.exit('no GPU')"
    )
    with pytest.raises(ChildProcessError, match=r"exit code 1 .*ends: line 13 \| .*line 19 \| no GPU$"):
        two_frames(tracker)


def test_an_answer_too_many_is_noticed_at_the_next_frame(make: Make) -> None:
    tracker = make(STARTED + "say({'box': [1, 2, 3, 4]}); say({'box': [5, 6, 7, 8]}); time.sleep(60)")
    assert two_frames(tracker) == (1, 2, 3, 4)
    time.sleep(0.2)
    with pytest.raises(ValueError, match="answered twice before frame 2: .*5, 6, 7, 8"):
        tracker.update(square_frame(2))


def test_after_a_fault_the_next_init_starts_the_program_again(make: Make, tmp_path: Path) -> None:
    flag = tmp_path / "ran"
    tracker = make(f"""
    {HELLO}
    for request in requests:
        if request["type"] == "update" and not os.path.exists({str(flag)!r}):
            open({str(flag)!r}, "w")
            sys.exit(1)
        say({{"box": [1, 2, 3, 4]}})
    """)  # fmt: skip
    with pytest.raises(ChildProcessError):
        two_frames(tracker)
    with pytest.raises(ValueError, match="call init"):
        tracker.update(square_frame(1))
    assert two_frames(tracker) == (1, 2, 3, 4)


def test_a_file_that_cannot_be_run_is_said_so(tmp_path: Path, frames_folder: Path) -> None:
    program = tmp_path / "tracker"
    program.write_bytes(b"\x7fELF, but nothing more")
    program.chmod(0o755)
    with pytest.raises(OSError, match=r"the command .*tracker cannot be started: "):
        CommandTracker(str(program)).start()
    assert not list(frames_folder.iterdir())


# --- what is left


def test_closing_ends_a_stubborn_program_and_what_it_started(make: Make, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    body = f"""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    helper = subprocess.Popen(["sleep", "60"])
    open({str(pids)!r}, "w").write(f"{{os.getpid()}} {{helper.pid}}")
    {HELLO}
    while True: time.sleep(60)
    """
    tracker = make(body)
    tracker.start()
    tracker.close()
    tracker.close()
    for process in map(int, pids.read_text().split()):
        assert_ended(process)


def test_a_program_leaves_by_itself_when_its_input_ends(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "_LEAVE_S", (20.0, 0.1))
    farewell = tmp_path / "farewell"
    tracker = make(f"{HELLO}list(requests); open({str(farewell)!r}, 'w').write('left')")
    tracker.start()
    tracker.close()
    assert farewell.read_text() == "left"


@pytest.mark.parametrize("how", ["killed", "forgotten"])
def test_nothing_is_left_where_nobody_closes_it(how: str, tmp_path: Path) -> None:
    pids, folder = tmp_path / "pids", tmp_path / "memory"
    folder.mkdir()
    program = tmp_path / "program.py"
    program.write_text(
        f"{PRELUDE}open({str(pids)!r}, 'w').write(str(os.getpid()))\n{HELLO}"
        "next(requests); say({})\nwhile True: time.sleep(60)"
    )
    owner = f"""
    import os, signal, sys
    import numpy as np
    from mixformerv2.evaluate import command
    command._memory_folder, command._LEAVE_S = lambda: {str(folder)!r}, (0.1, 0.1)
    tracker = command.CommandTracker({f"{sys.executable} {program}"!r})
    tracker.init(np.zeros((20, 20, 3), np.uint8), (1, 2, 3, 4))
    assert os.listdir({str(folder)!r})
    if {how!r} == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(owner)], check=False)
    assert done.returncode == (-signal.SIGKILL if how == "killed" else 0)
    assert_ended(int(pids.read_text()))
    end = time.monotonic() + 5
    while os.listdir(folder):
        assert time.monotonic() < end
        time.sleep(0.02)
