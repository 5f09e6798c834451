"""Validation as tracking: what the averaged weights score on whole sequences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mixformerv2.config import Config
from mixformerv2.data.benchmarks import READERS
from mixformerv2.data.datasets import open_part
from mixformerv2.data.sequence import Sequence, Sequences
from mixformerv2.evaluate.run import evaluate
from mixformerv2.model.network import Network
from mixformerv2.runtime.torch import NetworkBackend
from mixformerv2.tracker import Tracker
from mixformerv2.train.stages import Recipe, ValidationConfig


def with_parts_to_track(
    recipe: Recipe, datasets: Mapping[str, Sequences], root: Path | str
) -> dict[str, Sequences]:
    """The datasets of a folder, and those parts, which nobody learns from, that stages are validated on.

    Raises ValueError for a part that is not there.
    """
    wanted = {stage.validation.dataset for stage in recipe.stages if stage.validation is not None}
    named = sorted(name for name in wanted - datasets.keys() if name in READERS)
    return {**datasets, **{name: open_part(root, name) for name in named}}


@dataclass(frozen=True)
class Validation:
    """Sequences to track, and how often."""

    config: ValidationConfig
    sequences: tuple[Sequence, ...]
    device: str = "cpu"

    @classmethod
    def choose(
        cls,
        config: ValidationConfig,
        datasets: Mapping[str, Sequences],
        device: str = "cpu",
    ) -> Validation:
        """The sequences that the config names. Raises ValueError naming what is not there."""
        if config.dataset not in datasets:
            raise ValueError(
                f"validation.dataset is {config.dataset!r}, but the data folder holds {', '.join(datasets)}: "
                "choose one of them, or set validation to null"
            )
        sequences = tuple(datasets[config.dataset])
        if config.sequences:
            by_name = {sequence.name: sequence for sequence in sequences}
            unknown = [name for name in config.sequences if name not in by_name]
            if unknown:
                raise ValueError(f"the dataset {config.dataset} has no sequence {', '.join(unknown)}")
            sequences = tuple(by_name[name] for name in config.sequences)
        return cls(config, sequences, device)

    def measure(self, network: Network, target: Config) -> dict[str, float]:
        """Mean AUC, precision and normalised precision of the tracker with this network."""
        tracker = Tracker(backend=NetworkBackend(network.to(self.device), target))
        return evaluate(tracker, self.sequences, self.config.max_frames).mean._asdict()
