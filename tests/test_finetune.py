"""Fine-tuning on a few clips of one's own: what is held back, and the comparison of before and after."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import painted
import pytest
import training
from rich.console import Console

from mixformerv2.config import Config, TrackerConfig
from mixformerv2.data.datasets import open_datasets
from mixformerv2.data.folder import UprightImages
from mixformerv2.data.sequence import Sequence
from mixformerv2.evaluate.run import evaluate
from mixformerv2.model import checkpoint
from mixformerv2.model.network import build
from mixformerv2.runtime.backend import find_weights, read_config
from mixformerv2.tracker import Tracker
from mixformerv2.train import finetune, pipeline
from mixformerv2.train.engine import RunOptions
from mixformerv2.train.finetune import Report, split
from mixformerv2.train.recipes import RECIPES
from mixformerv2.train.settings import override
from mixformerv2.train.stages import Recipe

OPTIONS = RunOptions(device="cpu")
CLIPS, GUARD = "your clips, frames held back", "guard set guard"

# --- what is held back


def frames(sequence: Any) -> list[int]:
    """Which frames of the clip these are; its frame k shows object k."""
    return [int(sequence.frames.place(index).split("/")[1]) for index in range(len(sequence))]


def test_the_last_three_tenths_of_a_clip_are_held_back() -> None:
    learnt, held_back = split([painted.video(10), painted.video(20, name="longer")])
    assert [frames(sequence) for sequence in learnt] == [[*range(7)], [*range(14)]]
    assert [frames(sequence) for sequence in held_back] == [[7, 8, 9], [*range(14, 20)]]
    assert [sequence.name for sequence in held_back] == ["video", "longer"]


def test_what_is_held_back_begins_with_the_first_frame_that_has_a_box() -> None:
    learnt, held_back = split([painted.video(10, absent=(6, 7))])
    assert frames(learnt[0]) == [*range(7)] and learnt[0].absent.tolist() == [False] * 6 + [True]
    assert frames(held_back[0]) == [8, 9] and not held_back[0].absent.any()


@pytest.mark.parametrize("clip", [painted.video(3), painted.video(10, absent=(7, 8)), painted.still(0)])
def test_a_clip_too_short_to_be_split_is_learnt_from_as_a_whole(clip: Any) -> None:
    assert split([clip]) == ([clip], [])


def test_a_clip_whose_first_part_has_no_box_is_not_split() -> None:
    clip = painted.video(10, absent=range(7))
    assert split([clip]) == ([clip], [])


# --- from clips to the table


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips, a guard set, and a model whose sizes are not those of the shipped one."""
    home = tmp_path_factory.mktemp("home")
    training.write_clip(home / "clips", "there", frames=10)
    training.write_clip(home / "clips", "back", frames=10, first=4)
    training.write_otb(home / "guard", "Square", frames=4)
    model = dataclasses.replace(training.MODEL, score_head=True)
    checkpoint.save(build(model, seed=0), Config(model, TRACKING), home / "start.safetensors")
    return home


TRACKING = TrackerConfig(search_factor=4.0, min_side_px=4.0)


def recipe(start: Path) -> Recipe:
    small = ("samples=24", "batch=8", "data.chunk=8", "precision=32-true", "optim.lr=1e-3")
    return finetune.with_settings(RECIPES["finetune"](), [f"start={start}", *small])


@pytest.fixture(scope="module")
def report(home: Path) -> Report:
    """Of a run; ``read.json`` says which pictures the training read."""
    read: set[str] = set()
    in_training = False
    read_picture, train = UprightImages.read, pipeline.run

    def watched(self: UprightImages, index: int) -> Any:
        if in_training:
            read.add("/".join(self.paths[index].parts[-2:]))
        return read_picture(self, index)

    def watched_run(*arguments: Any) -> Any:
        nonlocal in_training
        in_training = True
        outcome = train(*arguments)
        in_training = False
        return outcome

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(UprightImages, "read", watched)
        patch.setattr(finetune.pipeline, "run", watched_run)
        report = finetune.run(
            recipe(home / "start.safetensors"), home / "clips", home / "out", OPTIONS, home / "guard"
        )
    (home / "read.json").write_text(json.dumps(sorted(read)))
    return report


def test_the_model_that_comes_out_has_the_sizes_and_rules_of_the_one_it_started_from(
    home: Path, report: Report
) -> None:
    assert report.outcome.weights == home / "out" / pipeline.RESULT
    before, config = checkpoint.load(home / "start.safetensors")
    after, after_config = checkpoint.load(report.outcome.weights)
    assert after_config == config and config.tracker == TRACKING
    assert not training.same_weights(before, after)


def test_frames_that_are_held_back_are_never_read_for_training(home: Path, report: Report) -> None:
    read = json.loads((home / "read.json").read_text())
    assert read == [f"{clip}/{frame:04d}.jpg" for clip in ("back", "there") for frame in range(1, 8)]


def test_the_comparison_is_the_auc_of_both_models_on_both_sets(home: Path, report: Report) -> None:
    clips, guard = report.comparisons
    assert (clips.on, guard.on) == (CLIPS, GUARD)
    assert report.outcome.weights is not None
    held_back = split(open_datasets(home / "clips")["folder"])[1]
    square = list(open_datasets(home / "guard")["otb"])
    for weights, side in ((home / "start.safetensors", "before"), (report.outcome.weights, "after")):
        tracker = Tracker(weights, backend="torch")
        for comparison, sequences in ((clips, held_back), (guard, square)):
            assert getattr(comparison, side) == evaluate(tracker, sequences).mean.auc


def test_a_better_model_is_told_from_a_worse_one(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Known:
        """The target never moves, or moves as it does."""

        def __init__(self, path: Path, backend: str) -> None:
            self.speed = {"still": 0, "moving": 1}[path.name]

        def init(self, frame: Any, box: Any) -> None:
            self.box = list(box)

        def update(self, frame: Any) -> tuple[list[float]]:
            self.box[0] += 4 * self.speed
            self.box[1] += 2 * self.speed
            return (self.box.copy(),)

    monkeypatch.setattr(finetune, "Tracker", Known)
    square = list(open_datasets(home / "guard")["otb"])
    for before, after in (("still", "moving"), ("moving", "still")):
        (comparison,) = finetune.compare(Path(before), Path(after), {"empty": [], "square": square})
        assert comparison.on == "square"
        assert (comparison.before < comparison.after) == (after == "moving")
        assert max(comparison.before, comparison.after) > 0.95


def test_the_comparison_is_shown_as_a_table_and_kept_as_json(home: Path, report: Report) -> None:
    rows = json.loads((home / "out" / "finetune.json").read_text())
    assert rows == [dataclasses.asdict(comparison) for comparison in report.comparisons]
    console = Console(width=100, file=io.StringIO())
    with console.capture() as capture:
        console.print(finetune.table(report))
    shown = capture.get()
    for comparison in report.comparisons:
        row = f"{comparison.on} │ {comparison.before:.3f}  │ {comparison.after:.3f}"
        assert row in shown.replace("guard set guard             ", "guard set guard")


def test_a_run_that_is_stopped_has_nothing_to_compare_yet(home: Path, tmp_path: Path) -> None:
    stopped = dataclasses.replace(OPTIONS, max_minutes=0.0)
    report = finetune.run(recipe(home / "start.safetensors"), home / "clips", tmp_path, stopped, None)
    assert report.outcome.stopped_in == "finetune" and report.comparisons == ()
    assert not (tmp_path / "finetune.json").exists()


def test_clips_too_short_to_be_measured_on_are_told_before_the_training(home: Path, tmp_path: Path) -> None:
    training.write_clip(tmp_path / "clips", "dog", frames=3)
    stopped = dataclasses.replace(OPTIONS, max_minutes=0.0)
    with pytest.warns(
        UserWarning, match="no clip in .*clips has enough frames with a box to hold some of them back"
    ):
        finetune.run(recipe(home / "start.safetensors"), tmp_path / "clips", tmp_path / "run", stopped, None)


# --- models and data of any kind


def test_a_model_without_a_score_head_is_tuned_without_a_loss_on_the_score() -> None:
    tuned = finetune.of_size(RECIPES["finetune"](), Config(training.MODEL)).stages[0]
    assert tuned.target == Config(training.MODEL)
    assert tuned.losses == dataclasses.replace(RECIPES["finetune"]().stages[0].losses, overlap=0.0)
    scored = Config(dataclasses.replace(training.MODEL, score_head=True))
    assert finetune.of_size(RECIPES["finetune"](), scored).stages[0].losses.overlap == 0.3


@pytest.mark.parametrize(
    ("heads", "side", "centre"),
    [
        ({"regression": "numbers"}, 0.0, 0.0),
        ({"box_head": "centre"}, 0.0, 1.0),
        ({"box_head": "corner"}, 1.0, 0.0),
    ],
)
def test_a_model_is_tuned_with_the_losses_that_its_head_can_take(
    heads: dict[str, str], side: float, centre: float
) -> None:
    model = dataclasses.replace(training.MODEL, **heads)
    losses = finetune.of_size(RECIPES["finetune"](), Config(model)).stages[0].losses
    assert (losses.side, losses.centre) == (side, centre)


def test_settings_may_suit_the_chosen_model_alone(tmp_path: Path) -> None:
    model = dataclasses.replace(training.MODEL, depth=10)
    checkpoint.save(build(model, seed=0), Config(model), tmp_path / "deep.safetensors")
    chosen = [f"start={tmp_path / 'deep.safetensors'}", "frozen_blocks=9"]
    assert finetune.with_settings(RECIPES["finetune"](), chosen).stages[0].frozen_blocks == 9


def test_the_window_has_the_scale_that_the_model_tracks_in_unless_it_is_set() -> None:
    for name in ("compact", "tiny"):
        (stage,) = finetune.with_settings(RECIPES["finetune"](), [f"start={name}"]).stages
        assert stage.target == read_config(find_weights(name))
        views = stage.data.views
        assert views.search_factor == stage.target.tracker.search_factor
        assert views.centre_jitter / views.search_factor == pytest.approx(1.3 / 4.5)
    chosen = ["start=tiny", "data.views.search_factor=3.5", "target.tracker.search_factor=3.3"]
    (stage,) = finetune.with_settings(RECIPES["finetune"](), chosen).stages
    assert (stage.data.views.search_factor, stage.target.tracker.search_factor) == (3.5, 3.3)


def test_clips_of_one_name_in_two_folders_are_both_measured(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("monday", "tuesday"):
        training.write_clip(tmp_path / "clips" / folder, "dog", frames=8)
    seen: list[str] = []
    monkeypatch.setattr(finetune.pipeline, "run", lambda *_: pipeline.Outcome(home / "start.safetensors"))

    def compare(before: Path, after: Path, measured: dict[str, list[Sequence]]) -> tuple[()]:
        seen.extend(sequence.name for sequence in measured[CLIPS])
        return ()

    monkeypatch.setattr(finetune, "compare", compare)
    finetune.run(recipe(home / "start.safetensors"), tmp_path / "clips", tmp_path, OPTIONS, None)
    assert seen == ["folder:monday/dog", "folder:tuesday/dog"]


def test_what_does_not_fit_is_refused_before_the_training(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetune.pipeline, "run", lambda *_: pytest.fail("it trained"))
    with pytest.raises(ValueError, match="no model is called 'nobody'"):
        finetune.run(recipe(Path("nobody")), home / "clips", tmp_path, OPTIONS, None)
    validating = override(recipe(home / "start.safetensors"), ["validation.every_samples=8"])
    with pytest.raises(ValueError, match="leave out validation, which would see the frames that are learnt"):
        finetune.run(validating, home / "clips", tmp_path, OPTIONS, None)
    with pytest.raises(ValueError, match="no dataset is recognised in"):
        finetune.run(recipe(home / "start.safetensors"), tmp_path, tmp_path, OPTIONS, None)
    training.write_clip(tmp_path / "empty", "dog", frames=2)
    (tmp_path / "empty" / "dog" / "boxes.txt").write_text("nan,nan,nan,nan\n" * 2)
    with pytest.raises(ValueError, match="sequence dog has no frame with a box: it cannot be measured on"):
        finetune.run(
            recipe(home / "start.safetensors"), home / "clips", tmp_path, OPTIONS, tmp_path / "empty"
        )
    training.write_clip(tmp_path / "beside", "cat", frames=8)
    (tmp_path / "beside" / "cat" / "boxes.txt").write_text("1,1,5,5\n" * 4 + "5000,5000,5,5\n" * 4)
    with pytest.raises(
        ValueError, match="sequence cat, frame 0: the box 5000,5000,5,5 lies outside the frame"
    ):
        finetune.run(recipe(home / "start.safetensors"), tmp_path / "beside", tmp_path, OPTIONS, None)
