"""Recipes as JSON, values from the command line, and what is said where they do not fit."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
import training

from mixformerv2.train.optim import OptimConfig
from mixformerv2.train.settings import as_plain, changes, differences, override
from mixformerv2.train.stages import Recipe, StageConfig, ValidationConfig

SECOND = training.stage("second", optim=OptimConfig(lr=0.5), remove=(1,))
RECIPE = Recipe("two", (training.stage("first"), SECOND))


def changed(*assignments: str) -> tuple[StageConfig, StageConfig]:
    first, second = override(RECIPE, assignments).stages
    return first, second


def test_without_assignments_a_recipe_stays_as_it_is() -> None:
    assert override(RECIPE, []) == RECIPE


def test_a_field_is_set_in_every_stage_or_in_the_one_that_is_named() -> None:
    first, second = changed("seed=7", "second:optim.lr=0.25")
    assert (first.seed, second.seed) == (7, 7)
    assert first == dataclasses.replace(RECIPE.stages[0], seed=7)
    assert second == dataclasses.replace(SECOND, seed=7, optim=OptimConfig(lr=0.25))


@pytest.mark.parametrize(
    ("assignment", "value_of", "expected"),
    [
        ("samples=80", lambda s: s.samples, 80),
        ("samples=1e3", lambda s: s.samples, 1000),
        ("target.model.mlp_ratio=2", lambda s: s.target.model.mlp_ratio, 2.0),
        ("target.model.head_norm=false", lambda s: s.target.model.head_norm, False),
        ("optim.schedule=cosine", lambda s: s.optim.schedule, "cosine"),
        ("optim.fresh_lr=1e-4", lambda s: s.optim.fresh_lr, 1e-4),
        ("optim.fresh_lr=null", lambda s: s.optim.fresh_lr, None),
        ('optim={"lr": 3}', lambda s: s.optim, OptimConfig(lr=3.0)),
        ("start=runs/mine/last.safetensors", lambda s: s.start, "runs/mine/last.safetensors"),
        ("start=C:=1", lambda s: s.start, "C:=1"),
        ("second:remove=[0,1]", lambda s: s.remove, (0, 1)),
        ("feature_layers=[[0,1],[1,2]]", lambda s: s.feature_layers, ((0, 1), (1, 2))),
        ("validation.every_samples=16", lambda s: s.validation, ValidationConfig(16)),
        (
            'validation={"every_samples": 16, "sequences": ["a", "b"]}',
            lambda s: s.validation,
            ValidationConfig(16, sequences=("a", "b")),
        ),
        ("data.sample.weights.coco=2", lambda s: s.data.sample.weights, {"coco": 2.0}),
        ('data.sample.weights={"a": 1, "b:c": 0.5}', lambda s: s.data.sample.weights, {"a": 1.0, "b:c": 0.5}),
    ],
)
def test_a_value_of_any_kind_can_be_given(
    assignment: str, value_of: Callable[[StageConfig], Any], expected: Any
) -> None:
    value = value_of(changed(assignment)[1])
    assert value == expected
    assert type(value) is type(expected)


def test_later_assignments_go_on_from_earlier_ones() -> None:
    first, second = changed("validation.every_samples=16", "validation.max_frames=5", "first:validation=null")
    assert first.validation is None
    assert second.validation == ValidationConfig(16, max_frames=5)


@pytest.mark.parametrize(
    ("assignment", "sentence"),
    [
        ("samples", "a setting is FIELD=VALUE, such as optim.lr=1e-4, got 'samples'"),
        ("third:samples=8", "the recipe two has no stage 'third': choose one of first, second"),
        ("sample=8", "there is no setting 'sample': 'sample' is not one of target, samples, start,"),
        ("optim.rate=1", "there is no setting 'optim.rate': 'rate' is not one of lr, trunk_lr,"),
        ('optim={"rate": 1}', "there is no setting 'optim.rate': 'rate' is not one of lr, trunk_lr,"),
        ("optim.lr.first=1", "there is no setting 'optim.lr.first': optim.lr is a number"),
        ("=1", "there is no setting '': '' is not one of target, samples,"),
        ("second:name=third", "there is no setting 'name': 'name' is not one of target, samples,"),
        ("samples=many", 'stage first: samples must be a whole number, got "many"'),
        ("samples=8.5", "stage first: samples must be a whole number, got 8.5"),
        ("samples=true", "stage first: samples must be a whole number, got true"),
        ("samples=1e400", "stage first: samples must be a whole number, got Infinity"),
        ("second:optim.lr=fast", 'stage second: optim.lr must be a number, got "fast"'),
        ("optim.lr=NaN", "stage first: optim.lr must be a number, got NaN"),
        ("optim.fresh_lr=x", 'stage first: optim.fresh_lr must be a number or null, got "x"'),
        ("target.model.head_norm=1", "stage first: target.model.head_norm must be true or false, got 1"),
        ("start=5", "stage first: start must be text, got 5"),
        ("optim.schedule=x", 'optim.schedule must be constant, step, linear or cosine, got "x"'),
        ("precision=fp8", 'stage first: precision must be bf16-mixed or 32-true, got "fp8"'),
        ("remove=1", "stage first: remove must be a list, each of its items a whole number, got 1"),
        ("remove=ab", 'stage first: remove must be a list, each of its items a whole number, got "ab"'),
        ('remove=[0,"b"]', 'remove must be a list, each of its items a whole number, got [0, "b"]'),
        ("feature_layers=[[1]]", "each of its items a list of 2, each a whole number, got [[1]]"),
        ("feature_layers=[[1,2,3]]", "each of its items a list of 2, each a whole number, got [[1, 2, 3]]"),
        ("data.sample.weights=coco", 'must be an object whose values are each a number, got "coco"'),
        ("data.sample.weights.coco=x", 'whose values are each a number, got {"coco": "x"}'),
        ("optim=5", "stage first: optim must be an object with some of lr, trunk_lr,"),
        ("validation.max_frames=5", "stage first: validation.every_samples must be set too"),
        # What the configs themselves refuse.
        ("optim.lr=-1", "lr and clip_norm must be positive, got -1.0 and 1.0"),
        ("second:batch=6", "stage second: batch must be a multiple of data.chunk (8), got 6"),
        ("losses.divergence=1", "stage first: a teacher goes with losses.divergence,"),
        ("data.sample.mode=forward", "mode must be 'symmetric' or 'causal', got 'forward'"),
    ],
)
def test_a_wrong_setting_is_refused_in_one_sentence(assignment: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)) as refused:
        override(RECIPE, [assignment])
    assert "\n" not in str(refused.value) and "dacite" not in str(refused.value)


def test_a_recipe_becomes_json_and_its_values_are_as_they_were() -> None:
    plain = as_plain(RECIPE)
    assert json.loads(json.dumps(plain)) == plain
    assert [stage["name"] for stage in plain["stages"]] == ["first", "second"]
    assert plain["stages"][1]["remove"] == [1]
    assert plain["stages"][0]["optim"]["ema_decay"] == 0.9
    assert plain["stages"][0]["validation"] is None


def test_every_difference_is_named_with_both_values() -> None:
    then = as_plain(RECIPE.stages[0])
    assert differences(then, as_plain(RECIPE.stages[0])) == []
    now = as_plain(changed("samples=80", "optim.lr=1", "remove=[0]", "validation.every_samples=8")[0])
    assert differences(then, now) == [
        "samples was 48 and is 80",
        "remove was [] and is [0]",
        "optim.lr was 0.002 and is 1.0",
        "validation was None and is {'every_samples': 8, 'dataset': 'otb', 'sequences': [], 'max_frames': None}",
    ]


def test_a_setting_that_only_one_of_two_has_is_a_difference() -> None:
    assert differences({"a": {"b": 1}}, {"a": {"c": 2}}) == ["a.b was 1 and is None", "a.c was None and is 2"]


def test_a_stage_saved_before_a_setting_existed_had_its_default() -> None:
    stage = RECIPE.stages[1]
    saved = as_plain(stage)
    del saved["losses"]["centre"], saved["target"]["model"]["attention"]
    assert changes(saved, stage) == []
    other = dataclasses.replace(stage, seed=3)
    assert changes(saved, other) == ["seed was 0 and is 3"]
    symmetric = override(RECIPE, ["second:target.model.attention=symmetric"]).stages[1]
    assert changes(saved, symmetric) == ["target.model.attention was asymmetric and is symmetric"]
    saved["colour"] = "red"  # a setting that is no more
    assert "colour was red and is None" in changes(saved, stage)
