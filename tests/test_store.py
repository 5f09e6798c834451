"""The folder of a run: what goes in comes out unchanged, and only what belongs there goes in."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trackers import write_otb

from mixformerv2.data.benchmarks import read_otb
from mixformerv2.evaluate.run import OnePass
from mixformerv2.evaluate.store import DESCRIPTION, Failure, Store, describe_run, load_run

TRACKER = {"text": "tiny", "options": {}, "config": {"search_factor": 4.5}}


def description(lengths: dict[str, int | None] | None = None, **changes: Any) -> dict[str, Any]:
    plain = describe_run("tiny", TRACKER, "otb", "data", lengths or {"a": 4, "b": 3}, None)
    return {**plain, **changes}


def made_up(length: int, first: int = 0, seed: int = 0) -> OnePass:
    """Boxes and scores with all their digits; the third box is none."""
    generator = np.random.default_rng(seed)
    corners = generator.uniform(-20, 700, (length, 2))
    boxes = np.concatenate([corners, corners + generator.uniform(0.1, 300, (length, 2))], axis=1)
    boxes[2:3] = np.nan
    scores = generator.uniform(size=length)
    scores[1] = np.nan
    return OnePass(boxes, scores, generator.uniform(0, 0.1, length), first)


# --- results


def test_boxes_and_scores_come_back_to_the_last_bit(tmp_path: Path) -> None:
    result = made_up(2000)
    with Store.open(tmp_path / "run", description({"a": 2000})) as store:
        store.write("a", result)
        read = store.read("a")
    np.testing.assert_array_equal(read.boxes_frame, result.boxes_frame)
    np.testing.assert_array_equal(read.scores, result.scores)
    np.testing.assert_allclose(read.seconds, result.seconds, atol=1e-7)
    assert read.first_frame == 0


def test_a_results_file_is_what_a_person_expects(tmp_path: Path) -> None:
    boxes = np.array([[1, 2, 11, 22], [1.5, 2, 11.5, 22], [np.nan] * 4])
    with Store.open(tmp_path, description({"a": 5})) as store:
        store.write("a", OnePass(boxes, np.array([1, 0.25, np.nan]), np.array([0.5, 0.00125, 0.002]), 2))
        assert store.finished() == {"a"}
    assert (tmp_path / "results/a.csv").read_text().splitlines() == [
        "frame,x,y,w,h,score,ms",
        "2,1.0,2.0,10.0,20.0,1.0,500.0000",
        "3,1.5,2.0,10.0,20.0,0.25,1.2500",
        "4,nan,nan,nan,nan,nan,2.0000",
    ]


def test_a_pass_that_was_to_be_short_is_whole(tmp_path: Path) -> None:
    with Store.open(tmp_path, description({"a": 9}, max_frames=3)) as store:
        store.write("a", made_up(3, first=1))
        assert store.finished() == {"a"}


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (slice(0, 4), "is cut off, it must hold the frames 0 to 3"),
        (slice(0, 1), "is damaged"),
        (slice(1, None), "is damaged"),
        (slice(0, 0), "is damaged"),
    ],
)
def test_a_file_that_is_not_whole_warns_and_does_not_count(tmp_path: Path, lines: slice, words: str) -> None:
    with Store.open(tmp_path, description()) as store:
        store.write("a", made_up(4))
        store.write("b", made_up(3))
        path = tmp_path / "results" / "a.csv"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[lines]))
        with pytest.warns(UserWarning, match=f"a.csv {words}.*: sequence a is run again"):
            assert store.finished() == {"b"}
        with pytest.raises(ValueError, match=words):
            store.read("a")


def test_results_that_do_not_fit_the_sequence_are_refused(tmp_path: Path) -> None:
    sequence = read_otb(write_otb(tmp_path / "data", {"a": 3}))[0]
    with Store.open(tmp_path / "run", description()) as store:
        store.write("a", made_up(4))
        with pytest.raises(ValueError, match="reach beyond its 3 frames: the dataset has changed"):
            store.read("a", sequence)


@pytest.mark.parametrize("name", ["../a", "/a", "x/../../a"])
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    with Store.open(tmp_path / "run", description()) as store, pytest.raises(ValueError, match="file name"):
        store.write(name, made_up(3))
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


# --- failures


def test_a_failure_is_kept_until_the_sequence_succeeds(tmp_path: Path) -> None:
    with Store.open(tmp_path, description()) as store:
        store.fail("a", Failure("it went wrong", "Traceback: line\nRuntimeError"))
        assert (tmp_path / "errors/a.txt").read_text() == "it went wrong\n\nTraceback: line\nRuntimeError\n"
        assert store.failures() == {"a": "it went wrong"}
        assert store.finished() == set()
        store.write("a", made_up(4))
        assert store.failures() == {}
        assert not (tmp_path / "errors/a.txt").exists()


# --- the description


def test_a_run_is_read_back_with_what_is_finished(tmp_path: Path) -> None:
    with Store.open(tmp_path, description()) as store:
        store.write("b", made_up(3))
    run = load_run(tmp_path)
    assert (run.label, run.folder, [*run.passes]) == ("tiny", tmp_path, ["b"])
    assert run.description["sequences"] == {"a": 4, "b": 3}
    assert run.description["tracker"] == TRACKER


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            {"tracker": {**TRACKER, "config": {"search_factor": 4.0}}},
            "tracker.config.search_factor is 4.5 there and 4.0 in this one",
        ),
        (
            {"tracker": {**TRACKER, "options": {"a": 1}}},
            "tracker.options.a is 1 in this one and not there",
        ),
        ({"dataset": "uav123"}, 'dataset is "otb" there and "uav123" in this one'),
        ({"max_frames": 7}, "max_frames is null there and 7 in this one"),
        ({"version": "0"}, "version is"),
        ({"sequences": {"a": 5, "b": 3}}, "sequences.a is 4 there and 5 in this one"),
    ],
)
def test_a_run_of_another_configuration_is_refused_with_the_difference(
    tmp_path: Path, changed: dict[str, Any], words: str
) -> None:
    with Store.open(tmp_path, description()) as store:
        store.write("b", made_up(3))
    before = (tmp_path / DESCRIPTION).read_text()
    with pytest.raises(ValueError, match="holds a run of another configuration") as refused:
        Store.open(tmp_path, description(**changed))
    assert words in str(refused.value)
    assert str(refused.value).endswith("choose another --output")
    assert (tmp_path / DESCRIPTION).read_text() == before
    Store.open(tmp_path, description()).close()  # the lock was given back


def test_a_run_that_came_to_nothing_makes_room_for_another(tmp_path: Path) -> None:
    Store.open(tmp_path, description(dataset="uav123")).close()
    with Store.open(tmp_path, description()) as store:
        store.fail("b", Failure("it failed"))
    assert load_run(tmp_path).description["dataset"] == "otb"
    mended = description(dataset="uav123")
    with Store.open(tmp_path, mended) as store:
        store.write("b", made_up(3))
    with pytest.raises(ValueError, match="holds a run of another configuration"):
        Store.open(tmp_path, description())


def test_a_dataset_that_was_moved_and_another_label_are_the_same_run(tmp_path: Path) -> None:
    with Store.open(tmp_path, description()) as store:
        store.write("b", made_up(3))
    Store.open(tmp_path, description(root="/elsewhere", label="mine", measured_with={"cores": 9})).close()
    assert load_run(tmp_path).label == "tiny"
    assert load_run(tmp_path).description["root"] == "/elsewhere"


def test_a_run_goes_on_with_more_sequences_or_fewer(tmp_path: Path) -> None:
    with Store.open(tmp_path, description({"b": 3})) as store:
        store.write("b", made_up(3))
    with Store.open(tmp_path, description({"a": 4, "b": 3})) as store:
        assert store.finished() == {"b"}
    Store.open(tmp_path, description({"a": 4})).close()
    assert load_run(tmp_path).description["sequences"] == {"a": 4, "b": 3}


def test_a_sequence_that_could_not_be_read_gets_its_length_later_and_keeps_it(tmp_path: Path) -> None:
    for length in (None, 4, None):
        with Store.open(tmp_path, description({"a": length, "b": 3})) as store:
            store.write("b", made_up(3))
    assert load_run(tmp_path).description["sequences"] == {"a": 4, "b": 3}


@pytest.mark.parametrize("text", ["{", "[]", '{"sequences": 3}'])
def test_a_damaged_description_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / DESCRIPTION).write_text(text)
    for use in (lambda: Store.open(tmp_path, description()), lambda: load_run(tmp_path)):
        with pytest.raises(ValueError, match=f"{DESCRIPTION} is damaged"):
            use()


def test_a_description_holds_plain_numbers_and_a_whole_path(tmp_path: Path) -> None:
    Store.open(tmp_path, description()).close()
    read = json.loads((tmp_path / DESCRIPTION).read_text())
    assert read["root"] == str(Path("data").resolve())
    assert set(read) == {
        *("label", "tracker", "dataset", "root", "sequences", "max_frames", "measured_with", "version")
    }


# --- the folder


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ValueError, match=r"holds other files \(thesis.tex\).*a new run needs a new"):
        Store.open(tmp_path, description())
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_is_no_folder_for_a_run(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="the output of a run is a folder"):
        Store.open(tmp_path / "file", description())
    with pytest.raises(NotADirectoryError):
        Store.open(tmp_path / "file" / "run", description())


def test_a_folder_without_a_run_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"is not the folder of a run: it has no {DESCRIPTION}"):
        load_run(tmp_path)


def test_a_second_writer_is_refused_until_the_first_has_ended_however_it_ends(tmp_path: Path) -> None:
    code = f"""
import os, sys
from mixformerv2.evaluate.store import Store
store = Store.open({str(tmp_path)!r}, {description()!r})
print("open", flush=True)
sys.stdin.read()
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as other:
        assert other.stdout is not None and other.stdout.readline() == "open\n"
        with pytest.raises(BlockingIOError, match=rf"another process \(number {other.pid}\) is writing to"):
            Store.open(tmp_path, description())
        other.kill()
    Store.open(tmp_path, description()).close()


def test_what_a_killed_process_left_half_written_is_removed(tmp_path: Path) -> None:
    Store.open(tmp_path, description()).close()
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / ".a.12345678.partial.csv").write_text("half")
    Store.open(tmp_path, description()).close()
    assert [*(tmp_path / "results").iterdir()] == []
