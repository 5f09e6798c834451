"""Files that appear under their name whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class PartialFile:
    """A claim on `target`: write to `path` beside it, then `commit` it into place or `discard` it."""

    def __init__(self, target: Path, path: Path, overwrite: bool = False) -> None:
        self.target = target
        self.path = path
        self._overwrite = overwrite

    @classmethod
    def claim(cls, target: str | Path, overwrite: bool = False) -> PartialFile:
        """Create the empty file `path`, so that a folder that cannot be written is found out before the work.

        Raises FileExistsError if `target` exists and `overwrite` is false, or another OSError.
        """
        real = Path(os.path.realpath(target))  # a link keeps pointing to the new file
        if os.path.isdir(real):
            raise IsADirectoryError(f"{target} cannot be written: it is a folder, name a file inside it")
        if os.path.exists(real) and not os.path.isfile(real):
            raise OSError(f"{target} cannot be written: it is a device or pipe, name an ordinary file")
        refuse_existing(target, overwrite)
        path = real.with_name(f".{real.stem}.{secrets.token_hex(4)}.partial{real.suffix}")
        try:
            path.open("xb").close()
        except OSError as error:
            if not os.path.exists(real.parent):
                reason = f"the folder {Path(target).parent} does not exist"
            elif not os.path.isdir(real.parent):
                reason = f"{Path(target).parent} is not a folder"
            else:
                reason = error.strerror or "the folder refuses new files"
            raise type(error)(f"{target} cannot be written: {reason}") from error
        return cls(real, path, overwrite)

    def commit(self) -> None:
        """Raises FileExistsError if there is a `target` by now that was not to be replaced; what was written is kept
        under another name, which the error has.
        """
        if self._overwrite and self.target.exists():
            with suppress(OSError):  # of a file system without permissions
                shutil.copymode(self.target, self.path)
        if self._overwrite or not self.target.exists():
            os.replace(self.path, self.target)
            return
        kept = self.path.with_name(self.path.name[1:])
        os.replace(self.path, kept)
        raise FileExistsError(f"{self.target} has come into being meanwhile: what belongs there is in {kept}")

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)


def refuse_existing(target: str | Path, overwrite: bool) -> None:
    """Raises FileExistsError where there is something that was not to be replaced."""
    if os.path.exists(target) and not overwrite:
        raise FileExistsError(
            f"{target} exists already: choose another name or pass --overwrite to replace it"
        )


def check_writable(target: str | Path, overwrite: bool = False) -> None:
    """Raises as ``PartialFile.claim`` where the file could not be written: to find out before the work."""
    PartialFile.claim(target, overwrite).discard()


@contextmanager
def whole_file(target: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """A path to write to: it becomes `target` when the block ends, and is removed when the block fails.

    Raises as ``PartialFile.claim``.
    """
    partial = PartialFile.claim(target, overwrite)
    try:
        yield partial.path
        partial.commit()
    except BaseException:
        partial.discard()
        raise


def write_bytes(target: str | Path, content: bytes | memoryview) -> None:
    """The content in place of what is there, on the disk itself before it takes that place: a power cut loses neither.

    Raises OSError with one sentence that names the file.
    """
    with whole_file(target, overwrite=True) as path:
        try:
            path.write_bytes(content)
            with path.open("r+b") as stream:
                os.fsync(stream.fileno())
        except OSError as error:
            raise type(error)(f"{target} cannot be written: {error.strerror}") from error


def write_text(target: str | Path, text: str) -> None:
    """The text in UTF-8, its lines ended as they are, in place of what is there. Raises as ``write_bytes``."""
    write_bytes(target, text.encode())
