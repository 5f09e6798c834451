"""Rows that can be compared, a run that goes on where it stopped, and a page that claims no more than was measured."""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import layouts
import numpy as np
import pytest
import training

from mixformerv2.config import Config
from mixformerv2.distill.targets import default_feature_layers
from mixformerv2.train import ablations, stages
from mixformerv2.train.ablations import QUESTIONS, RECIPES, ROWS, SAMPLES, TABLES, Row, Table
from mixformerv2.train.settings import as_plain, override
from mixformerv2.train.shipped import tiny_from_compact

HERE = Path(__file__).parents[1] / "benchmarks" / "ablations"


# --- the rows


def test_every_question_has_tables_and_every_row_is_in_one() -> None:
    assert {table.question for table in TABLES} == set(QUESTIONS) == {1, 2, 3, 4, 5}
    assert {name for table in TABLES for name in table.rows} == set(ROWS)
    assert all(len(table.rows) > 1 and len(set(table.rows)) == len(table.rows) for table in TABLES)
    assert all(ROWS[row.of].stages for row in ROWS.values() if row.of is not None)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_rows_of_a_table_have_the_same_data_samples_and_schedule(table: Table) -> None:
    alike = set()
    for name in table.rows:
        row = ROWS[name]
        trained = ROWS[row.of] if row.of else row
        own = [stage for stage in trained.stages if (stage.name + ".").startswith(trained.name + ".")]
        assert sum(stage.samples for stage in own) == SAMPLES, name
        for stage in own:
            data = dataclasses.replace(stage.data, label_shift_px=0.0)
            alike.add(
                json.dumps([as_plain_of(data), as_plain_of(stage.optim), stage.batch, stage.frozen_blocks])
            )
            assert stage.data.sample.held_out == ablations.HELD_OUT
            model = stage.target.model
            assert (model.dim, model.search_px, model.template_px) == (384, 144, 112)
    assert len(alike) == 1


def as_plain_of(config: Any) -> dict[str, Any]:
    return dataclasses.asdict(config)


def test_a_row_is_a_recipe_by_its_name_and_complete() -> None:
    assert set(RECIPES) == {f"ablation-{name}" for name, row in ROWS.items() if row.stages}
    for name, recipe in RECIPES.items():
        assert recipe().name == name
        assert override(recipe(), []) == recipe()
        assert json.loads(json.dumps(as_plain(recipe()))) == as_plain(recipe())


def test_a_seed_is_of_a_rows_own_stages_and_teachers_are_shared() -> None:
    first, third = ROWS["eight-fade-short"].recipe(), ROWS["eight-fade-short"].recipe(seed=2)
    assert [stage.name for stage in first.stages] == [
        "teacher",
        "sparse",
        "eight-fade-short.fade",
        "eight-fade-short",
    ]
    assert third.stages[:2] == first.stages[:2] == ROWS["four-logits"].recipe(seed=1).stages[:2]
    fade, after = third.stages[2:]
    assert (fade.name, after.start, after.teacher) == ("eight-fade-short.fade.seed-2", fade.name, "sparse")
    assert {stage.seed for stage in third.stages[2:]} == {2}
    assert [stage.seed for stage in ROWS["sparse"].recipe(seed=1).stages] == [0, 1]


def test_blocks_that_stay_are_compared_with_what_the_next_one_left_is_to_begin_with() -> None:
    fade, after = ROWS["depth-4"].stages
    assert (fade.start, fade.teacher, fade.remove) == ("compact", "compact", (1, 2, 3, 5))
    assert fade.feature_layers == ((0, 3), (4, 5), (6, 6), (7, 7))
    assert (after.start, after.teacher) == ("depth-4.fade", "compact")
    assert after.feature_layers == tiny_from_compact().stages[-1].feature_layers
    for name, removed in (("half-fade-long", (0, 2, 4, 6)), ("half-fade-last", (4, 5, 6, 7))):
        fade, after = ROWS[name].stages
        assert fade.remove == removed and fade.feature_layers == default_feature_layers(8, 8)
        assert after.feature_layers == default_feature_layers(4, 8)


def test_a_row_from_scratch_or_from_labels_has_no_teacher() -> None:
    for name, start in (("half-scratch", "vit-s"), ("half-skipped", "compact")):
        (stage,) = ROWS[name].stages
        assert (stage.start, stage.teacher, stage.losses.of_teacher) == (start, None, False)
    (logits,) = ROWS["half-logits"].stages
    assert logits.losses.divergence and not logits.losses.features and logits.feature_layers == ()


def test_a_shorter_run_is_shorter_in_everything() -> None:
    whole, half = (ROWS["eight-fade-long"].recipe(samples=count).stages for count in (SAMPLES, SAMPLES // 2))
    for long, short in zip(whole, half, strict=True):
        assert 2 * short.samples == pytest.approx(long.samples, abs=64)
        assert 2 * short.auxiliary_samples == long.auxiliary_samples
        assert 2 * short.optim.warmup_samples == long.optim.warmup_samples
    assert min(stage.samples for stage in ROWS["eight-fade-short"].recipe(samples=32).stages) == 32
    for samples in (1_440, 12_000, 384_000):
        names = ("eight-features", "eight-fade-short", "eight-fade-long")
        stages_of = {name: ROWS[name].recipe(seed=1, samples=samples).stages for name in names}
        own = {n: sum(s.samples for s in of if s.name.startswith(n)) for n, of in stages_of.items()}
        assert set(own.values()) == {samples}


@pytest.mark.parametrize("samples", [1_440, 12_000, SAMPLES])
def test_a_stage_that_rows_share_is_the_same_in_all_of_them(samples: int) -> None:
    known: dict[str, stages.StageConfig] = {}
    shared = 0
    for row in ROWS.values():
        for stage in row.recipe(samples=samples).stages if row.stages else ():
            shared += stage.name in known
            assert known.setdefault(stage.name, stage) == stage, f"{stage.name} in {row.name}"
    assert shared


def test_each_head_has_every_loss_that_it_can_take() -> None:
    def losses(name: str) -> tuple[float, ...]:
        weights = ROWS[name].stages[-1].losses
        return weights.side, weights.attention, weights.centre, weights.score

    assert losses("tokens") == (1.0, 0.5, 0.0, 0.3)
    assert losses("one-token") == (1.0, 0.0, 0.0, 0.3)
    assert losses("numbers") == (0.0, 0.5, 0.0, 0.3)
    assert losses("corner") == (1.0, 0.0, 0.0, 0.3)
    assert losses("centre-unscored") == (0.0, 0.0, 1.0, 0.0)


def test_the_command_line_lists_the_rows_by_table_and_shows_each(run: Any) -> None:
    listed = run("train", "--list").out
    assert "ablation-NAME, question 2, number of bins: tokens, bins-36, bins-72, bins-144\n" in listed
    assert listed.count("ablation-NAME") <= len(TABLES)
    shown = json.loads(run("train", "ablation-symmetric", "--show").out)
    assert shown["stages"][0]["target"]["model"]["attention"] == "symmetric"
    refused = run("train", "ablation-nothing")
    assert refused.code == 2 and "ablation-NAME, of which --list shows the names" in refused.err


# --- a run of toy rows


class Scripts(NamedTuple):
    run: ModuleType
    measured: ModuleType
    plots: ModuleType
    page: ModuleType


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Scripts:
    """The scripts, with three rows of toy networks in place of the real ones."""
    monkeypatch.syspath_prepend(HERE)
    for name in Scripts._fields:
        monkeypatch.delitem(sys.modules, name, raising=False)
    modules = Scripts(*map(importlib.import_module, Scripts._fields))

    sample = dataclasses.replace(training.DATA.sample, held_out=("GOT-10k_Train_000002",))
    data = dataclasses.replace(training.DATA, sample=sample)
    teacher = training.stage("teacher", training.CORNER, data=data, losses=stages.LossWeights())
    one = training.stage("one", data=data)
    taught = dict(losses=stages.LossWeights(divergence=5.0), data=data, batch=8, precision="32-true")
    two = stages.dense_to_sparse("two", Config(training.MODEL), 64, "teacher", **taught)
    rows = [
        Row("one", "from labels", (one,)),
        Row("two", "taught", (teacher, two)),
        Row("three", "one with a wider window", of="one", rules={"search_factor": 5.0}),
    ]
    monkeypatch.setattr(
        modules.run.pipeline.pictures, "curves", lambda *_: None
    )  # a figure takes as long as a stage
    for module in (modules.run, modules.measured, modules.page):
        monkeypatch.setattr(module, "ROWS", {row.name: row for row in rows})
        monkeypatch.setattr(module, "TABLES", (Table("all", 4, "Everything", ("one", "two", "three")),))
    return modules


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    root = training.write_datasets(tmp_path / "data")
    training.write_got10k(root / "got10k", "GOT-10k_Train_000002", frames=5)
    layouts.write_text(root / "got10k" / "train" / "list.txt", "GOT-10k_Train_000001", "GOT-10k_Train_000002")
    training.write_otb(tmp_path / "otb", "Walking", frames=5)
    options = {
        "data": root,
        "otb": tmp_path / "otb",
        "output": tmp_path / "out",
        "results": tmp_path / "results",
    }
    return [word for name, path in options.items() for word in (f"--{name}", str(path))] + ["--device", "cpu"]


def test_rows_are_trained_tracked_and_shown_and_what_is_done_is_left_alone(
    scripts: Scripts,
    arguments: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, page = scripts.run, scripts.page
    assert run.main([*arguments, "--question", "4", "--max-minutes", "0"]) == 0
    assert "stopped and saved in row one, seed 0: the same command goes on" in capsys.readouterr().out
    assert not list((tmp_path / "results").glob("*.json"))
    assert run.main([*arguments, "--question", "4", "--seeds", "0", "1"]) == 0

    one = json.loads((tmp_path / "results" / "one.json").read_text())
    assert (one["row"], one["says"], set(one["seeds"])) == ("one", "from labels", {"0", "1"})
    for seed in one["seeds"].values():
        assert set(seed["otb"]["sequences"]) == {"Walking"}
        assert set(seed["held_out"]["sequences"]) == {"GOT-10k_Train_000002"}
        assert 0 <= seed["otb"]["mean"]["auc"] <= 1
        (piece,) = seed["pieces"]["overlaps"]["Walking"]
        assert 0 <= piece <= 1
    assert one["seeds"]["1"]["command"].endswith(
        "run.py --data DATA --otb OTB --row one --seeds 1 --samples 24000"
    )
    assert one["parameters"] > 0 and one["macs_per_frame"] > 0
    three = json.loads((tmp_path / "results" / "three.json").read_text())
    assert (three["of"], three["rules"]) == ("one", {"search_factor": 5.0})
    trained = {path.name for path in (tmp_path / "out").iterdir() if path.is_dir()}
    assert trained == {"teacher", "one", "one.seed-1", "two", "two.seed-1"}

    with monkeypatch.context() as patch:
        patch.setattr(run.pipeline, "run", None)  # nobody needs it any more
        assert run.main([*arguments, "--question", "4", "--seeds", "0", "1"]) == 0
    assert run.main([*arguments, "--row", "one", "--set", "optim.lr=1"]) == 2
    assert "holds seed 0 with other settings (one: optim.lr was" in capsys.readouterr().err

    speed = ["--speed", "--backend", "torch", "--threads", "1", "--frames", "8", "--rounds", "1"]
    assert run.main([*arguments, *speed]) == 0
    rows = json.loads((tmp_path / "results" / "speed-cpu-4.json").read_text())["rows"]
    assert [(row["row"], row["backend"], row["precision"]) for row in rows] == [
        ("one", "torch", "f32"),
        ("two", "torch", "f32"),
    ]
    layouts.write_text(
        tmp_path / "results" / "findings.md", "# Findings", "## all", "One is best.", "We agree."
    )
    page.main(["--results", str(tmp_path / "results"), "--page", str(tmp_path / "ablations.md")])
    text = (tmp_path / "ablations.md").read_text()
    assert "Each has seen 64 samples of its own." in text and "|\n\nOne is best.\nWe agree.\n" in text
    assert "2 seeds" in text and page.NOT_RUN not in text and "| ms, cpu, f32 |" in text
    for name in ("ablations-all.png", "ablations-pareto.png"):
        assert f"images/{name}" in text and (tmp_path / "images" / name).stat().st_size > 5_000


def test_wrong_use_is_one_sentence(
    scripts: Scripts, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run = scripts.run
    for words, sentence in (
        ([*arguments, "--row", "four"], "error: no row is called 'four': choose from one, two, three"),
        (["--row", "one"], "training and tracking need --data"),
        (
            [*arguments, "--row", "one", "--set", "data.sample.held_out=[]"],
            "must hold out the same sequences",
        ),
    ):
        assert run.main(words) == 2
        assert sentence in capsys.readouterr().err


def test_rows_that_are_not_trained_are_timed_with_random_weights(
    scripts: Scripts, arguments: list[str], tmp_path: Path
) -> None:
    run = scripts.run
    speed = ["--speed", "--row", "one", "--backend", "torch", "--threads", "1", "--frames", "8"]
    assert run.main([*arguments, *speed, "--rounds", "1"]) == 0
    (row,) = json.loads((tmp_path / "results" / "speed-cpu-4.json").read_text())["rows"]
    assert row["row"] == "one" and row["frame_ms"] > 0


# --- the page


def test_what_has_not_been_run_is_said(scripts: Scripts, tmp_path: Path) -> None:
    page = scripts.page
    text = page.page(page.Results.read(tmp_path), tmp_path / "images")
    assert "None of these rows has been trained yet" in text and "| AUC" not in text
    assert "Times on" not in text and "png" not in text
    assert not list((tmp_path / "images").iterdir())
    layouts.write_text(tmp_path / "findings.md", "# Findings", "## all", "One is best.")
    with pytest.raises(ValueError, match=r"findings\.md says something of all, which is no table with a row"):
        page.Results.read(tmp_path)


def test_the_page_is_what_the_results_make_of_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(HERE)
    for name in Scripts._fields:
        monkeypatch.delitem(sys.modules, name, raising=False)
    import page

    made = page.page(page.Results.read(HERE / "results"), tmp_path / "images")
    assert (HERE.parents[1] / "docs" / "ablations.md").read_text("utf-8") == made


def test_only_what_seeds_do_not_explain_is_a_difference(scripts: Scripts) -> None:
    measured = scripts.measured
    noisy = measured.NOISY

    def said(row: tuple[float, ...], first: tuple[float, ...]) -> str:
        return measured.verdict(
            *(measured.Measured(dict(zip("012", each, strict=False))) for each in (row, first))
        )

    assert said((0.46,), (0.40,)) == "+0.060"
    assert said((0.41,), (0.40,)) == f"+0.010, {noisy} with fewer than three seeds"
    assert said((0.45, 0.46, 0.47), (0.40, 0.41, 0.42)) == "+0.050"
    assert said((0.40, 0.43, 0.46), (0.40, 0.41, 0.42)) == f"+0.020, {noisy}"
    assert said((0.405, 0.406, 0.407), (0.399, 0.400, 0.401)) == "+0.006"
    assert said((0.45,), (0.44, 0.30, 0.31)) == f"+0.010, {noisy} with fewer than three seeds", (
        "with the same"
    )
    assert said((0.56,), (0.44, 0.30, 0.31)) == f"+0.120, {noisy}", "another seed moves it by as much"
    assert measured.verdict(measured.Measured({"0": 0.5}), measured.Measured({"1": 0.4})) == "-"
    assert str(measured.Measured({"0": 0.4, "1": 0.5, "2": 0.6})) == "0.500 (0.400 to 0.600, 3 seeds)"


def test_pieces_are_held_against_the_first_row_piece_by_piece(scripts: Scripts) -> None:
    measured = scripts.measured
    first, row = np.array([0.2, 0.5, 0.8]), np.array([0.3, 0.6, 1.0])
    assert measured.pieces_text({"0": first}, {}) == "0.500"
    assert measured.pieces_text({"0": row}, {"0": first, "1": 2 * first}) == "0.633 (+0.133 ± 0.033)"
    assert measured.pieces_text({}, {"0": first}) == "-"


def test_the_front_holds_what_nothing_cheaper_reaches(scripts: Scripts) -> None:
    points = [(3.0, 0.5), (1.0, 0.4), (2.0, 0.3), (1.0, 0.2), (4.0, 0.5)]
    assert scripts.plots.pareto(points) == [(1.0, 0.4), (3.0, 0.5)]


def test_rows_of_different_frames_or_samples_are_not_put_into_one_table(
    scripts: Scripts, tmp_path: Path
) -> None:
    results = scripts.measured.Results

    def write(name: str, max_frames: int | None, samples: int) -> None:
        scores = {"mean": {"auc": 0.5}, "sequences": {"Walking": {}}}
        training_of = [{"name": "teacher", "samples": 5}, {"name": name, "samples": samples}]
        seed = {"max_frames": max_frames, "otb": scores, "held_out": scores, "training": training_of}
        (tmp_path / f"{name}.json").write_text(json.dumps({"seeds": {"0": seed}}))

    write("one", None, 64)
    write("two", 100, 64)
    with pytest.raises(ValueError, match="the rows of table all were not tracked on the same frames"):
        results.read(tmp_path)
    write("two", None, 96)
    with pytest.raises(ValueError, match=r"the rows of table all have seen \[64, 96\] samples"):
        results.read(tmp_path)
    write("two", None, 64)
    assert results.read(tmp_path).auc("two", "otb").mean == 0.5
