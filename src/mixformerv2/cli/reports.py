"""The verbs about runs that exist: scored, put side by side, and told apart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mixformerv2.cli.common import JsonOption, OverwriteOption, app, json_document, out, say, warn

if TYPE_CHECKING:
    from mixformerv2.evaluate.datasets import Benchmark, Opened
    from mixformerv2.evaluate.protocols import Protocol
    from mixformerv2.evaluate.report.figures import RunScores
    from mixformerv2.evaluate.store import Run

ProtocolOption = Annotated[
    list[str] | None,
    typer.Option("--protocol", help="Whose figures: lasot, pytracking, ... or all; may be repeated."),
]
AttributesOption = Annotated[
    Path | None, typer.Option("--attributes", help="Folder of the dataset's own attributes, NAME.txt each.")
]
HtmlOption = Annotated[bool, typer.Option("--html/--no-html", help="Whether report.html is written.")]
RootOption = Annotated[Path | None, typer.Option("--root", help="Where the dataset is now, if it was moved.")]


@app.command(epilog="Example: mixformerv2 report runs/otb/tiny runs/otb/opencv_nano")
def report(
    run: Annotated[list[Path], typer.Argument(help="Folders of runs over one dataset.")],
    output: Annotated[
        Path | None,
        typer.Option(help="Folder for the files; by default the run's, or the one that all runs are in."),
    ] = None,
    protocol: ProtocolOption = None,
    root: RootOption = None,
    attributes: AttributesOption = None,
    html: HtmlOption = True,
) -> None:
    """Score runs that exist and put them side by side."""
    from mixformerv2.evaluate.datasets import scored_on
    from mixformerv2.evaluate.store import read_description

    benchmark = scored_on(str(read_description(run[0]).get("dataset")), run[0])
    write_report(
        run,
        place_of_report(run, output),
        choose_protocols(protocol, benchmark),
        root,
        attributes,
        html,
    )


@app.command(epilog="Example: mixformerv2 compare runs/otb/tiny runs/otb/opencv_nano --json difference.json")
def compare(
    run_a: Annotated[Path, typer.Argument(help="Folder of a run.")],
    run_b: Annotated[Path, typer.Argument(help="Folder of a run over the same sequences.")],
    protocol: Annotated[str | None, typer.Option(help="Whose figures; by default the dataset's.")] = None,
    figure: Annotated[
        str | None, typer.Option(help="Such as auc or precision; by default the protocol's first.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
    root: RootOption = None,
    json_path: JsonOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Tell whether run B is better than run A: differences by sequence, and how far chance explains them."""
    from mixformerv2.evaluate.datasets import reopen
    from mixformerv2.evaluate.report.compare import compare as compare_runs
    from mixformerv2.evaluate.store import load_run

    runs = [load_run(folder) for folder in (run_a, run_b)]
    opened = reopen(runs, root)
    chosen = choose_protocols([protocol] if protocol else None, opened.benchmark)
    if len(chosen) > 1:
        raise ValueError("--protocol all is too many: runs are compared by one protocol")
    with json_document(json_path, overwrite) as write_json:
        comparison = compare_runs(runs[0], runs[1], [*opened.sequences.values()], chosen[0], seed, figure)
        write_json(comparison.as_dict())
    out.print(comparison.table())


def choose_protocols(names: list[str] | None, benchmark: Benchmark) -> list[Protocol]:
    """The benchmark's own protocol first where all are asked for: tables are ranked by the first."""
    from dataclasses import replace

    from mixformerv2.evaluate.protocols import PROTOCOLS

    asked = names or [benchmark.protocol]
    if "all" in asked:
        asked = [benchmark.protocol, *PROTOCOLS]
    unknown = [name for name in asked if name not in PROTOCOLS]
    if unknown:
        raise ValueError(f"no protocol is called {unknown[0]!r}: choose one of {', '.join(PROTOCOLS)}, all")
    first_pixel = benchmark.first_pixel
    return [replace(PROTOCOLS[name], first_pixel=first_pixel) for name in dict.fromkeys(asked)]


def place_of_report(folders: list[Path], output: Path | None) -> Path:
    """Where the files about all runs go."""
    if len(folders) == 1 or output is not None:
        return output or folders[0]
    parents = {folder.resolve().parent for folder in folders}
    if len(parents) > 1:
        raise ValueError("the runs are in different folders: name one for the report with --output")
    return folders[0].parent


def write_report(
    folders: Iterable[Path],
    output: Path,
    protocols: list[Protocol],
    root: Path | None,
    attributes_folder: Path | None,
    html: bool,
) -> None:
    """Prints the table and writes the files. Runs without any result are left out."""
    from mixformerv2.evaluate.datasets import reopen
    from mixformerv2.evaluate.report import figures, table
    from mixformerv2.evaluate.store import load_run

    runs = [load_run(folder) for folder in folders]
    opened = reopen(runs, root)
    runs = [run for run in runs if run.passes]
    if not runs:
        warn("no sequence has results: there is nothing to score")
        return
    scores = [*_scores(runs, opened, protocols, attributes_folder)]
    out.print(table.table(scores))
    output.mkdir(parents=True, exist_ok=True)
    figures.write_json(output / "scores.json", scores)
    table.write_csv(output / "scores.csv", scores)
    table.write_latex(output / "scores.tex", scores)
    written = ["scores.json", "scores.csv", "scores.tex"]
    if html and _write_page(output / "report.html", runs, scores, opened):
        written.append("report.html")
    elif (output / "report.html").exists():
        warn(f"{output / 'report.html'} is of an earlier report, not of these figures")
    for name in written:
        say(f"  {output / name}")


def _scores(
    runs: list[Run], opened: Opened, protocols: list[Protocol], folder: Path | None
) -> Iterator[RunScores]:
    from dataclasses import replace

    from mixformerv2.evaluate.attributes import attributes
    from mixformerv2.evaluate.report.figures import build_scores

    # All runs are over the same frames of a sequence, which need not be all of it.
    frames = {name: result.frames for run in runs for name, result in run.passes.items()}
    of = {
        name: attributes(opened.sequences[name].part(frames[name]), folder)
        for name in opened.sequences
        if name in frames
    }
    for run in runs:
        scores = build_scores(run, [*opened.sequences.values()], protocols, of)
        yield replace(scores, missing=(*scores.missing, *opened.broken))


def _write_page(path: Path, runs: list[Run], scores: list[RunScores], opened: Opened) -> bool:
    from mixformerv2.evaluate.report.page import write_page

    try:
        write_page(path, runs, scores, [*opened.sequences.values()])
    except ModuleNotFoundError as error:
        warn(f"{path.name} is not written: {error}")
        return False
    return True
