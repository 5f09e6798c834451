"""What each online rule is worth: one pass over a dataset with a model's own rules, and with one of them changed.

python benchmarks/rules.py compact --root ../shared/data/otb --workers 2 --markdown docs/online-rules.md
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2

from mixformerv2 import Tracker
from mixformerv2.data.datasets import open_datasets
from mixformerv2.evaluate.protocols import PROTOCOLS, Figures, measure, summarise
from mixformerv2.evaluate.run import one_pass

PROTOCOL = PROTOCOLS["otb"]
NEVER = 1_000_000
CHANGES: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("as shipped", {}),
    ("no update of the online template", {"update_interval": NEVER}),
    ("an update every 5 frames", {"update_interval": 5}),
    ("an update every 25 frames", {"update_interval": 25}),
    ("a template only above a score of 0.7", {"update_threshold": 0.7}),
    ("a template above a score of 0.3", {"update_threshold": 0.3}),
    ("two online templates", {"online_templates": 2}),
    ("search factor 2.6", {"search_factor": 2.6}),
    ("search factor 3.2", {"search_factor": 3.2}),
    ("the new size taken whole", {"size_inertia": 0.0}),
    ("three quarters of the last size kept", {"size_inertia": 0.75}),
    ("the first frame's error in size left", {"size_calibration": 0.0}),
    ("half of the first frame's error in size corrected", {"size_calibration": 0.5}),
    ("the box of a lost target follows the network", {"hold_when_lost": False}),
    ("lost below a score of 0.3", {"lost_threshold": 0.3}),
    ("a lost target is not looked for in a wider window", {"widen_when_lost": 1.0}),
)


@dataclasses.dataclass(frozen=True)
class Job:
    """One sequence with one change."""

    model: str
    precision: str
    root: str
    changes: tuple[tuple[str, Any], ...]
    index: int


@cache
def _opened(model: str, precision: str, root: str) -> tuple[Tracker, list[Any]]:
    cv2.setNumThreads(1)
    sequences = [sequence for dataset in open_datasets(root).values() for sequence in dataset]
    return Tracker(model, precision=precision, threads=1), sequences


def track(job: Job) -> tuple[str, Figures]:
    first, sequences = _opened(job.model, job.precision, job.root)
    rules = dataclasses.replace(first.backend.config.tracker, **dict(job.changes))
    sequence = sequences[job.index]
    result = one_pass(Tracker(backend=first.backend, config=rules), sequence)
    return sequence.name, measure(result, sequence, PROTOCOL)


def table(rows: Sequence[tuple[str, Figures, Mapping[str, Figures]]]) -> str:
    """Markdown; the last column names the sequences that a change decides most."""
    own, settings = rows[0][2], dict(CHANGES)
    lines = ["| rule | setting | AUC | precision at 20 px | most changed |", "|---|---|---|---|---|"]
    for label, mean, each in rows:
        setting = ", ".join(f"`{name}={value}`" for name, value in settings[label].items())
        gains = {name: each[name].auc - own[name].auc for name in each}
        most = sorted(gains, key=lambda name: -abs(gains[name]))[:2]
        changed = ", ".join(f"{name} {gains[name]:+.2f}" for name in most if abs(gains[name]) >= 0.02)
        lines.append(f"| {label} | {setting} | {mean.auc:.3f} | {mean.precision:.3f} | {changed} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", help="shipped name or exported folder")
    parser.add_argument("--root", required=True, help="folder of one dataset")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--markdown", type=Path, help="file whose part about the model is written anew")
    given = parser.parse_args()
    first, sequences = _opened(given.model, given.precision, given.root)
    precision, own = first.backend.precision, dataclasses.asdict(first.config)
    changes = [
        row for row in CHANGES if not row[1] or any(own[key] != value for key, value in row[1].items())
    ]
    jobs = [
        Job(given.model, precision, given.root, tuple(change.items()), index)
        for _, change in changes
        for index in range(len(sequences))
    ]
    with ProcessPoolExecutor(given.workers, get_context("spawn")) as pool:
        done = list(pool.map(track, jobs))
    rows = []
    for number, (label, _) in enumerate(changes):
        each = dict(done[number * len(sequences) : (number + 1) * len(sequences)])
        rows.append((label, summarise(each, PROTOCOL), each))
    text = table(rows)
    print(text)
    if given.markdown:
        write_part(given.markdown, f"## {given.model}, {precision}", text)


def write_part(path: Path, heading: str, text: str) -> None:
    """Puts the table under its heading, in place of what stands there."""
    parts = path.read_text("utf-8").split("\n## ") if path.exists() else ["# Online rules\n"]
    kept = [part for part in parts if f"## {part}".split("\n")[0] != heading]
    path.write_text(
        "\n## ".join([*(part.rstrip() + "\n" for part in kept), f"{heading[3:]}\n\n{text}\n"]), "utf-8"
    )


if __name__ == "__main__":
    main()
