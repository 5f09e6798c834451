"""The models that come with the package: what their cards promise, and that they follow the demo clip."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

import mixformerv2
from mixformerv2 import Tracker, geometry
from mixformerv2.config import preset
from mixformerv2.runtime.backend import read_config, shipped_models
from mixformerv2.video import open_source

DEMO = Path(mixformerv2.__file__).parent / "demo"

# The bottle in the demo clip, drawn by hand: frame and x, y, w, h.
BOTTLE = {
    40: (24, 171, 286, 240),
    80: (288, 80, 220, 263),
    120: (301, 162, 89, 199),
    160: (266, 119, 117, 285),
    186: (251, 81, 128, 318),
}


def test_the_default_model_ships() -> None:
    assert "tiny" in shipped_models()


@pytest.mark.parametrize("name", shipped_models())
def test_a_shipped_model_is_its_preset_and_has_a_card_with_its_checksum(name: str) -> None:
    weights = shipped_models()[name]
    assert read_config(weights) == preset(name)
    card = (weights.parent / "README.md").read_text()
    for file in sorted(weights.parent.iterdir()):
        if file.name != "README.md":
            assert hashlib.sha256(file.read_bytes()).hexdigest() in card, file.name


def test_the_default_model_follows_the_bottle_of_the_demo() -> None:
    clip = json.loads((DEMO / "demo.json").read_text())
    tracker = Tracker(precision="f32")
    overlaps = []
    with open_source(DEMO / clip["video"]) as frames:
        for index, frame in enumerate(frames):
            if index == 0:
                tracker.init(frame, clip["box"])
            else:
                found = tracker.update(frame)
                if index in BOTTLE:
                    truth = geometry.xywh_to_xyxy(BOTTLE[index])
                    overlaps.append(float(geometry.iou(geometry.xywh_to_xyxy(found.box), truth)))
    assert len(overlaps) == len(BOTTLE)
    assert np.mean(overlaps) > 0.5
    assert min(overlaps) > 0.3
