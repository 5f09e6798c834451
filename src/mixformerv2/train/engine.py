"""The loop: draws batches, steps the optimiser, keeps an average of the weights, logs, and resumes where it stopped."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mixformerv2.data.bank import ImageBank
from mixformerv2.data.benchmarks import READERS
from mixformerv2.data.coco import read_coco_instances
from mixformerv2.data.pairs import Batch, PairConfig, still_pairs, video_pairs
from mixformerv2.model import checkpoint, initialise
from mixformerv2.model.network import Network
from mixformerv2.train.recipes import OptimConfig, TrainConfig
from mixformerv2.train.supervised import SupervisedModel


@dataclasses.dataclass
class Banks:
    """Everything a run learns from, decoded."""

    stills: ImageBank
    videos: list[ImageBank]

    @classmethod
    def load(cls, root: Path, device: torch.device, every: int = 1) -> Banks:
        """``root/stills`` in COCO layout and, where it is there, ``root/got10k``; ``every`` n-th still."""
        stills = ImageBank.of_stills(read_coco_instances(root / "stills")[::every], device)
        videos = []
        if (root / "got10k").is_dir():
            sequences = READERS["got10k-train"](root / "got10k")
            videos = [ImageBank.of_sequence(s, device) for s in sequences if not s.absent.all()]
        return cls(stills, videos)

    def batch(self, config: TrainConfig, generator: torch.Generator) -> Batch:
        """A batch of pairs; the share from video comes from one sequence at a time."""
        pairs = dataclasses.replace(config.pairs, search_px=config.search_px, template_px=config.template_px)
        of_video = round(config.batch * config.video_share) if self.videos else 0
        parts = [still_pairs(self.stills, config.batch - of_video, pairs, generator)]
        if of_video:
            chosen = int(torch.randint(len(self.videos), (), generator=generator, device=generator.device))
            parts.append(video_pairs(self.videos[chosen], of_video, pairs, generator))
        return Batch.join(parts)


def learning_rate_factor(optim: OptimConfig, step: int, steps: int) -> float:
    """Warm-up, plateau, and a linear fall to zero over the last ``decay_share`` of the steps."""
    warm = min(1.0, (step + 1) / max(optim.warmup_steps, 1))
    fall = optim.decay_share * steps
    return warm * min(1.0, (steps - step) / fall if fall else 1.0)


def make_optimiser(model: SupervisedModel, optim: OptimConfig) -> torch.optim.AdamW:
    """The pretrained trunk learns slowly, what is fresh in it faster, the heads fast; vectors are not decayed.

    The last block counts as fresh: prediction tokens alone leave it, and they have never been through it.
    """
    last_block = f"blocks.{len(model.network.backbone.blocks) - 1}."
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        rate = optim.lr
        if name.startswith("network.backbone."):
            rate = optim.fresh_lr if "prediction_" in name or last_block in name else optim.trunk_lr
        groups.setdefault((rate, parameter.ndim > 1), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "lr": rate, "weight_decay": optim.weight_decay if decayed else 0.0}
            for (rate, decayed), parameters in groups.items()
        ]
    )


def run(
    config: TrainConfig,
    data: Path,
    output: Path,
    init: Path | None = None,
    device: str = "cpu",
    max_minutes: float | None = None,
    log_every: int = 50,
    save_every: int = 500,
    every_still: int = 1,
) -> Path:
    """Trains until ``config.samples`` are seen or the time is up; resumes from ``output``; returns the weights file.

    ``output/last.safetensors`` holds the averaged weights, ``output/resume.pt`` all that a continuation needs,
    ``output/log.jsonl`` a line every ``log_every`` steps.
    """
    started = time.monotonic()
    output.mkdir(parents=True, exist_ok=True)
    where = torch.device(device)
    banks = Banks.load(data, where, every_still)
    generator = torch.Generator(where).manual_seed(config.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)  # of what starts at random in the network and on it
        model = SupervisedModel(_initial_network(config, init, banks)).to(where)
    average = copy.deepcopy(model.network)
    optimiser = make_optimiser(model, config.optim)
    base_rates = [group["lr"] for group in optimiser.param_groups]
    steps, step = config.samples // config.batch, 0
    resume_path = output / "resume.pt"
    if resume_path.exists():
        step = _restore(resume_path, config, model, average, optimiser, generator)
    weights_path = output / "last.safetensors"
    log = _Log(output / "log.jsonl", log_every, config.batch)
    while step < steps:
        factor = learning_rate_factor(config.optim, step, steps)
        for group, rate in zip(optimiser.param_groups, base_rates, strict=True):
            group["lr"] = rate * factor
        batch = banks.batch(config, generator)
        with torch.autocast(where.type, dtype=torch.bfloat16):
            finding_only = step * config.batch < config.boxes_after_samples
            loss, parts = model.loss(batch, config.losses.auxiliary() if finding_only else config.losses)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        parts["gradient_norm"] = nn.utils.clip_grad_norm_(model.parameters(), config.optim.clip_norm)
        if not torch.isfinite(loss):
            torch.save(batch, output / "not-finite-batch.pt")
            raise FloatingPointError(f"the loss is {loss.item()} at step {step}; its batch is in {output}")
        optimiser.step()
        step += 1
        _follow(average, model.network, min(config.optim.ema_decay, (1 + step) / (10 + step)))
        log.add(step, loss, parts)
        out_of_time = max_minutes is not None and time.monotonic() - started > 60 * max_minutes
        if step % save_every == 0 or step == steps or out_of_time:
            _save(resume_path, config, step, model, average, optimiser, generator)
            sized = dataclasses.replace(config.target, model=average.config)
            checkpoint.save(average, sized, weights_path)
        if out_of_time:
            break
    return weights_path


def _initial_network(config: TrainConfig, init: Path | None, banks: Banks) -> Network:
    """The ViT-S, or the weights in ``init`` with their positions resampled to this run's input."""
    sized = dataclasses.replace(
        config.target.model, search_px=config.search_px, template_px=config.template_px
    )
    if init is None:
        generator = torch.Generator(banks.stills.device).manual_seed(config.seed)
        views = PairConfig(search_px=config.search_px, template_px=config.template_px)
        calibration = still_pairs(banks.stills, 256, views, generator).template.cpu()
        return initialise.from_vit_s(sized, initialise.find_vit_s(), calibration, config.seed)
    source, _ = checkpoint.load(init)
    network = Network(sized)
    weights = source.state_dict()
    for name, grid in (("search", sized.search_grid), ("template", sized.template_grid)):
        key = f"backbone.positions_{name}"
        weights[key] = initialise.resize_positions(weights[key], grid)
    network.load_state_dict(weights)
    return network


@torch.no_grad()
def _follow(average: Network, network: Network, decay: float) -> None:
    for mean, current in zip(average.parameters(), network.parameters(), strict=True):
        mean.lerp_(current, 1 - decay)


def _save(
    path: Path,
    config: TrainConfig,
    step: int,
    model: SupervisedModel,
    average: Network,
    optimiser: torch.optim.Optimizer,
    generator: torch.Generator,
) -> None:
    state = {
        "config": dataclasses.asdict(config),
        "step": step,
        "model": model.state_dict(),
        "average": average.state_dict(),
        "optimiser": optimiser.state_dict(),
        "generator": generator.get_state(),
    }
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def _restore(
    path: Path,
    config: TrainConfig,
    model: SupervisedModel,
    average: Network,
    optimiser: torch.optim.Optimizer,
    generator: torch.Generator,
) -> int:
    """Puts everything back; the step to go on with. ValueError when the run was started with another config."""
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    now = json.loads(json.dumps(dataclasses.asdict(config)))
    then = json.loads(json.dumps(state["config"]))
    changed = [name for name in now if now[name] != then.get(name)]
    if changed:
        raise ValueError(
            f"{path} belongs to another config, which differs in {', '.join(changed)}: choose another output folder"
        )
    model.load_state_dict(state["model"])
    average.load_state_dict(state["average"])
    optimiser.load_state_dict(state["optimiser"])
    generator.set_state(state["generator"])
    return int(state["step"])


class _Log:
    """Means over the last steps, as JSON lines in a file and on the screen."""

    def __init__(self, path: Path, every: int, batch: int) -> None:
        self.path, self.every, self.batch = path, every, batch
        self.sums: dict[str, torch.Tensor] = {}  # read when a line is due: a GPU is not kept waiting
        self.steps = 0  # in the sums: fewer than ``every`` after a resumption
        self.since = time.monotonic()

    def add(self, step: int, loss: torch.Tensor, parts: dict[str, torch.Tensor]) -> None:
        for name, value in {"loss": loss, **parts}.items():
            self.sums[name] = self.sums.get(name, 0.0) + value.detach()
        self.steps += 1
        if step % self.every:
            return
        now = time.monotonic()
        row = {"step": step, "samples_per_second": round(self.steps * self.batch / (now - self.since), 1)}
        row |= {name: round(float(total) / self.steps, 4) for name, total in self.sums.items()}
        self.since, self.sums, self.steps = now, {}, 0
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)
