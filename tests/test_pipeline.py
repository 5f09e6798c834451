"""A whole recipe: every kind of stage lowers its own loss, and a run goes on where it stopped."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import painted
import pytest
import torch
import training
from training import curve, same_weights

from mixformerv2.cli import main
from mixformerv2.data.datasets import open_datasets
from mixformerv2.data.loader import Loader
from mixformerv2.data.pairs import Batch
from mixformerv2.data.plan import SampleConfig
from mixformerv2.data.sequence import Sequence as Video
from mixformerv2.distill.shrink import remove_blocks, set_branch_scale
from mixformerv2.distill.targets import Teacher
from mixformerv2.model import checkpoint
from mixformerv2.model.network import Network, build
from mixformerv2.train import material, pipeline
from mixformerv2.train.engine import LAST, RESUME, Engine, RunOptions, make_objective
from mixformerv2.train.objective import Objective
from mixformerv2.train.pipeline import DONE, RESULT, Outcome
from mixformerv2.train.processes import alone_in
from mixformerv2.train.recipes import RECIPES
from mixformerv2.train.settings import as_plain, override
from mixformerv2.train.stages import Recipe, StageConfig, ValidationConfig
from mixformerv2.train.starting import starting_network, teacher_network
from mixformerv2.train.validation import Validation, with_parts_to_track

Data = Mapping[str, Sequence[Video]]
# Fewer steps than the recipe has, so those that start from a trained network are smaller.
SETTINGS = [
    *("samples=192", "optim.schedule=linear", "optim.decay_share=1", "optim.warmup_samples=64"),
    *("four:optim.lr=2e-4", "four:optim.trunk_lr=1e-4", "scored:optim.lr=2e-3"),
]
SMOKE = override(RECIPES["smoke"](), SETTINGS)
OPTIONS = RunOptions(device="cpu")


class Run(NamedTuple):
    recipe: Recipe
    data: Data
    output: Path
    outcome: Outcome

    def stage(self, name: str) -> StageConfig:
        return next(stage for stage in self.recipe.stages if stage.name == name)

    @property
    def finished(self) -> dict[str, Path]:
        return {stage.name: self.output / stage.name / LAST for stage in self.recipe.stages}


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Every stage of the recipe, trained once for all that looks at it."""
    data = open_datasets(training.write_datasets(tmp_path_factory.mktemp("data")))
    output = tmp_path_factory.mktemp("smoke")
    draw, drawn = pipeline.pictures.curves, []

    def once(log: Path, picture: Path) -> None:
        """A figure takes as long as a stage."""
        if not drawn:
            draw(log, picture)
            drawn.append(picture)
        shutil.copyfile(drawn[0], picture) if picture != drawn[0] else None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline.pictures, "curves", once)
        outcome = pipeline.run(SMOKE, data, output, OPTIONS)
    return Run(SMOKE, data, output, outcome)


# --- what it makes


def loss(stage: StageConfig, network: Network, teacher: Network | None, batch: Batch) -> float:
    """The stage's own objective at its end, of a network in place of the one that it trains."""
    if stage.remove:  # a network without the blocks that fade: others are matched in their place
        kept = [index for index in range(stage.trained_model.depth) if index not in stage.remove]
        layers = tuple((kept.index(own), theirs) for own, theirs in stage.feature_layers)
        assert teacher is not None
        objective = Objective(network, stage.losses, Teacher(teacher), layers)
    else:
        objective = make_objective(stage, network, teacher)
    with torch.no_grad():
        return float(objective.eval()(batch, stage.steps - 1)[0])


def fresh_examples(stage: StageConfig, data: Data) -> Batch:
    """Of chunks that no stage comes to."""
    model = stage.target.model
    loader = Loader(data, stage.data, model.search_px, model.template_px, stage.seed)
    return Batch.join(list(loader.chunks(range(10_000, 10_004))))


@pytest.mark.parametrize("stage", SMOKE.stages, ids=lambda stage: stage.name)
def test_a_stage_lowers_its_own_loss_on_fresh_examples(smoke: Run, stage: StageConfig) -> None:
    batch = fresh_examples(stage, smoke.data)
    start = starting_network(stage, smoke.finished, batch)
    if stage.remove:
        start = remove_blocks(start, stage.remove)
    trained = checkpoint.load(smoke.finished[stage.name])[0]
    before, after = (
        loss(stage, network, teacher_network(stage, smoke.finished), batch) for network in (start, trained)
    )
    assert after < before, f"{before:.4f} at the start, {after:.4f} at the end"


def test_when_the_fade_has_ended_the_student_is_the_pruned_network(smoke: Run) -> None:
    stage = smoke.stage("fade")
    faded = build(stage.trained_model)
    faded.load_state_dict(torch.load(smoke.output / "fade" / RESUME)["average"])
    set_branch_scale(faded.eval(), stage.remove, 0.0)
    pruned, config = checkpoint.load(smoke.finished["fade"])
    assert (faded.config.depth, pruned.config.depth, config) == (6, 4, stage.target)
    batch = fresh_examples(stage, smoke.data)
    boxes = [
        network.search(batch.search, network.encode_templates(batch.template, batch.online)).box_unit
        for network in (faded, pruned)
    ]
    assert torch.equal(*boxes)


def test_every_stage_leaves_its_files_and_the_last_one_the_result(smoke: Run) -> None:
    assert smoke.outcome == Outcome(smoke.output / RESULT)
    assert (smoke.output / RESULT).read_bytes() == smoke.finished["scored"].read_bytes()
    files = {"examples.png", "curves.png", "log.jsonl", "log.csv", "tensorboard", LAST, RESUME, DONE}
    for stage in smoke.recipe.stages:
        folder = smoke.output / stage.name
        assert {path.name for path in folder.iterdir()} == files
        assert json.loads((folder / DONE).read_text()) == as_plain(stage)
        assert [row["step"] for row in curve(folder)] == [*range(1, stage.steps + 1)]
        assert checkpoint.load(folder / LAST)[1] == stage.target


def test_the_score_stage_changes_the_score_head_alone(smoke: Run) -> None:
    """It is fresh, the network before it has none."""
    before, after = (checkpoint.load(smoke.finished[name])[0].state_dict() for name in ("two", "scored"))
    assert {name for name in after if name not in before} == {
        name for name in after if name.startswith("score_head.")
    }
    assert all(torch.equal(after[name], before[name]) for name in before)


# --- stopping and going on


def contents(folder: Path) -> dict[Path, tuple[int, bytes]]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files if path.name != RESULT}


def test_a_recipe_that_is_done_is_left_alone(smoke: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "Engine", None)  # nobody asks for one
    before = contents(smoke.output)
    again = pipeline.run(smoke.recipe, smoke.data, smoke.output, OPTIONS)
    assert again == dataclasses.replace(
        smoke.outcome, found=tuple(stage.name for stage in smoke.recipe.stages)
    )
    assert contents(smoke.output) == before


def test_a_stage_that_was_done_with_other_settings_is_refused_with_every_difference(smoke: Run) -> None:
    other = override(smoke.recipe, ["fade:optim.lr=0.5", "fade:remove=[1,3]"])
    before = contents(smoke.output)
    differences = r"remove was \[0, 3\] and is \[1, 3\]; optim.lr was 0.002 and is 0.5"
    with pytest.raises(
        ValueError, match=rf"fade holds this stage with other settings \({differences}\): go on"
    ):
        pipeline.run(other, smoke.data, smoke.output, OPTIONS)
    assert contents(smoke.output) == before


def test_a_run_that_has_learned_from_other_sequences_is_refused(smoke: Run) -> None:
    kind, sequences = next(iter(smoke.data.items()))
    fewer = {**smoke.data, kind: list(sequences)[1:]}
    had, has = len(sequences), len(sequences) - 1
    with pytest.raises(
        ValueError, match=f"other data, of {kind} {had} sequences and not these {has}: choose"
    ):
        pipeline.run(smoke.recipe, fewer, smoke.output, OPTIONS)
    elsewhere = {**smoke.data, "another": list(sequences)}  # which the recipe does not learn from
    if smoke.recipe.stages[0].data.sample.weights:
        again = pipeline.run(smoke.recipe, elsewhere, smoke.output, OPTIONS)
        assert again.weights == smoke.outcome.weights


def test_stages_that_are_not_there_are_trained_again_to_the_same_weights(
    smoke: Run, tmp_path: Path, no_curves: None
) -> None:
    output = shutil.copytree(smoke.output, tmp_path / "copy")
    kept = {path: both for path, both in contents(output).items() if not {*path.parts} & {*LATE}}
    for name in LATE:
        shutil.rmtree(output / name)
    (output / RESULT).unlink()
    found = tuple(stage.name for stage in smoke.recipe.stages if stage.name not in LATE)
    assert pipeline.run(smoke.recipe, smoke.data, output, OPTIONS) == Outcome(output / RESULT, found=found)
    after = contents(output)
    assert all(after[path] == both for path, both in kept.items())
    assert same_weights(*(checkpoint.load(folder / RESULT)[0] for folder in (output, smoke.output)))
    for name in LATE:
        assert curve(output / name) == curve(smoke.output / name)


LATE = ("two-replaced", "scored")


def test_a_run_whose_time_is_up_says_in_which_stage_it_stopped(
    smoke: Run, tmp_path: Path, no_curves: None
) -> None:
    stopped = dataclasses.replace(OPTIONS, max_minutes=0.0)
    assert pipeline.run(smoke.recipe, smoke.data, tmp_path, stopped) == Outcome(None, "teacher")
    assert not list(tmp_path.rglob(DONE)) and not (tmp_path / RESULT).exists()
    shutil.copytree(smoke.output / "teacher", tmp_path / "teacher", dirs_exist_ok=True)
    assert pipeline.run(smoke.recipe, smoke.data, tmp_path, stopped) == Outcome(
        None, "sparse", found=("teacher",)
    )


@pytest.fixture
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are drawn once; a figure takes as long as a stage."""
    monkeypatch.setattr(pipeline.pictures, "curves", lambda *_: None)


# --- what goes wrong


def test_the_mean_of_stages_may_come_of_a_recipe(smoke: Run, tmp_path: Path, no_curves: None) -> None:
    first = training.stage("first", steps=2)
    second = dataclasses.replace(training.stage("second", steps=2), start="first")
    outcome = pipeline.run(
        Recipe("two", (first, second), "average:first,second"), smoke.data, tmp_path, OPTIONS
    )
    assert outcome.weights is not None
    mean, config = checkpoint.load(outcome.weights)
    assert config == second.target
    ends = [checkpoint.load(tmp_path / name / LAST)[0].state_dict() for name in ("first", "second")]
    for name, tensor in mean.state_dict().items():
        torch.testing.assert_close(tensor, (ends[0][name] + ends[1][name]) / 2)
    assert any(not torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    with pytest.raises(ValueError, match="its result average:first,x is made of its own stages, not x"):
        Recipe("two", (first, second), "average:first,x")
    assert override(Recipe("two", (first, second), "average:first,second"), ["batch=8"]).result


def test_a_gpu_without_memory_says_which_setting_to_lower(
    smoke: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(Objective, "forward", full)
    dense, tokens = smoke.recipe.stages[0], training.stage("tokens", batch=16)
    fewer = dataclasses.replace(OPTIONS, micro_batch=4)
    for stage, options, at_once in ((dense, OPTIONS, 16), (tokens, OPTIONS, 16), (tokens, fewer, 4)):
        sentence = f"stage {stage.name}: the GPU has no memory left for {at_once} examples at once: "
        # Not of a dense head, whose batch normalisation would see fewer examples.
        same = ", which trains the same" if stage is tokens else ""
        with pytest.raises(ValueError, match=f"{sentence}pass --micro-batch {at_once // 2}{same}$"):
            pipeline.run(Recipe("one", (stage,)), smoke.data, tmp_path / stage.name, options)


def test_images_that_cannot_be_read_are_told_at_the_end(tmp_path: Path, no_curves: None) -> None:
    root = training.write_datasets(tmp_path / "data")
    broken = root / "stills" / "images" / "2.png"
    broken.write_bytes(broken.read_bytes()[:200])
    recipe = Recipe("one", (training.stage(),))
    outcome = pipeline.run(recipe, open_datasets(root), tmp_path / "out", OPTIONS)
    assert outcome.weights and list(outcome.skipped) == [str(broken)] and outcome.skipped[str(broken)] > 1


def test_a_teacher_that_does_not_fit_is_refused_before_the_first_step(smoke: Run, tmp_path: Path) -> None:
    stage = dataclasses.replace(smoke.stage("sparse"), teacher=str(smoke.finished["four"]))
    wider = override(Recipe("one", (stage,)), ["target.model.num_bins=32", "start=random"])
    with pytest.raises(
        ValueError, match="stage sparse: .*set the student's num_bins to 16 or choose another"
    ):
        pipeline.run(wider, smoke.data, tmp_path, OPTIONS)
    assert not list(tmp_path.rglob("log.jsonl"))


def test_a_sequence_that_is_held_out_has_to_be_there(tmp_path: Path) -> None:
    data = open_datasets(training.write_datasets(tmp_path / "data"))
    with pytest.raises(
        ValueError, match="stage teacher holds out GOT-10k_Train_000002, but no dataset has such a"
    ):
        pipeline.run(
            override(SMOKE, ['data.sample.held_out=["GOT-10k_Train_000002"]']), data, tmp_path, OPTIONS
        )


def test_what_is_learned_from_does_not_validate(smoke: Run, tmp_path: Path) -> None:
    stage = smoke.recipe.stages[0]
    kind = next(kind for kind in smoke.data if stage.data.sample.weights.get(kind, 1) > 0)
    name = next(iter(smoke.data[kind])).name
    validating = override(
        Recipe("one", (stage,)),
        [f"validation.dataset={kind}", f'validation.sequences=["{name}"]', "validation.every_samples=8"],
    )
    with pytest.raises(
        ValueError, match=f"validated on {name} of {kind}, which it learns from: hold all such out"
    ):
        pipeline.run(validating, smoke.data, tmp_path, OPTIONS)


def test_what_an_earlier_stage_has_learned_does_not_validate(smoke: Run, tmp_path: Path) -> None:
    kind, other = list(smoke.data)[:2]
    name = next(iter(smoke.data[kind])).name
    of = {
        which: dataclasses.replace(training.DATA, sample=SampleConfig({which: 1.0}))
        for which in (kind, other)
    }
    first = training.stage("first", data=of[kind])
    second = dataclasses.replace(
        training.stage("second", data=of[other]),
        start="first",
        validation=ValidationConfig(8, kind, (name,)),
    )
    with pytest.raises(ValueError, match=f"on {name} of {kind}, which the stage first behind it learns from"):
        pipeline.run(Recipe("two", (first, second)), smoke.data, tmp_path, OPTIONS)


def test_a_part_that_nobody_learns_from_may_validate(tmp_path: Path) -> None:
    root = training.write_datasets(tmp_path / "data")
    training.write_got10k(root / "got10k", "GOT-10k_Val_000001", frames=4, part="val")
    recipe = Recipe("one", (training.stage(validation=ValidationConfig(8, "got10k-val")),))
    opened = open_datasets(root)
    data = with_parts_to_track(recipe, opened, root)
    assert [each.name for each in data["got10k-val"]] == ["GOT-10k_Val_000001"]
    assert material.to_learn_from(recipe.stages[0], data) == opened
    material.check_datasets(recipe, data)
    of_train = override(recipe, ["validation.dataset=got10k-train"])
    with pytest.raises(
        ValueError, match="validated on GOT-10k_Train_000001 of got10k-train, which it learns from"
    ):
        material.check_datasets(of_train, with_parts_to_track(of_train, opened, root))
    missing = override(recipe, ["validation.dataset=lasot-test"])
    with pytest.raises(ValueError, match=f"no dataset in {root} has a part lasot-test"):
        with_parts_to_track(missing, opened, root)


def test_all_targets_of_a_video_are_held_out_with_one_of_them() -> None:
    one = painted.video(3)
    another = dataclasses.replace(one, name="another", source=one.known_by)
    stage = training.stage(data=dataclasses.replace(training.DATA, sample=SampleConfig(held_out=(one.name,))))
    validation = Validation(ValidationConfig(8, "folder"), (another,))
    material._check_validation(
        "this", validation, stage, {"folder": [one, another, painted.video(2, name="other")]}
    )
    alone = dataclasses.replace(another, source="elsewhere")
    with pytest.raises(
        ValueError, match="would be validated on another of folder, which the stage first behind it"
    ):
        material._check_validation(
            "this", Validation(validation.config, (alone,)), stage, {"folder": [one, alone]}
        )


def test_clips_whose_boxes_were_corrected_are_other_data(tmp_path: Path, no_curves: None) -> None:
    for clip in ("a", "b"):
        training.write_clip(tmp_path / "clips", clip, frames=6)
    recipe = Recipe("one", (training.stage("only", steps=1),))
    outcome = pipeline.run(recipe, open_datasets(tmp_path / "clips"), tmp_path / "out", OPTIONS)
    assert outcome.weights is not None and not outcome.found
    boxes = next((tmp_path / "clips").rglob("*.txt"))
    boxes.write_text("".join(boxes.read_text().splitlines(keepends=True)[:-1]) + "0,0,0,0\n")
    corrected = open_datasets(tmp_path / "clips")
    with pytest.raises(
        ValueError, match="learned from other data, of folder the same clips with other boxes"
    ):
        pipeline.run(recipe, corrected, tmp_path / "out", OPTIONS)
    for file in ("only/done.json", "only/resume.pt"):  # nothing is learned there: it may begin
        (tmp_path / "out" / file).unlink()
    assert pipeline.run(recipe, corrected, tmp_path / "out", OPTIONS).weights


def test_two_runs_are_not_at_one_stage_at_once(smoke: Run, tmp_path: Path) -> None:
    pytest.importorskip("fcntl")  # not on Windows
    (tmp_path / "only").mkdir()
    recipe = Recipe("one", (training.stage("only", steps=1),))
    with (
        alone_in(tmp_path / "only"),
        pytest.raises(ValueError, match="another run is at work in .*only: wait"),
    ):
        pipeline.run(recipe, smoke.data, tmp_path, OPTIONS)
    assert list((tmp_path / "only").iterdir()) == []
    with alone_in(tmp_path / "only"):
        pass


def test_a_note_that_is_damaged_is_named(smoke: Run, tmp_path: Path) -> None:
    output = shutil.copytree(smoke.output, tmp_path / "copy")
    for file in (output / "teacher" / DONE, output / "data.json"):
        file.write_text("{")
        with pytest.raises(
            ValueError, match=f"{file} is damaged: delete it, or choose another output folder"
        ):
            pipeline.run(smoke.recipe, smoke.data, output, OPTIONS)


def test_what_is_kept_for_tests_is_not_trained_on_unless_it_is_asked_for(smoke: Run, tmp_path: Path) -> None:
    training.write_otb(tmp_path / "otb", "Square", frames=3)
    data = {**smoke.data, **open_datasets(tmp_path)}
    assert material.to_learn_from(training.stage(), data) == smoke.data
    asked = dataclasses.replace(training.DATA, sample=SampleConfig(weights={"otb": 1.0}))
    assert material.to_learn_from(training.stage(data=asked), data) == data


# --- the command


@pytest.fixture
def command(smoke: Run, tmp_path: Path) -> list[str]:
    root = training.write_datasets(tmp_path / "data")
    words = ["train", "smoke", "--data", str(root), "--output", str(tmp_path / "out"), "--device", "cpu"]
    return [*words, *(word for setting in SETTINGS for word in ("--set", setting))]


def test_signals_save_the_run_give_the_exit_code_and_change_no_loss(
    smoke: Run,
    command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    no_curves: None,
) -> None:
    step = Engine._step
    signals = {2: signal.SIGTERM, 5: signal.SIGINT}  # the step, from 0, in which they come

    def signalled(self: Engine, chunks: Any) -> Any:
        if self.progress.step in signals:
            os.kill(os.getpid(), signals.pop(self.progress.step))
        return step(self, chunks)

    monkeypatch.setattr(Engine, "_step", signalled)
    monkeypatch.setattr(sys, "argv", ["mixformerv2", *command])
    for steps, code in ((3, 0), (6, 130)):
        with pytest.raises(SystemExit) as left:
            main()
        assert (left.value.code or 0) == code
        assert "stopped and saved in stage teacher of smoke: the same command goes" in capsys.readouterr().out
        assert torch.load(tmp_path / "out" / "teacher" / RESUME)["step"] == steps
    pipeline.run(Recipe("smoke", smoke.recipe.stages[:1]), smoke.data, tmp_path / "out", OPTIONS)
    assert curve(tmp_path / "out" / "teacher") == curve(smoke.output / "teacher")


WAITS_IN_THE_FIFTH_STEP = """
import time
from mixformerv2.cli import main
from mixformerv2.train.engine import Engine

step = Engine._step

def wait(self, chunks):
    if self.progress.step == 4:
        time.sleep(600)
    return step(self, chunks)

Engine._step = wait
main()
"""


def test_a_run_that_was_killed_goes_on_to_the_same_losses_and_weights(
    smoke: Run, command: list[str], tmp_path: Path, no_curves: None
) -> None:
    folder = tmp_path / "out" / "teacher"
    arguments = [sys.executable, "-c", WAITS_IN_THE_FIFTH_STEP, *command, "--save-every", "3"]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
    try:
        while not (folder / "log.jsonl").exists() or len(curve(folder)) < 4:
            assert process.poll() is None, "it should wait in its fifth step"
            time.sleep(0.05)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL
    assert torch.load(folder / RESUME)["step"] == 3
    pipeline.run(Recipe("smoke", smoke.recipe.stages[:1]), smoke.data, tmp_path / "out", OPTIONS)
    assert curve(folder) == curve(smoke.output / "teacher")
    assert same_weights(*(checkpoint.load(path / LAST)[0] for path in (folder, smoke.output / "teacher")))
