"""The identity of a stage's output: the SHA-256 of the canonical JSON of its identity payload.

Three rules keep it correct, for the payload of a stage and for the identities of its shards alike:

1. One encoding. A value without exactly one obvious encoding raises; nothing is turned into text by `str` or `repr`.
   The name of a class is not part of a value, so a class may be renamed and moved.
2. Defaults are left out. A setting that equals its default is absent, at every depth (`semantic_json`). So a field with
   a default that did not exist when an artifact was made changes no identity, and begun runs can continue. The price:
   a default may change only together with the version of every kind that has it, as two configurations would share an
   identity otherwise. The test of `recorded_defaults` in `orchestrator/planning/defaults.py` enforces this: it compares
   the defaults of all kinds with a recorded table.
3. What cannot change the result is not in it, by type: `Location` for paths; for all else a class derived from
   `Execution`, which the kind declares beside its config. A value of such a class is refused here.

Secrets in a configuration are masked, so that none is kept with an artifact, and a new one makes nothing again.

The strategy and the number of workers of a training are execution too. They are recorded in the provenance of the
artifact. Equal strategy and number of workers promise equal digests; otherwise results agree within a tolerance.
"""

import dataclasses
import enum
import functools
import hashlib
import json
import math
import types
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping

from orchestrator.artifact import JSON, Fingerprint
from orchestrator.redaction.masking import mask_config
from orchestrator.stage import Execution, Location

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
    """The identity that a payload gives.

    Raises:
        TypeError: the payload holds a dataclass; what decides in it is given by `semantic_json`.
    """
    _refuse_dataclasses(payload, "")
    return Fingerprint(hashlib.sha256(canonical_json(payload).encode()).hexdigest())


def semantic_config(
    config: object, *, only: Collection[str] | None = None, without: Collection[str] = ()
) -> dict[str, JSON]:
    """The part of a configuration that decides a result: no locations, and nothing that equals its default.

    Fields are excluded by their types, at every depth, including optional, tuple and mapping fields of locations.
    `only` and `without` name fields of `config` itself, for a part of the work that reads no others.

    Raises:
        TypeError: the configuration is not a dataclass, a field mixes locations with other values, or the class of a
            field's value could not be told from its encoding.
        ValueError: the class has no field of a name in `only` or `without`.
    """
    if not _is_dataclass_value(config):
        raise TypeError(f"a stage's configuration is a frozen dataclass, found {type(config).__name__}")
    names = {field.name for field in dataclasses.fields(config)}
    if unknown := sorted({*(only or ()), *without} - names):
        raise ValueError(f"{type(config).__name__} has no field {unknown[0]!r}; expected some of {sorted(names)}")
    encoded = mask_config(semantic_json(config))
    assert isinstance(encoded, dict), "a dataclass encodes to an object"
    return {name: value for name, value in encoded.items() if name not in without and (only is None or name in only)}


def semantic_json(value: object) -> JSON:
    """What decides a result in any value: dataclasses without locations and without fields that equal their default.

    Raises:
        TypeError, ValueError: see `semantic_config` and `to_json`.
    """
    return to_json(_semantic(value, leave_out=True))


def complete_json(value: object) -> JSON:
    """As `semantic_json`, but with the fields that equal their default: for showing values, never for an identity."""
    return to_json(_semantic(value, leave_out=False))


def semantic_fields(config_class: type) -> Iterator[tuple["dataclasses.Field[typing.Any]", object]]:
    """The fields of a dataclass that are part of an identity, each with its type.

    Raises:
        TypeError: a field mixes locations with other values, or the class of its value is lost by encoding it.
    """
    hints = typing.get_type_hints(config_class, include_extras=True)
    for field in dataclasses.fields(config_class):
        hint = hints[field.name]
        if _holds_execution(hint):
            raise TypeError(f"{config_class.__name__}.{field.name}: execution settings stand beside a config")
        if not is_location_type(hint):
            _check_unions(hint, f"{config_class.__name__}.{field.name}")
            yield field, hint


def default_json(field: "dataclasses.Field[typing.Any]") -> JSON | dataclasses._MISSING_TYPE:
    """The default of a field as it would stand in an identity; `dataclasses.MISSING` if it has none."""
    if field.default is not dataclasses.MISSING:
        return semantic_json(field.default)
    if field.default_factory is not dataclasses.MISSING:
        return semantic_json(field.default_factory())
    return dataclasses.MISSING


def config_to_json(config: object) -> dict[str, JSON]:
    """The whole configuration as plain data, without secrets, with locations: for a plan, never for an identity."""
    encoded = to_json(_locations_as_text(config))
    masked = mask_config(encoded)
    assert isinstance(masked, dict), "a dataclass encodes to an object"
    return masked


def holds_secrets(config: object) -> bool:
    """Whether a configuration holds a secret, so that what is kept of it is not all of it."""
    return to_json(_locations_as_text(config)) != config_to_json(config)


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


def _semantic(value: object, *, leave_out: bool) -> object:
    """Dataclasses as mappings of the fields that decide, also inside tuples and mappings."""
    if isinstance(value, Execution):
        raise TypeError(f"{type(value).__name__} cannot decide a result, so it is no part of an identity")
    if _is_dataclass_value(value):
        found = {}
        for name, default in _semantic_fields(typing.cast(typing.Hashable, type(value))):
            item = _semantic(getattr(value, name), leave_out=leave_out)
            if default is None or not leave_out or canonical_json(item) != default:
                found[name] = item
        return found
    if isinstance(value, Mapping):
        return {key: _semantic(item, leave_out=leave_out) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_semantic(item, leave_out=leave_out) for item in value]
    return value


@functools.cache
def _semantic_fields(config_class: typing.Hashable) -> tuple[tuple[str, str | None], ...]:
    """(name, canonical JSON of the default; None: never left out) of each field that is part of an identity."""
    found = []
    for field, hint in semantic_fields(typing.cast(type, config_class)):
        default = default_json(field)
        is_kept = default is dataclasses.MISSING or _is_tag(hint)
        found.append((field.name, None if is_kept else canonical_json(default)))
    return tuple(found)


def _is_tag(hint: object) -> bool:
    """True for a `Literal` of one value, which tells the members of a union apart; it is never left out."""
    return typing.get_origin(hint) is typing.Literal and len(typing.get_args(hint)) == 1


def _holds_execution(hint: object) -> bool:
    return (isinstance(hint, type) and issubclass(hint, Execution)) or any(map(_holds_execution, typing.get_args(hint)))


def _check_unions(hint: object, where: str) -> None:
    """Raises: TypeError if a union has several members that encode to objects and that no tag tells apart."""
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        objects = [item for item in arguments if _encodes_to_object(item)]
        if len(objects) > 1 and not all(_has_tag(item) for item in objects):
            raise TypeError(
                f"{where}: {hint} does not say which class a value was of, once it is encoded; give each class a field "
                "of a Literal type with one value"
            )
    for item in arguments:
        _check_unions(item, where)


def _encodes_to_object(hint: object) -> bool:
    origin = typing.get_origin(hint) or hint
    return isinstance(origin, type) and (dataclasses.is_dataclass(origin) or issubclass(origin, Mapping))


def _has_tag(hint: typing.Any) -> bool:
    return dataclasses.is_dataclass(hint) and any(_is_tag(item) for item in typing.get_type_hints(hint).values())


def _refuse_dataclasses(value: object, path: str) -> None:
    if _is_dataclass_value(value):
        raise TypeError(f"{path or 'value'}: found a {type(value).__name__}; encode it with `semantic_json`")
    if isinstance(value, Mapping):
        for key, item in value.items():
            _refuse_dataclasses(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, tuple | list):
        for index, item in enumerate(value):
            _refuse_dataclasses(item, f"{path}[{index}]")


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
