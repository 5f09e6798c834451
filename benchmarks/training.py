"""Training examples per second: of the loader alone, from memory and from disk, of the steps alone, and of training.

python benchmarks/training.py --data ../shared/data tiny
python benchmarks/training.py --data SHARDS --device cuda --chunk 256 --workers 4 --workers 12 tiny-224 mixvit-s

Rounds of all rows alternate, so that a slow moment of the machine falls on all of them; figures are medians over the
rounds. The first round of each, in which frames are decoded or processes start, does not count.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from mixformerv2.config import preset
from mixformerv2.data.datasets import open_datasets
from mixformerv2.data.loader import DataConfig, Loader
from mixformerv2.data.pairs import Batch
from mixformerv2.data.plan import SampleConfig
from mixformerv2.model.network import build
from mixformerv2.train.objective import LossWeights, Objective
from mixformerv2.train.optim import OptimConfig, make_optimiser
from mixformerv2.train.processes import affordable_precision


class Row:
    """One way to be busy with examples: to make them, to learn from them, or both."""

    def __init__(
        self, name: str, batches: Callable[[range], Iterable[Batch]], learner: Learner | None
    ) -> None:
        self.name, self._batches, self._learner = name, batches, learner
        self._rounds = 0
        self.per_second: list[float] = []

    def round(self, chunks: int, device: torch.device) -> None:
        began, examples = time.perf_counter(), 0
        for batch in self._batches(range(self._rounds * chunks, (self._rounds + 1) * chunks)):
            examples += len(batch.present)
            if self._learner is not None:
                self._learner.step(batch)
        if device.type == "cuda":
            torch.cuda.synchronize()
        took = time.perf_counter() - began
        self._rounds += 1
        if self._rounds > 1:
            self.per_second.append(examples / took)


class Learner:
    """The steps of a supervised stage, in bf16 where the parts allow."""

    def __init__(self, preset_name: str, device: torch.device) -> None:
        network = build(preset(preset_name).model, seed=0)
        self._objective = Objective(network, LossWeights()).to(device)
        self._optimiser = make_optimiser(self._objective, OptimConfig())
        self._device = device
        self._half = affordable_precision("bf16-mixed", device.type) == "bf16-mixed"

    def step(self, batch: Batch) -> None:
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._half):
            loss, _ = self._objective(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._objective.parameters(), 0.1)
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)


def rows_of(args: argparse.Namespace, device: torch.device) -> list[Row]:
    weights = {name: float(weight) for name, weight in (text.split("=") for text in args.weight)}
    datasets = open_datasets(args.data)
    config = DataConfig(SampleConfig(weights), chunk=args.chunk)
    models = {name: preset(name).model for name in args.presets}
    windows = {(model.search_px, model.template_px) for model in models.values()} or {(224, 112)}
    if len(windows) > 1:
        raise SystemExit(f"presets in one run must have windows of one size, got {' and '.join(models)}")
    search_px, template_px = windows.pop()
    sizes = {"search_px": search_px, "template_px": template_px, "seed": 0, "device": device}
    many = Loader(datasets, config, **sizes, workers=max(args.workers or (2,)), max_gigabytes=args.gigabytes)
    many.prepare()  # decodes with as many threads
    memory = Loader(datasets, config, **sizes, decoded=many.decoded)
    rows = [Row("loader: memory", memory.chunks, None)]
    best = memory
    for workers in args.workers or (2,):
        ahead = Loader(datasets, config, **sizes, workers=workers, decoded=memory.decoded)
        disk = Loader(datasets, config, **sizes, workers=workers, in_memory=False)
        rows.append(Row(f"loader: memory, planned by {workers} processes", ahead.chunks, None))
        rows.append(Row(f"loader: disk, read by {workers} processes", disk.chunks, None))
        best = ahead if device.type == "cuda" else best
    (same,) = memory.chunks([0])
    for name in args.presets:
        learner = Learner(name, device)
        rows.append(Row(f"{name}: steps alone", lambda numbers: [same] * len(numbers), learner))
        rows.append(Row(f"{name}: training", best.chunks, learner))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("presets", nargs="*", help="networks to train, of one size of windows")
    parser.add_argument("--data", type=Path, required=True, help="folder of datasets")
    parser.add_argument("--weight", action="append", help="dataset=weight; default coco=0.8 and got10k=0.2")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2, help="of the main process")
    parser.add_argument("--workers", type=int, action="append", help="may be repeated; default 2")
    parser.add_argument("--chunk", type=int, default=32)
    parser.add_argument("--chunks", type=int, default=8, help="a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--gigabytes", type=float, default=8.0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    args.weight = args.weight or ["coco=0.8", "got10k=0.2"]
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    device = torch.device(args.device)
    rows = rows_of(args, device)
    for _ in range(args.rounds + 1):
        for row in rows:
            row.round(args.chunks, device)
    table = Table("busy with", "examples per second", "of the first row")
    figures = []
    for row in rows:
        per_second = float(np.median(row.per_second))
        share = per_second / float(np.median(rows[0].per_second))
        table.add_row(row.name, f"{per_second:.0f}", f"{share:.2f}")
        figures.append({"busy_with": row.name, "device": args.device, "examples_per_second": per_second})
    Console().print(table)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
