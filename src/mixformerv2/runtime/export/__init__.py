"""A checkpoint in the formats of other runtimes, each proven before it takes its place."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mixformerv2.config import Config
from mixformerv2.model import checkpoint
from mixformerv2.runtime.backend import (
    ENCODE_GRAPH,
    SEARCH_GRAPH,
    WEIGHTS_FILE,
    Backend,
    find_weights,
    read_config,
)
from mixformerv2.runtime.export.graphs import Pair
from mixformerv2.runtime.export.loaded import OneOfMany
from mixformerv2.runtime.torch import NetworkBackend

CONFIG_FILE = "config.json"


@dataclass(frozen=True)
class Target:
    """A format; the module of the same name beside this one writes it and loads it."""

    files: tuple[str, ...]
    packages: tuple[str, ...]  # what makes the files and runs them
    install: str
    free_batch: bool = True  # else the graphs hold a fixed number of targets, one unless asked otherwise


TARGETS = {
    "onnx": Target(
        (WEIGHTS_FILE, ENCODE_GRAPH, SEARCH_GRAPH), ("onnx", "onnxscript"), "'mixformerv2[train]'"
    ),
    "openvino": Target(
        ("encode_templates.xml", "encode_templates.bin", "search.xml", "search.bin"),
        ("openvino", "onnx", "onnxscript"),
        "'mixformerv2[train]'",
    ),
    "torch": Target(("encode_templates.pt2", "search.pt2"), ("torch",), "'mixformerv2[train]'"),
    "executorch": Target(
        ("encode_templates.pte", "search.pte"), ("executorch",), "executorch", free_batch=False
    ),
    "ncnn": Target(
        tuple(f"{name}.ncnn.{part}" for name in ("encode_templates", "search") for part in ("param", "bin")),
        ("pnnx", "ncnn"),
        "pnnx ncnn",
        free_batch=False,
    ),
}

Check = Callable[[str, Backend, Backend], None]  # target, the network in torch, what was exported


def files_of(targets: Iterable[str]) -> list[str]:
    """Names of what an export writes."""
    return [CONFIG_FILE, *(file for name in targets for file in TARGETS[name].files)]


def need_packages(targets: Iterable[str]) -> None:
    """Raises ValueError for a target that is unknown, ModuleNotFoundError for one whose packages are not installed."""
    for name in targets:
        if name not in TARGETS:
            raise ValueError(f"no export target is called {name!r}: choose from {', '.join(TARGETS)}")
        for package in TARGETS[name].packages:
            if importlib.util.find_spec(package) is None:
                install = f"pip install {TARGETS[name].install}"
                raise ModuleNotFoundError(f"the target {name} needs the package {package}: {install}")


def export(
    source: str | Path,
    folder: Path,
    targets: Sequence[str] = ("onnx",),
    batch: int | None = None,
    check: Check | None = None,
) -> None:
    """Writes ``config.json`` and the files of each target into ``folder``: all of them, or none and no folder.

    ``source`` is a checkpoint or a shipped model's name. ``batch`` fixes the number of targets at once. ``check``
    gets every exported pair while it lies elsewhere; what it raises ends the export. Raises ValueError where
    ``source`` is not a checkpoint of ours, a target is unknown or cannot have that batch.
    """
    need_packages(targets)
    network, config = checkpoint.load(find_weights(source))
    fixed = batch is not None or not all(TARGETS[name].free_batch for name in targets)
    if fixed and config.tracker.online_templates > 1:
        raise ValueError(
            f"a fixed batch holds one online template, and {source} keeps {config.tracker.online_templates}"
        )
    _check_others(folder, targets, config)
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=".export-", dir=folder) as unfinished:
            for name in targets:
                _make(name, Pair(network, config, batch), Path(unfinished), check)
            (Path(unfinished) / CONFIG_FILE).write_text(_config_text(config))
            for file in files_of(targets):
                os.replace(Path(unfinished) / file, folder / file)
    except BaseException:
        with contextlib.suppress(OSError):  # one may hold what somebody else put there meanwhile
            for place in made:
                place.rmdir()
        raise


def _config_text(config: Config) -> str:
    return config.to_json() + "\n"


def has_config_of(folder: Path, source: str | Path) -> bool:
    """Whether the folder's ``config.json`` is that of the model already."""
    return _has_config(folder, read_config(find_weights(source)))


def _has_config(folder: Path, config: Config) -> bool:
    path = folder / CONFIG_FILE
    return path.is_file() and path.read_text() == _config_text(config)


def _check_others(folder: Path, targets: Iterable[str], config: Config) -> None:
    """All targets of a folder share its config: others there must be of the same one."""
    if not (folder / CONFIG_FILE).is_file() or _has_config(folder, config):
        return
    written = files_of(targets)
    others = [file for file in files_of(TARGETS) if file not in written and (folder / file).exists()]
    if others:
        raise ValueError(
            f"{folder} has {others[0]} of a model with another {CONFIG_FILE}: choose another folder, or delete it"
        )


def _make(name: str, pair: Pair, folder: Path, check: Check | None) -> None:
    if not TARGETS[name].free_batch:
        pair = replace(pair, batch=pair.batch or 1)
    module = importlib.import_module(f"{__name__}.{name}")
    module.write(pair, folder)
    if check is None:
        return
    reference = NetworkBackend(pair.network, pair.config, "f32")
    for exported in module.load(folder, pair):
        check(name, reference, exported if pair.batch in (None, 1) else OneOfMany(exported, pair.batch))
