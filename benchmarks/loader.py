"""Training examples per second that the loader gives on its own, from memory and from disk.

python benchmarks/loader.py --data ../shared/data
python benchmarks/loader.py --data ../shared/data --device cuda --workers 4 --workers 12 --json loader.json

Rounds of all rows alternate, so that a slow moment of the machine falls on all of them; figures are medians over the
rounds. The first round of each, in which frames are decoded or processes start, does not count.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from mixformerv2.data.augment import DegradeConfig
from mixformerv2.data.datasets import open_datasets
from mixformerv2.data.loader import DataConfig, Loader
from mixformerv2.data.sampler import SampleConfig

PLAIN = DegradeConfig(blur_share=0.0, low_resolution_share=0.0, noise_share=0.0, jpeg_share=0.0)


class Row:
    """One way to make examples."""

    def __init__(self, name: str, loader: Loader, chunks: int) -> None:
        self.name, self.loader, self.chunks = name, loader, chunks
        self.rounds = 0
        self.per_second: list[float] = []

    def round(self) -> None:
        began = time.perf_counter()
        first = self.rounds * self.chunks
        for _ in self.loader.chunks(range(first, first + self.chunks)):
            pass
        if self.loader.device.type == "cuda":
            torch.cuda.synchronize()
        took = time.perf_counter() - began
        self.rounds += 1
        if self.rounds > 1:
            self.per_second.append(self.chunks * self.loader.config.chunk / took)


def rows_of(args: argparse.Namespace) -> list[Row]:
    weights = {name: float(weight) for name, weight in (text.split("=") for text in args.weight)}
    datasets = open_datasets(args.data)
    config = DataConfig(SampleConfig(weights), chunk=args.chunk)
    plain = DataConfig(SampleConfig(weights), degrade=PLAIN, chunk=args.chunk)
    where = {"search_px": args.search_px, "template_px": args.template_px, "seed": 0, "device": args.device}

    def row(name: str, config: DataConfig, **settings: Any) -> Row:
        return Row(name, Loader(datasets, config, **where, **settings), args.chunks)

    rows = []
    if not args.no_memory:
        rows.append(row("memory", config, max_gigabytes=args.gigabytes))
        rows[0].loader.prepare()
        rows.append(row("memory, light alone", plain, decoded=rows[0].loader.decoded))
    return rows + [
        row(f"disk, {n} workers", config, in_memory=False, workers=n) for n in args.workers or (0, 2)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of datasets")
    parser.add_argument("--weight", action="append", help="dataset=weight; default coco=0.8 and got10k=0.2")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2, help="of the main process")
    parser.add_argument("--workers", type=int, action="append", help="may be repeated; default 0 and 2")
    parser.add_argument("--search-px", type=int, default=224)
    parser.add_argument("--template-px", type=int, default=112)
    parser.add_argument("--chunk", type=int, default=32)
    parser.add_argument("--chunks", type=int, default=8, help="a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--gigabytes", type=float, default=8.0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    args.weight = args.weight or ["coco=0.8", "got10k=0.2"]
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    rows = rows_of(args)
    for _ in range(args.rounds + 1):
        for row in rows:
            row.round()
    table = Table("source", "examples per second", "of the first row")
    figures = []
    for row in rows:
        per_second = float(np.median(row.per_second))
        share = per_second / float(np.median(rows[0].per_second))
        table.add_row(row.name, f"{per_second:.0f}", f"{share:.2f}")
        figures.append({"source": row.name, "device": args.device, "examples_per_second": per_second})
    Console().print(table)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
