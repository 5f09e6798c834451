"""The other verbs, what is missing, the help, and a process of its own, as a person meets them."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import pytest
import test_checkpoint
import tiny
import torch
from command_line import BOX, Ran, Run, assert_refused, content

import mixformerv2
from mixformerv2 import recording
from mixformerv2.cli import app, common
from mixformerv2.results import read_results
from mixformerv2.runtime import backend

VERBS = [command.name or command.callback.__name__ for command in app.registered_commands]


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Hides an installed package from whoever asks whether it is there."""

    def hide(package: str) -> None:
        find_spec = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util,
            "find_spec",
            lambda name, *rest: None if name == package else find_spec(name, *rest),
        )

    return hide


@pytest.mark.parametrize(
    ("package", "arguments", "install"),
    [
        ("torch", ["track", "clip.mp4", "--box", BOX, "--model", "model.safetensors"], "mixformerv2[train]"),
        (
            "onnxruntime",
            ["track", "clip.mp4", "--box", BOX, "--model", "exported", "--backend", "onnxruntime"],
            "mixformerv2[onnx]",
        ),
        ("torch", ["convert", "released.pth.tar", "a.safetensors"], "mixformerv2[train]"),
        ("safetensors", ["convert", "released.pth.tar", "a.safetensors"], "mixformerv2[train]"),
        ("torch", ["export", "model.safetensors", "graphs"], "mixformerv2[train]"),
        ("torch", ["train", "--list"], "mixformerv2[train]"),
    ],
    ids=str,
)
def test_a_missing_extra_is_named_with_the_command_that_installs_it(
    run: Run, home: Path, without: Callable[[str], None], package: str, arguments: list[str], install: str
) -> None:
    (home / "exported").mkdir()
    for name in (backend.WEIGHTS_FILE, backend.ENCODE_GRAPH, backend.SEARCH_GRAPH):
        shutil.copy(home / "model.safetensors", home / "exported" / name)
    before = content(home)
    without(package)
    assert_refused(run(*arguments), package, f"pip install '{install}'")
    assert content(home) == before


# The other verbs


def test_convert_writes_a_checkpoint_that_tracks_and_says_its_sizes(run: Run, home: Path) -> None:
    test_checkpoint.saved({"net": test_checkpoint.state_dict("mixformerv2_small")}, home / "small.pth.tar")
    ran = run("convert", "small.pth.tar", "small.safetensors")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == (
        "small.safetensors: 4 blocks, width 64, MLP ratio 1, 96 bins, 64/32 px, score head\n".replace(
            "64/32 px", _pixels(home / "small.safetensors")
        )
    )
    ran = run(
        "track",
        "clip.mp4",
        "--box",
        BOX,
        "--model",
        "small.safetensors",
        "--threads",
        1,
        "--results",
        "a.csv",
    )
    assert ran.code == 0
    before = content(home)
    assert_refused(run("convert", "small.pth.tar", "small.safetensors"), "exists already", "--overwrite")
    assert content(home) == before
    assert run("convert", "small.pth.tar", "small.safetensors", "--overwrite").code == 0


def _pixels(checkpoint: Path) -> str:
    model = backend.read_config(checkpoint).model
    return f"{model.search_px}/{model.template_px} px"


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        ("none.pth.tar", "a.safetensors", ["none.pth.tar"]),
        ("text.pth.tar", "a.safetensors", ["text.pth.tar cannot be read as a PyTorch checkpoint"]),
        ("half.pth.tar", "a.safetensors", ["half.pth.tar cannot be read as a PyTorch checkpoint"]),
        ("other.pth.tar", "a.safetensors", ["other.pth.tar is no MixFormerV2 or MixViT checkpoint"]),
        ("model.safetensors", "a.safetensors", ["model.safetensors"]),
        ("whole.pth.tar", "none/a.safetensors", ["none/a.safetensors"]),
        ("whole.pth.tar", "clip.mp4/a.safetensors", ["clip.mp4/a.safetensors"]),
    ],
)
def test_convert_refuses_what_is_wrong_in_one_line_and_leaves_nothing(
    run: Run, home: Path, source: str, target: str, words: list[str]
) -> None:
    whole = test_checkpoint.saved(test_checkpoint.state_dict("mixformerv2_small"), home / "whole.pth.tar")
    (home / "half.pth.tar").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    (home / "text.pth.tar").write_text("Not weights, just some words.\n" * 50)
    torch.save({"fc.weight": torch.zeros(3)}, home / "other.pth.tar")
    before = content(home)
    assert_refused(run("convert", source, target), *words)
    assert content(home) == before


def test_models_lists_what_is_shipped_as_a_table_and_as_json(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = home / "model.safetensors"
    monkeypatch.setattr(backend, "shipped_models", lambda: {"mine": path})
    ran = run("models", "--json", "models.json")
    assert (ran.code, ran.err) == (0, "")
    assert any(row.split("│")[1:4] == [" mine  ", " 2      ", " 32    "] for row in ran.out.splitlines()), (
        ran.out
    )
    (listed,) = json.loads(Path("models.json").read_text())
    assert (listed["name"], listed["path"], listed["bytes"]) == ("mine", str(path), path.stat().st_size)
    assert "compact is the default" in ran.out and f"  {home}\n" in ran.out
    assert listed["model"]["depth"] == 2
    assert listed["tracker"]["update_interval"] == 3
    assert_refused(run("models", "--json", "models.json"), "models.json exists already")
    assert run("models", "--json", "models.json", "--overwrite").code == 0
    assert_refused(
        run("models", "--json", "none/models.json"),
        "none/models.json cannot be written: the folder none does not exist",
    )


def test_demo_writes_video_contact_sheet_and_boxes_and_says_where(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ("--model", "model.safetensors", "--backend", "torch", "--threads", 1)
    shorten = recording.open_source
    monkeypatch.setattr(recording, "open_source", lambda source, start: shorten(source, 170))
    for again in ((), ("--overwrite",)):
        ran = run("demo", "--output-dir", "new/demo", *model, *again)
        assert ran.code == 0, ran
        written = ["new/demo/demo.mp4", "new/demo/demo.png", "new/demo/demo.csv"]
        assert [line.strip() for line in ran.out.splitlines()[1:]] == written
        assert sorted(content(home / "new")) == ["demo/demo.csv", "demo/demo.mp4", "demo/demo.png"]
    assert_refused(run("demo", "--output-dir", "clip.mp4", *model), "clip.mp4: File exists")
    assert_refused(run("demo", "--output-dir", "new/demo", *model), "exists already", "--overwrite")
    assert_refused(run("demo", "--output-dir", "other", "--model", "huge"), "no model is called 'huge'")
    assert not (home / "other").exists()
    for _ in range(2):  # its own folder is replaced
        assert run("demo", *model).code == 0

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(recording.Tracker, "update_rgb", interrupted)
    assert run("demo", "--output-dir", "cut", *model).code == 130


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_every_verb_has_an_example(run: Run, verb: str) -> None:
    ran = run(verb, "--help")
    assert (ran.code, ran.err) == (0, "")
    assert f"Example: mixformerv2 {verb} " in " ".join(ran.out.split())


def test_the_help_lists_every_verb_and_comes_without_being_asked(run: Run) -> None:
    ran = run("--help")
    assert (ran.code, ran.err) == (0, "")
    assert run() == ran
    for verb in VERBS:
        assert f" {verb} " in ran.out
    places = [ran.out.index(f"│ {verb} ") for verb in common.VERBS]
    assert places == sorted(places), "as a newcomer meets them"
    assert {*VERBS, "data"} == set(common.VERBS)
    assert run("--version").out == f"{mixformerv2.__version__}\n"


# A real process


def start(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mixformerv2", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


def test_a_process_tracks_a_clip_and_ends_with_0(home: Path) -> None:
    ended = start(
        *("track", "clip.mp4", "--box", BOX, "--model", "model.safetensors", "--threads", "1"), cwd=home
    )
    assert ended.returncode == 0, ended
    assert ended.stdout.splitlines()[1:] == ["  clip-tracked.mp4"]
    assert ended.stderr == ""
    assert (home / "clip-tracked.mp4").is_file()


def test_a_process_refuses_in_one_line_and_ends_with_2(home: Path) -> None:
    before = content(home)
    ended = start("track", "none.mp4", "--box", "10,10,5", cwd=home)
    assert_refused(Ran(ended.returncode, ended.stdout, ended.stderr), "--box is four numbers")
    assert content(home) == before


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals for another process")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_process_that_is_asked_to_end_finishes_its_files(home: Path, name: str) -> None:
    number = signal.Signals[name]
    (home / "images").mkdir()
    cv2.imwrite("0.png", tiny.square_frame(0))
    for index in range(20_000):
        (home / "images" / f"{index}.png").symlink_to(home / "0.png")
    arguments = ("track", "images", "--box", BOX, "--model", "model.safetensors", "--threads", "1")
    process = subprocess.Popen(
        [sys.executable, "-m", "mixformerv2", *arguments, "--results", "a.csv"],
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # it may be ignored where tests run
    )
    give_up = time.monotonic() + 60
    while not any(
        path.read_text().count("\n") > 2 for path in home.glob(".a.*.partial.csv")
    ):  # frames are counted
        assert process.poll() is None and time.monotonic() < give_up
        time.sleep(0.02)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    said = re.fullmatch(r"warning: stopped after (\d+) frames, as asked; what was tracked is written\n", err)
    assert said, err
    num_rows = len(read_results(home / "a.csv"))
    assert 0 <= num_rows - int(said[1]) <= 1, "the last row may be written and not yet counted"
    assert 0 < num_rows < 20_000
    assert not list(home.glob(".a.*"))
