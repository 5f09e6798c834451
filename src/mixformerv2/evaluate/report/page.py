"""One page about one or several runs, `report.html`: all that it shows is inside it, it asks no network for more."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from collections.abc import Sequence as ReadOnlySequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from mixformerv2.data.sequence import Sequences
from mixformerv2.evaluate.attributes import ATTRIBUTES
from mixformerv2.evaluate.report.figures import (
    MEANINGS,
    TITLES,
    RunScores,
    as_plain,
    headline,
    thresholds,
    with_own_labels,
)
from mixformerv2.evaluate.report.pictures import PREDICTIONS, TRUTH, css
from mixformerv2.evaluate.report.view import PageOptions, SequenceView, lost_share, view_of
from mixformerv2.evaluate.store import Run
from mixformerv2.files import write_text

SCRIPTS = ("numbers.js", "browser.js")
_NOT_SHOWN = (
    "sequences",
    "label",
    "dataset",
)  # of a description: lengths of all sequences, and what the page says anyway


def write_page(
    path: Path,
    runs: ReadOnlySequence[Run],
    scores: ReadOnlySequence[RunScores],
    sequences: Sequences,
    options: PageOptions | None = None,
) -> None:
    """Writes the page, replacing one that exists; ``scores`` belong to the runs one by one, by the same protocols.

    Raises ModuleNotFoundError without the packages of the extra ``report``, ValueError where runs and scores do not
    belong together or a frame cannot be read, OSError where the page cannot be written.
    """
    write_text(path, page(runs, scores, sequences, options or PageOptions()))


def page(
    runs: ReadOnlySequence[Run],
    scores: ReadOnlySequence[RunScores],
    sequences: Sequences,
    options: PageOptions,
) -> str:
    """The text of the page; see `write_page`."""
    template, library = _template(), _plotting_library()
    _check(runs, scores)
    named = with_own_labels(scores)
    views = [*_views(runs, named, sequences, options)]
    scripts = [_script(text) for text in (library, "\n".join(_packaged(name) for name in SCRIPTS))]
    return template.render(
        dataset=str(runs[0].description.get("dataset", "sequences")),
        runs=[
            {"label": one.label, "colour": colour_of(index), "facts": [*_facts(run.description)]}
            for index, (run, one) in enumerate(zip(runs, named, strict=True))
        ],
        truth_colour=css(TRUTH),
        views=views,
        num_frames=sum(view.length for view in views),
        report=script_json(report_of(named, views)),
        timelines=[script_json(view.timeline) for view in views],
        style=_packaged("page.css"),
        scripts=[script for script, _ in scripts],
        policy=" ".join(digest for _, digest in scripts),
        missing=[(one.label, one.missing) for one in named if one.missing],
    )


def colour_of(run: int) -> str:
    """Of the run with this index, as a style sheet spells it."""
    return css(PREDICTIONS[run % len(PREDICTIONS)])


def report_of(scores: ReadOnlySequence[RunScores], views: ReadOnlySequence[SequenceView]) -> dict[str, Any]:
    """The numbers that the page draws. Runs and sequences are lists in one order everywhere, never keys."""
    names = [view.name for view in views]
    attributes = sorted({attribute for view in views for attribute in view.attributes})
    return {
        "truth": css(TRUTH),
        "runs": [
            {
                "label": one.label,
                "colour": colour_of(index),
                "again": index // len(PREDICTIONS),  # the line style changes where colours come again
                "speed": as_plain(one.speed),
            }
            for index, one in enumerate(scores)
        ],
        "sequences": [
            {"name": view.name, "frames": view.length, "attributes": list(view.attributes)} for view in views
        ],
        "attributes": [
            {
                "name": name,
                "meaning": ATTRIBUTES.get(name, ""),
                "sequences": sum(name in view.attributes for view in views),
            }
            for name in attributes
        ],
        "figures": [{"key": key, "title": TITLES[key], "meaning": MEANINGS[key]} for key in TITLES],
        "protocols": [
            {
                "name": name,
                "headline": list(headline(name)),
                "thresholds": thresholds(protocol),
                "overall": [as_plain(one.overall[name]) for one in scores],
                "sequences": [[_numbers(one.by_sequence[name], key) for key in names] for one in scores],
                "attributes": [
                    [_numbers(one.by_attribute[name], key) for key in attributes] for one in scores
                ],
            }
            for name, protocol in scores[0].protocols.items()
        ],
    }


def script_json(value: Any) -> str:
    """JSON that may stand inside a script element: nothing in it can end the element or begin a comment."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _numbers(figures: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """The figures of a sequence or attribute without its curves; None where the run has none."""
    if name not in figures:
        return None
    plain = as_plain(figures[name])
    return {key: plain[key] for key in ("frames", *TITLES)}


def _views(
    runs: ReadOnlySequence[Run],
    scores: ReadOnlySequence[RunScores],
    sequences: Sequences,
    options: PageOptions,
) -> Iterator[SequenceView]:
    labels = [one.label for one in scores]
    counted = {name for one in scores for name in one.sequences}
    present = [sequence for sequence in sequences if sequence.name in counted]
    worst_first = sorted(present, key=lambda sequence: -lost_share(runs, sequence))
    pictured = {sequence.name for sequence in worst_first[: options.pictured_sequences]}
    for sequence in present:
        attributes = next(one.attributes[sequence.name] for one in scores if sequence.name in one.attributes)
        yield view_of(runs, labels, sequence, attributes, options, sequence.name in pictured)


def _check(runs: ReadOnlySequence[Run], scores: ReadOnlySequence[RunScores]) -> None:
    if not runs:
        raise ValueError("a report needs at least one run, got none")
    if [run.label for run in runs] != [one.label for one in scores]:
        labels = [run.label for run in runs], [one.label for one in scores]
        raise ValueError(f"scores must be of the runs, one by one, got {labels[1]} for {labels[0]}")
    datasets = {str(run.description.get("dataset")) for run in runs}
    if len(datasets) > 1:
        raise ValueError(f"the runs of one report must be of one dataset, got {', '.join(sorted(datasets))}")
    protocols = {tuple(one.protocols) for one in scores}
    if len(protocols) > 1:
        raise ValueError(
            f"the runs of one report must be scored by the same protocols, got {sorted(protocols)}"
        )


def _facts(description: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """What is known about a run, one line a value."""
    for key, value in description.items():
        if not prefix and key in _NOT_SHOWN:
            continue
        if isinstance(value, Mapping):
            yield from _facts(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _script(text: str) -> tuple[str, str]:
    """The script, and the digest by which the page's policy lets this one run and no other."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")  # as a browser reads it
    assert "</script" not in text.lower()
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
    return text, f"'sha256-{digest}'"


def _packaged(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _template() -> Any:
    try:
        from jinja2 import Environment, StrictUndefined
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(_missing("jinja2")) from error
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_packaged("page.html"))


def _plotting_library() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(_missing("plotly")) from error
    return str(get_plotlyjs())


def _missing(package: str) -> str:
    return f"the report page needs the package {package}: pip install 'mixformerv2[report]'"
