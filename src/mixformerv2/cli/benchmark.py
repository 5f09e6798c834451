"""The verb that measures speed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from mixformerv2.cli.common import (
    JsonOption,
    OverwriteOption,
    app,
    err,
    json_document,
    out,
    parse_box,
    say,
    warn,
)
from mixformerv2.files import check_writable

_BUSY = 0.5  # load average by core above which figures are doubtful


@app.command(
    epilog="Example: mixformerv2 bench --model tiny --model small --backend openvino:bf16 --json bench.json"
)
def bench(
    model: Annotated[
        list[str] | None,
        typer.Option(help="A shipped model, a preset (random weights), a folder or a file; may be repeated."),
    ] = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(help="openvino, or openvino:bf16; may be repeated. By default all that runs here."),
    ] = None,
    threads: Annotated[
        list[int] | None, typer.Option(help="CPU threads; may be repeated. All by default.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, or cuda.")] = "cpu",
    peers: Annotated[
        Path | None, typer.Option(help="Folder with OpenCV's NanoTrack and VitTrack, to be measured too.")
    ] = None,
    batch: Annotated[
        list[int] | None,
        typer.Option(help="Also time the network alone on N crops at once; may be repeated."),
    ] = None,
    targets: Annotated[
        int | None, typer.Option(help="Also time N targets at once, in one MultiTracker and apart.")
    ] = None,
    clip: Annotated[Path | None, typer.Option(help="A video of your own.")] = None,
    box: Annotated[str | None, typer.Option(help="x,y,w,h of the target in its first frame.")] = None,
    frames: Annotated[int, typer.Option(help="Frames of the clip in each round.")] = 40,
    rounds: Annotated[int, typer.Option(help="Rounds, in each of which all rows take a turn.")] = 5,
    operators: Annotated[
        bool, typer.Option("--operators", help="Also where the time goes inside each network.")
    ] = False,
    json_path: JsonOption = None,
    card: Annotated[
        Path | None, typer.Option(help="A picture to show around, .png, and a .txt beside it.")
    ] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Measure speed stage by stage, against the released code, OpenCV's trackers and the machine's limits."""
    from mixformerv2.bench.card import check_card, write_card
    from mixformerv2.bench.plan import BenchConfig
    from mixformerv2.bench.run import run
    from mixformerv2.bench.table import WIDTH, count, machine_lines, tables

    config = BenchConfig(
        models=tuple(model or ()),
        backends=tuple(backend or ()),
        threads=tuple(threads or ()),
        device=device,
        peers=peers,
        batches=tuple(batch or ()),
        targets=targets,
        clip=clip,
        box=None if box is None else tuple(parse_box(box)),
        frames=frames,
        rounds=rounds,
        operators=operators,
    )
    if card is not None:
        check_card(card)
        for path in (card, card.with_suffix(".txt")):
            if json_path is not None and path.resolve() == json_path.resolve():
                raise ValueError(f"--json and --card would both write {path}: give them names of their own")
            check_writable(path, overwrite)
    wide = Console(width=max(WIDTH, out.width))  # a pipe, too, has room for the tables
    with json_document(json_path, overwrite) as write_json:
        with _progress() as progress:
            report = run(config, progress)
        write_json(report.as_dict())
    for line in (*machine_lines(report), ""):
        say(line)
    for table in tables(report):
        wide.print(table)
    for sentence in report.left_out:
        warn(f"left out: {sentence}")
    load = report.machine["load_before"]
    if load is not None and load > _BUSY * report.machine["cores"]:
        warn(
            f"the load average was {load} on {count(report.machine['cores'], 'core')} when this began: "
            "other programs make figures slower than they could be"
        )
    if json_path is not None:
        say(f"  {json_path}")
    if card is not None:
        for path in write_card(report, card, overwrite):
            say(f"  {path}")


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A bar of turns, in a terminal."""
    from rich.progress import Progress

    with Progress(console=err, transient=True, disable=not err.is_terminal) as bars:
        bar = bars.add_task("measuring", total=None)
        yield lambda done, total: bars.update(bar, completed=done, total=total)
