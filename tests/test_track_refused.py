"""What the verb ``track`` refuses: one sentence, exit code 2, and nothing changed."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import safetensors.torch
import torch
from command_line import Run, assert_refused, content

from mixformerv2.runtime import backend


@contextmanager
def unchanged(home: Path) -> Iterator[None]:
    before = content(home)
    yield
    assert content(home) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.mp4"], ["none.mp4 does not exist"]),
        (["none/*.jpg"], ["must match images"]),
        ([""], ["does not exist"]),
        (["ftp://somewhere/a.mp4"], ["address must begin with one of"]),
        (["text.mp4"], ["text.mp4 is not a video"]),
        (["empty.mp4"], ["empty.mp4"]),
        (["text.png"], ["text.png is not an image"]),
        (["nothing"], ["folder nothing must hold images"]),
        (["half.mp4"], ["half.mp4"]),
        (["clip.mp4", "--start-frame", "12"], ["start_frame must be below 12"]),
        (["clip.mp4", "--start-frame", "-1"], ["start_frame must be a whole number from 0 on"]),
        (["clip.mp4", "--start-frame", "two"], ["--start-frame", "see mixformerv2 track --help"]),
    ],
    ids=str,
)
def test_a_wrong_source_is_refused_in_one_line(
    track: Run, home: Path, arguments: list[str], words: list[str]
) -> None:
    for name in ("text.mp4", "text.png"):
        (home / name).write_text("Not a picture, just some words.\n" * 50)
    (home / "empty.mp4").touch()
    (home / "nothing").mkdir()
    (home / "half.mp4").write_bytes((home / "clip.mp4").read_bytes()[:200])
    with unchanged(home):
        assert_refused(track(*arguments, "--results", "a.csv", "--output", "a.mp4"), *words)


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ("10,10,0,5", ["positive width and height"]),
        ("10,10,5,-5", ["positive width and height"]),
        ("10,nan,5,5", ["finite numbers"]),
        ("10,10,inf,5", ["finite numbers"]),
        ("500,500,5,5", ["the box 500,500,5,5 lies outside the frame of 96 x 64 px"]),
        ("96,10,5,5", ["outside the frame"]),
        ("10,10,5", ["--box is four numbers x,y,w,h in pixels, such as 205,151,17,50; got '10,10,5'"]),
        ("10,10,5,5,5", ["--box is four numbers"]),
        ("10;10;5;5", ["--box is four numbers"]),
        ("10x10+5+5", ["--box is four numbers"]),
        ("a,b,c,d", ["--box is four numbers"]),
        ("[red]", ["got '[red]'"]),
        ("", ["--box is four numbers"]),
    ],
)
def test_a_wrong_box_is_refused_in_one_line(track: Run, home: Path, box: str, words: list[str]) -> None:
    with unchanged(home):
        assert_refused(track("clip.mp4", "--results", "a.csv", "--output", "a.mp4", box=box), *words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--output", "a.avi"], ["video to write must end in .mp4, .mov, .mkv, got a.avi"]),
        (["--results", "a.xyz"], ["results file must end in .csv, .jsonl, .txt, .mot.txt"]),
        (["--results", "a.csv", "--results-format", "xml"], ["results format must be one of", "'xml'"]),
        (["--results", "none/a.csv"], ["none/a.csv cannot be written: the folder none does not exist"]),
        (["--output", "none/a.mp4"], ["none/a.mp4 cannot be written: the folder none does not exist"]),
        (["--results", "clip.mp4/a.csv"], ["clip.mp4 is not a folder"]),
        (["--results", "folder.csv"], ["folder.csv cannot be written: it is a folder"]),
        (["--output", "clip.mp4"], ["clip.mp4 is read, and would be lost"]),
        (["--results", "a.csv", "--output", "clip.mp4"], ["clip.mp4 is read, and would be lost"]),
        (["--results", "locked/a.csv"], ["locked/a.csv cannot be written", "ermission denied"]),
    ],
    ids=str,
)
def test_an_output_that_cannot_be_written_is_refused_before_the_work(
    track: Run, home: Path, options: list[str], words: list[str]
) -> None:
    (home / "folder.csv").mkdir()
    (home / "locked").mkdir(mode=0o500)
    if "locked/a.csv" in options and os.access(home / "locked", os.W_OK):
        pytest.skip("this user may write into every folder")
    with unchanged(home):
        assert_refused(track("clip.mp4", *options), *words)


def write_wrong_weights(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "truncated.safetensors").write_bytes(whole[: len(whole) // 2])
    (folder / "header.safetensors").write_bytes(whole[:100])
    (folder / "empty.safetensors").touch()
    (folder / "text.safetensors").write_text("Not weights, just some words.\n" * 50)
    (folder / "pickled.safetensors").write_bytes(pickle.dumps({"weights": [1.0, 2.0]}))
    torch.save({"weights": torch.zeros(3)}, folder / "released.pth.tar")
    safetensors.torch.save_file({"weights": torch.zeros(3)}, folder / "foreign.safetensors")
    (folder / "folder").mkdir()


@pytest.mark.parametrize("runtime", ["torch", "auto"])
@pytest.mark.parametrize(
    "name",
    [
        "truncated.safetensors",
        "header.safetensors",
        "empty.safetensors",
        "text.safetensors",
        "pickled.safetensors",
        "released.pth.tar",
        "foreign.safetensors",
        "none.safetensors",
        "folder",
    ],
)
def test_wrong_weights_are_refused_in_one_line_that_names_them(
    track: Run, home: Path, name: str, runtime: str
) -> None:
    write_wrong_weights(home)
    with unchanged(home):
        assert_refused(track("clip.mp4", "--model", name, "--backend", runtime), name)


@pytest.mark.parametrize(
    "name",
    [
        "truncated.safetensors",
        "header.safetensors",
        "empty.safetensors",
        "text.safetensors",
        "foreign.safetensors",
    ],
)
def test_wrong_weights_in_an_exported_folder_are_refused_without_torch_too(
    track: Run, home: Path, name: str
) -> None:
    write_wrong_weights(home)
    (home / "exported").mkdir()
    shutil.copy(name, home / "exported" / backend.WEIGHTS_FILE)
    for graph in (backend.ENCODE_GRAPH, backend.SEARCH_GRAPH):
        (home / "exported" / graph).touch()
    assert_refused(track("clip.mp4", "--model", "exported", "--backend", "openvino"), "model.safetensors")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model", "gigantic"], ["no model is called 'gigantic'"]),
        (["--backend", "tensorrt"], ["no backend is called 'tensorrt'", "openvino"]),
        (["--precision", "int3"], ["no precision is called 'int3'", "f32"]),
        (["--device", "abacus"], ["abacus", "cpu"]),
        (["--threads", "0"], ["threads must be a whole number from 1 to 1024, got 0"]),
        (["--threads", "many"], ["--threads"]),
        (["--backend", "openvino"], ["mixformerv2 export"]),
        (["--colour", "red"], ["No such option", "--colour", "see mixformerv2 track --help"]),
    ],
    ids=str,
)
def test_a_wrong_option_is_refused_in_one_line(
    track: Run, home: Path, options: list[str], words: list[str]
) -> None:
    with unchanged(home):
        assert_refused(track("clip.mp4", "--results", "a.csv", *options), *words)


def test_what_is_left_out_is_named_in_one_line(run: Run, home: Path) -> None:
    assert_refused(run("track"), "Missing argument", "see mixformerv2 track --help")
    assert_refused(run("track", "clip.mp4"), "give --box x,y,w,h for one object, or --boxes FILE for many")
    assert_refused(run("follow", "clip.mp4"), "No such command 'follow'; see mixformerv2 --help")
