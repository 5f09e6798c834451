"""The models that come with the package: what their cards promise, and that they follow the demo clip."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from mixformerv2 import Tracker, geometry
from mixformerv2.config import DEFAULT_MODEL, preset
from mixformerv2.evaluate.proof import Clip
from mixformerv2.runtime.backend import read_config, shipped_models
from mixformerv2.video import open_source


def test_the_default_model_ships() -> None:
    assert DEFAULT_MODEL in shipped_models()


@pytest.mark.parametrize("name", shipped_models())
def test_a_shipped_model_is_its_preset_and_has_a_card_with_its_checksum(name: str) -> None:
    weights = shipped_models()[name]
    assert read_config(weights) == preset(name)
    card = (weights.parent / "README.md").read_text()
    for file in sorted(weights.parent.iterdir()):
        if file.name != "README.md":
            assert hashlib.sha256(file.read_bytes()).hexdigest() in card, file.name


@pytest.mark.parametrize(
    ("name", "precision"), [(DEFAULT_MODEL, "f32"), (DEFAULT_MODEL, "int8"), ("tiny", "int8")]
)
def test_shipped_models_follow_the_bottle_of_the_demo(name: str, precision: str) -> None:
    clip = Clip.of_demo()
    assert clip.truth_frame is not None
    tracker = Tracker(name, precision=precision)
    overlaps = []
    with open_source(clip.source) as frames:
        for index, frame in enumerate(frames):
            if index == 0:
                tracker.init(frame, clip.box)
            else:
                found = geometry.xywh_to_xyxy(tracker.update(frame).box)
                if index in clip.truth_frame:
                    overlaps.append(float(geometry.iou(found, clip.truth_frame[index])))
    assert len(overlaps) == 5
    assert np.mean(overlaps) > 0.5
    assert min(overlaps) > 0.3
