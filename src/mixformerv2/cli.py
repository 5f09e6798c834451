"""The command line: one verb, one function. What a verb needs is imported inside it, so that ``--help`` is instant."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from mixformerv2.recording import Summary

app = typer.Typer(
    help="Track one object through a video, and train, convert and export the models that do it.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
_out = Console(soft_wrap=True)
_err = Console(stderr=True, soft_wrap=True)
_UsageError: Any = typer.BadParameter.__mro__[1]  # the parent of every wrong use, which typer does not export

ModelOption = Annotated[
    str, typer.Option("--model", help="A shipped model, an exported folder or a .safetensors file.")
]
BackendOption = Annotated[str, typer.Option("--backend", help="auto, openvino, onnxruntime or torch.")]
PrecisionOption = Annotated[str, typer.Option("--precision", help="auto, f32 or bf16.")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, or what the backend offers.")]
ThreadsOption = Annotated[int | None, typer.Option("--threads", help="CPU threads; all by default.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")]


def main() -> None:
    """Entry point: exit code 0 when done, 2 with one line for wrong input, 130 after Ctrl-C."""
    warnings.showwarning = _show_warning
    try:
        sys.exit(app(sys.argv[1:] or ["--help"], prog_name="mixformerv2", standalone_mode=False))
    except (_UsageError, ValueError, OSError, ModuleNotFoundError) as error:
        _err.print(f"[bold red]error:[/] {escape(_one_line(error))}", highlight=False)
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)


def _one_line(error: Any) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, _UsageError):
        verb = f" {error.ctx.info_name}" if error.ctx and error.ctx.parent else ""
        return f"{error.format_message().rstrip('.')}; see mixformerv2{verb} --help"
    return " ".join(str(error).split())


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if issubclass(category, UserWarning):
        _warn(str(message))


def _warn(message: str) -> None:
    _err.print(f"[yellow]warning:[/] {escape(message)}", highlight=False)


@app.command(epilog="Example: mixformerv2 demo --output-dir /tmp/demo")
def demo(
    output_dir: Annotated[Path, typer.Option(help="Folder for the three files.")] = Path("mixformerv2-demo"),
    model: ModelOption = "tiny",
    backend: BackendOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Track the shipped clip: writes an overlay video, a contact sheet and the boxes."""
    from importlib.resources import as_file, files

    from mixformerv2.recording import Outputs
    from mixformerv2.tracker import Tracker

    output_dir.mkdir(parents=True, exist_ok=True)
    outputs = Outputs(
        video=output_dir / "demo.mp4",
        results=output_dir / "demo.csv",
        contact_sheet=output_dir / "demo.png",
        overwrite=True,
    )
    with as_file(files("mixformerv2") / "demo") as folder:
        clip = json.loads((folder / "demo.json").read_text())
        tracker = Tracker(model, backend, precision, threads=threads)
        summary = _record(folder / clip["video"], clip["box"], tracker, outputs, clip["start_frame"])
    _report(summary, tracker, outputs)


@app.command(
    "track",
    epilog="Example: mixformerv2 track street.mp4 --box 205,151,17,50 --results street.csv --output out.mp4",
)
def track_verb(
    source: Annotated[
        str,
        typer.Argument(
            help="Video file, folder or glob of images, camera number, rtsp:// or http(s):// URL."
        ),
    ],
    box: Annotated[str, typer.Option(help="x,y,w,h of the object in pixels of the start frame.")],
    start_frame: Annotated[int, typer.Option(help="Frame that the box belongs to, from 0.")] = 0,
    output: Annotated[Path | None, typer.Option(help="Overlay video to write (.mp4, .mov, .mkv).")] = None,
    results: Annotated[Path | None, typer.Option(help="Boxes to write: .csv, .jsonl or .txt.")] = None,
    results_format: Annotated[
        str | None, typer.Option(help="csv, jsonl, otb, lasot or got10k; by default from the suffix.")
    ] = None,
    model: ModelOption = "tiny",
    backend: BackendOption = "auto",
    precision: PrecisionOption = "auto",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Follow one object through a video; without --output and --results, writes SOURCE-tracked.mp4 here."""
    from mixformerv2.recording import Outputs
    from mixformerv2.tracker import Tracker

    coordinates = _parse_box(box)
    if output is None and results is None:
        output = Path(f"{_stem(source)}-tracked.mp4")
    outputs = Outputs(output, results, results_format, overwrite=overwrite)
    tracker = Tracker(model, backend, precision, device, threads)
    summary = _record(source, coordinates, tracker, outputs, start_frame)
    _report(summary, tracker, outputs)
    if summary.interrupted:
        raise typer.Exit(130)


@app.command(epilog="Example: mixformerv2 convert mixformerv2_small.pth.tar small.safetensors")
def convert(
    source: Annotated[
        Path, typer.Argument(help="A published .pth.tar checkpoint: B, S, a student or a MixViT.")
    ],
    target: Annotated[Path, typer.Argument(help="The .safetensors file to write.")],
    overwrite: OverwriteOption = False,
) -> None:
    """Read a checkpoint of the released research code; nothing in the file is executed."""
    _need_torch("convert")
    from mixformerv2.model import checkpoint

    _refuse_existing(target, overwrite)
    config = checkpoint.convert(source, target)
    m = config.model
    _out.print(
        f"{target}: {m.depth} blocks, width {m.dim}, MLP ratio {m.mlp_ratio:g}, {m.num_bins} bins, "
        f"{m.search_px}/{m.template_px} px, {'score head' if m.score_head else 'no score head'}",
        highlight=False,
    )


@app.command(
    epilog="Example: mixformerv2 export small.safetensors small/ && mixformerv2 track v.mp4 --model small/ ..."
)
def export(
    source: Annotated[Path, typer.Argument(help="A .safetensors checkpoint.")],
    folder: Annotated[Path, typer.Argument(help="Folder for the two ONNX graphs and their weights.")],
    overwrite: OverwriteOption = False,
) -> None:
    """Make the pair of graphs that runs without torch."""
    _need_torch("export")
    from mixformerv2.runtime.backend import SEARCH_GRAPH
    from mixformerv2.runtime.export import export as export_graphs

    _refuse_existing(folder / SEARCH_GRAPH, overwrite)
    export_graphs(source, folder)
    size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    _out.print(f"{folder}: {size:.1f} MB; track with --model {folder}", highlight=False)


@app.command(
    epilog="Example: mixformerv2 train tiny-small-input --data DIR --output runs/tiny --max-minutes 60"
)
def train(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe; --list shows them.")] = "",
    data: Annotated[Path | None, typer.Option(help="Folder with stills/ and, if there, got10k/.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the run; resumes what is in it.")] = None,
    init: Annotated[Path | None, typer.Option(help="Checkpoint to start from.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    max_minutes: Annotated[float | None, typer.Option(help="Save and stop after so long.")] = None,
    list_recipes: Annotated[bool, typer.Option("--list", help="Show the recipes.")] = False,
) -> None:
    """Run a recipe, or go on with it where it stopped."""
    _need_torch("train")
    from mixformerv2.train import engine
    from mixformerv2.train.recipes import RECIPES

    if list_recipes:
        for name, function in RECIPES.items():
            _out.print(f"{name}: {(function.__doc__ or '').splitlines()[0]}", highlight=False)
        return
    if recipe not in RECIPES:
        raise ValueError(f"no recipe is called {recipe!r}: choose one of {', '.join(RECIPES)}")
    if data is None or output is None:
        raise ValueError("train needs --data, the folder to learn from, and --output, the folder of the run")
    weights = engine.run(RECIPES[recipe](), data, output, init, device, max_minutes)
    _out.print(f"weights: {weights}", highlight=False)


@app.command(epilog="Example: mixformerv2 models --json models.json")
def models(
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the list as JSON.")] = None,
) -> None:
    """List the models that come with the package."""
    from dataclasses import asdict

    from rich.table import Table

    from mixformerv2.runtime.backend import read_config, shipped_models

    table = Table("model", "blocks", "width", "MLP", "input px", "MB")
    listed = []
    for name, path in shipped_models().items():
        config, size = read_config(path), path.stat().st_size
        m = config.model
        row = (
            name,
            m.depth,
            m.dim,
            f"{m.mlp_ratio:g}",
            f"{m.search_px}/{m.template_px}",
            f"{size / 1e6:.1f}",
        )
        table.add_row(*map(str, row))
        listed.append({"name": name, "path": str(path), "bytes": size, **asdict(config)})
    if json_file is not None:
        json_file.write_text(json.dumps(listed, indent=1) + "\n")
    _out.print(table)


def _parse_box(text: str) -> list[float]:
    try:
        values = [float(part) for part in text.replace(" ", "").split(",")]
    except ValueError:
        values = []
    if len(values) != 4:
        raise ValueError(f"--box is four numbers x,y,w,h in pixels, such as 205,151,17,50; got {text!r}")
    return values


def _stem(source: str) -> str:
    """A file name for what was tracked, whatever kind of source it is."""
    stem = Path(source.rstrip("/")).stem if "://" not in source else source.split("://")[1].split("/")[0]
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in stem) or "video"


def _refuse_existing(target: Path, overwrite: bool) -> None:
    if target.exists() and not overwrite:
        raise FileExistsError(
            f"{target} exists already: choose another name or pass --overwrite to replace it"
        )


def _need_torch(verb: str) -> None:
    from importlib.util import find_spec

    for package in ("torch", "safetensors"):
        if find_spec(package) is None:
            raise ModuleNotFoundError(
                f"`mixformerv2 {verb}` needs the package {package}: pip install 'mixformerv2[train]'"
            )


def _record(source: str | Path, box: list[float], tracker: Any, outputs: Any, start_frame: int) -> Summary:
    """``record`` with a progress bar of frames per second."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
    from rich.text import Text

    from mixformerv2.recording import record

    class FramesPerSecond(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:.0f} frames/s" if task.speed else "")

    columns = (TextColumn("tracking"), BarColumn(), MofNCompleteColumn(), FramesPerSecond())
    with Progress(*columns, console=_err, transient=True, disable=not _err.is_terminal) as bars:
        bar = bars.add_task("tracking", total=None)
        return record(
            source,
            box,
            tracker,
            outputs,
            start_frame,
            progress=lambda done, total: bars.update(bar, completed=done, total=total),
        )


def _report(summary: Summary, tracker: Any, outputs: Any) -> None:
    if summary.warning:
        _warn(summary.warning)
    if summary.interrupted:
        _warn(f"stopped by Ctrl-C after {summary.frames} frames; what was tracked is written")
    speed = (
        f", {summary.tracker_ms:.1f} ms each ({1000 / summary.tracker_ms:.0f} per second)"
        if summary.frames > 1
        else ""
    )
    lost = f", lost in {summary.lost_frames}" if summary.lost_frames else ""
    engine = f"{tracker.backend.name} {tracker.backend.precision}"
    _out.print(f"{summary.frames} frames{lost}{speed} with {engine}", highlight=False)
    for path in (outputs.video, outputs.contact_sheet, outputs.results):
        if path is not None and path.exists():
            _out.print(f"  {path}", highlight=False)
