"""The verbs about datasets: what a folder holds, and packing it for many machines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import typer

from mixformerv2.cli.common import (
    JsonOption,
    OverwriteOption,
    app,
    err,
    json_document,
    key_values,
    out,
    say,
    warn,
)
from mixformerv2.config import DEFAULT_MODEL

_MOST_NAMED = 10

data_app = typer.Typer(help="Label video, look at datasets, and pack them.")
app.add_typer(data_app, name="data")


@data_app.command(epilog="Example: mixformerv2 data check datasets/ --json report.json")
def check(
    root: Annotated[str, typer.Argument(help="A dataset, a folder of datasets, or the URL of a packed one.")],
    images: Annotated[bool, typer.Option("--images", help="Decode every image.")] = False,
    images_every: Annotated[int | None, typer.Option(help="Decode every N-th image of a sequence.")] = None,
    json_path: JsonOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Say what is recognised in a folder, how much it is, and what is missing or broken (exit code 2)."""
    from mixformerv2.data import datasets

    with json_document(json_path, overwrite) as write_json:
        with _progress() as progress:
            report = datasets.check(root, images_every=1 if images else images_every, progress=progress)
        write_json(report.to_json())
    out.print(datasets.report_table(report))
    for line in datasets.report_lines(report):
        warn(line)
    if report.broken:
        raise typer.Exit(2)


@data_app.command(epilog="Example: mixformerv2 data pack datasets/ shards/ --longest-side 640")
def pack(
    root: Annotated[Path, typer.Argument(help="A dataset, or a folder of datasets.")],
    folder: Annotated[Path, typer.Argument(help="New folder for the shards and their index.")],
    max_megabytes: Annotated[int, typer.Option(help="Largest size of a shard.")] = 1000,
    longest_side: Annotated[
        int | None, typer.Option(help="Scale larger pictures down to N px on the longest side.")
    ] = None,
    every: Annotated[int, typer.Option(help="Keep every N-th frame.")] = 1,
    quality: Annotated[int, typer.Option(help="JPEG quality of pictures that are encoded anew.")] = 90,
) -> None:
    """Pack datasets into WebDataset shards, for a folder or an object store. Sequences left out: exit code 1."""
    from mixformerv2.data.datasets import open_datasets
    from mixformerv2.data.packing import pack as pack_datasets

    with _progress() as progress:
        packed = pack_datasets(
            open_datasets(root),
            folder,
            max_bytes=max_megabytes * 1_000_000,
            longest_side_px=longest_side,
            every=every,
            quality=quality,
            progress=progress,
        )
    for problem in packed.problems[:_MOST_NAMED]:
        warn(f"{problem.sequence} was left out: {problem.sentence}")
    if len(packed.problems) > _MOST_NAMED:
        warn(f"{len(packed.problems) - _MOST_NAMED:,} more were left out: `mixformerv2 data check` has them")
    say(
        f"{folder}: {packed.sequences:,} sequences, {packed.frames:,} frames, {packed.shards} shards, "
        f"{packed.num_bytes / 1e6:,.0f} MB",
    )
    if packed.problems:
        raise typer.Exit(1)


@data_app.command(
    epilog="Example: mixformerv2 data label clips/ starts.csv labelled/ --tracker opencv:nano --option peers=models/"
)
def label(
    clips: Annotated[Path, typer.Argument(help="Folder of videos, or of folders of images.")],
    starts: Annotated[
        Path, typer.Argument(help="CSV file with the header clip,frame,x,y,w,h,name: a row for each target.")
    ],
    output: Annotated[Path, typer.Argument(help="Folder for the labelled clips; those in it are kept.")],
    tracker: Annotated[str, typer.Option(help="Tracker, as for `mixformerv2 evaluate`.")] = DEFAULT_MODEL,
    option: Annotated[list[str] | None, typer.Option(help="KEY=VALUE for the tracker.")] = None,
    segment_frames: Annotated[int, typer.Option(help="Track back every N frames.")] = 12,
    min_iou: Annotated[float, typer.Option(help="Least overlap of the way there and the way back.")] = 0.6,
) -> None:
    """Label video for training: a tracker follows each target there and back, boxes on which it agrees are kept."""
    from rich.table import Table

    from mixformerv2.evaluate import labelling
    from mixformerv2.evaluate.run import AnyTracker
    from mixformerv2.evaluate.spec import open_tracker, parse

    drawn = labelling.read_starts(starts)
    agreement = labelling.Agreement(segment_frames, min_iou)
    spec = parse(tracker, key_values(option or []))
    table = Table("track", "frames", "labelled", "", title=f"labels by {spec.label}")
    with ExitStack() as stack, _progress() as progress:

        def opened() -> AnyTracker:
            tracker = open_tracker(spec)
            stack.callback(getattr(tracker, "close", lambda: None))
            return tracker

        trackers = labelling.Pair(opened(), opened())
        for done, track in enumerate(labelling.label(trackers, clips, drawn, output, agreement), 1):
            progress("tracks", done, len(drawn))
            note = "" if track.is_new else "was there"
            if not track.as_drawn:
                note += ", from another box: delete its folder to follow this one"
            table.add_row(track.name, f"{track.frames:,}", f"{track.labelled:,}", note)
    out.print(table)


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each dataset, in a terminal."""
    from rich.progress import Progress

    with Progress(console=err, transient=True, disable=not err.is_terminal) as bars:
        tasks = {}

        def show(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=total)
            bars.update(tasks[name], completed=done)

        yield show
