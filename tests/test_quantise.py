"""The int8 graph: made from what a tracker looks at, close to f32, and refused where it is not."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny
from command_line import Run

from mixformerv2.bench.operators import operators
from mixformerv2.bench.stages import RowName
from mixformerv2.evaluate.calibration import examples, spread
from mixformerv2.evaluate.spec import describe, parse
from mixformerv2.model import checkpoint
from mixformerv2.model.network import build
from mixformerv2.runtime import cpu
from mixformerv2.runtime.backend import (
    ENCODE_GRAPH,
    INT8_GRAPH,
    INT8_WEIGHTS,
    SEARCH_GRAPH,
    WEIGHTS_FILE,
    open_backend,
    shipped_models,
)
from mixformerv2.runtime.export import export
from mixformerv2.runtime.openvino import choose, fastest_floating
from mixformerv2.runtime.quantise import QuantiseConfig, quantise

NEEDS_NNCF = pytest.mark.skipif(
    importlib.util.find_spec("nncf") is None, reason="nncf is not installed: pip install 'mixformerv2[int8]'"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("quantise")
    tiny.write_clip(root / "clip.mp4", 40)
    config = dataclasses.replace(tiny.CONFIG, model=dataclasses.replace(tiny.MODEL, depth=1))
    checkpoint.save(build(config.model, seed=0), config, root / "model.safetensors")
    export(root / "model.safetensors", root / "model")
    return root


def test_examples_are_what_the_tracker_saw(made: Path) -> None:
    seen = examples(open_backend(made / "model", "openvino", "f32"), made / "clip.mp4", tiny.square_box(0), 9)
    assert len(seen) == 9
    assert seen[0].crop.shape == (64, 64, 3)
    assert seen[0].online.shape == (1, 32, 32, 3)
    # Each look is kept, not the buffer that it was in; later ones lose the square, and are alike.
    assert len({example.crop.tobytes() for example in seen}) > 1


def test_looks_that_correct_sizes_are_no_examples(made: Path) -> None:
    backend = open_backend(made / "model", "openvino", "f32")
    rules = dataclasses.replace(backend.config.tracker, size_calibration=0.5)
    backend.config = dataclasses.replace(backend.config, tracker=rules)
    seen = examples(backend, made / "clip.mp4", tiny.square_box(0), 100)
    assert len(seen) == 39  # every frame but the first


@pytest.mark.parametrize("count", [0, -1])
def test_there_must_be_an_example(made: Path, count: int) -> None:
    backend = open_backend(made / "model", "openvino", "f32")
    with pytest.raises(ValueError, match=f"at least one example to calibrate on, got {count}"):
        examples(backend, made / "clip.mp4", tiny.square_box(0), count)


def test_few_of_many_are_taken_evenly() -> None:
    assert spread(range(10), 4) == [0, 3, 6, 9]
    assert spread(range(2), 4) == [0, 1]
    assert spread([], 4) == []


def test_a_source_without_a_box_gets_one_sentence(made: Path, tmp_path: Path) -> None:
    backend = open_backend(made / "model", "openvino", "f32")
    with pytest.raises(ValueError, match="is no folder of datasets: give the box .* with --box"):
        examples(backend, made / "clip.mp4", None, 9)


@NEEDS_NNCF
def test_the_verb_makes_what_int8_runs(run: Run, made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "model", tmp_path / "model")
    box = ",".join(f"{value:g}" for value in tiny.square_box(0))
    ran = run(
        *("quantise", tmp_path / "model", "--calibrate", made / "clip.mp4", "--box", box),
        *("--examples", 16, "--max-drift", 0.05, "--json", tmp_path / "made.json"),
    )
    assert ran.code == 0, ran.err
    assert json.loads((tmp_path / "made.json").read_text())["mean_drift"] <= 0.05
    boxes_unit = []
    for precision in ("f32", "int8"):
        backend = open_backend(tmp_path / "model", precision=precision)
        assert backend.precision == precision
        seen = examples(
            open_backend(tmp_path / "model", "openvino", "f32"), made / "clip.mp4", tiny.square_box(0), 3
        )
        for one in seen:
            cache = backend.encode_templates(one.template[None], one.online[None])
            boxes_unit.append(backend.search(one.crop[None], cache).box_unit)
    sha256 = describe(parse(str(tmp_path / "model"), {"precision": "int8"}))["sha256"]
    assert {INT8_GRAPH, INT8_WEIGHTS} < set(sha256) and SEARCH_GRAPH not in sha256
    name = RowName("ours", "openvino", "int8", "cpu", 1)
    assert sum(each.ms for each in operators(name, backend, tmp_path / "model" / WEIGHTS_FILE)) > 0
    drift = np.abs(np.subtract(boxes_unit[:3], boxes_unit[3:]))
    assert 0 < drift.mean() < 0.06
    weights = tmp_path / "model" / WEIGHTS_FILE
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(
        ValueError, match=f"{INT8_GRAPH} is damaged, or was made of other weights .* --overwrite"
    ):
        open_backend(tmp_path / "model", precision="int8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the shipped `tiny`."""
    return Path(shutil.copytree(shipped_models()["tiny"].parent, tmp_path / "tiny"))


@pytest.mark.parametrize(
    ("instructions", "is_int8"),
    [
        (("avx2", "avx512f"), False),
        (("avx2", "avx_vnni"), True),
        (("avx512_vnni",), True),
        (("amx_int8",), True),
        ((), False),
    ],
)
def test_auto_is_int8_where_the_processor_is_made_for_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, instructions: tuple[str, ...], is_int8: bool
) -> None:
    monkeypatch.setattr(cpu, "instructions", lambda: instructions)
    assert open_backend(folder).precision == ("int8" if is_int8 else fastest_floating("CPU"))


@pytest.mark.parametrize("file", [INT8_GRAPH, INT8_WEIGHTS, ENCODE_GRAPH, SEARCH_GRAPH, WEIGHTS_FILE])
def test_auto_passes_over_an_int8_graph_that_is_damaged_or_of_other_files(
    folder: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    monkeypatch.setattr(cpu, "instructions", lambda: ("avx512_vnni",))
    assert choose(folder, "auto", "CPU")[0] == "int8"
    content = (folder / file).read_bytes()
    (folder / file).write_bytes(content[: len(content) // 2])
    assert choose(folder, "auto", "CPU")[0] == fastest_floating("CPU")
    if file in (INT8_GRAPH, INT8_WEIGHTS):
        said = f"{INT8_GRAPH} is damaged, or was made of other weights .*; meanwhile it runs in"
        with pytest.warns(UserWarning, match=said):
            assert open_backend(folder).precision == fastest_floating("CPU")


@pytest.mark.parametrize(
    "damage", [Path.unlink, lambda path: path.write_bytes(b"")], ids=["missing", "empty"]
)
@pytest.mark.parametrize("file", [INT8_GRAPH, INT8_WEIGHTS])
def test_an_int8_graph_that_is_asked_for_and_not_whole_is_told_with_what_makes_it_anew(
    folder: Path, file: str, damage: Callable[[Path], object]
) -> None:
    damage(folder / file)
    with pytest.raises((ValueError, FileNotFoundError), match="mixformerv2 quantise .* --calibrate VIDEO"):
        open_backend(folder, precision="int8")


@NEEDS_NNCF
def test_a_graph_too_far_off_is_not_written(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "model", tmp_path / "model")
    seen = examples(open_backend(made / "model", "openvino", "f32"), made / "clip.mp4", tiny.square_box(0), 9)
    with pytest.raises(ValueError, match="in floating point the int8 graph is still .*more than 0.0"):
        quantise(tmp_path / "model", seen, QuantiseConfig(max_drift=0.0))
    assert not {INT8_GRAPH, INT8_WEIGHTS} & {file.name for file in (tmp_path / "model").iterdir()}


@pytest.mark.parametrize("max_drift", [float("nan"), -1.0, 2.0])
def test_a_limit_that_cannot_be_is_refused_before_the_work(max_drift: float) -> None:
    with pytest.raises(ValueError, match="max_drift must be at least 0 and below 1"):
        QuantiseConfig(max_drift)


def test_too_few_examples_get_one_sentence(made: Path) -> None:
    with pytest.raises(ValueError, match="needs at least 8 examples to calibrate on, got 0"):
        quantise(made / "model", [])


def test_quantising_without_nncf_names_the_extra(
    run: Run, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mixformerv2.cli.doctor.find_spec", lambda _: None)
    ran = run("quantise", made / "model", "--calibrate", made / "clip.mp4")
    assert ran.code == 2
    assert "pip install 'mixformerv2[int8]'" in ran.err
