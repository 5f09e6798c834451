"""Target-frames per second of one MultiTracker and of as many single trackers, on the demo clip.

python benchmarks/targets.py tiny --targets 1 2 4 8 --precision f32 bf16
python benchmarks/targets.py tiny --lost     (no score counts as found: every target is searched twice in each frame)
python benchmarks/targets.py tiny --backend torch --json targets.json

All share a loaded backend; rounds alternate, so that a slow moment of the machine falls on both. `gain` is the median
over the rounds of single time over common time, once for updates alone and once with the decoding that singles do each.
`cpu_ms` are of all threads, for a target and frame: what no busy neighbour changes, and a batch can lower only where it
saves work.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

import mixformerv2
from mixformerv2 import MultiTracker, Tracker
from mixformerv2.config import TrackerConfig
from mixformerv2.images import Frame
from mixformerv2.runtime.backend import Backend, open_backend
from mixformerv2.video import open_source

CLIP = Path(mixformerv2.__file__).parent / "demo" / "cup.mp4"
FRAMES = 12


def boxes(count: int) -> list[tuple[float, float, float, float]]:
    """Boxes of some sizes all over the frame of 640 x 480: what lies in them does not matter for the time."""
    random = np.random.default_rng(0)
    sizes = random.uniform(40, 120, (count, 2))
    places = random.uniform(0, 1, (count, 2)) * ((640, 480) - sizes)
    return [(*map(float, place), *map(float, size)) for place, size in zip(places, sizes, strict=True)]


def decode() -> list[Frame]:
    with open_source(CLIP) as source:
        return list(islice(source, FRAMES))


def timed(run: Any, frames: list[Frame]) -> np.ndarray:
    """Seconds of the clock and of the processors."""
    began = np.array([time.perf_counter(), time.process_time()])
    for frame in frames[1:]:
        run(frame)
    return np.array([time.perf_counter(), time.process_time()]) - began


def measure(backend: Backend, config: TrackerConfig, count: int, rounds: int) -> dict[str, float]:
    """Medians over the rounds."""
    began = time.perf_counter()
    frames = decode()
    decode_s = (time.perf_counter() - began) * (FRAMES - 1) / FRAMES
    times: list[tuple[np.ndarray, np.ndarray]] = []
    for _ in range(rounds + 1):
        singles = [Tracker(backend=backend, config=config) for _ in range(count)]
        together = MultiTracker(backend=backend, config=config)
        for single, box in zip(singles, boxes(count), strict=True):
            single.init(frames[0], box)
            together.add(frames[0], box)
        apart_s = np.sum([timed(single.update, frames) for single in singles], axis=0)
        times.append((apart_s, timed(together.update, frames)))
    (apart, apart_cpu), (common, common_cpu) = np.array(times[1:]).transpose(
        1, 2, 0
    )  # the first round compiles
    updates = count * (FRAMES - 1)
    return {
        "single_fps": updates / float(np.median(apart)),
        "multi_fps": updates / float(np.median(common)),
        "gain": float(np.median(apart / common)),
        "gain_with_decoding": float(np.median((apart + count * decode_s) / (common + decode_s))),
        "single_cpu_ms": 1000 * float(np.median(apart_cpu)) / updates,
        "multi_cpu_ms": 1000 * float(np.median(common_cpu)) / updates,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", nargs="?", default="tiny", help="shipped name or exported folder")
    parser.add_argument("--targets", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--backend", default="openvino")
    parser.add_argument("--precision", nargs="+", default=["f32"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--lost", action="store_true", help="no score counts as found; else every one does")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    cv2.setNumThreads(args.threads)
    figures: list[dict[str, Any]] = []
    for precision in args.precision:
        backend = open_backend(args.model, args.backend, precision, threads=args.threads)
        rules = dict(lost_threshold=1.0 if args.lost else 0.0, found_threshold=0.0)
        config = dataclasses.replace(backend.config.tracker, **rules)
        named = {"model": args.model, "backend": backend.name, "precision": backend.precision}
        figures += [
            named | {"targets": count} | measure(backend, config, count, args.rounds)
            for count in args.targets
        ]
    table = Table(*figures[0])
    for figure in figures:
        table.add_row(
            *(f"{value:.2f}" if isinstance(value, float) else str(value) for value in figure.values())
        )
    Console(soft_wrap=True).print(table)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
