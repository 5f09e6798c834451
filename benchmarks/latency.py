"""Milliseconds of the network alone and of a whole ``update``, per model, backend and precision, in one run.

python benchmarks/latency.py --threads 2 tiny small
python benchmarks/latency.py --json latency.json --backend openvino:f32 --backend torch:f32 tiny

A preset without shipped weights is measured with random ones. The rounds of all rows alternate, so that a slow moment
of the machine falls on all of them; figures are medians over all rounds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from mixformerv2 import Tracker
from mixformerv2.config import preset
from mixformerv2.runtime.backend import shipped_models
from mixformerv2.video import open_source


def model_folder(name: str, scratch: Path) -> str:
    """The shipped model, or the preset with random weights, exported into ``scratch``."""
    if name in shipped_models():
        return name
    from mixformerv2.model import checkpoint
    from mixformerv2.model.network import build
    from mixformerv2.runtime.export import export

    config = preset(name)
    weights = scratch / f"{name}.safetensors"
    checkpoint.save(build(config.model, seed=0), config, weights)
    export(weights, scratch / name)
    return str(scratch / name)


class Row:
    """One model on one backend, started on the demo clip."""

    def __init__(
        self, model: str, backend: str, precision: str, threads: int, frames: list[np.ndarray]
    ) -> None:
        self.tracker = Tracker(model, backend, precision, threads=threads)
        self.frames, self.box = frames, (316, 114, 114, 275)
        self.network_ms: list[float] = []
        self.update_ms: list[float] = []
        config = self.tracker.backend.config.model
        random = np.random.default_rng(0)
        template = random.integers(0, 256, (1, config.template_px, config.template_px, 3), np.uint8)
        self.crop = random.integers(0, 256, (1, config.search_px, config.search_px, 3), np.uint8)
        self.cache = self.tracker.backend.encode_templates(template, template[:, None])
        self.round()
        self.network_ms.clear()
        self.update_ms.clear()

    def round(self) -> None:
        for _ in range(len(self.frames)):
            began = time.perf_counter()
            self.tracker.backend.search(self.crop, self.cache)
            self.network_ms.append(1000 * (time.perf_counter() - began))
        self.tracker.init(self.frames[0], self.box)
        for frame in self.frames[1:]:
            began = time.perf_counter()
            self.tracker.update(frame)
            self.update_ms.append(1000 * (time.perf_counter() - began))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", nargs="+", help="shipped names or presets")
    parser.add_argument("--backend", action="append", help="backend:precision; may be repeated")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    cv2.setNumThreads(args.threads)
    clip = Path(__file__).parents[1] / "src" / "mixformerv2" / "demo" / "cup.mp4"
    with open_source(clip) as source:
        frames = [frame for frame, _ in zip(source, range(40), strict=False)]
    kinds = [text.split(":") for text in args.backend or ("openvino:f32", "openvino:bf16")]
    rows: dict[tuple[str, str, str], Row] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in args.models:
            folder = model_folder(name, Path(scratch))
            for backend, precision in kinds:
                rows[name, backend, precision] = Row(folder, backend, precision, args.threads, frames)
        for _ in range(args.rounds):
            for row in rows.values():
                row.round()
    table = Table("model", "backend", "precision", "network ms", "update ms", "updates per second")
    figures: list[dict[str, Any]] = []
    for key, row in rows.items():
        network, update = (float(np.median(times)) for times in (row.network_ms, row.update_ms))
        table.add_row(*key, f"{network:.1f}", f"{update:.1f}", f"{1000 / update:.0f}")
        named = dict(zip(("model", "backend", "precision"), key, strict=True))
        figures.append(named | {"threads": args.threads, "network_ms": network, "update_ms": update})
    Console().print(table)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
