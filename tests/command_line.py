"""The command line in this process, as the fixture ``run`` of conftest.py."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import NamedTuple

import pytest

from mixformerv2.cli import main


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
