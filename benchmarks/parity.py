"""How far each backend's boxes lie from torch's in float32, on real crops of sequences in OTB layout.

python benchmarks/parity.py --root ../shared/data/otb --crops 100 tiny
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from mixformerv2.data.benchmarks import read_otb
from mixformerv2.geometry import xyxy_to_xywh
from mixformerv2.runtime.backend import open_backend
from mixformerv2.target import Target

KINDS = (("openvino", "f32"), ("openvino", "bf16"), ("onnxruntime", "f32"), ("torch", "bf16"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--crops", type=int, default=100)
    args = parser.parse_args()
    reference = open_backend(args.model, "torch", "f32")
    backends = {kind: open_backend(args.model, *kind) for kind in KINDS}
    tracker = reference.config.tracker
    sequences = read_otb(args.root)
    box_px: dict[tuple[str, str], list[float]] = {kind: [] for kind in KINDS}
    score: dict[tuple[str, str], list[float]] = {kind: [] for kind in KINDS}
    for number in range(args.crops):
        sequence = sequences[number % len(sequences)]
        index = 1 + (number * 7919) % (len(sequence) - 1)
        first_frame = xyxy_to_xywh(sequence.boxes_frame[0])
        target = Target(sequence.frame(0), first_frame, reference, tracker)
        window = target.window(sequence.boxes_frame[index - 1])
        template, crop = target.memory.template[None], window.cut(sequence.frame(index))[None]
        truth = reference.search(crop, reference.encode_templates(template, template[:, None]))
        for kind, backend in backends.items():
            found = backend.search(crop, backend.encode_templates(template, template[:, None]))
            box_px[kind].append(float(np.abs(found.box_unit - truth.box_unit).max()) * window.side)
            score[kind].append(float(np.abs(found.score - truth.score).max()))
    table = Table(
        f"{args.crops} crops", "largest box difference, frame px", "median", "largest score difference"
    )
    for kind in KINDS:
        row = (f"{max(box_px[kind]):.4f}", f"{np.median(box_px[kind]):.4f}", f"{max(score[kind]):.4f}")
        table.add_row(" ".join(kind), *row)
    Console().print(table)


if __name__ == "__main__":
    main()
