"""What many tests need: few threads, and the command line with a folder to work in."""

import functools
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from command_line import Ran, Run
    from exported_models import Exported

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


@pytest.fixture
def usual_signals() -> Iterator[None]:
    """Handlers as a program starts with them: what other tests import may have set its own."""
    usual = {"SIGINT": signal.default_int_handler, "SIGTERM": signal.SIG_DFL, "SIGHUP": signal.SIG_DFL}
    numbers = {getattr(signal, name): handler for name, handler in usual.items() if hasattr(signal, name)}
    before = {number: signal.getsignal(number) for number in numbers}
    for number, handler in numbers.items():
        signal.signal(number, handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def model_and_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny checkpoint and a clip."""
    import tiny
    from command_line import NUM_FRAMES

    folder = tmp_path_factory.mktemp("made")
    tiny.write_checkpoint(folder / "model.safetensors")
    tiny.write_clip(folder / "clip.mp4", NUM_FRAMES)
    return folder


@pytest.fixture
def home(model_and_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of the command line, with a model and a clip of its own."""
    for path in model_and_clip.iterdir():
        shutil.copy(path, tmp_path / path.name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> "Exported":
    """Small models as checkpoints and as exported folders."""
    from exported_models import write_exported

    return write_exported(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def exported_folder(exported: "Exported") -> Path:
    """The one with a score head."""
    return exported.folders["scored"]


@pytest.fixture
def track(run: functools.partial, home: Path) -> "Run":
    """``track`` with the tiny model; later options win over these."""
    from command_line import BOX

    def run_track(source: object = "clip.mp4", *arguments: object, box: str = BOX) -> "Ran":
        model = ("--model", "model.safetensors", "--backend", "torch", "--threads", 1)
        return run("track", source, "--box", box, *model, *arguments)

    return run_track
