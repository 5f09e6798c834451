"""Every backend against the network itself, and what an exported folder holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from exported_models import MODELS, Exported, crops, inputs

from mixformerv2.config import Config
from mixformerv2.model import checkpoint
from mixformerv2.model.network import Network, build
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

RUNTIMES = [
    *((name, "f32") for name in ("torch", "onnxruntime", "openvino")),
    *((name, "bf16") for name in ("openvino", "torch")),
]
TOLERANCE = {"f32": 1e-5, "bf16": 0.02}  # of the crop's side, and of the score


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
    opened: Callable[..., Backend], exported_folder: Path, name: str, precision: str
) -> None:
    backend, (network, _) = opened("scored", name, precision), checkpoint.load(exported_folder / WEIGHTS_FILE)
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


def test_graphs_are_small_and_keep_no_trace_of_where_they_were_made(exported_folder: Path) -> None:
    for name in (ENCODE_GRAPH, SEARCH_GRAPH):
        content = (exported_folder / name).read_bytes()
        assert len(content) < 40_000
        for trace in (
            str(exported_folder),
            str(Path(__file__).parents[1]),
            "/home",
            "site-packages",
            ".py",
            "pkg.",
        ):
            assert trace.encode() not in content, trace


def test_batch_and_templates_are_free_in_the_graphs_and_crops_are_bytes(exported_folder: Path) -> None:
    def inputs_of(name: str) -> dict[str, tuple[int, list[str | int]]]:
        graph = onnx.load(exported_folder / name, load_external_data=False).graph
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


def test_the_config_is_read_without_loading_weights(exported_folder: Path) -> None:
    assert read_config(exported_folder / WEIGHTS_FILE) == checkpoint.load(exported_folder / WEIGHTS_FILE)[1]


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
