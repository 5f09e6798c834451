"""Makes docs/ablations.md and its plots of the JSON files that run.py has written, and of findings.md.

python benchmarks/ablations/page.py

A row without a file has not been run, and the page says so; its parameters and multiply-adds follow from its config.
What was found stands in findings.md, beside the files, under the name of a table: ``## heads``.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from run import HERE, costs

from mixformerv2.runtime.backend import shipped_models
from mixformerv2.train.ablations import HELD_OUT, QUESTIONS, ROWS, SAMPLES, TABLES, Row, Table

CLOSE = 0.015  # of AUC: a smaller difference takes three seeds
NOT_RUN = "has not been run"
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


# Tables -------------------------------------------------------------------------------------------------------------


def table_lines(table: Table, results: Results) -> list[str]:
    timed = [
        (where, precision)
        for where in results.timed(table.question)
        for precision in results.precisions(where)
    ]
    any_run = any(results.auc(name, "otb") for name in table.rows)
    head = ["row", "what is special"]
    measures = ["AUC on `otb/`", f"against `{table.rows[0]}`", "overlap in pieces", "AUC held out"]
    head += measures if any_run else []
    head += [
        "parameters",
        "multiply-adds",
        *(f"ms, {device}, {precision}" for (device, _), precision in timed),
    ]
    lines = [_line(head), _line(["---"] * len(head))]
    first, first_pieces = results.auc(table.rows[0], "otb"), results.pieces(table.rows[0])
    for name in table.rows:
        row, auc = ROWS[name], results.auc(name, "otb")
        out = None if has_seen_more(row) else results.auc(name, "held_out")
        against = "-" if name == table.rows[0] or auc is None or first is None else verdict(auc, first)
        cost = row_costs(row)
        pieces = pieces_text(results.pieces(name), {} if name == table.rows[0] else first_pieces)
        measured = [str(auc or NOT_RUN), against, pieces, str(out or "-")]
        cells = [f"`{name}`", row.says, *(measured if any_run else [])]
        cells += [f"{cost['parameters'] / 1e6:.1f} M", f"{cost['macs_per_frame'] / 1e9:.2f} G"]
        cells += [_ms(results.ms(name, *which)) for which in timed]
        lines.append(_line(cells))
    return lines


def has_seen_more(row: Row) -> bool:
    """Whether its network comes from, or was taught by, one that no stage of it made: of a shipped model, which has
    learned from all of ``got10k/train``.
    """
    stages = (ROWS[row.of] if row.of else row).stages
    named = {name for stage in stages for name in (stage.start, stage.teacher)}
    return not named.isdisjoint(shipped_models())


def row_costs(row: Row) -> dict[str, int]:
    trained = (ROWS[row.of] if row.of else row).stages[-1].target
    return costs(row.name, row.config(trained))


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _missing(table: Table, results: Results) -> str:
    """Which rows of a table have not been run."""
    missing = [name for name in table.rows if results.auc(name, "otb") is None]
    if len(missing) == len(table.rows):
        return "None of these rows has been trained yet: there is no AUC to show."
    if missing:
        rows = ", ".join(f"`{name}`" for name in missing)
        return f"Not run yet: {rows}."
    return ""


# Plots --------------------------------------------------------------------------------------------------------------


def plot_table(table: Table, results: Results, path: Path) -> bool:
    """Every seed as a point and the means as bars, row by row; nothing and False where fewer than two rows were run."""
    rows = [(name, auc) for name in table.rows if (auc := results.auc(name, "otb"))]
    if len(rows) < 2:
        return False
    figure = Figure(figsize=(8, 0.9 + 0.42 * len(rows)), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    for place, (_, auc) in enumerate(rows):
        axes.plot([auc.mean] * 2, [place - 0.28, place + 0.28], color="C0", linewidth=3)
        axes.plot(auc.values, [place] * len(auc.values), "o", color="C1", markersize=5)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.invert_yaxis()
    axes.set_xlabel("AUC on otb/: seeds, and their mean")
    axes.set_title(table.title, loc="left", fontsize=11, fontweight="bold")
    _plain(axes)
    figure.savefig(path, format="png")
    return True


def plot_pareto(names: Sequence[str], results: Results, path: Path) -> bool:
    """What a row scores against the time of a frame on a CPU, a line for the best of each precision: whole passes on
    the left, pieces on the right. False without both.
    """
    scores: dict[str, dict[str, float]] = {"AUC on otb/": {}, "overlap in pieces of otb/": {}}
    for name in names:
        if auc := results.auc(name, "otb"):
            overlap = np.mean([*results.pieces(name).values()])
            for values, value in zip(scores.values(), (auc.mean, overlap), strict=True):
                values[name] = float(value)
    where = ("cpu", 4)
    ms = {
        precision: {
            name: took for name in scores["AUC on otb/"] if (took := results.ms(name, where, precision))
        }
        for precision in results.precisions(where)
    }
    ms = {precision: took for precision, took in ms.items() if took}
    if not ms:
        return False
    figure = Figure(figsize=(12, 5), dpi=100, layout="constrained")
    for axes, (label, values) in zip(figure.subplots(1, 2), scores.items(), strict=True):
        for precision, took in ms.items():
            points = [(took[name], values[name]) for name in took]
            (line,) = axes.plot(*zip(*pareto(points), strict=True), "-", label=precision)
            axes.plot(*zip(*points, strict=True), "o", color=line.get_color())
        slowest = max(ms.values(), key=lambda took: max(took.values()))  # a row is as high in every precision
        for name in slowest:
            point = (slowest[name], values[name])
            axes.annotate(name, point, textcoords="offset points", xytext=(6, -9), fontsize=8)
        axes.set_xlabel("ms a frame on the CPU")
        axes.set_ylabel(label)
        axes.legend(frameon=False)
        _plain(axes)
    figure.savefig(path, format="png")
    return True


def pareto(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of points (cost, worth) those that no cheaper one is as good as, by cost."""
    best: list[tuple[float, float]] = []
    for cost, worth in sorted(points, key=lambda point: (point[0], -point[1])):
        if not best or worth > best[-1][1]:
            best.append((cost, worth))
    return best


def _plain(axes: Any) -> None:
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


# The page -----------------------------------------------------------------------------------------------------------

INTRODUCTION = f"""# Ablations

The paper's questions, asked of our own pipeline: width 384, a search window of 144 px, the development data. This page
is made by `python benchmarks/ablations/page.py` of the files in `benchmarks/ablations/results/`; nothing on it is
written by hand but what each table says, which stands in `findings.md` there.

## How it is measured

    python benchmarks/ablations/run.py --data ../shared/data --otb ../shared/data/otb --question 1 --seeds 0 1 2
    python benchmarks/ablations/run.py --speed --data ../shared/data --question 4 --precision f32 bf16 int8
    python benchmarks/ablations/run.py --speed --question 1 --device cuda --backend torch --precision f32 bf16
    python benchmarks/ablations/page.py

- A row is a training, `mixformerv2 train ablation-ROW --data DATA --output RUN`, or another way to track with the
  network of another row. Rows with the same `--output` train the teachers that they share once. `--max-minutes 9`
  saves and stops, and the same command goes on; rows that are done are left alone.
- All rows of a table have the same data, batch and schedule, and as many samples of their own, {SAMPLES:,} where
  `--samples` says nothing else; a teacher's samples come on top. Rows of questions 1, 2 and 5, and those of question 3
  with a dense head of eight blocks, leave the first four as they are in the ViT-S; of the other tables all blocks are
  trained. Each row has the losses that its head can take. Rows that are made of `compact` start from the weights that
  the package ships, and keep its patches, positions and prediction tokens.
- All trainings so far learned from true boxes that were rounded: of video to whole pixels of the crop, and all to the
  eight bits of bf16, by up to 0.3 px of 144. Trainings are exact now, so a row that is added to a table wants its first
  row anew.
- AUC is that of one pass over whole sequences, in f32: on `otb/`, which nothing is trained on, and on
  {" and ".join(f"`{name}`" for name in HELD_OUT)} of `got10k/train`, which `data.sample.held_out` keeps out of
  every training of a row; a dash for rows that are made of `compact` or taught by it, which has learned from them.
- The overlap in pieces is that of `otb/` cut into pieces of forty frames, each started from the true box, in brackets
  the mean difference to the first row and its standard error over the pieces: how far other video would move it, not
  how far another seed would.
- Of several seeds the mean is shown with the worst and the best. A difference is that of the seeds which both rows
  have; within the spread of either row's seeds, or below {CLOSE:.3f} with fewer than three, it is {NOISY}.
- Parameters and multiply-adds follow from the sizes: a frame with cached templates, and its share of encoding them.
  Times are medians of whole updates of all rows of a question in one run, their rounds in turns; a row that has not
  been trained is timed with random weights.
"""


def page(results: Results, images: Path) -> str:
    """The whole page in Markdown; plots go to ``images``."""
    images.mkdir(parents=True, exist_ok=True)
    parts = [INTRODUCTION]
    for question, title in QUESTIONS.items():
        parts.append(f"## {question}. {title}\n")
        command = f"--data ../shared/data --otb ../shared/data/otb --question {question} --seeds 0 1 2"
        parts.append(f"    python benchmarks/ablations/run.py {command}\n")
        parts += [_machine(where[0], results.speeds[where]) for where in results.timed(question)]
        for table in (each for each in TABLES if each.question == question):
            parts.append(f"### {table.title}\n")
            seen = "".join(
                f"Each has seen {samples:,} samples of its own." for samples in results.samples(table)
            )
            parts += [f"{text}\n" for text in (table.note, seen, _missing(table, results)) if text]
            parts.append("\n".join(table_lines(table, results)) + "\n")
            if table.name in results.findings:
                parts.append(results.findings[table.name] + "\n")
            image = images / f"ablations-{table.name}.png"
            if plot_table(table, results, image):
                parts.append(f"![AUC of each row]({images.name}/{image.name})\n")
        if question == 4:
            names = list(dict.fromkeys(name for each in TABLES if each.question == 4 for name in each.rows))
            image = images / "ablations-pareto.png"
            if plot_pareto(names, results, image):
                parts.append(f"![AUC against the time of a frame]({images.name}/{image.name})\n")
            else:
                parts.append("The plot of AUC against time waits for both.\n")
    return "\n".join(parts)


def _machine(device: str, speed: dict[str, Any]) -> str:
    machine, clip = speed["machine"], speed["clip"]
    where = machine["gpu"] or f"{machine['processor']}, {machine['cores']} cores"
    threads = ", ".join(sorted({str(row["threads"]) for row in speed["rows"]}))
    backends = ", ".join(sorted({row["backend"] for row in speed["rows"]}))
    return (
        f"Times on `{device}`: {where}; {backends}, threads: {threads}; {clip['rounds']} rounds of {clip['frames']} "
        f"frames of `{clip['name']}`.\n"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    docs = HERE.parents[1] / "docs"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--page", type=Path, default=docs / "ablations.md")
    args = parser.parse_args(arguments)
    args.page.write_text(page(Results.read(args.results), args.page.parent / "images"), "utf-8")
    print(args.page)


if __name__ == "__main__":
    main()
