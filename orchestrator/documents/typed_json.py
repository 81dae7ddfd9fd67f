"""The reader of typed JSON: plain data or bytes into frozen dataclasses, strictly; pydantic's errors become ours.

`decode` reads what people write and collects every problem with its path. `parse_record` reads what this program wrote
into a store, with three outcomes: the record, `NewerFormatError`, or `CorruptArtifactError`. A record class says which
formats it reads by the type of its field `format`, e.g. `format: Literal[1]`; a record without the field has no format.
"""

import enum
import functools
import json
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import CoreSchema, ErrorDetails, core_schema, from_json

from orchestrator.artifact import JSON
from orchestrator.documents.renames import new_key_text, renamed_keys
from orchestrator.documents.suggestions import expectation
from orchestrator.errors import CorruptArtifactError, NewerFormatError
from orchestrator.stage import Location

T = typing.TypeVar("T")
UnknownKeys = typing.Literal["ignore", "forbid"]
ValuePath = tuple[str | int, ...]  # keys and list positions from the top of a document
MAX_FOUND_CHARACTERS = 60
MAX_FOUND_CHARACTERS_IN_RECORDS = 80


@dataclass(frozen=True, kw_only=True)
class Problem:
    path: ValuePath
    text: str  # what was found, what was expected


class _NumberOrText:
    """The schema of `Number`."""

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: object, _handler: object) -> CoreSchema:
        as_text = core_schema.no_info_after_validator_function(float, core_schema.literal_schema(list(NON_FINITE)))
        number = core_schema.union_schema([core_schema.float_schema(allow_inf_nan=False), as_text])
        return core_schema.custom_error_schema(number, "expected", custom_error_message="a number")


NON_FINITE = ("nan", "inf", "-inf")  # JSON has no such numbers, so records hold them as text
Number = typing.Annotated[float, _NumberOrText]  # of a record: any number, a non-finite one as text
JSONObject = dict[str, typing.Any]  # of a record: not judged further

_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "list_type": "a list",
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


def decode(config_class: type[T], data: JSON, path: ValuePath, problems: list[Problem]) -> T | None:
    """An instance of the class, or None with at least one more entry in `problems`.

    Strict: unknown keys, missing keys and values of another type are problems at every level. Accepted conversions: a
    list for a tuple, text for a location, an enum's value for the enum, a whole number for a float.
    """
    try:
        decoded: T = _adapter(typing.cast(typing.Hashable, config_class), "forbid").validate_json(json.dumps([data]))[0]
        return decoded
    except ValidationError as error:
        details = error.errors()
        given = set(_renamed_paths(details, config_class, data))  # missing, but given under their old names
        problems += _merged(
            _problem(detail, config_class, data, path, _YAML)
            for detail in details
            if detail["type"] != "missing" or _path_in(detail["loc"][1:], data) not in given
        )
        return None


def parse_record(record_class: type[T], data: bytes, where: str, *, unknown: UnknownKeys = "ignore") -> T:
    """The record in `data`; `where` names it in messages. Types are as strict as those of `decode`.

    Raises:
        NewerFormatError: its `format` is newer than the one that `record_class` has; nothing else in it is judged.
        CorruptArtifactError: it is not such a record.
    """
    try:
        record: T = _adapter(typing.cast(typing.Hashable, record_class), unknown).validate_json(b"[%b]" % data)[0]
        return record
    except ValidationError as error:
        found = parse_object(data, where)
        _check_format(record_class, found, where)
        details = error.errors(include_url=False)
        detail = next((item for item in details if item["type"] == "unexpected_keyword_argument"), details[0])
        if detail["type"] == "json_invalid":  # accepted just now, so it is nested one level too deep
            raise CorruptArtifactError(f"{where}: found {len(data)} bytes of JSON, nested too deeply") from error
        problem = _problem(detail, record_class, found, (), _RECORDS)
        place = f"{path_text(problem.path)}: " if problem.path else ""
        raise CorruptArtifactError(f"{where}: {place}{problem.text}") from error


def record_from_json(
    record_class: type[T],
    record: Mapping[str, JSON],
    where: str,
    *,
    unknown: typing.Literal["ignore", "forbid"] = "ignore",
) -> T:
    """`parse_record` of plain data. Raises: as `parse_record`."""
    return parse_record(record_class, json.dumps(record).encode(), where, unknown=unknown)


def parse_object(data: bytes, where: str) -> dict[str, JSON]:
    """The JSON object in `data`; `where` names it in messages.

    Raises:
        CorruptArtifactError: the bytes are not a JSON object.
    """
    try:
        record = from_json(data)
    except ValueError as error:
        raise CorruptArtifactError(f"{where}: found {len(data)} bytes that are not JSON ({error})") from error
    if not isinstance(record, dict):
        raise CorruptArtifactError(f"{where}: found a JSON {type(record).__name__}, expected an object")
    return record


def path_text(path: ValuePath) -> str:
    """`("stages", "a", "anchors", 0)` as `stages.a.anchors[0]`."""
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
    return text.removeprefix(".")


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


@dataclass(frozen=True, kw_only=True)
class _Style:
    """How messages show what was found, and what they call a JSON object."""

    found: Callable[[JSON], str]
    mapping: str


_YAML = _Style(found=found_text, mapping="a mapping")
_RECORDS = _Style(found=lambda value: repr(str(value)[:MAX_FOUND_CHARACTERS_IN_RECORDS]), mapping="an object")


@functools.cache
def _adapter(record_class: typing.Any, unknown: UnknownKeys) -> TypeAdapter[typing.Any]:
    """A decoder for a list of one value: pydantic applies `config` to plain dataclasses only inside another type."""
    return TypeAdapter(tuple[record_class], config=ConfigDict(extra=unknown, strict=True))


def _check_format(record_class: type, record: Mapping[str, JSON], where: str) -> None:
    hint = typing.get_type_hints(record_class).get("format")
    if hint is None:
        return
    known, found = typing.get_args(hint), record.get("format")
    if type(found) is int and found > max(known):
        raise NewerFormatError(
            f"{where}: found format {found}, expected {max(known)}; read it with the version of illume that wrote it"
        )
    if found not in known:
        raise CorruptArtifactError(f"{where}: format: found {_RECORDS.found(found)}, expected {max(known)}")


def _renamed_paths(details: Sequence[ErrorDetails], config_class: type, data: JSON) -> Iterator[ValuePath]:
    """The paths of today's names of keys that have an old name in the data."""
    for detail in details:
        inner = _path_in(detail["loc"][1:], data)
        for owner in classes_at(config_class, inner[:-1]) if detail["type"] == "unexpected_keyword_argument" else ():
            yield (*inner[:-1], renamed_keys(owner).get(str(inner[-1]), inner[-1]))


def _problem(detail: ErrorDetails, config_class: type, data: JSON, path: ValuePath, style: _Style) -> Problem:
    inner = _path_in(detail["loc"][1:], data)
    kind = detail["type"]
    if kind == "missing":
        return Problem(path=path + inner, text=_missing_text(config_class, inner, style))
    if kind == "unexpected_keyword_argument":
        owners = classes_at(config_class, inner[:-1])
        valid = {field.name for owner in owners for field in fields(owner)}
        renamed = new_key_text(owners, str(inner[-1]), path_text(path[:2]))
        return Problem(path=path + inner, text=f"unknown key; {renamed or expectation(str(inner[-1]), valid)}")
    if kind == "value_error":
        message = detail["msg"].removeprefix("Value error, ")
        return Problem(path=path + inner, text=message)
    value = typing.cast(JSON, detail["input"])
    if kind in ("literal_error", "enum"):
        expected = detail["ctx"]["expected"].replace(" or ", ", ")
        names = [name.strip().strip("'") for name in expected.split(",")]
        hint = f"; {expectation(value, names)}" if isinstance(value, str) and "did" in expectation(value, names) else ""
        return Problem(path=path + inner, text=f"found {style.found(value)}, expected one of {expected}{hint}")
    return Problem(path=path + inner, text=f"found {style.found(value)}, expected {_expected(detail, style)}")


def _expected(detail: ErrorDetails, style: _Style) -> str:
    kind, message = detail["type"], detail["msg"]
    if kind == "expected":  # from a `Constraint`
        return message
    if kind in ("dict_type", "dataclass_type"):
        return style.mapping
    if kind == "too_long":
        return _EXPECTED[kind].format_map(detail["ctx"])
    return _EXPECTED.get(kind, message[:1].lower() + message[1:])


def _merged(problems: Iterator[Problem]) -> list[Problem]:
    """One problem for each path; pydantic reports one for each member of a union."""
    merged: dict[ValuePath, Problem] = {}
    for problem in problems:
        known = merged.get(problem.path)
        if known is None:
            merged[problem.path] = problem
        elif ", expected " in known.text and ", expected " in problem.text:
            also = problem.text.split(", expected ", 1)[1]
            if also not in known.text:
                merged[problem.path] = Problem(path=known.path, text=f"{known.text} or {also}")
    return list(merged.values())


def _path_in(loc: Sequence[str | int], data: JSON) -> ValuePath:
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


def _missing_text(config_class: type, inner: ValuePath, style: _Style) -> str:
    if inner and isinstance(inner[-1], int):
        return "the list is too short; a value is missing here"
    for owner in classes_at(config_class, inner[:-1]):
        hint = typing.get_type_hints(owner).get(str(inner[-1]))
        if hint is not None:
            return f"missing; expected {_type_text(hint, style)}"
    return "missing"


def _type_text(hint: object, style: _Style) -> str:
    if hint in _TYPE_NAMES:
        return _TYPE_NAMES[hint]
    arguments = typing.get_args(hint)
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return "one of " + ", ".join(repr(value) for value in arguments)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return "one of " + ", ".join(repr(member.value) for member in hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type_text(item, style) for item in arguments)
    if origin in (tuple, list):
        return "a list"
    return style.mapping


def classes_at(config_class: object, path: ValuePath) -> list[type]:
    """The configuration classes that are possible at a path, looking through optional, tuple and mapping types."""
    hints: list[object] = [config_class]
    for key in path:
        hints = [below for hint in hints for below in _hints_below(hint, key)]
    found = [alternative for hint in hints for alternative in _alternatives(hint)]
    return [item for item in found if isinstance(item, type) and is_dataclass(item)]


def _hints_below(hint: object, key: str | int) -> Iterator[object]:
    for alternative in _alternatives(hint):
        arguments = typing.get_args(alternative)
        if is_dataclass(alternative) and isinstance(alternative, type):
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
