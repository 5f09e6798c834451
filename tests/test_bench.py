"""The benchmark: its clock and its figures by hand, the released code's path, and the verb from end to end."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tiny
import torch
from command_line import Run
from rich.console import Console

from mixformerv2.bench import plan as planning
from mixformerv2.bench.card import card_picture, card_text
from mixformerv2.bench.clip import Clip, as_bgr_view, load_clip
from mixformerv2.bench.operators import PASSES, WARM_UP, Event, Operator, by_kind
from mixformerv2.bench.plan import BenchConfig, Model, Plan
from mixformerv2.bench.reference import ReferenceBackend, joint_forward
from mixformerv2.bench.report import ModelFigures, Report, Spread, figures_of_batches, figures_of_rows, spread
from mixformerv2.bench.roofline import Limit, Peak, Read, Roofline
from mixformerv2.bench.run import run as measure
from mixformerv2.bench.run import take_turns
from mixformerv2.bench.stages import WARM_UP as WARM_UP_FRAMES
from mixformerv2.bench.stages import (
    BatchRow,
    ClipRow,
    PeerRow,
    Row,
    RowName,
    StampedBackend,
    TargetsRow,
    TrackerRow,
    answer_that_stays,
    wall_clock,
)
from mixformerv2.bench.table import WIDTH, tables
from mixformerv2.bench.torch import check_gpu, event_clock
from mixformerv2.bench.workload import Workload
from mixformerv2.model.network import build
from mixformerv2.results import Result
from mixformerv2.runtime.backend import Backend, Located
from mixformerv2.runtime.export import export
from mixformerv2.tracker import Tracker


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model, exported."""
    root = tmp_path_factory.mktemp("models")
    export(tiny.write_checkpoint(root / "small.safetensors"), root / "mini")
    return root / "mini"


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_clip(tmp_path_factory.mktemp("clip") / "square.mp4")


def clip_of(frames: int = 12) -> Clip:
    return Clip(Path("none.mp4"), [tiny.square_frame(index) for index in range(frames)], tiny.square_box(0))


def unthreaded() -> None:
    pass


class FakeBackend:
    """Finds the target in the middle; counts what it is asked."""

    name, precision, config = "fake", "f32", tiny.CONFIG

    def __init__(self) -> None:
        self.searches = self.encodings = 0

    def encode_templates(self, template: np.ndarray, online: np.ndarray) -> str:
        self.encodings += 1
        return "cache"

    def stack(self, caches: Sequence[str]) -> list[str]:
        return [*caches]

    def search(self, crop: np.ndarray, cache: Any) -> Located:
        assert cache == "cache" or cache == ["cache"] * len(crop)
        self.searches += 1
        return Located(
            np.tile(np.float32([0.4, 0.4, 0.6, 0.6]), (len(crop), 1)), np.ones(len(crop), np.float32)
        )


# --- the released code's path


def test_the_reference_path_says_what_the_cached_network_says() -> None:
    network = build(tiny.MODEL, seed=0).double().eval()
    assert network.backbone.prediction_tokens is not None
    network.backbone.prediction_tokens.data *= 50
    generator = torch.Generator().manual_seed(0)
    template, crop = (
        torch.randint(256, (2, side, side, 3), dtype=torch.uint8, generator=generator) for side in (32, 64)
    )
    online = torch.flip(template, dims=(1,))[:, None]
    with torch.no_grad():
        joint = joint_forward(network, template, online, crop)
        cached = network.search(crop, network.encode_templates(template, online))
    torch.testing.assert_close(joint.side_logits, cached.side_logits, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(joint.score_logits, cached.score_logits, rtol=1e-9, atol=1e-9)
    assert joint.features[0].shape == (2, 16 + 4, 32)


def test_the_reference_path_is_a_backend_that_computes_everything_in_every_frame() -> None:
    network = build(tiny.MODEL, seed=0).eval()
    backend = ReferenceBackend(network, tiny.CONFIG)
    assert isinstance(backend, Backend)
    seen: list[int] = []
    network.backbone.patch_embed.register_forward_hook(lambda *call: seen.append(len(call[1][0])))
    template, crop = np.zeros((1, 32, 32, 3), np.uint8), np.zeros((1, 64, 64, 3), np.uint8)
    cache = backend.encode_templates(template, template[:, None])
    assert not seen
    located = [backend.search(crop, cache) for _ in range(2)]
    assert seen == [2, 1, 2, 1]  # both templates, then the crop
    assert located[0].box_unit.shape == (1, 4) and 0 <= located[0].score[0] <= 1


# --- the clock


def test_the_stages_of_a_frame_add_up_to_its_update() -> None:
    backend = FakeBackend()
    row = TrackerRow(StampedBackend(backend), unthreaded)
    row.round(clip_of())
    counted = 11 - WARM_UP_FRAMES
    assert {stage: len(times) for stage, times in row.ms.items()} == {
        **dict.fromkeys(("crop", "network", "post", "update"), counted),
        # Once at the start, and at the ends of two of the three intervals: the first belongs to the warm-up.
        "templates": 3,
    }
    parts = sum(sum(row.ms[stage]) for stage in ("crop", "network", "post", "templates"))
    assert sum(row.ms["update"]) == pytest.approx(parts - row.ms["templates"][0])
    assert min(min(times) for times in row.ms.values()) > 0
    assert backend.searches == 11 and backend.encodings == 4


def test_a_frame_that_is_searched_again_counts_whole() -> None:
    class Lost(FakeBackend):
        config = replace(tiny.CONFIG, tracker=replace(tiny.CONFIG.tracker, widen_when_lost=1.6))

        def search(self, crop: np.ndarray, cache: Any) -> Located:
            time.sleep(0.01)
            return super().search(crop, cache)._replace(score=np.zeros(len(crop), np.float32))

    backend = Lost()
    row = TrackerRow(StampedBackend(backend), unthreaded)
    row.round(clip_of())
    assert backend.searches == 2 * 11
    assert min(row.ms["network"]) > 20
    assert max(row.ms["crop"]) < 10
    for parts in zip(*(row.ms[stage] for stage in ("crop", "network", "post", "update")), strict=True):
        assert sum(parts[:3]) <= parts[3] * (1 + 1e-9)


def test_a_network_with_random_weights_keeps_its_window_and_its_templates_change() -> None:
    clip, backend = clip_of(), FakeBackend()
    stamped = StampedBackend(backend, answer_that_stays(clip, tiny.CONFIG.tracker.search_factor))
    row = TrackerRow(stamped, unthreaded)
    row.round(clip)
    assert row.tracker.box == pytest.approx(clip.box, abs=0.51)  # windows lie on whole pixels
    assert backend.searches == 11 and backend.encodings == 4


def test_templates_count_what_a_device_works_on_after_the_call() -> None:
    stamped = StampedBackend(FakeBackend(), settle=lambda: time.sleep(0.002))
    stamped.encode_templates(np.zeros((1, 8, 8, 3), np.uint8), np.zeros((1, 1, 8, 8, 3), np.uint8))
    (call,) = stamped.calls
    assert call.ended_s - call.began_s >= 0.002


def test_each_round_of_a_row_adds_to_its_times_and_sets_its_threads() -> None:
    rounds: list[str] = []
    row = TrackerRow(StampedBackend(FakeBackend()), lambda: rounds.append("threads set"))
    for _ in range(3):
        row.round(clip_of())
    assert len(row.ms["update"]) == 3 * (11 - WARM_UP_FRAMES)
    assert rounds == ["threads set"] * 3


def test_a_warm_up_asks_the_network_and_counts_nothing() -> None:
    backend = FakeBackend()
    row = TrackerRow(StampedBackend(backend), unthreaded)
    row.warm_up(clip_of())
    assert backend.searches == WARM_UP_FRAMES + 1 and not row.ms


def test_opencv_trackers_get_frames_that_cost_nothing_to_turn() -> None:
    frame = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    view = as_bgr_view(frame)
    np.testing.assert_array_equal(view, frame)
    assert np.shares_memory(np.ascontiguousarray(view[..., ::-1]), view)

    class Peer:
        def init(self, frame: Any, box: Any) -> None:
            self.began = box

        def update(self, frame: Any) -> Result:
            assert frame[..., ::-1].flags.c_contiguous
            return Result((0, 0, 1, 1), 1.0, "tracking")

    row = PeerRow(Peer(), unthreaded)
    row.round(clip_of())
    assert {stage: len(times) for stage, times in row.ms.items()} == {"update": 11 - WARM_UP_FRAMES}


def test_many_targets_are_followed_together_and_apart() -> None:
    clip, backend = clip_of(), FakeBackend()
    stamped = StampedBackend(backend, answer_that_stays(clip, tiny.CONFIG.tracker.search_factor))
    row = TargetsRow(stamped, 3, unthreaded)
    row.round(clip)
    counted = 11 - WARM_UP_FRAMES
    assert {stage: len(times) for stage, times in row.ms.items()} == dict.fromkeys(
        ("together", "apart"), counted
    )
    assert backend.searches == 1 + 11 * (1 + 3)  # the first when there were two targets
    assert backend.encodings == 6 * 4  # each of six targets at the start and after three intervals


def test_decoding_and_drawing_are_measured_on_every_frame(video: Path) -> None:
    clip = load_clip(video, tiny.square_box(0), 10)
    row = ClipRow(unthreaded)
    row.round(clip)
    assert {stage: len(times) for stage, times in row.ms.items()} == dict.fromkeys(
        ("decode", "draw"), 10 - WARM_UP_FRAMES
    )


def test_a_batch_is_searched_at_once() -> None:
    asked: list[tuple[int, ...]] = []

    class Batched(FakeBackend):
        def search(self, crop: np.ndarray, cache: Any) -> Located:
            asked.append(crop.shape)
            return super().search(crop, cache)

    row = BatchRow(Batched(), 5, wall_clock, unthreaded)
    row.round(clip_of())
    assert asked == [(5, 64, 64, 3)] * 12
    assert len(row.ms["network"]) == 12 - WARM_UP_FRAMES


def test_rounds_alternate_between_rows_there_and_back() -> None:
    said: list[str] = []
    turns = [partial(said.append, letter) for letter in "abc"]
    done: list[tuple[int, int]] = []
    take_turns(turns, 3, lambda *progress: done.append(progress))
    assert "".join(said) == "abccbaabc"
    assert done == [(place, 9) for place in range(9)]


# --- the figures, by hand


class Given(Row):
    """A row of known times."""

    def __init__(self, **ms: list[float]) -> None:
        super().__init__(unthreaded)
        self.ms.update(ms)

    def _round(self, clip: Clip) -> None: ...


NAME = RowName("mini", "openvino", "bf16", "cpu", 2)
REFERENCE = RowName("mini", "reference", "f32", "cpu", 2)
PEER = RowName("opencv:nano", "opencv", "f32", "cpu", 2)


def given_plan() -> tuple[Plan, dict[str, ModelFigures], Roofline]:
    model = Model("mini", Path("none"), tiny.CONFIG, is_random=False)
    trackers: dict[RowName, Row] = {
        REFERENCE: Given(
            crop=[1, 1, 1], network=[20, 26, 22], post=[1, 1, 1], update=[22, 28, 24], templates=[0]
        ),
        NAME: Given(crop=[1, 1, 1], network=[4, 4, 5], post=[1, 1, 1], update=[6, 15, 7], templates=[9, 6]),
        PEER: Given(update=[5, 4, 9]),
    }
    batches: Any = {(REFERENCE, 8): Given(network=[80.0]), (NAME, 8): Given(network=[20, 16, 40])}
    figures = ModelFigures.of(model)
    roofline = Roofline([], [])
    for name, work in ((NAME, figures.search), (REFERENCE, figures.joint)):
        roofline.flops_per_second[Peak("torch", name.precision, 2)] = (
            1000.0 * work.flops
        )  # a frame a millisecond
        roofline.bytes_per_second[Read(work.bytes(name.precision), 2)] = 2000.0 * work.bytes(name.precision)
        roofline.bytes_per_second[Read(work.bytes(name.precision, 8), 2)] = 2000.0 * work.bytes(
            name.precision, 8
        )
    return Plan({"mini": model}, trackers, {}, batches, {}, []), {"mini": figures}, roofline


def test_a_frame_costs_the_median_without_templates_and_their_share() -> None:
    reference, ours, peer = figures_of_rows(*given_plan())
    # The templates of this model change every third frame at most: 7.5 / 3.
    assert (ours.templates_per_frame_ms, ours.frame_ms) == (2.5, 8.5)
    assert ours.frames_per_second == pytest.approx(1000 / 8.5)
    assert ours.stages_ms["update"].median == 7 and ours.stages_ms["templates"].median == 7.5
    assert reference.frame_ms == 24 and peer.frame_ms == 5


def test_rows_are_held_against_the_reference_path_of_the_same_model() -> None:
    reference, ours, peer = figures_of_rows(*given_plan())
    assert ours.times_reference == pytest.approx(24 / 8.5)
    assert reference.times_reference == 1 and peer.times_reference is None


def test_the_limit_is_the_slower_of_arithmetic_and_memory() -> None:
    reference, ours, peer = figures_of_rows(*given_plan())
    assert ours.limit == pytest.approx(Limit(1.0, 0.5))
    assert ours.share_of_limit == pytest.approx(1 / 4) and reference.share_of_limit == pytest.approx(1 / 22)
    assert peer.limit is None and peer.share_of_limit is None


def test_batches_have_their_throughput_ratio_and_limit() -> None:
    reference, ours = figures_of_batches(*given_plan())
    assert ours.crops_per_second == pytest.approx(8 / 0.02)
    assert ours.times_reference == 4 and reference.times_reference == 1
    assert ours.share_of_limit == pytest.approx(8 * 1.0 / 20)


def test_percentiles_by_hand() -> None:
    assert spread([float(value) for value in range(11)]) == Spread(5.0, 1.0, 9.0, 11)


def test_the_limit_is_that_of_the_fastest_runtime_and_none_where_none_was_measured() -> None:
    roofline, work = Roofline([], []), Workload(flops=10**9, weights=10**6, cached=0, pixel_bytes=0)
    roofline.flops_per_second = {
        Peak("torch", "f32", 2): 1e11,
        Peak("openvino", "f32", 2): 2e11,
        Peak("torch", "f32", 1): 9e11,
    }
    roofline.bytes_per_second = {Read(4 * 10**6, 2): 4e8}
    assert roofline.limit(work, "f32", 2) == pytest.approx(Limit(5.0, 10.0))
    assert Limit(5.0, 10.0).ms == 10.0
    assert roofline.limit(work, "bf16", 2) is None


@pytest.mark.parametrize(
    ("runtime", "precision"),
    [
        ("openvino", "f32"),
        ("openvino", "int8"),
        ("onnxruntime", "f32"),
        ("onnxruntime", "int8"),
        ("torch", "f32"),
        ("torch", "bf16"),
    ],
)
def test_the_machine_is_measured_in_every_runtime(
    runtime: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mixformerv2.bench.roofline.SIDES", (32, 64))
    monkeypatch.setattr("mixformerv2.bench.roofline._SECONDS_A_ROUND", 0.001)
    peak, read = Peak(runtime, precision, 1), Read(10_000, 2)
    roofline = Roofline([peak, peak], [read])
    roofline.round()
    first = roofline.flops_per_second[peak], roofline.bytes_per_second[read]
    roofline.round()
    assert roofline.flops_per_second[peak] >= first[0] > 0
    assert roofline.bytes_per_second[read] >= first[1] > 0


def test_operators_are_added_up_by_kind_from_the_medians_of_their_nodes() -> None:
    passes = [("first", 2.0), ("second", 3.0)]
    events = [
        Event(node, "MatMul", "brgemm", 1, ms * index) for index in range(WARM_UP + 3) for node, ms in passes
    ]
    events += [Event("gelu", "Gelu", "", 2, 1.0)] * (WARM_UP + 3)
    # Passes 3, 4 and 5 count: the median is the fourth.
    assert by_kind(events) == [Operator("MatMul", "brgemm", 2, 20.0), Operator("Gelu", "", 2, 1.0)]
    assert PASSES > WARM_UP


# --- from end to end


@pytest.fixture(scope="module")
def report(folder: Path, video: Path) -> Report:
    config = BenchConfig(
        models=(str(folder),),
        threads=(1,),
        batches=(2,),
        targets=3,
        clip=video,
        box=tiny.square_box(0),
        frames=8,
        rounds=2,
        operators=True,
    )
    return measure(config)


def test_all_that_is_installed_is_measured(report: Report) -> None:
    rows = {(row.name.backend, row.name.precision) for row in report.rows}
    assert {("reference", "f32"), ("openvino", "f32"), ("onnxruntime", "f32"), ("torch", "f32")} <= rows
    for row in report.rows:
        assert row.stages_ms["update"].samples == 2 * (7 - WARM_UP_FRAMES)
        assert row.times_reference is not None and row.times_reference > 0
        assert row.share_of_limit is not None and row.share_of_limit > 0
    assert {(batch.name, batch.batch) for batch in report.batches} == {(row.name, 2) for row in report.rows}
    assert report.rows[0].name.backend == "reference"
    assert [row.name for row in report.targets] == [row.name for row in report.rows[1:]]
    for together in report.targets:
        assert together.times_apart == together.apart_ms.median / together.together_ms.median


def test_every_runtime_says_where_the_time_goes(report: Report) -> None:
    found = {network.name: network.operators for network in report.operators}
    assert [*found] == [row.name for row in report.rows]
    for operators in found.values():
        assert operators == sorted(operators, key=lambda operator: -operator.ms)
    kinds = {name.backend: " ".join(operator.kind for operator in found[name]) for name in found}
    assert "FullyConnected" in kinds["openvino"]
    assert "MatMul" in kinds["onnxruntime"] and "aten::addmm" in kinds["torch"]


def test_the_tables_fit_a_terminal_of_a_hundred_columns(report: Report) -> None:
    for table in tables(report):
        console = Console(width=10 * WIDTH)
        assert console.measure(table).maximum <= 10 * WIDTH
        table.caption = None
        assert console.measure(table).maximum <= WIDTH


def test_the_card_names_machine_and_rows(report: Report) -> None:
    picture, text = card_picture(report), card_text(report)
    assert picture.shape[1] == 1200 and len(np.unique(picture.reshape(-1, 3), axis=0)) > 50
    assert report.machine["processor"] in text and "onnxruntime" in text
    assert max(map(len, text.splitlines())) <= WIDTH


def test_the_verb_writes_json_and_a_card(folder: Path, video: Path, tmp_path: Path, run: Run) -> None:
    asked = ("--model", folder, "--backend", "openvino:f32", "--threads", 1, "--frames", 8, "--rounds", 1)
    clip = ("--clip", video, "--box", "10,8,12,12")
    files = ("--json", tmp_path / "bench.json", "--card", tmp_path / "card.png")
    ran = run("bench", *asked, *clip, *files)
    assert ran.code == 0 and "x ref." in ran.out and "GFLOP" in ran.out
    figures = json.loads((tmp_path / "bench.json").read_text())
    assert [row["name"]["backend"] for row in figures["rows"]] == ["reference", "openvino"]
    assert figures["rows"][1]["frames_per_second"] == pytest.approx(1000 / figures["rows"][1]["frame_ms"])
    assert figures["clip"]["name"] == "square.mp4" and figures["models"]["mini"]["search"]["flops"] > 0
    assert figures["machine"]["versions"]["openvino"]
    assert cv2.imread(str(tmp_path / "card.png")) is not None
    assert "reference" in (tmp_path / "card.txt").read_text()
    again = run("bench", *asked, *clip, *files)
    assert again.code == 2 and "exists already" in again.err


def test_the_shipped_clip_and_its_box_are_the_default() -> None:
    clip = load_clip(None, None, 8)
    assert clip.path.name == "cup.mp4" and clip.size == (640, 480) and len(clip.frames) == 8
    assert clip.box == (316, 114, 114, 275)


def test_a_preset_without_weights_is_measured_with_random_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(planning.PRESETS, "little", tiny.CONFIG)
    config = BenchConfig(models=("little",), backends=("openvino:f32",), threads=(1,))
    plan = planning.make_plan(config, clip_of(), tmp_path)
    assert plan.models["little"].is_random
    row = plan.trackers[RowName("little", "openvino", "f32", "cpu", 1)]
    row.round(clip_of())
    assert isinstance(row, TrackerRow) and isinstance(row.tracker, Tracker)
    assert row.tracker.box == pytest.approx(tiny.square_box(0), abs=0.51)


def test_without_torch_there_is_no_reference_path_and_no_random_weights(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "installed", lambda package: package == "openvino")
    config = BenchConfig(models=(str(folder),), threads=(1,))
    plan = planning.make_plan(config, clip_of(), tmp_path)
    assert {name.backend for name in plan.trackers} == {"openvino"}
    with pytest.raises(ModuleNotFoundError, match=r"random weights needs the package torch: pip install"):
        planning.make_plan(BenchConfig(models=("small",)), clip_of(), tmp_path)


# --- what is said where something is wrong


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--model", "huge"), "no model is called 'huge': choose one of compact, tiny, base"),
        (("--backend", "tflite"), "no backend is called 'tflite': choose one of openvino"),
        (("--backend", "openvino:f8"), "no precision is called 'f8': openvino takes f32"),
        (("--backend", "onnxruntime:bf16"), "the onnxruntime backend runs in f32"),
        (("--threads", 0), "threads must be at least 1, got 0"),
        (("--batch", 0), "batches must be at least 1, got 0"),
        (("--targets", 1), "targets must be at least 2, got 1"),
        (("--rounds", 0), "rounds must be at least 1, got 0"),
        (("--frames", 2), "frames must be at least 8, got 2"),
        (("--peers", "nowhere"), "peers must be a folder with OpenCV's models, got nowhere"),
        (("--clip", "nowhere.mp4", "--box", "1,2,3,4"), "nowhere.mp4 does not exist"),
        (("--clip", "nowhere.mp4"), "a clip of your own and the box of its target belong together"),
        (("--box", "1,2,3"), "--box is four numbers"),
        (("--device", "tpu"), "the device is cpu, cuda or cuda:N, got 'tpu'"),
        (("--device", "cuda:x"), "the device is cpu, cuda or cuda:N, got 'cuda:x'"),
        (("--card", "none/card.png"), "none/card.png cannot be written: the folder none does not exist"),
        (("--card", "card.svg"), "a card is a .png file"),
        (("--card", "."), "a card is a .png file"),
        (("--card", "card.png", "--json", "./card.txt"), "--json and --card would both write card.txt"),
    ],
)
def test_wrong_input_gets_one_sentence(arguments: tuple[Any, ...], sentence: str, run: Run) -> None:
    ran = run("bench", *arguments)
    assert ran.code == 2 and sentence in ran.err
    assert ran.err.count("\n") == 1


def test_a_gpu_that_is_not_there_is_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    ran = run("bench", "--device", "cuda")
    assert ran.code == 2 and "the device cuda needs an NVIDIA GPU" in ran.err


def test_a_gpu_beyond_those_that_are_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_gpu("cuda:1")
    with pytest.raises(ValueError, match=r"the device cuda:2 is not there: this machine has 2 GPUs"):
        check_gpu("cuda:2")


def test_a_gpu_is_timed_by_its_own_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []

    class Clock:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            log.append("record")

        def synchronize(self) -> None:
            log.append("synchronize")

        def elapsed_time(self, end: Clock) -> float:
            return 2.5

    monkeypatch.setattr(torch.cuda, "Event", Clock)
    assert event_clock(lambda: log.append("call")) == 0.0025
    assert log == ["record", "call", "record", "synchronize"]


def test_a_clip_too_short_and_a_box_outside_are_refused(video: Path, tmp_path: Path) -> None:
    short = tiny.write_clip(tmp_path / "short.mp4", num_frames=3)
    with pytest.raises(ValueError, match=r"the clip must have at least 8 frames, .*short.mp4 has 3"):
        load_clip(short, (1, 1, 5, 5), 20)
    with pytest.raises(ValueError, match=r"the box must overlap the first frame of 96 x 64 px"):
        load_clip(video, (200, 1, 5, 5), 20)
