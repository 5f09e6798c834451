"""One stage of training: what a step does, what is saved, and how a run stops and goes on."""

from __future__ import annotations

import dataclasses
import errno
import math
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import training
from torch import Tensor
from training import After, curve, largest_difference, make_engine, same_weights

from mixformerv2.config import Config
from mixformerv2.data.datasets import open_datasets
from mixformerv2.data.pairs import Batch
from mixformerv2.data.sequence import Sequence as Video
from mixformerv2.distill.shrink import set_branch_scale
from mixformerv2.model import checkpoint
from mixformerv2.model.network import Network, build
from mixformerv2.train import engine, stages
from mixformerv2.train.deadline import Deadline
from mixformerv2.train.engine import (
    BEST,
    LAST,
    RESUME,
    Engine,
    RunOptions,
)
from mixformerv2.train.log import read_log
from mixformerv2.train.objective import LossWeights, Objective
from mixformerv2.train.optim import OptimConfig
from mixformerv2.train.settings import override
from mixformerv2.train.stages import Recipe, ValidationConfig
from mixformerv2.train.validation import Validation

Data = Mapping[str, Sequence[Video]]
STAGE = training.stage()
DEEP = dataclasses.replace(training.MODEL, depth=4)
NEVER = Deadline(None)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return open_datasets(training.write_datasets(tmp_path_factory.mktemp("data")))


@pytest.fixture(scope="module")
def straight(data: Data, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """A run of six steps without interruption."""
    trained = make_engine(STAGE, data, tmp_path_factory.mktemp("straight"))
    assert trained.run(NEVER)
    return trained


# --- steps


def test_a_run_leaves_weights_a_curve_and_what_it_needs_to_go_on(straight: Engine) -> None:
    network, config = checkpoint.load(straight.folder / LAST)
    assert config == STAGE.target
    assert same_weights(network, straight.result()) and not network.training
    rows = curve(straight.folder)
    assert [(row["step"], row["samples"]) for row in rows] == [(step, 8 * step) for step in range(1, 7)]
    expected = {"loss", "l1", "giou", "side", "search_token", "gradient_norm", "learning_rate"}
    assert expected <= rows[0].keys()
    assert all(math.isfinite(value) for row in rows for value in row.values() if not isinstance(value, str))
    left = {path.name for path in straight.folder.iterdir()}
    assert left == {LAST, RESUME, "log.jsonl", "log.csv", "tensorboard"}


def test_the_loss_falls_on_examples_that_were_not_trained_on(data: Data, tmp_path: Path) -> None:
    trained = make_engine(training.stage(steps=20), data, tmp_path)
    batch = Batch.join(list(trained.loader.chunks(range(1000, 1004))))
    objective = Objective(trained.result(), LossWeights(giou=2.0, side=1.0))
    before = float(objective(batch)[0].detach())
    trained.run(NEVER)
    objective.network = trained.result()
    assert float(objective(batch)[0].detach()) < 0.9 * before


def test_what_is_saved_is_the_average_of_the_weights_by_hand(data: Data, tmp_path: Path) -> None:
    """The decay grows with the steps, 2/11, 3/12, 4/13, ..., up to that of the settings."""
    trained = make_engine(
        training.stage(optim=dataclasses.replace(training.OPTIM, ema_decay=0.24)), data, tmp_path
    )
    name = "box_head.layers.0.weight"
    expected = trained.progress.objective.network.state_dict()[name].clone()
    for step in range(3):
        make_steps(trained, step + 1)
        decay = [2 / 11, 0.24, 0.24][step]
        now = trained.progress.objective.network.state_dict()[name]
        expected = decay * expected + (1 - decay) * now
    saved = checkpoint.load(tmp_path / LAST)[0].state_dict()[name]
    torch.testing.assert_close(saved, expected)
    assert not torch.equal(saved, now)


def make_steps(trained: Engine, count: int) -> None:
    """So that there are ``count`` in all; then it is saved."""
    trained.run(After(count - trained.progress.step))


def test_running_statistics_are_saved_as_they_are(data: Data, tmp_path: Path) -> None:
    trained = make_engine(training.stage(model=training.CORNER, steps=2), data, tmp_path)
    trained.run(NEVER)
    name = "box_head.top_left.trunk.0.1.running_mean"
    of_network = trained.progress.objective.network.state_dict()[name]
    assert torch.equal(checkpoint.load(tmp_path / LAST)[0].state_dict()[name], of_network)
    assert of_network.abs().sum() > 0


def test_every_group_follows_the_schedule(data: Data, tmp_path: Path) -> None:
    optim = OptimConfig(
        lr=2e-3, trunk_lr=1e-3, warmup_samples=16, schedule="linear", decay_share=0.5, clip_norm=1.0
    )
    trained = make_engine(training.stage(optim=optim), data, tmp_path)
    trained.run(NEVER)
    factors = [1 / 16, 9 / 16, 1.0, 1.0, 2 / 3, 1 / 3]  # 48 samples, eight a step
    assert [row["learning_rate"] for row in curve(tmp_path)] == pytest.approx([2e-3 * f for f in factors])
    last = sorted({group["lr"] for group in trained.progress.optimiser.param_groups})
    assert last == pytest.approx([1e-3 / 3, 2e-3 / 3])


def test_gradients_are_clipped_together(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[float] = []
    step = torch.optim.AdamW.step

    def watched(self: torch.optim.AdamW, *arguments: Any, **named: Any) -> Any:
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        norms.append(float(torch.stack([gradient.norm() for gradient in gradients]).norm()))
        return step(self, *arguments, **named)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    clipped = dataclasses.replace(training.OPTIM, clip_norm=0.01)
    make_engine(training.stage(optim=clipped, steps=2), data, tmp_path).run(NEVER)
    assert norms == pytest.approx([0.01, 0.01], rel=1e-3)
    assert all(row["gradient_norm"] > 0.1 for row in curve(tmp_path))  # of what was there before


def test_at_first_only_the_auxiliary_losses_teach(data: Data, tmp_path: Path) -> None:
    make_engine(training.stage(steps=3, auxiliary_samples=16), data, tmp_path).run(NEVER)
    rows = curve(tmp_path)
    assert ["l1" in row or "giou" in row for row in rows] == [False, False, True]
    assert [row["loss"] == pytest.approx(row["search_token"], rel=1e-5) for row in rows] == [
        True,
        True,
        False,
    ]


def test_a_batch_in_parts_is_the_same_training(straight: Engine, data: Data, tmp_path: Path) -> None:
    """Parts smaller than the chunks in which examples are drawn."""
    for size in (4, 2):
        parts = make_engine(STAGE, data, tmp_path / str(size), micro_batch=size)
        parts.run(NEVER)
        # These are of a part, not means over examples.
        rows, expected = (curve(folder, "iou", "side_spread") for folder in (parts.folder, straight.folder))
        assert largest_difference(rows, expected) < 1e-3


@pytest.mark.parametrize("size", [3, 0, 16])
def test_parts_that_do_not_make_up_the_batch_are_refused(data: Data, tmp_path: Path, size: int) -> None:
    with pytest.raises(ValueError, match=f"micro_batch must divide the 8 examples that each .* got {size}"):
        make_engine(STAGE, data, tmp_path, micro_batch=size)


# --- kinds of stages


def test_when_a_fade_ends_the_network_is_the_one_without_the_blocks(data: Data, tmp_path: Path) -> None:
    source = build(DEEP, seed=4)
    fade = stages.fade_blocks(
        *("fade", STAGE.target, 8 * 4, "source", (0, 2)),
        **dict(batch=8, data=training.DATA, optim=training.OPTIM, precision="32-true"),
    )
    trained = make_engine(fade, data, tmp_path, start=source, teacher=build(DEEP, seed=4))
    batch = next(iter(trained.loader.chunks([1000])))
    trained.run(NEVER)
    with_blocks, without = trained.progress.average.eval(), checkpoint.load(tmp_path / LAST)[0]
    assert (with_blocks.config.depth, without.config.depth) == (4, 2)
    assert [block.branch_scale for block in with_blocks.backbone.blocks] == [0.0, 1.0, 0.0, 1.0]
    answers = [
        network.search(batch.search, network.encode_templates(batch.template, batch.online))
        for network in (with_blocks, without)
    ]
    assert torch.equal(answers[0].side_logits, answers[1].side_logits)
    set_branch_scale(with_blocks, (0, 2), 1.0)
    templates = with_blocks.encode_templates(batch.template, batch.online)
    assert not torch.equal(with_blocks.search(batch.search, templates).side_logits, answers[1].side_logits)


def test_the_score_head_learns_alone_and_all_else_stays_bit_for_bit(data: Data, tmp_path: Path) -> None:
    scored = Config(dataclasses.replace(training.MODEL, score_head=True))
    start = build(scored.model, seed=4)
    before = {name: tensor.clone() for name, tensor in start.state_dict().items()}
    stage = stages.score_head("scored", scored, 8 * 3, "start", batch=8, data=training.DATA)  # in bf16
    trained = make_engine(stage, data, tmp_path, start=start)
    trained.run(NEVER)
    for after in (trained.progress.objective.network, checkpoint.load(tmp_path / LAST)[0]):
        changed = {n for n, tensor in after.state_dict().items() if not torch.equal(tensor, before[n])}
        assert changed == {name for name in before if name.startswith("score_head.")}
    assert {name for name, p in trained.progress.objective.named_parameters() if p.grad is not None} <= {
        f"network.{name}" for name in changed
    }


def test_a_dense_head_beside_a_score_head_that_learns_alone_keeps_its_statistics(
    data: Data, tmp_path: Path
) -> None:
    scored = Config(dataclasses.replace(training.CORNER, score_head=True))
    start = build(scored.model, seed=4)
    before = {name: tensor.clone() for name, tensor in start.state_dict().items()}
    stage = stages.score_head("scored", scored, 8 * 3, "start", batch=8, data=training.DATA)
    make_engine(stage, data, tmp_path, start=start).run(NEVER)
    after = checkpoint.load(tmp_path / LAST)[0].state_dict()
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in before if name.startswith("score_head.")}


def test_processes_that_do_not_see_one_folder_are_told_so(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine.Fabric, "all_gather", lambda _, step: torch.stack([step, step + 4]))
    with pytest.raises(ValueError, match="must see one --output folder: .* at step 4 for some .* step 0 for"):
        make_engine(STAGE, data, tmp_path)


@pytest.mark.parametrize("blocks", [0, 1])
def test_frozen_blocks_and_all_before_them_stay_bit_for_bit(blocks: int, data: Data, tmp_path: Path) -> None:
    start = build(training.MODEL, seed=4)
    before = {name: tensor.clone() for name, tensor in start.state_dict().items()}
    stage = training.stage(steps=3, frozen_embedding=True, frozen_blocks=blocks)
    trained = make_engine(stage, data, tmp_path, start=start)
    trained.run(NEVER)
    after = checkpoint.load(tmp_path / LAST)[0].state_dict()
    same = {name for name, tensor in after.items() if torch.equal(tensor, before[name])}
    trained_blocks = tuple(f"backbone.blocks.{index}." for index in range(blocks, training.MODEL.depth))
    assert same >= {n for n in before if n.startswith("backbone.") and not n.startswith(trained_blocks)}
    assert all(any(n not in same for n in before if n.startswith(block)) for block in trained_blocks)


def test_blocks_are_replaced_and_the_teacher_stays_as_it_is(data: Data, tmp_path: Path) -> None:
    teacher = build(DEEP, seed=4)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    stage = stages.replace_blocks(
        *("replaced", STAGE.target, 8 * 3, "teacher"),
        **dict(batch=8, data=training.DATA, optim=training.OPTIM, precision="32-true"),
    )
    trained = make_engine(stage, data, tmp_path, teacher=teacher)
    trained.run(NEVER)
    assert same_weights(teacher, before)
    assert checkpoint.load(tmp_path / LAST)[1] == STAGE.target
    assert all(row["features"] > 0 for row in curve(tmp_path))


def test_half_precision_trains_and_keeps_its_weights_in_full(data: Data, tmp_path: Path) -> None:
    trained = make_engine(training.stage(steps=2, precision="bf16-mixed"), data, tmp_path)
    trained.run(NEVER)
    assert {p.dtype for p in trained.progress.objective.parameters()} == {torch.float32}
    assert all(math.isfinite(float(row["loss"])) for row in curve(tmp_path))


# --- stopping and going on


@pytest.mark.parametrize("kind", ["labels", "fade", "replacement"])
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(kind: str, data: Data, tmp_path: Path) -> None:
    settings: dict[str, Any] = dict(batch=8, data=training.DATA, optim=training.OPTIM, precision="32-true")
    stage = {
        "labels": STAGE,
        "fade": stages.fade_blocks("fade", STAGE.target, 48, "source", (0, 2), **settings),
        "replacement": stages.replace_blocks("replaced", STAGE.target, 48, "source", **settings),
    }[kind]

    def again(name: str) -> Engine:
        teacher = build(DEEP, seed=4) if stage.teacher else None
        start = build(DEEP, seed=4) if stage.remove else None
        return make_engine(stage, data, tmp_path / name, start=start, teacher=teacher)

    assert again("straight").run(NEVER)
    assert not again("stopped").run(After(0))
    assert not again("stopped").run(After(2))
    assert [row["step"] for row in curve(tmp_path / "stopped")] == [1, 2]
    assert (tmp_path / "stopped" / LAST).is_file()
    assert not again("stopped").run(After(1))
    last = again("stopped")
    assert last.progress.step == 3
    assert last.run(NEVER)
    assert curve(tmp_path / "stopped") == curve(tmp_path / "straight")
    ours, expected = (checkpoint.load(tmp_path / name / LAST)[0] for name in ("stopped", "straight"))
    assert same_weights(ours, expected)
    resumed, reference = (torch.load(tmp_path / name / RESUME) for name in ("stopped", "straight"))
    assert same_weights(resumed["objective"], reference["objective"])
    assert resumed["step"] == reference["step"] == 6


def test_a_run_that_is_over_does_nothing_when_it_is_started_again(straight: Engine, data: Data) -> None:
    content = {path: path.read_bytes() for path in (straight.folder / LAST, straight.folder / RESUME)}
    assert make_engine(STAGE, data, straight.folder).run(NEVER)
    assert all(path.read_bytes() == before for path, before in content.items())
    assert len(curve(straight.folder)) == 6


def test_after_a_stop_between_two_checkpoints_later_rows_are_written_anew(
    straight: Engine, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashed = make_engine(STAGE, data, tmp_path, save_every=2)
    steps: list[int] = []

    def crash(self: Engine, *arguments: Any) -> Any:
        steps.append(1)
        if len(steps) > 3:
            raise KeyboardInterrupt
        return step(self, *arguments)

    step = Engine._step
    monkeypatch.setattr(Engine, "_step", crash)
    with pytest.raises(KeyboardInterrupt):
        crashed.run(NEVER)
    assert len(curve(tmp_path)) == 3 and torch.load(tmp_path / RESUME)["step"] == 2
    monkeypatch.undo()
    make_engine(STAGE, data, tmp_path).run(NEVER)
    assert curve(tmp_path) == curve(straight.folder)
    assert same_weights(checkpoint.load(tmp_path / LAST)[0], checkpoint.load(straight.folder / LAST)[0])


@pytest.mark.parametrize(
    ("assignment", "difference"),
    [
        ("batch=16", "batch was 8 and is 16"),
        ("optim.lr=1", "optim.lr was 0.002 and is 1.0"),
        ("data.sample.absent_share=0.5", "data.sample.absent_share was 0.25 and is 0.5"),
    ],
)
def test_a_run_does_not_go_on_with_other_settings(
    straight: Engine, data: Data, assignment: str, difference: str
) -> None:
    (other,) = override(Recipe("other", (STAGE,)), [assignment]).stages
    content = (straight.folder / RESUME).read_bytes()
    with pytest.raises(
        ValueError, match=rf"resume.pt belongs .* \({difference}\): go on with the old ones or"
    ):
        make_engine(other, data, straight.folder)
    assert (straight.folder / RESUME).read_bytes() == content


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "other"])
def test_a_damaged_file_to_go_on_from_is_named(
    straight: Engine, data: Data, tmp_path: Path, damage: str
) -> None:
    content = (straight.folder / RESUME).read_bytes()
    path = tmp_path / RESUME
    if damage == "other":
        torch.save({"step": 3}, path)
    else:
        path.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "text": b"hello\n"}[damage])
    with pytest.raises(ValueError, match="resume.pt is damaged: delete it to start the stage anew"):
        make_engine(STAGE, data, tmp_path)


class Dying:
    """A loader whose worker dies at the third chunk."""

    def __init__(self, loader: Any) -> None:
        self._loader, self.skipped = loader, loader.skipped

    def chunks(self, numbers: Iterator[int]) -> Iterator[Batch]:
        for count, chunk in enumerate(self._loader.chunks(numbers)):
            if count == 2:
                raise ChildProcessError("one of 1 data workers died")
            yield chunk


def test_a_signal_that_ends_the_data_workers_too_saves_the_run(data: Data, tmp_path: Path) -> None:
    stopped = make_engine(STAGE, data, tmp_path)
    stopped.loader = Dying(stopped.loader)  # type: ignore[assignment]
    deadline = Signalled()
    assert not stopped.run(deadline)
    assert torch.load(tmp_path / RESUME)["step"] == 2


class Signalled(Deadline):
    """Whose signal comes while a step waits for its batch."""

    def __init__(self) -> None:
        super().__init__(None)
        self.signal = signal.SIGTERM

    @property
    def reached(self) -> bool:
        return False


def test_a_worker_that_dies_of_itself_ends_the_run_and_loses_no_step(data: Data, tmp_path: Path) -> None:
    stopped = make_engine(STAGE, data, tmp_path)
    stopped.loader = Dying(stopped.loader)  # type: ignore[assignment]
    with pytest.raises(ChildProcessError, match="data workers died"):
        stopped.run(NEVER)
    assert torch.load(tmp_path / RESUME)["step"] == 2


# --- what goes wrong


def spoil(monkeypatch: pytest.MonkeyPatch, at: int, spoilt: Callable[[Tensor], Tensor]) -> None:
    """Another loss in the step with this number, from 0; its parts stay as they are."""
    forward = Objective.forward

    def forward_spoilt(self: Objective, batch: Batch, step: int = 0, finding_only: bool = False) -> Any:
        loss, parts = forward(self, batch, step, finding_only)
        return spoilt(loss) if step == at else loss, parts

    monkeypatch.setattr(Objective, "forward", forward_spoilt)


def steep(loss: Tensor) -> Tensor:
    """The same loss, with gradients beyond what a float can hold."""
    return loss + (loss - loss.detach()).mul(1e30).mul(1e30)


@pytest.mark.parametrize(
    ("spoilt", "words"),
    [
        (lambda loss: loss * math.nan, "the loss is nan"),
        (lambda loss: loss * math.inf, "the loss is inf"),
        (steep, "the norm of the gradients is (nan|inf)"),
    ],
)
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_its_batch(
    data: Data,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    spoilt: Callable[[Tensor], Tensor],
    words: str,
) -> None:
    spoil(monkeypatch, 3, spoilt)
    stopped = make_engine(STAGE, data, tmp_path, save_every=2)
    (wanted,) = stopped.loader.chunks([3])  # of the fourth step
    path = tmp_path / "not-finite-batch-0.pt"
    with pytest.raises(
        FloatingPointError, match=f"^stage first: {words} at step 4; its batch is in {path}, and"
    ):
        stopped.run(NEVER)
    (kept,) = torch.load(path)
    assert all(torch.equal(kept[name], getattr(wanted, name)) for name in Batch._fields)
    assert torch.load(tmp_path / RESUME)["step"] == 2
    tensors = checkpoint.load(tmp_path / LAST)[0].state_dict().values()
    assert all(torch.isfinite(tensor).all() for tensor in tensors)


def test_a_loss_that_is_not_finite_in_the_last_step_is_not_saved(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, 5, lambda loss: loss * math.nan)
    with pytest.raises(FloatingPointError, match="the loss is nan at step 6"):
        make_engine(STAGE, data, tmp_path).run(NEVER)
    assert not (tmp_path / LAST).exists() and not (tmp_path / RESUME).exists()


@pytest.mark.parametrize("full_for", [LAST, RESUME])
def test_a_full_disk_leaves_what_was_saved_before(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full_for: str
) -> None:
    stopped = make_engine(STAGE, data, tmp_path, save_every=2)
    make_steps(stopped, 2)
    before = {name: (tmp_path / name).read_bytes() for name in (LAST, RESUME)}
    write = Path.write_bytes

    def full(self: Path, content: Any) -> int:
        if full_for.split(".")[0] not in self.name:
            return write(self, content)
        write(self, bytes(content[:100]))
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises((OSError, ValueError), match=f"{full_for} cannot be written: No space left on device"):
        stopped.run(NEVER)
    assert {path.name for path in tmp_path.iterdir()} == {LAST, RESUME, "log.jsonl", "log.csv", "tensorboard"}
    assert (tmp_path / RESUME).read_bytes() == before[RESUME]
    assert full_for == RESUME or (tmp_path / LAST).read_bytes() == before[LAST]
    monkeypatch.undo()
    again = make_engine(STAGE, data, tmp_path)
    assert again.progress.step == 2 and again.run(NEVER)


def test_an_image_that_cannot_be_read_is_skipped_and_counted(tmp_path: Path) -> None:
    root = training.write_datasets(tmp_path / "data")
    broken = root / "stills" / "images" / "2.png"
    broken.write_bytes(broken.read_bytes()[:200])
    for number, memory in enumerate((True, False)):
        trained = make_engine(STAGE, open_datasets(root), tmp_path / str(number), in_memory=memory)
        assert trained.run(NEVER)
        rows = [row for row in read_log(trained.folder / "log.jsonl") if row["kind"] == "skipped"]
        assert {str(row["file"]): row["times"] for row in rows} == trained.loader.skipped
        assert list(trained.loader.skipped) == [str(broken)]
    assert curve(tmp_path / "0") == curve(tmp_path / "1")


# --- validation is tracking


def test_validation_tracks_and_keeps_the_best(data: Data, tmp_path: Path) -> None:
    training.write_otb(tmp_path / "otb", "Square", frames=5)
    otb = open_datasets(tmp_path / "otb")
    config = ValidationConfig(every_samples=16, sequences=("Square",), max_frames=4)
    # At a rate this high the best one is not the last.
    stage = training.stage(steps=7, validation=config, optim=dataclasses.replace(training.OPTIM, lr=0.05))
    trained = make_engine(stage, data, tmp_path / "out", validation=Validation.choose(config, otb))
    kept: dict[float, Network] = {}
    measure = Validation.measure

    def watched(self: Validation, network: Network, target: Config) -> dict[str, float]:
        scores = measure(self, network, target)
        kept.setdefault(scores["auc"], network)
        return scores

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Validation, "measure", watched)
        trained.run(NEVER)
    rows = [row for row in read_log(tmp_path / "out" / "log.jsonl") if row["kind"] == "validation"]
    assert [row["step"] for row in rows] == [2, 4, 6, 7]
    assert {"auc", "precision"} <= rows[0].keys() and all(0 <= row["auc"] <= 1 for row in rows)
    best = checkpoint.load(tmp_path / "out" / BEST)[0]
    assert same_weights(best, kept[max(kept)])
    assert max(kept) == max(row["auc"] for row in rows) == trained.progress.best_auc
    assert torch.load(tmp_path / "out" / RESUME)["best_auc"] == max(kept)
    # It is the tracker's score, from the file too.
    assert Validation.choose(config, otb).measure(best, stage.target)["auc"] == max(kept)


def test_a_better_score_from_before_a_stop_is_not_written_over(data: Data, tmp_path: Path) -> None:
    config = ValidationConfig(every_samples=8)
    stage = training.stage(steps=2, validation=config)

    class Told(Validation):
        def measure(self, network: Network, target: Config) -> dict[str, float]:
            return {"auc": scores.pop(0)}

    scores = [0.5, 0.25]
    make_engine(stage, data, tmp_path, validation=Told(config, ())).run(After(1))
    before = (tmp_path / BEST).read_bytes()
    make_engine(stage, data, tmp_path, validation=Told(config, ())).run(NEVER)
    assert not scores and (tmp_path / BEST).read_bytes() == before


def test_weights_that_are_not_finite_are_not_tracked_with(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, 0, lambda loss: loss * math.nan)
    config = ValidationConfig(every_samples=8)
    stage = training.stage(validation=config)
    with pytest.raises(FloatingPointError, match="the loss is nan at step 1"):
        make_engine(stage, data, tmp_path, validation=Validation(config, ())).run(NEVER)


def test_sequences_to_validate_on_that_are_not_there_are_named(tmp_path: Path) -> None:
    training.write_otb(tmp_path, "Square", frames=2)
    otb = open_datasets(tmp_path)
    assert [s.name for s in Validation.choose(ValidationConfig(8), otb).sequences] == ["Square"]
    with pytest.raises(
        ValueError, match="validation.dataset is 'lasot', but the data folder holds otb: choose"
    ):
        Validation.choose(ValidationConfig(8, dataset="lasot"), otb)
    with pytest.raises(ValueError, match="the dataset otb has no sequence Circle, Oval"):
        Validation.choose(ValidationConfig(8, sequences=("Circle", "Square", "Oval")), otb)


# --- options


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (dict(workers=-1), "workers must not be negative, got -1"),
        (dict(max_minutes=-3.0), "max_minutes must not be negative, got -3"),
        (dict(max_minutes=math.nan), "max_minutes must not be negative, got nan"),
        (dict(save_every=0), "save_every and log_every must be at least 1, got 0 and None"),
        (dict(log_every=0), "save_every and log_every must be at least 1, got 500 and 0"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        RunOptions(**options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="device is cuda, but PyTorch finds no CUDA GPU here: choose cpu"):
        RunOptions(device="cuda")


@pytest.mark.parametrize(
    ("batch", "chunk", "processes", "advice"),
    [(8, 8, 2, "set data.chunk to a divisor of 4"), (9, 3, 2, "set batch to a multiple of 2")],
)
def test_a_batch_that_cannot_be_shared_is_refused(
    batch: int, chunk: int, processes: int, advice: str
) -> None:
    stage = training.stage(batch=batch, data=dataclasses.replace(training.DATA, chunk=chunk))
    with pytest.raises(
        ValueError, match=f"chunks of {chunk} cannot be shared by {processes} processes: {advice}"
    ):
        engine._share(stage, processes)
    assert engine._share(training.stage(batch=32), 2) == 2
