"""What many tests need: few threads, and the command line."""

import functools
import os
from collections.abc import Iterator

import pytest

# Small networks gain nothing from threads, and on a busy machine wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Compiled graphs are kept where a test asks for it.
os.environ["MIXFORMERV2_CACHE"] = "off"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[functools.partial]:
    """The command line in this process: arguments -> exit code and what was printed."""
    import torch
    from command_line import run_here

    threads = torch.get_num_threads()
    yield functools.partial(run_here, monkeypatch, capsys)
    torch.set_num_threads(threads)
