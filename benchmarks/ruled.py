"""What benchmarks of the online rules are given: models, datasets, and rules in place of a model's own."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator, Mapping

from mixformerv2 import Tracker
from mixformerv2.cli.common import key_values
from mixformerv2.data.datasets import open_datasets
from mixformerv2.data.sequence import Sequence


def parse(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, list[Sequence]]:
    """What the command line gives, and the sequences of its datasets."""
    parser.add_argument("models", nargs="+", help="shipped names, exported folders or checkpoints")
    parser.add_argument("--root", required=True, help="folder of one dataset, or of several")
    parser.add_argument("--precision", default="auto")
    parser.add_argument(
        "--rule", action="append", default=[], help="KEY=VALUE instead of the model's own, as JSON"
    )
    given = parser.parse_args()
    return given, [sequence for dataset in open_datasets(given.root).values() for sequence in dataset]


def trackers(given: argparse.Namespace) -> Iterator[tuple[str, Tracker]]:
    """Each model with those rules, under its name and precision."""
    rules = {key: json.loads(value) for key, value in key_values(given.rule).items()}
    for model in given.models:
        tracker = Tracker(model, precision=given.precision)
        tracker.config = dataclasses.replace(tracker.config, **rules)
        yield f"{model} in {tracker.backend.precision}", tracker


def least(overlaps: Mapping[str, float]) -> str:
    """The sequences on which a tracker overlaps least."""
    worst = sorted((overlap, sequence) for sequence, overlap in overlaps.items())[:4]
    return ", ".join(f"{sequence} {overlap:.2f}" for overlap, sequence in worst)
