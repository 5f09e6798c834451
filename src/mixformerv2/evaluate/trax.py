"""Any tracker as a server of the TraX protocol, which is how the VOT toolkit drives trackers.

    python -m mixformerv2.evaluate.trax SPEC [KEY=VALUE ...]

SPEC and KEY=VALUE are what `mixformerv2.evaluate.spec.parse` takes. Written from the protocol's description
(https://trax.readthedocs.io, version 2: one object, colour images): every message is a line ``@@TRAX:name`` with
quoted arguments, first those that a message must have and then ``key=value``. The server says ``hello`` with what it
can do, the client ``initialize`` (image, region) and ``frame`` (image); each is answered by ``state`` (region);
either may ``quit``. Here an image is the path of a file, a region asked for a rectangle; a polygon is understood too.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

import mixformerv2
from mixformerv2.data.sequence import read_rgb
from mixformerv2.evaluate.run import AnyTracker, box_of
from mixformerv2.evaluate.spec import open_tracker, parse

PREFIX = "@@TRAX:"
VERSION = 2
_KEY = re.compile(r"([A-Za-z0-9._]{1,64})=(.*)", re.DOTALL)
# A quoted argument, or a bare word; a backslash in a quoted one takes the next sign as it is.
_ARGUMENT = re.compile(r'"((?:[^"\\]|\\.)*)"|(\S+)')


class Message(NamedTuple):
    """One line of the protocol."""

    name: str
    arguments: list[str]
    properties: dict[str, str]


def read_message(line: str) -> Message | None:
    """None for a line that is none of the protocol's."""
    if not line.startswith(PREFIX):
        return None
    name, _, rest = line[len(PREFIX) :].strip().partition(" ")
    arguments: list[str] = []
    properties: dict[str, str] = {}
    for quoted, bare in _ARGUMENT.findall(rest):
        word = bare or re.sub(r"\\(.)", lambda match: {"n": "\n"}.get(match[1], match[1]), quoted)
        pair = _KEY.fullmatch(word)
        if pair:
            properties[pair[1]] = pair[2]
        else:
            arguments.append(word)
    return Message(name, arguments, properties)


def write_message(message: Message) -> str:
    """The line, its end included."""
    words = [*message.arguments, *(f"{key}={value}" for key, value in message.properties.items())]
    escaped = (word.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n") for word in words)
    return PREFIX + " ".join([message.name, *(f'"{word}"' for word in escaped)]) + "\n"


def read_region(text: str) -> tuple[float, float, float, float]:
    """``x, y, w, h`` of a rectangle, or of the smallest one around a polygon. Raises ValueError for anything else."""
    try:
        numbers = np.array([float(number) for number in text.split(",")])
    except ValueError:  # a mask, or nothing of the protocol
        numbers = np.empty(0)
    if numbers.size >= 6 and numbers.size % 2 == 0:
        corners = numbers.reshape(-1, 2)
        numbers = np.concatenate([corners.min(axis=0), corners.max(axis=0) - corners.min(axis=0)])
    if numbers.size != 4 or not np.isfinite(numbers).all():
        raise ValueError(
            f"a region must be a rectangle (x,y,w,h) or a polygon of at least 3 points, got {text[:80]}"
        )
    x, y, w, h = numbers.tolist()
    return x, y, w, h


def read_image(uri: str) -> Any:
    """The frame, RGB, of a ``file://`` address or a bare path. Raises ValueError where there is no image."""
    return read_rgb(Path(uri.removeprefix("file://")))


def serve(tracker: AnyTracker, name: str, requests: BinaryIO, answers: BinaryIO) -> None:
    """Answers until the client quits or is gone. What the tracker raises is told to the client, then raised."""

    def say(kind: str, arguments: list[str], properties: Mapping[str, str]) -> None:
        # On a line of its own: a client may read standard error from the same pipe, and a half line be there.
        answers.write(b"\n" + write_message(Message(kind, arguments, dict(properties))).encode())
        answers.flush()

    can = {"image": "path;", "region": "rectangle;", "channels": "color;", "name": name}
    say("hello", [], {"trax.version": str(VERSION), **{f"trax.{key}": value for key, value in can.items()}})
    started, box = False, list[float]()
    for raw in requests:
        request = read_message(raw.decode(errors="replace"))
        if request is None:
            continue
        if request.name == "quit":
            return
        try:
            _check(request, started)
            image = read_image(request.arguments[0])
            if request.name == "initialize":
                box = [*read_region(request.arguments[1])]
                tracker.init(image, tuple(box))
                started = True
                say("state", [_region(box)], {})
            else:
                box, properties = _state(tracker.update(image), box)
                say("state", [_region(box)], properties)
        except Exception as error:
            say("quit", [], {"trax.reason": " ".join(f"{type(error).__name__}: {error}".split())})
            raise


def _check(request: Message, started: bool) -> None:
    wanted = {"initialize": 2, "frame": 1}.get(request.name)
    if wanted is None or len(request.arguments) != wanted:
        raise ValueError(
            "a TraX client says initialize (image and region), frame (image) or quit, "
            f"got {request.name} with {len(request.arguments)} arguments"
        )
    if request.name == "frame" and not started:
        raise ValueError("a TraX client says initialize before frame, got frame first")


def _state(answer: Any, last: list[float]) -> tuple[list[float], dict[str, str]]:
    """A box, and properties beside it. TraX knows no answer without a box: none is the last one, without confidence."""
    try:
        given = box_of(answer)
        if given is None:
            return last, {"confidence": "0"}
        box = [float(value) for value in given]
    except (TypeError, LookupError, ValueError):  # no box in it, or one of no numbers
        box = []
    if len(box) != 4 or not np.isfinite(box).all():
        raise ValueError(f"the tracker must answer with a box of four finite numbers, got {answer!r}")
    score: Any = getattr(answer, "score", None)
    # The toolkit's long-term measures go by this name.
    known = score is not None and np.isfinite(score)
    return box, {"confidence": f"{float(score):.6g}"} if known else {}


def _region(box: Any) -> str:
    return ",".join(f"{float(value):.4f}" for value in box)


def main(arguments: list[str] | None = None) -> int:
    """0 when the client has quit, 1 where the tracker failed, 2 for a tracker that cannot be opened."""
    parser = argparse.ArgumentParser(prog="python -m mixformerv2.evaluate.trax", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--cwd", type=Path, help="folder that relative paths start from")
    parser.add_argument("tracker", metavar="SPEC")
    parser.add_argument("options", nargs="*", metavar="KEY=VALUE")
    given = parser.parse_args(arguments)
    # The protocol has standard output for itself: what a tracker prints goes where errors go.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        if given.cwd is not None:
            os.chdir(given.cwd)
        pairs = [option.partition("=") for option in given.options]
        wrong = [key for key, sign, _ in pairs if not sign]
        if wrong:
            raise ValueError(f"options are KEY=VALUE, got {wrong[0]!r}")
        spec = parse(given.tracker, {key: value for key, _, value in pairs})
        tracker = open_tracker(spec)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    try:
        serve(tracker, f"{spec.label} (mixformerv2 {mixformerv2.__version__})", sys.stdin.buffer, answers)
    except BrokenPipeError:  # the client is gone
        return 0
    except Exception as error:
        sys.stderr.write(f"error: {type(error).__name__}: {error}\n")
        return 1
    finally:
        if hasattr(tracker, "close"):
            tracker.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
