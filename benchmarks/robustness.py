"""How far a score is luck: one-pass AUC over starts that are moved by a hair, as the spatial robustness evaluation of
OTB (Wu et al., 2013), whose starts are moved by 10 %.

python benchmarks/robustness.py --root ../shared/data/otb --peers ../shared/peers tiny:precision=f32 opencv:nano

A tracker whose targets hang by a hair spreads; what one pass says of it is one draw.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from mixformerv2.data.datasets import open_datasets
from mixformerv2.data.sequence import Sequence
from mixformerv2.evaluate.peers import options_of_folder
from mixformerv2.evaluate.protocols import PROTOCOLS, measure
from mixformerv2.evaluate.run import AnyTracker, one_pass
from mixformerv2.evaluate.spec import TrackerSpec, describe, open_tracker, parse, settled


class Job(NamedTuple):
    """One sequence from one start."""

    spec: TrackerSpec
    root: str
    sequence: int
    seed: int
    share: float  # of the box's sides


class Moved:
    """A tracker that is given another box than the true one."""

    def __init__(self, tracker: AnyTracker, random: np.random.Generator, share: float) -> None:
        self._tracker, self._random, self._share = tracker, random, share

    def init(self, frame: Any, box: Any) -> None:
        x, y, w, h = (float(value) for value in box)
        right, down, wider, higher = self._random.uniform(-self._share, self._share, 4)
        self._tracker.init(frame, (x + right * w, y + down * h, w * np.exp(wider), h * np.exp(higher)))

    def update(self, frame: Any) -> Any:
        return self._tracker.update(frame)


@cache
def _sequences(root: str) -> list[Sequence]:
    cv2.setNumThreads(1)
    return [sequence for dataset in open_datasets(root).values() for sequence in dataset]


_open: dict[str, AnyTracker] = {}


def track(job: Job) -> float:
    """AUC by the protocol ``otb``."""
    sequence, key = _sequences(job.root)[job.sequence], repr(job.spec)
    if key not in _open:
        _open.clear()
        _open[key] = open_tracker(job.spec)
    moved = Moved(_open[key], np.random.default_rng([job.seed, job.sequence]), job.share)
    return measure(one_pass(moved, sequence), sequence, PROTOCOLS["otb"]).auc


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("tracker", nargs="+", help="as for `mixformerv2 evaluate`, KEY=VALUE after colons")
    parser.add_argument("--root", required=True, help="folder of one dataset")
    parser.add_argument("--peers", type=Path, help="model files of opencv:NAME")
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--share", type=float, default=0.01, help="of the sides that a start may be off")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    names = [sequence.name for sequence in _sequences(args.root)]
    print(
        "| tracker | AUC, mean of starts | spread (s.d.) | least and most | least sure |\n|---|---|---|---|---|"
    )
    with ProcessPoolExecutor(args.workers, get_context("spawn")) as pool:
        for text in args.tracker:
            spec = spec_of(text, args.peers)
            label = settled(spec, describe(spec), "precision").label
            jobs = [
                Job(spec, args.root, sequence, seed, args.share)
                for seed in range(args.starts)
                for sequence in range(len(names))
            ]
            auc = np.array(list(pool.map(track, jobs))).reshape(args.starts, len(names))
            means, each = auc.mean(axis=1), auc.std(axis=0)
            unsure = ", ".join(
                f"{names[n]} {auc[:, n].mean():.2f} ± {each[n]:.2f}" for n in np.argsort(-each)[:3]
            )
            ends = f"{means.min():.3f}, {means.max():.3f}"
            print(
                f"| `{label}` | {means.mean():.3f} | {means.std(ddof=1):.3f} | {ends} | {unsure} |",
                flush=True,
            )


def spec_of(text: str, peers: Path | None) -> TrackerSpec:
    words = text.split(":")
    options = dict(word.split("=", 1) for word in words if "=" in word)
    name = ":".join(word for word in words if "=" not in word)
    return parse(name, {"threads": "1", **options_of_folder(name, peers), **options})


if __name__ == "__main__":
    main()
