"""Questions 1 and 2: which heads, and how tokens regress; and of question 3 what a dense head teaches tokens.

Eight blocks, the first four of them as in the ViT-S.
"""

from __future__ import annotations

from typing import Any

from mixformerv2.train import stages
from mixformerv2.train.ablations.row import (
    SAMPLES,
    SETTINGS,
    Row,
    Table,
    from_labels,
    losses_of,
    near,
    row_names,
)

_CORNER: dict[str, Any] = dict(box_head="corner", num_bins=36)
_PLAIN = losses_of(near().model, side=0.0, attention=0.0)
_HEADS = (
    from_labels("tokens", "four prediction tokens, a distribution of 96 bins each"),
    from_labels("tokens-unscored", "the same without a score head", near(score_head=False)),
    from_labels("corner", "two dense corner maps", near(**_CORNER)),
    from_labels("corner-unscored", "the same without a score head", near(**_CORNER, score_head=False)),
    from_labels("centre", "dense maps of centre, offset and size", near(box_head="centre")),
    from_labels(
        "centre-unscored", "the same without a score head", near(box_head="centre", score_head=False)
    ),
)
_REGRESSION = (
    from_labels(
        "tokens-plain", "four distributions without the losses on sides and attention", losses=_PLAIN
    ),
    from_labels("numbers", "four tokens, a number each", near(regression="numbers")),
    from_labels(
        "one-token-numbers", "one token, four numbers", near(prediction_tokens=1, regression="numbers")
    ),
    from_labels("one-token", "one token, four distributions", near(prediction_tokens=1)),
)
_BINS = tuple(from_labels(f"bins-{bins}", f"{bins} bins", near(num_bins=bins)) for bins in (36, 72, 144))
_AS_COARSE = near(num_bins=_CORNER["num_bins"])  # as the maps
_DENSE = next(row for row in _HEADS if row.name == "corner").stages
_TAUGHT = (
    from_labels(
        "dense-started", "from labels alone, started from the trunk of corner", _AS_COARSE, before=_DENSE
    ),
    Row(
        "dense-taught",
        "started so, and taught by the maps of corner",
        (
            *_DENSE,
            stages.dense_to_sparse(
                *("dense-taught", _AS_COARSE, SAMPLES, "corner"),
                losses=losses_of(_AS_COARSE.model, divergence=5.0),
                frozen_blocks=4,
                **SETTINGS,
            ),
        ),
    ),
)
_LOSSES_DIFFER = (
    "A loss on distributions is there where there are distributions, and one on what each side's token looks at where "
    "each side has a token."
)

ROWS = (*_HEADS, *_REGRESSION, *_BINS, *_TAUGHT)
TABLES = (
    Table(
        *("heads", 1, "Heads, each with and without its score part", row_names(_HEADS)),
        note=f"{_LOSSES_DIFFER} Without a score the first crop of every interval becomes the online template.",
    ),
    Table(
        *("regression", 2, "Tokens and what they say", ("tokens", *row_names(_REGRESSION))),
        note=f"{_LOSSES_DIFFER} `tokens-plain` shows how much of a difference is due to them.",
    ),
    Table("bins", 2, "Number of bins", ("tokens", *row_names(_BINS))),
    Table(
        *("dense-to-sparse-eight", 3, "From a dense head to tokens, eight blocks"),
        ("bins-36", *row_names(_TAUGHT), "corner"),
        note="`bins-36` learns from labels alone and starts from the ViT-S, as does `corner`, whose maps are 36 wide. "
        "Rows that start from `corner` have its samples behind them, too.",
    ),
)
