"""What is read of the processor: on what the choice of int8 hangs."""

from __future__ import annotations

import pytest

from mixformerv2.runtime import cpu

XEON = """processor\t: 0
model name\t: Intel(R) Xeon(R) Platinum 8358 CPU @ 2.60GHz
flags\t\t: fpu vme avx2 avx512f avx512dq avx512_vnni bf16x
bugs\t\t: spectre_v1 amx_int8

processor\t: 1
model name\t: Intel(R) Xeon(R) Platinum 8358 CPU @ 2.60GHz
flags\t\t: fpu vme avx2 avx512f avx512dq avx512_vnni bf16x
"""
CORE = "model name\t: Intel(R) Core(TM) i7-8550U\nflags\t\t: fpu sse4_2 avx2\n"
GRAVITON = "processor\t: 0\nFeatures\t: fp asimd asimddp sve i8mm bf16\n"


@pytest.mark.parametrize(
    ("text", "instructions", "is_made_for_int8"),
    [
        (XEON, ("avx2", "avx512f", "avx512_vnni"), True),
        (XEON.replace("avx512_vnni", "amx_tile amx_int8"), ("avx2", "avx512f", "amx_tile", "amx_int8"), True),
        (CORE, ("avx2",), False),
        (CORE.replace("avx2", "avx2 avx_vnni"), ("avx2", "avx_vnni"), True),
        (GRAVITON, ("asimd", "asimddp", "sve", "i8mm", "bf16"), False),
        ("", (), False),
    ],
)
def test_instructions_are_those_of_the_flags_alone(
    monkeypatch: pytest.MonkeyPatch, text: str, instructions: tuple[str, ...], is_made_for_int8: bool
) -> None:
    monkeypatch.setattr(cpu, "_cpuinfo", lambda: text)
    cpu.instructions.cache_clear()
    try:
        assert cpu.instructions() == instructions
        assert cpu.is_made_for_int8() is is_made_for_int8
    finally:
        cpu.instructions.cache_clear()


def test_the_name_is_that_for_people_and_never_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_cpuinfo", lambda: XEON)
    assert cpu.name() == "Intel(R) Xeon(R) Platinum 8358 CPU @ 2.60GHz"
    monkeypatch.setattr(cpu, "_cpuinfo", lambda: "")
    assert cpu.name()
