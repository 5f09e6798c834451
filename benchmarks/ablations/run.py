"""Trains rows of the ablations, tracks with each, and measures what they cost; what is done already is left alone.

python benchmarks/ablations/run.py --data ../shared/data --otb ../shared/data/otb --question 1 --seeds 0 1 2
python benchmarks/ablations/run.py --data ../shared/data --otb ../shared/data/otb --row tokens --max-minutes 9
python benchmarks/ablations/run.py --speed --data ../shared/data --question 4 --precision f32 bf16 int8
python benchmarks/ablations/run.py --speed --question 1 --device cuda --backend torch --precision f32 bf16

A row's training lies in --output, where rows share their teachers; what it scores in a JSON file of its own in
--results. After --max-minutes all is saved, and the same command goes on. --speed measures the rows of a question in
one run, their rounds in turns, and writes one file for it; where a row has not been trained, with random weights.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mixformerv2.bench.plan import BenchConfig, Model
from mixformerv2.bench.report import ModelFigures
from mixformerv2.bench.run import run as bench
from mixformerv2.config import Config
from mixformerv2.data.datasets import open_datasets
from mixformerv2.data.sequence import Sequence as Video
from mixformerv2.data.sequence import Sequences, names_of
from mixformerv2.evaluate.datasets import open_for_evaluation
from mixformerv2.evaluate.pieces import overlaps
from mixformerv2.evaluate.run import evaluate, frames_to_show
from mixformerv2.files import write_text
from mixformerv2.model import checkpoint
from mixformerv2.model.network import build
from mixformerv2.runtime.backend import INT8_GRAPH, SEARCH_GRAPH, WEIGHTS_FILE, open_backend, read_config
from mixformerv2.runtime.torch import NetworkBackend
from mixformerv2.tracker import Tracker
from mixformerv2.train import pipeline
from mixformerv2.train.ablations import QUESTIONS, ROWS, SAMPLES, TABLES, Row
from mixformerv2.train.engine import LAST, RunOptions
from mixformerv2.train.settings import as_plain, changes, differences, override
from mixformerv2.train.stages import Recipe

HERE = Path(__file__).parent
PIECE_FRAMES = 40


def main(arguments: Sequence[str] | None = None) -> int:
    args = _parse(arguments)
    try:
        rows = chosen(args.question, args.row)
        if args.speed:
            for question in args.question or QUESTIONS:
                measure_speed(question, [row for row in rows if row.name in names_in(question)], args)
            return 0
        if args.data is None or args.otb is None:
            raise ValueError("training and tracking need --data, datasets to learn from, and --otb, to track")
        return run(rows, args)
    except (ValueError, OSError, ArithmeticError, ModuleNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def chosen(questions: Sequence[int], names: Sequence[str]) -> list[Row]:
    """Rows by name and those of whole questions, all without any; rows whose network others use come first."""
    unknown = [name for name in names if name not in ROWS]
    if unknown:
        raise ValueError(f"no row is called {unknown[0]!r}: choose from {', '.join(ROWS)}")
    wanted = set(names).union(*map(names_in, questions))
    rows = [row for row in ROWS.values() if row.name in wanted or not (questions or names)]
    return sorted(rows, key=lambda row: row.of is not None)


def names_in(question: int) -> set[str]:
    """The rows of a question."""
    return {name for table in TABLES if table.question == question for name in table.rows}


# Training and tracking ----------------------------------------------------------------------------------------------


def run(rows: Sequence[Row], args: argparse.Namespace) -> int:
    """Every row with every seed, seed by seed: after the first the tables are whole."""
    until = time.monotonic() + 60 * args.max_minutes if args.max_minutes is not None else None
    data = open_datasets(args.data)
    otb = list(open_for_evaluation("otb", args.otb).sequences.values())
    for seed in args.seeds:
        for row in rows:
            recipe = recipe_of(row, seed, args)
            file = args.results / f"{row.name}.json"
            if is_done(file, seed, recipe, args.max_frames):
                continue
            sequences = {"otb": otb, "held_out": held_out(data, recipe)}
            left = None if until is None else max((until - time.monotonic()) / 60, 0.0)
            print(f"{row.name}, seed {seed}")
            outcome = pipeline.run(recipe, data, args.output, _options(args, left))
            if outcome.weights is None or (until is not None and time.monotonic() > until):
                print(f"stopped and saved in row {row.name}, seed {seed}: the same command goes on")
                return 130 if outcome.interrupted else 0
            add_result(file, row, seed, recipe, track(row, args.output, recipe, sequences, args), args)
    print(f"results: {args.results}")
    return 0


def recipe_of(row: Row, seed: int, args: argparse.Namespace) -> Recipe:
    """The training that a row's network comes from."""
    return override((ROWS[row.of] if row.of else row).recipe(seed, args.samples), args.set)


def weights_of(recipe: Recipe, output: Path) -> Path:
    return output / recipe.stages[-1].name / LAST


def held_out(data: Mapping[str, Sequences], recipe: Recipe) -> list[Video]:
    """The sequences that no stage of it has learned from. Raises ValueError where one has, or none are held out."""
    names = recipe.stages[-1].data.sample.held_out
    if not names or any(stage.data.sample.held_out != names for stage in recipe.stages):
        raise ValueError(f"all stages of {recipe.name} must hold out the same sequences, one at least")
    return [
        sequences[number]
        for sequences in data.values()
        for number, name in enumerate(names_of(sequences))
        if name in names
    ]


def track(
    row: Row, output: Path, recipe: Recipe, sequences: Mapping[str, list[Video]], args: argparse.Namespace
) -> dict[str, Any]:
    """One pass over all sequences in f32, and those of ``otb/`` once more in pieces."""
    network, trained = checkpoint.load(weights_of(recipe, output))
    device = "cuda" if args.device == "auto" and _has_gpu() else args.device
    config = row.config(trained)
    tracker = Tracker(
        backend=NetworkBackend(network.to("cpu" if device == "auto" else device), config, "f32")
    )
    scores = {
        name: evaluate(tracker, videos, args.max_frames, _progress(f"{row.name} on {name}")).as_dict()
        for name, videos in sequences.items()
    }
    for each in scores.values():
        del each["updates_per_second"]  # of a machine that did other things meanwhile
    shown = [video.part(frames_to_show(video, args.max_frames)) for video in sequences["otb"]]
    pieces = {
        video.name: [round(each, 4) for each in overlaps(tracker, video, PIECE_FRAMES)] for video in shown
    }
    return scores | {
        "pieces": {"frames": PIECE_FRAMES, "overlaps": pieces},
        "config": json.loads(config.to_json()),
    }


def is_done(file: Path, seed: int, recipe: Recipe, max_frames: int | None) -> bool:
    """Raises ValueError where it was done with other settings."""
    known = _read(file).get("seeds", {}).get(str(seed))
    if known is None:
        return False
    then = {stage["name"]: stage for stage in known["training"]}
    changed = differences({"max_frames": known["max_frames"]}, {"max_frames": max_frames})
    for stage in recipe.stages:
        changed += [f"{stage.name}: {line}" for line in changes(then.get(stage.name, {}), stage)]
    if changed:
        raise ValueError(
            f"{file} holds seed {seed} with other settings ({'; '.join(changed)}): go on with those, or choose "
            "another --results and --output"
        )
    return True


def add_result(
    file: Path, row: Row, seed: int, recipe: Recipe, scores: dict[str, Any], args: argparse.Namespace
) -> None:
    """Writes the seed's scores into the row's file, beside those of other seeds."""
    config = Config.from_json(json.dumps(scores.pop("config")))
    content = _read(file)
    content.update({"row": row.name, "says": row.says, "of": row.of, **costs(row.name, config)})
    content["rules"] = dict(row.rules)
    content.setdefault("seeds", {})[str(seed)] = {
        "command": command(row, seed, args),
        "training": as_plain(recipe)["stages"],
        "max_frames": args.max_frames,
        **scores,
    }
    _write(file, content)


def command(row: Row, seed: int, args: argparse.Namespace) -> str:
    """That trains and tracks the row anew, on data wherever it lies."""
    script = "python benchmarks/ablations/run.py --data DATA --otb OTB"
    words = ["--row", row.name, "--seeds", str(seed), "--samples", str(args.samples)]
    words += [word for one in args.set for word in ("--set", one)]
    words += [] if args.max_frames is None else ["--max-frames", str(args.max_frames)]
    return f"{script} {shlex.join(words)}"


def costs(name: str, config: Config) -> dict[str, int]:
    """Parameters, and multiply-adds of a frame with its share of the templates."""
    figures = ModelFigures.of(Model(name, Path(), config, False))
    flops = figures.search.flops + figures.encode.flops / figures.update_interval
    return {"parameters": figures.weights, "macs_per_frame": round(flops / 2)}


# Speed --------------------------------------------------------------------------------------------------------------


def measure_speed(question: int, rows: Sequence[Row], args: argparse.Namespace) -> None:
    """The rows in one run of the benchmark, on its own clip; with random weights where a row has not been trained."""
    recipes = {row.name: recipe_of(row, 0, args) for row in rows if row.of is None}
    if not recipes:
        return
    folders = [
        exported(name, weights_for_speed(recipe, args.output), args) for name, recipe in recipes.items()
    ]
    device = "cpu" if args.device == "auto" else args.device
    backends = tuple(f"{args.backend}:{precision}" for precision in args.precision)
    report = bench(
        BenchConfig(
            models=tuple(map(str, folders)),
            backends=backends,
            threads=(args.threads,) if args.threads else (),
            device=device,
            frames=args.frames,
            rounds=args.rounds,
            reference=False,
        )
    )
    figures = [
        {
            "row": each.name.model,
            **each.name._asdict(),
            "frame_ms": each.frame_ms,
            "stages_ms": {stage: spread._asdict() for stage, spread in each.stages_ms.items()},
        }
        for each in report.rows
    ]
    for each in figures:
        del each["model"]
    file = args.results / f"speed-{device}-{question}.json"
    _write(file, {"machine": report.machine, "clip": report.clip, "rows": figures, "notes": report.left_out})
    print(f"speed: {file}")


def weights_for_speed(recipe: Recipe, output: Path) -> Path:
    """Those of the training, else random ones."""
    trained = weights_of(recipe, output)
    if trained.is_file():
        return trained
    config, untrained = recipe.stages[-1].target, output / "untrained" / recipe.name / LAST
    if not untrained.is_file() or read_config(untrained) != config:
        untrained.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.save(build(config.model, seed=0), config, untrained)
    return untrained


def exported(name: str, weights: Path, args: argparse.Namespace) -> Path:
    """The row as a model folder: with graphs for OpenVINO, and one in int8 where that is asked for."""
    folder = args.output / "exported" / name
    if not _is_newer(folder / (WEIGHTS_FILE if args.backend == "torch" else SEARCH_GRAPH), weights):
        shutil.rmtree(folder, ignore_errors=True)
        if args.backend == "torch":
            folder.mkdir(parents=True)
            shutil.copyfile(weights, folder / WEIGHTS_FILE)
        else:
            from mixformerv2.runtime.export import export

            export(weights, folder)
    if "int8" in args.precision and not (folder / INT8_GRAPH).is_file():
        from mixformerv2.evaluate.calibration import examples
        from mixformerv2.runtime.quantise import quantise

        if args.data is None:
            raise ValueError("int8 is calibrated on videos: give the folder of datasets as --data")
        quantise(folder, examples(open_backend(folder, "openvino", "f32"), args.data, None, 300))
    return folder


def _is_newer(made: Path, source: Path) -> bool:
    return made.is_file() and made.stat().st_mtime >= source.stat().st_mtime


# Files and options --------------------------------------------------------------------------------------------------


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text("utf-8")) if file.is_file() else {}


def _write(file: Path, content: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(content, indent=1) + "\n")


def _options(args: argparse.Namespace, max_minutes: float | None) -> RunOptions:
    return RunOptions(
        device=args.device,
        workers=args.workers,
        max_minutes=max_minutes,
        max_gigabytes=args.max_gigabytes,
    )


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _progress(what: str) -> Callable[[int, int], None]:
    def say(done: int, total: int) -> None:
        if done == total:
            print(f"{what}: {done} sequences")

    return say


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add("--question", type=int, action="append", default=[], choices=QUESTIONS, help="may be repeated")
    add(
        "--row",
        action="append",
        default=[],
        help="may be repeated; all rows without any and without a question",
    )
    add("--seeds", type=int, nargs="+", default=[0])
    add("--data", type=Path, help="folder of datasets")
    add("--otb", type=Path, help="OTB100, or sequences of it")
    add("--output", type=Path, default=Path("runs/ablations"), help="trainings and exported models")
    add("--results", type=Path, default=HERE / "results", help="one JSON file for each row")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add("--max-minutes", type=float, help="save and stop after so long")
    add(
        "--samples",
        type=int,
        default=SAMPLES,
        help="of each row; its teachers are longer or shorter likewise",
    )
    add("--set", action="append", default=[], help="FIELD=VALUE as of mixformerv2 train; may be repeated")
    add("--max-frames", type=int, help="of each sequence; all without")
    add("--workers", type=int, default=0)
    add("--max-gigabytes", type=float, default=8.0, help="memory that decoded images may take")
    add("--speed", action="store_true", help="measure the time of rows instead, question by question")
    add("--backend", choices=("openvino", "onnxruntime", "torch"), default="openvino")
    add("--precision", nargs="+", default=["f32"], choices=("f32", "bf16", "f16", "int8"))
    add("--threads", type=int, help="as many as cores without")
    add("--frames", type=int, default=40, help="of the clip in each round")
    add("--rounds", type=int, default=5)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
