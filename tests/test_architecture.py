"""Design rules that no linter knows: which way imports go, what tracking does without, what is public."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mixformerv2

SOURCE = Path(mixformerv2.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
MAX_LINES = 400

# Who may import whom; a row names only rows above it. Within a row, modules import each other freely.
ALLOWED: dict[str, set[str]] = {
    "geometry": set(),
    "config": set(),
    "files": set(),
    "plugins": set(),
    "interrupts": set(),
    "results": {"files"},
    "starts": {"geometry", "results"},
    "images": set(),
    "video": {"images"},
    "overlay": {"files", "results", "images"},
    "rulers": {"files", "images"},
    "data": {"geometry", "files", "results", "images", "video"},
    "model": {"geometry", "config", "files"},
    "distill": {"geometry", "config", "model"},
    "runtime": {"geometry", "config", "model"},
    "target": {"geometry", "config", "results", "runtime"},
    "tracker": {"geometry", "config", "results", "images", "video", "runtime", "target"},
    "multitracker": {"geometry", "config", "results", "images", "runtime", "target", "tracker"},
    "recording": {
        *("files", "interrupts", "results", "starts", "images", "video", "overlay"),
        *("tracker", "multitracker"),
    },
    "evaluate": {
        *("geometry", "config", "files", "plugins", "results", "images", "video", "data"),
        # A proof looks over a target's shoulder.
        *("runtime", "target", "tracker"),
    },
    # Validation is tracking.
    "train": {
        *("geometry", "config", "files", "plugins", "interrupts", "model", "distill"),
        *("data", "runtime", "tracker", "evaluate"),
    },
    "bench": {
        *("geometry", "config", "files", "results", "images", "video", "overlay"),
        *("model", "runtime", "tracker", "multitracker", "evaluate"),
    },
}
ALLOWED["__init__"] = {"results", "tracker", "multitracker"}
ALLOWED["cli"] = {*ALLOWED} - {"__init__"}
ALLOWED["__main__"] = {"cli"}

MAY_IMPORT_TORCH = {
    *("model", "distill", "train"),
    # Making samples; the readers serve evaluation too.
    *("data/augment", "data/bank", "data/bend", "data/pairs", "data/memory", "data/reading", "data/loader"),
    *("runtime/torch", "runtime/recorded"),
    *(f"runtime/export/{name}" for name in ("graphs", "onnx", "torch", "executorch", "ncnn")),
    *("bench/torch", "bench/reference"),
}


def row_of(path: Path) -> str:
    """The row of a file: its package below mixformerv2, or its own name."""
    return path.relative_to(SOURCE).with_suffix("").parts[0]


def imports(path: Path) -> Iterator[str]:
    """Full names of everything that a file imports, inside functions too; a relative import is none of them."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def of_file(path: Path) -> str:
    return str(path.relative_to(SOURCE))


def test_the_table_of_imports_has_no_circle() -> None:
    rows = list(ALLOWED)
    for row, allowed in ALLOWED.items():
        assert all(rows.index(other) < rows.index(row) for other in allowed), row


@pytest.mark.parametrize("path", FILES, ids=of_file)
def test_imports_go_one_way(path: Path) -> None:
    row = row_of(path)
    assert row in ALLOWED, "a new package needs a row in the table above"
    ours = {name.split(".")[1] for name in imports(path) if name.startswith("mixformerv2.")}
    assert ours - {row} <= ALLOWED[row]


@pytest.mark.parametrize("path", FILES, ids=of_file)
def test_torch_stays_where_it_is_needed(path: Path) -> None:
    if any(name.split(".")[0] == "torch" for name in imports(path)):
        place = path.relative_to(SOURCE).with_suffix("").as_posix()
        assert {row_of(path), place} & MAY_IMPORT_TORCH


def loaded_after(code: str) -> set[str]:
    """Packages that a fresh interpreter holds after the code."""
    report = "import sys; print(*{name.split('.')[0] for name in sys.modules})"
    command = [sys.executable, "-c", f"{code}\n{report}"]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize(
    "module",
    [
        *(
            "tracker",
            "multitracker",
            "cli",
            "recording",
            "data.benchmarks",
            "data.datasets",
            "data.packing",
            "data.sampler",
            "evaluate.run",
            "bench.run",
        ),
        *("runtime.backend", "runtime.openvino", "runtime.onnxruntime"),
    ],
)
def test_tracking_and_reading_benchmarks_need_no_torch(module: str) -> None:
    loaded = loaded_after(f"import mixformerv2.{module}")
    assert "mixformerv2" in loaded
    assert not loaded & {"torch", "safetensors", "onnx", "beartype"}


def test_importing_the_package_or_the_command_line_loads_nothing_heavy() -> None:
    heavy = {"numpy", "cv2", "av", "openvino", "torch"}
    assert not loaded_after("import mixformerv2") & heavy
    assert not loaded_after("import mixformerv2.cli") & heavy


def test_the_public_names_are_there_and_explained() -> None:
    assert mixformerv2.__all__ == ["MultiTracker", "Result", "Tracker", "track"]
    for name in mixformerv2.__all__:
        assert getattr(mixformerv2, name).__name__ == name
        assert getattr(mixformerv2, name).__doc__
    assert {*mixformerv2.__all__, "__version__"} <= set(dir(mixformerv2))
    with pytest.raises(AttributeError, match="no attribute 'Multitracker'"):
        _ = mixformerv2.Multitracker  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", FILES, ids=of_file)
def test_a_module_is_short_and_says_what_it_holds(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text))
    assert len(text.splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", FILES, ids=of_file)
def test_no_error_is_swallowed_unseen(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"line {node.lineno}: a bare except"
            silent = all(isinstance(statement, ast.Pass) for statement in node.body)
            assert not silent, f"line {node.lineno}: say what is let pass with contextlib.suppress"
