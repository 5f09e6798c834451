"""Losses of one's own: found by file and function, weighed, logged, and told in a sentence where they are none."""

from __future__ import annotations

import csv
import math
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import training

from mixformerv2.data.pairs import Batch
from mixformerv2.model.network import build
from mixformerv2.train.objective import LossWeights, Objective

EXAMPLE = f"{Path(__file__).parents[1] / 'examples' / 'loss.py'}:size_error"
Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(body: str) -> Path:
        path = tmp_path / "losses_of_mine.py"
        path.write_text("import torch\n" + textwrap.dedent(body))
        return path

    return write


def batch() -> Batch:
    """Three examples, the last without its target."""
    generator = torch.Generator().manual_seed(0)
    model = training.MODEL
    sides = ((model.template_px,), (1, model.template_px), (model.search_px,))
    crops = [
        torch.randint(256, (3, *count, px, px, 3), dtype=torch.uint8, generator=generator)
        for *count, px in sides
    ]
    boxes = torch.tensor([[0.2, 0.3, 0.6, 0.5], [0.1, 0.1, 0.3, 0.8], [0.0, 0.0, 0.0, 0.0]])
    return Batch(*crops, boxes, torch.tensor([True, True, False]))


def test_a_loss_of_ones_own_is_weighed_beside_the_others_and_counts_targets_in_sight(write: Write) -> None:
    path = write(
        "def height(answer, batch): return answer.box_unit[:, 3] - answer.box_unit[:, 1] + 1 / batch.present"
    )
    network = build(training.MODEL, seed=1)
    crops = batch()
    plain, _ = Objective(network, LossWeights()).eval()(crops)
    total, parts = Objective(network, LossWeights(own={f"{path}:height": 0.5})).eval()(crops)
    boxes = network.search(crops.search, network.encode_templates(crops.template, crops.online)).box_unit
    expected = (boxes[:2, 3] - boxes[:2, 1] + 1).sum() / 3
    torch.testing.assert_close(parts["height"], expected)
    torch.testing.assert_close(total, plain + 0.5 * expected)
    total.backward()
    assert all(
        math.isfinite(float(weight.grad.abs().sum()))
        for weight in network.parameters()
        if weight.grad is not None
    )


def test_the_example_trains_and_its_values_are_in_the_log(run: Any, tmp_path: Path) -> None:
    data, output = training.write_datasets(tmp_path / "data"), tmp_path / "run"
    own = f'teacher:losses.own={{"{EXAMPLE}": 0.5}}'
    given = ("train", "smoke", "--data", str(data), "--output", str(output), "--device", "cpu", "--set", own)
    ran = run(*given, "--set", "samples=64", "--max-minutes", "0.05")
    assert ran.code == 0, ran.err
    with (output / "teacher" / "log.csv").open() as file:
        assert all(float(row["size_error"]) > 0 for row in csv.DictReader(file) if row["kind"] == "train")


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("def mine(answer, batch): return torch.zeros(())", "got a tensor of shape ()"),
        (
            "def mine(answer, batch): return 0.5",
            "for each example of a batch, a tensor of shape (3,), got 0.5",
        ),
    ],
)
def test_a_loss_that_gives_something_else_is_refused(write: Write, body: str, sentence: str) -> None:
    objective = Objective(build(training.MODEL), LossWeights(own={f"{write(body)}:mine": 1.0}))
    with pytest.raises(ValueError, match=f"the loss mine must give .*{re.escape(sentence)}"):
        objective(batch())


def test_a_loss_that_is_not_there_is_told_before_anything_is_read(
    run: Any, write: Write, tmp_path: Path
) -> None:
    path = write("def mine(answer, batch): ...")
    for target, sentence in (
        (f"{path}:other", "has no function other, those in it are mine"),
        ("nowhere.py:mine", "the loss nowhere.py:mine cannot be opened: there is no file nowhere.py"),
        ("mine", "the loss mine must be named as FILE.py:FUNCTION or module:FUNCTION"),
    ):
        own = f'teacher:losses.own={{"{target}": 1}}'
        ran = run(
            "train",
            "smoke",
            "--data",
            str(training.write_datasets(tmp_path / target[-5:])),
            "--output",
            str(tmp_path / "run"),
            "--set",
            own,
        )
        assert ran.code == 2 and sentence in ran.err.replace("\n", " ") and "Traceback" not in ran.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("target", ["a.py:giou", "a.py:iou", "a.py:loss"])
def test_a_name_that_the_log_has_already_is_refused(target: str) -> None:
    with pytest.raises(ValueError, match=f"losses.own: .* {target[5:]} is there already"):
        LossWeights(own={target: 1.0})
    with pytest.raises(ValueError, match="mine is there already"):
        LossWeights(own={"a.py:mine": 1.0, "b.py:mine": 1.0})


def test_weights_of_ones_own_are_checked_like_others() -> None:
    assert LossWeights(l1=0.0, ciou=0.0, own={"a.py:mine": 1.0}).of("mine") == 1.0
    with pytest.raises(ValueError, match="must not be negative"):
        LossWeights(own={"a.py:mine": -1.0})
