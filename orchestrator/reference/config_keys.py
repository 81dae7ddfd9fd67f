"""The keys that a configuration class takes in a recipe: type, default, unit, and the comment beside the field."""

import dataclasses
import enum
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.artifact import JSON
from orchestrator.documents.renames import new_key_text
from orchestrator.identity import config_to_json
from orchestrator.reference.comments import FieldComment, field_comments
from orchestrator.stage import Location

UNIT_SUFFIXES: Mapping[str, str] = {  # of a name
    "_per_s": "per second",
    "_s": "seconds",
    "_h": "hours",
    "_days": "days",
    "_bytes": "bytes",
    "_gib": "GiB",
    "_px": "pixels",
    "_share": "share, 0 to 1",
}
UNIT_WORDS = (
    "pixels", "bytes", "seconds", "hours", "days", "steps", "training steps", "tokens", "rows", "images", "degrees",
)  # fmt: skip # with which a comment begins
_NAMES: Mapping[object, str] = {
    int: "whole number",
    float: "number",
    bool: "true or false",
    str: "text",
    Location: "path or address",
    types.NoneType: "null",
    object: "any value",
}


@dataclass(frozen=True, kw_only=True)
class ConfigKey:
    """One key of a mapping in a recipe."""

    path: str  # dotted, from the configuration on; the items of lists and mappings have no part of their own
    type: str  # in YAML's terms
    is_required: bool
    default: JSON  # None if required, or if the default is null
    unit: str  # empty: none that is known
    comment: str  # what stands beside the field
    section: str  # what heads it and its neighbours
    keys: tuple["ConfigKey", ...]  # of the mapping, or of each item of the list or mapping

    @property
    def name(self) -> str:
        return self.path.rpartition(".")[2]


def config_keys(config_class: type, prefix: str = "") -> tuple[ConfigKey, ...]:
    """All keys of a configuration class, those of nested classes below theirs; in the order of the fields."""
    return tuple(_keys(config_class, prefix, ()))


def walk(keys: Sequence[ConfigKey]) -> Iterator[ConfigKey]:
    """The keys and all keys below them, each before those below it."""
    for key in keys:
        yield key
        yield from walk(key.keys)


def renamed_path(config_class: type, path: str, where: str) -> str:
    """What became of a key that had this path: `renamed to 'x'`, `moved to WHERE.execution.y`; "" if nothing did."""
    for prefix, owner in _owners(config_class, "", ()):
        if path.startswith(prefix) and (text := new_key_text([owner], path.removeprefix(prefix), where)):
            return text.replace("renamed to '", f"renamed to '{prefix}")
    return ""


def _owners(config_class: type, prefix: str, above: tuple[type, ...]) -> Iterator[tuple[str, type]]:
    """The classes in a configuration, each with the start of the paths of its keys."""
    yield prefix, config_class
    hints = typing.get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        for found in classes_in(hints[field.name]):
            if found not in above:
                yield from _owners(found, f"{prefix}{field.name}.", (*above, config_class))


def type_text(hint: object) -> str:
    """A type in YAML's terms: `whole number`, `list of text`, `'a' or 'b'`."""
    if hint in _NAMES:
        return _NAMES[hint]
    arguments = typing.get_args(hint)
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return " or ".join(repr(value) for value in arguments)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return " or ".join(repr(member.value) for member in hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_text(item) for item in arguments)
    if origin is tuple and arguments[-1] is not Ellipsis:
        return f"[{', '.join(type_text(item) for item in arguments)}]"
    if origin in (tuple, list):
        return f"list of {type_text(arguments[0])}"
    if arguments:
        return f"mapping of {type_text(arguments[-1])}"
    return "mapping"


def unit_of(name: str, comment: str) -> str:
    """The unit that a name ends with, or that a comment begins with."""
    found = next((unit for suffix, unit in UNIT_SUFFIXES.items() if name.endswith(suffix)), "")
    begins = comment.partition(",")[0].partition(";")[0].strip()
    return found or (begins if begins in UNIT_WORDS else "")


def classes_in(hint: object) -> list[type]:
    """The dataclasses that a type contains: itself, or those of its alternatives and items."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return [hint]
    return [found for argument in typing.get_args(hint) for found in classes_in(argument)]


def default_of(field: "dataclasses.Field[typing.Any]") -> tuple[bool, JSON]:
    """(whether there is none, the default as plain data)."""
    if field.default is not dataclasses.MISSING:
        value = field.default
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        return True, None
    return False, _plain(value)


def _keys(config_class: type, prefix: str, above: tuple[type, ...]) -> Iterator[ConfigKey]:
    hints, comments = typing.get_type_hints(config_class), field_comments(config_class)
    for field in dataclasses.fields(config_class):
        path = f"{prefix}.{field.name}" if prefix else field.name
        comment = comments.get(field.name, FieldComment())
        is_required, default = default_of(field)
        nested = [found for found in classes_in(hints[field.name]) if found not in above]
        yield ConfigKey(
            path=path,
            type=type_text(hints[field.name]),
            is_required=is_required,
            default=default,
            unit=unit_of(field.name, comment.text),
            comment=comment.text,
            section=comment.section,
            keys=tuple(key for found in nested for key in _keys(found, path, (*above, config_class))),
        )


def _plain(value: object) -> JSON:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return config_to_json(value)
    if isinstance(value, enum.Enum):
        return typing.cast(JSON, value.value)
    if isinstance(value, tuple | list | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, str):
        return str(value)
    return typing.cast(JSON, value)
