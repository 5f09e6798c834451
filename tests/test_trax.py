"""Our server of the TraX protocol, spoken to by hand, line by line."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest
from tiny import square_box, square_frame
from trackers import HERE

from mixformerv2.evaluate.trax import Message, main, read_message, read_region, write_message

TALKATIVE = """
import os

class Talks:
    def __init__(self, says):
        self.says = says

    def init(self, frame, box):
        self.box = box
        print(self.says, end="", flush=True)

    def update(self, frame):
        print(self.says, end="", flush=True)
        os.write(1, b", as does a library in C")
        return (self.box,)
"""
SILENT = """
class NoBox:
    def __init__(self, answer):
        self.answer = {"none": None, "three": ((1, 2, 3),), "nan": ((1, 2, float("nan"), 4),)}[answer]

    def init(self, frame, box):
        pass

    def update(self, frame):
        return self.answer
"""


class Client:
    """The other side: says a line, reads lines until there is a message."""

    def __init__(self, *arguments: str, one_pipe: bool = False) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mixformerv2.evaluate.trax", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if one_pipe else subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        self.limit = threading.Timer(30, self.process.kill)  # a test fails then, and does not hang
        self.limit.daemon = True
        self.limit.start()

    def say(self, line: str) -> Message:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.hear()

    def hear(self) -> Message:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            message = read_message(line)
            if message is not None:
                return message
        raise AssertionError(f"the server is gone: {self.end()}")

    def end(self) -> tuple[int, str, str]:
        """Exit code, and what is left on both outputs."""
        out, error = self.process.communicate()
        self.limit.cancel()
        return self.process.returncode, out or "", error or ""


@pytest.fixture
def frames(tmp_path: Path) -> list[str]:
    """Addresses of a square's frames, in a folder whose name is no help."""
    folder = tmp_path / "a folder=1"
    folder.mkdir()
    for index in range(4):
        cv2.imwrite(str(folder / f"{index}.png"), square_frame(index)[..., ::-1])
    return [f"file://{folder}/{index}.png" for index in range(4)]


@pytest.fixture
def talkative(tmp_path: Path) -> str:
    path = tmp_path / "talkative.py"
    path.write_text(TALKATIVE)
    return f"python:{path}:Talks"


@pytest.fixture
def client() -> Iterator[Client]:
    one = Client(f"{HERE}:Follow")
    yield one
    if one.process.poll() is None:
        one.process.kill()
        one.process.communicate()


def numbers(message: Message) -> list[float]:
    assert message.name == "state", message
    return [float(number) for number in message.arguments[0].split(",")]


BOX = "10,8,12,12"  # of the square in frame 0


# --- a conversation


def test_a_client_gets_a_box_for_every_frame_and_may_begin_anew(client: Client, frames: list[str]) -> None:
    hello = client.hear()
    assert hello.name == "hello" and hello.arguments == []
    assert hello.properties.pop("trax.name").startswith("Follow (mixformerv2 ")
    assert hello.properties == {
        "trax.version": "2",
        "trax.image": "path;",
        "trax.region": "rectangle;",
        "trax.channels": "color;",
    }
    for start in (0, 1):
        box = ",".join(map(str, square_box(start)))
        first = client.say(f'@@TRAX:initialize "{frames[start]}" "{box}" "some.key=1"')
        assert numbers(first) == list(square_box(start)) and first.properties == {}
        for index in (start + 1, start + 2):
            state = client.say(f'@@TRAX:frame "{frames[index]}"')
            assert numbers(state) == list(square_box(index))
            assert state.properties == {"confidence": "0.5"}
    assert client.process.stdin is not None
    client.process.stdin.write('@@TRAX:quit "trax.reason=enough"\n')
    assert client.end() == (0, "", "")


def test_a_bare_path_and_lines_that_are_no_messages_are_understood(client: Client, frames: list[str]) -> None:
    client.hear()
    path = frames[0].removeprefix("file://")
    state = client.say(f'\nhow are you?\n@@TRAX:initialize "{path}" {BOX}')
    assert numbers(state) == list(square_box(0))


def test_a_polygon_becomes_the_rectangle_around_it(client: Client, frames: list[str]) -> None:
    client.hear()
    state = client.say(f'@@TRAX:initialize "{frames[0]}" "16,8,22,14,16,20,10,14"')
    assert numbers(state) == [10, 8, 12, 12]


def test_the_server_leaves_quietly_when_the_client_is_gone(client: Client) -> None:
    client.hear()
    assert client.end() == (0, "", "")


def test_what_a_tracker_prints_goes_to_standard_error(talkative: str, frames: list[str]) -> None:
    said = '@@TRAX:state "0,0,1,1"'
    client = Client(talkative, f"says={said}")
    client.hear()
    assert numbers(client.say(f'@@TRAX:initialize "{frames[0]}" "{BOX}"')) == [10, 8, 12, 12]
    assert numbers(client.say(f'@@TRAX:frame "{frames[1]}"')) == [10, 8, 12, 12]
    assert client.end() == (0, "", f"{said}{said}, as does a library in C")


def test_half_a_line_before_a_message_does_no_harm_where_both_outputs_are_one_pipe(
    talkative: str, frames: list[str]
) -> None:
    client = Client(talkative, "says=Loading ...", one_pipe=True)
    client.hear()
    assert numbers(client.say(f'@@TRAX:initialize "{frames[0]}" "{BOX}"')) == [10, 8, 12, 12]
    assert numbers(client.say(f'@@TRAX:frame "{frames[1]}"')) == [10, 8, 12, 12]
    assert client.end() == (0, "", "")


# --- what goes wrong


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('@@TRAX:frame "FRAME"', "says initialize before frame"),
        ('@@TRAX:initialize "FRAME"', "initialize .image and region., .* got initialize with 1 arguments"),
        ("@@TRAX:dance", "got dance with 0 arguments"),
        ('@@TRAX:initialize "file:///no/such/frame.jpg" "1,2,3,4"', "file /no/such/frame.jpg is missing"),
        (f'@@TRAX:initialize "{Path(__file__)}" "1,2,3,4"', "cannot be read as an image"),
        ('@@TRAX:initialize "FRAME" "m0,0,3,3,1,2"', "must be a rectangle .* got m0,0,3,3,1,2"),
        ('@@TRAX:initialize "FRAME" "1,2,3"', "must be a rectangle"),
        ('@@TRAX:initialize "FRAME" "1,2,nan,4"', "must be a rectangle"),
    ],
)
def test_a_wrong_request_ends_the_server_with_its_reason(
    client: Client, frames: list[str], line: str, reason: str
) -> None:
    client.hear()
    farewell = client.say(line.replace("FRAME", frames[0]))
    assert farewell.name == "quit"
    assert re.search(reason, farewell.properties["trax.reason"])
    code, _, error = client.end()
    assert code == 1 and re.fullmatch(f"error: ValueError: .*{reason}.*\n", error)


def test_a_tracker_that_sees_no_box_says_the_last_one_without_confidence(
    frames: list[str], tmp_path: Path
) -> None:
    (tmp_path / "silent.py").write_text(SILENT)
    client = Client("--cwd", str(tmp_path), "python:silent.py:NoBox", "answer=none")
    client.hear()
    began = client.say(f'@@TRAX:initialize "{frames[0]}" "{BOX}"')
    answer = client.say(f'@@TRAX:frame "{frames[1]}"')
    assert answer.name == "state" and answer.arguments == began.arguments
    assert float(answer.properties["confidence"]) == 0
    assert client.process.stdin is not None
    client.process.stdin.write("@@TRAX:quit\n")
    assert client.end()[0] == 0


@pytest.mark.parametrize("answer", ["three", "nan"])
def test_an_answer_without_a_box_is_told_to_the_client(
    answer: str, frames: list[str], tmp_path: Path
) -> None:
    (tmp_path / "silent.py").write_text(SILENT)
    client = Client("--cwd", str(tmp_path), "python:silent.py:NoBox", f"answer={answer}")
    client.hear()
    client.say(f'@@TRAX:initialize "{frames[0]}" "{BOX}"')
    farewell = client.say(f'@@TRAX:frame "{frames[1]}"')
    assert farewell.name == "quit" and "four finite numbers, got" in farewell.properties["trax.reason"]
    assert client.end()[0] == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["large"], "error: no tracker is called 'large'"),
        (["tiny", "search_factor"], "error: options are KEY=VALUE, got 'search_factor'"),
        (["opencv:vit"], "error: opencv:vit needs model files"),
        (["--cwd", "/no/such/folder", "tiny"], "error: .*/no/such/folder"),
    ],
)
def test_a_tracker_that_cannot_be_opened_is_one_line_and_exit_code_2(
    arguments: list[str], sentence: str
) -> None:
    code, out, error = Client(*arguments).end()
    assert (code, out) == (2, "")
    assert re.match(sentence, error) and error.count("\n") == 1


# --- lines and regions


@pytest.mark.parametrize(
    "message",
    [
        Message("state", ["1,2,3,4"], {"confidence": "0.5"}),
        Message("hello", [], {"trax.name": 'quo"ted \\ and\nbroken', "trax.version": "2"}),
        Message("frame", ["file:///a folder=1/x.jpg"], {"note": "a=b"}),
    ],
)
def test_a_message_is_one_line_that_reads_back(message: Message) -> None:
    line = write_message(message)
    assert line.endswith("\n") and line.count("\n") == 1
    assert read_message(line) == message


def test_a_message_has_the_form_that_the_protocol_prescribes() -> None:
    line = write_message(Message("state", ["1,2,3,4"], {"confidence": "0.5"}))
    assert line == '@@TRAX:state "1,2,3,4" "confidence=0.5"\n'
    assert read_message("state 1,2,3,4") is None


def test_regions_are_rectangles_or_polygons() -> None:
    assert read_region("1.5,-2,3,4") == (1.5, -2, 3, 4)
    assert read_region("5,1,9,4,2,8") == (2, 1, 7, 7)


def test_a_wrong_use_of_the_program_shows_how_it_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([])
    assert left.value.code == 2
    assert "usage: python -m mixformerv2.evaluate.trax" in capsys.readouterr().err
