"""Exports that prove themselves: every target replays a clip, and what drifts is not written."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import jaxtyping
import numpy as np
import onnx
import pytest
import replay
import torch
from command_line import Ran, Run
from replay import BOX, CONFIG, NUM_FRAMES

from mixformerv2 import MultiTracker, Tracker
from mixformerv2.config import Config
from mixformerv2.evaluate.proof import Clip, Limits, prove
from mixformerv2.model import checkpoint
from mixformerv2.model.attention import KeyValue
from mixformerv2.model.network import Network, build
from mixformerv2.runtime.backend import SEARCH_GRAPH, Backend, Located, open_backend
from mixformerv2.runtime.export import CONFIG_FILE, TARGETS, export, files_of
from mixformerv2.runtime.export.loaded import LoadedPair
from mixformerv2.runtime.torch import NetworkBackend
from mixformerv2.video import open_source


def fragile(network: Network) -> Network:
    """The same function in single precision, but values of which half precision keeps hardly a digit."""
    dim = network.config.dim
    with torch.no_grad():
        for block in network.backbone.blocks:
            block.attn.qkv.weight[2 * dim :] *= 4e-6
            block.attn.qkv.bias[2 * dim :] *= 4e-6
            block.attn.proj.weight *= 2.5e5
    return network


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    checkpoint.save(replay.network(), CONFIG, folder / "good.safetensors")
    checkpoint.save(fragile(replay.network()), CONFIG, folder / "fragile.safetensors")
    replay.write_clip(folder / "clip.mp4")
    return folder


@pytest.fixture(scope="module")
def clip(made: Path) -> Clip:
    return Clip.of_user(made / "clip.mp4", BOX)


@pytest.fixture(scope="module")
def network(made: Path) -> NetworkBackend:
    return NetworkBackend(*checkpoint.load(made / "good.safetensors"))


@pytest.fixture(scope="module")
def folder(made: Path) -> Path:
    export(made / "good.safetensors", made / "good")
    return made / "good"


def content(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# --- every target


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_a_model_of_a_fixed_batch_says_so_when_it_is_to_track(
    made: Path, tmp_path: Path, clip: Clip, name: str
) -> None:
    export(made / "good.safetensors", tmp_path / "three", batch=3)
    export(made / "good.safetensors", tmp_path / "one", batch=1)
    with open_source(clip.source) as frames:
        frame = next(iter(frames))
    with pytest.raises(ValueError, match="exported with --batch 3, it does not take 1 at once"):
        Tracker(tmp_path / "three", name).init(frame, clip.box)
    many = MultiTracker(tmp_path / "one", name)
    many.add(frame, clip.box)
    assert len(many.update(frame)) == 1
    if name == "openvino":  # which searches for one target after the other
        many.add(frame, clip.box)
        assert len(many.update(frame)) == 2
    else:
        with pytest.raises(ValueError, match="exported with --batch 1, it does not take 2 at once"):
            many.add(frame, clip.box)
        assert len(many.update(frame)) == 1


@pytest.mark.parametrize("batch", [None, 3])
@pytest.mark.parametrize("target", TARGETS)
def test_every_target_tracks_as_the_network_does(
    made: Path, tmp_path: Path, clip: Clip, monkeypatch: pytest.MonkeyPatch, target: str, batch: int | None
) -> None:
    missing = [package for package in TARGETS[target].packages if importlib.util.find_spec(package) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not installed here")
    if (target, batch) == ("ncnn", 3):
        pytest.skip("ncnn holds one target; that more are refused is tested below")
    if target == "ncnn":  # made of a TorchScript trace, in which sizes are tensors, no ints
        monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    proofs = []

    def check(name: str, reference: Backend, exported: Backend) -> None:
        assert not content(tmp_path) & set(files_of([target])), "proven before it is there"
        proofs.append(prove(reference, exported, clip))

    export(made / "good.safetensors", tmp_path, [target], batch, check)
    assert content(tmp_path) == set(files_of([target]))
    assert Config.from_json((tmp_path / CONFIG_FILE).read_text()) == CONFIG
    runtimes = {"onnx": ["openvino", "onnxruntime"], "torch": ["torch.export"]}.get(target, [target])
    assert [proof.runtime for proof in proofs] == runtimes
    for proof in proofs:
        assert proof.frames == NUM_FRAMES - 1
        assert not Limits().broken_by(proof), proof


def test_a_fixed_batch_leaves_nothing_free_in_the_graphs(made: Path, tmp_path: Path) -> None:
    export(made / "good.safetensors", tmp_path, batch=3)
    graph = onnx.load(tmp_path / SEARCH_GRAPH, load_external_data=False)
    assert graph.opset_import[0].version >= 18
    shapes = [
        [d.dim_param or d.dim_value for d in entry.type.tensor_type.shape.dim] for entry in graph.graph.input
    ]
    assert shapes[:2] == [[3, 64, 64, 3], [3, 8, 32]]
    backend = open_backend(tmp_path, "onnxruntime", threads=1)
    template = np.zeros((3, 32, 32, 3), np.uint8)
    crops = np.zeros((3, 64, 64, 3), np.uint8)
    assert backend.search(crops, backend.encode_templates(template, template[:, None])).box_unit.shape == (
        3,
        4,
    )


def test_an_exported_pair_serves_several_targets_in_one_call(network: NetworkBackend) -> None:
    def encode(template: np.ndarray, online: np.ndarray) -> list[np.ndarray]:
        return [part.numpy() for pair in network.encode_templates(template, online) for part in pair]

    def search(crop: np.ndarray, *cache: np.ndarray) -> Located:
        tensors = [torch.from_numpy(part) for part in cache]
        return network.search(crop, tuple(KeyValue(*tensors[i : i + 2]) for i in range(0, len(tensors), 2)))

    pair = LoadedPair("pair", CONFIG, encode, search)
    random = np.random.default_rng(0)
    templates = random.integers(0, 256, (2, 1, 32, 32, 3), np.uint8)
    crops = random.integers(0, 256, (2, 64, 64, 3), np.uint8)
    caches = [pair.encode_templates(template, template[None]) for template in templates]
    together = pair.search(crops, pair.stack(caches))
    apart = [pair.search(crop[None], cache).box_unit[0] for crop, cache in zip(crops, caches, strict=True)]
    np.testing.assert_allclose(together.box_unit, apart, rtol=0, atol=1e-5)


# --- the verb


@pytest.fixture
def export_verb(run: Run, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    replay = ("--clip", made / "clip.mp4", "--box", ",".join(map(str, BOX)))

    def run_export(source: str, *arguments: object) -> Ran:
        return run("export", made / source, "out", *replay, *arguments)

    return run_export


def assert_refused(ran: Ran, *words: str) -> None:
    assert ran.code == 2, ran
    assert ran.err.startswith("error: ") and ran.err.count("\n") == 1, ran.err
    for word in words:
        assert word in ran.err


def test_an_export_that_proves_nothing_leaves_no_proof(export_verb: Run) -> None:
    assert_refused(export_verb("none.safetensors", "--json", "proof.json"), "none.safetensors")
    assert content(Path()) == set()


def test_the_verb_prints_the_drift_and_writes_it_as_json(export_verb: Run, made: Path) -> None:
    boxes = [[x, y, w, h] for x, y, w, h in [BOX] * NUM_FRAMES]
    Path("truth.txt").write_text("\n".join(",".join(map(str, box)) for box in boxes) + "\n")
    ran = export_verb("good.safetensors", "--truth", "truth.txt", "--json", "proof.json")
    assert (ran.code, ran.err) == (0, "")
    document = json.loads(Path("proof.json").read_text())
    assert document["clip"] == str(made / "clip.mp4")
    assert [(row["target"], row["runtime"]) for row in document["proofs"]] == [
        ("onnx", "openvino"),
        ("onnx", "onnxruntime"),
    ]
    first = document["proofs"][0]
    assert (first["frames"], first["auc_frames"], first["auc_against"]) == (9, 10, "drawn boxes")
    for figure in (first["same_crops"]["mean_iou"], first["on_its_own"]["worst_iou"]):
        assert f"{figure:.4f}" in ran.out
    assert f"{first['auc']:.3f} {first['auc_change']:+.3f}" in ran.out
    assert "track with --model out" in ran.out


def test_weights_that_half_precision_cannot_hold_are_refused_and_forced(export_verb: Run) -> None:
    ran = export_verb("fragile.safetensors", "--json", "proof.json")
    assert_refused(ran, "the onnx export drifts in openvino", "mean IoU 0.", "--force")
    assert content(Path()) == {"proof.json"}
    (row,) = json.loads(Path("proof.json").read_text())["proofs"]
    assert row["same_crops"]["mean_iou"] < Limits().mean_iou
    assert f"{row['same_crops']['mean_iou']:.4f}" in ran.out
    # Nothing is lost where single precision is kept.
    assert export_verb("fragile.safetensors", "--target", "torch").code == 0
    assert content(Path("out")) == set(files_of(["torch"]))
    forced = export_verb("fragile.safetensors", "--force", "--overwrite")
    assert forced.code == 0
    assert "warning: the onnx export drifts in openvino" in forced.err
    assert content(Path("out")) == set(files_of(["torch", "onnx"]))


def test_targets_are_added_to_a_folder_of_the_same_model_and_to_no_other(
    export_verb: Run, made: Path
) -> None:
    assert export_verb("good.safetensors", "--target", "torch").code == 0
    assert export_verb("good.safetensors").code == 0  # config.json is the same
    assert content(Path("out")) == set(files_of(["torch", "onnx"]))
    network, config = checkpoint.load(made / "good.safetensors")
    rules = replace(config.tracker, lost_threshold=0.123)
    checkpoint.save(network, replace(config, tracker=rules), made / "other.safetensors")
    refused = export_verb("other.safetensors", "--target", "torch", "--overwrite")
    assert_refused(refused, "out has model.safetensors of a model with another config.json")
    assert export_verb("other.safetensors", "--target", "torch", "--target", "onnx", "--overwrite").code == 0


def test_a_refused_export_takes_back_the_folders_that_it_made(
    run: Run, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    replay = ("--clip", made / "clip.mp4", "--box", ",".join(map(str, BOX)))
    assert_refused(run("export", made / "fragile.safetensors", "one/two/three", *replay), "drifts")
    assert content(Path()) == set()


def test_a_refused_export_leaves_what_was_there_as_it_was(export_verb: Run) -> None:
    Path("out").mkdir()
    Path("out", SEARCH_GRAPH).write_text("earlier")
    assert_refused(export_verb("fragile.safetensors"), f"out/{SEARCH_GRAPH} exists already", "--overwrite")
    assert_refused(export_verb("fragile.safetensors", "--overwrite"), "drifts")
    assert content(Path("out")) == {SEARCH_GRAPH}
    assert Path("out", SEARCH_GRAPH).read_text() == "earlier"


def test_the_shipped_clip_is_replayed_unless_another_is_named(
    run: Run, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = Clip.of_demo()
    assert clip.truth_frame is not None and set(clip.truth_frame) == {0, 40, 80, 120, 160, 186}
    short = replace(clip, start_frame=180)
    monkeypatch.setattr(Clip, "of_demo", lambda: short)
    ran = run("export", made / "good.safetensors", tmp_path / "out", "--target", "torch")
    assert ran.code == 0, ran
    assert "over 6 frames; AUC on 1 of drawn boxes" in ran.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--target", "coreml"], ["no export target is called 'coreml'", "onnx, openvino, torch"]),
        (["--target", "ncnn", "--batch", "2"], ["ncnn"]),
        (["--batch", "0"], ["--batch"]),
        (["--box", "1,2,3"], ["--box is four numbers"]),
        (["--box", "1,2,0,4"], ["a box is x, y, width, height"]),
        (["--clip", "none.mp4"], ["none.mp4"]),
        (["--truth", "none.txt"], ["none.txt"]),
        (["--truth", "empty.txt"], ["empty.txt has no box"]),
    ],
    ids=str,
)
def test_a_wrong_option_is_refused_before_any_work(
    export_verb: Run, arguments: list[str], words: list[str]
) -> None:
    Path("empty.txt").write_text("nan,nan,nan,nan\n")
    assert_refused(export_verb("good.safetensors", *arguments), *words)
    assert content(Path()) == {"empty.txt"}


def test_a_clip_needs_a_box_and_a_box_a_clip(run: Run, made: Path, tmp_path: Path) -> None:
    source = made / "good.safetensors"
    assert_refused(run("export", source, tmp_path / "out", "--clip", made / "clip.mp4"), "--box x,y,w,h")
    assert_refused(run("export", source, tmp_path / "out", "--box", "1,2,3,4"), "belong to a --clip")


@pytest.mark.parametrize(
    ("target", "package", "install"),
    [
        ("executorch", "executorch", "executorch"),
        ("ncnn", "pnnx", "pnnx ncnn"),
        ("openvino", "onnx", "'mixformerv2[train]'"),
    ],
)
def test_a_target_without_its_package_names_what_to_install(
    export_verb: Run, monkeypatch: pytest.MonkeyPatch, target: str, package: str, install: str
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == package else found(name, *rest)
    )
    ran = export_verb("good.safetensors", "--target", target)
    assert_refused(ran, f"the target {target} needs the package {package}: pip install {install}")


def test_symmetric_attention_is_refused_for_ncnn(tmp_path: Path) -> None:
    pytest.importorskip("pnnx")
    config = replace(CONFIG, model=replace(CONFIG.model, attention="symmetric"))
    checkpoint.save(build(config.model, seed=0), config, tmp_path / "both.safetensors")
    with pytest.raises(ValueError, match="keeps keys and values of templates: symmetric attention has none"):
        export(tmp_path / "both.safetensors", tmp_path / "out", ["ncnn"])


def test_a_fixed_batch_of_a_model_with_two_online_templates_is_refused(tmp_path: Path) -> None:
    config = replace(CONFIG, tracker=replace(CONFIG.tracker, online_templates=2))
    checkpoint.save(replay.network(), config, tmp_path / "two.safetensors")
    with pytest.raises(
        ValueError, match="a fixed batch holds one online template, and .*two.safetensors keeps 2"
    ):
        export(tmp_path / "two.safetensors", tmp_path / "out", batch=1)
    assert not (tmp_path / "out").exists()
