"""All that a run needs to go on as if it had never stopped, in one file that is always whole."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mixformerv2.files import write_bytes
from mixformerv2.model.network import Network
from mixformerv2.train.objective import Objective
from mixformerv2.train.settings import as_plain, changes
from mixformerv2.train.stages import StageConfig

_ENTRIES = {"stage", "step", "best_auc", "objective", "average", "optimiser"}


@dataclass
class Progress:
    """What changes while a stage trains. Batches are drawn by their number, so no random state is among it."""

    objective: Objective
    average: Network  # exponential moving average of the weights
    optimiser: torch.optim.Optimizer
    step: int = 0
    best_auc: float = -1.0

    def save(self, path: Path, stage: StageConfig) -> None:
        """Raises OSError with one sentence when there is no room; the file from before is then still there."""
        state = {
            "stage": as_plain(stage),
            "step": self.step,
            "best_auc": self.best_auc,
            "objective": self.objective.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }
        content = io.BytesIO()
        torch.save(state, content)
        try:
            write_bytes(path, content.getbuffer())
        except OSError as error:
            raise OSError(f"cannot save the run: {error}; what was saved before is intact") from None

    def restore(self, path: Path, stage: StageConfig) -> None:
        """Raises ValueError when the run was started with another config, naming every difference, or is damaged."""
        state = _read(path)
        changed = changes(state["stage"], stage)
        if changed:
            raise ValueError(
                f"{path} belongs to a run with other settings ({'; '.join(changed)}): "
                "go on with the old ones or choose another output folder"
            )
        self.objective.load_state_dict(state["objective"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.best_auc = state["step"], state["best_auc"]


def _read(path: Path) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception:  # a broken file can fail in any way, and all of them mean the same here
        state = None
    if not isinstance(state, dict) or not state.keys() >= _ENTRIES:
        raise ValueError(f"{path} is damaged: delete it to start the stage anew")
    return state
