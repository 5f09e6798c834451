"""The shipped ``compact``, made cheaper: question 4, and a part of question 3. All of its blocks are trained."""

from __future__ import annotations

import dataclasses

from mixformerv2.config import preset
from mixformerv2.train.ablations.row import BATCH, DATA, OPTIM, Row, Table, losses_of, row_names
from mixformerv2.train.ablations.shrinking import Origin
from mixformerv2.train.shipped import WARY

_SHIPPED = preset("compact")
# The rules are those that the rows were run with.
_TARGET = dataclasses.replace(_SHIPPED, tracker=dataclasses.replace(_SHIPPED.tracker, widen_when_lost=1.0))
_COMPACT = Origin(
    "compact",
    _TARGET,
    labels=losses_of(_TARGET.model, score=0.0, overlap=0.5),
    settings={
        "data": dataclasses.replace(
            WARY,
            sample=dataclasses.replace(
                WARY.sample, weights=DATA.sample.weights, held_out=DATA.sample.held_out
            ),
        ),
        "batch": BATCH,
        "optim": dataclasses.replace(OPTIM, lr=2e-4, trunk_lr=4e-5, fresh_lr=8e-5, decay_share=1.0),
    },
    at_once={"frozen_embedding": True},
)
_MLP = tuple(
    _COMPACT.taught(f"mlp-{ratio:g}", f"MLP ratio {ratio:g}", mlp_ratio=ratio)
    for ratio in (4.0, 2.0, 1.0, 0.5)
)
# The blocks that are missed least, as measured for `tiny-from-compact`; of the last three the first, the middle and
# the end.
_FADE = "fade over half of the samples"
_DEPTH = (
    _COMPACT.faded("depth-6", f"6 blocks: two {_FADE}, those missed least", 0.5, (1, 2), next_left=True),
    _COMPACT.faded(
        "depth-4", f"4 blocks: four {_FADE}, those missed least", 0.5, (1, 2, 3, 5), next_left=True
    ),
    _COMPACT.faded("depth-3", f"3 blocks: five {_FADE}", 0.5, (1, 2, 3, 5, 6), next_left=True),
)
_HALF = _COMPACT.in_each_way("half", 4)
_VIA_SIX = _COMPACT.student(
    *("half-via-six", _COMPACT.features, {"depth": 4}),
    start="depth-6",
    teacher="depth-6",
    teacher_depth=6,
)
ROWS = (
    *_MLP,
    *_DEPTH,
    *_HALF,
    Row(
        "half-via-six",
        "as half-features, started from and taught by the six blocks of depth-6, and so with as many samples again",
        (*_DEPTH[0].stages, _VIA_SIX),
    ),
)
_KNOWN = (
    "They start from the weights of `compact` that ship, which has learned from the sequences held out here."
)
_COMPARED = (
    "In the rows `depth-N` the tokens that leave a block are compared with those that enter the next one that stays, "
    "in the others with those at the same share of the depth."
)
TABLES = (
    Table(
        *("compact-to-four", 3, "From the eight blocks of compact to four"),
        (*row_names(_HALF), "depth-4", "half-via-six"),
        note=f"{_KNOWN} `half-scratch` does not, and has the rates of the others. {_COMPARED}",
    ),
    Table(
        *("mlp", 4, "MLP ratio", row_names(_MLP)),
        note=f"{_KNOWN} It teaches them all, `mlp-4` among them, which has its own sizes.",
    ),
    Table(
        *("depth", 4, "Depth", ("mlp-4", *row_names(_DEPTH))),
        note=f"{_KNOWN} `mlp-4` has its eight blocks. {_COMPARED}",
    ),
)
