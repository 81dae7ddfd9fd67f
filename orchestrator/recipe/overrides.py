"""`--set stages.NAME.config.key=value`: changes to a recipe's plain data before it is decoded."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.artifact import JSON
from orchestrator.recipe.decoding import default_data, found_text
from orchestrator.recipe.suggestions import expectation
from orchestrator.recipe.yaml_subset import Place, Problem, parse_yaml, place_text
from orchestrator.stage import Gate, Resources, RetryPolicy, StageKind

_KEY = re.compile(r"([^.\[\]=]+)((?:\[[0-9]+\])*)")
_FORM = "expected stages.NAME.config.KEY=VALUE"


def apply_overrides(
    data: JSON, overrides: Sequence[str], kinds: Mapping[str, StageKind[Any]], problems: list[Problem]
) -> dict[Place, str]:
    """Change `data` in place, in order; returns which override set which place.

    Values are read as YAML. A key that the recipe leaves to its default can be set, also below a default that is
    itself an object; whether a key is known at all is checked when the recipe is decoded.
    """
    origins: dict[Place, str] = {}
    for override in overrides:
        label = f"--set {override}"
        path, separator, text = override.partition("=")
        place = _parse_place(path.strip())
        if not separator or not place:
            problems.append(Problem(place=(), text=f"{label}: {_FORM}"))
            continue
        document = parse_yaml(text, label)
        problems += document.problems
        trouble = _set(data, place, document.data, kinds)
        if trouble is not None:
            problems.append(Problem(place=(), text=f"{label}: {trouble}"))
        else:
            origins[_actual(data, place)] = label
    return origins


def _parse_place(path: str) -> Place:
    """Empty for a path that cannot be read."""
    place: list[str | int] = []
    for part in path.split("."):
        match = _KEY.fullmatch(part)
        if match is None:
            return ()
        place.append(match[1])
        place += [int(index) for index in re.findall(r"[0-9]+", match[2])]
    return tuple(place)


def _set(data: JSON, place: Place, value: JSON, kinds: Mapping[str, StageKind[Any]]) -> str | None:
    """What is wrong with the place, or None when it was set."""
    stages = data.get("stages") if isinstance(data, dict) else None
    if place[0] == "stages" and isinstance(stages, dict) and (len(place) < 3 or place[1] not in stages):
        if len(place) < 3:
            return _FORM
        return f"found no stage {str(place[1])!r}; {expectation(str(place[1]), stages.keys())}"
    current: JSON = data
    for depth, key in enumerate(place):
        is_last = depth == len(place) - 1
        if isinstance(current, list):
            index = int(key) if str(key).isdigit() else -1
            if not 0 <= index < len(current):
                return f"{place_text(place[:depth])} has no item {key}; it has {len(current)}"
            if is_last:
                current[index] = value
            current = current[index]
        elif isinstance(current, dict) and isinstance(key, str):
            if is_last:
                current[key] = value
            elif current.get(key) is None:
                current[key] = _default_at(data, place[: depth + 1], kinds)
            current = current[key]
        else:
            return f"{place_text(place[:depth])} is {found_text(current)}, so nothing can be set below it"
    return None


def _default_at(data: JSON, place: Place, kinds: Mapping[str, StageKind[Any]]) -> JSON:
    """What the configuration class has at a place that the recipe leaves out."""
    if len(place) < 4 or place[0] != "stages":
        return {}
    part = place[2]
    if part == "gates":
        return default_data(Gate, place[4:]) if len(place) > 4 else {}
    if part == "resources" or part == "retry":
        return default_data(Resources if part == "resources" else RetryPolicy, place[3:])
    stages = data.get("stages") if isinstance(data, dict) else None
    stage = stages.get(str(place[1])) if isinstance(stages, dict) else None
    kind = kinds.get(str(stage.get("kind"))) if isinstance(stage, dict) else None
    return default_data(kind.config, place[3:]) if kind is not None and part == "config" else {}


def _actual(data: JSON, place: Place) -> Place:
    """The place with list positions as numbers."""
    actual: list[str | int] = []
    current = data
    for key in place:
        if isinstance(current, list):
            actual.append(int(key))
            current = current[int(key)]
        else:
            actual.append(key)
            current = current.get(str(key)) if isinstance(current, dict) else None
    return tuple(actual)
