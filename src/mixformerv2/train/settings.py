"""Recipes as JSON, and changes to them from the command line: ``optim.lr=1e-4`` or ``teacher:samples=6400``."""

from __future__ import annotations

import collections.abc
import dataclasses
import json
import math
import types
import typing
from collections.abc import Iterable
from typing import Any

import dacite

from mixformerv2.train.stages import Recipe, StageConfig


def as_plain(config: Any) -> dict[str, Any]:
    """Every field of a recipe or stage, the defaults as well, as JSON has it."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def override(recipe: Recipe, assignments: Iterable[str]) -> Recipe:
    """The recipe with other values. ``FIELD=VALUE`` changes every stage, ``STAGE:FIELD=VALUE`` one of them.

    A field is a dotted path such as ``optim.lr``, a value JSON or plain text; later assignments go on from what
    earlier ones have made. Raises ValueError with one sentence.
    """
    stages = {stage.name: dataclasses.asdict(stage) for stage in recipe.stages}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            raise ValueError(f"a setting is FIELD=VALUE, such as optim.lr=1e-4, got {assignment!r}")
        stage, colon, dotted = path.partition(":")
        if colon and stage not in stages:
            raise ValueError(
                f"the recipe {recipe.name} has no stage {stage!r}: choose one of {', '.join(stages)}"
            )
        for name in [stage] if colon else list(stages):
            _assign(stages[name], StageConfig, dotted if colon else path, _value(text))
    return dataclasses.replace(recipe, stages=tuple(_build(name, fields) for name, fields in stages.items()))


def changes(saved: dict[str, Any], now: StageConfig) -> list[str]:
    """Where a stage differs from one saved as plain fields; what could not be set then had its default."""
    try:
        saved = as_plain(_build(now.name, _with_tuples(saved)))
    except (ValueError, dacite.DaciteError):
        return differences(saved, as_plain(now))  # of fields that are no more, or that no longer fit together
    return differences(saved, as_plain(now))


def differences(then: Any, now: Any, path: str = "") -> list[str]:
    """Where two configs, as dictionaries, differ: ``optim.lr was 0.0004 and is 0.0001``."""
    if isinstance(then, dict) and isinstance(now, dict):
        names = [*then, *(name for name in now if name not in then)]
        return [
            line
            for name in names
            for line in differences(then.get(name), now.get(name), f"{path}.{name}" if path else str(name))
        ]
    return [] if then == now else [f"{path} was {then} and is {now}"]


# Assignments --------------------------------------------------------------------------------------------------------


def _value(text: str) -> Any:
    try:
        return _with_tuples(json.loads(text))
    except json.JSONDecodeError:
        return text


def _with_tuples(value: Any) -> Any:
    """Configs are frozen, so their lists are tuples."""
    if isinstance(value, dict):
        return {key: _with_tuples(each) for key, each in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def _assign(fields: dict[str, Any], kind: Any, dotted: str, value: Any, above: str = "") -> None:
    """Sets ``dotted`` below ``above`` in the fields of what is, or will be, a ``kind``."""
    name, _, rest = dotted.partition(".")
    inner = _kind_below(kind, name, above)
    path = f"{above}.{name}" if above else name
    if rest:
        if not isinstance(fields.get(name), dict):
            fields[name] = {}
        _assign(fields[name], inner, rest, value, path)
    elif dataclasses.is_dataclass(inner) and isinstance(value, dict):
        fields[name] = {}
        for key, each in value.items():
            _assign(fields[name], inner, key, each, path)
    else:
        fields[name] = value


def _kind_below(kind: Any, name: str, above: str) -> Any:
    """The type of a setting, None aside. Raises ValueError where there is none of this name."""
    path = f"{above}.{name}" if above else name
    if typing.get_origin(kind) is collections.abc.Mapping:
        return typing.get_args(kind)[1]
    if not dataclasses.is_dataclass(kind):
        raise ValueError(f"there is no setting {path!r}: {above} is {_expected(kind)}")
    known = typing.get_type_hints(kind)
    if kind is StageConfig:
        del known["name"]  # by which other stages and the folder of the run know it
    if name not in known:
        raise ValueError(f"there is no setting {path!r}: {name!r} is not one of {', '.join(known)}")
    return _not_none(known[name])


def _not_none(kind: Any) -> Any:
    """What a value is if it is not None."""
    if not isinstance(kind, types.UnionType):
        return kind
    return next(option for option in typing.get_args(kind) if option is not types.NoneType)


# Back to configs ----------------------------------------------------------------------------------------------------


def _build(stage: str, fields: dict[str, Any]) -> StageConfig:
    hooks: dict[Any, Any] = {float: _number, int: _whole_number}
    try:
        return dacite.from_dict(StageConfig, fields, dacite.Config(type_hooks=hooks, strict=True))
    except dacite.MissingValueError as error:
        raise ValueError(f"stage {stage}: {error.field_path} must be set too") from None
    except dacite.WrongTypeError as error:
        expected, got = _wrong(str(error.field_path), fields)
        raise ValueError(f"stage {stage}: {error.field_path} must be {expected}, got {got}") from None


def _wrong(path: str, fields: dict[str, Any]) -> tuple[str, str]:
    """What a field should be, and what it is."""
    kind: Any = StageConfig
    value: Any = fields
    for name in path.split("."):
        kind, value = typing.get_type_hints(_not_none(kind))[name], value[name]
    return _expected(kind), json.dumps(value)


def _number(value: Any) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    raise dacite.WrongTypeError(float, value)


def _whole_number(value: Any) -> int:
    """1e6 as well, which JSON takes for a float."""
    number = _number(value)
    if number.is_integer():
        return int(value)
    raise dacite.WrongTypeError(int, value)


def _expected(kind: Any) -> str:
    """In words."""
    plain = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    if kind in plain:
        return plain[kind]
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if isinstance(kind, types.UnionType):
        return f"{_expected(_not_none(kind))} or null"
    if origin is typing.Literal:
        return " or ".join([", ".join(map(str, arguments[:-1])), str(arguments[-1])])
    if origin is tuple and arguments[1] is ...:
        return f"a list, each of its items {_expected(arguments[0])}"
    if origin is tuple:
        return f"a list of {len(arguments)}, each {_expected(arguments[0])}"
    if origin is collections.abc.Mapping:
        return f"an object whose values are each {_expected(arguments[1])}"
    known = ", ".join(typing.get_type_hints(kind))
    return f"an object with some of {known}"
