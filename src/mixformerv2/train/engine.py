"""The loop of one stage, on one process or many: batches, steps, the average of the weights, checkpoints, validation.

Lightning Fabric carries what differs between machines: devices, processes, precision, the exchange of gradients.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor

from mixformerv2.data.loader import Loader
from mixformerv2.data.pairs import Batch
from mixformerv2.distill.shrink import fade_scale, remove_blocks, set_branch_scale
from mixformerv2.distill.targets import Teacher
from mixformerv2.model import checkpoint
from mixformerv2.model.network import Network
from mixformerv2.train.deadline import Deadline
from mixformerv2.train.log import RunLog
from mixformerv2.train.objective import Objective, ReplacementObjective
from mixformerv2.train.optim import make_optimiser
from mixformerv2.train.resume import Progress
from mixformerv2.train.stages import StageConfig
from mixformerv2.train.validation import Validation

LAST, BEST, RESUME = "last.safetensors", "best.safetensors", "resume.pt"


@dataclass(frozen=True)
class RunOptions:
    """How a run uses the machine. Another choice gives the same training, up to rounding.

    But for a dense head: its batch normalisation sees the examples that one process takes at once.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: int = (
        0  # threads that decode at the start, or processes that read; 0: the training process itself
    )
    in_memory: bool = True  # decode everything once and keep it on the device
    max_minutes: float | None = None  # save and stop after so long
    micro_batch: int | None = (
        None  # examples that one process takes at once; None: its whole share of a batch
    )
    max_gigabytes: float = 8.0  # that decoded images may take
    log_every: int | None = None  # steps; None: fifty, or less in a short stage
    save_every: int = 500  # steps

    def __post_init__(self) -> None:
        if self.device not in ("auto", "cpu", "cuda"):
            raise ValueError(f"device must be auto, cpu or cuda, got {self.device!r}")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device is cuda, but PyTorch finds no CUDA GPU here: choose cpu")
        if self.max_minutes is not None and not self.max_minutes >= 0:
            raise ValueError(f"max_minutes must not be negative, got {self.max_minutes:g}")
        if self.workers < 0:
            raise ValueError(f"workers must not be negative, got {self.workers}")
        if self.save_every < 1 or (self.log_every is not None and self.log_every < 1):
            raise ValueError(
                f"save_every and log_every must be at least 1, got {self.save_every} and {self.log_every}"
            )


class Engine:
    """Trains one stage in ``folder``: from the start, or from what is saved there."""

    def __init__(
        self,
        stage: StageConfig,
        loader: Loader,
        start: Network,
        teacher: Network | None,
        folder: Path,
        fabric: Fabric,
        options: RunOptions,
        validation: Validation | None = None,
    ) -> None:
        self.stage, self.loader, self.folder = stage, loader, folder
        self.fabric, self.options, self.validation = fabric, options, validation
        self._chunks = _share(stage, fabric.world_size)
        self._accumulated = _pieces(stage, self._chunks * stage.data.chunk, options.micro_batch)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stage.seed)  # the probe starts at random
            objective = make_objective(stage, start, teacher.to(fabric.device) if teacher else None)
        average = copy.deepcopy(objective.network).to(fabric.device)
        self.progress = Progress(objective, average, make_optimiser(objective.to(fabric.device), stage.optim))
        self._rates = [group["lr"] for group in self.progress.optimiser.param_groups]
        if (folder / RESUME).exists():
            self.progress.restore(folder / RESUME, stage)
        self._check_that_all_resume()
        self._objective, self._optimiser = fabric.setup(objective, self.progress.optimiser)
        self._waiting: _Unchecked | None = None

    def run(self, deadline: Deadline) -> bool:
        """Whether the stage is finished; otherwise the time was up, and all is saved.

        Raises FloatingPointError when loss or gradients are not finite, OSError or ValueError when nothing can be
        written, and what the loader raises; what was saved before is then intact. A process alone saves before it
        raises what the loader does.
        """
        stage, progress = self.stage, self.progress
        chunks = iter(self.loader.chunks(self._chunk_numbers(progress.step)))
        with self._log() as log:
            while progress.step < stage.steps and not self._agree(deadline.reached):
                try:
                    parts = self._step(chunks)
                except ChildProcessError:
                    # A signal to the whole group of processes ends the data workers as well.
                    if deadline.signal is None or self.fabric.world_size > 1:
                        raise
                    break
                progress.step += 1
                log.step(progress.step, progress.step * stage.batch, parts)
                due = progress.step % self.options.save_every == 0
                if self._validation_due():
                    self._validate(log)
                if due or progress.step == stage.steps:
                    self._save()
            if progress.step < stage.steps:
                self._save()
            for name, count in self.loader.skipped.items():
                log.event("skipped", {"file": name, "times": count})
        return progress.step >= stage.steps

    def _check_that_all_resume(self) -> None:
        step = torch.tensor(self.progress.step, device=self.fabric.device)
        steps = cast(Tensor, self.fabric.all_gather(step))
        if (steps != step).any():
            raise ValueError(
                f"all processes must see one --output folder: {self.folder} is at step {int(steps.max())} for some of "
                f"them and at step {int(steps.min())} for others"
            )

    def _log(self) -> RunLog:
        first = self.fabric.is_global_zero
        return RunLog(
            self.folder if first else None,
            every_steps=self.options.log_every or min(50, max(1, self.stage.steps // 100)),
            total_samples=self.stage.steps * self.stage.batch,
            title=self.stage.name,
            resume_step=self.progress.step,
        )

    def result(self) -> Network:
        """The averaged network as it will be used, on the CPU: without the blocks that fade out."""
        network = (
            remove_blocks(self.progress.average, self.stage.remove)
            if self.stage.remove
            else self.progress.average
        )
        return copy.deepcopy(network).cpu().eval()

    # One step ----------------------------------------------------------------------------------------------------

    def _step(self, chunks: Iterator[Batch]) -> dict[str, Tensor]:
        stage, progress, fabric = self.stage, self.progress, self.fabric
        seen = progress.step * stage.batch
        self._fade(seen)
        factor = stage.optim.factor(seen, stage.samples)
        for group, rate in zip(self._optimiser.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor
        batches = self._micro_batches(chunks)
        sums: dict[str, Tensor] = {}
        for number, batch in enumerate(batches, 1):
            with fabric.no_backward_sync(self._objective, enabled=number < len(batches)):
                loss, parts = self._objective(
                    batch, progress.step, finding_only=seen < stage.auxiliary_samples
                )
                fabric.backward(loss / len(batches))
            for name, value in {"loss": loss, **parts}.items():
                sums[name] = sums.get(name, 0.0) + value.detach() / len(batches)
        norm = fabric.clip_gradients(
            self._objective, self._optimiser, max_norm=stage.optim.clip_norm, error_if_nonfinite=False
        )
        assert norm is not None
        sums["gradient_norm"] = norm
        self._stop_if_not_finite()
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        _follow(
            progress.average,
            progress.objective.network,
            min(stage.optim.ema_decay, (2 + progress.step) / (11 + progress.step)),
        )
        self._waiting = _Unchecked.on_its_way(torch.stack([sums["loss"].float(), norm.float()]), batches)
        return self._mean_over_processes(sums) | {"learning_rate": torch.tensor(stage.optim.lr * factor)}

    def _fade(self, seen: int) -> None:
        if self.stage.remove:
            scale = fade_scale((seen + self.stage.batch) / (self.stage.steps * self.stage.batch))
            for network in (self.progress.objective.network, self.progress.average):
                set_branch_scale(network, self.stage.remove, scale)

    def _stop_if_not_finite(self) -> None:
        """One step late, so that a GPU is not waited for."""
        if self._waiting is None:
            return
        (loss, norm), batches = self._waiting.read(), self._waiting.batches
        if math.isfinite(loss) and math.isfinite(norm):
            return
        what = f"the norm of the gradients is {norm}" if math.isfinite(loss) else f"the loss is {loss}"
        path = self.folder / f"not-finite-batch-{self.fabric.global_rank}.pt"
        torch.save([batch._asdict() for batch in batches], path)
        raise FloatingPointError(
            f"stage {self.stage.name}: {what} at step {self.progress.step}; its batch is in {path}, and what was "
            "saved before is intact: a run with a lower optim.lr may get past it"
        )

    # Which examples this process takes ---------------------------------------------------------------------------

    def _chunk_numbers(self, step: int) -> Iterator[int]:
        chunks = self.stage.batch // self.stage.data.chunk
        for later in range(step, self.stage.steps):
            yield from range(
                later * chunks + self.fabric.global_rank, (later + 1) * chunks, self.fabric.world_size
            )

    def _micro_batches(self, chunks: Iterator[Batch]) -> list[Batch]:
        try:
            share = Batch.join([next(chunks) for _ in range(self._chunks)])
        except Exception:
            if self.fabric.world_size == 1:  # nothing of the step is done yet
                self._save()
            raise
        pieces = zip(*(part.chunk(self._accumulated) for part in share), strict=True)
        return [Batch(*parts) for parts in pieces]

    # Together with the other processes ---------------------------------------------------------------------------

    def _agree(self, stop: bool) -> bool:
        """Whether any process wants to stop: all of them then do, after the same step."""
        if self.fabric.world_size == 1:
            return stop
        wishes = torch.tensor(float(stop), device=self.fabric.device)
        torch.distributed.all_reduce(wishes)
        return bool(wishes)

    def _mean_over_processes(self, sums: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.fabric.world_size == 1:
            return sums
        together = torch.stack([value.float() for value in sums.values()])
        # Not Fabric's, which has all processes meet at a barrier first.
        torch.distributed.all_reduce(together)
        return dict(zip(sums, (together / self.fabric.world_size).unbind(), strict=True))

    # What is kept ------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        self._stop_if_not_finite()
        self._waiting = None
        if self.fabric.is_global_zero:
            checkpoint.save(self.result(), self.stage.target, self.folder / LAST)
            self.progress.save(self.folder / RESUME, self.stage)
        self.fabric.barrier()

    def _validation_due(self) -> bool:
        if self.validation is None:
            return False
        every = max(1, self.validation.config.every_samples // self.stage.batch)
        return self.progress.step % every == 0 or self.progress.step == self.stage.steps

    def _validate(self, log: RunLog) -> None:
        """By the first process; the others wait."""
        self._stop_if_not_finite()
        assert self.validation is not None
        if self.fabric.is_global_zero:
            network = self.result()
            scores = self.validation.measure(network, self.stage.target)
            log.event("validation", scores)
            if scores["auc"] > self.progress.best_auc:
                self.progress.best_auc = scores["auc"]
                checkpoint.save(network, self.stage.target, self.folder / BEST)
        self.fabric.barrier()


class _Unchecked(NamedTuple):
    """Loss and norm of the last step, not looked at yet, and what they come from."""

    loss_and_norm: Tensor
    arrived: torch.cuda.Event | None
    batches: list[Batch]

    @classmethod
    def on_its_way(cls, loss_and_norm: Tensor, batches: list[Batch]) -> _Unchecked:
        """A GPU sends them once it has got so far; other work may follow."""
        if not loss_and_norm.is_cuda:
            return cls(loss_and_norm, None, batches)
        sent, arrived = loss_and_norm.to("cpu", non_blocking=True), torch.cuda.Event()
        arrived.record()
        return cls(sent, arrived, batches)

    def read(self) -> list[float]:
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.loss_and_norm.tolist()


def _share(stage: StageConfig, processes: int) -> int:
    """Chunks of every batch that one process takes."""
    chunks = stage.batch // stage.data.chunk
    if chunks % processes:
        advice = f"set data.chunk to a divisor of {stage.batch // processes}"
        if stage.batch % processes:
            advice = f"set batch to a multiple of {processes}"
        raise ValueError(
            f"stage {stage.name}: a batch of {stage.batch} in chunks of {stage.data.chunk} cannot be shared by "
            f"{processes} processes: {advice}"
        )
    return chunks // processes


def _pieces(stage: StageConfig, share: int, micro_batch: int | None) -> int:
    """In how many parts a process takes its share of a batch."""
    if micro_batch is None:
        return 1
    if micro_batch < 1 or share % micro_batch:
        raise ValueError(
            f"stage {stage.name}: micro_batch must divide the {share} examples that each process takes, "
            f"got {micro_batch}"
        )
    return share // micro_batch


def make_objective(stage: StageConfig, start: Network, teacher: Network | None) -> Objective:
    """The network with its losses, everything frozen that the stage does not train."""
    if stage.only_score_head:
        assert start.score_head is not None, "the stage's config says so"
        start.requires_grad_(False).eval()  # batch normalisation of a dense head learns without gradients
        start.score_head.requires_grad_(True).train()
    if stage.frozen_embedding or stage.frozen_blocks:
        start.backbone.freeze(stage.frozen_blocks)
    if stage.replacement is not None:
        assert teacher is not None, "the stage's config says so"
        return ReplacementObjective(start, stage.losses, teacher, stage.replacement, stage.steps, stage.seed)
    return Objective(start, stage.losses, Teacher(teacher) if teacher else None, stage.feature_layers)


@torch.no_grad()
def _follow(average: Network, network: Network, decay: float) -> None:
    """One step of the exponential moving average; running statistics are taken as they are."""
    means: list[Tensor] = [*average.parameters()]
    current: list[Tensor] = [*network.parameters()]
    # One launch for all on a GPU, as in torch's own averaged model.
    torch._foreach_lerp_(means, current, 1 - decay)
    for kept, running in zip(average.buffers(), network.buffers(), strict=True):
        kept.copy_(running)
