"""Recipes by name, and recipes of one's own from a file."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import training

from mixformerv2.train.recipes import RECIPES, recipe_called

EXAMPLE = Path(__file__).parents[1] / "examples" / "recipe.py"
Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(body: str) -> Path:
        path = tmp_path / "mine.py"
        path.write_text(textwrap.dedent(body))
        return path

    return write


def test_a_recipe_is_found_by_its_name() -> None:
    assert recipe_called("smoke") == RECIPES["smoke"]()
    assert recipe_called("ablation-tokens").stages[-1].name == "tokens"


def test_the_example_is_a_recipe_and_takes_settings(run: Any) -> None:
    shown = json.loads(run("train", f"{EXAMPLE}:six_blocks", "--set", "six:samples=64", "--show").out)
    assert [(stage["name"], stage["samples"]) for stage in shown["stages"]] == [
        ("fade", 100_000),
        ("six", 64),
    ]


def test_a_recipe_of_ones_own_is_trained_with_what_lies_beside_its_file(
    run: Any, write: Write, tmp_path: Path
) -> None:
    (tmp_path / "sizes_of_mine.py").write_text("SAMPLES = 32\n")
    path = write(
        """
        import dataclasses
        from sizes_of_mine import SAMPLES
        from mixformerv2.train.recipes import RECIPES

        def short():
            smoke = RECIPES["smoke"]()
            teacher = dataclasses.replace(smoke.stages[0], name="mine", samples=SAMPLES)
            return dataclasses.replace(smoke, name="short", stages=(teacher,))
        """
    )
    data, output = training.write_datasets(tmp_path / "data"), tmp_path / "run"
    ran = run("train", f"{path}:short", "--data", str(data), "--output", str(output), "--device", "cpu")
    assert ran.code == 0, ran.err
    assert (output / "mine" / "last.safetensors").is_file() and (output / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("body", "name", "sentence"),
    [
        ("x = 1\ndef other(): ...", "short", "has no function short, those in it are other"),
        ("import json", "json", "has no function json, those in it are (none)"),
        ("def short(): return 5", "short", "must return a mixformerv2.train.stages.Recipe, got int"),
        ("def short(samples): ...", "short", "cannot be made: TypeError: "),
        ("def short(): raise KeyError('lr')", "short", "cannot be made: KeyError: 'lr'"),
        ("import nowhere_to_be_found", "short", "cannot be imported: ModuleNotFoundError: "),
        ("def short(:", "short", "cannot be imported: SyntaxError: "),
    ],
)
def test_a_recipe_of_ones_own_that_is_none_is_told_in_a_sentence(
    run: Any, write: Write, body: str, name: str, sentence: str
) -> None:
    ran = run("train", f"{write(body)}:{name}", "--show")
    assert ran.code == 2 and sentence in ran.err.replace("\n", " ") and "Traceback" not in ran.err


def test_a_name_and_a_file_that_are_not_there_are_told_with_what_is(run: Any) -> None:
    ran = run("train", "smok")
    assert ran.code == 2 and "choose one of base, small, " in ran.err and "FILE.py:FUNCTION" in ran.err
    ran = run("train", "nowhere.py:short")
    assert (
        ran.code == 2
        and "the recipe nowhere.py:short cannot be opened: there is no file nowhere.py" in ran.err
    )
    ran = run("train", str(EXAMPLE))
    assert ran.code == 2 and "FILE.py:FUNCTION" in ran.err
