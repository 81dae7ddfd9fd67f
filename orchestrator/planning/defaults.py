"""The defaults of configurations: shown where identities leave them out, and recorded so that none changes unnoticed.

Rule: a default may change only together with the version of every kind that has it. An identity leaves out what equals
its default, so a changed default would give one identity to two configurations.
"""

import dataclasses
import types
import typing
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from orchestrator.artifact import JSON
from orchestrator.documents.renames import REMOVED, SECTIONS, renamed_keys, with_new_names
from orchestrator.identity import canonical_json, complete_json, default_json, semantic_fields
from orchestrator.stage import StageKind

VERSION, DEFAULTS, RENAMED = "version", "defaults", "renamed"  # keys of a recorded kind


def complete_config(config_class: type, config: JSON) -> JSON:
    """The configuration of an identity with its defaults filled in and today's names, for showing and comparing."""
    return _complete(config_class, with_new_names(config_class, config))


def recorded_defaults(
    kinds: Mapping[str, StageKind[Any]], others: Mapping[str, Collection[type]] = types.MappingProxyType({})
) -> dict[str, JSON]:
    """For each kind its version and the default of every key that is part of an identity, by dotted path.

    `others`: by kind, the classes of values that are part of its shards' identities, but not of its configuration.
    """
    return {
        name: {
            VERSION: kind.version,
            DEFAULTS: dict(sorted(_defaults_of(kind.config, others.get(name, ())))),
            RENAMED: dict(sorted(_renamed_of(kind.config, ""))),
        }
        for name, kind in sorted(kinds.items())
    }


def forbidden_changes(recorded: Mapping[str, JSON], now: Mapping[str, JSON]) -> list[str]:
    """A sentence for each recorded default that changed or went while the version of its kind stayed.

    A key may be renamed, if its default stays, and it may move to another section of the stage.
    """
    found = []
    for kind in sorted(recorded.keys() & now.keys()):
        before, after = typing.cast("dict[str, Any]", recorded[kind]), typing.cast("dict[str, Any]", now[kind])
        for key, default in before[DEFAULTS].items() if before[VERSION] == after[VERSION] else ():
            change = _change(after[RENAMED].get(key, key), canonical_json(default), after[DEFAULTS])
            if change:
                found.append(
                    f"{kind}: the default of {key} was {canonical_json(default)} and {change}, but the version is "
                    f"still {before[VERSION]}; raise the version of the kind {kind}"
                )
    return found


def _change(key: str, default: str, defaults: Mapping[str, JSON]) -> str:
    """How the default of a key differs from the recorded one; empty if it does not."""
    if key.startswith(SECTIONS):
        return ""
    if key not in defaults:
        return "has no default or is gone"
    return "" if canonical_json(defaults[key]) == default else f"is {canonical_json(defaults[key])} now"


def _defaults_of(config_class: type, others: Collection[type]) -> Iterator[tuple[str, JSON]]:
    yield from _class_defaults(config_class, "")
    for other in others:
        yield from _class_defaults(other, f"{other.__name__}.")


def _class_defaults(config_class: type, prefix: str) -> Iterator[tuple[str, JSON]]:
    for field, hint in semantic_fields(config_class):
        default = default_json(field)
        if default is not dataclasses.MISSING:
            yield f"{prefix}{field.name}", default
        yield from _hint_defaults(hint, f"{prefix}{field.name}")


def _hint_defaults(hint: object, path: str) -> Iterator[tuple[str, JSON]]:
    for config_class, prefix in _classes_in(hint, path):
        yield from _class_defaults(config_class, prefix)


def _renamed_of(config_class: type, prefix: str) -> Iterator[tuple[str, str]]:
    """(old path, new path) of each renamed key; a new section stands alone, without the path."""
    for old, new in renamed_keys(config_class).items():
        yield f"{prefix}{old}", new if new.startswith((*SECTIONS, REMOVED)) else f"{prefix}{new}"
    for field, hint in semantic_fields(config_class):
        for inner, inner_prefix in _classes_in(hint, f"{prefix}{field.name}"):
            yield from _renamed_of(inner, inner_prefix)


def _classes_in(hint: object, path: str) -> Iterator[tuple[type, str]]:
    """The dataclasses in a type, each with the prefix of its fields' paths."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        yield hint, f"{path}."
        return
    below = path if typing.get_origin(hint) in (typing.Union, types.UnionType, typing.Annotated) else f"{path}[]"
    for item in typing.get_args(hint):
        yield from _classes_in(item, below)


def _complete(hint: object, value: JSON) -> JSON:
    arguments = [item for item in typing.get_args(hint) if item is not Ellipsis]
    if isinstance(hint, type) and dataclasses.is_dataclass(hint) and isinstance(value, dict):
        fields = dict((field.name, (field, item)) for field, item in semantic_fields(hint))
        known = {name: _complete(fields[name][1], item) if name in fields else item for name, item in value.items()}
        absent = {name: _complete_default(field) for name, (field, _) in fields.items() if name not in value}
        return {**known, **{name: item for name, item in absent.items() if item is not dataclasses.MISSING}}
    if typing.get_origin(hint) in (typing.Union, types.UnionType, typing.Annotated):
        return _complete(_best_member(arguments, value), value)
    if isinstance(value, dict) and arguments:
        return {key: _complete(arguments[-1], item) for key, item in value.items()}
    if isinstance(value, list) and arguments:
        varies = len(typing.get_args(hint)) != len(arguments) or len(arguments) != len(value)
        hints = arguments[:1] * len(value) if varies else arguments
        return [_complete(item_hint, item) for item_hint, item in zip(hints, value, strict=True)]
    return value


def _best_member(members: list[Any], value: JSON) -> object:
    """The member of a union that a value is of: the dataclass that has all its keys; else any that is no dataclass."""
    classes = [member for member in members if dataclasses.is_dataclass(member)]
    keys = value.keys() if isinstance(value, dict) else {""}  # which no dataclass has
    for member in classes:
        if keys <= {field.name for field in dataclasses.fields(member)}:
            return member
    return next((member for member in members if not dataclasses.is_dataclass(member)), None)


def _complete_default(field: "dataclasses.Field[Any]") -> Any:
    if field.default is not dataclasses.MISSING:
        return complete_json(field.default)
    if field.default_factory is not dataclasses.MISSING:
        return complete_json(field.default_factory())
    return dataclasses.MISSING
