"""The reference of stage kinds: what each does, takes, makes and measures, as text and as JSON."""

import inspect
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from textwrap import indent
from typing import Any

from orchestrator.artifact import JSON
from orchestrator.documents.suggestions import expectation
from orchestrator.errors import RecipeError
from orchestrator.reference.config_keys import ConfigKey, config_keys, renamed_path, walk
from orchestrator.stage import Gate, Resources, RetryPolicy, Slot, StageKind

Kinds = Mapping[str, StageKind[Any]]
SECTIONS: Mapping[str, type] = {"resources": Resources, "retry": RetryPolicy, "gates": Gate}  # of every stage
EXECUTION = "execution."  # before the keys of that section
MAX_DEFAULT_CHARACTERS = 60
MAX_NAME_WIDTH = 34


def kind_summary(kind: StageKind[Any]) -> str:
    """What the kind does, in one line: from the docstring of its `run`, or else of the module."""
    run = inspect.unwrap(kind.run)
    module = sys.modules.get(run.__module__)
    doc = inspect.getdoc(run) or (inspect.getdoc(module) if module else None) or ""
    return " ".join(doc.partition("\n\n")[0].split())


def find_keys(name: str, kinds: Kinds) -> tuple[str, list[ConfigKey]]:
    """(the kind or section, its keys) that `KIND`, `KIND.key`, or one of `SECTIONS` names.

    Raises: RecipeError: there is none; the message has the nearest names.
    """
    kind_name, _, path = name.partition(".")
    known = {**{kind: found.config for kind, found in kinds.items()}, **SECTIONS}
    if kind_name not in known:
        raise RecipeError(f"found no stage kind {kind_name!r}; {expectation(kind_name, known)}")
    keys = list(config_keys(known[kind_name]))
    if not path:
        return kind_name, keys
    if f"{path}." == EXECUTION and kind_name in kinds:
        return kind_name, list(config_keys(kinds[kind_name].execution))
    if path.startswith(EXECUTION) and kind_name in kinds:
        keys, path = list(config_keys(kinds[kind_name].execution)), path.removeprefix(EXECUTION)
    path = path.removeprefix("config.")
    found = [key for key in walk(keys) if key.path == path]
    if not found:
        renamed = renamed_path(known[kind_name], path, kind_name)
        raise RecipeError(
            f"kind {kind_name!r} has no key {path!r}; {f'it was {renamed}' if renamed else _near(path, keys)}"
        )
    return kind_name, found


def kind_to_json(kind: StageKind[Any]) -> dict[str, JSON]:
    return {
        "name": kind.name,
        "version": kind.version,
        "summary": kind_summary(kind),
        "inputs": {
            name: {"kind": slot.kind, "many": slot.many, "required": slot.required}
            for name, slot in kind.inputs.items()
        },
        "output": kind.output,
        "config": [key_to_json(key) for key in config_keys(kind.config)],
        "execution": [key_to_json(key) for key in config_keys(kind.execution)],
        "metrics": dict(kind.metrics),
    }


def key_to_json(key: ConfigKey) -> dict[str, JSON]:
    return {
        "path": key.path,
        "type": key.type,
        "required": key.is_required,
        "default": key.default,
        "unit": key.unit,
        "comment": key.comment,
        "section": key.section,
        "keys": [key_to_json(below) for below in key.keys],
    }


def kind_text(kind: StageKind[Any], kinds: Kinds) -> str:
    """The page of a kind for a terminal."""
    parts = [f"{kind.name}, version {kind.version}", indent(kind_summary(kind), "  ")]
    slots = [_slot_row(name, slot, kinds) for name, slot in kind.inputs.items()]
    parts += ["", "inputs", *(_rows(slots) or ["  none"])]
    users = sorted(
        name for name, other in kinds.items() if kind.output in {slot.kind for slot in other.inputs.values()}
    )
    parts += ["", "output", *_rows([(kind.output, f"read by {', '.join(users)}" if users else "")])]
    parts += ["", "config", *_class_doc(kind.config), *(key_lines(config_keys(kind.config)) or ["  no keys"])]
    if execution := key_lines(config_keys(kind.execution)):
        parts += ["", "execution, beside the config: never changes the result", *execution]
    parts += ["", "metrics", *(_rows(list(kind.metrics.items())) or ["  not declared; known after a run"])]
    return "\n".join(parts)


def key_lines(keys: Sequence[ConfigKey]) -> list[str]:
    """A line for each key and each key below it: path, type, default, comment."""
    lines: list[str] = []
    section = ""
    width = min(MAX_NAME_WIDTH, max((_width(key) for key in walk(keys)), default=0))
    for key in walk(keys):
        if key.section != section and key.section:
            lines.append(f"  # {key.section}")
        section = key.section
        depth = key.path.count(".") - keys[0].path.count(".")
        name = f"{'  ' * depth}{key.name}"
        lines.append(f"  {name:{width}}  {_value_text(key)}{_comment_text(key)}".rstrip())
    return lines


def _class_doc(config_class: type) -> list[str]:
    """The docstring of a configuration class, without the one that `dataclass` writes itself."""
    doc = inspect.cleandoc(config_class.__doc__ or "")
    return [] if doc.startswith(f"{config_class.__name__}(") else indent(doc, "  # ").splitlines()


def _width(key: ConfigKey) -> int:
    return 2 * key.path.count(".") + len(key.name)


def _value_text(key: ConfigKey) -> str:
    if key.is_required:
        return f"{key.type}, required"
    if key.keys and isinstance(key.default, dict):
        return f"{key.type}, optional"
    text = json.dumps(key.default, ensure_ascii=False)
    shown = text if len(text) <= MAX_DEFAULT_CHARACTERS else f"{text[: MAX_DEFAULT_CHARACTERS - 3]}..."
    return f"{key.type}, default {shown}"


def _comment_text(key: ConfigKey) -> str:
    unit = key.unit if key.unit and not key.comment.startswith(key.unit) else ""
    text = "; ".join(part for part in (unit, key.comment) if part)
    return f"  # {text}" if text else ""


def _slot_row(name: str, slot: Slot, kinds: Kinds) -> tuple[str, str]:
    makers = sorted(kind.name for kind in kinds.values() if kind.output == slot.kind)
    count = "one or more" if slot.many else "one"
    optional = ("" if slot.required else ", optional") + ("" if slot.decides else ", cannot change the result")
    return name, f"{slot.kind}, {count}{optional}" + (f"; made by {', '.join(makers)}" if makers else "")


def _rows(rows: Sequence[tuple[str, str]]) -> list[str]:
    width = min(MAX_NAME_WIDTH, max((len(name) for name, _ in rows), default=0))
    return [f"  {name:{width}}  {text}".rstrip() for name, text in rows]


def _near(path: str, keys: Sequence[ConfigKey]) -> str:
    """The nearest keys: those of the same last name anywhere, or else similar ones."""
    every = list(walk(keys))
    same = [key.path for key in every if key.name == path.rpartition(".")[2]]
    return f"did you mean {' or '.join(map(repr, same[:3]))}?" if same else expectation(path, {k.path for k in every})


def listed(kinds: Kinds) -> Iterator[tuple[str, str, str, str]]:
    """(name, inputs, output, what it does) of each kind."""
    for kind in kinds.values():
        slots = ", ".join(name if slot.required else f"[{name}]" for name, slot in kind.inputs.items())
        yield kind.name, slots, kind.output, kind_summary(kind)
