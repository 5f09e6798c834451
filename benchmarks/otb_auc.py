"""One-pass evaluation on sequences in OTB layout: our models, and NanoTrack v2 and VitTrack through OpenCV.

python benchmarks/otb_auc.py --root ../shared/data/otb tiny
python benchmarks/otb_auc.py --root ../shared/data/otb --peers ../shared/peers tiny nanotrack vittrack --json out.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from mixformerv2 import Tracker
from mixformerv2.data.benchmarks import read_otb
from mixformerv2.evaluate.metrics import Scores
from mixformerv2.evaluate.run import AnyTracker, Evaluation, evaluate


class OpenCVTracker:
    """OpenCV's trackers want BGR and whole pixels, and say None when they have lost the target."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make

    def init(self, frame: np.ndarray, box: Any) -> None:
        self._tracker = self._make()
        self._box = tuple(box)
        self._tracker.init(np.ascontiguousarray(frame[..., ::-1]), [round(v) for v in box])

    def update(self, frame: np.ndarray) -> tuple[Any]:
        found, box = self._tracker.update(np.ascontiguousarray(frame[..., ::-1]))
        self._box = tuple(box) if found else self._box
        return (self._box,)


def open_tracker(name: str, peers: Path, threads: int, options: dict[str, Any]) -> AnyTracker:
    if name == "nanotrack":
        parameters = cv2.TrackerNano.Params()
        parameters.backbone = str(peers / "nanotrack_v2_backbone.onnx")
        parameters.neckhead = str(peers / "nanotrack_v2_head.onnx")
        return OpenCVTracker(lambda: cv2.TrackerNano.create(parameters))
    if name == "vittrack":
        vit = cv2.TrackerVit.Params()
        vit.net = str(peers / "object_tracking_vittrack_2023sep.onnx")
        return OpenCVTracker(lambda: cv2.TrackerVit.create(vit))
    return Tracker(name, threads=threads, **options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "trackers", nargs="+", help="nanotrack, vittrack, a shipped name or a path to a model"
    )
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--peers", type=Path, default=Path("../shared/peers"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    cv2.setNumThreads(args.threads)
    sequences = read_otb(args.root)
    results: dict[str, Evaluation] = {}
    for name in args.trackers:
        tracker = open_tracker(
            name, args.peers, args.threads, {"backend": args.backend, "precision": args.precision}
        )
        results[name] = evaluate(tracker, sequences)
    table = Table("sequence", *(f"{name}: AUC" for name in results))
    for sequence in sequences:
        table.add_row(
            sequence.name, *(f"{result.sequences[sequence.name].auc:.3f}" for result in results.values())
        )
    table.add_section()
    for key in Scores._fields:
        table.add_row(f"mean {key}", *(f"{getattr(result.mean, key):.3f}" for result in results.values()))
    table.add_row("updates per second", *(f"{result.updates_per_second:.0f}" for result in results.values()))
    Console().print(table)
    if args.json:
        figures = {name: result.as_dict() for name, result in results.items()}
        args.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
