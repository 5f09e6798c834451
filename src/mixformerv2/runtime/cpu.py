"""The processor: what it is called, and what it computes with, as far as that decides how fast a network runs."""

from __future__ import annotations

import functools
import platform
from contextlib import suppress
from pathlib import Path

# Instruction sets as Linux calls them.
_AVX = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16")
_AMX = ("amx_tile", "amx_bf16", "amx_int8")
_ARM = ("asimd", "asimddp", "sve", "i8mm", "bf16")
# Of x86, for products of 8-bit numbers, four at once, added up without overflow. Arm has such too: not measured.
_INT8 = {"avx512_vnni", "avx_vnni", "amx_int8"}


def name() -> str:
    """For people."""
    names = [value for key, value in _parse(_cpuinfo()) if key == "model name"]
    return names[0] if names else platform.processor() or platform.machine()


@functools.cache
def instructions() -> tuple[str, ...]:
    """Those that matter; empty where the system does not say, as outside Linux."""
    flags = {
        flag for key, value in _parse(_cpuinfo()) if key in ("flags", "Features") for flag in value.split()
    }
    return tuple(known for known in (*_AVX, *_AMX, *_ARM) if known in flags)


def is_made_for_int8() -> bool:
    """Whether int8 takes less time than floating point and loses nothing to overflow, as far as the system says."""
    return not _INT8.isdisjoint(instructions())


def _parse(cpuinfo: str) -> list[tuple[str, str]]:
    """What each line of ``/proc/cpuinfo`` says of what."""
    parts = (line.partition(":") for line in cpuinfo.splitlines())
    return [(key.strip(), value.strip()) for key, _, value in parts]


def _cpuinfo() -> str:
    with suppress(OSError):
        return Path("/proc/cpuinfo").read_text("utf-8", "replace")
    return ""
