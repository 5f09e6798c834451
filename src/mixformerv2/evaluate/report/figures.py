"""All numbers of one run: by protocol, sequence and attribute, and how fast it was. Everything else here shows them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from collections.abc import Sequence as ReadOnlySequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mixformerv2.data.sequence import Sequence, Sequences
from mixformerv2.evaluate.protocols import Figures, Protocol, measure, summarise
from mixformerv2.evaluate.run import OnePass
from mixformerv2.evaluate.store import Run
from mixformerv2.files import write_text

TITLES = {
    "auc": "AUC",
    "precision": "P",
    "normalised_precision": "Pnorm",
    "op50": "OP50",
    "op75": "OP75",
    "ao": "AO",
    "sr50": "SR50",
    "sr75": "SR75",
}
"""Every figure and its short name, in the order in which they are shown."""
MEANINGS = {
    "auc": "area under the success curve",
    "precision": "share of frames whose centre is within 20 px",
    "normalised_precision": "precision in units of the target's size",
    "op50": "share of frames with an overlap over 0.5",
    "op75": "share of frames with an overlap over 0.75",
    "ao": "mean overlap",
    "sr50": "share of frames with an overlap over 0.5",
    "sr75": "share of frames with an overlap over 0.75",
}
_HEADLINES = {"got10k": ("ao", "sr50", "sr75")}
_CURVES = ("success", "precision_curve", "normalised_curve")


def headline(protocol: str) -> tuple[str, ...]:
    """The figures that a protocol's papers print, the one that trackers are ranked by first."""
    return _HEADLINES.get(protocol, ("auc", "normalised_precision", "precision"))


class Speed(NamedTuple):
    """How long updates took; nan where there was none."""

    updates: int
    frames_per_second: float  # updates over the time of all of them
    ms_p50: float  # half of the updates were at least as fast
    ms_p90: float
    ms_p99: float

    @classmethod
    def of(cls, passes: Iterable[OnePass]) -> Speed:
        """Over all updates of the passes whose time is known; starting is not one."""
        seconds = np.concatenate([np.empty(0), *(one.seconds[1:] for one in passes)])
        seconds = seconds[np.isfinite(seconds)]
        if not len(seconds) or not seconds.sum():
            return cls(len(seconds), *(math.nan,) * 4)
        percentiles = np.percentile(seconds * 1e3, (50, 90, 99)).tolist()
        return cls(len(seconds), float(len(seconds) / seconds.sum()), *percentiles)


@dataclass(frozen=True)
class RunScores:
    """What one run scored. The outer keys are names of protocols, in the order in which they were asked for."""

    label: str
    protocols: dict[str, Protocol]
    overall: dict[str, Figures]
    by_sequence: dict[str, dict[str, Figures]]
    """protocol -> sequence"""
    by_attribute: dict[str, dict[str, Figures]]
    """protocol -> attribute; over the sequences that have it"""
    attributes: dict[str, tuple[str, ...]]
    """of each sequence"""
    speed: Speed
    speeds: dict[str, Speed]
    """of each sequence"""
    missing: tuple[str, ...]
    """sequences of the dataset that the run has no results of, which no figure here counts"""

    @property
    def sequences(self) -> tuple[str, ...]:
        """Names of the sequences that count, in the dataset's order."""
        return tuple(self.speeds)

    def as_dict(self) -> dict[str, Any]:
        """Everything, in plain dicts, lists and numbers for JSON; what is not a number is None."""
        return {
            "label": self.label,
            "protocols": {
                name: {
                    "overall": as_plain(self.overall[name]),
                    "sequences": {key: as_plain(one) for key, one in self.by_sequence[name].items()},
                    "by_attribute": {key: as_plain(one) for key, one in self.by_attribute[name].items()},
                }
                for name in self.protocols
            },
            "attributes": {name: list(those) for name, those in self.attributes.items()},
            "speed": as_plain(self.speed),
            "speeds": {name: as_plain(speed) for name, speed in self.speeds.items()},
            "missing": list(self.missing),
        }


def build_scores(
    run: Run,
    sequences: Sequences,
    protocols: ReadOnlySequence[Protocol],
    attributes: Mapping[str, ReadOnlySequence[str]] | None = None,
) -> RunScores:
    """Measures a run by every protocol. ``attributes`` are those of each sequence, by its name.

    Raises ValueError where no protocol is named, or the run has results of none of the sequences or of one that is not
    among them.
    """
    if not protocols:
        raise ValueError("protocols must name at least one protocol, got none")
    by_sequence: dict[str, dict[str, Figures]] = {protocol.name: {} for protocol in protocols}
    finished: list[str] = []
    missing: list[str] = []
    for sequence in sequences:
        (finished if sequence.name in run.passes else missing).append(sequence.name)
        if sequence.name in run.passes:
            size = frame_size(sequence)
            for protocol in protocols:
                figures = measure(run.passes[sequence.name], sequence, protocol, size)
                by_sequence[protocol.name][sequence.name] = figures
    _check_sequences(run, finished)
    known = {name: tuple((attributes or {}).get(name, ())) for name in finished}
    every = sorted({attribute for those in known.values() for attribute in those})
    return RunScores(
        run.label,
        {protocol.name: protocol for protocol in protocols},
        {protocol.name: summarise(by_sequence[protocol.name], protocol) for protocol in protocols},
        by_sequence,
        {
            protocol.name: {
                attribute: summarise(
                    {
                        name: one
                        for name, one in by_sequence[protocol.name].items()
                        if attribute in known[name]
                    },
                    protocol,
                )
                for attribute in every
            }
            for protocol in protocols
        },
        known,
        Speed.of(run.passes[name] for name in finished),
        {name: Speed.of([run.passes[name]]) for name in finished},
        tuple(missing),
    )


def frame_size(sequence: Sequence) -> tuple[int, int]:
    """(width, height) of the sequence's first frame, px."""
    height, width = sequence.frame(0).shape[:2]
    return width, height


def _check_sequences(run: Run, finished: list[str]) -> None:
    unknown = [name for name in run.passes if name not in finished]
    if unknown:
        raise ValueError(
            f"the run {run.label} must be of the sequences it is scored on, got results of {unknown[0]}, "
            "which is not one of them"
        )
    if not finished:
        raise ValueError(f"the run {run.label} must have results of at least one sequence, got none")


def with_own_labels(scores: ReadOnlySequence[RunScores]) -> list[RunScores]:
    """The same with a number behind the labels that are there twice, so that a label names one run."""
    taken: set[str] = set()
    named = []
    for one in scores:
        label, number = one.label, 1
        while label in taken:
            number += 1
            label = f"{one.label} ({number})"
        taken.add(label)
        named.append(replace(one, label=label))
    return named


def as_plain(figures: Figures | Speed) -> dict[str, Any]:
    """Numbers and curves as JSON knows them: None for nan, lists for arrays, five decimals in a curve."""
    return {
        name: [_plain(round(float(y), 5)) for y in value] if isinstance(value, np.ndarray) else _plain(value)
        for name, value in figures._asdict().items()
    }


def _plain(value: float | int) -> float | int | None:
    return value if math.isfinite(value) else None


def write_json(path: Path, scores: ReadOnlySequence[RunScores]) -> None:
    """All numbers of one or several runs: ``{"runs": [...], "thresholds": {protocol: {curve: [...]}}}``.

    Replaces a file that exists.
    """
    every = {name: protocol for one in scores for name, protocol in one.protocols.items()}
    document = {
        "runs": [one.as_dict() for one in scores],
        "thresholds": {name: thresholds(protocol) for name, protocol in every.items()},
    }
    write_text(path, json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def thresholds(protocol: Protocol) -> dict[str, list[float]]:
    """Where each curve of `Figures` is sampled; precision in px, the rest without a unit."""
    return {
        "success": [float(x) for x in protocol.overlap_thresholds],
        "precision_curve": [float(x) for x in protocol.centre_thresholds],
        "normalised_curve": [float(x) for x in protocol.normalised_thresholds],
    }


def pools_frames(protocol: Protocol) -> bool:
    """Whether the protocol's mean is over frames, so that a long sequence weighs more."""
    return protocol.average == "frames"
