"""What `mixformerv2 doctor` says about a machine."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from command_line import Run

from mixformerv2.bench import doctor
from mixformerv2.runtime import cpu
from mixformerv2.runtime.backend import open_backend, shipped_models
from mixformerv2.runtime.openvino import core


def test_doctor_prints_and_writes_what_this_machine_runs(run: Run, tmp_path: Path) -> None:
    ran = run("doctor", "--json", tmp_path / "doctor.json")
    assert (ran.code, ran.err) == (0, "")
    found = json.loads((tmp_path / "doctor.json").read_text())
    assert found["versions"]["openvino"] in ran.out
    assert "f32" in found["precisions"]
    assert found["devices"]["openvino"] == core().available_devices
    assert {"cpu"} <= set(found["devices"]["torch"]) & set(found["devices"]["onnxruntime"])
    for sentence in found["faster"]:
        assert sentence in ran.out


def test_what_doctor_says_of_auto_is_what_auto_takes() -> None:
    choices = doctor.diagnose().choices
    assert {choice.model for choice in choices} == set(shipped_models())
    for choice in choices:
        backend = open_backend(choice.model, threads=1)
        assert (backend.name, backend.precision) == (choice.backend, choice.precision)


def test_a_runtime_that_cannot_be_loaded_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mixformerv2.runtime.onnxruntime", None)
    ran = run("doctor")
    assert (ran.code, ran.err) == (0, "")
    (line,) = (line for line in ran.out.splitlines() if line.startswith("broken"))
    assert "onnxruntime: import of mixformerv2.runtime.onnxruntime halted" in line


def test_an_older_processor_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "instructions", lambda: ("avx2",))
    monkeypatch.setattr("mixformerv2.runtime.openvino.precisions", lambda _: ("f32", "int8"))
    found = doctor.diagnose()
    assert found.instruction_sets == dict(avx2=True, avx512=False, vnni=False, bf16=False, amx=False)
    assert found.precisions == ["f32", "int8"]
    assert all(choice.precision == "f32" for choice in found.choices)
    assert all("no arithmetic shorter than f32" in choice.why for choice in found.choices)
    assert not any("int8" in sentence for sentence in found.faster)


def test_a_system_that_says_nothing_of_its_processor_is_not_spoken_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cpu, "instructions", lambda: ())
    monkeypatch.setattr("mixformerv2.runtime.openvino.precisions", lambda _: ("f32", "int8"))
    found = doctor.diagnose()
    assert found.instruction_sets is None
    assert all("this system does not say" in choice.why for choice in found.choices)
    assert any(sentence.endswith("--model compact --precision int8") for sentence in found.faster)


def test_a_graph_in_int8_that_cannot_be_used_is_told_with_what_makes_it_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cpu, "instructions", lambda: ("avx2", "avx512_vnni"))
    monkeypatch.setattr("mixformerv2.runtime.openvino.digest_of_source", lambda _: "of other weights")
    for choice in doctor.diagnose().choices:
        assert choice.precision != "int8"
        assert f"mixformerv2 quantise {choice.model} --calibrate VIDEO" in choice.why
