"""Keys and values of configurations that have another name than before: refused in recipes, understood in records.

A configuration class lists them beside its fields, as plain class variables, so that classes outside the kernel can:
  RENAMED_KEYS: ClassVar = {"old_key": "new_key", "moved_key": "execution.key"}
  RENAMED_VALUES: ClassVar = {"key": {"old_value": "new_value"}}
The new name of a key that moved starts with the section of the stage that it moved to. Of a key that is gone, a text
that starts with `REMOVED` says what to use instead.
"""

import dataclasses
import types
import typing
from collections.abc import Iterable, Mapping

from orchestrator.artifact import JSON

NONE: Mapping[str, typing.Any] = types.MappingProxyType({})
REMOVED = "removed; "
SECTIONS = ("execution.", "retry.", "resources.")  # of a stage, to which keys have moved from its config


def renamed_keys(config_class: type) -> Mapping[str, str]:
    """New names by old ones. Looked up by name, as the classes know nothing of the kernel."""
    found: Mapping[str, str] = getattr(config_class, "RENAMED_KEYS", NONE)
    return found


def renamed_values(config_class: type) -> Mapping[str, Mapping[str, str]]:
    """New values by key and old value."""
    found: Mapping[str, Mapping[str, str]] = getattr(config_class, "RENAMED_VALUES", NONE)
    return found


def new_key_text(owners: Iterable[type], old: str, stage: str) -> str:
    """The end of an error message about a key of another name or section; empty if the key never existed.

    `stage`: the dotted path of the stage.
    """
    for owner in owners:
        new = renamed_keys(owner).get(old)
        if new is not None and new.startswith(REMOVED):
            return new
        if new is not None and new.startswith(SECTIONS):
            return f"moved to {stage}.{new}, as it cannot change the result"
        if new is not None:
            return f"renamed to {new!r}"
    return ""


def new_metric_name(renamed: Mapping[str, str], name: str) -> str | None:
    """Today's name of a metric, None if it was never another. An old name that ends in `/` stands for all below it."""
    for old, new in renamed.items():
        if name == old or (old.endswith("/") and name.startswith(old)):
            return new + name.removeprefix(old)
    return None


def with_new_names(hint: object, value: JSON) -> JSON:
    """Recorded data of a configuration in today's names; without keys that moved to another section or are gone."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _object_with_new_names(hint, value) if isinstance(value, dict) else value
    arguments = [item for item in typing.get_args(hint) if item is not Ellipsis]
    if typing.get_origin(hint) in (typing.Union, types.UnionType, typing.Annotated):
        classes = [item for item in arguments if dataclasses.is_dataclass(item)]
        return with_new_names(classes[0], value) if len(classes) == 1 else value
    if isinstance(value, dict) and arguments:
        return {key: with_new_names(arguments[-1], item) for key, item in value.items()}
    if isinstance(value, list) and arguments:
        return [with_new_names(arguments[0], item) for item in value]
    return value


def _object_with_new_names(config_class: type, value: Mapping[str, JSON]) -> JSON:
    keys, values = renamed_keys(config_class), renamed_values(config_class)
    hints = typing.get_type_hints(config_class, include_extras=True)
    found: dict[str, JSON] = {}
    for key, item in value.items():
        name = keys.get(key, key)
        if name.startswith((*SECTIONS, REMOVED)):
            continue
        item = values.get(name, NONE).get(item, item) if isinstance(item, str) else item
        found[name] = with_new_names(hints.get(name), item)
    return found
