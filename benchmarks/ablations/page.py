"""Makes docs/ablations.md and its plots of the JSON files that run.py has written, and of findings.md.

python benchmarks/ablations/page.py

A row without a file has not been run, and the page says so; its parameters and multiply-adds follow from its config.
What was found stands in findings.md, beside the files, under the name of a table: ``## heads``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from measured import CLOSE, NOISY, Results, pieces_text, row_costs, verdict
from plots import plot_pareto, plot_table
from run import HERE

from mixformerv2.runtime.backend import shipped_models
from mixformerv2.train.ablations import HELD_OUT, QUESTIONS, ROWS, SAMPLES, TABLES, Row, Table

NOT_RUN = "has not been run"


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
