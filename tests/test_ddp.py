"""Two processes under torchrun train as one does with the same batch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import training
from training import curve, largest_difference

from mixformerv2.data.datasets import open_datasets
from mixformerv2.model import checkpoint
from mixformerv2.train import pipeline
from mixformerv2.train.engine import LAST, RunOptions
from mixformerv2.train.recipes import RECIPES
from mixformerv2.train.settings import override
from mixformerv2.train.stages import Recipe

# Features and distributions of a teacher, blocks that get no gradient, and all but a head frozen.
TOGETHER = ("two", "two-replaced", "scored")
# Half a batch is a chunk. Rates are low, so that rounding does not grow.
SETTINGS = [
    *("samples=16", "precision=32-true", "data.chunk=8", "optim.lr=2e-4", "optim.trunk_lr=1e-4"),
    *(f"{stage}:samples=64" for stage in TOGETHER),
]
RECIPE = override(RECIPES["smoke"](), SETTINGS)
OF_A_PART = ("iou", "side_spread")  # no means over examples


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same recipe trained by one process, and its last stages by two."""
    folder = tmp_path_factory.mktemp("runs")
    root = training.write_datasets(folder / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline.pictures, "curves", lambda *_: None)
        options = RunOptions(device="cpu")
        pipeline.run(Recipe("smoke", RECIPE.stages[:4]), open_datasets(root), folder / "one", options)
        shutil.copytree(folder / "one", folder / "two")
        arguments = [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"),
            *("-m", "mixformerv2", "train", "smoke", "--data", str(root), "--output", str(folder / "two")),
            *("--device", "cpu", *(word for setting in SETTINGS for word in ("--set", setting))),
        ]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        pipeline.run(RECIPE, open_datasets(root), folder / "one", options)
        said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    return {"one": folder / "one", "two": folder / "two"}


@pytest.mark.parametrize("stage", TOGETHER)
def test_two_processes_have_the_losses_of_one(runs: dict[str, Path], stage: str) -> None:
    rows, expected = (curve(runs[name] / stage, *OF_A_PART) for name in ("two", "one"))
    assert len(rows) == 4
    difference = largest_difference(rows, expected)
    assert difference < 1e-3


@pytest.mark.parametrize("stage", TOGETHER)
def test_two_processes_make_the_weights_of_one(runs: dict[str, Path], stage: str) -> None:
    ours, expected = (checkpoint.load(runs[name] / stage / LAST)[0].state_dict() for name in ("two", "one"))
    differences = torch.cat([(ours[name] - expected[name]).abs().flatten() for name in ours])
    # Of a weight without a gradient AdamW makes rounding large; four steps with other gradients would show in all.
    assert differences.mean() < 1e-6 and differences.max() < 1e-3
