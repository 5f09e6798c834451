"""How far our figures lie from those of the package got10k, which reads the same boxes and the same dataset by itself.

For runs of `mixformerv2 evaluate` over all of a dataset in the layout of OTB or GOT-10k. Needs `pip install got10k`.

python benchmarks/got10k_package.py runs/otb/* runs/got10k-train/*
"""

from __future__ import annotations

import argparse
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np

from mixformerv2 import geometry
from mixformerv2.evaluate.datasets import Opened, reopen
from mixformerv2.evaluate.protocols import PROTOCOLS, Figures
from mixformerv2.evaluate.report.figures import build_scores
from mixformerv2.evaluate.run import OnePass
from mixformerv2.evaluate.store import Run, load_run

# What the package calls a figure -> what we call it.
OTB = {
    "success_score": "auc",
    "success_rate": "op50",
    "precision_score": "precision",
    "success_curve": "success",
    "precision_curve": "precision_curve",
}
GOT10K = {"ao": "ao", "sr": "sr50", "succ_curve": "success"}


class Difference(NamedTuple):
    figure: str
    sequence: str
    size: float


def otb_figures(run: Run, opened: Opened, folder: Path) -> dict[str, Any]:
    """What the package says, ``overall`` and ``seq_wise``."""
    from got10k.experiments import ExperimentOTB

    for name, result in run.passes.items():
        write_boxes(folder / "results" / "OTB2015" / "run" / f"{name}.txt", result, first_pixel=1)
    for place in opened.root.iterdir():
        if place.is_dir():
            link_otb(place, folder / "data" / place.name)
    with patch("got10k.datasets.otb.OTB._download"):  # it would fetch the sequences that are not there
        experiment = ExperimentOTB(
            str(folder / "data"), 2015, str(folder / "results"), str(folder / "reports")
        )
    return experiment.report(["run"])["run"]


def link_otb(place: Path, link: Path) -> None:
    """The folder of a sequence, with all pictures from 1 on: of David the package leaves out the first 299."""
    (link / "img").mkdir(parents=True)
    for file in [*place.glob("*.txt"), *place.glob("img/*")]:
        os.symlink(file.resolve(), link / file.relative_to(place))
    first = min(place.glob("img/*"))
    for number in range(1, int(first.stem)):
        os.symlink(first.resolve(), link / "img" / f"{number:04d}{first.suffix}")


def got10k_figures(run: Run, opened: Opened, folder: Path) -> dict[str, Any]:
    from got10k.experiments import ExperimentGOT10k

    part = opened.root / opened.name.removeprefix("got10k-")
    for name, result in run.passes.items():
        (folder / "val" / name).mkdir(parents=True)
        for file in (part / name).iterdir():
            os.symlink(file.resolve(), folder / "val" / name / file.name)
        unused = folder / "val" / name / "cut_by_image.label"  # but read
        if not unused.exists():
            np.savetxt(unused, np.zeros(len(result.boxes_frame)), fmt="%d")
        file = folder / "results" / "GOT-10k" / "run" / name / f"{name}_001.txt"
        write_boxes(file, result, first_pixel=0)
        np.savetxt(file.with_name(f"{name}_time.txt"), result.seconds)
    (folder / "val" / "list.txt").write_text("\n".join(run.passes) + "\n")
    experiment = ExperimentGOT10k(str(folder), "val", str(folder / "results"), str(folder / "reports"))
    return experiment.report(["run"])["run"]


def write_boxes(file: Path, result: OnePass, first_pixel: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    boxes_xywh = geometry.xyxy_to_xywh(result.boxes_frame) + np.array([first_pixel, first_pixel, 0, 0])
    np.savetxt(file, boxes_xywh, fmt="%.17g", delimiter=",")


def differences(run: Run) -> Iterator[Difference]:
    opened = reopen([run])
    protocol, names, figures_of = {
        "otb": ("otb", OTB, otb_figures),
        "got10k": ("got10k", GOT10K, got10k_figures),
    }[opened.benchmark.layout]
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        theirs = figures_of(run, opened, Path(folder))
    ours = build_scores(run, [*opened.sequences.values()], [PROTOCOLS[protocol]])
    parts: dict[str, Figures] = {**ours.by_sequence[protocol], "all": ours.overall[protocol]}
    assert theirs["seq_wise"].keys() == ours.by_sequence[protocol].keys()
    for part, figures in parts.items():
        said = theirs["overall"] if part == "all" else theirs["seq_wise"][part]
        for name in names.keys() & said.keys():
            apart = np.abs(np.subtract(getattr(figures, names[name]), said[name])).max()
            yield Difference(names[name], part, float(apart))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path, nargs="+")
    for folder in parser.parse_args().run:
        run = load_run(folder)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the package's age
            found = [*differences(run)]
        worst = max(found, key=lambda one: one.size)
        dataset = f"{len(run.passes)} sequences of {run.description['dataset']}"
        print(
            f"{run.label}, {dataset}: {len(found)} figures, largest difference {worst.size:.1e} "
            f"({worst.figure} of {worst.sequence})"
        )


if __name__ == "__main__":
    main()
