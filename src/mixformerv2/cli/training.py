"""The verb that trains: recipes, their settings, and a progress that can be stopped and taken up again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mixformerv2.cli.common import app, need_torch, out, say, warn

if TYPE_CHECKING:
    from mixformerv2.train.pipeline import Outcome
    from mixformerv2.train.stages import Recipe


@app.command(
    epilog="Example: mixformerv2 train compact-from-labels --data DIR --output runs/compact --max-minutes 60"
)
def train(
    recipe: Annotated[
        str, typer.Argument(help="Name of a recipe, --list shows them; or FILE.py:FUNCTION, your own.")
    ] = "",
    data: Annotated[
        str | None, typer.Option(help="Folder with datasets, or URL of packed ones; see `mixformerv2 data`.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder of the run; goes on with what is in it.")
    ] = None,
    init: Annotated[str | None, typer.Option(help="Model that the first stage starts from.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="FIELD=VALUE, or STAGE:FIELD=VALUE for one stage; may be repeated."),
    ] = None,
    guard: Annotated[
        Path | None, typer.Option(help="finetune: a dataset to watch for what is forgotten.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    workers: Annotated[
        int,
        typer.Option(help="Processes that prepare examples ahead."),
    ] = 0,
    memory: Annotated[
        bool, typer.Option(help="Decode all images once and keep them, or read them as they are needed.")
    ] = True,
    max_gigabytes: Annotated[float, typer.Option(help="Memory that decoded images may take.")] = 8.0,
    micro_batch: Annotated[
        int | None, typer.Option(help="Examples at once in one process; less needs less memory.")
    ] = None,
    max_minutes: Annotated[float | None, typer.Option(help="Save and stop after so long.")] = None,
    save_every: Annotated[int, typer.Option(help="Steps between two checkpoints.")] = 500,
    list_recipes: Annotated[bool, typer.Option("--list", help="Show the recipes.")] = False,
    show: Annotated[bool, typer.Option("--show", help="Show the recipe's settings as JSON.")] = False,
) -> None:
    """Run a recipe, or go on with it where it stopped; under torchrun, on many GPUs and machines."""
    need_torch("train")
    # Before torch is loaded: threads that spin while they wait take the cores from those that decode images.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from mixformerv2.data.datasets import open_datasets
    from mixformerv2.train import ablations, finetune, pipeline
    from mixformerv2.train.engine import RunOptions
    from mixformerv2.train.recipes import RECIPES, recipe_called
    from mixformerv2.train.settings import as_plain, override
    from mixformerv2.train.validation import with_parts_to_track

    if list_recipes:
        for name, function in RECIPES.items():
            say(f"{name}: {(function.__doc__ or '').splitlines()[0].replace('`', '')}")
        for line in ablations.summary():
            say(line)
        return
    if not recipe:
        raise ValueError("name a recipe, --list shows them, and give its --data and --output")
    chosen = recipe_called(recipe)
    if init is not None:
        settings = [f"{chosen.stages[0].name}:start={init}", *(settings or [])]
    adjust = finetune.with_settings if recipe == finetune.NAME else override
    chosen = adjust(chosen, settings or [])
    if show:
        out.print_json(data=as_plain(chosen))
        return
    if data is None or output is None:
        raise ValueError("train needs --data, the folder to learn from, and --output, the folder of the run")
    if guard is not None and recipe != finetune.NAME:
        raise ValueError(f"--guard belongs to {finetune.NAME}, and the recipe is {recipe}: leave it out")
    options = RunOptions(
        device=device,  # type: ignore[arg-type]  # checked there
        workers=workers,
        in_memory=memory,
        max_gigabytes=max_gigabytes,
        max_minutes=max_minutes,
        micro_batch=micro_batch,
        save_every=save_every,
    )
    if recipe == finetune.NAME:
        report = finetune.run(chosen, data, output, options, guard)
        if report.comparisons:
            out.print(finetune.table(report))
        _report(report.outcome, chosen, output)
    else:
        datasets = with_parts_to_track(chosen, open_datasets(data), data)
        _report(pipeline.run(chosen, datasets, output, options), chosen, output)


def _report(outcome: Outcome, recipe: Recipe, output: Path) -> None:
    for file, count in outcome.skipped.items():
        warn(f"{file} could not be read and was skipped {count} times")
    if len(outcome.found) == len(recipe.stages):
        say(f"nothing was left to train: all of it was finished in {output} before")
    elif outcome.found:
        say(f"finished before: {', '.join(outcome.found)}")
    if outcome.weights is not None:
        say(f"weights: {outcome.weights}")
        return
    say(
        f"stopped and saved in stage {outcome.stopped_in} of {recipe.name}: the same command goes on in {output}",
    )
    if outcome.interrupted:
        raise typer.Exit(130)
