"""What the processor computes with, as far as it decides how fast a network runs."""

from __future__ import annotations

import functools
from contextlib import suppress
from pathlib import Path

# Names as Linux has them, x86 and Arm.
_KNOWN = (
    *(
        "avx2",
        "avx_vnni",
        "avx512f",
        "avx512_vnni",
        "avx512_bf16",
        "avx512_fp16",
        "amx_tile",
        "amx_bf16",
        "amx_int8",
    ),
    *("asimd", "asimddp", "sve", "i8mm", "bf16"),
)
_INT8 = (
    "avx512_vnni",
    "avx_vnni",
    "amx_int8",
)  # products of 8-bit numbers, four at once, added up without overflow


@functools.cache
def instructions() -> tuple[str, ...]:
    """Empty where the system does not say."""
    flags: set[str] = set()
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            if line.split(":")[0].strip() in ("flags", "Features"):
                flags.update(line.partition(":")[2].split())
    return tuple(name for name in _KNOWN if name in flags)


def is_made_for_int8() -> bool:
    """Whether int8 takes less time than any floating point and loses nothing to overflow, as far as the system says."""
    return not set(_INT8).isdisjoint(instructions())
