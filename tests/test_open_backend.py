"""Opening a model: which backend is chosen, and what is said where a model or an option is wrong."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from exported_models import inputs

from mixformerv2.config import PRESETS
from mixformerv2.model.network import Network
from mixformerv2.runtime import backend as runtime
from mixformerv2.runtime.backend import ENCODE_GRAPH, SEARCH_GRAPH, WEIGHTS_FILE, Backend, open_backend


def test_auto_is_openvino_where_there_are_graphs_and_torch_where_not(exported_folder: Path) -> None:
    assert open_backend(exported_folder, threads=1).name == "openvino"
    assert open_backend(str(exported_folder / WEIGHTS_FILE), threads=1).name == "openvino"
    alone = open_backend(exported_folder.parent / "scored.safetensors")
    assert (alone.name, alone.precision) == ("torch", "f32")
    assert isinstance(alone, Backend)


def test_a_checkpoint_and_its_export_answer_alike_but_for_half_precision(exported_folder: Path) -> None:
    template, online, search = inputs(batch=1, online=1)
    full, half = (
        open_backend(exported_folder.parent / "scored.safetensors"),
        open_backend(exported_folder, precision="f32"),
    )
    boxes_unit = [b.search(search, b.encode_templates(template, online)).box_unit for b in (full, half)]
    np.testing.assert_allclose(*boxes_unit, rtol=0, atol=2e-3)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            dict(backend="tensorrt"),
            "no backend is called 'tensorrt': choose one of auto, openvino, onnxruntime, torch",
        ),
        (dict(precision="int3"), "no precision is called 'int3': choose one of auto, f32, bf16, f16, int8"),
        (dict(threads=0), "threads must be a whole number from 1 to 1024, got 0"),
        (dict(threads=True), "threads must be a whole number from 1 to 1024, got True"),
        (dict(threads=10**20), "threads must be a whole number from 1 to 1024, got 1000"),
        (dict(backend="openvino", device="tpu"), "OpenVINO has no device 'tpu' here: choose one of .*CPU"),
        (dict(backend="torch", device="tpu"), "torch has no device 'tpu' here: choose cpu, or auto"),
        (dict(backend="torch", device="meta"), "torch has no device 'meta' here: choose cpu, or auto"),
        (
            dict(backend="onnxruntime", precision="bf16"),
            "onnxruntime backend runs in f32, got precision bf16",
        ),
        (
            dict(backend="onnxruntime", device="tpu"),
            "onnxruntime has no device 'tpu' here; choose one of .*cpu",
        ),
        (
            dict(backend="torch", device="cpu", precision="int8"),
            "the torch backend on cpu runs in f32, bf16, got precision int8",
        ),
    ],
)
def test_a_wrong_option_gets_one_sentence(
    exported_folder: Path, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence) as refused:
        open_backend(exported_folder, **options)
    assert "\n" not in str(refused.value)


def test_a_gpu_that_torch_does_not_have_gets_one_sentence(exported_folder: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    with pytest.raises(ValueError, match="torch has no device 'cuda' here"):
        open_backend(exported_folder, "torch", device="cuda")


def test_a_gpu_without_room_for_the_model_gets_one_sentence(
    exported_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB.")

    monkeypatch.setattr(Network, "to", full)
    with pytest.raises(ValueError, match="^the model does not fit into what is free of the memory of cuda$"):
        open_backend(exported_folder, "torch", device="cuda")


@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_a_gpu_that_onnxruntime_was_built_without_is_told_with_the_package_that_has_it(
    exported_folder: Path, device: str
) -> None:
    if len(ort.get_available_providers()) > 2:
        pytest.skip("this build of ONNX Runtime runs on GPUs")
    sentence = (
        f"onnxruntime has no device '{device}' here: the package onnxruntime-gpu has it; choose one of cpu"
    )
    with pytest.raises(ValueError, match=sentence):
        open_backend(exported_folder, "onnxruntime", device=device)


def test_int8_of_a_model_that_was_not_quantised_is_told_with_the_command_that_does_it(
    exported_folder: Path,
) -> None:
    with pytest.raises(
        FileNotFoundError,
        match=f"{exported_folder} has no graph in int8: .*mixformerv2 quantise {exported_folder}",
    ):
        open_backend(exported_folder, precision="int8")


def test_bf16_on_a_processor_without_it_gets_one_sentence(
    exported_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mixformerv2.runtime.openvino.precisions", lambda _: ("f32",))
    with pytest.raises(ValueError, match="has no bf16 arithmetic: choose precision f32, or auto"):
        open_backend(exported_folder, "openvino", precision="bf16")
    assert open_backend(exported_folder, "openvino").precision == "f32"


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("missing", [ENCODE_GRAPH, SEARCH_GRAPH])
def test_missing_graphs_are_told_with_the_command_that_makes_them(
    exported_folder: Path, tmp_path: Path, name: str, missing: str
) -> None:
    for file in exported_folder.iterdir():
        if file.name != missing:
            (tmp_path / file.name).symlink_to(file)
    with pytest.raises(FileNotFoundError, match=f"no graphs beside it for {name}: .*mixformerv2 export"):
        open_backend(tmp_path, name)
    assert open_backend(tmp_path).name == "torch"


@pytest.mark.parametrize("name", runtime.BACKENDS)
@pytest.mark.parametrize("damage", ["cut off", "cut off early", "empty", "pickle", "other safetensors"])
def test_a_damaged_weights_file_gets_one_sentence(
    exported_folder: Path, tmp_path: Path, name: str, damage: str
) -> None:
    for graph in (ENCODE_GRAPH, SEARCH_GRAPH):
        (tmp_path / graph).symlink_to(exported_folder / graph)
    content, broken = (exported_folder / WEIGHTS_FILE).read_bytes(), tmp_path / WEIGHTS_FILE
    if damage == "pickle":
        torch.save({"net": {}}, broken)
    elif damage == "other safetensors":
        broken.write_bytes(len(b'{"a":1}').to_bytes(8, "little") + b'{"a":1}')
    else:
        broken.write_bytes(content[: {"cut off": -2, "cut off early": 100, "empty": 0}[damage]])
    with pytest.raises(ValueError, match=r"model\.safetensors") as refused:
        open_backend(tmp_path, name)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("openvino", "needs the package openvino: pip install openvino"),
        ("onnxruntime", r"needs the package onnxruntime: pip install 'mixformerv2\[onnx\]'"),
        ("torch", r"needs the package torch: pip install 'mixformerv2\[train\]'"),
    ],
)
def test_a_runtime_that_is_not_installed_is_told_with_the_command_that_installs_it(
    exported_folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, advice: str
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda package: (package != name and found(package)) or None
    )
    with pytest.raises(ModuleNotFoundError, match=advice):
        open_backend(exported_folder, name)


@pytest.mark.parametrize("name", ["openvino", "onnxruntime", "torch"])
def test_a_runtime_that_is_installed_and_cannot_be_loaded_says_why(
    exported_folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, f"mixformerv2.runtime.{name}", None)
    with pytest.raises(ValueError, match=f"the {name} backend is installed, but cannot be loaded: .*{name}"):
        open_backend(exported_folder, name)


def test_a_model_that_is_not_there_is_told_by_name_or_path(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no model is called 'huge': the shipped ones are"):
        open_backend("huge")
    with pytest.raises(
        ValueError, match="small is a preset whose weights do not ship: `mixformerv2 convert`"
    ):
        open_backend("small")
    with pytest.raises(
        FileNotFoundError, match="no model at .*huge: expected a .safetensors file or a folder"
    ):
        open_backend(tmp_path / "huge")


def test_a_folder_called_like_a_shipped_model_is_taken_as_a_path_only(
    exported_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny").symlink_to(exported_folder)
    monkeypatch.chdir(tmp_path)
    for own in (Path("tiny"), "./tiny", "tiny/"):
        assert runtime.find_weights(own) == Path("tiny") / WEIGHTS_FILE
    with pytest.warns(
        UserWarning, match=r"^tiny is the shipped model, not the folder here: that is \./tiny$"
    ):
        assert runtime.find_weights("tiny") == runtime.shipped_models()["tiny"]


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_graphs_beside_the_weights_of_another_model_are_refused(
    exported: Exported, tmp_path: Path, name: str
) -> None:
    for graph in (ENCODE_GRAPH, SEARCH_GRAPH):
        (tmp_path / graph).symlink_to(exported.folders["plain"] / graph)
    (tmp_path / WEIGHTS_FILE).symlink_to(exported.folders["scored"] / WEIGHTS_FILE)
    with pytest.raises(ValueError, match="is damaged or does not belong to the weights beside it"):
        open_backend(tmp_path, name)


def test_every_constant_of_the_shipped_graphs_is_found_in_their_weights() -> None:
    for weights in runtime.shipped_models().values():
        for graph in (ENCODE_GRAPH, SEARCH_GRAPH):
            runtime.check_graph(weights.parent / graph)
            assert len(runtime._CONSTANT.findall((weights.parent / graph).read_bytes())) > 40


def test_a_graph_in_place_of_its_folder_is_told_so(exported_folder: Path) -> None:
    graph = exported_folder / SEARCH_GRAPH
    with pytest.raises(ValueError, match=f"{graph} is a graph of the model in {exported_folder}: name that"):
        open_backend(graph)


def test_models_that_come_and_go_leave_a_process_that_survives_a_signal() -> None:
    """Of two cores of OpenVINO the second to end gives back a stack for signals that the first has freed."""
    code = (
        "import gc, os, signal; from mixformerv2 import Tracker\n"
        "first = Tracker('tiny', backend='openvino'); second = Tracker('tiny', backend='openvino')\n"
        "del first; gc.collect(); del second; gc.collect()\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('told')); os.kill(os.getpid(), signal.SIGTERM)"
    )
    ended = subprocess.run([sys.executable, "-X", "faulthandler", "-c", code], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "told\n"), ended.stderr


@pytest.mark.parametrize("name", ["openvino", "onnxruntime", "torch"])
def test_a_model_that_was_loaded_before_a_fork_says_so_where_it_would_wait_for_ever(name: str) -> None:
    code = f"""
import multiprocessing, numpy as np
from mixformerv2 import Tracker
frame, box = np.zeros((90, 90, 3), np.uint8), (30, 30, 20, 20)
tracker = Tracker("tiny", backend="{name}", threads=2)
tracker.init(frame, box)
def in_the_child(call, *given):
    try: call(*given)
    except ValueError as error: print(error, flush=True)
for call in ((tracker.init, frame, box), (tracker.update, frame)):
    child = multiprocessing.get_context("fork").Process(target=in_the_child, args=call)
    child.start(), child.join()
"""
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=60
    )
    said = ended.stdout.splitlines()
    assert len(said) == 2 and all(
        line.startswith("this model was loaded before the process was forked") for line in said
    ), ended


def test_threads_may_use_openvino_first_at_the_same_time() -> None:
    """Without the backend's care they wait for each other, every time: each makes the same table of dtypes."""
    code = (
        "import sys, threading; sys.setswitchinterval(1e-6)\n"
        "import mixformerv2.runtime.openvino, openvino\n"
        "ready = threading.Barrier(8)\n"
        "threads = [threading.Thread(target=lambda: (ready.wait(), openvino.Type.u8.to_dtype())) for _ in range(8)]\n"
        "[each.start() for each in threads]; [each.join() for each in threads]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_threads_that_come_first_together_share_one_core() -> None:
    """A second one would end in a segmentation fault at the next signal."""
    code = (
        "import sys, threading; sys.setswitchinterval(1e-6)\n"
        "from mixformerv2.runtime.openvino import core\n"
        "ready, cores = threading.Barrier(8), []\n"
        "threads = [threading.Thread(target=lambda: (ready.wait(), cores.append(core()))) for _ in range(8)]\n"
        "[each.start() for each in threads]; [each.join() for each in threads]\n"
        "assert len(cores) == 8 and len({*map(id, cores)}) == 1"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_every_shipped_model_is_a_preset_and_opens() -> None:
    shipped = runtime.shipped_models()
    if not shipped:
        pytest.skip("no weights ship yet")
    for name in shipped:
        backend = open_backend(name)
        assert backend.name == "openvino"
        assert backend.config.model == PRESETS[name].model


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("graph", [ENCODE_GRAPH, SEARCH_GRAPH])
def test_a_damaged_graph_is_named_in_one_sentence(
    exported_folder: Path, tmp_path: Path, name: str, graph: str
) -> None:
    for file in exported_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / graph).write_bytes((exported_folder / graph).read_bytes()[:2000])
    reason = {"openvino": "", "onnxruntime": r" \(.*INVALID_PROTOBUF.*\)"}[name]
    with pytest.raises(ValueError, match=rf"^.*{graph} is damaged .*: export the model again{reason}$"):
        open_backend(tmp_path, name)
