"""The VOT toolkit, run on a workspace of its own kind with any tracker of ours; its measures are read back.

Accuracy, robustness and expected average overlap are defined by that program, so it computes them. It is run as a
program (``vot``) and never imported, belongs in an environment of its own, and reaches the tracker through
`mixformerv2.evaluate.trax`. Tried with vot-toolkit 0.7.4: it runs supervised (VOT2013 to VOT2019), multi-start
(VOT2020 to VOT2022) and unsupervised experiments. With a tracker of one object 0.8.1 and 0.9.0 run the unsupervised
ones and fail in the others.
"""

from __future__ import annotations

import configparser
import hashlib
import io
import json
import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from mixformerv2.evaluate.spec import TrackerSpec, describe
from mixformerv2.files import write_text

# attributee 0.1.10 cannot be imported by any of the toolkit's versions.
INSTALL = (
    "install it in an environment of its own: "
    "python -m venv VOT && VOT/bin/pip install vot-toolkit==0.7.4 attributee==0.1.8"
)
_LAST_LINES = 6

# What the toolkit's analyses of all sequences together say, in their order; further items are for its plots.
_MEASURES = {
    "supervised.AverageAccuracyRobustness": ("accuracy", "failures"),
    "supervised.EAOScore": ("eao",),
    "multistart.AverageAccuracyRobustness": ("accuracy", "robustness"),
    "multistart.EAOScore": ("eao",),
    "accuracy.AverageAccuracy": ("accuracy",),
    "longterm.PrecisionRecall": ("precision", "recall", "f_score"),
    "longterm.AccuracyRobustness": ("accuracy", "robustness"),
    "longterm.AverageQualityAuxiliary": (
        "non_reported_error",
        "drift_rate_error",
        "absence_detection_quality",
    ),
}
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_PROGRESS = re.compile(r"\s*\d+ %\s*")


class VotScores(NamedTuple):
    """What the toolkit says of a tracker."""

    tracker: str
    """its name in the workspace"""
    toolkit: str
    """version"""
    measures: dict[str, dict[str, float]]
    """experiment, then measure; all in [0, 1] but ``failures``, the mean number in a sequence (the toolkit's robustness
    in supervised experiments: less is better). An analysis that gives no single numbers, or is not known here, stands
    in the file only"""
    file: Path
    """its own analysis, with the curves"""


def run_vot(
    spec: TrackerSpec,
    workspace: Path,
    toolkit: str | None = None,
    on_line: Callable[[str], None] | None = None,
) -> VotScores:
    """Runs the workspace's experiments with the tracker, and the toolkit's analysis of them.

    The tracker is entered into the workspace's ``trackers.ini``, under a name that says what its results depend on:
    those that are there already are not made again, so that a run that was broken off goes on. ``toolkit`` is the
    command ``vot``; ``on_line`` is given each line that it prints. Raises FileNotFoundError without a workspace or
    the toolkit, ChildProcessError with its last lines where it fails, and as ``describe`` does.
    """
    program = find_toolkit(toolkit)
    if not (workspace / "config.yaml").is_file():
        raise FileNotFoundError(
            f"{workspace} is no VOT workspace, it has no config.yaml: make one with "
            f"`{program} initialize --workspace {workspace} STACK`"
        )
    name = enter(spec, workspace)
    place = ["--workspace", str(workspace.resolve()), name]
    said = _run([program, "evaluate", *place], workspace, on_line)
    # Its exit code is 0 also where the tracker failed.
    if not any("Evaluation concluded" in line for line in said):
        raise _failed("evaluate", said)
    # A name of its own, for an old file may not be taken for the new one.
    analysis = f"{name}-{secrets.token_hex(4)}"
    said = _run([program, "analysis", *place, "--format", "json", "--name", analysis], workspace, on_line)
    file = workspace / "analysis" / f"{analysis}.json"
    if not file.is_file():
        raise _failed("analysis", said)
    return read_analysis(file, name)


def find_toolkit(command: str | None = None) -> str:
    """The path of the toolkit's program. Raises FileNotFoundError with how to install it where it is not there."""
    found = shutil.which(command or "vot")
    if found is None:
        wanted = f"at {command}" if command else "on the PATH"
        raise FileNotFoundError(
            f"the VOT toolkit's program is not {wanted}: {INSTALL}, and name VOT/bin/vot as the toolkit"
        )
    return os.path.abspath(found)


def enter(spec: TrackerSpec, workspace: Path) -> str:
    """Writes the tracker into ``trackers.ini`` of the workspace and returns its name there.

    The name ends in eight digits of what ``describe`` says, so the toolkit never takes results of other weights or
    options for those of this tracker. Other entries, comments too, stay as they are.
    """
    about = hashlib.sha256(json.dumps(describe(spec), sort_keys=True).encode()).hexdigest()[:8]
    name = (re.sub(r"[^A-Za-z0-9]+", "-", spec.label).strip("-") or "tracker") + f"-{about}"
    # The toolkit starts trackers in a folder of its own.
    server = [sys.executable, "-m", "mixformerv2.evaluate.trax", "--cwd", os.getcwd(), spec.text]
    command = shlex.join([*server, *map(_word, spec.options.items())])
    entry = configparser.ConfigParser(interpolation=None)
    entry[name] = {
        key: value.replace("%", "%%")  # the toolkit's reader gives the sign a meaning
        for key, value in {"label": spec.label, "protocol": "trax", "command": command}.items()
    }
    text = io.StringIO()
    entry.write(text)
    path = workspace / "trackers.ini"
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    others = re.sub(rf"^\[{name}\]\n(?:[^\[\n].*\n?)*", "", before, flags=re.MULTILINE).rstrip()
    write_text(path, f"{others}\n\n{text.getvalue()}".lstrip())
    return name


def _word(option: tuple[str, Any]) -> str:
    """As ``parse`` reads it."""
    key, value = option
    return f"{key}={value if isinstance(value, str) else json.dumps(value)}"


def read_analysis(file: Path, tracker: str) -> VotScores:
    """The measures in a file that `vot analysis --format json` wrote for this tracker alone."""
    said: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    measures: dict[str, dict[str, float]] = {}
    for name, experiment in said["results"].items():
        measures[name] = {}
        analyses, results = experiment["parameters"].get("analyses", []), experiment["results"]
        if len(analyses) != len(results):  # which ones it left out as unfit for the experiment is not said
            continue
        for analysis, rows in zip(analyses, results, strict=True):
            keys = _MEASURES.get(analysis["type"].removeprefix("vot.analysis."), ())
            # One row a tracker.
            measures[name] |= {key: float(value) for key, value in zip(keys, rows[0], strict=False)}
    return VotScores(tracker, str(said["toolkit"]), measures, file)


def _run(command: list[str], workspace: Path, on_line: Callable[[str], None] | None) -> list[str]:
    """The last lines that the toolkit printed, without its progress."""
    last: deque[str] = deque(maxlen=_LAST_LINES)
    with subprocess.Popen(
        command,
        cwd=workspace,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
    ) as process:
        assert process.stdout is not None
        try:
            for raw in process.stdout:
                line = _COLOUR.sub("", raw).rstrip()
                if on_line is not None and line:
                    on_line(line)
                if line and not _PROGRESS.fullmatch(line):
                    last.append(line)
        except BaseException:
            process.terminate()
            raise
    if process.returncode:
        raise _failed(command[1], [*last, f"(exit code {process.returncode})"])
    return list(last)


def _failed(verb: str, said: list[str]) -> ChildProcessError:
    last = " | ".join(said) or "(it printed nothing)"
    return ChildProcessError(f"the VOT toolkit's `vot {verb}` failed; its last lines: {last}")
