"""One run: the rounds of all rows alternate, so that a slow moment of the machine falls on all of them."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mixformerv2.bench.clip import Clip, load_clip
from mixformerv2.bench.machine import describe_machine, load_average
from mixformerv2.bench.operators import operators
from mixformerv2.bench.plan import BenchConfig, Plan, make_plan, thread_setter
from mixformerv2.bench.report import (
    ModelFigures,
    NetworkOperators,
    Report,
    figures_of_batches,
    figures_of_rows,
    figures_of_targets,
    spread,
    workload_of,
)
from mixformerv2.bench.roofline import Peak, Read, Roofline
from mixformerv2.bench.stages import ClipRow
from mixformerv2.bench.workload import BYTES
from mixformerv2.evaluate.execute import usable_cores


def run(config: BenchConfig, progress: Callable[[int, int], None] | None = None) -> Report:
    """Measures what is asked for. ``progress`` is called with the rounds done and the rounds to do, of all rows.

    Raises ValueError, ModuleNotFoundError or an OSError with one sentence for what cannot be had.
    """
    load = load_average()  # before our own
    clip = load_clip(config.clip, config.box, config.frames)
    with tempfile.TemporaryDirectory() as scratch:
        plan = make_plan(config, clip, Path(scratch))
        machine = describe_machine(config.device, {name.backend for name in plan.trackers}, load)
        models = {name: ModelFigures.of(model) for name, model in plan.models.items()}
        roofline, clip_row = _roofline(plan, models, config.device), ClipRow(thread_setter(usable_cores()))
        for row in plan.rows():
            row.warm_up(clip)
        turns = [partial(row.round, clip) for row in (clip_row, *plan.rows())]
        take_turns([roofline.round, *turns], config.rounds, progress)
        counted = [
            NetworkOperators(name, operators(name, backend, plan.models[name.model].weights))
            for name, backend in (plan.backends.items() if config.operators else ())
        ]
    return Report(
        machine,
        _describe_clip(clip, config.rounds, clip_row),
        models,
        figures_of_rows(plan, models, roofline),
        figures_of_batches(plan, models, roofline),
        figures_of_targets(plan),
        [p._asdict() | {"gflops_per_second": r / 1e9} for p, r in roofline.flops_per_second.items()],
        [r._asdict() | {"gigabytes_per_second": rate / 1e9} for r, rate in roofline.bytes_per_second.items()],
        plan.left_out,
        counted,
    )


def take_turns(
    turns: Sequence[Callable[[], None]], rounds: int, progress: Callable[[int, int], None] | None
) -> None:
    for number in range(rounds):
        gc.collect()
        # There and back: nobody always follows the same one.
        for place, turn in enumerate(turns if number % 2 == 0 else reversed(turns)):
            if progress is not None:
                progress(number * len(turns) + place, rounds * len(turns))
            turn()


def _describe_clip(clip: Clip, rounds: int, row: ClipRow) -> dict[str, Any]:
    width, height = clip.size
    stages = {stage: spread(values)._asdict() for stage, values in row.ms.items()}
    about = {"name": clip.path.name, "width": width, "height": height, "frames": len(clip.frames)}
    return about | {"rounds": rounds, "stages_ms": stages}


def _roofline(plan: Plan, models: dict[str, ModelFigures], device: str) -> Roofline:
    """The limits that the rows are held against."""
    peaks, reads = [], []
    for name, batch in [*((name, 1) for name in plan.trackers), *plan.batches]:
        if name.model in models and name.precision in BYTES:
            runtime = "torch" if name.backend == "reference" or device != "cpu" else name.backend
            peaks.append(Peak(runtime, name.precision, name.threads))
            work = workload_of(models[name.model], name.backend)
            reads.append(Read(work.bytes(name.precision, batch), name.threads))
    return Roofline(peaks, reads, device)
