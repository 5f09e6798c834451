"""The figures of a run: medians and percentiles, ratios, shares of the machine's limits; ready for JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mixformerv2.bench.operators import Operator
from mixformerv2.bench.plan import Model, Plan
from mixformerv2.bench.roofline import Limit, Roofline
from mixformerv2.bench.stages import REFERENCE, Row, RowName
from mixformerv2.bench.workload import BYTES, Workload, cached_search, encode_templates, joint_pass


class Spread(NamedTuple):
    """Of all measurements of one thing, in milliseconds."""

    median: float
    p10: float
    p90: float
    samples: int


@dataclass(frozen=True)
class RowFigures:
    """What a row came to."""

    name: RowName
    stages_ms: dict[str, Spread]
    """``update``; of our own also ``crop``, ``network``, ``post``, and ``templates`` for each time they are encoded"""
    templates_per_frame_ms: float
    """shared out over the interval at the end of which they may change"""
    frame_ms: float
    """the median update without templates, and their share"""
    times_reference: float | None
    """how many times as fast as the reference path of the same model"""
    limit: Limit | None
    """of the network on this machine"""
    share_of_limit: float | None
    """the limit over the network's median"""

    @property
    def frames_per_second(self) -> float:
        return 1000 / self.frame_ms


@dataclass(frozen=True)
class BatchFigures:
    """The network alone on many crops at once."""

    name: RowName
    batch: int
    network_ms: Spread  # for the whole batch
    crops_per_second: float
    times_reference: float | None
    share_of_limit: float | None


@dataclass(frozen=True)
class TargetsFigures:
    """Many targets in one video, ms a frame."""

    name: RowName
    targets: int
    together_ms: Spread  # in one MultiTracker
    apart_ms: Spread  # in a tracker each
    times_apart: float  # how many times as fast together


@dataclass(frozen=True)
class ModelFigures:
    """What a model has to compute for a frame."""

    weights: int
    random: bool
    update_interval: int
    search: Workload
    encode: Workload
    joint: Workload

    @classmethod
    def of(cls, model: Model) -> ModelFigures:
        sizes, templates = model.config.model, 1 + model.config.tracker.online_templates
        joint = joint_pass(sizes, templates)
        works = cached_search(sizes, templates), encode_templates(sizes, templates), joint
        return cls(joint.weights, model.is_random, model.config.tracker.update_interval, *works)


class NetworkOperators(NamedTuple):
    """Where the time of one network goes, the slowest kind of operator first."""

    name: RowName
    operators: list[Operator]


@dataclass(frozen=True)
class Report:
    """A whole run."""

    machine: dict[str, Any]
    clip: dict[str, Any]
    models: dict[str, ModelFigures]
    rows: list[RowFigures]
    batches: list[BatchFigures]
    targets: list[TargetsFigures]
    peaks: list[dict[str, Any]]  # runtime, precision, threads, gflops_per_second
    reads: list[dict[str, Any]]  # bytes, threads, gigabytes_per_second
    left_out: list[str]
    operators: list[NetworkOperators]

    def as_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, text and numbers."""
        plain: dict[str, Any] = _plain(dataclasses.asdict(self))
        for row, figures in zip(plain["rows"], self.rows, strict=True):
            row["frames_per_second"] = figures.frames_per_second
        return plain


def _plain(value: Any) -> Any:
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def spread(values_ms: Sequence[float]) -> Spread:
    p10, median, p90 = (float(value) for value in np.percentile(values_ms, (10, 50, 90)))
    return Spread(median, p10, p90, len(values_ms))


def workload_of(figures: ModelFigures, backend: str) -> Workload:
    return figures.joint if backend == REFERENCE else figures.search


def figures_of_rows(plan: Plan, models: dict[str, ModelFigures], roofline: Roofline) -> list[RowFigures]:
    frame_ms = {name: sum(_frame_ms(name, row, models)) for name, row in plan.trackers.items()}
    rows = []
    for name, row in plan.trackers.items():
        stages = {stage: spread(values) for stage, values in row.ms.items()}
        limit = None
        if name.model in models and name.precision in BYTES:
            work = workload_of(models[name.model], name.backend)
            limit = roofline.limit(work, name.precision, name.threads)
        rows.append(
            RowFigures(
                name,
                stages,
                _frame_ms(name, row, models)[1],
                frame_ms[name],
                _ratio(frame_ms, name),
                limit,
                limit.ms / stages["network"].median if limit else None,
            )
        )
    return rows


def _frame_ms(name: RowName, row: Row, models: dict[str, ModelFigures]) -> tuple[float, float]:
    """The median of a frame without templates, and the templates' share of it."""
    if name.model not in models:
        return float(np.median(row.ms["update"])), 0.0
    parts = (row.ms[stage] for stage in ("crop", "network", "post"))
    steady = float(np.median(np.sum([*parts], axis=0)))
    return steady, float(np.median(row.ms["templates"])) / models[name.model].update_interval


def figures_of_batches(plan: Plan, models: dict[str, ModelFigures], roofline: Roofline) -> list[BatchFigures]:
    medians = {key: float(np.median(row.ms["network"])) for key, row in plan.batches.items()}
    figures = []
    for (name, batch), row in plan.batches.items():
        network = spread(row.ms["network"])
        of_batch = {other: ms for (other, size), ms in medians.items() if size == batch}
        share = None
        if name.precision in BYTES:
            work = workload_of(models[name.model], name.backend)
            limit = roofline.limit(work, name.precision, name.threads, batch)
            share = limit.ms / network.median if limit else None
        per_second = 1000 * batch / network.median
        figures.append(BatchFigures(name, batch, network, per_second, _ratio(of_batch, name), share))
    return figures


def figures_of_targets(plan: Plan) -> list[TargetsFigures]:
    figures = []
    for name, row in plan.targets.items():
        together, apart = spread(row.ms["together"]), spread(row.ms["apart"])
        figures.append(TargetsFigures(name, row.targets, together, apart, apart.median / together.median))
    return figures


def _ratio(ms: dict[RowName, float], name: RowName) -> float | None:
    reference = ms.get(name._replace(backend=REFERENCE, precision="f32"))
    return reference / ms[name] if reference else None
