"""The command line in this process, as the fixture ``run`` of conftest.py, and what is expected of it."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import tiny

from mixformerv2.cli import main

NUM_FRAMES = 12  # of the clip of the fixture ``home``
BOX = ",".join(f"{value:g}" for value in tiny.square_box(0))


class Ran(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Ran]


def run_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object) -> Ran:
    monkeypatch.setattr(sys, "argv", ["mixformerv2", *map(str, arguments)])
    with warnings.catch_warnings(), pytest.raises(SystemExit) as left:
        warnings.filterwarnings("default", category=UserWarning)
        main()
    code = left.value.code or 0  # None means 0
    assert isinstance(code, int), "text would be printed"
    return Ran(code, *capsys.readouterr())


def content(folder: Path) -> dict[str, int]:
    """Every file below, hidden ones too, and when it was last written."""
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()
    }


def assert_refused(ran: Ran, *words: str) -> None:
    """Exit code 2 and one line that says why."""
    assert ran.code == 2, ran
    assert ran.err.startswith("error: "), ran.err
    assert ran.err.endswith("\n")
    assert ran.err.count("\n") == 1, ran.err
    assert "Traceback" not in ran.err
    for word in words:
        assert word in ran.err, ran.err
    assert ran.out == ""
