"""A training of one's own: six blocks out of the shipped eight, which teach them.

mixformerv2 train examples/recipe.py:six_blocks --data DIR --output runs/six --set samples=1e5
"""

from mixformerv2.config import preset
from mixformerv2.data.loader import DataConfig
from mixformerv2.data.plan import SampleConfig
from mixformerv2.data.views import ViewConfig
from mixformerv2.train import stages
from mixformerv2.train.objective import LossWeights
from mixformerv2.train.optim import OptimConfig


def six_blocks() -> stages.Recipe:
    """Two blocks fade out over half of the samples, then the others learn alone."""
    compact = preset("compact")
    six = stages.sized(compact, depth=6)
    settings = {
        "data": DataConfig(SampleConfig(weights={"coco": 0.8, "got10k": 0.2}), ViewConfig(search_factor=2.9)),
        "losses": LossWeights(giou=2.0, ciou=0.0, side=1.0, overlap=0.5, divergence=5.0, features=0.2),
        "optim": OptimConfig(
            lr=2e-4,
            trunk_lr=4e-5,
            clip_norm=1.0,
            warmup_samples=3_200,
            schedule="linear",
            decay_share=1.0,
        ),
        "frozen_embedding": True,
    }
    fade = stages.fade_blocks("fade", six, 100_000, "compact", remove=(1, 2), **settings)
    alone = stages.deep_to_shallow("six", six, 100_000, "compact", teacher_depth=8, start="fade", **settings)
    return stages.Recipe("six-blocks", (fade, alone))
