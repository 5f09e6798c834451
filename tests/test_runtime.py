"""Every backend against the network itself, what an exported folder holds, and what is said where a model is wrong."""

from __future__ import annotations

import importlib.util
import logging
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from mixformerv2.config import PRESETS, Config, ModelConfig
from mixformerv2.model import checkpoint
from mixformerv2.model.network import Network, build
from mixformerv2.runtime import backend as runtime
from mixformerv2.runtime.backend import (
    ENCODE_GRAPH,
    SEARCH_GRAPH,
    WEIGHTS_FILE,
    Backend,
    Located,
    open_backend,
    read_config,
)
from mixformerv2.runtime.export import CONFIG_FILE, export
from mixformerv2.runtime.openvino import precisions

SIZES = dict(dim=32, heads=2, search_px=64, template_px=32, num_bins=12)
MODELS = {
    # As `tiny`, in small.
    "scored": ModelConfig(depth=2, mlp_ratio=1.0, head_norm=True, learned_positions=True, **SIZES),  # type: ignore[arg-type]
    # One block is first and last at once.
    "plain": ModelConfig(depth=1, mlp_ratio=2.0, score_head=False, **SIZES),  # type: ignore[arg-type]
}
RUNTIMES = [("torch", "f32"), ("onnxruntime", "f32"), ("openvino", "f32"), ("openvino", "bf16")]
TOLERANCE = {"f32": 1e-5, "bf16": 0.02}  # of the crop's side, and of the score


class Exported(NamedTuple):
    folders: dict[str, Path]
    said: list[str]  # warnings and log lines on the way


def decided(config: ModelConfig) -> Network:
    """Random weights large enough for the answer to depend on every input."""
    network = build(config, seed=0)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter *= 2
        if network.backbone.prediction_tokens is not None:
            network.backbone.prediction_tokens *= 20
        network.box_head.layers[-1].weight *= 3
    return network


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    root = tmp_path_factory.mktemp("models")
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("torch.onnx").addHandler(handler)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for name, config in MODELS.items():
            checkpoint.save(decided(config), Config(config), root / f"{name}.safetensors")
            export(root / f"{name}.safetensors", root / name)
    logging.getLogger("torch.onnx").removeHandler(handler)
    folders = {name: root / name for name in MODELS}
    return Exported(folders, [*lines, *(str(warning.message) for warning in caught)])


@pytest.fixture(scope="session")
def folder(exported: Exported) -> Path:
    return exported.folders["scored"]


@pytest.fixture(scope="module")
def opened(exported: Exported) -> Iterator[Callable[[str, str, str], Backend]]:
    """A backend, loaded once for all tests, so that later ones find it used."""
    loaded: dict[tuple[str, str, str], Backend] = {}
    torch_threads = torch.get_num_threads()

    def get(model: str, name: str, precision: str) -> Backend:
        if precision == "bf16" and "bf16" not in precisions("CPU"):
            pytest.skip("this CPU has no bf16 arithmetic")
        key = (model, name, precision)
        if key not in loaded:
            loaded[key] = open_backend(exported.folders[model], name, precision, device="cpu", threads=1)
        return loaded[key]

    yield get
    torch.set_num_threads(torch_threads)


def crops(*shape: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def inputs(batch: int, online: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A template, online templates and a search crop."""
    return (
        crops(batch, 32, 32, seed=seed),
        crops(batch, online, 32, 32, seed=seed + 1),
        crops(batch, 64, 64, seed=seed + 2),
    )


def answer(network: Network, template: np.ndarray, online: np.ndarray, search: np.ndarray) -> Located:
    """The network's own."""
    tensors = [torch.from_numpy(array) for array in (template, online, search)]
    with torch.inference_mode():
        prediction = network.search(tensors[2], network.encode_templates(*tensors[:2]))
    score = torch.ones(len(search)) if prediction.score_logits is None else prediction.score_logits.sigmoid()
    return Located(prediction.box_unit.numpy(), score.numpy())


def assert_same(ours: Located, reference: Located, precision: str) -> None:
    assert ours.box_unit.dtype == ours.score.dtype == np.float32
    for name in Located._fields:
        np.testing.assert_allclose(
            getattr(ours, name), getattr(reference, name), rtol=0, atol=TOLERANCE[precision]
        )


# --- parity


@pytest.mark.parametrize("online", [1, 2])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("name", "precision"), RUNTIMES)
def test_every_backend_gives_the_networks_own_answer(
    opened: Callable[..., Backend],
    exported: Exported,
    name: str,
    precision: str,
    model: str,
    batch: int,
    online: int,
) -> None:
    backend = opened(model, name, precision)
    network, config = checkpoint.load(exported.folders[model] / WEIGHTS_FILE)
    assert (backend.name, backend.precision, backend.config) == (name, precision, config)
    template, templates, search = inputs(batch, online)
    ours = backend.search(search, backend.encode_templates(template, templates))
    assert_same(ours, answer(network, template, templates, search), precision)


@pytest.mark.parametrize("model", MODELS)
def test_the_answers_compared_here_depend_on_every_input(exported: Exported, model: str) -> None:
    network, _ = checkpoint.load(exported.folders[model] / WEIGHTS_FILE)
    first, other = inputs(batch=3, online=2), inputs(batch=3, online=2, seed=50)
    reference = answer(network, *first)
    for position in range(3):
        changed = [other[i] if i == position else first[i] for i in range(3)]
        assert (abs(answer(network, *changed).box_unit - reference.box_unit).max(axis=1) > 0.01).all()


@pytest.mark.parametrize(("name", "precision"), RUNTIMES)
def test_caches_serve_many_searches_and_do_not_mix(
    opened: Callable[..., Backend], folder: Path, name: str, precision: str
) -> None:
    backend, (network, _) = opened("scored", name, precision), checkpoint.load(folder / WEIGHTS_FILE)
    # Of one, two and one templates: the second and the third are bound to requests that others have used.
    targets = [inputs(batch=1, online=online, seed=10 * online)[:2] for online in (1, 2, 3)]
    targets.append(inputs(batch=1, online=1, seed=70)[:2])
    caches = [backend.encode_templates(*templates) for templates in targets]
    for frame, which in enumerate((0, 3, 3, 0, 1, 2, 0, 1, 3)):
        search = crops(1, 64, 64, seed=100 + frame)
        assert_same(
            backend.search(search, caches[which]), answer(network, *targets[which], search), precision
        )


@pytest.mark.parametrize("online", [1, 2])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("name", "precision"), RUNTIMES)
def test_stacked_caches_answer_each_target_its_own(
    opened: Callable[..., Backend], exported: Exported, name: str, precision: str, model: str, online: int
) -> None:
    backend = opened(model, name, precision)
    network, _ = checkpoint.load(exported.folders[model] / WEIGHTS_FILE)
    targets = [inputs(batch, online, seed=10 * batch)[:2] for batch in (1, 2, 1)]
    caches = [backend.encode_templates(*templates) for templates in targets]
    search = crops(4, 64, 64, seed=100)
    reference = answer(network, *map(np.concatenate, zip(*targets, strict=True)), search)
    assert_same(backend.search(search, backend.stack(caches)), reference, precision)
    turned = backend.search(search[[1, 2, 3, 0]], backend.stack([backend.stack(caches[1:]), caches[0]]))
    assert_same(turned, Located(*(part[[1, 2, 3, 0]] for part in reference)), precision)
    alone = backend.search(search[:1], caches[0])
    assert_same(alone, Located(*(part[:1] for part in reference)), precision)


@pytest.mark.parametrize(("name", "precision"), RUNTIMES[:3])
def test_an_answer_is_not_overwritten_by_the_next(
    opened: Callable[..., Backend], name: str, precision: str
) -> None:
    backend, (template, online, search) = opened("scored", name, precision), inputs(batch=1, online=1)
    cache = backend.encode_templates(template, online)
    first = backend.search(search, cache)
    kept = Located(first.box_unit.copy(), first.score.copy())
    backend.search(crops(1, 64, 64, seed=9), cache)
    backend.encode_templates(*inputs(batch=1, online=1, seed=9)[:2])
    np.testing.assert_array_equal(first.box_unit, kept.box_unit)
    np.testing.assert_array_equal(backend.search(search, cache).box_unit, kept.box_unit)


def read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flags.writeable = False
    return array


def part_of_a_larger_one(array: np.ndarray) -> np.ndarray:
    padded = np.pad(array, [(0, 0)] * (array.ndim - 3) + [(1, 2), (3, 4), (0, 0)])
    return padded[..., 1:-2, 3:-4, :]


def with_channels_turned_twice(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array[..., ::-1])[..., ::-1]


@pytest.mark.parametrize("view", [read_only, part_of_a_larger_one, with_channels_turned_twice])
@pytest.mark.parametrize(("name", "precision"), RUNTIMES[:3])
def test_crops_may_be_read_only_or_views_of_something_else(
    opened: Callable[..., Backend], name: str, precision: str, view: Callable[[np.ndarray], np.ndarray]
) -> None:
    backend, (template, online, search) = opened("scored", name, precision), inputs(batch=2, online=1)
    expected = backend.search(search, backend.encode_templates(template, online))
    ours = backend.search(view(search), backend.encode_templates(view(template), view(online)))
    np.testing.assert_array_equal(ours.box_unit, expected.box_unit)


def test_a_model_without_a_score_head_is_always_sure(opened: Callable[..., Backend]) -> None:
    for name, precision in RUNTIMES[:3]:
        backend, (template, online, search) = opened("plain", name, precision), inputs(batch=2, online=1)
        assert backend.search(search, backend.encode_templates(template, online)).score.tolist() == [1, 1]


# --- what an exported folder holds


def test_an_export_says_nothing_to_the_user(exported: Exported) -> None:
    assert exported.said == []


@pytest.mark.parametrize("model", MODELS)
def test_both_graphs_point_into_one_file_of_half_precision_weights(exported: Exported, model: str) -> None:
    folder = exported.folders[model]
    assert {path.name for path in folder.iterdir()} == {CONFIG_FILE, WEIGHTS_FILE, ENCODE_GRAPH, SEARCH_GRAPH}
    network, _ = checkpoint.load(folder / WEIGHTS_FILE)
    parameters = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    used = set()
    for name in (ENCODE_GRAPH, SEARCH_GRAPH):
        graph = onnx.load(folder / name, load_external_data=False).graph
        inside = [entry for entry in graph.initializer if not entry.external_data]
        # Channel means and deviations; all else is in the file.
        assert sum(int(np.prod(entry.dims)) for entry in inside) == 6
        for entry in graph.initializer:
            if entry not in inside:
                assert entry.data_type == onnx.TensorProto.FLOAT16
                assert {field.key: field.value for field in entry.external_data}["location"] == WEIGHTS_FILE
                assert list(entry.dims) == parameters[entry.name.removesuffix(".f16")]
                used.add(entry.name.removesuffix(".f16"))
        constants = [node.attribute[0].t for node in graph.node if node.op_type == "Constant"]
        assert all(int(np.prod(constant.dims)) <= 12 for constant in constants)
    assert used == set(parameters)


def test_graphs_are_small_and_keep_no_trace_of_where_they_were_made(folder: Path) -> None:
    for name in (ENCODE_GRAPH, SEARCH_GRAPH):
        content = (folder / name).read_bytes()
        assert len(content) < 40_000
        for trace in (str(folder), str(Path(__file__).parents[1]), "/home", "site-packages", ".py", "pkg."):
            assert trace.encode() not in content, trace


def test_batch_and_templates_are_free_in_the_graphs_and_crops_are_bytes(folder: Path) -> None:
    def inputs_of(name: str) -> dict[str, tuple[int, list[str | int]]]:
        graph = onnx.load(folder / name, load_external_data=False).graph
        types = {entry.name: entry.type.tensor_type for entry in graph.input}
        return {
            name: (kind.elem_type, [d.dim_param or d.dim_value for d in kind.shape.dim])
            for name, kind in types.items()
        }

    cache = (onnx.TensorProto.FLOAT, ["b", "template_tokens", 32])
    crop = (onnx.TensorProto.UINT8, ["b", 64, 64, 3])
    assert inputs_of(ENCODE_GRAPH) == {
        "template": (onnx.TensorProto.UINT8, ["b", 32, 32, 3]),
        "online": (onnx.TensorProto.UINT8, ["b", "online", 32, 32, 3]),
    }
    names = ("keys_0", "values_0", "keys_1", "values_1")
    assert inputs_of(SEARCH_GRAPH) == {"crop": crop} | dict.fromkeys(names, cache)


def test_the_config_is_read_without_loading_weights(folder: Path) -> None:
    assert read_config(folder / WEIGHTS_FILE) == checkpoint.load(folder / WEIGHTS_FILE)[1]


def test_an_export_that_fails_leaves_the_earlier_one_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (WEIGHTS_FILE, ENCODE_GRAPH, SEARCH_GRAPH):
        (tmp_path / name).write_text("earlier")
    checkpoint.save(build(MODELS["plain"], seed=0), Config(MODELS["plain"]), tmp_path / "other.safetensors")

    def fails(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(torch.onnx, "export", fails)
    with pytest.raises(MemoryError):
        export(tmp_path / "other.safetensors", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        WEIGHTS_FILE,
        ENCODE_GRAPH,
        SEARCH_GRAPH,
        "other.safetensors",
    }
    assert all((tmp_path / name).read_text() == "earlier" for name in (WEIGHTS_FILE, ENCODE_GRAPH))


def test_a_file_that_is_no_checkpoint_is_not_exported(tmp_path: Path) -> None:
    (tmp_path / "notes.safetensors").write_text("hello")
    with pytest.raises(ValueError, match=r"notes\.safetensors is not a whole safetensors file"):
        export(tmp_path / "notes.safetensors", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- opening


def test_auto_is_openvino_where_there_are_graphs_and_torch_where_not(folder: Path) -> None:
    assert open_backend(folder, threads=1).name == "openvino"
    assert open_backend(str(folder / WEIGHTS_FILE), threads=1).name == "openvino"
    alone = open_backend(folder.parent / "scored.safetensors")
    assert (alone.name, alone.precision) == ("torch", "f32")
    assert isinstance(alone, Backend)


def test_a_checkpoint_and_its_export_answer_alike_but_for_half_precision(folder: Path) -> None:
    template, online, search = inputs(batch=1, online=1)
    full, half = open_backend(folder.parent / "scored.safetensors"), open_backend(folder, precision="f32")
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
        (dict(threads=0), "threads must be at least 1, got 0"),
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
def test_a_wrong_option_gets_one_sentence(folder: Path, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as refused:
        open_backend(folder, **options)
    assert "\n" not in str(refused.value)


def test_a_gpu_that_torch_does_not_have_gets_one_sentence(folder: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    with pytest.raises(ValueError, match="torch has no device 'cuda' here"):
        open_backend(folder, "torch", device="cuda")


def test_a_gpu_without_room_for_the_model_gets_one_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB.")

    monkeypatch.setattr(Network, "to", full)
    with pytest.raises(ValueError, match="^the model does not fit into what is free of the memory of cuda$"):
        open_backend(folder, "torch", device="cuda")


@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_a_gpu_that_onnxruntime_was_built_without_is_told_with_the_package_that_has_it(
    folder: Path, device: str
) -> None:
    if len(ort.get_available_providers()) > 2:
        pytest.skip("this build of ONNX Runtime runs on GPUs")
    sentence = (
        f"onnxruntime has no device '{device}' here: the package onnxruntime-gpu has it; choose one of cpu"
    )
    with pytest.raises(ValueError, match=sentence):
        open_backend(folder, "onnxruntime", device=device)


def test_int8_of_a_model_that_was_not_quantised_is_told_with_the_command_that_does_it(folder: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=f"{folder} has no graph in int8: .*mixformerv2 quantise {folder}"
    ):
        open_backend(folder, precision="int8")


def test_bf16_on_a_processor_without_it_gets_one_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mixformerv2.runtime.openvino.precisions", lambda _: ("f32",))
    with pytest.raises(ValueError, match="has no bf16 arithmetic: choose precision f32, or auto"):
        open_backend(folder, "openvino", precision="bf16")
    assert open_backend(folder, "openvino").precision == "f32"


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("missing", [ENCODE_GRAPH, SEARCH_GRAPH])
def test_missing_graphs_are_told_with_the_command_that_makes_them(
    folder: Path, tmp_path: Path, name: str, missing: str
) -> None:
    for file in folder.iterdir():
        if file.name != missing:
            (tmp_path / file.name).symlink_to(file)
    with pytest.raises(FileNotFoundError, match=f"no graphs beside it for {name}: .*mixformerv2 export"):
        open_backend(tmp_path, name)
    assert open_backend(tmp_path).name == "torch"


@pytest.mark.parametrize("name", runtime.BACKENDS)
@pytest.mark.parametrize("damage", ["cut off", "cut off early", "empty", "pickle", "other safetensors"])
def test_a_damaged_weights_file_gets_one_sentence(
    folder: Path, tmp_path: Path, name: str, damage: str
) -> None:
    for graph in (ENCODE_GRAPH, SEARCH_GRAPH):
        (tmp_path / graph).symlink_to(folder / graph)
    content, broken = (folder / WEIGHTS_FILE).read_bytes(), tmp_path / WEIGHTS_FILE
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
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, advice: str
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda package: (package != name and found(package)) or None
    )
    with pytest.raises(ModuleNotFoundError, match=advice):
        open_backend(folder, name)


@pytest.mark.parametrize("name", ["openvino", "onnxruntime", "torch"])
def test_a_runtime_that_is_installed_and_cannot_be_loaded_says_why(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, f"mixformerv2.runtime.{name}", None)
    with pytest.raises(ValueError, match=f"the {name} backend is installed, but cannot be loaded: .*{name}"):
        open_backend(folder, name)


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
    folder: Path, tmp_path: Path, name: str, graph: str
) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / graph).write_bytes((folder / graph).read_bytes()[:2000])
    reason = {"openvino": "", "onnxruntime": r" \(.*INVALID_PROTOBUF.*\)"}[name]
    with pytest.raises(ValueError, match=rf"^.*{graph} is damaged .*: export the model again{reason}$"):
        open_backend(tmp_path, name)
