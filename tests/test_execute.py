"""Trackers in processes of their own, over painted videos on disk: what goes wrong, and what is left of it."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trackers import HERE, LEVELS, notes, write_otb

from mixformerv2.evaluate import execute
from mixformerv2.evaluate.datasets import Opened, open_for_evaluation
from mixformerv2.evaluate.execute import Outcome, Progress, run_all, share_cores, shares_of
from mixformerv2.evaluate.run import OnePass, one_pass
from mixformerv2.evaluate.spec import open_tracker, parse
from mixformerv2.evaluate.store import Failure, Store, describe_run, load_run

LENGTHS = {"a": 6, "b": 9, "c": 7}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Opened:
    return open_for_evaluation("otb", write_otb(tmp_path_factory.mktemp("data"), LENGTHS))


def run(
    opened: Opened, folder: Path, tracker: str, max_frames: int | None = None, **arguments: Any
) -> Outcome:
    """A run by ``NAME key=value ...``, a class of the trackers for tests, or by a shipped model."""
    name, *options = tracker.split()
    text = name if name == "tiny" else f"{HERE}:{name}"
    spec = parse(text, dict(option.split("=") for option in options))
    description = describe_run(name, {"text": tracker}, "otb", "", opened.lengths, max_frames)
    with Store.open(folder, description) as store:
        return run_all(spec, opened.sequences.values(), store, **arguments)


def passes(folder: Path) -> dict[str, OnePass]:
    return load_run(folder).passes


def assert_same_boxes(one: dict[str, OnePass], other: dict[str, OnePass]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name].boxes_frame, other[name].boxes_frame)
        np.testing.assert_array_equal(one[name].scores, other[name].scores)


def assert_ended(processes: Iterable[int], within_s: float = 10.0) -> None:
    """None of them is there, or only waits to be collected by a parent that has ended too."""
    processes, end = list(processes), time.monotonic() + within_s
    assert processes
    while True:
        command = ["ps", "-o", "pid=,stat=", "-p", ",".join(map(str, processes))]
        lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
        alive = [line for line in lines if not line.split()[1].startswith("Z")]
        if not alive:
            return
        assert time.monotonic() < end, alive
        time.sleep(0.05)


# --- all goes well


def test_results_in_other_processes_are_those_of_a_pass_in_this_one(data: Opened, tmp_path: Path) -> None:
    outcome = run(data, tmp_path, "Follow", workers=2)
    assert sorted(outcome.done) == ["a", "b", "c"]
    assert (outcome.kept, outcome.failed, outcome.warnings, outcome.workers) == ((), {}, {}, 2)
    here = {
        name: one_pass(open_tracker(parse(f"{HERE}:Follow")), one) for name, one in data.sequences.items()
    }
    assert_same_boxes(passes(tmp_path), here)
    truth = data.sequences["b"].boxes_frame
    np.testing.assert_allclose(here["b"].boxes_frame, truth, atol=1.5)


def test_what_was_left_to_the_machine_is_as_described_in_every_worker(
    data: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another machine of a cluster may have another precision to choose."""
    opened: list[dict[str, Any]] = []
    monkeypatch.setattr(execute, "run_here", lambda opener, *_: opened.append(opener.args[0].options))
    for text, chosen in (("tiny", {"backend": "openvino", "precision": "f32"}), ("opencv:mil", {})):
        description = describe_run(text, {"text": text, **chosen}, "otb", "", data.lengths, None)
        with Store.open(tmp_path / text.replace(":", "-"), description) as store:
            run_all(parse(text, {"threads": "1"}), data.sequences.values(), store)
        assert opened.pop() == {"threads": 1, **chosen}


def test_our_own_tracker_gives_the_same_bits_however_many_processes_there_are(
    data: Opened, tmp_path: Path
) -> None:
    run(data, tmp_path / "one", "tiny", max_frames=5, workers=1, threads=1)
    run(data, tmp_path / "two", "tiny", max_frames=5, workers=2, threads=1)
    assert_same_boxes(passes(tmp_path / "one"), passes(tmp_path / "two"))
    assert [len(one.boxes_frame) for one in passes(tmp_path / "one").values()] == [5, 5, 5]


def test_what_a_tracker_warns_of_comes_once_and_a_frame_without_a_box_is_no_failure(
    data: Opened, tmp_path: Path
) -> None:
    outcome = run(data, tmp_path, "Talks", workers=1)
    assert outcome.warnings == dict.fromkeys(LENGTHS, ("this square is strange",))
    one = passes(tmp_path)["a"]
    assert np.flatnonzero(np.isnan(one.boxes_frame[:, 0])).tolist() == [2]
    assert np.isnan(one.scores).tolist() == [False, *[True] * 5]


def test_progress_counts_sequences_and_frames_to_the_end(data: Opened, tmp_path: Path) -> None:
    told: list[Progress] = []
    run(data, tmp_path, "Flawed fault=raises level=10", workers=1, progress=told.append)
    assert told[0] == Progress(0, 0, 3, 0, 22)
    assert told[-1] == Progress(2, 1, 3, 22, 22)
    frames = [one.frames_done for one in told]
    assert frames == sorted(frames)


# --- cores


@pytest.mark.parametrize(
    ("workers", "threads", "shares"),
    [
        (None, None, (8, 1)),
        (None, 3, (2, 3)),
        (None, 99, (1, 99)),
        (3, None, (3, 2)),
        (99, None, (99, 1)),
        (2, 2, (2, 2)),
    ],
)
def test_eight_cores_are_shared_out_and_what_is_given_is_kept(
    workers: int | None, threads: int | None, shares: tuple[int, int]
) -> None:
    assert share_cores(workers, threads, cores=8) == shares


def test_a_device_other_than_the_cpu_gets_one_worker_unless_more_are_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(execute, "usable_cores", lambda: 8)
    on_gpu, on_cpu = (parse("tiny", {"device": device}) for device in ("cuda", "cpu"))
    assert shares_of(on_gpu, None, None, "local")[0] == 1
    assert shares_of(on_gpu, 3, 1, "local") == (3, 1)
    assert shares_of(on_gpu, None, None, "ray") == shares_of(on_cpu, None, None, "local") == (8, 1)


def test_every_process_knows_how_many_threads_are_its_own(data: Opened, tmp_path: Path) -> None:
    before = {**os.environ}
    outcome = run(data, tmp_path, "Threads", workers=2, threads=2)
    assert outcome.threads == 2
    assert os.environ == before
    for one in passes(tmp_path).values():
        x, y, right, bottom = one.boxes_frame[1]
        assert (x, y, right - x, bottom - y) == (2, 2, 2, 2)


def test_the_overhead_is_what_comes_on_top_of_the_trackers_own_time() -> None:
    outcome = Outcome((), (), {}, {}, workers=2, threads=1, frames=50, wall_s=6.0, tracker_s=10.0)
    assert math.isclose(outcome.overhead, 0.2)
    assert math.isnan(outcome._replace(tracker_s=0.0).overhead)


# --- something goes wrong


@pytest.mark.parametrize(
    ("fault", "sentence", "limit_s"),
    [
        ("raises", "RuntimeError: lost my way (frame 3)", 60),
        (
            "nan",
            "the box of frame 3 must be four finite numbers, or None for none, got (1.0, nan, 1.0, 1.0)",
            60,
        ),
        ("nothing", "the answer to frame 3 must have a box", 60),
        (
            "three",
            "the answer to frame 3 must be a box of four numbers x, y, w, h, or None, got (1, 2, 3)",
            60,
        ),
        ("hangs", "no answer to frame 3 within 1 s", 1),
        ("leaves", "the tracker asked to end its process, with exit code 3 (frame 3)", 60),
        ("exits", "the tracker's process ended with exit code 7 at frame 3", 60),
        ("dies", "the tracker's process ended by the signal SIGKILL at frame 3", 60),
    ],
)
def test_a_tracker_that_goes_wrong_fails_that_sequence_only(
    data: Opened, tmp_path: Path, fault: str, sentence: str, limit_s: float
) -> None:
    tracker = f"Flawed fault={fault} level={LEVELS['b']} log={tmp_path / 'log'}"
    outcome = run(data, tmp_path / "run", tracker, workers=1, time_limit_s=limit_s)
    assert sorted(outcome.done) == ["a", "c"]
    assert [*outcome.failed] == ["b"]
    assert sentence in outcome.failed["b"]
    said = (tmp_path / "run/errors/b.txt").read_text()
    assert said.startswith(outcome.failed["b"] + "\n")
    assert ("Traceback" in said) == (fault not in ("hangs", "exits", "dies"))
    assert {*passes(tmp_path / "run")} == {"a", "c"}
    assert_ended(process for _, process in notes(tmp_path / "log", "start"))


def test_a_second_run_does_only_what_is_missing(data: Opened, tmp_path: Path) -> None:
    mended, log = tmp_path / "mended", tmp_path / "log"
    tracker = f"Flawed fault=raises level={LEVELS['b']} unless={mended} log={log}"
    first = run(data, tmp_path / "run", tracker, workers=1)
    assert [*first.failed] == ["b"]
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "run/results").iterdir()}
    mended.touch()
    second = run(data, tmp_path / "run", tracker, workers=1)
    assert (second.done, second.kept, second.failed) == (("b",), ("a", "c"), {})
    shown = [level for level, _ in notes(log, "start")]
    assert sorted(shown) == [LEVELS[name] for name in ("a", "b", "b", "c")]
    assert all(path.stat().st_mtime_ns == when for path, when in written.items())
    assert not [*(tmp_path / "run/errors").iterdir()]
    third = run(data, tmp_path / "run", tracker, workers=1)
    assert (third.done, third.kept) == ((), ("a", "b", "c"))
    assert len(notes(log, "start")) == 4


def test_an_image_that_cannot_be_read_fails_its_sequence_and_is_named(tmp_path: Path) -> None:
    root = write_otb(tmp_path / "data", {"a": 4, "b": 4})
    image = root / "a/img/0003.jpg"
    image.write_text("not a picture")
    outcome = run(open_for_evaluation("otb", root), tmp_path / "run", "Follow", workers=1)
    assert outcome.done == ("b",)
    assert outcome.failed == {"a": f"the file {image} cannot be read as an image (frame 2)"}


def test_sequences_that_were_broken_from_the_start_are_failures_too(data: Opened, tmp_path: Path) -> None:
    lengths = {**data.lengths, "gone": None}
    outcome = run(
        data._replace(lengths=lengths), tmp_path, "Follow", broken={"gone": Failure("its files are missing")}
    )
    assert len(outcome.done) == 3
    assert outcome.failed == {"gone": "its files are missing"}
    assert (tmp_path / "errors/gone.txt").read_text() == "its files are missing\n"


def test_a_tracker_that_cannot_be_opened_ends_the_run_with_a_sentence(data: Opened, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the tracker cannot be opened: .*the model is somewhere else"):
        run(data, tmp_path, "Unopenable")
    assert passes(tmp_path) == {}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"workers": 0}, "workers must be at least 1, got 0"),
        ({"threads": -1}, "threads must be at least 1, got -1"),
        ({"time_limit_s": 0.0}, "the time limit must be positive, in seconds, got 0"),
        ({"time_limit_s": math.nan}, "the time limit must be positive"),
        ({"executor": "slurm"}, "no executor is called 'slurm': choose one of local, ray"),
        ({"max_frames": 1}, "max_frames must be at least 2"),
    ],
)
def test_wrong_arguments_are_refused(
    data: Opened, tmp_path: Path, arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        run(data, tmp_path, "Follow", **arguments)


# --- nothing is left behind


@pytest.mark.parametrize("how", ["helper_after_success", "helper_after_a_hang"])
def test_processes_that_a_tracker_has_started_end_with_it(data: Opened, tmp_path: Path, how: str) -> None:
    outcome = run(
        data,
        tmp_path / "run",
        f"WithHelper log={tmp_path / 'log'} sleep_s={0 if how == 'helper_after_success' else 600}",
        workers=1 if how == "helper_after_success" else 3,
        time_limit_s=1.0,
    )
    assert len(outcome.done) == (3 if how == "helper_after_success" else 0)
    helpers = notes(tmp_path / "log", "helper")
    assert len(helpers) == 3
    assert_ended(process for _, process in helpers)


def test_ctrl_c_ends_all_processes_and_keeps_what_is_finished(data: Opened, tmp_path: Path) -> None:
    def stop(progress: Progress) -> None:
        if progress.done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(
            data,
            tmp_path / "run",
            f"WithHelper log={tmp_path / 'log'} sleep_s=0.05",
            workers=2,
            progress=stop,
        )
    assert len(passes(tmp_path / "run")) >= 1
    for kind in ("start", "helper"):
        assert_ended(process for _, process in notes(tmp_path / "log", kind))
    assert not [*(tmp_path / "run").rglob("*.partial*")]


KILLED = """
import sys
import test_execute
from pathlib import Path
from mixformerv2.evaluate.datasets import open_for_evaluation

root, folder, log = map(Path, sys.argv[1:])
test_execute.run(open_for_evaluation("otb", root), folder, f"WithHelper log={log} sleep_s=0.2", workers=2)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_when_the_parent_is_killed_its_workers_end_and_a_rerun_goes_on(
    data: Opened, tmp_path: Path, how: signal.Signals
) -> None:
    root, folder, log = tmp_path / "data", tmp_path / "run", tmp_path / "log"
    write_otb(root, {"a": 3, "b": 60})
    here = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", KILLED, *map(str, (root, folder, log))]
    with subprocess.Popen(command, env=here) as parent:
        wait_until((folder / "results/a.csv").exists, parent)
        parent.send_signal(how)
    for kind in ("start", "helper"):
        assert_ended(process for _, process in notes(log, kind))
    again = run_again(open_for_evaluation("otb", root), folder, f"WithHelper log={log} sleep_s=0.2")
    assert (again.kept, again.done) == (("a",), ("b",))


def run_again(opened: Opened, folder: Path, tracker: str) -> Outcome:
    """The same run, which does not wait any more between two frames."""
    description = describe_run("WithHelper", {"text": tracker}, "otb", "", opened.lengths, None)
    with Store.open(folder, description) as store:
        return run_all(parse(f"{HERE}:Follow"), opened.sequences.values(), store)


def wait_until(
    happened: Callable[[], bool], process: subprocess.Popen[bytes], within_s: float = 30.0
) -> None:
    end = time.monotonic() + within_s
    while not happened():
        assert process.poll() is None, "it has ended"
        assert time.monotonic() < end
        time.sleep(0.05)
