"""Overrides `--set stages.NAME.config.key=value`: changes to a recipe's plain data before it is decoded."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.artifact import JSON
from orchestrator.documents.suggestions import expectation
from orchestrator.documents.typed_json import Problem, ValuePath, classes_at, found_text, path_text
from orchestrator.identity import config_to_json
from orchestrator.recipe.yaml_subset import parse_yaml
from orchestrator.stage import Gate, Resources, RetryPolicy, StageKind

_KEY = re.compile(r"([^.\[\]=]+)((?:\[[0-9]+\])*)")
_FORM = "expected stages.NAME.config.KEY=VALUE"


def apply_overrides(
    data: JSON, overrides: Sequence[str], kinds: Mapping[str, StageKind[Any]], problems: list[Problem]
) -> dict[ValuePath, str]:
    """Change `data` in place, in order; returns the override that set each path.

    Values are parsed as YAML. A key that the recipe leaves at its default can be set, also below a default that is
    itself an object. Unknown keys are found later, when the recipe is decoded.
    """
    origins: dict[ValuePath, str] = {}
    for override in overrides:
        label = f"--set {override}"
        dotted, separator, text = override.partition("=")
        path = _parse_path(dotted.strip())
        if not separator or not path:
            problems.append(Problem(path=(), text=f"{label}: {_FORM}"))
            continue
        document = parse_yaml(text, label)
        problems += document.problems
        problem = _set(data, path, document.data, kinds)
        if problem is not None:
            problems.append(Problem(path=(), text=f"{label}: {problem}"))
        else:
            origins[_with_indices(data, path)] = label
    return origins


def _parse_path(dotted: str) -> ValuePath:
    """The path of a dotted text; empty if the text has another form."""
    path: list[str | int] = []
    for part in dotted.split("."):
        match = _KEY.fullmatch(part)
        if match is None:
            return ()
        path.append(match[1])
        path += [int(index) for index in re.findall(r"[0-9]+", match[2])]
    return tuple(path)


def _set(data: JSON, path: ValuePath, value: JSON, kinds: Mapping[str, StageKind[Any]]) -> str | None:
    """Set a value; returns what is wrong with the path, or None."""
    stages = data.get("stages") if isinstance(data, dict) else None
    if path[0] == "stages" and isinstance(stages, dict) and (len(path) < 3 or path[1] not in stages):
        if len(path) < 3:
            return _FORM
        return f"found no stage {str(path[1])!r}; {expectation(str(path[1]), stages.keys())}"
    current: JSON = data
    for depth, key in enumerate(path):
        is_last = depth == len(path) - 1
        if isinstance(current, list):
            index = int(key) if str(key).isdigit() else -1
            if not 0 <= index < len(current):
                return f"{path_text(path[:depth])} has no item {key}; it has {len(current)}"
            if is_last:
                current[index] = value
            current = current[index]
        elif isinstance(current, dict) and isinstance(key, str):
            if is_last:
                current[key] = value
            elif current.get(key) is None:
                current[key] = _default_at(data, path[: depth + 1], kinds)
            current = current[key]
        else:
            return f"{path_text(path[:depth])} is {found_text(current)}, so nothing can be set below it"
    return None


def _default_at(data: JSON, path: ValuePath, kinds: Mapping[str, StageKind[Any]]) -> JSON:
    """The configuration class's default at a path that the recipe does not have."""
    if len(path) < 4 or path[0] != "stages":
        return {}
    part = path[2]
    if part == "gates":
        return _default_data(Gate, path[4:]) if len(path) > 4 else {}
    if part == "resources" or part == "retry":
        return _default_data(Resources if part == "resources" else RetryPolicy, path[3:])
    stages = data.get("stages") if isinstance(data, dict) else None
    stage = stages.get(str(path[1])) if isinstance(stages, dict) else None
    kind = kinds.get(str(stage.get("kind"))) if isinstance(stage, dict) else None
    classes = {"config": kind.config, "execution": kind.execution} if kind is not None else {}
    return _default_data(classes[str(part)], path[3:]) if part in classes else {}


def _with_indices(data: JSON, path: ValuePath) -> ValuePath:
    """The path with list positions as numbers."""
    actual: list[str | int] = []
    current = data
    for key in path:
        if isinstance(current, list):
            actual.append(int(key))
            current = current[int(key)]
        else:
            actual.append(key)
            current = current.get(str(key)) if isinstance(current, dict) else None
    return tuple(actual)


def _default_data(config_class: type, path: ValuePath) -> JSON:
    """The default of the field at `path` as plain data; an empty object if there is none."""
    for owner in classes_at(config_class, path[:-1]):
        for field in dataclasses.fields(owner):
            if field.name == path[-1]:
                default = _default(field)
                if dataclasses.is_dataclass(default) and not isinstance(default, type):
                    return config_to_json(default)
                return list(default) if isinstance(default, tuple) else {}
    return {}


def _default(field: "dataclasses.Field[Any]") -> object:
    if field.default is not dataclasses.MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else None
