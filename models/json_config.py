"""Converts frozen dataclasses to and from JSON, strictly: no unknown or missing key, every value of its type."""

import dataclasses
import functools
import json
import typing
from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, SchemaValidator

from models.errors import DataError

C = TypeVar("C")
_ADDED = "added"  # key of a field's metadata
_EXPECTED = {
    "int_type": "int",
    "float_type": "float",
    "string_type": "str",
    "bool_type": "bool",
    "tuple_type": "a list",
    "dataclass_type": "an object with the fields of {class_name}",
    "literal_error": "one of {expected}",
    "too_long": "{max_length} items",
}


class ConfigError(DataError):
    """A configuration file with broken JSON, an unknown or missing key, or a wrong value."""


def added(default: Any) -> Any:
    """A field that older files lack: `default` is what they meant. Files say nothing of a field that equals it."""
    return dataclasses.field(default=default, metadata={_ADDED: True})


def to_json(config: Any) -> str:
    """Indented JSON of a dataclass, keys in the order of the fields, with a final newline."""
    return json.dumps(_to_data(config), indent=2) + "\n"


def _to_data(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_to_data(item) for item in value]
    if not dataclasses.is_dataclass(value):
        return value
    found = {field: getattr(value, field.name) for field in dataclasses.fields(value)}
    written = (field for field, item in found.items() if _ADDED not in field.metadata or item != field.default)
    return {field.name: _to_data(found[field]) for field in written}


def from_json(cls: type[C], text: str, *, where: str = "config.json") -> C:
    """The dataclass `cls` that `to_json` wrote.

    `where` names the file in messages. Fields may be int, float, str, bool, literals, dataclasses, tuples of those, and
    optional ones. Raises: ConfigError for broken JSON, an unknown or missing key, or a value of another type.
    """
    try:
        config: C = _validator(typing.cast(typing.Hashable, cls)).validate_json(f"[{text}]")[0]
        return config
    except ValidationError as error:
        raise ConfigError(_message(error.errors(include_url=False), where)) from error


@functools.cache
def _validator(cls: Any) -> SchemaValidator:
    """A decoder for a list of one value: pydantic applies `config` to plain dataclasses only inside another type."""
    adapter = TypeAdapter(tuple[cls], config=ConfigDict(extra="forbid", strict=True))
    return SchemaValidator(_without_defaults(adapter.core_schema))


def _without_defaults(schema: Any) -> Any:
    """The schema in which every field but the `added` ones is required: a default of today is not what an older file
    meant.
    """
    if isinstance(schema, dict) and schema.get("type") == "dataclass":
        optional = {field.name for field in dataclasses.fields(schema["cls"]) if _ADDED in field.metadata}
        fields = schema["schema"]["fields"]
        required = [field if field["name"] in optional else _without_defaults(field) for field in fields]
        return {**schema, "schema": {**schema["schema"], "fields": required}}
    if isinstance(schema, dict):
        inner = schema["schema"] if schema.get("type") == "default" else None
        return _without_defaults(inner) if inner else {key: _without_defaults(item) for key, item in schema.items()}
    return [_without_defaults(item) for item in schema] if isinstance(schema, list) else schema


def _message(details: Sequence[ErrorDetails], where: str) -> str:
    """The unknown and missing keys of one object, else the first wrong value."""
    wrong_keys = [item for item in details if item["type"] in ("unexpected_keyword_argument", "missing")]
    first = (wrong_keys or details)[0]
    kind, loc, value, context = first["type"], first["loc"], first["input"], first.get("ctx", {})
    same_owner = [item for item in wrong_keys if item["loc"][:-1] == loc[:-1]]
    missing = [item["loc"][-1] for item in same_owner if item["type"] == "missing"]
    if wrong_keys and isinstance(loc[-1], str):
        unknown = sorted(str(item["loc"][-1]) for item in same_owner if item["type"] != "missing")
        return f"{_place(loc[:-1], where)}: unknown keys {unknown}, missing keys {missing}"
    if kind == "json_invalid":
        return f"{where}: not valid JSON ({context['error']}); write the file again"
    if kind == "value_error":
        return f"{_place(loc, where)}: {first['msg'].removeprefix('Value error, ')}"
    if kind == "missing":  # an item of a list of a fixed length
        kind, loc, context = "too_long", loc[:-1], {"max_length": len(value) + len(missing)}
    found = f"{len(value)} items" if kind == "too_long" else repr(value)
    expected = _EXPECTED.get(kind, first["msg"]).format_map(context).replace(" or ", ", ")
    return f"{_place(loc, where)}: found {found}, expected {expected}"


def _place(loc: Sequence[str | int], where: str) -> str:
    return where + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in loc[1:])
