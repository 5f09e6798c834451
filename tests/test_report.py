"""Reports of finished runs: which numbers go where, that names stay text, and that boxes land where they should."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import math
import re
import sys
from collections.abc import Sequence as ReadOnlySequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rich.console import Console

from mixformerv2.data.sequence import Sequence
from mixformerv2.evaluate.protocols import PROTOCOLS
from mixformerv2.evaluate.report import figures, lost, page, pictures, table, view
from mixformerv2.evaluate.report.figures import RunScores, Speed, build_scores
from mixformerv2.evaluate.report.lost import Stretch, frames_to_show, lost_stretches, worst_frames
from mixformerv2.evaluate.report.pictures import PREDICTIONS, TRUTH, Window
from mixformerv2.evaluate.report.view import PageOptions
from mixformerv2.evaluate.run import OnePass
from mixformerv2.evaluate.store import Run

WIDTH, HEIGHT = 100, 80
TRUE_BOX = (40.0, 30.0, 60.0, 50.0)  # 20 px a side
HOSTILE = "</script><script>alert(1)</script><b onmouseover=alert(2)>&\"'"
GREY = 90
LASOT = PROTOCOLS["lasot"]


@dataclass(frozen=True, eq=False)
class GreyFrames:
    length: int

    def __len__(self) -> int:
        return self.length

    def read(self, index: int) -> np.ndarray:
        return np.full((HEIGHT, WIDTH, 3), GREY, np.uint8)

    def place(self, index: int) -> str:
        return f"grey {index}"


def still_target(name: str, length: int, absent: ReadOnlySequence[int] = ()) -> Sequence:
    """The target stays at `TRUE_BOX`; in absent frames it has no box."""
    gone = np.isin(np.arange(length), absent)
    boxes = np.tile(np.array(TRUE_BOX), (length, 1))
    boxes[gone] = np.nan
    return Sequence(name, GreyFrames(length), boxes, gone)


def shifted_pass(shifts: ReadOnlySequence[float], ms: ReadOnlySequence[float] | None = None) -> OnePass:
    """The true box, moved to the right by so many px frame by frame: by 10 the overlap is 1/3, by 20 it is 0."""
    boxes = np.array(TRUE_BOX) + np.array(shifts, np.float64)[:, None] * (1, 0, 1, 0)
    seconds = np.array(ms or [10.0] * len(shifts)) / 1000
    return OnePass(boxes, np.linspace(1, 0.5, len(shifts)), seconds, 0)


def run_of(label: str, dataset: str = "otb", **shifts: ReadOnlySequence[float]) -> Run:
    """A run over still targets, by the names of the sequences."""
    lengths = {name: len(one) for name, one in shifts.items()}
    passes = {name: shifted_pass(one) for name, one in shifts.items()}
    description = {"label": label, "dataset": dataset, "sequences": lengths, "tracker": {"text": label}}
    return Run(label, description, Path("nowhere"), passes)


def sequences_of(run: Run) -> list[Sequence]:
    return [still_target(name, len(one.boxes_frame)) for name, one in run.passes.items()]


def scores_of(*runs: Run, protocols: ReadOnlySequence[str] = ("lasot",)) -> list[RunScores]:
    longest = max(runs, key=lambda run: len(run.passes))
    chosen = [PROTOCOLS[name] for name in protocols]
    return [build_scores(run, sequences_of(longest), chosen) for run in runs]


# --- where the target was lost


def test_a_lost_stretch_costs_what_perfect_boxes_would_have_added_to_the_mean_overlap() -> None:
    overlaps = np.array([1.0, 0.9, 0.1, 0.0, 0.1, 0.9, 1.0, 1.0, 1.0, 1.0])
    assert lost_stretches(overlaps) == [Stretch(2, 4, 3, pytest.approx((0.9 + 1.0 + 0.9) / 10))]


def test_lost_stretches_come_by_their_cost_and_near_ones_are_one() -> None:
    overlaps = np.ones(40)
    overlaps[2] = 0.1
    overlaps[[20, 26]] = 0.0  # five good frames between
    assert [stretch[:2] for stretch in lost_stretches(overlaps)] == [(20, 26), (2, 2)]
    overlaps[[26, 27]] = 1.0, 0.0
    assert [stretch[:2] for stretch in lost_stretches(overlaps)] == [(20, 20), (27, 27), (2, 2)]


def test_a_frame_without_the_target_neither_begins_a_lost_stretch_nor_counts_in_its_cost() -> None:
    overlaps = np.array([np.nan, 1.0, 0.0, np.nan, 0.0, 1.0])
    assert lost_stretches(overlaps) == [Stretch(2, 4, 2, pytest.approx(2 / 4))]
    assert lost_stretches(np.full(3, np.nan)) == []


def test_the_worst_frames_are_of_different_moments() -> None:
    overlaps = np.ones(120)
    overlaps[30:60] = 0.0
    overlaps[90] = 0.5
    assert worst_frames(overlaps, 3) == [30, 40, 50]
    overlaps[100:103] = 0.05
    assert worst_frames(overlaps, 3) == [30, 100, 40]
    assert worst_frames(overlaps, 0) == []


def test_a_short_sequence_is_played_whole() -> None:
    assert frames_to_show([[]], 5, 60, []) == [0, 1, 2, 3, 4]


def test_the_beginning_of_a_failure_is_played_frame_by_frame_and_the_rest_coarsely() -> None:
    chosen = frames_to_show([[Stretch(500, 507, 503, 0.1)]], 1000, 40, [503, 700])
    assert len(chosen) == 40 and chosen == sorted(set(chosen))
    assert {*range(496, 508), 700, 0, 999} <= set(chosen)
    assert max(np.diff(chosen)) < 100


def test_every_trackers_worst_failure_is_played_before_the_second_of_another() -> None:
    first = [Stretch(100, 120, 110, 0.5), Stretch(400, 420, 410, 0.4)]
    second = [Stretch(800, 820, 810, 0.1)]
    chosen = frames_to_show([first, second], 1000, 39, [])
    assert {100, 800} <= set(chosen)
    assert 404 not in chosen


# --- the numbers of a run


def test_speed_is_that_of_updates_and_starting_is_none() -> None:
    speed = Speed.of([shifted_pass([0] * 5, ms=[999, 10, 20, 30, 40]), shifted_pass([0], ms=[999])])
    assert speed.updates == 4
    assert speed.frames_per_second == pytest.approx(40.0)
    assert (speed.ms_p50, speed.ms_p90) == (pytest.approx(25.0), pytest.approx(37.0))


def test_a_run_without_updates_has_no_speed() -> None:
    speed = Speed.of([shifted_pass([0])])
    assert speed.updates == 0 and math.isnan(speed.frames_per_second) and math.isnan(speed.ms_p99)


def test_sequences_that_a_run_has_no_results_of_are_named_and_left_out() -> None:
    whole, part = run_of("whole", a=[0, 0], b=[0, 20, 20]), run_of("part", a=[0, 0])
    one = build_scores(part, sequences_of(whole), [LASOT])
    assert one.missing == ("b",) and one.sequences == ("a",)
    assert one.overall["lasot"] == one.by_sequence["lasot"]["a"] or one.overall["lasot"].auc == pytest.approx(
        one.by_sequence["lasot"]["a"].auc
    )


def test_results_of_an_unknown_sequence_are_refused() -> None:
    run = run_of("tracker", a=[0, 0], b=[0, 0])
    with pytest.raises(ValueError, match="got results of b, which is not one of them"):
        build_scores(run, [still_target("a", 2)], [LASOT])


def test_a_run_without_results_is_refused() -> None:
    with pytest.raises(ValueError, match="results of at least one sequence"):
        build_scores(run_of("tracker"), [still_target("a", 2)], [LASOT])


def test_an_attributes_figures_are_those_of_the_sequences_that_have_it() -> None:
    run = run_of("tracker", a=[0, 0, 0], b=[0, 20, 20], c=[0, 20, 0])
    has = {"a": ["fast motion"], "b": ["fast motion", "low resolution"], "c": []}
    one = build_scores(run, sequences_of(run), [LASOT], has)
    of_sequence, of_attribute = one.by_sequence["lasot"], one.by_attribute["lasot"]
    assert list(of_attribute) == ["fast motion", "low resolution"]
    assert of_attribute["low resolution"].auc == pytest.approx(of_sequence["b"].auc)
    assert of_attribute["fast motion"].auc == pytest.approx((of_sequence["a"].auc + of_sequence["b"].auc) / 2)


def test_runs_of_one_label_are_told_apart() -> None:
    named = figures.with_own_labels(scores_of(*(run_of("tiny", a=[0, 0]) for _ in range(3))))
    assert [one.label for one in named] == ["tiny", "tiny (2)", "tiny (3)"]


def test_the_json_file_holds_figures_by_protocol_and_sequence_attributes_and_speed(tmp_path: Path) -> None:
    run = run_of("tracker", a=[0, 10, 20], b=[0, 0, 0])
    scores = build_scores(run, sequences_of(run), [LASOT, PROTOCOLS["got10k"]], {"a": ["low resolution"]})
    figures.write_json(tmp_path / "scores.json", [scores])

    def no_constant(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    document = json.loads((tmp_path / "scores.json").read_text("utf-8"), parse_constant=no_constant)
    (one,) = document["runs"]
    assert one["protocols"]["lasot"]["sequences"]["a"]["auc"] == scores.by_sequence["lasot"]["a"].auc
    assert one["protocols"]["got10k"]["overall"]["ao"] == scores.overall["got10k"].ao
    assert one["protocols"]["lasot"]["by_attribute"]["low resolution"]["frames"] > 0
    assert one["attributes"] == {"a": ["low resolution"], "b": []}
    assert one["speed"]["ms_p99"] == pytest.approx(10.0) and one["speed"][
        "frames_per_second"
    ] == pytest.approx(100)
    curve, at = one["protocols"]["lasot"]["overall"]["success"], document["thresholds"]["lasot"]["success"]
    assert len(curve) == len(at) and at[0] == 0 and at[-1] == 1


# --- tables


def printed(*runs: Run, protocols: ReadOnlySequence[str] = ("lasot",)) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(table.table(scores_of(*runs, protocols=protocols)))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return str(text)


def test_one_run_has_its_protocols_headline_figures_side_by_side() -> None:
    text = printed(run_of("tracker", a=[0, 0, 0], b=[0, 20, 20]))
    assert re.search(r"AUC.*Pnorm.*P ", text)
    assert re.search(r"a +│ +\d\.\d{3} │ +1\.000 │ +1\.000 │", text)
    assert "100.0 frames per second" in text


def test_all_protocols_stand_side_by_side_in_80_characters() -> None:
    text = printed(run_of("tracker", Basketball=[0, 0, 0]), protocols=[*PROTOCOLS])
    assert re.search(r"lasot pytracking +-uav pysot got10k", text) and re.search(r"AUC +AO +AUC", text)
    assert re.search(r"all: AO +1\.000 +1\.000", text)
    assert max(map(len, text.splitlines())) <= 80


def test_several_runs_have_a_column_each_and_a_dash_where_one_has_nothing() -> None:
    text = printed(run_of("first", a=[0, 0], b=[0, 0]), run_of("second", a=[0, 0]))
    assert re.search(r"first +┃ +second", text)
    assert re.search(r"b +│ +\d\.\d{3} │ +- │", text)
    assert "second has no results of 1 of 2 sequences" in " ".join(text.split())


def test_several_runs_by_several_protocols_have_a_row_a_run_under_every_figure() -> None:
    runs = run_of("tiny (precision=f32)", a=[0, 0]), run_of("second", a=[0, 20])
    text = printed(*runs, protocols=[*PROTOCOLS])
    assert re.search(r"\nAO +\ntiny \(precision=f32\) 1\.000.*\nsecond +0\.500", text)
    assert max(map(len, text.splitlines())) <= 80


def test_a_name_is_no_markup_on_the_terminal() -> None:
    text = printed(run_of("[red]tracker[/]", **{"[bold]a[/]": [0, 0]}))
    assert "[red]tracker[/]" in text and "[bold]a[/]" in text


def test_the_csv_file_reads_back_as_the_numbers_that_went_in(tmp_path: Path) -> None:
    run = run_of('a "quoted", tracker', a=[0, 10, 20], b=[0, 0, 0])
    one = build_scores(run, sequences_of(run), [LASOT, PROTOCOLS["got10k"]], {"a": ["low resolution"]})
    table.write_csv(tmp_path / "scores.csv", [one])
    with (tmp_path / "scores.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["run"] for row in rows} == {run.label}
    found = {(row["protocol"], row["kind"], row["name"]): row for row in rows}
    assert len(found) == len(rows) == 2 * (2 + 1 + 1)
    for protocol in ("lasot", "got10k"):
        for kind, name, expected in (
            ("sequence", "a", one.by_sequence[protocol]["a"]),
            ("attribute", "low resolution", one.by_attribute[protocol]["low resolution"]),
            ("all", "", one.overall[protocol]),
        ):
            row = found[protocol, kind, name]
            for figure in figures.TITLES:
                value = getattr(expected, figure)
                assert float(row[figure] or "nan") == pytest.approx(value, rel=0, abs=0, nan_ok=True)
    assert float(found["lasot", "all", ""]["ms_p90"]) == one.speed.ms_p90


def test_latex_marks_the_best_and_the_second_best() -> None:
    runs = [run_of("good", a=[0, 0]), run_of("bad", a=[0, 30]), run_of("fair", a=[0, 10])]
    rows = [
        line
        for line in table.latex(scores_of(*runs)).splitlines()
        if line.startswith(("good", "bad", "fair"))
    ]
    aucs = [row.split(" & ")[1] for row in rows]
    assert aucs == ["\\textbf{95.2}", "47.6", "\\underline{64.3}"]  # 20/21; 10/21; 13.5/21


def test_means_over_different_sequences_are_not_ranked() -> None:
    runs = [run_of("whole", a=[0, 10], b=[0, 10]), run_of("half", a=[0, 0])]
    text = table.latex(scores_of(*runs))
    assert "% half has no results of 1 of 2 sequences, which are left out" in text
    rows = {line.split(" & ")[0]: line for line in text.splitlines() if " & " in line}
    assert not any("\\textbf" in rows[name] for name in ("whole", "half", "All"))
    assert "\\textbf" in rows["a"]
    shown = io.StringIO()
    Console(file=shown, width=100, force_terminal=True).print(table.table(scores_of(*runs)))
    row = next(line for line in shown.getvalue().splitlines() if "all" in line)
    assert row.count("\x1b[1m") == 1  # the word alone


def test_every_row_of_a_latex_table_has_as_many_cells_as_the_table_has_columns() -> None:
    scores = scores_of(run_of("a&b", a=[0, 0]), run_of("c", a=[0, 5]), protocols=["lasot", "got10k"])
    for part in table.latex(scores).split("\\begin{tabular}")[1:]:
        columns = len(re.match(r"\{([lr]+)\}", part)[1])  # type: ignore[index]
        for line in part.splitlines():
            if line.endswith("\\\\"):
                spanned = sum(int(width) - 1 for width in re.findall(r"\\multicolumn\{(\d+)\}", line))
                assert len(re.findall(r"(?<!\\)&", line)) + 1 + spanned == columns, line


@pytest.mark.parametrize(
    ("name", "escaped"),
    [
        ("50%_of $x#1", r"50\%\_of \$x\#1"),
        ("{a}\\b", r"\{a\}\textbackslash{}b"),
        ("~^", r"\textasciitilde{}\textasciicircum{}"),
        ("two\nlines", "two lines"),
    ],
)
def test_a_name_stands_in_latex_as_it_is(name: str, escaped: str) -> None:
    assert table.escape_latex(name) == escaped


# --- pictures


def test_a_window_holds_both_boxes_with_half_their_extent_around_them_in_the_frames_proportions() -> None:
    boxes = np.array([[400.0, 300, 420, 340], [500.0, 300, 600, 400]])  # together 200 x 100 px
    assert Window.around(boxes, (1000, 500)) == Window(300, 250, 400, 200)


def test_a_window_is_no_smaller_than_a_third_of_the_frame_and_stays_inside_it() -> None:
    assert Window.around(np.array([[0.0, 0, 10, 10]]), (300, 240)) == Window(0, 0, 100, 80)
    assert Window.around(np.array([[290.0, 230, 310, 250]]), (300, 240)) == Window(200, 160, 100, 80)


def test_without_a_box_on_the_frame_a_window_is_the_frame() -> None:
    off_frame = [[-50.0, -50, -10, -10], [np.nan] * 4, [5.0, 5, 5, 9]]
    assert Window.around(np.array(off_frame), (300, 240)) == Window(0, 0, 300, 240)


def columns_of(picture: np.ndarray, colour: tuple[int, int, int]) -> list[int]:
    return sorted(set(np.flatnonzero((picture == colour).all(axis=2).any(axis=0)).tolist()))


def test_the_boxes_of_a_picture_land_where_they_are_in_the_frame() -> None:
    frame = np.full((240, 300, 3), GREY, np.uint8)
    boxes = np.array([[30.0, 30, 90, 120], [150.0, 60, 270, 210]])
    window = Window.around(boxes, (300, 240))
    assert window == Window(0, 0, 300, 240)
    picture = pictures.draw(frame, boxes, (TRUTH, PREDICTIONS[0]), width_px=600)  # twice as large
    assert picture.shape == (480, 600, 3)
    for box, colour in zip(boxes, (TRUTH, PREDICTIONS[0]), strict=True):
        ys, xs = np.nonzero((picture == colour).all(axis=2))
        # The line is 2 px wide and lies on the edge.
        assert np.abs(np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]) - 2 * box).max() <= 1


def test_boxes_land_in_an_enlarged_window_too() -> None:
    frame = np.full((240, 300, 3), GREY, np.uint8)
    box = np.array([[140.0, 110, 160, 130]])
    assert Window.around(box, (300, 240)) == Window(100, 80, 100, 80)
    columns = columns_of(pictures.draw(frame, box, (TRUTH,), width_px=200), TRUTH)
    assert abs(columns[0] - 80) <= 1 and abs(columns[-1] + 1 - 120) <= 1


def test_a_box_that_is_not_finite_is_not_drawn_and_one_far_outside_does_no_harm() -> None:
    frame = np.full((240, 300, 3), GREY, np.uint8)
    boxes = np.array([[np.nan] * 4, [1e12, 1e12, 2e12, 2e12]])
    assert (pictures.draw(frame, boxes, (TRUTH, PREDICTIONS[0]), 300) == GREY).all()


def test_a_picture_becomes_a_jpeg_of_the_same_size_and_colours() -> None:
    picture = np.full((40, 60, 3), (200, 40, 90), np.uint8)
    head, body = pictures.jpeg_uri(picture, 90).split(",")
    assert head == "data:image/jpeg;base64"
    decoded = cv2.imdecode(np.frombuffer(base64.b64decode(body), np.uint8), cv2.IMREAD_COLOR)
    assert decoded.shape == picture.shape
    assert np.abs(decoded[..., ::-1].astype(int) - picture).max() <= 4


def test_a_narrow_frame_is_kept_and_a_wide_one_shrinks_in_its_proportions() -> None:
    assert pictures.shrink(np.zeros((80, 100, 3), np.uint8), 120).shape == (80, 100, 3)
    assert pictures.shrink(np.zeros((80, 100, 3), np.uint8), 50).shape == (40, 50, 3)


# --- the page

SMALL = PageOptions(frames_to_play=6, frame_width_px=50, worst_frames=2, worst_width_px=60)


class PageParser(HTMLParser):
    """What a browser would find: elements with their attributes, scripts, and the visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_data(self, data: str) -> None:
        tag, attributes = self.elements[-1] if self.elements else ("", {})
        if tag == "script" and self.scripts[-1][1] == "" and data.strip():
            self.scripts[-1] = (attributes, data)
        elif tag != "style":
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def block(self, name: str) -> Any:
        """The JSON of the script element with this id."""
        return json.loads(next(body for attributes, body in self.scripts if attributes.get("id") == name))


def page_of(*runs: Run, options: PageOptions = SMALL, protocols: ReadOnlySequence[str] = ("lasot",)) -> str:
    longest = max(runs, key=lambda run: len(run.passes))
    return page.page(runs, scores_of(*runs, protocols=protocols), sequences_of(longest), options)


@pytest.fixture(scope="module")
def hostile_text() -> str:
    first = run_of(HOSTILE, dataset=HOSTILE, **{HOSTILE: [0, 5, 10, 20], "b": [0, 0, 0, 0]})
    second = run_of("second", dataset=HOSTILE, **{HOSTILE: [0, 0, 0, 0], "b": [0, 20, 20, 20]})
    sequences = sequences_of(first)
    has = {HOSTILE: [HOSTILE], "b": [HOSTILE]}
    scores = [build_scores(run, sequences, [LASOT, PROTOCOLS["got10k"]], has) for run in (first, second)]
    return page.page([first, second], scores, sequences, SMALL)


@pytest.fixture(scope="module")
def hostile(hostile_text: str) -> PageParser:
    return PageParser(hostile_text)


def test_names_are_text_wherever_they_stand_in_the_page(hostile: PageParser, hostile_text: str) -> None:
    assert "alert(1)</script>" not in hostile_text
    assert not any("onmouseover" in attributes for _, attributes in hostile.elements)
    assert len(hostile.scripts) == 1 + 2 + 2  # numbers, two timelines, library, our own
    assert HOSTILE in hostile.text
    report = hostile.block("report")
    assert [run["label"] for run in report["runs"]] == [HOSTILE, "second"]
    assert [sequence["name"] for sequence in report["sequences"]] == [HOSTILE, "b"]
    assert report["attributes"] == [{"name": HOSTILE, "meaning": "", "sequences": 2}]
    assert any(HOSTILE in (image["alt"] or "") for image in hostile.all("img"))


def test_json_cannot_end_its_script_or_open_a_comment_and_stays_the_same() -> None:
    value = ["</script>", "<!--", "]]>", "&amp;", "\u2028", "é"]
    text = page.script_json(value)
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == value


def test_the_page_is_all_in_one_file(hostile: PageParser) -> None:
    for tag, attributes in hostile.elements:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form"), tag
        for name in ("src", "srcset", "href", "action", "poster", "data", "background"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/jpeg;base64,", "#")), (tag, name, value)
    own_style = (Path(page.__file__).parent / "page.css").read_text("utf-8")
    assert "url(" not in own_style and "@import" not in own_style


def test_a_browser_may_run_the_pages_own_scripts_and_fetch_nothing(hostile: PageParser) -> None:
    (policy,) = (
        meta["content"] or ""
        for meta in hostile.all("meta")
        if meta.get("http-equiv") == "Content-Security-Policy"
    )
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data: blob:"
    running = [body for attributes, body in hostile.scripts if "type" not in attributes]
    digests = [base64.b64encode(hashlib.sha256(body.encode()).digest()).decode() for body in running]
    assert rules["script-src"].split() == [f"'sha256-{digest}'" for digest in digests]
    assert "plotly.js" in running[0][:200]
    # A library that is asked nothing has a button that sends the plot to its maker.
    assert "showSendToCloud" in running[0] and "showSendToCloud: false" in running[1]


def test_the_scripts_find_every_element_that_they_look_for(hostile: PageParser) -> None:
    ids = [attributes["id"] for _, attributes in hostile.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    script = hostile.scripts[-1][1]
    wanted = set(re.findall(r'(?:byId|getElementById|drawCurves|draw|relayout)\("([\w-]+)"', script))
    assert len(wanted) > 20
    assert wanted <= set(ids)


def test_tables_say_what_their_heads_belong_to_and_pictures_what_they_show(hostile: PageParser) -> None:
    assert hostile.all("th") and all(head.get("scope") in ("col", "row") for head in hostile.all("th"))
    assert hostile.all("img") and all(image.get("alt") for image in hostile.all("img"))
    for control in hostile.all("input"):
        assert control.get("aria-label")


def test_the_numbers_of_the_page_are_the_scores() -> None:
    runs = run_of("first", a=[0, 0, 10], b=[0, 20, 20]), run_of("second", a=[0, 5, 5])
    scores = scores_of(*runs)
    report = PageParser(page_of(*runs)).block("report")
    (protocol,) = report["protocols"]
    assert protocol["name"] == "lasot" and protocol["headline"][0] == "auc"
    assert [one["auc"] for one in protocol["overall"]] == [one.overall["lasot"].auc for one in scores]
    assert protocol["sequences"][0][1]["auc"] == scores[0].by_sequence["lasot"]["b"].auc
    assert protocol["sequences"][1][1] is None
    assert len(protocol["overall"][0]["success"]) == len(protocol["thresholds"]["success"])
    assert report["runs"][0]["speed"]["frames_per_second"] == pytest.approx(100)


def test_a_run_that_lacks_sequences_is_named_at_the_top() -> None:
    text = PageParser(page_of(run_of("first", a=[0, 0], b=[0, 0]), run_of("second", a=[0, 0]))).text
    assert re.search(r"second\s+has no results of 1\s+sequence, and its figures leave them out:\s+b", text)


def test_a_timeline_has_overlap_score_and_the_boxes_of_the_frames_that_are_played() -> None:
    sequence = still_target("a", 6, absent=[2, 3])
    result = shifted_pass([0, 10, 0, 0, 20, 20])
    result.boxes_frame[5] = np.nan
    run = Run("tracker", {"dataset": "otb"}, Path("nowhere"), {"a": result})
    one = view.view_of([run], ["tracker"], sequence, (), PageOptions(), pictured=True)
    timeline = one.timeline
    assert timeline["absent"] == [[2, 3]]
    assert timeline["runs"][0]["overlap"] == [1.0, 0.333, None, None, 0.0, 0.0]
    assert timeline["runs"][0]["score"] == [1.0, 0.9, 0.8, 0.7, 0.6, 0.5]
    assert timeline["runs"][0]["lost"] == [{"first": 4, "last": 5, "worst": 4, "cost": pytest.approx(0.5)}]
    assert timeline["played"] == [0, 1, 2, 3, 4, 5] and timeline["size"] == [WIDTH, HEIGHT]
    assert timeline["truth"] == [[40, 30, 20, 20]] * 2 + [None] * 2 + [[40, 30, 20, 20]] * 2
    assert timeline["boxes"] == [
        [[40, 30, 20, 20], [50, 30, 20, 20], *[[40, 30, 20, 20]] * 2, [60, 30, 20, 20], None]
    ]
    assert len(timeline["pictures"]) == 6
    assert [picture.frame for picture in one.worst] == [4, 5, 1]
    assert one.worst[0].caption == "overlap 0.00, score 0.60"


def test_a_run_that_was_started_late_lies_at_its_frames() -> None:
    result = OnePass(np.tile(np.array(TRUE_BOX), (2, 1)), np.array([1.0, np.nan]), np.full(2, 0.01), 1)
    run = Run("tracker", {"dataset": "otb"}, Path("nowhere"), {"a": result})
    sequence = still_target("a", 4, absent=[0])
    timeline = view.view_of([run], ["tracker"], sequence, (), PageOptions(), pictured=False).timeline
    assert timeline["runs"][0]["overlap"] == [None, 1.0, 1.0, None]
    assert timeline["runs"][0]["score"] == [None, 1.0, None, None]
    assert timeline["pictures"] == []


def test_only_the_sequences_on_which_targets_were_lost_most_have_pictures() -> None:
    run = run_of("tracker", good=[0, 0, 0], bad=[0, 20, 20], fair=[0, 0, 20])
    options = PageOptions(frames_to_play=3, worst_frames=1, pictured_sequences=1)
    parser = PageParser(page_of(run, options=options))
    assert [len(parser.block(f"timeline-{index}")["pictures"]) for index in range(3)] == [0, 3, 0]
    assert len(parser.all("img")) == 1


def test_runs_of_different_datasets_or_protocols_do_not_share_a_page() -> None:
    runs = run_of("first", a=[0, 0]), run_of("second", dataset="lasot", a=[0, 0])
    with pytest.raises(ValueError, match="must be of one dataset, got lasot, otb"):
        page_of(*runs)
    with pytest.raises(ValueError, match="scores must be of the runs, one by one"):
        page.page(runs[:1], scores_of(runs[1]), sequences_of(runs[0]), SMALL)


@pytest.mark.parametrize("package", ["plotly", "jinja2"])
def test_a_missing_package_is_named_with_the_extra_that_has_it(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        ModuleNotFoundError, match=rf"needs the package {package}: pip install 'mixformerv2\[report\]'"
    ):
        page_of(run_of("tracker", a=[0, 0]))


def test_a_page_is_written_whole_and_replaces_the_last_one(tmp_path: Path) -> None:
    run = run_of("tracker", a=[0, 20])
    (tmp_path / "report.html").write_text("old")
    page.write_page(tmp_path / "report.html", [run], scores_of(run), sequences_of(run), SMALL)
    text = (tmp_path / "report.html").read_text("utf-8")
    assert text.startswith("<!doctype html>") and text.rstrip().endswith("</html>")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize(
    "wrong", [{"quality": 0}, {"quality": 101}, {"frames_to_play": -1}, {"frame_width_px": 2}]
)
def test_impossible_options_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be at (least|most)"):
        PageOptions(**wrong)


def test_a_page_without_any_picture_can_be_had() -> None:
    options = PageOptions(frames_to_play=0, worst_frames=0)
    parser = PageParser(page_of(run_of("tracker", a=[0, 20, 20]), options=options))
    assert parser.all("img") == []
    assert parser.block("timeline-0")["runs"][0]["lost"][0]["first"] == 1
    assert parser.block("timeline-0")["lost_below"] == lost.LOST_BELOW
