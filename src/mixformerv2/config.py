"""What a tracker is made of, as frozen dataclasses: the network, the online rules, and the named presets of both.

A config is saved as JSON inside the weights file, so a checkpoint describes itself.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, Literal

PATCH_PX = 16
DEFAULT_MODEL = "compact"  # of those that ship, what is taken where none is named
# By the annotation of an online rule.
_KINDS: dict[str, tuple[type, str]] = {
    "int": (Integral, "a whole number"),
    "float": (Real, "a number"),
    "bool": (bool, "True or False"),
}


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of one network (paper, section 3)."""

    dim: int  # token width
    depth: int  # transformer blocks
    heads: int  # attention heads; dim / heads is 64 in every published model
    mlp_ratio: float  # hidden width of the MLPs over dim
    search_px: int  # side of the search crop
    template_px: int  # side of a template crop
    num_bins: int  # positions of a side's distribution
    box_head: Literal["tokens", "corner", "centre"] = "tokens"  # prediction tokens, or one of two dense heads
    score_head: bool = True  # is the crop good enough to become the online template?
    head_norm: bool = False  # normalise the prediction tokens before the heads
    learned_positions: bool = False  # train the positions; the published ones are fixed 2-D sin-cos
    template_surround: float = 1.0  # brightness of a template around its box; below 1 the box can be seen
    prediction_tokens: Literal[4, 1] = (
        4  # of a token head: one for each side of the box, or one for all of them
    )
    regression: Literal["distributions", "numbers"] = "distributions"  # what a token head says of each side
    attention: Literal["asymmetric", "symmetric"] = (
        "asymmetric"  # do templates see the search region as well?
    )

    def __post_init__(self) -> None:
        if self.dim < 4 or self.heads < 1 or self.dim % self.heads or self.dim % 4:
            raise ValueError(
                f"dim must be a multiple of heads and of 4, got dim {self.dim} and heads {self.heads}"
            )
        for name in ("search_px", "template_px"):
            if getattr(self, name) <= 0 or getattr(self, name) % PATCH_PX:
                raise ValueError(
                    f"{name} must be a positive multiple of {PATCH_PX}, got {getattr(self, name)}"
                )
        if not 0 <= self.template_surround <= 1:
            raise ValueError(f"template_surround must be in [0, 1], got {self.template_surround}")
        if self.depth < 1 or self.num_bins < 2 or self.mlp_ratio <= 0:
            raise ValueError(
                "depth must be at least 1, num_bins at least 2 and mlp_ratio positive, "
                f"got {self.depth}, {self.num_bins} and {self.mlp_ratio}"
            )
        self._check_choices()
        if self.box_head == "corner" and self.num_bins != self.search_grid * 4:
            raise ValueError(
                f"a corner head has a quarter of search_px bins, here {self.search_grid * 4}, got {self.num_bins}"
            )

    def _check_choices(self) -> None:
        choices = {
            "box_head": ("tokens", "corner", "centre"),
            "prediction_tokens": (4, 1),
            "regression": ("distributions", "numbers"),
            "attention": ("asymmetric", "symmetric"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                known = " or ".join(map(str, allowed))
                raise ValueError(f"{name} must be {known}, got {getattr(self, name)}")
        of_tokens = (self.prediction_tokens, self.regression)
        if self.box_head != "tokens" and of_tokens != (4, "distributions"):
            raise ValueError(
                f"prediction_tokens and regression are those of a token head: leave them out with a {self.box_head} "
                f"head, got {self.prediction_tokens} and {self.regression}"
            )

    @property
    def num_prediction_tokens(self) -> int:
        """Prediction tokens that there are: none with a dense head."""
        return self.prediction_tokens if self.box_head == "tokens" else 0

    @property
    def has_distributions(self) -> bool:
        """Whether the box comes with a distribution of each side, which losses and students can learn from."""
        return self.box_head == "corner" or (self.box_head == "tokens" and self.regression == "distributions")

    @property
    def search_grid(self) -> int:
        """Search tokens along one side."""
        return self.search_px // PATCH_PX

    @property
    def template_grid(self) -> int:
        """Tokens of one template along one side."""
        return self.template_px // PATCH_PX


@dataclass(frozen=True)
class TrackerConfig:
    """Online rules (paper, section 3.3, and the released code's parameters)."""

    search_factor: float = 4.5  # side of the search window over the square root of the box area
    template_factor: float = 2.0
    update_interval: int = 25  # frames between two decisions about the online template
    update_threshold: float = 0.5  # a crop below this score never becomes the online template
    score_decay: float = 1.0  # the best score of the interval is multiplied by this every frame
    online_templates: int = 1
    # Below this score the state is "lost". One that was lost at the border stays so below `found_threshold`.
    lost_threshold: float = 0.5
    # One that is sought in a larger window is found from this score on. At the border it is so, once it is held there,
    # unless this is 0.
    found_threshold: float = 0.0
    # One that is not found is looked for again in the same frame, in a window so many times as wide, and what is found
    # there is looked at in one of the usual width; 1: it is not.
    widen_when_lost: float = 1.0
    min_side_px: float = 10.0  # the box never shrinks below this
    # Share of the first frame's error in width and height that is corrected from then on.
    size_calibration: float = 0.0
    size_inertia: float = 0.0  # share of the last box's size, in logarithms, that the next one keeps
    hold_when_lost: bool = False  # a lost target's box stays what and where it was
    published_mapping: bool = True  # map back from the unrounded window, as the released code does

    def __post_init__(self) -> None:
        for rule in dataclasses.fields(self):
            kind, called = _KINDS[str(rule.type)]
            value = getattr(self, rule.name)
            if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
                raise ValueError(f"{rule.name} must be {called}, got {value!r}")
        for name in ("update_interval", "online_templates", "widen_when_lost"):
            if not 1 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name, least in (("search_factor", 1), ("template_factor", 1), ("min_side_px", 0)):
            if not least < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be above {least}, got {getattr(self, name)}")
        for name in (
            "update_threshold",
            "score_decay",
            "lost_threshold",
            "found_threshold",
            "size_calibration",
        ):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")
        if not 0 <= self.size_inertia < 1:
            raise ValueError(f"size_inertia must lie in [0, 1), got {self.size_inertia}")


@dataclass(frozen=True)
class Config:
    """A network and the online rules it was tuned with."""

    model: ModelConfig
    tracker: TrackerConfig = field(default_factory=TrackerConfig)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Config:
        """Raises ValueError naming the first field that is unknown or missing."""
        try:
            fields: dict[str, Any] = json.loads(text)
            return cls(ModelConfig(**fields["model"]), TrackerConfig(**fields.get("tracker", {})))
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"not the config of a mixformerv2 model: {error}") from None


# As measured for the first models of ours, at 224 px; they were trained with a factor of 4.5.
_OURS = TrackerConfig(search_factor=4.0, update_interval=10, min_side_px=4.0, published_mapping=False)
# The rules of `compact`, as its card has them measured. The window is as wide as it was trained with.
_NEAR = dataclasses.replace(
    _OURS,
    search_factor=2.9,
    size_calibration=0.5,
    size_inertia=0.5,
    lost_threshold=0.4,
    found_threshold=0.6,
    widen_when_lost=1.6,
    hold_when_lost=True,
)
_WIDE: dict[str, Any] = dict(dim=768, heads=12)
_NARROW: dict[str, Any] = dict(dim=384, heads=6)
_LARGE_INPUT: dict[str, Any] = dict(search_px=288, template_px=128)
_SMALL_INPUT: dict[str, Any] = dict(search_px=224, template_px=112)
_TEACHER: dict[str, Any] = dict(depth=12, mlp_ratio=4.0, box_head="corner", score_head=False)
_OURS_HEADS: dict[str, Any] = dict(num_bins=96, head_norm=True, learned_positions=True)
_NEAR_INPUT: dict[str, Any] = dict(search_px=144, template_px=112, template_surround=0.5)

PRESETS: dict[str, Config] = {
    # As published (paper, table 1).
    "base": Config(
        ModelConfig(depth=8, mlp_ratio=4.0, num_bins=96, **_WIDE, **_LARGE_INPUT),
        TrackerConfig(search_factor=5.0),
    ),
    "small": Config(ModelConfig(depth=4, mlp_ratio=1.0, num_bins=96, **_WIDE, **_SMALL_INPUT)),
    # Ours: width 384, for CPUs.
    # The window of 144 px shows a target as large as 224 px do, and less around it: one that moves less than its own
    # size from frame to frame, at half the arithmetic.
    "compact": Config(ModelConfig(depth=8, mlp_ratio=4.0, **_NARROW, **_NEAR_INPUT, **_OURS_HEADS), _NEAR),
    "compact-224": Config(
        ModelConfig(depth=8, mlp_ratio=4.0, **_NARROW, **_SMALL_INPUT, **_OURS_HEADS), _OURS
    ),
    "tiny": Config(ModelConfig(depth=4, mlp_ratio=1.0, **_NARROW, **_NEAR_INPUT, **_OURS_HEADS), _NEAR),
    "tiny-224": Config(ModelConfig(depth=4, mlp_ratio=1.0, **_NARROW, **_SMALL_INPUT, **_OURS_HEADS), _OURS),
    # Teachers: MixViT with the dense pyramidal corner head.
    "mixvit-s": Config(ModelConfig(num_bins=56, **_TEACHER, **_NARROW, **_SMALL_INPUT)),
    "mixvit-b": Config(
        ModelConfig(num_bins=72, **_TEACHER, **_WIDE, **_LARGE_INPUT), TrackerConfig(search_factor=5.0)
    ),
    "mixvit-l": Config(
        ModelConfig(
            dim=1024, heads=16, num_bins=96, **(_TEACHER | dict(depth=24)), search_px=384, template_px=192
        ),
        TrackerConfig(search_factor=5.0),
    ),
}


def preset(name: str) -> Config:
    """The named preset; ValueError lists the names there are."""
    if name not in PRESETS:
        raise ValueError(f"no preset is called {name!r}: choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
