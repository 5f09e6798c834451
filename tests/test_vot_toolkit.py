"""The VOT toolkit as a program that is run; here a stand-in that prints and writes as version 0.7.4 did."""

from __future__ import annotations

import configparser
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import Run
from trackers import HERE

from mixformerv2.evaluate.spec import TrackerSpec, parse
from mixformerv2.evaluate.vot import enter, find_toolkit, read_analysis, run_vot

# Experiment, analysis and its result for one tracker, as the toolkit wrote them for a small workspace of two sequences.
SAID = {
    "baseline": [
        ("supervised.AverageAccuracyRobustness", [0.393, 1.5, [0.3247, 0.393], 40.0]),
        ("supervised.EAOScore", [0.3212]),
    ],
    "multi": [
        ("multistart.EAOScore", [0.2769]),
        ("multistart.EAOCurve", [[0, 0.5, 0.25]]),
        ("multistart.AverageAccuracyRobustness", [0.3587, 0.45, [0.45, 0.3587], 160, 80]),
    ],
    "unsupervised": [("accuracy.AverageAccuracy", [0.2172])],
    "challenge": [],
}  # fmt: skip

# Lies in the workspace's parent; it works in the workspace, where `behaviour.json` says at which verb it fails.
STAND_IN = """
import json, os, sys
verb, *arguments = sys.argv[1:]
name = next(a for i, a in enumerate(arguments) if not a.startswith("--") and not arguments[i - 1].startswith("--"))
options = dict(zip(arguments, arguments[1:]))
open("calls", "a").write(json.dumps(sys.argv[1:]) + chr(10))
behaviour = json.load(open("behaviour.json"))
if behaviour.get(verb) == "crash":
    sys.exit("Workspace is broken")
print("\\r", end="")
for percent in range(0, 101, 5):
    sys.stderr.write(f"{percent} %\\n")
if verb == "evaluate":
    if behaviour.get(verb) == "fail":
        sys.stderr.write(f"\\x1b[31mTracker {name} encountered an error at sequence a: lost my way\\x1b[0m\\n")
        sys.stderr.write("\\x1b[31mEvaluation interrupted by tracker error: lost my way\\x1b[0m\\n")
        sys.exit(0)
    print("Evaluation concluded successfuly\\x1b[0m")
else:
    if behaviour.get(verb) == "fail":
        print("Errors occured during analysis, incomplete.\\x1b[0m")
        sys.exit(0)
    os.makedirs("analysis", exist_ok=True)
    with open(f"analysis/{options['--name']}.json", "w") as file:
        json.dump(json.load(open("said.json")), file)
    print(f"Analysis successful, report available as {options['--name']}\\x1b[0m")
"""


def analysis(said: dict[str, list] = SAID) -> dict:
    results = {
        experiment: {
            "parameters": {"analyses": [{"type": f"vot.analysis.{kind}"} for kind, _ in analyses]},
            "results": [[row] for _, row in analyses],
        }
        for experiment, analyses in said.items()
    }
    return {"toolkit": "0.7.4", "trackers": {}, "results": results}


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    folder = tmp_path / "my workspace"
    folder.mkdir()
    (folder / "config.yaml").write_text("registry:\n- ./trackers.ini\nstack: ./stack.yaml\n")
    (folder / "said.json").write_text(json.dumps(analysis()))
    behave(folder)
    return folder


@pytest.fixture
def toolkit(tmp_path: Path) -> str:
    path = tmp_path / "vot"
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    path.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, str(tmp_path / "stand_in.py")])} "$@"\n')
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def spec() -> TrackerSpec:
    return parse(f"{HERE}:Follow", {"sleep_s": "0.25"})


def behave(workspace: Path, **verbs: str) -> None:
    (workspace / "behaviour.json").write_text(json.dumps(verbs))


def test_the_measures_are_those_that_the_toolkit_wrote(
    workspace: Path, toolkit: str, spec: TrackerSpec
) -> None:
    lines: list[str] = []
    scores = run_vot(spec, workspace, toolkit, on_line=lines.append)
    assert scores.toolkit == "0.7.4"
    assert scores.measures == {
        "baseline": {"accuracy": 0.393, "failures": 1.5, "eao": 0.3212},
        "multi": {"eao": 0.2769, "accuracy": 0.3587, "robustness": 0.45},
        "unsupervised": {"accuracy": 0.2172},
        "challenge": {},
    }
    assert scores.file.is_file() and scores.file.parent == workspace / "analysis"
    assert {"50 %", "Evaluation concluded successfuly"} <= {*lines}

    evaluate, analyse = map(json.loads, (workspace / "calls").read_text().splitlines())
    assert evaluate == ["evaluate", "--workspace", str(workspace.resolve()), scores.tracker]
    assert analyse[:6] == ["analysis", *evaluate[1:], "--format", "json"]


def test_the_entry_starts_our_server_with_the_tracker_and_its_options(
    workspace: Path, spec: TrackerSpec, tmp_path: Path
) -> None:
    odd = TrackerSpec(spec.text, {"log": f"{tmp_path}/50% off; 'cheap'", "flag": False, "other": None})
    for one in (spec, odd):
        name = enter(one, workspace)
        read = configparser.ConfigParser()  # as the toolkit reads it, which knows % as a sign of its own
        read.read(workspace / "trackers.ini")
        assert {**read[name]} == {"label": one.label, "protocol": "trax", "command": read[name]["command"]}
        words = shlex.split(read[name]["command"])
        assert words[1:3] == ["-m", "mixformerv2.evaluate.trax"]
        text, *options = words[words.index("--cwd") + 2 :]
        assert parse(text, dict(option.split("=", 1) for option in options)) == one


def test_the_command_of_the_entry_really_starts_the_server(workspace: Path, spec: TrackerSpec) -> None:
    name = enter(spec, workspace)
    read = configparser.ConfigParser()
    read.read(workspace / "trackers.ini")
    done = subprocess.run(
        shlex.split(read[name]["command"]), cwd="/", input="@@TRAX:quit\n", text=True, capture_output=True, check=True
    )  # fmt: skip
    assert "@@TRAX:hello" in done.stdout and "Follow (sleep_s=0.25)" in done.stdout


def test_other_entries_stay_and_the_trackers_own_is_replaced(workspace: Path, spec: TrackerSpec) -> None:
    path = workspace / "trackers.ini"
    others = "# ours, do not touch\n[siamese]\nprotocol = traxpython\ncommand = siamese.vot\n"
    path.write_text(others)
    name = enter(spec, workspace)
    once = path.read_text()
    assert once.startswith(others) and once.count(f"[{name}]") == 1
    path.write_text(once.replace("command = ", "command = /another/") + "# a note\n[last]\ncommand = x\n")
    assert enter(spec, workspace) == name
    again = path.read_text()
    assert again.count(f"[{name}]") == 1
    assert "# a note\n[last]\ncommand = x\n" in again
    assert again.count("command = /another/") == 1  # of the siamese


def test_a_tracker_with_other_options_has_another_name(workspace: Path, spec: TrackerSpec) -> None:
    names = [
        enter(one, workspace) for one in (spec, parse(spec.text, {"sleep_s": 1}), parse("opencv:mil"), spec)
    ]
    assert names[0] == names[3] and len({*names}) == 3
    assert names[0].startswith("Follow-sleep-s-0-25-") and names[2].startswith("opencv-mil-")


@pytest.mark.parametrize(
    ("verbs", "sentence"),
    [
        ({"evaluate": "crash"}, r"`vot evaluate` failed; .*: Workspace is broken \| \(exit code 1\)$"),
        (
            {"evaluate": "fail"},
            r"error at sequence a: lost my way \| Evaluation interrupted by tracker error",
        ),
        ({"analysis": "crash"}, "`vot analysis` failed; .*Workspace is broken"),
        ({"analysis": "fail"}, r"`vot analysis` failed; its last lines: Errors occured during analysis"),
    ],
)
def test_a_failure_is_passed_on_with_the_last_lines(
    workspace: Path, toolkit: str, spec: TrackerSpec, verbs: dict[str, str], sentence: str
) -> None:
    behave(workspace, **verbs)
    with pytest.raises(ChildProcessError, match=sentence) as caught:
        run_vot(spec, workspace, toolkit)
    assert "\x1b" not in str(caught.value) and " %" not in str(caught.value)


def test_without_the_toolkit_it_is_said_how_to_install_it(
    workspace: Path, spec: TrackerSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(
        FileNotFoundError, match=r"not on the PATH: .* VOT/bin/pip install vot-toolkit==0\.7\.4"
    ):
        run_vot(spec, workspace)
    with pytest.raises(FileNotFoundError, match=r"not at /no/such/vot: "):
        run_vot(spec, workspace, "/no/such/vot")
    assert not (workspace / "trackers.ini").exists()


def test_the_toolkit_is_found_on_the_path(toolkit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(Path(toolkit).parent))
    assert find_toolkit() == toolkit


def test_a_folder_that_is_no_workspace_is_refused(tmp_path: Path, toolkit: str, spec: TrackerSpec) -> None:
    with pytest.raises(FileNotFoundError, match="is no VOT workspace, it has no config.yaml: make one with"):
        run_vot(spec, tmp_path, toolkit)


def test_no_measure_is_guessed_where_the_toolkit_left_out_an_analysis(tmp_path: Path) -> None:
    said = analysis()
    said["results"]["baseline"]["results"].pop(0)
    said["results"]["multi"]["parameters"]["analyses"][0]["type"] = "vot.analysis.of_tomorrow.Score"
    path = tmp_path / "analysis.json"
    path.write_text(json.dumps(said))
    measures = read_analysis(path, "tiny").measures
    assert measures["baseline"] == {}
    assert measures["multi"] == {"accuracy": 0.3587, "robustness": 0.45}


def test_stopping_midway_ends_the_toolkit(workspace: Path, spec: TrackerSpec, tmp_path: Path) -> None:
    slow = tmp_path / "vot"
    slow.write_text("#!/bin/sh\necho $$\nexec sleep 60\n")
    slow.chmod(0o755)

    processes: list[int] = []

    def stop(line: str) -> None:
        processes.append(int(line))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_vot(spec, workspace, str(slow), on_line=stop)
    with pytest.raises(ProcessLookupError):
        os.kill(processes[0], 0)


def test_the_verb_prints_the_measures_and_fails_where_the_toolkit_does(
    workspace: Path, toolkit: str, run: Run
) -> None:
    command = "vot", workspace, "--tracker", f"{HERE}:Follow", "--toolkit", toolkit
    ran = run(*command)
    assert ran.code == 0, ran.err
    assert "failures" in ran.out and "0.393" in ran.out and "0.321" in ran.out
    behave(workspace, evaluate="fail")
    ran = run(*command)
    assert ran.code == 1
    assert "failed: the VOT toolkit's `vot evaluate` failed" in ran.err and "lost my way" in ran.err
