"""The verb that hands a tracker to the VOT toolkit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from mixformerv2.cli.common import app, err, key_values, out, say
from mixformerv2.config import DEFAULT_MODEL


@app.command(epilog="Example: mixformerv2 vot workspace/ --tracker tiny --toolkit VOT/bin/vot")
def vot(
    workspace: Annotated[Path, typer.Argument(help="Folder made by `vot initialize`.")],
    tracker: Annotated[str, typer.Option(help="Tracker, as for `mixformerv2 evaluate`.")] = DEFAULT_MODEL,
    option: Annotated[list[str] | None, typer.Option(help="KEY=VALUE for the tracker.")] = None,
    toolkit: Annotated[
        str | None, typer.Option(help="The toolkit's program; by default the `vot` on the PATH.")
    ] = None,
) -> None:
    """Accuracy, robustness and expected average overlap as VOT defines them: its own toolkit computes them."""
    from rich.table import Table

    from mixformerv2.evaluate.spec import parse
    from mixformerv2.evaluate.vot import run_vot

    spec = parse(tracker, key_values(option or []))
    try:
        scores = run_vot(
            spec, workspace, toolkit, lambda line: err.print(line, markup=False, highlight=False)
        )
    except ChildProcessError as error:  # the input was right
        err.print(f"[bold red]failed:[/] {escape(str(error))}", highlight=False)
        raise typer.Exit(1) from None
    table = Table("experiment", "measure", "", title=f"{spec.label} by VOT toolkit {scores.toolkit}")
    for experiment, measures in scores.measures.items():
        for name, value in measures.items():
            table.add_row(experiment, name.replace("_", " "), f"{value:.3f}")
    out.print(table)
    say(f"  {scores.file}")
