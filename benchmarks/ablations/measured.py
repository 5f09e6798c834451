"""What run.py has left in a folder of results, and how a row stands to the first one of its table."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from run import costs

from mixformerv2.train.ablations import ROWS, TABLES, Row, Table

CLOSE = 0.015  # of AUC: a smaller difference takes three seeds
NOISY = "too noisy to call"


class Measured(NamedTuple):
    """An AUC with every seed."""

    of_seed: dict[str, float]

    @property
    def values(self) -> tuple[float, ...]:
        return tuple(self.of_seed.values())

    @property
    def mean(self) -> float:
        return float(np.mean(self.values))

    @property
    def spread(self) -> float:
        """From the worst seed to the best one; 0 of a single seed."""
        return max(self.values) - min(self.values)

    def __str__(self) -> str:
        if len(self.values) == 1:
            return f"{self.mean:.3f} (one seed)"
        return f"{self.mean:.3f} ({min(self.values):.3f} to {max(self.values):.3f}, {len(self.values)} seeds)"


def pieces_text(row: Mapping[str, np.ndarray], first: Mapping[str, np.ndarray]) -> str:
    """Mean overlap, and how far it is from the first row's: pieces differ more from each other than rows do."""
    if not row:
        return "-"
    text = f"{np.mean([*row.values()]):.3f}"
    shared = [row[seed] - first[seed] for seed in row if seed in first]
    if not shared:
        return text
    difference = np.mean(shared, axis=0)
    error = difference.std(ddof=1) / len(difference) ** 0.5 if len(difference) > 1 else np.nan
    return f"{text} ({difference.mean():+.3f} ± {error:.3f})"


def verdict(row: Measured, first: Measured) -> str:
    """How a row stands to the first one of its table, with the seeds that both have."""
    shared = [row.of_seed[seed] - first.of_seed[seed] for seed in row.of_seed if seed in first.of_seed]
    if not shared:
        return "-"
    difference = float(np.mean(shared))
    text = f"{difference:+.3f}"
    if len(shared) < 3 and abs(difference) < CLOSE:
        return f"{text}, {NOISY} with fewer than three seeds"
    if abs(difference) <= max(row.spread, first.spread):
        return f"{text}, {NOISY}"
    return text


@dataclass(frozen=True)
class Results:
    """All that run.py has left in a folder."""

    rows: dict[str, dict[str, Any]]
    speeds: dict[tuple[str, int], dict[str, Any]]  # device and question -> the file of one run
    findings: dict[str, str]  # table -> what it says

    @classmethod
    def read(cls, folder: Path) -> Results:
        """Raises ValueError where rows of one table cannot be compared, or a finding has no rows."""
        files = {file.stem: json.loads(file.read_text("utf-8")) for file in sorted(folder.glob("*.json"))}
        timed = {name: name.split("-") for name in list(files) if name.startswith("speed-")}
        speeds = {(device, int(question)): files.pop(name) for name, (_, device, question) in timed.items()}
        rows = {name: content for name, content in files.items() if name in ROWS}
        results = cls(rows, speeds, read_findings(folder / "findings.md"))
        for table in TABLES:
            results.check(table)
        run = {table.name for table in TABLES if not rows.keys().isdisjoint(table.rows)}
        if baseless := sorted(results.findings.keys() - run):
            raise ValueError(
                f"findings.md says something of {baseless[0]}, which is no table with a row that was run"
            )
        return results

    def check(self, table: Table) -> None:
        """Raises ValueError where the rows of a table cannot be compared."""
        seen = {
            (seed["max_frames"], tuple(seed["otb"]["sequences"]), tuple(seed["held_out"]["sequences"]))
            for name in table.rows
            for seed in self.rows.get(name, {"seeds": {}})["seeds"].values()
        }
        if len(seen) > 1:
            raise ValueError(
                f"the rows of table {table.name} were not tracked on the same frames: run them again"
            )
        if len(samples := self.samples(table)) > 1:
            raise ValueError(
                f"the rows of table {table.name} have seen {sorted(samples)} samples: run them again"
            )

    def samples(self, table: Table) -> set[int]:
        """That rows of the table have seen, each beside those of its teachers."""
        return {
            sum(
                stage["samples"]
                for stage in seed["training"]
                if (stage["name"] + ".").startswith(f"{owner(name)}.")
            )
            for name in table.rows
            for seed in self.rows.get(name, {"seeds": {}})["seeds"].values()
        }

    def auc(self, name: str, dataset: str) -> Measured | None:
        seeds = self.rows.get(name, {}).get("seeds", {})
        of_seed = {number: seed[dataset]["mean"]["auc"] for number, seed in seeds.items()}
        return Measured(of_seed) if of_seed else None

    def pieces(self, name: str) -> dict[str, np.ndarray]:
        """By seed, the overlap of every piece of ``otb/``, (pieces,)."""
        seeds = self.rows.get(name, {}).get("seeds", {})
        return {
            number: np.concatenate([*seed["pieces"]["overlaps"].values()]) for number, seed in seeds.items()
        }

    def ms(self, name: str, where: tuple[str, int], precision: str) -> float | None:
        """Median of a frame, by the network of the row; None where the row's rules cost something else."""
        if row_costs(ROWS[name]) != row_costs(ROWS[owner(name)]):
            return None
        rows = self.speeds.get(where, {"rows": []})["rows"]
        of_row = (row for row in rows if (row["row"], row["precision"]) == (owner(name), precision))
        return next((row["frame_ms"] for row in of_row), None)

    def precisions(self, where: tuple[str, int]) -> list[str]:
        return list(dict.fromkeys(row["precision"] for row in self.speeds.get(where, {"rows": []})["rows"]))

    def timed(self, question: int) -> list[tuple[str, int]]:
        """The devices that the rows of a question were timed on, as ``speeds`` has them."""
        return [where for where in self.speeds if where[1] == question]


def read_findings(path: Path) -> dict[str, str]:
    """Of each ``## table`` the text below it."""
    text = path.read_text("utf-8") if path.is_file() else ""
    _, *parts = re.split(r"^## (.+)\n", text, flags=re.MULTILINE)
    return {name.strip(): body.strip() for name, body in zip(parts[::2], parts[1::2], strict=True)}


def owner(name: str) -> str:
    """The row whose network it is."""
    return ROWS[name].of or name


def row_costs(row: Row) -> dict[str, int]:
    trained = (ROWS[row.of] if row.of else row).stages[-1].target
    return costs(row.name, row.config(trained))
