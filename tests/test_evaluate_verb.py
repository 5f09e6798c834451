"""The verbs that run, score, compare and hand trackers on, as a person meets them."""

from __future__ import annotations

import csv
import json
import runpy
import shutil
import zipfile
from pathlib import Path
from typing import Any

import layouts
import pytest
from command_line import Run
from trackers import HERE, write_frames, write_otb

from mixformerv2.runtime.backend import shipped_models

FOLLOW = f"{HERE}:Follow"
LENGTHS = {"a": 12, "b": 9, "c": 7}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_otb(tmp_path / "otb", LENGTHS)


def flawed(fault: str = "raises") -> list[str]:
    """A tracker that goes wrong in sequence b."""
    return ["--tracker", f"{HERE}:Flawed", "--option", f"fault={fault}", "--option", "level=20"]


def scores(path: Path) -> list[dict]:
    return json.loads(path.read_text())["runs"]


# --- evaluate


def test_a_run_scores_keeps_its_results_and_writes_a_report(root: Path, run: Run) -> None:
    ran = run("evaluate", "--tracker", FOLLOW, "--dataset", "otb", "--root", root)
    assert ran.code == 0, ran.err
    assert "Follow: 3 done" in ran.out
    folder = Path("runs/otb/Follow")
    assert {path.name for path in folder.iterdir()} >= {
        "scores.json",
        "scores.csv",
        "scores.tex",
        "report.html",
    }
    assert {path.stem for path in (folder / "results").iterdir()} == {*LENGTHS}
    (row,) = scores(folder / "scores.json")
    assert row["protocols"]["otb"]["overall"]["auc"] > 0.9
    with (folder / "scores.csv").open() as file:
        assert {line["name"] for line in csv.DictReader(file)} >= {*LENGTHS}


def test_a_dataset_that_is_found_below_the_root_is_scored_too(root: Path, run: Run) -> None:
    root.rename("OTB100")
    Path("datasets").mkdir()
    Path("OTB100").rename("datasets/OTB100")
    ran = run("evaluate", "--tracker", FOLLOW, "--root", "datasets", "--output", "run", "--no-html")
    assert ran.code == 0, ran.err
    assert len(scores(Path("run/scores.json"))) == 1


def test_a_second_run_keeps_what_is_finished(root: Path, run: Run) -> None:
    command = "evaluate", "--tracker", FOLLOW, "--root", root, "--output", "run", "--no-html"
    assert run(*command, "--sequence", "a").code == 0
    ran = run(*command)
    assert "2 done, 1 kept from before" in ran.out
    assert not Path("run/report.html").exists()


def test_several_trackers_stand_side_by_side_each_with_its_own_options(root: Path, run: Run) -> None:
    talks = f"{HERE}:Talks"
    ran = run(
        *("evaluate", "--tracker", FOLLOW, "--tracker", talks, "--root", root, "--output", "both"),
        *("--option", f"{FOLLOW}:sleep_s=0.001", "--protocol", "all"),
    )
    assert ran.code == 0, ran.err
    assert "Follow (sleep_s=0.001)" in ran.out and "Talks" in ran.out
    assert ran.err.count("this square is strange") == 1
    rows = scores(Path("both/scores.json"))
    assert [row["label"] for row in rows] == ["Follow (sleep_s=0.001)", "Talks"]
    assert {"lasot", "pytracking", "pysot", "got10k", "otb"} <= rows[0]["protocols"].keys()


def test_a_tracker_that_cannot_be_made_leaves_the_others_their_scores(root: Path, run: Run) -> None:
    talks = f"{HERE}:Talks"
    command = (
        "evaluate",
        "--tracker",
        talks,
        "--tracker",
        FOLLOW,
        "--root",
        root,
        "--output",
        "both",
        "--no-html",
    )
    ran = run(*command, "--option", f"{talks}:nonsense=1")
    assert ran.code == 1
    assert "Talks (nonsense=1) is left out: " in ran.err and "nonsense" in ran.err
    assert [row["label"] for row in scores(Path("both/scores.json"))] == ["Follow"]
    # What can be known without making it is said before any of them has run.
    ran = run(
        "evaluate", "--tracker", FOLLOW, "--tracker", f"{HERE}:Nobody", "--root", root, "--output", "none"
    )
    assert ran.code == 2 and "there is no class Nobody in it" in ran.err
    assert "done" not in ran.out


def test_a_corrected_first_box_runs_its_sequence_again(root: Path, run: Run) -> None:
    command = "evaluate", "--tracker", FOLLOW, "--root", root, "--output", "run", "--no-html"
    assert run(*command).code == 0
    boxes = root / "b" / "groundtruth_rect.txt"
    first, *others = boxes.read_text().splitlines()
    x, *rest = first.split(",")
    boxes.write_text("\n".join([",".join([str(float(x) + 1), *rest]), *others]) + "\n")
    ran = run("report", "run")
    assert ran.code == 2 and "b began with another box in run" in ran.err
    ran = run(*command)
    assert ran.code == 0, ran.err
    assert "began with another box than b has now: sequence b is run again" in ran.err
    assert "1 done, 2 kept from before" in ran.out


def test_a_sequence_that_has_gone_is_left_out_of_the_scores(root: Path, run: Run) -> None:
    command = "evaluate", "--tracker", FOLLOW, "--root", root, "--output", "run", "--no-html"
    assert run(*command).code == 0
    shutil.rmtree(root / "b")
    for again in (command, ("report", "run", "--no-html")):
        ran = run(*again)
        assert ran.code == 0, ran.err
        assert f"no longer in {root}, and left out: b" in ran.err
        (row,) = scores(Path("run/scores.json"))
        assert set(row["protocols"]["otb"]["sequences"]) == {"a", "c"}


def test_a_dataset_of_which_nothing_is_left_is_not_another(root: Path, run: Run) -> None:
    command = "evaluate", "--tracker", FOLLOW, "--root", root, "--output", "run", "--no-html"
    assert run(*command, "--sequence", "b").code == 0
    shutil.rmtree(root / "b")
    ran = run("report", "run", "--no-html")
    assert ran.code == 2 and f"the dataset in {root} has none of the sequences of run any more" in ran.err


def test_places_that_are_wrong_are_found_before_the_work(root: Path, run: Run) -> None:
    command = "evaluate", "--tracker", FOLLOW, "--root", root, "--output", "run"
    ran = run(*command, "--attributes", "nowhere")
    assert ran.code == 2 and "nowhere" in ran.err
    assert not Path("run").exists()


def test_threads_are_recorded_as_they_were(root: Path, run: Run) -> None:
    command = (
        "evaluate",
        "--tracker",
        FOLLOW,
        "--root",
        root,
        "--output",
        "run",
        "--no-html",
        "--workers",
        "1",
    )
    assert run(*command, "--option", "threads=1").code == 0
    assert json.loads(Path("run/run.json").read_text())["measured_with"]["threads"] == 1


def test_a_failed_sequence_is_listed_at_the_end_and_fails_the_exit_code(root: Path, run: Run) -> None:
    ran = run("evaluate", *flawed(), "--root", root, "--output", "run", "--no-html")
    assert ran.code == 1
    assert ran.err.strip().splitlines()[0].startswith("failed: b: ")
    assert "lost my way" in ran.err
    assert "Traceback" not in ran.err + ran.out
    assert (Path("run/errors/b.txt")).read_text().count("lost") >= 1
    assert "Flawed (fault=raises, level=20): 2 done, 1 failed" in ran.out
    assert set(scores(Path("run/scores.json"))[0]["missing"]) == {"b"}


def test_sequences_with_missing_frames_fail_and_the_others_are_run(root: Path, run: Run) -> None:
    (root / "b" / "img" / "0003.jpg").unlink()
    (root / "c" / "groundtruth_rect.txt").write_text("1,1,5,5\n" * 3)
    ran = run("evaluate", "--tracker", FOLLOW, "--dataset", "otb", "--root", root, "--no-html")
    assert ran.code == 1
    assert "1 done, 2 failed" in ran.out
    assert "0003.jpg" in ran.err
    assert "failed: c: " in ran.err and "has 3 boxes for 7 frames" in ran.err


def test_results_of_another_config_are_refused_with_the_difference(root: Path, run: Run) -> None:
    command = "evaluate", "--tracker", FOLLOW, "--root", root, "--output", "run", "--no-html"
    assert run(*command).code == 0
    before = Path("run/run.json").read_bytes()
    ran = run(*command, "--option", "sleep_s=0.002")
    assert ran.code == 2
    assert "sleep_s" in ran.err and "0.002" in ran.err
    assert Path("run/run.json").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--dataset", "imagenet"], "no dataset is called 'imagenet': choose one of otb, lasot"),
        (["--dataset", "lasot"], "what is there looks like otb in"),
        (["--dataset", "got10k-val"], "expected"),
        (["--sequence", "z"], "has no sequence z: it has a, b, c"),
        (["--tracker", "opencv:best"], "OpenCV has no tracker 'best' here: choose one of opencv:"),
        (["--tracker", "huge"], "no tracker is called 'huge': choose compact, tiny"),
        (["--option", "speed"], "an option is KEY=VALUE, each key once, got 'speed'"),
        (["--tracker", "tiny", "--option", "search_factr=4"], "has no option 'search_factr': choose among"),
        (["--protocol", "coco"], "no protocol is called 'coco': choose one of lasot"),
        (["--max-frames", "0"], "0"),
        (["--workers", "0"], "0"),
        (["--time-limit", "0"], "0"),
        (["--executor", "slurm"], "slurm"),
        (["--address", "auto"], "for the executor ray"),
        (["--submission", "x.zip"], "no server takes submissions of otb"),
        (["--attributes", "nowhere"], "nowhere"),
    ],
)
def test_wrong_input_gets_one_sentence(arguments: list[str], sentence: str, root: Path, run: Run) -> None:
    tracker = [] if "--tracker" in arguments else ["--tracker", FOLLOW]
    ran = run("evaluate", *tracker, "--root", root, "--no-html", *arguments)
    assert ran.code == 2, ran.out + ran.err
    assert ran.err.startswith("error: ") and ran.err.count("\n") == 1
    assert sentence in ran.err
    if arguments[0] != "--attributes":  # read after the run, when it is known which sequences there are
        assert not Path("runs").exists()


def test_a_root_that_is_not_there_is_named(tmp_path: Path, run: Run) -> None:
    ran = run("evaluate", "--root", tmp_path / "nowhere")
    assert (ran.code, "which is not there" in ran.err) == (2, True)


def test_of_a_test_part_with_secret_boxes_an_archive_is_written(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "got10k" / "test" / "GOT-10k_Test_000001"
    write_frames(folder, 10, range(5), digits=8)
    (folder / "groundtruth.txt").write_text("5,4,10,10\n")
    (folder.parent / "list.txt").write_text(f"{folder.name}\n")
    ran = run("evaluate", "--tracker", FOLLOW, "--dataset", "got10k-test", "--root", "got10k")
    assert ran.code == 0, ran.err
    with zipfile.ZipFile("runs/got10k-test/Follow/submission.zip") as archive:
        (boxes,) = [name for name in archive.namelist() if name.endswith("_001.txt")]
        assert archive.read(boxes).decode().splitlines()[0] == "5.000,4.000,10.000,10.000"
    assert "submission.zip" in ran.out


# --- report and compare


@pytest.fixture
def two_runs(root: Path, run: Run) -> tuple[str, str]:
    assert run("evaluate", "--tracker", FOLLOW, "--root", root, "--output", "good", "--no-html").code == 0
    still = root.parent / "still.py"
    still.write_text(
        "class Still:\n    def init(self, frame, box): self.box = box\n    def update(self, frame): return self.box\n"
    )
    ran = run(
        "evaluate", "--tracker", "python:still.py:Still", "--root", root, "--output", "bad", "--no-html"
    )
    assert ran.code == 0, ran.err
    return "good", "bad"


def test_runs_that_exist_are_put_side_by_side(two_runs: tuple[str, str], run: Run) -> None:
    ran = run("report", *two_runs, "--output", "both", "--protocol", "pysot", "--protocol", "got10k")
    assert ran.code == 0, ran.err
    assert {path.name for path in Path("both").iterdir()} == {
        *("scores.json", "scores.csv", "scores.tex", "report.html")
    }
    good, bad = scores(Path("both/scores.json"))
    assert good["protocols"]["pysot"]["overall"]["auc"] > bad["protocols"]["pysot"]["overall"]["auc"] + 0.2


def test_runs_are_compared_sequence_by_sequence(two_runs: tuple[str, str], run: Run) -> None:
    ran = run("compare", *two_runs, "--json", "difference.json")
    assert ran.code == 0, ran.err
    difference = json.loads(Path("difference.json").read_text())
    assert difference["mean_difference"] < -0.2
    assert {"a", "b", "c"} <= {row["sequence"] for row in difference["sequences"]}
    again = run("compare", *two_runs)
    assert again.out == ran.out


def test_a_moved_dataset_is_asked_for_and_taken_from_where_it_is_now(
    two_runs: tuple[str, str], root: Path, run: Run
) -> None:
    moved = root.rename(root.parent / "elsewhere")
    ran = run("report", *two_runs, "--no-html")
    assert (ran.code, "name it with --root" in ran.err) == (2, True)
    assert run("report", *two_runs, "--no-html", "--root", moved).code == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["report", "nowhere"], "nowhere"),
        (["report", "otb"], "run.json"),
        (["compare", "good", "good", "--protocol", "all"], "runs are compared by one protocol"),
        (["compare", "good", "good", "--figure", "beauty"], "beauty"),
    ],
)
def test_wrong_runs_get_one_sentence(
    arguments: list[str], sentence: str, two_runs: tuple[str, str], run: Run
) -> None:
    ran = run(*arguments)
    assert ran.code == 2, ran.out + ran.err
    assert ran.err.startswith("error: ") and ran.err.count("\n") == 1
    assert sentence in ran.err


def test_runs_over_different_frames_do_not_stand_side_by_side(root: Path, run: Run) -> None:
    for name, more in (("short", ["--max-frames", "3"]), ("long", [])):
        assert (
            run("evaluate", "--tracker", FOLLOW, "--root", root, "--output", name, "--no-html", *more).code
            == 0
        )
    ran = run("compare", "short", "long")
    assert (ran.code, "same max_frames" in ran.err) == (2, True)


def test_attributes_are_those_of_the_frames_that_were_measured(tmp_path: Path, run: Run) -> None:
    data = tmp_path / "growing"
    write_otb(data, {"a": 6})
    rows = ["30,20,12,10"] * 3 + ["30,20,60,50"] * 3
    (data / "a" / "groundtruth_rect.txt").write_text("\n".join(rows) + "\n")
    seen = {}
    for name, more in (("short", ["--max-frames", "3"]), ("long", [])):
        output = tmp_path / name
        assert run("evaluate", "--tracker", FOLLOW, "--root", data, "--output", output, *more).code == 0
        seen[name] = json.loads((output / "scores.json").read_text())["runs"][0]["attributes"]["a"]
    assert "SV" in seen["long"] and "SV" not in seen["short"]
    warned = run("report", tmp_path / "short", "--no-html")
    assert "report.html is of an earlier report" in warned.err.replace("\n", " ")


# --- the VOT toolkit


def test_without_the_vot_toolkit_a_sentence_says_how_to_get_it(tmp_path: Path, run: Run) -> None:
    ran = run("vot", tmp_path, "--toolkit", tmp_path / "vot")
    assert (ran.code, "pip install vot-toolkit==" in ran.err) == (2, True)


# --- the development data


BASELINE = Path(__file__).parents[1] / "benchmarks" / "baseline"


def test_a_committed_baseline_is_what_a_sequence_gives_now(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = layouts.development_data()
    monkeypatch.chdir(tmp_path)
    arguments: list[Any] = ["--tracker", "opencv:nano", "--peers", data.parent / "peers"]
    for model in shipped_models():
        arguments += ["--tracker", model, "--option", f"{model}:precision=f32"]
    where = "--dataset", "otb", "--root", data / "otb", "--sequence", "DragonBaby"
    ran = run("evaluate", *where, *arguments, "--output", "run", "--no-html")
    assert ran.code == 0, ran.err
    committed = {row["label"]: row for row in scores(BASELINE / "otb.json")}
    for row in scores(Path("run/scores.json")):
        now, then = (
            one["protocols"]["otb"]["sequences"]["DragonBaby"] for one in (row, committed[row["label"]])
        )
        for figure in ("auc", "precision", "op50"):
            assert now[figure] == pytest.approx(then[figure], abs=0.02), (row["label"], figure)


def test_a_tracker_of_the_baseline_is_made_anew_and_the_others_stay(tmp_path: Path) -> None:
    remake = runpy.run_path(str(BASELINE / "remake.py"))
    file = shutil.copy(BASELINE / "otb.json", tmp_path)
    before = json.loads((BASELINE / "otb.json").read_text())
    remake["replace"](Path(file), before)
    assert Path(file).read_text() == (BASELINE / "otb.json").read_text()
    nano, vit = (
        next(one for one in before["runs"] if one["label"] == f"opencv:{n}") for n in ("nano", "vit")
    )
    made = {"runs": [{**nano, "missing": ["Car1"]}], "thresholds": before["thresholds"]}
    remake["replace"](Path(file), made)
    after = {one["label"]: one for one in scores(Path(file))}
    assert len(after) == len(before["runs"]) and after["opencv:vit"] == vit
    assert after["opencv:nano"]["missing"] == ["Car1"]
