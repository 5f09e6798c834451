"""The verbs about this machine: what it runs, and models made faster for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mixformerv2.cli.common import (
    JsonOption,
    OverwriteOption,
    app,
    err,
    json_document,
    parse_box,
    say,
)
from mixformerv2.files import check_writable

if TYPE_CHECKING:
    from mixformerv2.bench.doctor import Diagnosis


@app.command(epilog="Example: mixformerv2 doctor --json doctor.json")
def doctor(
    json_path: JsonOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Say what this machine can run, what `auto` takes here and why, and what would be faster."""
    from mixformerv2.bench.doctor import diagnose

    with json_document(json_path, overwrite) as write_json:
        diagnosis = diagnose()
        write_json(asdict(diagnosis))
    say("\n".join(_lines(diagnosis)))


@app.command(epilog="Example: mixformerv2 quantise small/ --calibrate street.mp4 --box 205,151,17,50")
def quantise(
    model: Annotated[
        str, typer.Argument(help="A shipped model or an exported folder; the int8 graph goes into it.")
    ],
    calibrate: Annotated[
        Path, typer.Option(help="What it is calibrated on: a video with --box, or a folder of datasets.")
    ],
    box: Annotated[str | None, typer.Option(help="x,y,w,h in pixels of the video's first frame.")] = None,
    examples: Annotated[int, typer.Option(help="Looks at a target to calibrate on.")] = 300,
    max_drift: Annotated[
        float, typer.Option(help="Mean distance of a side from where f32 sees it, in sides of the crop.")
    ] = 0.003,
    overwrite: OverwriteOption = False,
    json_path: JsonOption = None,
) -> None:
    """Make the graph in int8, which auto takes on processors made for it; sensitive layers stay in floating point."""
    if find_spec("nncf") is None:
        raise ModuleNotFoundError(
            "`mixformerv2 quantise` needs the package nncf: pip install 'mixformerv2[int8]'"
        )
    from mixformerv2.evaluate.calibration import examples as look
    from mixformerv2.runtime import quantise as quantising
    from mixformerv2.runtime.backend import INT8_GRAPH, find_weights, open_backend

    folder = find_weights(model).parent
    check_writable(folder / INT8_GRAPH, overwrite)
    coordinates = None if box is None else parse_box(box)
    config = quantising.QuantiseConfig(max_drift)
    with json_document(json_path, overwrite) as write_json:
        seen = look(open_backend(model, "openvino", "f32"), calibrate, coordinates, examples)
        made = quantising.quantise(folder, seen, config, lambda line: err.print(line, highlight=False))
        write_json(asdict(made) | {"examples": len(seen)})
    off = f"sides {made.mean_drift:.4f} of the crop off f32, {made.worst_drift:.4f} at worst"
    kept = f"in floating point {_words(made.in_floating_point)}"
    say(
        f"{folder / INT8_GRAPH}: {off}; {kept}; --precision int8 takes it, and auto where the processor is made for it"
    )


def _lines(found: Diagnosis) -> list[str]:
    sets = found.instruction_sets
    there = "not said by this system" if sets is None else _words(name for name, has in sets.items() if has)
    lines = [
        f"processor     {found.processor}, {found.cores} cores for this process",
        f"instructions  {there}"
        + ("" if sets is None else f"; not {_words(n for n, has in sets.items() if not has)}"),
        f"precisions    {_words(found.precisions)} on the CPU with OpenVINO",
        f"versions      {_words(f'{name} {version}' for name, version in found.versions.items() if version)}",
        f"missing       {_words(name for name, version in found.versions.items() if not version)}",
        *(f"devices       {backend}: {_words(devices)}" for backend, devices in found.devices.items()),
        *(f"broken        {backend}: {reason}" for backend, reason in found.broken.items()),
        f"compiled      {found.cache or 'nothing is kept on disk'}",
    ]
    lines += [f"auto          {c.model}: {c.backend} in {c.precision}; {c.why}" for c in found.choices]
    return lines + [f"faster        {sentence}" for sentence in found.faster]


def _words(words: Iterable[str]) -> str:
    return ", ".join(words) or "none"
