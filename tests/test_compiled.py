"""Compiled graphs on disk: found, stale, damaged, shared, and switched off."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from exported_models import Exported, inputs

from mixformerv2.runtime import compiled, openvino
from mixformerv2.runtime.backend import Located, open_backend


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(compiled.VARIABLE, str(tmp_path / "kept"))
    return tmp_path / "kept"


def answer(model: Path) -> Located:
    backend = open_backend(model, "openvino", "f32", threads=1)
    template, online, search = inputs(batch=1, online=1)
    return backend.search(search, backend.encode_templates(template, online))


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A line for every graph that is compiled anew."""
    done: list[str] = []

    compile_model = ov.Core.compile_model

    def counted(*given: object) -> ov.CompiledModel:
        done.append("compiled")
        return compile_model(*given)

    monkeypatch.setattr(ov.Core, "compile_model", counted)
    return done


def test_the_second_process_finds_what_the_first_compiled(
    exported_folder: Path,
    place: Path,
    compilations: list[str],
) -> None:
    first = answer(exported_folder)
    assert len(compilations) == len(list(place.iterdir())) == 2
    second = answer(exported_folder)
    assert len(compilations) == 2
    np.testing.assert_array_equal(first.box_unit, second.box_unit)


@pytest.mark.parametrize("damage", ["cut off", "empty", "one bit", "another's"])
def test_a_damaged_file_is_compiled_anew_and_replaced(
    exported_folder: Path,
    place: Path,
    compilations: list[str],
    damage: str,
) -> None:
    first = answer(exported_folder)
    whole = {file: file.read_bytes() for file in place.iterdir()}
    for file, content in whole.items():
        flipped = content[:-1] + bytes([content[-1] ^ 1])
        digested = compiled.hashlib.sha256(b"no graph").digest() + b"no graph"  # whole, but no runtime's
        file.write_bytes({"cut off": content[:-9], "empty": b"", "one bit": flipped}.get(damage, digested))
    np.testing.assert_array_equal(answer(exported_folder).box_unit, first.box_unit)
    assert len(compilations) == 4
    assert {file.name for file in place.iterdir()} == {file.name for file in whole}
    answer(exported_folder)
    assert len(compilations) == 4


def test_a_file_of_other_weights_or_options_is_not_found(
    exported: Exported,
    tmp_path: Path,
    place: Path,
    compilations: list[str],
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for file in exported.folders["scored"].iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    first = answer(model)
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-400:-300] = bytes(100)
    (model / "model.safetensors").write_bytes(weights)
    other = answer(model)
    assert len(compilations) == 4
    assert not np.array_equal(first.box_unit, other.box_unit) or not np.array_equal(first.score, other.score)
    open_backend(model, "openvino", "f32", threads=2).encode_templates(*inputs(batch=1, online=1)[:2])
    assert len(compilations) == 5


def copy_of(folder: Path, place: Path, brighter: bool = False) -> Path:
    """The model again, its files as old as the first; ``brighter``: with other weights."""
    place.mkdir()
    for file in folder.iterdir():
        content = bytearray(file.read_bytes())
        if brighter and file.name == "model.safetensors":
            content[-400:-300] = bytes(100)
        (place / file.name).write_bytes(content)
        os.utime(place / file.name, ns=(10**18, 10**18))
    return place


def test_a_link_that_is_turned_to_another_model_finds_that(
    exported: Exported, tmp_path: Path, place: Path
) -> None:
    first = copy_of(exported.folders["scored"], tmp_path / "first")
    second = copy_of(exported.folders["scored"], tmp_path / "second", brighter=True)
    current = tmp_path / "current"
    answers = []
    for folder in (first, second):
        current.unlink(missing_ok=True)
        current.symlink_to(folder)
        answers.append(answer(current))
    assert not np.array_equal(answers[0].score, answers[1].score)
    np.testing.assert_array_equal(answers[1].score, answer(second).score)


def test_weights_that_change_before_they_are_compiled_are_not_taken_for_what_they_were(
    exported: Exported, tmp_path: Path, place: Path
) -> None:
    model = copy_of(exported.folders["scored"], tmp_path / "model")
    true = (model / "model.safetensors").read_bytes()
    backend = open_backend(model, "openvino", "f32", threads=1)
    changed = bytearray(true)
    changed[-400:-300] = bytes(100)
    (model / "model.safetensors").write_bytes(changed)
    with pytest.raises(ValueError, match=f"{model} has changed since it was opened: open the model again"):
        backend.encode_templates(*inputs(batch=1, online=1)[:2])
    assert not place.exists() or not list(place.iterdir())


def test_a_graph_made_ready_in_another_way_is_not_found(
    exported_folder: Path,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As by another version of this package, which kept keys and values in f32."""
    if "bf16" not in openvino.precisions("CPU"):
        pytest.skip("this processor has no bf16")
    template, online, search = inputs(batch=1, online=1)

    def answered() -> Located:
        backend = open_backend(exported_folder, "openvino", "bf16", threads=1)
        return backend.search(search, backend.encode_templates(template, online))

    with monkeypatch.context() as patch:
        for name in ("search_of_bf16_cache", "_of_bf16_cache"):
            patch.setattr(openvino, name, lambda graph: graph)
        earlier = answered()
    np.testing.assert_allclose(answered().box_unit, earlier.box_unit, atol=0.02)
    assert len(list(place.iterdir())) == 4


def test_nothing_is_kept_where_the_environment_says_off(
    exported_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(compiled.VARIABLE, "off")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    answer(exported_folder)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_costs_only_time(
    exported_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv(compiled.VARIABLE, str(tmp_path / "file" / "kept"))
    assert np.isfinite(answer(exported_folder).box_unit).all()


def test_by_default_it_is_the_users_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(compiled.VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert compiled.folder() == tmp_path / "mixformerv2"


def test_without_a_home_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in (compiled.VARIABLE, "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(compiled.Path, "home", nobody)
    assert compiled.folder() is None


def test_the_files_not_used_for_longest_make_room(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "MAX_BYTES", 2 * (100 + 32))
    (place / "of the user").mkdir(parents=True)
    (place / "thesis.docx").write_bytes(bytes(1000))
    os.utime(place / "thesis.docx", (1, 1))
    for age, name in ((30, "oldest.blob"), (20, "used.blob"), (10, "newer.blob")):
        compiled.save(name, bytes(100))
        if (place / name).exists():
            os.utime(place / name, (1e9 - age, 1e9 - age))
        if name == "used.blob":
            compiled.load("oldest.blob")
    left = {file.name for file in place.iterdir()}
    assert left == {"oldest.blob", "newer.blob", "of the user", "thesis.docx"}
    assert compiled.load("used.blob") is None
