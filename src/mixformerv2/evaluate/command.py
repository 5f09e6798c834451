"""A tracker in any language: a command that reads requests on its standard input and answers on its standard output.

The protocol, version 1. Every message is one JSON object on a line of its own, in UTF-8; the tracker flushes after
each. `examples/command_tracker.py` is a complete tracker of this kind.

1. The tracker starts, loads what it needs, and says that it is ready, with a name if it likes::

       {"protocol": 1, "name": "my tracker"}

2. A sequence begins with the object's box in its first frame; the tracker answers with an empty object::

       {"type": "init", "index": 0, "frame": "/dev/shm/.../frame.ppm", "width": 640, "height": 480, "box": [x, y, w, h]}
       {}

3. Each further frame is an update; the tracker answers with its box, and with a score if it has one::

       {"type": "update", "index": 1, "frame": "/dev/shm/.../frame.ppm", "width": 640, "height": 480}
       {"box": [x, y, w, h], "score": 0.93}

4. Another `init` may come at any time and starts anew. When standard input ends, the tracker leaves.

`frame` is a binary PPM file: the bytes ``P6\\n640 480\\n255\\n`` and then height x width x 3 bytes, RGB, row by row
from the top: the pixels are the file's last ``3 * width * height`` bytes. The file is overwritten for the next frame,
so read it before you answer. A box is x, y, width, height in float pixels, x and y of its left top corner, 0 at the
frame's left top corner. It must be finite: a tracker that lost the object answers where it saw it last, with a low
score. A tracker that cannot go on answers ``{"error": "why"}``. Standard output is for answers and nothing else; what
is written to standard error is kept, and its last lines are shown when something goes wrong.
"""

from __future__ import annotations

import json
import math
import os
import selectors
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
import weakref
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np
from jaxtyping import UInt8

from mixformerv2 import geometry
from mixformerv2.images import as_rgb_uint8
from mixformerv2.results import Result

PROTOCOL = 1
ANSWER_S = 60.0
START_S = 300.0  # a large model takes its time
_LAST_LINES = 8
_MAX_LINE = 1 << 20
_LEAVE_S = (1.0, 2.0)  # for an end of input, then for a SIGTERM
# Kills the process group $1 when this process is gone without having said so, for only then is there no line to
# read; then removes the folder $2.
_WATCH = 'read line || kill -s KILL -- "-$1"; rm -rf -- "$2"'


class CommandTracker:
    """The tracker that a command is. It is started by ``start``, or by the first ``init``; it serves many sequences.

    A failure ends the command, with an error that names it and the frame: TimeoutError, ChildProcessError where it
    left, else ValueError. The next ``init`` starts it again. ``close`` ends it, and it never outlives this process.
    """

    def __init__(
        self,
        command: str,
        threads: int | None = None,
        answer_s: float = ANSWER_S,
        start_s: float = START_S,
    ) -> None:
        self.command = command
        self.threads = threads
        self.answer_s, self.start_s = answer_s, start_s
        self.name: str | None = None  # as the command calls itself
        self._index = -1
        self._child: _Child | None = None

    def start(self) -> None:
        """Starts the command and waits until it is ready."""
        self.close()
        self._child = _Child(split(self.command), self.threads)
        hello = self._receive("its first line", self.start_s)
        if hello.get("protocol") != PROTOCOL:
            self._fail(
                f'must begin with {{"protocol": {PROTOCOL}}}, got {json.dumps(hello)[:200]}', ValueError
            )
        self.name = None if hello.get("name") is None else str(hello["name"])

    def init(self, frame: Any, box: Any) -> None:
        geometry.check_box_xywh(box)
        if self._child is None:
            self.start()
        self._index = 0
        self._ask("init", frame, {"box": [float(value) for value in box]})

    def update(self, frame: Any) -> Result:
        if self._child is None or self._index < 0:
            raise ValueError("the tracker has no object yet: call init(frame, box) before update(frame)")
        self._index += 1
        answer = self._ask("update", frame, {})
        x, y, w, h = self._box(answer)
        score: Any = answer.get("score")
        return Result((x, y, w, h), float(score) if _is_number(score) else math.nan, "tracking")

    def close(self) -> None:
        """Ends the command and all that it started; a second call does nothing."""
        if self._child is not None:
            self._child.end()
            self._child, self._index = None, -1

    def __enter__(self) -> CommandTracker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, kind: str, frame: Any, more: dict[str, Any]) -> dict[str, Any]:
        assert self._child is not None
        rgb = as_rgb_uint8(frame)
        request = {
            "type": kind,
            "index": self._index,
            "frame": str(self._child.show(rgb)),
            "width": rgb.shape[1],
            "height": rgb.shape[0],
            **more,
        }
        unasked = self._child.unread()
        if unasked:
            self._fail(f"answered twice before frame {self._index}: {_shown(unasked)}", ValueError)
        # A command that has left is found out when its answer does not come.
        with suppress(BrokenPipeError):
            self._child.send(json.dumps(request).encode() + b"\n")
        answer = self._receive(f"the {kind} of frame {self._index}", self.answer_s)
        if "error" in answer:
            self._fail(f"gave up at the {kind} of frame {self._index}: {answer['error']}", ValueError)
        return answer

    def _receive(self, awaited: str, limit_s: float) -> dict[str, Any]:
        assert self._child is not None
        try:
            line = self._child.read_line(limit_s)
        except TimeoutError:
            self._fail(f"did not answer within {limit_s:g} s to {awaited}", TimeoutError)
        except EOFError:
            self._fail(f"ended {self._child.ending()} when {awaited} was awaited", ChildProcessError)
        try:
            answer = json.loads(line)
        except ValueError:  # not UTF-8, or not JSON
            answer = None
        if not isinstance(answer, dict):
            self._fail(f"must answer to {awaited} with one JSON object, got {_shown(line)}", ValueError)
        return answer

    def _box(self, answer: dict[str, Any]) -> list[float]:
        box = answer.get("box")
        if not (isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))):
            self._fail(
                f'must answer to the update of frame {self._index} with "box": [x, y, w, h], four finite numbers, '
                f"got {json.dumps(answer)[:200]}",
                ValueError,
            )
        return [float(value) for value in box]

    def _fail(self, what: str, kind: type[Exception]) -> NoReturn:
        assert self._child is not None
        child = self._child
        child.listen_out()
        self.close()
        last = " | ".join(child.last_words)
        raise kind(
            f"the command {self.command} {what}" + (f"; its standard error ends: {last}" if last else "")
        )


class _Child:
    """The running command: its pipes, its frame file, and how it ends."""

    def __init__(self, argv: list[str], threads: int | None) -> None:
        self.last_words: deque[str] = deque(maxlen=_LAST_LINES)
        self._pending = {"stdout": b"", "stderr": b""}
        self._folder = tempfile.mkdtemp(prefix="mixformerv2-", dir=_memory_folder())
        limits = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
        try:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                env={**os.environ, **limits},
                start_new_session=True,
            )
        except OSError as error:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise type(error)(
                f"the command {shlex.join(argv)} cannot be started: {error.strerror}"
            ) from error
        self._watch = subprocess.Popen(
            ["/bin/sh", "-c", _WATCH, "sh", str(self._process.pid), self._folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._selector = selectors.DefaultSelector()
        for name in self._pending:
            stream: IO[bytes] = getattr(self._process, name)
            self._selector.register(stream, selectors.EVENT_READ, name)
        # Also where nobody calls `end`: when the tracker is forgotten, and when the interpreter leaves.
        self.end = weakref.finalize(self, _end, self._process, self._watch, self._selector)

    def show(self, rgb: UInt8[np.ndarray, "h w 3"]) -> Path:
        """The frame as a file, in place of the one before: in memory that takes a tenth of a millisecond."""
        path = Path(self._folder) / "frame.ppm"
        height, width = rgb.shape[:2]
        with path.open("r+b" if path.exists() else "w+b") as file:
            file.write(b"P6\n%d %d\n255\n" % (width, height))
            file.write(np.ascontiguousarray(rgb).data)
            file.truncate()
        return path

    def send(self, line: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line)

    def unread(self) -> bytes:
        """What stands on standard output unasked."""
        self._listen(0)
        return self._pending["stdout"]

    def read_line(self, limit_s: float) -> bytes:
        """The next line of standard output. Raises TimeoutError, or EOFError at its end."""
        deadline = time.monotonic() + limit_s
        while b"\n" not in self._pending["stdout"]:
            if len(self._pending["stdout"]) > _MAX_LINE:
                return self._pending["stdout"]
            if "stdout" not in self._open():
                raise EOFError
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            self._listen(left_s)
        line, _, self._pending["stdout"] = self._pending["stdout"].partition(b"\n")
        return line

    def ending(self) -> str:
        """In words."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_LEAVE_S[0])
        code = self._process.returncode
        if code is None:
            return "its standard output"
        return f"with exit code {code}" if code >= 0 else f"by {signal.Signals(-code).name}"

    def listen_out(self) -> None:
        """Takes in what has been said already, as far as that has an end."""
        for _ in range(64):
            if not self._listen(0):
                return

    def _listen(self, limit_s: float) -> bool:
        """Takes in a piece from each pipe; was there any?"""
        ready = self._selector.select(limit_s) if self._open() else []
        for key, _ in ready:
            piece = os.read(key.fd, 1 << 16)
            self._pending[key.data] += piece
            if not piece:
                self._selector.unregister(key.fileobj)
        # The bar of a progress is drawn over and over with carriage returns.
        *lines, self._pending["stderr"] = self._pending["stderr"].replace(b"\r", b"\n").split(b"\n")
        if "stderr" not in self._open() or len(self._pending["stderr"]) > _MAX_LINE:
            lines.append(self._pending["stderr"])
            self._pending["stderr"] = b""
        texts = (line.decode(errors="replace").strip()[:200] for line in lines)
        self.last_words.extend(text for text in texts if text)
        return bool(ready)

    def _open(self) -> set[str]:
        return {key.data for key in self._selector.get_map().values()}


def _end(
    process: subprocess.Popen[bytes],
    watch: subprocess.Popen[bytes],
    selector: selectors.BaseSelector,
) -> None:
    """Ends the whole process group, gently at first; the frame goes with it."""
    assert process.stdin and process.stdout and process.stderr and watch.stdin
    selector.close()
    with suppress(BrokenPipeError):
        process.stdin.close()
    for stream in (process.stdout, process.stderr):
        stream.close()
    for limit_s, number in zip(_LEAVE_S, (signal.SIGTERM, signal.SIGKILL), strict=True):
        with suppress(subprocess.TimeoutExpired):
            process.wait(limit_s)
        # A group without a living member is no process, on macOS one that may not be signalled.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
    process.wait()
    with suppress(BrokenPipeError):
        watch.communicate(b"\n")


def split(command: str) -> list[str]:
    """The words of a command, quoted as in a shell. Raises ValueError or FileNotFoundError where it cannot be run."""
    try:
        argv = shlex.split(command)
    except ValueError as error:
        raise ValueError(f"command: must be quoted as in a shell, got {command!r}: {error}") from None
    if not argv:
        raise ValueError("command: must be followed by a command, as in command:python tracker.py, got none")
    if shutil.which(argv[0]) is None:
        raise FileNotFoundError(f"command: must name a program that can be run, got {argv[0]!r}")
    return argv


def _memory_folder() -> str | None:
    """A folder in memory where there is one; else where temporary files go."""
    shared = "/dev/shm"
    return shared if os.path.isdir(shared) and os.access(shared, os.W_OK | os.X_OK) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _shown(line: bytes) -> str:
    return repr(line[:200].decode(errors="replace"))
