"""The verbs about models: what ships, and what is converted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mixformerv2.cli.common import (
    JsonOption,
    OverwriteOption,
    app,
    json_document,
    need_torch,
    out,
    say,
)
from mixformerv2.files import check_writable


@app.command(epilog="Example: mixformerv2 convert mixformerv2_small.pth.tar small.safetensors")
def convert(
    source: Annotated[
        Path, typer.Argument(help="A published .pth.tar checkpoint: B, S, a student or a MixViT.")
    ],
    target: Annotated[Path, typer.Argument(help="The .safetensors file to write.")],
    overwrite: OverwriteOption = False,
) -> None:
    """Read a checkpoint of the released research code; nothing in the file is executed."""
    need_torch("convert")
    from mixformerv2.model import checkpoint

    check_writable(target, overwrite)
    config = checkpoint.convert(source, target)
    m = config.model
    say(
        f"{target}: {m.depth} blocks, width {m.dim}, MLP ratio {m.mlp_ratio:g}, {m.num_bins} bins, "
        f"{m.search_px}/{m.template_px} px, {'score head' if m.score_head else 'no score head'}",
    )


@app.command(epilog="Example: mixformerv2 models --json models.json")
def models(
    json_path: JsonOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """List the models that come with the package."""
    from dataclasses import asdict

    from rich.table import Table

    from mixformerv2.config import DEFAULT_MODEL
    from mixformerv2.runtime.backend import INT8_GRAPH, read_config, shipped_models

    table = Table("model", "blocks", "width", "MLP", "input px", "MB", "int8")
    listed = []
    for name, path in shipped_models().items():
        config, size = read_config(path), path.stat().st_size
        m = config.model
        row = (
            name,
            m.depth,
            m.dim,
            f"{m.mlp_ratio:g}",
            f"{m.search_px}/{m.template_px}",
            f"{size / 1e6:.1f}",
            "yes" if (path.parent / INT8_GRAPH).is_file() else "no",
        )
        table.add_row(*map(str, row))
        listed.append({"name": name, "path": str(path), "bytes": size, **asdict(config)})
    with json_document(json_path, overwrite) as write_json:
        write_json(listed)
    out.print(table)
    say(
        f"{DEFAULT_MODEL} is the default; --model takes an exported folder or a checkpoint as well. Their "
        "folders, each with its figures and limits in README.md:"
    )
    for path in shipped_models().values():
        say(f"  {path.parent}")
