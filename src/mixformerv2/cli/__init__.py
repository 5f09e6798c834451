"""The command line: one verb, one function. What a verb needs is imported inside it, so that ``--help`` is instant."""

from mixformerv2.cli import (
    benchmark,
    datasets,
    doctor,
    evaluation,
    export,
    models,
    reports,
    tracking,
    training,
    vot,
)
from mixformerv2.cli.common import app, main

__all__ = [
    "app",
    "benchmark",
    "datasets",
    "doctor",
    "evaluation",
    "export",
    "main",
    "models",
    "reports",
    "tracking",
    "training",
    "vot",
]
