"""The verb that runs trackers over a dataset and scores them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from mixformerv2.cli.common import app, err, key_values, say, warn
from mixformerv2.cli.reports import (
    AttributesOption,
    HtmlOption,
    ProtocolOption,
    choose_protocols,
    place_of_report,
    write_report,
)
from mixformerv2.config import DEFAULT_MODEL
from mixformerv2.files import check_writable

if TYPE_CHECKING:
    from mixformerv2.evaluate.datasets import Opened
    from mixformerv2.evaluate.execute import Outcome, Progress
    from mixformerv2.evaluate.spec import TrackerSpec
    from mixformerv2.evaluate.store import Store

_MOST_NAMED = 20


@app.command(epilog="Example: mixformerv2 evaluate --tracker tiny --dataset otb --root datasets/OTB100")
def evaluate(
    root: Annotated[Path, typer.Option(help="Folder of the dataset, as published.")],
    tracker: Annotated[
        list[str] | None,
        typer.Option(
            help="compact, tiny, a model's path, opencv:NAME, python:FILE.py:CLASS or command:CMD; may be repeated. "
            f"By default {DEFAULT_MODEL}."
        ),
    ] = None,
    dataset: Annotated[
        str, typer.Option(help="otb, lasot, got10k-val, ..., folder; auto recognises it.")
    ] = "auto",
    output: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the run, which goes on with what is in it; by default runs/DATASET/TRACKER."
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(help="KEY=VALUE for every tracker, TRACKER:KEY=VALUE for one; may be repeated."),
    ] = None,
    peers: Annotated[Path | None, typer.Option(help="Folder of the model files of opencv:NAME.")] = None,
    protocol: ProtocolOption = None,
    sequence: Annotated[list[str] | None, typer.Option(help="Only this sequence; may be repeated.")] = None,
    max_frames: Annotated[int | None, typer.Option(help="Only the first N frames of each sequence.")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes; by default as many as threads leave cores for.")
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(help="CPU threads of each process; by default 1, with --workers what the cores have."),
    ] = None,
    time_limit: Annotated[
        float, typer.Option(help="Seconds for one frame, then the sequence has failed.")
    ] = 60.0,
    executor: Annotated[str, typer.Option(help="local, or ray for a cluster.")] = "local",
    address: Annotated[str | None, typer.Option(help="Address of the cluster: auto or HOST:PORT.")] = None,
    attributes: AttributesOption = None,
    submission: Annotated[
        Path | None, typer.Option(help="Archive to write for the server of GOT-10k or TrackingNet.")
    ] = None,
    html: HtmlOption = True,
) -> None:
    """Run trackers over a dataset and score them; a run that was stopped goes on. Exit code 1: something failed."""
    from mixformerv2.evaluate.attributes import check_attributes
    from mixformerv2.evaluate.datasets import open_for_evaluation
    from mixformerv2.evaluate.execute import (
        check_execution,
        run_all,
        shares_of,
        usable_cores,
    )
    from mixformerv2.evaluate.run import check_max_frames
    from mixformerv2.evaluate.spec import describe, settled
    from mixformerv2.evaluate.store import Store, describe_run
    from mixformerv2.runtime import cpu

    check_execution(executor, address, time_limit)
    check_max_frames(max_frames)
    specs = _specs(tracker or [DEFAULT_MODEL], option or [], peers)
    opened = open_for_evaluation(dataset, root, sequence or ())
    chosen = choose_protocols(protocol, opened.benchmark)
    name = opened.name if max_frames is None else f"{opened.name}-first-{max_frames}"
    folders = _folders(specs, output, name)
    if attributes is not None:
        check_attributes(opened.sequences.values(), attributes)
    archives = _archives(folders, submission, opened, partly=bool(sequence) or max_frames is not None)

    def measured_with(spec: TrackerSpec) -> dict[str, object]:
        shares = shares_of(spec, workers, threads, executor)
        return {
            "processor": cpu.name(),
            "cores": usable_cores(),
            "executor": executor,
            "workers": shares[0] if executor == "local" else workers,
            "threads": shares[1],
        }

    measured = [
        measured_with(spec) for spec in specs
    ]  # numbers that are wrong are said before a model is opened
    failed: dict[Path, dict[str, str]] = {}
    left_out: set[Path] = set()  # runs that have broken off
    with ExitStack() as stack:
        stores: list[Store] = []
        for spec, folder, machine in zip(specs, folders, measured, strict=True):
            described = describe(spec)
            about = described, opened.name, opened.root, opened.lengths, max_frames, machine
            description = describe_run(settled(spec, described, "precision").label, *about)
            stores.append(stack.enter_context(Store.open(folder, description)))
        for spec, store in zip(specs, stores, strict=True):
            try:
                with _progress(spec.label) as progress:
                    outcome = run_all(
                        *(spec, opened.sequences.values(), store, workers, threads, time_limit),
                        *(executor, address, progress, opened.broken),
                    )
            except KeyboardInterrupt:
                warn(
                    f"stopped by Ctrl-C: what is finished is in {store.folder}, the same command goes on with it"
                )
                raise
            except (ValueError, OSError, ModuleNotFoundError) as error:
                if len(specs) == 1:
                    raise
                left_out.add(store.folder)
                warn(f"{spec.label} is left out: {error}")
                continue
            _say(spec.label, outcome)
            failed[store.folder] = outcome.failed
    scored = [folder for folder in folders if folder not in left_out]
    if opened.benchmark.has_truth and scored:
        write_report(scored, place_of_report(folders, output), chosen, opened.root, attributes, html)
    all_written = _submit(dict(zip(folders, archives, strict=False)), opened, failed)
    if _list_failures(failed) or left_out or not all_written:
        raise typer.Exit(1)


# --- what is asked for


def _specs(trackers: list[str], options: list[str], peers: Path | None) -> list[TrackerSpec]:
    from mixformerv2.evaluate.peers import options_of_folder
    from mixformerv2.evaluate.spec import parse

    shared: list[str] = []
    own: dict[str, list[str]] = {text: [] for text in trackers}
    for given in options:
        # The longest: opencv:nano:head=... may be meant for opencv:nano, never for a tracker opencv.
        text = max((text for text in trackers if given.startswith(f"{text}:")), key=len, default=None)
        if text is None:
            shared.append(given)
        else:
            own[text].append(given.removeprefix(f"{text}:"))
    specs = []
    for text in trackers:
        folder = options_of_folder(text, peers)
        specs.append(parse(text, {**folder, **key_values(shared), **key_values(own[text])}))
    return specs


def _folders(specs: list[TrackerSpec], output: Path | None, dataset: str) -> list[Path]:
    """One for each run: ``output`` itself for one tracker, else folders in it."""
    from mixformerv2.evaluate.store import DESCRIPTION

    if output is not None and len(specs) == 1:
        return [output]
    parent = output or Path("runs") / dataset
    if (parent / DESCRIPTION).exists():
        raise ValueError(f"{parent} is the folder of one run: several trackers need another --output")
    folders: dict[str, Path] = {}
    for spec in specs:
        safe = "".join(c if c.isalnum() or c in "-_.=" else "_" for c in spec.label).strip("._") or "tracker"
        if safe.casefold() in folders:  # some disks take small letters and capitals for the same
            raise ValueError(
                f"two trackers would share the folder {parent / safe}: run one after the other, "
                "each with its --output, and `mixformerv2 report` on both"
            )
        folders[safe.casefold()] = parent / safe
    return [*folders.values()]


def _archives(folders: list[Path], asked: Path | None, opened: Opened, partly: bool) -> list[Path]:
    """The submission of each run; none where none is wanted."""
    kind, has_truth = opened.benchmark.submission, opened.benchmark.has_truth
    if asked is None:
        return [folder / "submission.zip" for folder in folders] if not (has_truth or partly) else []
    if kind is None:
        raise ValueError(f"no server takes submissions of {opened.name}, got --submission {asked}")
    if partly:
        raise ValueError("a submission is of all frames: leave out --sequence and --max-frames")
    if len(folders) > 1:
        raise ValueError(f"--submission {asked} is one archive: evaluate one tracker at a time")
    check_writable(asked, overwrite=True)
    return [asked]


# --- what has come of it


def _submit(archives: Mapping[Path, Path], opened: Opened, failed: Mapping[Path, Mapping[str, str]]) -> bool:
    """Writes the archive of each run that has one and is whole; are all of them written?"""
    from mixformerv2.evaluate.store import load_run
    from mixformerv2.evaluate.submission import write_submission

    kind, written = opened.benchmark.submission, 0
    for folder, archive in archives.items():
        if failed.get(folder, True):
            warn(f"{archive} is not written: a submission needs every sequence")
            continue
        assert kind is not None
        try:
            write_submission(kind, archive, load_run(folder).passes, opened.lengths)
        except (ValueError, OSError) as error:
            warn(f"{archive} is not written: {error}")
        else:
            written += 1
            say(f"  {archive}")
    return written == len(archives)


def _say(label: str, outcome: Outcome) -> None:
    """One line about the run, and what the tracker warned of."""
    counts = {"done": len(outcome.done), "kept from before": len(outcome.kept), "failed": len(outcome.failed)}
    line = f"{label}: {', '.join(f'{count} {what}' for what, count in counts.items() if count)}"
    if outcome.done:
        processes = "1 process" if outcome.workers == 1 else f"{outcome.workers} processes"
        threads = "1 thread" if outcome.threads == 1 else f"{outcome.threads} threads"
        line += f"; {outcome.frames:,} frames in {outcome.wall_s:.1f} s, {outcome.frames / outcome.wall_s:.0f} a second"
        line += f", {processes} of {threads}"
        if outcome.overhead < 1:  # else it is mostly the frames that took time to read
            line += f", {outcome.overhead:.1%} over the tracker's own time"
    say(line)
    said: dict[str, list[str]] = {}
    for name, warnings in outcome.warnings.items():
        for one in warnings:
            said.setdefault(one, []).append(name)
    for one, names in said.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        warn(f"{one} ({', '.join(names[:3])}{more})")


def _list_failures(failed: Mapping[Path, Mapping[str, str]]) -> bool:
    """Whether there are any."""
    for folder, sentences in failed.items():
        for name, sentence in [*sentences.items()][:_MOST_NAMED]:
            err.print(f"[bold red]failed:[/] {escape(f'{name}: {sentence}')}", highlight=False)
        if sentences:
            more = f"{len(sentences) - _MOST_NAMED} more, " if len(sentences) > _MOST_NAMED else ""
            err.print(f"{more}all of it in {folder / 'errors'}", highlight=False, markup=False)
    return any(failed.values())


@contextmanager
def _progress(label: str) -> Iterator[Callable[[Progress], None]]:
    """A bar of frames, in a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        *(TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn()),
        *(TextColumn("{task.fields[state]}", markup=False), TimeRemainingColumn()),
    )
    with Bars(*columns, console=err, transient=True, disable=not err.is_terminal) as bars:
        bar, began = bars.add_task(label, total=None, state=""), time.monotonic()

        def show(progress: Progress) -> None:
            speed = progress.frames_done / max(time.monotonic() - began, 1e-3)
            bad = f", {progress.failed} failed" if progress.failed else ""
            state = f"frames, {speed:.0f}/s; {progress.done}/{progress.sequences} sequences{bad}"
            bars.update(bar, completed=progress.frames_done, total=progress.frames, state=state)

        yield show
