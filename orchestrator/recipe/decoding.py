"""Strict decoding of plain data into frozen configuration classes; pydantic's errors become problems with a path."""

import dataclasses
import enum
import functools
import json
import types
import typing
from collections.abc import Iterator, Mapping, Sequence

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from orchestrator.artifact import JSON
from orchestrator.identity import config_to_json
from orchestrator.recipe.suggestions import expectation
from orchestrator.recipe.yaml_subset import Problem, YamlPath
from orchestrator.stage import Location

T = typing.TypeVar("T")
MAX_FOUND_CHARACTERS = 60

_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping",
    "dataclass_type": "a mapping",
    "none_required": "null",
    "too_long": "{max_length} of them",
}
_TYPE_NAMES: Mapping[object, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    Location: "a path or address",
    types.NoneType: "null",
}


def decode(config_class: type[T], data: JSON, path: YamlPath, problems: list[Problem]) -> T | None:
    """An instance of the class, or None with at least one more entry in `problems`.

    Strict: unknown keys, missing keys and values of another type are problems at every level. Accepted conversions: a
    list for a tuple, text for a location, an enum's value for the enum, a whole number for a float.
    """
    try:
        decoded: T = _adapter(typing.cast(typing.Hashable, config_class)).validate_json(json.dumps([data]))[0]
        return decoded
    except ValidationError as error:
        problems += _merged(_problem(detail, config_class, data, path) for detail in error.errors())
        return None


def default_data(config_class: type, path: YamlPath) -> JSON:
    """The default of the field at `path` as plain data; an empty object if there is none."""
    for owner in _classes_at(config_class, path[:-1]):
        for field in dataclasses.fields(owner):
            if field.name == path[-1]:
                default = _default(field)
                if dataclasses.is_dataclass(default) and not isinstance(default, type):
                    return config_to_json(default)
                return list(default) if isinstance(default, tuple) else {}
    return {}


def found_text(value: JSON) -> str:
    """A value described in YAML's terms: `'big' (text)`, `3`, `a list of 2`."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, str):
        short = value if len(value) <= MAX_FOUND_CHARACTERS else f"{value[: MAX_FOUND_CHARACTERS - 3]}..."
        return f"{short!r} (text)"
    if value is None:
        return "nothing (null)"
    text = json.dumps(value)
    return f"{text if len(text) <= MAX_FOUND_CHARACTERS else text[:MAX_FOUND_CHARACTERS] + '...'}"


@functools.cache
def _adapter(config_class: typing.Any) -> TypeAdapter[typing.Any]:
    """A decoder for a list of one value: pydantic applies `config` to plain dataclasses only inside another type."""
    return TypeAdapter(tuple[config_class], config=ConfigDict(extra="forbid", strict=True))


def _problem(detail: ErrorDetails, config_class: type, data: JSON, path: YamlPath) -> Problem:
    inner = _path_in(detail["loc"][1:], data)
    kind = detail["type"]
    if kind == "missing":
        return Problem(path=path + inner, text=_missing_text(config_class, inner))
    if kind == "unexpected_keyword_argument":
        valid = {field.name for owner in _classes_at(config_class, inner[:-1]) for field in dataclasses.fields(owner)}
        return Problem(path=path + inner, text=f"unknown key; {expectation(str(inner[-1]), valid)}")
    if kind == "value_error":
        message = detail["msg"].removeprefix("Value error, ")
        return Problem(path=path + inner, text=message)
    value = typing.cast(JSON, detail["input"])
    if kind in ("literal_error", "enum"):
        expected = detail["ctx"]["expected"].replace(" or ", ", ")
        names = [name.strip().strip("'") for name in expected.split(",")]
        hint = f"; {expectation(value, names)}" if isinstance(value, str) and "did" in expectation(value, names) else ""
        return Problem(path=path + inner, text=f"found {found_text(value)}, expected one of {expected}{hint}")
    expected = _EXPECTED[kind] if kind in _EXPECTED else detail["msg"][:1].lower() + detail["msg"][1:]
    expected = expected.format_map(detail.get("ctx", {})) if kind == "too_long" else expected
    return Problem(path=path + inner, text=f"found {found_text(value)}, expected {expected}")


def _merged(problems: Iterator[Problem]) -> list[Problem]:
    """One problem for each path; pydantic reports one for each member of a union."""
    merged: dict[YamlPath, Problem] = {}
    for problem in problems:
        known = merged.get(problem.path)
        if known is None:
            merged[problem.path] = problem
        elif ", expected " in known.text and ", expected " in problem.text:
            also = problem.text.split(", expected ", 1)[1]
            if also not in known.text:
                merged[problem.path] = Problem(path=known.path, text=f"{known.text} or {also}")
    return list(merged.values())


def _path_in(loc: Sequence[str | int], data: JSON) -> YamlPath:
    """Pydantic's location without the names of union members that it inserts."""
    path: list[str | int] = []
    current: JSON = data
    for index, key in enumerate(loc):
        is_last = index == len(loc) - 1
        if isinstance(current, dict) and isinstance(key, str) and (key in current or is_last):
            path.append(key)
            current = current.get(key)
        elif isinstance(current, list) and isinstance(key, int):
            path.append(key)
            current = current[key] if key < len(current) else None
    return tuple(path)


def _missing_text(config_class: type, inner: YamlPath) -> str:
    if inner and isinstance(inner[-1], int):
        return "the list is too short; a value is missing here"
    for owner in _classes_at(config_class, inner[:-1]):
        hint = typing.get_type_hints(owner).get(str(inner[-1]))
        if hint is not None:
            return f"missing; expected {_type_text(hint)}"
    return "missing"


def _type_text(hint: object) -> str:
    if hint in _TYPE_NAMES:
        return _TYPE_NAMES[hint]
    arguments = typing.get_args(hint)
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return "one of " + ", ".join(repr(value) for value in arguments)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return "one of " + ", ".join(repr(member.value) for member in hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type_text(item) for item in arguments)
    if origin in (tuple, list):
        return "a list"
    return "a mapping"


def _classes_at(config_class: object, path: YamlPath) -> list[type]:
    """The configuration classes that are possible at a path, looking through optional, tuple and mapping types."""
    hints: list[object] = [config_class]
    for key in path:
        hints = [below for hint in hints for below in _hints_below(hint, key)]
    found = [alternative for hint in hints for alternative in _alternatives(hint)]
    return [item for item in found if isinstance(item, type) and dataclasses.is_dataclass(item)]


def _hints_below(hint: object, key: str | int) -> Iterator[object]:
    for alternative in _alternatives(hint):
        arguments = typing.get_args(alternative)
        if dataclasses.is_dataclass(alternative) and isinstance(alternative, type):
            yield from [value for name, value in typing.get_type_hints(alternative).items() if name == key]
        elif typing.get_origin(alternative) is tuple and isinstance(key, int):
            varies = len(arguments) == 2 and arguments[1] is Ellipsis
            yield from arguments[:1] if varies else arguments[key : key + 1]
        elif arguments:
            yield arguments[-1]


def _alternatives(hint: object) -> list[typing.Any]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return list(typing.get_args(hint))
    return [hint]


def _default(field: "dataclasses.Field[typing.Any]") -> object:
    if field.default is not dataclasses.MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else None
