"""Converts frozen dataclasses to and from JSON, strictly: no unknown or missing key, every value of its type."""

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

C = TypeVar("C")


class ConfigError(ValueError):
    """A configuration file with broken JSON, an unknown or missing key, or a wrong value."""


def to_json(config: Any) -> str:
    """Indented JSON of a dataclass, keys in the order of the fields, with a final newline."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(cls: type[C], text: str, *, where: str = "config.json") -> C:
    """The dataclass `cls` that `to_json` wrote.

    `where` names the file in messages. Fields may be int, float, str, bool, literals, dataclasses, tuples of those, and
    optional ones. Raises: ConfigError for broken JSON, an unknown or missing key, or a value of another type.
    """
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{where}: not valid JSON ({error}); write the file again") from error
    return typing.cast(C, _decode(cls, data, where))


def _decode(expected: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(expected)
    if dataclasses.is_dataclass(expected) and isinstance(expected, type):
        return _decode_dataclass(expected, value, where)
    if origin is typing.Literal:
        choices = typing.get_args(expected)
        if value not in choices:
            raise ConfigError(f"{where}: found {value!r}, expected one of {', '.join(map(repr, choices))}")
        return value
    if origin is tuple:
        return _decode_tuple(typing.get_args(expected), value, where)
    if origin in (typing.Union, types.UnionType):
        members = typing.get_args(expected)
        if value is None and type(None) in members:
            return None
        return _decode(next(member for member in members if member is not type(None)), value, where)
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool):
        raise ConfigError(f"{where}: found {value!r}, expected {expected.__name__}")
    return value


def _decode_tuple(members: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise ConfigError(f"{where}: found {value!r}, expected a list")
    if members[-1] is Ellipsis:
        members = (members[0],) * len(value)
    if len(members) != len(value):
        raise ConfigError(f"{where}: found {len(value)} items, expected {len(members)}")
    return tuple(
        _decode(member, item, f"{where}[{index}]")
        for index, (member, item) in enumerate(zip(members, value, strict=True))
    )


def _decode_dataclass(cls: type[Any], value: Any, where: str) -> Any:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: found {value!r}, expected an object with the fields of {cls.__name__}")
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]
    unknown, missing = sorted(set(value) - set(names)), [name for name in names if name not in value]
    if unknown or missing:
        raise ConfigError(
            f"{where}: unknown keys {unknown}, missing keys {missing}; {cls.__name__} has exactly {', '.join(names)}"
        )
    fields = {name: _decode(hints[name], value[name], f"{where}.{name}") for name in names}
    try:
        return cls(**fields)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error
