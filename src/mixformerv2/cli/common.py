"""What every verb needs: the app, its two consoles, and how a wrong use is said."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperGroup

from mixformerv2.files import PartialFile

VERBS = (
    *("demo", "track", "models", "doctor", "evaluate", "report", "compare", "vot"),
    *("data", "train", "convert", "export", "quantise", "bench"),
)


class _InOrder(TyperGroup):
    """Verbs as a newcomer meets them."""

    def list_commands(self, _ctx: Any) -> list[str]:
        return sorted(self.commands, key=VERBS.index)


app = typer.Typer(
    cls=_InOrder,
    help="Track objects through a video; train, export, measure and compare the trackers that do it.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
out = Console(soft_wrap=True)
err = Console(stderr=True, soft_wrap=True)
_UsageError: Any = typer.BadParameter.__mro__[1]  # the parent of every wrong use, which typer does not export

JsonOption = Annotated[Path | None, typer.Option("--json", help="Also write it all as JSON.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")]


def _say_version(wanted: bool) -> bool:
    if wanted:
        import mixformerv2

        say(mixformerv2.__version__)
        raise typer.Exit
    return wanted


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """What holds for every verb."""


def main() -> None:
    """Entry point: exit code 0 when done, 2 with one line for wrong input, 130 after Ctrl-C."""
    warnings.showwarning = _show_warning
    try:
        sys.exit(app(sys.argv[1:] or ["--help"], prog_name="mixformerv2", standalone_mode=False))
    except (_UsageError, ValueError, OSError, ArithmeticError, ImportError) as error:
        err.print(f"[bold red]error:[/] {escape(_one_line(error))}", highlight=False)
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)


def _one_line(error: Any) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, _UsageError):
        verb = f" {error.ctx.info_name}" if error.ctx and error.ctx.parent else ""
        return f"{error.format_message().rstrip('.')}; see mixformerv2{verb} --help"
    return " ".join(str(error).split())


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if issubclass(category, UserWarning):
        warn(str(message))


def say(text: str, to: Console = out) -> None:
    """As it stands, on stdout unless that is another's: brackets in the name of a file are no markup."""
    to.print(text, markup=False, highlight=False)


def warn(message: str) -> None:
    err.print(f"[yellow]warning:[/] {escape(message)}", highlight=False)


@contextmanager
def json_document(path: Path | None, overwrite: bool) -> Iterator[Callable[[Any], None]]:
    """Gives a function that writes a document to the file, if one is wanted.

    The file is claimed at once: one that cannot be written is found out before the work, and none is left by halves.
    A device or pipe such as /dev/stdout is written to as it is.
    """
    if path is None or (path.exists() and not (path.is_file() or path.is_dir())):
        yield lambda document: _write_json(path, document)
        return
    file = PartialFile.claim(path, overwrite)

    def write(document: Any) -> None:
        _write_json(file.path, document)
        file.commit()

    try:
        yield write
    finally:
        file.discard()


def _write_json(path: Path | None, document: Any) -> None:
    if path is not None:
        path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8", newline="\n")


def key_values(given: Iterable[str]) -> dict[str, str]:
    """The options of KEY=VALUE. Raises ValueError for anything else, and for a key that comes twice."""
    values: dict[str, str] = {}
    for one in given:
        key, equals, value = one.partition("=")
        if not (key and equals) or key in values:
            raise ValueError(f"an option is KEY=VALUE, each key once, got {one!r}")
        values[key] = value
    return values


def parse_box(text: str) -> list[float]:
    """The numbers of --box."""
    try:
        values = [float(part) for part in text.replace(" ", "").split(",")]
    except ValueError:
        values = []
    if len(values) != 4:
        raise ValueError(f"--box is four numbers x,y,w,h in pixels, such as 205,151,17,50; got {text!r}")
    return values


def need_torch(verb: str) -> None:
    from importlib.util import find_spec

    for package in ("torch", "safetensors"):
        if find_spec(package) is None:
            raise ModuleNotFoundError(
                f"`mixformerv2 {verb}` needs the package {package}: pip install 'mixformerv2[train]'"
            )
