"""Datasets of a few painted objects on disk, and a stage small enough to be trained in a test."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import layouts
import numpy as np
import torch

from mixformerv2.config import Config, ModelConfig
from mixformerv2.data.loader import DataConfig, Loader
from mixformerv2.data.plan import SampleConfig
from mixformerv2.data.sequence import Sequence as Video
from mixformerv2.model.network import Network, build
from mixformerv2.train import stages
from mixformerv2.train.deadline import Deadline
from mixformerv2.train.engine import Engine, RunOptions
from mixformerv2.train.log import Row, read_log
from mixformerv2.train.objective import LossWeights
from mixformerv2.train.optim import OptimConfig
from mixformerv2.train.processes import open_fabric
from mixformerv2.train.stages import StageConfig
from mixformerv2.train.validation import Validation

WIDTH, HEIGHT = 96, 72
SIDE = 22  # of the square in videos

MODEL = ModelConfig(
    dim=32,
    depth=2,
    heads=2,
    mlp_ratio=1.0,
    search_px=64,
    template_px=32,
    num_bins=16,
    head_norm=True,
    learned_positions=True,
    score_head=False,
)
CORNER = dataclasses.replace(MODEL, box_head="corner")
OPTIM = OptimConfig(lr=2e-3, trunk_lr=1e-3, clip_norm=1.0, schedule="constant", ema_decay=0.9)
DATA = DataConfig(SampleConfig(absent_share=0.25), chunk=8)


def stage(name: str = "first", model: ModelConfig = MODEL, steps: int = 6, **settings: Any) -> StageConfig:
    """From labels alone and from random weights, eight examples a step, the same on every machine."""
    defaults: dict[str, Any] = {
        **dict(batch=8, data=DATA, optim=OPTIM, precision="32-true"),
        "losses": LossWeights(ciou=0.0, giou=2.0, side=1.0, search_token=1.0),
    }
    settings = defaults | settings
    return stages.supervised(name, Config(model), steps * settings["batch"], "random", **settings)


# On disk ------------------------------------------------------------------------------------------------------------


def write_datasets(root: Path) -> Path:
    """Stills as COCO has them and a video as GOT-10k has it, in which the target is away for three frames."""
    write_stills(root / "stills", count=6)
    write_got10k(root / "got10k", "GOT-10k_Train_000001", frames=12, absent=(5, 6, 7))
    return root


def write_stills(root: Path, count: int) -> None:
    """One bright ellipse in each."""
    (root / "images").mkdir(parents=True)
    draw = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(count):
        image = draw.integers(0, 90, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        centre, axes = (int(draw.integers(30, 60)), int(draw.integers(28, 44))), (18, 14)
        cv2.ellipse(image, centre, axes, 0, 0, 360, draw.integers(150, 256, 3).tolist(), -1)
        cv2.imwrite(str(root / "images" / f"{number}.png"), image)
        images.append({"id": number, "file_name": f"{number}.png", "width": WIDTH, "height": HEIGHT})
        turn = np.linspace(0, 2 * math.pi, 24, endpoint=False)
        outline = np.stack([centre[0] + 18 * np.cos(turn), centre[1] + 14 * np.sin(turn)], axis=1)
        annotations.append(
            {
                **dict(id=number, image_id=number, category_id=1),
                "bbox": [centre[0] - 18, centre[1] - 14, 36, 28],
                "segmentation": [outline.reshape(-1).tolist()],
            }
        )
    (root / "annotations.json").write_text(json.dumps({"images": images, "annotations": annotations}))


def write_got10k(root: Path, name: str, frames: int, absent: Sequence[int] = (), part: str = "train") -> None:
    folder = root / part / name
    boxes = write_square(folder, frames, absent, digits=8)
    layouts.write_text(folder / "groundtruth.txt", *boxes)
    layouts.write_text(folder / "absence.label", *(int(frame in absent) for frame in range(frames)))
    layouts.write_text(folder / "cover.label", *(0 if frame in absent else 8 for frame in range(frames)))
    layouts.write_text(root / part / "list.txt", name)


def write_otb(root: Path, name: str, frames: int) -> None:
    boxes = write_square(root / name / "img", frames, digits=4)
    layouts.write_text(root / name / "groundtruth_rect.txt", *boxes)


def write_clip(root: Path, name: str, frames: int, first: int = 0) -> None:
    """Images with their boxes, as people have them."""
    boxes = write_square(root / name, frames, digits=4, first=first)
    layouts.write_text(root / name / "boxes.txt", *boxes)


def write_square(
    folder: Path, frames: int, absent: Sequence[int] = (), digits: int = 8, first: int = 0
) -> list[str]:
    """A bright square that moves over a grey ground. Returns its rows ``x,y,w,h``, counted from pixel 1."""
    folder.mkdir(parents=True)
    ground = np.random.default_rng(1).integers(40, 90, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    rows = []
    for frame in range(frames):
        x, y = 12 + 4 * ((first + frame) % 12), 10 + 2 * ((first + frame) % 12)
        image = ground.copy()
        if frame not in absent:
            image[y : y + SIDE, x : x + SIDE] = (250, 200, 180)
        cv2.imwrite(str(folder / f"{frame + 1:0{digits}d}.jpg"), image)
        rows.append(f"{x + 1},{y + 1},{SIDE},{SIDE}")
    return rows


# In memory ----------------------------------------------------------------------------------------------------------


def make_engine(
    stage: StageConfig,
    data: Mapping[str, Sequence[Video]],
    folder: Path,
    start: Network | None = None,
    teacher: Network | None = None,
    validation: Validation | None = None,
    **options: Any,
) -> Engine:
    """One process on the CPU; the network starts at random if none is given."""
    run_options = RunOptions(**(dict(device="cpu", log_every=1) | options))
    folder.mkdir(parents=True, exist_ok=True)
    model = stage.target.model
    loader = Loader(
        data,
        stage.data,
        search_px=model.search_px,
        template_px=model.template_px,
        seed=stage.seed,
        workers=run_options.workers,
        in_memory=run_options.in_memory,
    )
    start = copy.deepcopy(start) if start is not None else build(stage.trained_model, stage.seed)
    fabric = open_fabric(stage, run_options.device)
    return Engine(stage, loader, start, teacher, folder, fabric, run_options, validation)


class After(Deadline):
    """Reached after so many steps."""

    def __init__(self, steps: int) -> None:
        super().__init__(None)
        self._left = steps + 1

    @property
    def reached(self) -> bool:
        self._left -= 1
        return self._left <= 0


# What a run has left ------------------------------------------------------------------------------------------------


def curve(folder: Path, *leave_out: str) -> list[Row]:
    """The rows of training without what depends on the machine."""
    rows = [row for row in read_log(folder / "log.jsonl") if row["kind"] == "train"]
    return [
        {name: value for name, value in row.items() if name not in ("samples_per_second", *leave_out)}
        for row in rows
    ]


def largest_difference(a: Sequence[Row], b: Sequence[Row]) -> float:
    """Of any number of two curves over the same steps."""
    assert [row["step"] for row in a] == [row["step"] for row in b]
    assert [row.keys() for row in a] == [row.keys() for row in b]
    pairs = [(row[name], other[name]) for row, other in zip(a, b, strict=True) for name in row]
    return max(abs(float(x) - float(y)) for x, y in pairs if not isinstance(x, str))


def same_weights(a: Network | Mapping[str, torch.Tensor], b: Network | Mapping[str, torch.Tensor]) -> bool:
    """Bit for bit."""
    first, second = (each.state_dict() if isinstance(each, Network) else each for each in (a, b))
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
