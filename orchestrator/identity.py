"""The identity of a stage's output: the SHA-256 of the canonical JSON of its identity payload.

The rule that keeps it correct: a value without exactly one obvious encoding raises; nothing is ever turned into text
by `str(x)`.
"""

import dataclasses
import enum
import hashlib
import json
import math
import types
import typing
from collections.abc import Iterable, Mapping

from orchestrator.artifact import JSON, Fingerprint
from orchestrator.stage import Location

MAX_DEPTH = 64  # levels of nesting; deeper values are cycles or attacks, not configurations


def to_json(value: object) -> JSON:
    """Plain JSON data for a configuration value: dataclasses become objects, enums their values, tuples lists.

    Raises:
        TypeError: for anything else, also for subclasses of the plain types (`Location`, `numpy.float64`).
        ValueError: for NaN, infinities, text that is not Unicode, and nesting deeper than `MAX_DEPTH`.
    """
    return _encode(value, "", 0)


def canonical_json(value: object) -> str:
    """The canonical JSON of a value: sorted keys, no spaces, floats as shortest exact decimals, UTF-8 unescaped."""
    return json.dumps(to_json(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def fingerprint_of(payload: Mapping[str, JSON]) -> Fingerprint:
    return Fingerprint(hashlib.sha256(canonical_json(payload).encode()).hexdigest())


def semantic_config(config: object) -> dict[str, JSON]:
    """The part of a stage's configuration that decides its output: all fields except those typed as `Location`.

    Fields are excluded by their types alone, at every depth, including optional, tuple and mapping fields of
    locations, so two values of one class always keep the same fields.

    Raises:
        TypeError: the configuration is not a dataclass, or a field mixes locations with other values.
    """
    if not _is_dataclass_value(config):
        raise TypeError(f"a stage's configuration is a frozen dataclass, found {type(config).__name__}")
    encoded = to_json(_without_locations(config))
    assert isinstance(encoded, dict), "a dataclass encodes to an object"
    return encoded


def config_to_json(config: object) -> dict[str, JSON]:
    """The whole configuration as plain data, locations included: for saving a plan, never for an identity."""
    encoded = to_json(_locations_as_text(config))
    assert isinstance(encoded, dict), "a dataclass encodes to an object"
    return encoded


def is_location_type(annotation: object) -> bool:
    """True for `Location` and for optional, tuple, list and mapping types that contain only locations.

    Raises:
        TypeError: the type mixes locations with other values, so that neither answer is right.
    """
    if annotation is Location:
        return True
    origin = typing.get_origin(annotation)
    arguments = [item for item in typing.get_args(annotation) if item not in (Ellipsis, types.NoneType)]
    if origin is None or origin is typing.Literal or not arguments:
        return False
    if origin is typing.Annotated:
        arguments = arguments[:1]
    elif isinstance(origin, type) and issubclass(origin, Mapping):
        if is_location_type(arguments[0]):
            raise TypeError(f"{annotation}: the keys of a mapping cannot be locations")
        arguments = arguments[1:]
    found = {is_location_type(item) for item in arguments}
    if len(found) > 1:
        raise TypeError(f"{annotation} mixes locations with other values; put them in fields of their own")
    return found == {True}


def _encode(value: object, path: str, depth: int) -> JSON:
    if depth > MAX_DEPTH:
        raise ValueError(f"{path[:80] or 'value'}: nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, enum.Enum):
        return _encode(value.value, path, depth + 1)
    if value is None or type(value) in (bool, int):
        return typing.cast(JSON, value)
    if type(value) is float:
        if not math.isfinite(value):
            raise ValueError(f"{path or 'value'}: found {value}, which JSON cannot express")
        return value
    if type(value) is str:
        return _checked_text(value, path)
    if _is_dataclass_value(value):
        fields = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
        return _encode_items(fields, path, depth)
    if isinstance(value, Mapping):
        return _encode_items(value.items(), path, depth)
    if type(value) in (list, tuple):
        items = typing.cast("list[object]", value)
        return [_encode(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(items)]
    raise TypeError(f"{path or 'value'}: {type(value).__name__} has no obvious encoding in JSON")


def _encode_items(items: Iterable[tuple[object, object]], path: str, depth: int) -> dict[str, JSON]:
    encoded: dict[str, JSON] = {}
    for key, item in items:
        if type(key) is not str:
            raise TypeError(f"{path or 'value'}: the key {key!r} is not text")
        encoded[_checked_text(key, path)] = _encode(item, f"{path}.{key}" if path else key, depth + 1)
    return encoded


def _checked_text(text: str, path: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{path or 'value'}: the text {text!r} holds half of a surrogate pair") from None
    return text


def _is_dataclass_value(value: object) -> typing.TypeGuard["typing.Any"]:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _without_locations(value: object) -> object:
    """Dataclasses as mappings without their location fields, also inside tuples and mappings."""
    if _is_dataclass_value(value):
        hints = typing.get_type_hints(type(value), include_extras=True)
        return {
            field.name: _without_locations(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if not is_location_type(hints[field.name])
        }
    if isinstance(value, Mapping):
        return {key: _without_locations(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_without_locations(item) for item in value]
    return value


def _locations_as_text(value: object) -> object:
    if isinstance(value, Location):
        return str(value)
    if _is_dataclass_value(value):
        return {field.name: _locations_as_text(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _locations_as_text(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_locations_as_text(item) for item in value]
    return value
