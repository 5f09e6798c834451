"""The verb that makes models for other runtimes, and how their proofs are shown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from mixformerv2.cli.common import (
    JsonOption,
    OverwriteOption,
    app,
    err,
    json_document,
    need_torch,
    out,
    parse_box,
    say,
    warn,
)
from mixformerv2.files import refuse_existing
from mixformerv2.interrupts import as_keyboard_interrupts

if TYPE_CHECKING:
    from mixformerv2.evaluate.proof import Clip, Drift, Proof
    from mixformerv2.runtime.backend import Backend


@app.command(
    epilog="Example: mixformerv2 export small.safetensors small && mixformerv2 track v.mp4 --box 9,9,50,4 --model small"
)
def export(
    source: Annotated[str, typer.Argument(help="A .safetensors checkpoint, or a shipped model.")],
    folder: Annotated[Path, typer.Argument(help="Folder for the files of all targets.")],
    target: Annotated[
        list[str] | None,
        typer.Option(help="onnx (runs here), openvino, torch, executorch or ncnn; may be repeated."),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Fix how many targets a call takes; free by default.")
    ] = None,
    clip: Annotated[str | None, typer.Option(help="Video to replay instead of the shipped one.")] = None,
    box: Annotated[str | None, typer.Option(help="x,y,w,h of the object in its first frame.")] = None,
    truth: Annotated[Path | None, typer.Option(help="File of its true boxes, for the AUC.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Write even what drifts beyond the limits.")] = False,
    json_path: JsonOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Make a model for other runtimes; it replays a clip against torch, and is refused where it drifts."""
    need_torch("export")
    from mixformerv2.runtime.backend import shipped_models
    from mixformerv2.runtime.export import CONFIG_FILE, files_of, has_config_of, need_packages
    from mixformerv2.runtime.export import export as export_model

    targets = list(dict.fromkeys(target or ["onnx"]))
    need_packages(targets)
    files = files_of(targets)
    for file in files:
        if file != CONFIG_FILE or not has_config_of(folder, source):  # it belongs to all targets of a folder
            refuse_existing(folder / file, overwrite)
    trial = _Trial(_clip(clip, box, truth), force)
    with json_document(json_path, overwrite) as write_json:
        try:
            with as_keyboard_interrupts(), err.status("exporting, then replaying a clip"):
                export_model(source, folder, targets, batch, trial.check)
        finally:
            trial.report(write_json)
    size = sum((folder / file).stat().st_size for file in files) / 1e6
    place = f"./{folder}" if str(folder) in shipped_models() else folder
    usage = f"; track with --model {place}" if "onnx" in targets and batch in (None, 1) else ""
    say(f"{folder}: {size:.1f} MB{usage}")


def _clip(source: str | None, box: str | None, truth: Path | None) -> Clip:
    from mixformerv2.evaluate.proof import Clip

    if source is None:
        if box is not None or truth is not None:
            raise ValueError("--box and --truth belong to a --clip of your own, and there is none")
        return Clip.of_demo()
    if box is None:
        raise ValueError(f"--clip {source} needs the object in its first frame: --box x,y,w,h")
    return Clip.of_user(source, parse_box(box), truth)


class _Trial:
    """The proofs of one export, as they come."""

    def __init__(self, clip: Clip, force: bool) -> None:
        self._clip, self._force = clip, force
        self._proofs: list[tuple[str, Proof]] = []

    def check(self, target: str, reference: Backend, exported: Backend) -> None:
        """Raises ValueError for an export beyond the limits, unless it is wanted all the same."""
        from mixformerv2.evaluate.proof import Limits, prove

        proof = prove(reference, exported, self._clip)
        self._proofs.append((target, proof))
        broken = Limits().broken_by(proof)
        if broken:
            verdict = (
                f"the {target} export drifts in {proof.runtime} on {self._clip.source}: {'; '.join(broken)}"
            )
            if not self._force:
                raise ValueError(f"{verdict}; nothing is written (--force writes it all the same)")
            warn(verdict)

    def report(self, write_json: Callable[[Any], None]) -> None:
        """What was found so far, also of an export that is refused."""
        if not self._proofs:
            return
        rows = [{"target": target, **proof.to_json()} for target, proof in self._proofs]
        write_json({"clip": str(self._clip.source), "proofs": rows})
        out.print(_table(self._proofs))


def _table(proofs: list[tuple[str, Proof]]) -> Table:
    last = proofs[-1][1]
    table = Table(
        *("export", "replay", "mean\npx", "worst\npx", "mean\nIoU", "worst\nIoU", "AUC"),
        caption=f"against torch in f32 over {last.frames} frames; AUC on {last.auc_frames} of {last.auc_against}",
    )
    for target, proof in proofs:
        is_its_own = proof.runtime.split(".")[0] == target
        name = target if is_its_own else f"{target} in {proof.runtime}"
        auc = f"{proof.auc:.3f} {proof.auc_change:+.3f}"
        table.add_row(name, "same crops", *_shown(proof.same_crops), "")
        table.add_row("", "on its own", *_shown(proof.on_its_own), auc)
    return table


def _shown(drift: Drift) -> list[str]:
    pixels, overlaps = (drift.mean_px, drift.worst_px), (drift.mean_iou, drift.worst_iou)
    return [*(f"{value:.3f}" for value in pixels), *(f"{value:.4f}" for value in overlaps)]
