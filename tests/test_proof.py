"""A proof replays a clip: it measures how far a backend drifts from the network, and notices what makes it drift."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import replay
import tiny
from replay import BOX, CONFIG, NUM_FRAMES

from mixformerv2 import geometry
from mixformerv2.evaluate.proof import Clip, Drift, Limits, Proof, prove
from mixformerv2.model import checkpoint
from mixformerv2.runtime.backend import WEIGHTS_FILE, Backend, Located, open_backend
from mixformerv2.runtime.export import export
from mixformerv2.runtime.torch import NetworkBackend


@pytest.fixture(scope="module")
def network() -> NetworkBackend:
    return NetworkBackend(replay.network(), CONFIG)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    return Clip.of_user(replay.write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4"), BOX)


class Changed:
    """A backend whose answers or inputs are not quite those of another."""

    def __init__(self, backend: Backend, change: Callable[[Located], Located], channels: int = 1) -> None:
        self._backend, self._change, self._channels = backend, change, channels
        self.name, self.precision, self.config = "changed", backend.precision, backend.config

    def encode_templates(self, template: Any, online: Any) -> Any:
        return self._backend.encode_templates(
            template[..., :: self._channels], online[..., :: self._channels]
        )

    def stack(self, caches: Any) -> Any:
        return self._backend.stack(caches)

    def search(self, crop: Any, cache: Any) -> Located:
        return self._change(self._backend.search(crop[..., :: self._channels], cache))


def test_the_network_does_not_drift_from_itself(network: NetworkBackend, clip: Clip) -> None:
    proof = prove(network, network, clip)
    assert proof.same_crops == proof.on_its_own == Drift(0.0, 0.0, 1.0, 1.0, 1)
    assert (proof.worst_score, proof.auc_change) == (0.0, 0.0)
    assert proof.auc == pytest.approx(20 / 21)  # an overlap of 1 is above all thresholds but 1 itself
    assert (proof.auc_frames, proof.auc_against) == (NUM_FRAMES, "the network's boxes")


def test_noise_on_the_weights_of_an_export_is_noticed(
    tmp_path: Path, network: NetworkBackend, clip: Clip
) -> None:
    checkpoint.save(replay.network(), CONFIG, tmp_path / "good.safetensors")
    export(tmp_path / "good.safetensors", tmp_path)
    weights = bytearray((tmp_path / WEIGHTS_FILE).read_bytes())
    header = 8 + int.from_bytes(weights[:8], "little")
    values = np.frombuffer(weights, np.float16, offset=header)
    noise = np.random.default_rng(0).normal(1, 0.1, len(values))
    (tmp_path / WEIGHTS_FILE).write_bytes(weights[:header] + (values * noise).astype(np.float16).tobytes())
    for runtime in ("openvino", "onnxruntime"):
        proof = prove(network, open_backend(tmp_path, runtime, "f32", threads=1), clip)
        assert any("on the same crops" in clause for clause in Limits().broken_by(proof)), proof


def test_channels_in_the_wrong_order_are_noticed(network: NetworkBackend, clip: Clip) -> None:
    proof = prove(network, Changed(network, lambda located: located, channels=-1), clip)
    assert proof.same_crops.mean_iou < Limits().mean_iou
    assert Limits().broken_by(proof)


def test_a_score_alone_that_is_off_is_noticed(network: NetworkBackend, clip: Clip) -> None:
    proof = prove(
        network, Changed(network, lambda located: located._replace(score=located.score * 0.9)), clip
    )
    assert proof.same_crops.worst_px == 0
    assert [clause.split(" by ")[0] for clause in Limits().broken_by(proof)] == ["score off"]


def test_an_answer_that_is_not_finite_is_refused_outright(network: NetworkBackend, clip: Clip) -> None:
    broken = Changed(network, lambda located: located._replace(box_unit=located.box_unit * np.nan))
    with pytest.raises(ValueError, match="changed answers with numbers that are not finite"):
        prove(network, broken, clip)


def test_a_shift_of_every_answer_is_measured_in_pixels_of_the_frame(
    network: NetworkBackend, clip: Clip
) -> None:
    def shifted(located: Located) -> Located:
        return located._replace(box_unit=located.box_unit + np.float32(1 / 64))

    proof = prove(
        network, Changed(network, shifted), replace(clip, truth_frame={0: np.array([60.0, 40, 100, 70])})
    )
    first_side = 156  # of the window around the first box, 4.5 times the root of 40 x 30 px, rounded up
    assert proof.same_crops.worst_px >= first_side / 64 - 1e-3
    assert (proof.auc_frames, proof.auc_against, proof.auc) == (1, "drawn boxes", pytest.approx(20 / 21))


def test_every_look_at_a_frame_is_compared_each_in_its_own_window(
    network: NetworkBackend, clip: Clip
) -> None:
    """Never found, the target is looked for in a window twice as wide, and what shows there in the usual one."""
    rules = replace(CONFIG.tracker, lost_threshold=1.0, widen_when_lost=2.0, hold_when_lost=True)
    never = NetworkBackend(replay.network(), replace(CONFIG, tracker=rules))

    def shifted(located: Located) -> Located:
        return located._replace(box_unit=located.box_unit + np.float32(1 / 64))

    once = prove(network, Changed(network, shifted), clip).same_crops.worst_px
    assert prove(never, Changed(never, shifted), clip).same_crops.worst_px == pytest.approx(2 * once, rel=0.1)


# --- drift and limits, by hand


def test_drift_is_the_side_that_moved_most_and_the_overlap() -> None:
    reference = np.array([[0.0, 0, 10, 10], [0, 0, 10, 10]])
    ours = np.array([[0.0, 0, 10, 10], [0, 1, 10, 6]])
    assert Drift.between(ours, reference, np.array([7, 9])) == Drift(2.0, 4.0, 0.75, 0.5, 9)


def test_limits_name_each_figure_that_is_beyond_them() -> None:
    good = Drift(0.1, 0.2, 0.995, 0.96, 3)
    proof = Proof("openvino", "f32", 5, good, 0.01, good, 0.6, 0.605, 6, "drawn boxes")
    assert Limits().broken_by(proof) == []
    bad = replace(proof, same_crops=replace(good, worst_iou=0.9), worst_score=0.5, auc=0.5)
    assert Limits().broken_by(bad) == [
        "worst IoU 0.900 in frame 3 (limit 0.95)",
        "score off by 0.500 (limit 0.02)",
        "AUC -0.105 (limit 0.02)",
    ]


def test_boxes_to_measure_against_must_be_of_the_clip(network: NetworkBackend, clip: Clip) -> None:
    elsewhere = replace(clip, truth_frame={500: geometry.xywh_to_xyxy(BOX)})
    with pytest.raises(ValueError, match="none of the boxes to measure against is of a frame of .*clip.mp4"):
        prove(network, network, elsewhere)


def test_a_clip_of_one_frame_is_refused(network: NetworkBackend, tmp_path: Path) -> None:
    single = tiny.write_clip(tmp_path / "single.mp4", 1)
    with pytest.raises(ValueError, match=r"single\.mp4 has one frame: a replay needs at least two"):
        prove(network, network, Clip.of_user(single, tiny.square_box(0)))
