"""The verbs that follow objects through a video."""

from __future__ import annotations

import glob
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mixformerv2.cli.common import OverwriteOption, app, err, out, parse_box, say, warn
from mixformerv2.config import DEFAULT_MODEL

if TYPE_CHECKING:
    from mixformerv2.recording import Outputs, Progress, Summary
    from mixformerv2.results import ResultRow

ModelOption = Annotated[
    str, typer.Option("--model", help="A shipped model, an exported folder or a .safetensors file.")
]
BackendOption = Annotated[str, typer.Option("--backend", help="auto, openvino, onnxruntime or torch.")]
PrecisionOption = Annotated[
    str,
    typer.Option(
        "--precision", help="f32, bf16, f16, int8, or auto: the fastest that this processor is made for."
    ),
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, or what the backend offers.")]
ThreadsOption = Annotated[int | None, typer.Option("--threads", help="CPU threads; all by default.")]

_DEMO_FOLDER = Path("mixformerv2-demo")
_LONGEST_STEM = 200  # bytes: a file name has 255, some of which are for what is added


@app.command(epilog="Example: mixformerv2 demo --output-dir /tmp/demo")
def demo(
    output_dir: Annotated[Path, typer.Option(help="Folder for the three files.")] = _DEMO_FOLDER,
    model: ModelOption = DEFAULT_MODEL,
    backend: BackendOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Track the shipped clip: writes an overlay video, a contact sheet and the boxes."""
    from importlib.resources import as_file, files

    from mixformerv2.recording import Outputs, record
    from mixformerv2.tracker import Tracker

    outputs = Outputs(
        video=output_dir / "demo.mp4",
        results=output_dir / "demo.csv",
        contact_sheet=output_dir / "demo.png",
        overwrite=overwrite or output_dir == _DEMO_FOLDER,  # which is nobody else's
    )
    with as_file(files("mixformerv2") / "demo") as folder:
        clip = json.loads((folder / "demo.json").read_text())
        tracker = Tracker(model, backend, precision, threads=threads)
        output_dir.mkdir(parents=True, exist_ok=True)
        with _progress() as progress:
            source = folder / clip["video"]
            summary = record(source, clip["box"], tracker, outputs, clip["start_frame"], progress)
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
    box: Annotated[
        str | None, typer.Option(help="x,y,w,h of the object in pixels of the start frame.")
    ] = None,
    boxes: Annotated[
        Path | None,
        typer.Option(
            help="Instead of --box: a CSV file frame,id,x,y,w,h with a row for each of many objects."
        ),
    ] = None,
    start_frame: Annotated[int, typer.Option(help="Frame that the box belongs to, from 0.")] = 0,
    rulers: Annotated[
        Path | None,
        typer.Option(
            help="Instead of tracking: a picture (.png, .jpg) of the start frame with its pixels numbered, to read a "
            "box off."
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Overlay video to write (.mp4, .mov, .mkv).")] = None,
    results: Annotated[
        Path | None,
        typer.Option(
            help="Boxes to write: .csv, .jsonl, .txt or .mot.txt; - for JSON Lines on standard output, row by row."
        ),
    ] = None,
    results_format: Annotated[
        str | None, typer.Option(help="csv, jsonl, otb, lasot, got10k or mot; by default from the suffix.")
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(help="Contact sheet to write (.png): twelve frames spread over the whole video."),
    ] = None,
    keep_before: Annotated[
        bool,
        typer.Option(
            "--keep-before",
            help="Go on with --results: its rows before --start-frame stay, the others are new.",
        ),
    ] = False,
    model: ModelOption = DEFAULT_MODEL,
    backend: BackendOption = "auto",
    precision: PrecisionOption = "auto",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Follow one object or many through a video; where no file is named, writes SOURCE-tracked.mp4 here."""
    from mixformerv2.multitracker import MultiTracker
    from mixformerv2.recording import Outputs, record, record_many
    from mixformerv2.starts import read_starts
    from mixformerv2.tracker import Tracker

    if rulers is not None:
        others: dict[str, Any] = {
            "--box": box,
            "--boxes": boxes,
            "--output": output,
            "--results": results,
            "--sheet": sheet,
        }
        others |= {"--results-format": results_format, "--keep-before": keep_before}
        if given := [name for name, value in others.items() if value not in (None, False)]:
            raise ValueError(f"--rulers draws a frame to read a box off: leave out {' and '.join(given)}")
        _draw_rulers(source, start_frame, rulers, overwrite)
        return
    if (box is None) == (boxes is None):
        raise ValueError(
            "give --box x,y,w,h for one object, or --boxes FILE for many, and not both; --rulers frame.png draws the "
            "first frame with its pixels numbered, to read them off"
        )
    if boxes is not None and start_frame:
        raise ValueError(
            f"--start-frame {start_frame} belongs to --box: the rows of --boxes name their frames"
        )
    if results is None and results_format is not None:
        raise ValueError(f"--results-format {results_format} belongs to --results, which is not given")
    if output is None and results is None and sheet is None:
        output = Path(f"{default_name(source)}-tracked.mp4")
    kept = _rows_before(start_frame, results, results_format) if keep_before else None
    outputs = Outputs(output, results, results_format, sheet, overwrite, kept)
    loading = (model, backend, precision, device, threads)
    tracker: Tracker | MultiTracker
    if boxes is None:
        assert box is not None
        coordinates, tracker = parse_box(box), Tracker(*loading)
        with _progress() as progress:
            summary = record(source, coordinates, tracker, outputs, start_frame, progress)
    else:
        outputs.check_apart(boxes)
        starts, tracker = read_starts(boxes), MultiTracker(*loading)
        with _progress() as progress:
            summary = record_many(source, starts, tracker, outputs, progress)
    _report(summary, tracker, outputs)


def _rows_before(frame: int, results: Path | None, format: str | None) -> tuple[ResultRow, ...]:
    """What ``--keep-before`` keeps."""
    from mixformerv2.results import read_results

    if results is None or not frame:
        raise ValueError("--keep-before goes on with --results from --start-frame on: give both")
    rows = read_results(results, format)
    of_frames = (format or results.suffix[1:].lower()) in ("csv", "jsonl")
    if not of_frames or any(row.id is not None for row in rows):
        raise ValueError(f"--keep-before goes on with the .csv or .jsonl of one target, got {results}")
    return tuple(row for row in rows if row.frame < frame)


def _draw_rulers(source: str, start_frame: int, picture: Path, overwrite: bool) -> None:
    from mixformerv2.recording import check_apart
    from mixformerv2.rulers import write_with_rulers
    from mixformerv2.video import open_source, without_password

    check_apart(picture, source)
    with open_source(source, start_frame) as frames:
        write_with_rulers(next(iter(frames)), picture, overwrite)
    say(f"frame {start_frame} of {without_password(source)}, its pixels numbered: {picture}")


def default_name(source: str) -> str:
    """A file name for what was tracked, whatever kind of source it is."""
    from mixformerv2.video import without_password

    scheme, is_address, rest = without_password(source).partition("://")
    if not scheme.startswith("rtsp"):  # there a query names a channel; elsewhere it may hold a key
        rest = rest.partition("?")[0]
    path = Path(source)
    while glob.has_magic(str(path)) and not path.exists():
        path = path.parent
    name = path.resolve().name if path.is_dir() else path.stem
    stem = rest.rstrip("/") if is_address else name
    safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in stem) or "video"
    return safe.encode()[:_LONGEST_STEM].decode(errors="ignore")


@contextmanager
def _progress() -> Iterator[Progress]:
    """A progress bar of frames per second, on a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
    from rich.text import Text

    class FramesPerSecond(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:.0f} frames/s" if task.speed else "")

    columns = (TextColumn("tracking"), BarColumn(), MofNCompleteColumn(), FramesPerSecond())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bars:
        bar = bars.add_task("tracking", total=None)
        yield lambda done, total: bars.update(bar, completed=done, total=total)


def _report(summary: Summary, tracker: Any, outputs: Outputs) -> None:
    """Says what was done; ends the process with 130 where Ctrl-C or another signal cut it short."""
    from mixformerv2.results import STANDARD_OUTPUT

    to = err if outputs.results == STANDARD_OUTPUT else out
    if summary.warning:
        warn(summary.warning)
    if summary.interrupted:
        warn(f"stopped after {summary.frames} frames, as asked; what was tracked is written")
    speed = (
        f", {summary.tracker_ms:.1f} ms each ({1000 / summary.tracker_ms:.0f} per second)"
        if summary.frames > 1
        else ""
    )
    lost = f", lost in {summary.lost_frames}" if summary.lost_frames else ""
    if summary.targets > 1:
        lost = f", {summary.targets} targets{lost}"
    engine = f"{tracker.backend.name} {tracker.backend.precision}"
    say(f"{summary.frames} frames{lost}{speed} with {engine}", to)
    for path in outputs.files:
        if path.exists():
            say(f"  {path}", to)
    if summary.interrupted:
        raise typer.Exit(130)
