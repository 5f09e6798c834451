"""Graphs as a runtime compiled them, kept on disk: a process that finds one is ready in a third of the time.

A file's name is a digest of everything that went into it, so one that is stale is never found; it opens with a digest
of what follows, so one that is damaged is never used. It appears whole under its name, and two processes that write
the same name write the same: any number may share the folder.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

VARIABLE = "MIXFORMERV2_CACHE"  # another folder, or "off"
MAX_BYTES = 1 << 30  # of graphs in the folder; those that were not used for longest go first
_SUFFIX, _UNFINISHED = ".blob", ".blob.part"
_DIGEST_BYTES = hashlib.sha256().digest_size


def folder() -> Path | None:
    """Where compiled graphs are kept; None where the environment says ``off``, and where nobody is at home."""
    given = os.environ.get(VARIABLE, "")
    if given.lower() == "off":
        return None
    if given:
        return Path(given)
    default = {"win32": "AppData/Local", "darwin": "Library/Caches"}.get(sys.platform, ".cache")
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / default) / "mixformerv2"
    except RuntimeError:  # as in a container whose user has neither a home nor a name
        return None


def digest(files: Iterable[Path]) -> str:
    """Of what the files hold, wherever they lie."""
    return hashlib.sha256(b"".join(map(_digest_of_file, files))).hexdigest()


def _digest_of_file(file: Path) -> bytes:
    # The file itself, not a link to it, which may point elsewhere next time; and when it last changed in any way.
    file = file.resolve()
    about = file.stat()
    which = (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)
    return _digest_of_content(file, *which)


@functools.cache
def _digest_of_content(file: Path, *_: int) -> bytes:
    """Once for each state of a file: those of weights are asked for as a model opens, and as its graphs are kept."""
    return hashlib.sha256(file.read_bytes()).digest()


def name(**about: Any) -> str:
    """The name for what is made in this way."""
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:40] + _SUFFIX


def load(name: str) -> bytes | None:
    """What was kept under the name; None where there is nothing, or something damaged, which is removed."""
    place = folder()
    if place is None:
        return None
    try:
        content = (place / name).read_bytes()
    except OSError:
        return None
    kept = content[_DIGEST_BYTES:]
    if hashlib.sha256(kept).digest() != content[:_DIGEST_BYTES]:
        remove(name)
        return None
    with contextlib.suppress(OSError):
        os.utime(place / name)
    return kept


def save(name: str, content: bytes) -> None:
    """Keeps it, if the folder can be written to: a full disk or a home that is read-only costs time, not the result."""
    place = folder()
    if place is None:
        return
    with contextlib.suppress(OSError):
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=place, suffix=_UNFINISHED, delete=False) as unfinished:
            try:
                unfinished.write(hashlib.sha256(content).digest() + content)
                unfinished.close()
                os.replace(unfinished.name, place / name)
            finally:
                Path(unfinished.name).unlink(missing_ok=True)
        _make_room(place)


def remove(name: str) -> None:
    place = folder()
    if place is not None:
        with contextlib.suppress(OSError):
            (place / name).unlink()


def _make_room(place: Path) -> None:
    """Of this module's own files: the folder may hold others."""
    kept, ours = 0, [*place.glob(f"*{_SUFFIX}"), *place.glob(f"*{_UNFINISHED}")]
    for _, size, path in sorted(((s.st_mtime, s.st_size, p) for p in ours if (s := p.stat())), reverse=True):
        kept += size
        if kept > MAX_BYTES:
            path.unlink(missing_ok=True)
