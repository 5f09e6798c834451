"""Whether one tracker is better than another: paired differences, and what the choice of sequences does to them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from rich.markup import escape
from rich.table import Table

from mixformerv2.data.sequence import Sequences
from mixformerv2.evaluate.protocols import Protocol
from mixformerv2.evaluate.report.figures import (
    TITLES,
    RunScores,
    build_scores,
    headline,
    pools_frames,
    with_own_labels,
)
from mixformerv2.evaluate.store import Run

RESAMPLES = 10_000
CONFIDENCE = 0.95
FEW_SEQUENCES = 10
_AT_ONCE = 4_000_000  # drawn sequences that are in memory together


class Difference(NamedTuple):
    """One sequence, measured twice."""

    sequence: str
    a: float
    b: float

    @property
    def gain(self) -> float:
        """Above 0 where B is better."""
        return self.b - self.a


class Resampled(NamedTuple):
    """What the bootstrap says of a mean of paired differences."""

    mean: float
    low: float  # the interval's ends; nan for a single sequence, which has none
    high: float
    share_above_zero: float  # of the resamples


@dataclass(frozen=True)
class Comparison:
    """Run B against run A by one figure of one protocol."""

    label_a: str
    label_b: str
    protocol: str
    figure: str
    differences: tuple[Difference, ...]
    """from what B gains most on to what it loses most on"""
    resampled: Resampled
    """of B minus A over the sequences, weighed as the protocol weighs them"""
    resamples: int
    seed: int
    pooled: bool = False
    """whether sequences weigh by their frames"""
    precisions: tuple[str, ...] = ()
    """of A and B, where they were not computed in the same"""

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval leaves out that both are the same; a single sequence leaves out nothing."""
        return self.resampled.low > 0 or self.resampled.high < 0

    def verdict(self) -> str:
        """What the numbers say, in a few sentences."""
        if not self.precisions:
            return self._outcome()
        return (
            f"{self._outcome()} They differ in precision, too, {' and '.join(self.precisions)}: to compare the models "
            "alone, run both with the same --option precision=NAME."
        )

    def _outcome(self) -> str:
        mean, low, high, share = self.resampled
        title, count = TITLES[self.figure], len(self.differences)
        word = (
            f"{abs(mean):.3f} {title} {'more' if mean > 0 else 'less'} than"
            if mean
            else f"as much {title} as"
        )
        of = "the mean over the frames of" if self.pooled else "the mean of"
        head = f"{self.label_b} has {word} {self.label_a}, {of} {_sequences(count)}"
        if math.isnan(low):
            return f"{head}; a single sequence gives no interval."
        outcome = (
            "excludes zero" if self.excludes_zero else "includes zero, so these do not tell the two apart"
        )
        doubt = f" An interval from only {count} sequences is a rough one." if count < FEW_SEQUENCES else ""
        return (
            f"{head}; the {CONFIDENCE:.0%} interval from {low:+.3f} to {high:+.3f} {outcome}. "
            f"{self.label_b} is better in {share:.1%} of {self.resamples:,} resamples.{doubt}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON; an interval that is not there is None."""
        low, high = (None if math.isnan(end) else end for end in (self.resampled.low, self.resampled.high))
        return {
            "a": self.label_a,
            "b": self.label_b,
            "protocol": self.protocol,
            "figure": self.figure,
            "mean_difference": self.resampled.mean,
            "confidence": CONFIDENCE,
            "interval": [low, high],
            "excludes_zero": self.excludes_zero,
            "share_b_better": self.resampled.share_above_zero,
            "resamples": self.resamples,
            "seed": self.seed,
            "verdict": self.verdict(),
            "sequences": [{**one._asdict(), "difference": one.gain} for one in self.differences],
        }

    def table(self) -> Table:
        """The sequences, what B gains most on first, and the verdict below."""
        table = Table(
            title=f"{TITLES[self.figure]} by protocol {self.protocol}",
            caption=escape(self.verdict()),
            caption_justify="left",
            title_justify="left",
        )
        table.add_column("sequence")
        for label in (self.label_a, self.label_b):
            table.add_column(escape(label), justify="right")
        table.add_column("difference", justify="right")
        for one in self.differences:
            style = "green" if one.gain > 0 else "red" if one.gain < 0 else "dim"
            row = (escape(one.sequence), f"{one.a:.3f}", f"{one.b:.3f}", f"[{style}]{one.gain:+.3f}[/]")
            table.add_row(*row)
        return table


def compare(
    run_a: Run,
    run_b: Run,
    sequences: Sequences,
    protocol: Protocol,
    seed: int = 0,
    figure: str | None = None,
    resamples: int = RESAMPLES,
) -> Comparison:
    """Pairs the two runs sequence by sequence, by the protocol's first figure unless another is named.

    Raises ValueError where the runs are of different datasets, sequences or frames, ``figure`` is unknown or the
    protocol has none of that name, or ``resamples`` is below 1.
    """
    name = figure or headline(protocol.name)[0]
    if name not in TITLES:
        raise ValueError(f"figure must be one of {', '.join(TITLES)}, got {name!r}")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    _check_same(run_a, run_b)
    a, b = with_own_labels([build_scores(run, sequences, [protocol]) for run in (run_a, run_b)])
    pairs = _pairs(a, b, protocol.name, name)
    frames = [a.by_sequence[protocol.name][pair.sequence].frames for pair in pairs]
    pooled = pools_frames(protocol)
    weights = np.array(frames if pooled else np.ones(len(pairs)), np.float64)
    resampled = resample(np.array([pair.gain for pair in pairs]), weights, seed, resamples)
    order = tuple(sorted(pairs, key=lambda pair: (-pair.gain, pair.sequence)))
    ran = tuple(run.description.get("tracker", {}).get("precision") for run in (run_a, run_b))
    unlike = ran if None not in ran and ran[0] != ran[1] else ()
    return Comparison(
        a.label, b.label, protocol.name, name, order, resampled, resamples, seed, pooled, unlike
    )


def resample(
    gains: Float[np.ndarray, " sequences"],
    weights: Float[np.ndarray, " sequences"],
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Resampled:
    """The weighted mean and its percentile bootstrap interval: as many sequences are drawn, with replacement."""
    mean = float(np.average(gains, weights=weights))
    count = len(gains)
    generator = np.random.default_rng(seed)
    means = []
    rows = max(_AT_ONCE // count, 1)
    for first in range(0, resamples, rows):
        drawn = generator.integers(count, size=(min(rows, resamples - first), count))
        means.append((gains * weights)[drawn].sum(axis=1) / weights[drawn].sum(axis=1))
    drawn_means = np.concatenate(means)
    share = float((drawn_means > 0).mean())
    if count == 1:
        return Resampled(mean, math.nan, math.nan, share)
    outside = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(drawn_means, (outside, 100 - outside)).tolist()
    return Resampled(mean, low, high, share)


def _check_same(a: Run, b: Run) -> None:
    wanted = "must be of the same dataset and sequences to be compared"
    datasets = [run.description.get("dataset") for run in (a, b)]
    if datasets[0] != datasets[1]:
        raise ValueError(f"runs {wanted}, got {a.label} of {datasets[0]} and {b.label} of {datasets[1]}")
    for one, other in ((a, b), (b, a)):
        alone = sorted(one.passes.keys() - other.passes.keys())
        if alone:
            more = f" and {len(alone) - 1} more" if len(alone) > 1 else ""
            raise ValueError(f"runs {wanted}, but only {one.label} has results of {alone[0]}{more}")
    for name, pass_a in a.passes.items():
        spans = [(one.first_frame, len(one.boxes_frame)) for one in (pass_a, b.passes[name])]
        if spans[0] != spans[1]:
            lengths = f"{spans[0][1]} and {spans[1][1]} frames"
            raise ValueError(f"runs must be over the same frames to be compared, got {lengths} of {name}")


def _pairs(a: RunScores, b: RunScores, protocol: str, figure: str) -> list[Difference]:
    pairs = [
        Difference(name, *(float(getattr(one.by_sequence[protocol][name], figure)) for one in (a, b)))
        for name in a.sequences
        if a.by_sequence[protocol][name].frames
    ]
    if not pairs:
        raise ValueError(
            f"the protocol {protocol} has no frame to score in any of {_sequences(len(a.sequences))}"
        )
    measured = [pair for pair in pairs if not math.isnan(pair.gain)]
    if not measured:
        raise ValueError(
            f"the protocol {protocol} has no figure {figure}: choose {', '.join(headline(protocol))}"
        )
    return measured


def _sequences(count: int) -> str:
    return "1 sequence" if count == 1 else f"{count} sequences"
