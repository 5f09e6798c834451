"""Archives for the servers: laid out as their toolkits lay them out, and never half of one."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from trackers import LEVELS, box_of, write_frames

from mixformerv2.data.benchmarks import READERS
from mixformerv2.evaluate.run import OnePass
from mixformerv2.evaluate.submission import SUBMISSIONS, write_submission

BOX = (10.0, 20.0, 40.5, 60.25)  # xyxy, pixels from 0
SECONDS = (0.5, 0.0125, 0.012345678)


def a_pass(length: int = 3, first: int = 0, boxes: object = BOX) -> OnePass:
    rows = np.tile(np.array(boxes, np.float64), (length, 1))
    return OnePass(rows, np.ones(length), np.resize(SECONDS, length), first)


def contents(path: Path) -> dict[str, str]:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name).decode("ascii") for name in archive.namelist()}


def test_got10k_takes_a_folder_a_sequence_with_boxes_from_pixel_0_and_times(tmp_path: Path) -> None:
    names = ["GOT-10k_Test_000001", "GOT-10k_Test_000002"]
    write_submission(
        "got10k", tmp_path / "a.zip", {name: a_pass() for name in names}, dict.fromkeys(names, 3)
    )
    inside = contents(tmp_path / "a.zip")
    assert [*inside] == [f"{name}/{name}_{what}.txt" for name in names for what in ("001", "time")]
    assert inside[f"{names[0]}/{names[0]}_001.txt"] == "10.000,20.000,30.500,40.250\n" * 3
    assert inside[f"{names[0]}/{names[0]}_time.txt"] == "0.50000000\n0.01250000\n0.01234568\n"


def test_trackingnet_takes_a_file_a_sequence_at_the_top(tmp_path: Path) -> None:
    write_submission(
        "trackingnet", tmp_path / "a.zip", {"-x_1": a_pass(), "b": a_pass(2)}, {"-x_1": 3, "b": 2}
    )
    assert contents(tmp_path / "a.zip") == {
        "-x_1.txt": "10.00,20.00,30.50,40.25\n" * 3,
        "b.txt": "10.00,20.00,30.50,40.25\n" * 2,
    }


@pytest.mark.parametrize(("kind", "places"), [("got10k", 3), ("trackingnet", 2)])
def test_a_box_is_written_as_the_dataset_writes_its_own(tmp_path: Path, kind: str, places: int) -> None:
    folder = tmp_path / {"got10k": "val/GOT-10k_Val_000001", "trackingnet": "TRAIN_0/frames/x"}[kind]
    write_frames(folder, LEVELS["a"], range(3), digits={"got10k": 8, "trackingnet": 0}[kind])
    line = "{},{},{},{}".format(*box_of(0))
    if kind == "got10k":
        (folder / "groundtruth.txt").write_text(f"{line}\n" * 3)
        (folder / "absence.label").write_text("0\n" * 3)
        (folder / "cover.label").write_text("8\n" * 3)
        (tmp_path / "val/list.txt").write_text(folder.name + "\n")
    else:
        (tmp_path / "TRAIN_0/anno").mkdir()
        (tmp_path / "TRAIN_0/anno/x.txt").write_text(f"{line}\n" * 3)
    reader = READERS[{"got10k": "got10k-val", "trackingnet": "trackingnet-train"}[kind]]
    sequence = reader(tmp_path)[0]
    result = OnePass(sequence.boxes_frame, np.ones(3), np.ones(3), 0)
    write_submission(kind, tmp_path / "a.zip", {sequence.name: result}, {sequence.name: 3})
    written = next(iter(contents(tmp_path / "a.zip").values())).splitlines()[0]
    assert written == ",".join(f"{value:.{places}f}" for value in box_of(0))


def test_the_toolkit_of_got10k_writes_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("got10k", reason="the toolkit of GOT-10k is not installed: pip install got10k")
    from got10k.experiments import ExperimentGOT10k

    class Toolkit(ExperimentGOT10k):
        def __init__(self, results: Path) -> None:
            self.subset, self.result_dir = "test", str(results)

    result, name = a_pass(), "GOT-10k_Test_000001"
    x1, y1, x2, y2 = result.boxes_frame.T
    boxes = np.stack([x1, y1, x2 - x1, y2 - y1], axis=1)
    toolkit = Toolkit(tmp_path / "results")
    toolkit._record(str(tmp_path / "results" / "mine" / name / f"{name}_001.txt"), boxes, result.seconds)
    monkeypatch.chdir(tmp_path)  # where it goes back to
    toolkit.report(["mine"])
    theirs = {
        key: text for key, text in contents(tmp_path / "results/mine.zip").items() if not key.endswith("/")
    }
    write_submission("got10k", tmp_path / "a.zip", {name: result}, {name: 3})
    assert contents(tmp_path / "a.zip") == theirs


def test_the_same_results_are_the_same_archive(tmp_path: Path) -> None:
    for name in ("one.zip", "two.zip"):
        write_submission("trackingnet", tmp_path / name, {"a": a_pass()}, {"a": 3})
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()


@pytest.mark.parametrize("kind", [*SUBMISSIONS])
@pytest.mark.parametrize(
    ("passes", "words"),
    [
        ({"a": a_pass()}, "and b has no results"),
        ({"a": a_pass(), "b": a_pass(2)}, "and b has the frames 0 to 1 of 0 to 2"),
        ({"a": a_pass(), "b": a_pass(2, first=1)}, "and b has the frames 1 to 2 of 0 to 2"),
        ({"a": a_pass(), "b": a_pass(boxes=(1, 2, np.nan, 4))}, "and b has none for frame 0"),
        ({"a": a_pass(), "b": a_pass(boxes=(1, 2, np.inf, 4))}, "and b has none for frame 0"),
    ],
)
def test_an_archive_is_whole_or_not_written(
    tmp_path: Path, kind: str, passes: dict[str, OnePass], words: str
) -> None:
    with pytest.raises(ValueError, match=f"a submission must have a finite box for every frame .*{words}"):
        write_submission(kind, tmp_path / "a.zip", passes, {"a": 3, "b": 3})
    assert [*tmp_path.iterdir()] == []


def test_a_sequence_that_cannot_be_read_is_missing_too(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="and the frames of b cannot be read"):
        write_submission("got10k", tmp_path / "a.zip", {"a": a_pass()}, {"a": 3, "b": None})


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="the folder .*none does not exist"):
        write_submission("got10k", tmp_path / "none" / "a.zip", {"a": a_pass()}, {"a": 3})
