"""The paper's questions as rows of tables: what differs from row to row, and the training of each.

``mixformerv2 train ablation-NAME`` trains one; ``benchmarks/ablations/run.py`` trains, tracks and measures them.
Of one table all rows have the same data, samples, batch and schedule, and each the losses that its head can take.
Rows with the same ``--output`` share their teachers, which are stages of their own there.
"""

from __future__ import annotations

from collections.abc import Callable

from mixformerv2.train.ablations import compact, design, distillation, heads
from mixformerv2.train.ablations.row import HELD_OUT, PREFIX, SAMPLES, Row, Table
from mixformerv2.train.stages import Recipe

__all__ = [
    "HELD_OUT",
    "PREFIX",
    "QUESTIONS",
    "RECIPES",
    "ROWS",
    "SAMPLES",
    "TABLES",
    "Row",
    "Table",
    "summary",
]

QUESTIONS = {
    1: "Token heads against dense heads",
    2: "How tokens regress",
    3: "Distillation",
    4: "MLP reduction and depth",
    5: "What the design rests on",
}
ROWS: dict[str, Row] = {
    row.name: row for row in (*heads.ROWS, *distillation.ROWS, *compact.ROWS, *design.ROWS)
}
TABLES: tuple[Table, ...] = (*heads.TABLES, *distillation.TABLES, *compact.TABLES, *design.TABLES)
RECIPES: dict[str, Callable[[], Recipe]] = {
    PREFIX + name: row.recipe for name, row in ROWS.items() if row.stages
}


def summary() -> list[str]:
    """A line for each table, for the list of recipes."""
    return [
        f"{PREFIX}NAME, question {table.question}, {table.title.lower()}: "
        + ", ".join(name for name in table.rows if ROWS[name].stages)
        for table in TABLES
        if any(ROWS[name].stages for name in table.rows[1:])
    ]
