"""The processes of a training: their precision, and what they exchange."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import training
from training import make_engine

from mixformerv2.config import Config
from mixformerv2.data.datasets import open_datasets
from mixformerv2.data.pairs import Batch
from mixformerv2.train import processes, stages
from mixformerv2.train.deadline import Deadline
from mixformerv2.train.objective import LossWeights, Objective
from mixformerv2.train.processes import affordable_precision, open_fabric

STAGE = training.stage()


def test_true_boxes_stay_exact_where_products_are_in_half_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    seen = []
    forward = Objective.forward

    def watched(self: Objective, batch: Batch, *args: Any, **kwargs: Any) -> Any:
        seen.append((batch.box_unit, torch.is_autocast_enabled("cpu")))
        return forward(self, batch, *args, **kwargs)

    monkeypatch.setattr(Objective, "forward", watched)
    data = open_datasets(training.write_datasets(tmp_path / "data"))
    trained = make_engine(training.stage(steps=1, precision="bf16-mixed"), data, tmp_path / "run")
    assert trained.run(Deadline(None))
    (boxes, in_half), *_ = seen
    assert in_half and boxes.dtype == torch.float32
    assert (boxes != boxes.bfloat16().float()).any(), "boxes of eight bits: the test sees nothing"


@pytest.mark.parametrize(("native", "used"), [(True, "bf16-mixed"), (False, "32-true")])
def test_a_processor_that_would_imitate_half_precision_trains_in_full(
    native: bool, used: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: native)
    assert affordable_precision("bf16-mixed", "cpu") == used
    assert affordable_precision("32-true", "cpu") == "32-true"


@pytest.mark.parametrize(
    ("fields", "unused"),
    [
        ({}, False),
        (dict(auxiliary_samples=8), True),
        (dict(losses=LossWeights(l1=0.0, ciou=0.0, search_token=1.0)), True),
        (dict(model=dataclasses.replace(training.MODEL, score_head=True)), True),
    ],
)
def test_processes_expect_parameters_without_gradients_where_there_are_some(
    fields: dict[str, Any], unused: bool
) -> None:
    assert processes._leaves_some_out(training.stage(**fields)) == unused
    scored = stages.score_head(
        "scored", Config(dataclasses.replace(training.MODEL, score_head=True)), 64, "x"
    )
    assert not processes._leaves_some_out(scored)
    assert processes._leaves_some_out(stages.replace_blocks("replaced", STAGE.target, 64, "x"))


def test_alone_there_is_one_process() -> None:
    assert open_fabric(STAGE, "cpu").world_size == 1
