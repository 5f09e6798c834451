"""What a run learns from: that it is there, that nothing of it validates, and that it stays the same."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mixformerv2.data.benchmarks import LAYOUTS, READERS
from mixformerv2.data.sequence import Sequences, names_of, pictures_of
from mixformerv2.files import write_text
from mixformerv2.train.processes import is_first_process
from mixformerv2.train.stages import Recipe, StageConfig
from mixformerv2.train.validation import Validation

Datasets = Mapping[str, Sequences]
DATA = "data.json"  # in the folder of a run: which sequences it has learned from


def check_datasets(recipe: Recipe, data: Datasets) -> None:
    """Raises ValueError, before the first stage, where a later one would not find what it learns from or tracks."""
    for stage in recipe.stages:
        wanted = [name for name, weight in stage.data.sample.weights.items() if weight > 0]
        missing = [name for name in wanted if name not in data]
        if missing:
            raise ValueError(
                f"stage {stage.name} learns from {' and '.join(wanted)}, but the data folder holds {', '.join(data)}: "
                f"add {' and '.join(missing)}, or pass --set 'data.sample.weights={{}}' to learn from what is there"
            )
        if not to_learn_from(stage, data):
            raise ValueError(
                f"the data folder holds benchmarks alone ({', '.join(data)}), which training leaves out: to learn from "
                "one, name it in data.sample.weights"
            )
        held_out = stage.data.sample.held_out
        known = {name for sequences in data.values() for name in names_of(sequences)} if held_out else set()
        unknown = [name for name in held_out if name not in known]
        if unknown:
            raise ValueError(
                f"stage {stage.name} holds out {' and '.join(unknown)}, but no dataset has such a sequence: choose "
                "others with --set 'data.sample.held_out=[\"NAME\"]', or none with []"
            )
        if stage.validation is not None:
            validation = Validation.choose(stage.validation, data)
            for learning in (stage, *recipe.behind(stage)):
                _check_validation(stage.name, validation, learning, data)


def _check_validation(name: str, validation: Validation, learning: StageConfig, data: Datasets) -> None:
    """Raises ValueError where a stage would track what it learns from, or one behind it has: the best by that is the
    one that knows it.
    """
    kind, learned = validation.config.dataset, _learned_from(learning, data)
    whole = next((each for each in learned if kind == each or kind.startswith(f"{each}-")), None)
    if whole is None:
        return
    held_out = pictures_of(learned[whole], learning.data.sample.held_out)
    known = {*names_of(learned[whole])}
    seen = [
        each.name for each in validation.sequences if each.name in known and each.known_by not in held_out
    ]
    if seen:
        which = "it" if learning.name == name else f"the stage {learning.name} behind it"
        raise ValueError(
            f"stage {name} would be validated on {seen[0]} of {kind}, which {which} learns from: hold all such out of "
            f"all stages with --set 'data.sample.held_out=[\"{seen[0]}\"]', or validate on another dataset"
        )


def note_data(recipe: Recipe, data: Datasets, output: Path, begun: bool) -> None:
    """Keeps what a run learns from. Raises ValueError where it began with other sequences, or with other boxes of a
    person's own clips: what is trained already, and all that goes on from it, would pass for trained on these.

    What a run has noted that has not ``begun`` binds nobody.
    """
    used = {kind: each for stage in recipe.stages for kind, each in _learned_from(stage, data).items()}
    now = {kind: _digests(kind, sequences) for kind, sequences in used.items()}
    known = read_note(output / DATA) if begun and (output / DATA).exists() else {}
    for kind in now:
        before = known.get(kind, now[kind])
        if before["sha256"] != now[kind]["sha256"]:
            other = f"{kind} {before['sequences']} sequences and not these {now[kind]['sequences']}"
        elif before.get("boxes", now[kind].get("boxes")) != now[kind].get("boxes"):
            other = f"{kind} the same clips with other boxes"
        else:
            continue
        raise ValueError(
            f"{output} has learned from other data, of {other}: choose another output folder, or give it what it began "
            "with"
        )
    if known | now != known and is_first_process():
        output.mkdir(parents=True, exist_ok=True)
        write_text(output / DATA, json.dumps(known | now, indent=1) + "\n")


def _digests(kind: str, sequences: Sequences) -> dict[str, Any]:
    """What tells the sequences from others; of a person's own clips, which are corrected now and then, the boxes."""
    names = names_of(sequences)
    listed = "\n".join(sorted(names)).encode()
    told: dict[str, Any] = {"sequences": len(names), "sha256": hashlib.sha256(listed).hexdigest()}
    if kind.split(":")[0] == "folder":
        boxes = hashlib.sha256()
        for number in range(len(names)):
            with contextlib.suppress(ValueError):  # one that cannot be opened teaches nothing
                boxes.update(sequences[number].boxes_frame.tobytes())
        told["boxes"] = boxes.hexdigest()
    return told


def read_note(path: Path) -> dict[str, Any]:
    """A JSON file of the run. Raises ValueError where it is damaged."""
    try:
        content = json.loads(path.read_text())
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged: delete it, or choose another output folder")
    return content


def _learned_from(stage: StageConfig, data: Datasets) -> Datasets:
    """The datasets that examples are drawn from."""
    weights = stage.data.sample.weights
    known = to_learn_from(stage, data)
    return {kind: sequences for kind, sequences in known.items() if not weights or weights.get(kind, 0) > 0}


def to_learn_from(stage: StageConfig, data: Datasets) -> Datasets:
    """Without weights all datasets, but those that the field keeps for tests, and parts that validate."""
    if stage.data.sample.weights:
        return data
    for_tests = {
        kind for kind, layout in LAYOUTS.items() if layout.only_for_tests
    } | READERS.keys() - LAYOUTS.keys()
    return {kind: sequences for kind, sequences in data.items() if kind.split(":")[0] not in for_tests}
