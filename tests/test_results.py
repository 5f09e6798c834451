"""Results files: what is written can be read again, and nothing half-written is left behind."""

from __future__ import annotations

import csv
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mixformerv2.results import FORMATS, Result, ResultFile, read_results

RESULTS = [
    Result((0.0, 0.0, 10.0, 20.0), 1.0, "tracking"),
    Result((12.3456, 7.5, 31.25, 8.0), 0.98765, "tracking"),
    Result((-3.5, 100.125, 1.0, 2.0), 0.25, "lost"),
]


def write(path: Path, format: str | None = None, first_frame: int = 0, overwrite: bool = False) -> None:
    with ResultFile.open(path, format, overwrite) as results:
        for index, result in enumerate(RESULTS):
            results.write(first_frame + index, result)


@pytest.mark.parametrize("format", FORMATS)
def test_boxes_survive_the_round_trip_through_every_format(tmp_path: Path, format: str) -> None:
    write(tmp_path / "results", format)
    rows = read_results(tmp_path / "results", format)
    assert [row.frame for row in rows] == [0, 1, 2]
    for row, written in zip(rows, RESULTS, strict=True):
        assert row.result.box == pytest.approx(written.box, abs=0.0005)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "A.CSV"])
def test_frame_score_and_state_survive_the_round_trip(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, first_frame=40)
    rows = read_results(tmp_path / name)
    assert [row.frame for row in rows] == [40, 41, 42]
    assert [row.result.state for row in rows] == ["tracking", "tracking", "lost"]
    assert [row.result.score for row in rows] == pytest.approx([1.0, 0.98765, 0.25], abs=0.00005)


def test_the_text_of_every_format_is_as_agreed(tmp_path: Path) -> None:
    for name in FORMATS:
        write(tmp_path / name, name)
    assert (tmp_path / "csv").read_text().splitlines()[:3] == [
        "frame,x,y,w,h,score,state",
        "0,0.000,0.000,10.000,20.000,1.0000,tracking",
        "1,12.346,7.500,31.250,8.000,0.9877,tracking",
    ]
    assert (tmp_path / "jsonl").read_text().splitlines()[1] == (
        '{"frame": 1, "x": 12.346, "y": 7.5, "w": 31.25, "h": 8.0, "score": 0.9877, "state": "tracking"}'
    )
    assert (tmp_path / "lasot").read_text().splitlines()[2] == "-3.500,100.125,1.000,2.000"
    assert (tmp_path / "got10k").read_text() == (tmp_path / "lasot").read_text()
    assert (tmp_path / "otb").read_text().splitlines()[0] == "1.000,1.000,10.000,20.000"


def test_csv_and_json_lines_are_read_by_the_standard_library(tmp_path: Path) -> None:
    write(tmp_path / "a.csv")
    write(tmp_path / "a.jsonl")
    with (tmp_path / "a.csv").open(newline="") as stream:
        table = list(csv.DictReader(stream))
    objects = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert list(table[0]) == list(objects[0])
    assert [float(row["x"]) for row in table] == [row["x"] for row in objects]


MANY = [(0, 7, RESULTS[0]), (0, 9, RESULTS[1]), (1, 7, RESULTS[2])]


def write_many(path: Path, format: str | None = None) -> None:
    with ResultFile.open(path, format, with_ids=True) as results:
        for frame, id, result in MANY:
            results.write(frame, result, id)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.mot.txt"])
def test_ids_of_several_targets_survive_the_round_trip(tmp_path: Path, name: str) -> None:
    write_many(tmp_path / name)
    rows = read_results(tmp_path / name)
    assert [(row.frame, row.id) for row in rows] == [(frame, id) for frame, id, _ in MANY]
    for row, (_, _, written) in zip(rows, MANY, strict=True):
        assert row.result.box == pytest.approx(written.box, abs=0.0005)
        assert row.result.score == pytest.approx(written.score, abs=0.00005)


def test_the_text_of_several_targets_is_as_agreed(tmp_path: Path) -> None:
    for name in ("a.csv", "a.jsonl", "a.mot.txt"):
        write_many(tmp_path / name)
    assert (tmp_path / "a.csv").read_text().splitlines()[:2] == [
        "frame,id,x,y,w,h,score,state",
        "0,7,0.000,0.000,10.000,20.000,1.0000,tracking",
    ]
    assert (tmp_path / "a.jsonl").read_text().startswith('{"frame": 0, "id": 7, "x": 0.0, ')
    # MOT Challenge counts frames, ids and pixels from 1.
    assert (tmp_path / "a.mot.txt").read_text().splitlines() == [
        "1,7,1.000,1.000,10.000,20.000,1.0000,-1,-1,-1",
        "1,9,13.346,8.500,31.250,8.000,0.9877,-1,-1,-1",
        "2,7,-2.500,101.125,1.000,2.000,0.2500,-1,-1,-1",
    ]


def test_a_target_that_is_alone_is_the_first_of_mot(tmp_path: Path) -> None:
    write(tmp_path / "a.MOT.txt")
    assert [row.id for row in read_results(tmp_path / "a.MOT.txt")] == [1, 1, 1]


@pytest.mark.parametrize(("name", "format"), [("a.txt", None), ("a.csv", "otb"), ("a.txt", "got10k")])
def test_a_format_without_a_place_for_ids_is_refused(tmp_path: Path, name: str, format: str | None) -> None:
    with pytest.raises(ValueError, match=rf"{name} would be written as .* no place for the ids"):
        ResultFile.open(tmp_path / name, format, with_ids=True)
    assert list(tmp_path.iterdir()) == []


def test_txt_means_lasot_unless_another_format_is_named(tmp_path: Path) -> None:
    write(tmp_path / "plain.txt")
    write(tmp_path / "named.txt", "otb")
    assert (tmp_path / "plain.txt").read_text().startswith("0.000,")
    assert (tmp_path / "named.txt").read_text().startswith("1.000,")


def test_benchmark_text_is_read_with_any_separator_and_has_no_score(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"1,2,3,4\r\n1\t2\t3\t4\r\n 1 2  3 4\r\nnan,nan,nan,nan\r\n\r\n")
    rows = read_results(tmp_path / "a.txt")
    assert [row.result.box for row in rows[:3]] == [(1, 2, 3, 4)] * 3
    assert [row.result.state for row in rows] == ["tracking"] * 3 + ["lost"]
    assert all(math.isnan(row.result.score) for row in rows)


def test_a_score_that_is_not_known_survives_json_which_has_no_nan(tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.csv"):
        with ResultFile.open(tmp_path / name) as results:
            results.write(0, Result((1, 2, 3, 4), math.nan, "tracking"))
        assert math.isnan(read_results(tmp_path / name)[0].result.score)
    assert json.loads((tmp_path / "a.jsonl").read_text())["score"] is None


def test_the_file_appears_only_when_it_is_finished(tmp_path: Path) -> None:
    with ResultFile.open(tmp_path / "a.csv") as results:
        results.write(0, RESULTS[0])
        assert not (tmp_path / "a.csv").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def fail_after_a_row(results: ResultFile, error: type[BaseException]) -> None:
    results.write(0, RESULTS[0])
    raise error("stop")


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
@pytest.mark.parametrize("format", FORMATS)
def test_ctrl_c_or_an_error_after_a_row_leaves_a_finished_file(
    tmp_path: Path, format: str, error: type[BaseException]
) -> None:
    with pytest.raises(error, match="stop"), ResultFile.open(tmp_path / "a", format) as results:
        fail_after_a_row(results, error)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert len(read_results(tmp_path / "a", format)) == 1


def test_an_error_before_the_first_row_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stop"), ResultFile.open(tmp_path / "a.csv"):
        raise ValueError("stop")
    assert list(tmp_path.iterdir()) == []


def test_closing_without_a_row_gives_a_well_formed_empty_file(tmp_path: Path) -> None:
    for name in ("a.csv", "a.jsonl", "a.txt"):
        with ResultFile.open(tmp_path / name):
            pass
        assert read_results(tmp_path / name) == []


def test_discarding_leaves_nothing_behind_and_the_old_file_untouched(tmp_path: Path) -> None:
    write(tmp_path / "a.csv")
    before = (tmp_path / "a.csv").read_bytes()
    results = ResultFile.open(tmp_path / "a.csv", overwrite=True)
    results.write(0, RESULTS[0])
    results.discard()
    results.close()  # comes too late and does nothing
    assert (tmp_path / "a.csv").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_an_existing_file_is_replaced_only_on_request(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("mine")
    with pytest.raises(FileExistsError, match=r"a\.csv exists already.*--overwrite") as caught:
        ResultFile.open(tmp_path / "a.csv")
    assert "\n" not in str(caught.value)
    assert (tmp_path / "a.csv").read_text() == "mine"
    write(tmp_path / "a.csv", overwrite=True)
    assert len(read_results(tmp_path / "a.csv")) == 3


def test_what_two_write_under_one_name_is_kept_of_both(tmp_path: Path) -> None:
    first, second = (ResultFile.open(tmp_path / "a.csv") for _ in range(2))
    for frame, results in ((7, first), (8, second)):
        results.write(frame, Result((1, 2, 3, 4), 1.0, "tracking"))
    first.close()
    with pytest.raises(
        FileExistsError, match=r"a\.csv has come into being meanwhile: .* is in (.*)"
    ) as caught:
        second.close()
    kept = Path(str(caught.value).rpartition(" ")[2])
    assert {path.name for path in tmp_path.iterdir()} == {"a.csv", kept.name}
    assert [read_results(path)[0].frame for path in (tmp_path / "a.csv", kept)] == [7, 8]


def test_rows_are_on_the_disk_as_soon_as_they_are_written(tmp_path: Path) -> None:
    with ResultFile.open(tmp_path / "a.csv") as results:
        results.write(0, Result((1, 2, 3, 4), 1.0, "tracking"))
        (partial,) = tmp_path.iterdir()
        assert len(partial.read_text().splitlines()) == 2


def test_on_a_full_disk_whole_rows_are_kept_and_the_file_is_named(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")  # not on Windows
    path = tmp_path / "a.csv"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, limits[1]))
    try:
        with (
            pytest.raises(OSError, match=f"^{re.escape(str(path))} cannot be written: "),
            ResultFile.open(path) as results,
        ):
            for frame in range(100):
                results.write(frame, RESULTS[0])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    rows = read_results(path)
    assert [row.frame for row in rows] == list(range(len(rows)))
    assert 3 <= len(rows) < 10
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_a_file_that_is_replaced_keeps_who_may_read_it(tmp_path: Path) -> None:
    write(tmp_path / "a.csv")
    (tmp_path / "a.csv").chmod(0o600)
    write(tmp_path / "a.csv", overwrite=True)
    assert (tmp_path / "a.csv").stat().st_mode & 0o777 == 0o600


def test_a_link_is_followed_to_the_file_that_it_names(tmp_path: Path) -> None:
    (tmp_path / "real.csv").write_text("old")
    (tmp_path / "link.csv").symlink_to("real.csv")
    write(tmp_path / "link.csv", overwrite=True)
    assert (tmp_path / "link.csv").is_symlink()
    assert len(read_results(tmp_path / "real.csv")) == 3


def test_a_place_that_cannot_be_written_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.csv").mkdir()
    for path, kind, sentence in [
        (tmp_path / "file" / "a.csv", NotADirectoryError, "file is not a folder"),
        (tmp_path / "none" / "a.csv", FileNotFoundError, "none does not exist"),
        (tmp_path / "folder.csv", IsADirectoryError, "it is a folder"),
        (tmp_path / ("long" * 80 + ".csv"), OSError, "cannot be written: File name too long"),
    ]:
        with pytest.raises(kind, match=sentence) as caught:
            ResultFile.open(path)
        assert not re.search(r"\n|Errno", str(caught.value))
    with pytest.raises(OSError, match="it is a device or pipe"):
        ResultFile.open("/dev/null", "csv", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.csv"]


def test_an_unknown_format_or_suffix_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must end in \.csv, \.jsonl, \.txt"):
        ResultFile.open(tmp_path / "a.xml")
    with pytest.raises(ValueError, match="must be one of csv, jsonl, otb, lasot, got10k, mot, got 'xml'"):
        ResultFile.open(tmp_path / "a.csv", "xml")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("a.csv", "x,y\n1,2\n", "must begin with the line frame,x,y,w,h,score,state, got 'x,y'"),
        ("a.csv", "", "must begin with the line"),
        ("a.csv", "frame,x,y,w,h,score,state\n0,1,2,3,4,1.0\n", "line 2 must hold frame,x,y,w,h,score,state"),
        (
            "a.csv",
            "frame,id,x,y,w,h,score,state\n0,1,2,3,4,1.0,lost\n",
            "line 2 must hold frame,id,x,y,w,h,score,state as csv",
        ),
        ("a.mot.txt", "1,1,1,1,5,5,1\n1,1,1,1,5,5\n", "line 2 must hold frame,id,x,y,w,h,score as mot"),
        ("a.jsonl", '{"frame": 0}\n', "line 1 must hold frame,x,y,w,h,score,state as jsonl"),
        ("a.jsonl", "[1, 2]\n", "line 1 must hold"),
        ("a.jsonl", "not json\n", "line 1 must hold"),
        ("a.txt", "1,2,3,4\n1,2,3\n", "line 2 must hold x,y,w,h as lasot, got '1,2,3'"),
        ("a.txt", "1,2,3,4\n\n1,2,3,4\n", "line 2 must hold x,y,w,h"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(tmp_path: Path, name: str, text: str, sentence: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=sentence):
        read_results(tmp_path / name)


def test_reading_a_missing_or_binary_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.csv is not a results file"):
        read_results(tmp_path / "none.csv")
    (tmp_path / "a.txt").write_bytes(bytes(range(256)))
    with pytest.raises(ValueError, match="line 1 must hold"):
        read_results(tmp_path / "a.txt")


def test_importing_results_loads_neither_opencv_nor_pyav() -> None:
    code = "import sys, mixformerv2.results; print([m for m in ('cv2', 'av', 'numpy', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
