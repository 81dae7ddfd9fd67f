"""Loading of a recipe file into a typed, checked `Recipe`. After it, no code handles untyped recipe values."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.artifact import JSON
from orchestrator.documents.renames import new_metric_name
from orchestrator.documents.suggestions import expectation
from orchestrator.documents.typed_json import Problem, ValuePath, decode, found_text, path_text
from orchestrator.errors import RecipeError
from orchestrator.recipe.overrides import apply_overrides
from orchestrator.recipe.preparations import with_preparations
from orchestrator.recipe.yaml_subset import Document, parse_yaml, read_text
from orchestrator.stage import Gate, Recipe, Resources, RetryPolicy, Slot, StageKind, StageSpec

Kinds = Mapping[str, StageKind[Any]]
RECIPE_FORMAT = 1  # a recipe without the key 'format' is of this format
STAGE_KEYS = ("kind", "inputs", "config", "execution", "resources", "retry", "gates", "approval")
MAX_LISTED_PROBLEMS = 40
_STAGE_ID = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_RECIPE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def load_recipe(file: Path, kinds: Kinds, overrides: Sequence[str] = ()) -> Recipe:
    """Read, override, decode and check a recipe.

    Raises:
        RecipeError: names every problem of the file that can be found at once, each with its line and dotted path.
    """
    document = parse_yaml(read_text(file), str(file))
    return _to_recipe(document, kinds, overrides, file=str(file))


def decode_recipe(
    data: dict[str, JSON], kinds: Kinds, overrides: Sequence[str] = (), *, file: str = "recipe"
) -> Recipe:
    """Decode and check a recipe that a function computed; see `load_recipe`. Overrides are written into `data`."""
    return _to_recipe(Document(data=data, lines={}), kinds, overrides, file=file)


@dataclass(kw_only=True)
class _Decoding:
    """The state of decoding one recipe; problems are collected until the end."""

    kinds: Kinds
    problems: list[Problem] = field(default_factory=list)
    stage_kinds: dict[str, StageKind[Any] | None] = field(default_factory=dict)  # stage -> kind, None: unknown
    inputs: dict[str, dict[str, tuple[str, ...]]] = field(default_factory=dict)  # stage -> slot -> stages
    specs: dict[str, StageSpec] = field(default_factory=dict)  # of the stages without problems

    def report(self, path: ValuePath, text: str) -> None:
        self.problems.append(Problem(path=path, text=text))


def _to_recipe(document: Document, kinds: Kinds, overrides: Sequence[str], *, file: str) -> Recipe:
    decoding = _Decoding(kinds=kinds, problems=list(document.problems))
    origins = apply_overrides(document.data, overrides, kinds, decoding.problems)
    name = _decode_top(document.data, decoding)
    _check_wiring(decoding)
    ordered = _upstream_first(decoding)
    if decoding.problems:
        raise RecipeError(_message(file, decoding.problems, document.lines, origins))
    stages = with_preparations([decoding.specs[stage_id] for stage_id in ordered])
    return Recipe(name=name, stages=tuple(stages), file=file)


def _decode_top(data: JSON, decoding: _Decoding) -> str:
    if not isinstance(data, dict):
        decoding.report((), f"found {found_text(data)}, expected a mapping with the keys 'name' and 'stages'")
        return ""
    if "format" in data and (text := _format_problem(data["format"])):
        decoding.problems = [Problem(path=("format",), text=text)]  # the other keys may mean something else there
        return ""
    _report_unknown({key: value for key, value in data.items() if key != "format"}, ("name", "stages"), (), decoding)
    name = data.get("name")
    if not isinstance(name, str) or not _RECIPE_NAME.fullmatch(name):
        found = found_text(name) if "name" in data else "none"
        decoding.report(("name",), f"found {found}, expected a name of letters, digits, '-', '_' and '.'")
    stages = data.get("stages")
    if not isinstance(stages, dict) or not stages:
        found = found_text(stages) if "stages" in data else "none"
        decoding.report(("stages",), f"found {found}, expected a mapping with at least one stage")
        return str(name)
    for stage_id, stage in stages.items():
        _decode_stage(stage_id, stage, decoding)
    return str(name)


def _format_problem(found: JSON) -> str:
    if isinstance(found, bool) or not isinstance(found, int) or found < RECIPE_FORMAT:
        return f"found {found_text(found)}, expected {RECIPE_FORMAT}; leave it out"
    if found > RECIPE_FORMAT:
        return f"found {found}, but this illume reads recipes up to format {RECIPE_FORMAT}; install a newer illume"
    return ""


def _decode_stage(stage_id: str, data: JSON, decoding: _Decoding) -> None:
    path: ValuePath = ("stages", stage_id)
    decoding.stage_kinds[stage_id] = None
    if not _STAGE_ID.fullmatch(stage_id):
        decoding.report(path, "expected a stage name of letters, digits, '-' and '_' that starts with a letter")
    if not isinstance(data, dict):
        decoding.report(path, f"found {found_text(data)}, expected a mapping with the key 'kind'")
        return
    _report_unknown(data, STAGE_KEYS, path, decoding)
    kind = decoding.stage_kinds[stage_id] = _decode_kind(data, path, decoding)
    resources = decode(Resources, _section(data, "resources"), (*path, "resources"), decoding.problems)
    retry = decode(RetryPolicy, _section(data, "retry"), (*path, "retry"), decoding.problems)
    gates = _decode_gates(_section(data, "gates"), kind, (*path, "gates"), decoding)
    approval = data.get("approval", False)
    if not isinstance(approval, bool):
        decoding.report((*path, "approval"), f"found {found_text(approval)}, expected true or false")
    inputs = decoding.inputs[stage_id] = _decode_inputs(_section(data, "inputs"), kind, (*path, "inputs"), decoding)
    if kind is None:
        return
    config = decode(kind.config, _section(data, "config"), (*path, "config"), decoding.problems)
    execution = decode(kind.execution, _section(data, "execution"), (*path, "execution"), decoding.problems)
    if config is not None and resources is not None and retry is not None and execution is not None:
        decoding.specs[stage_id] = StageSpec(
            id=stage_id,
            kind=kind,
            config=config,
            inputs=inputs,
            resources=resources,
            retry=retry,
            execution=execution,
            gates=gates,
            approval=approval is True,
        )


def _decode_kind(data: Mapping[str, JSON], path: ValuePath, decoding: _Decoding) -> StageKind[Any] | None:
    name = data.get("kind")
    if isinstance(name, str) and name in decoding.kinds:
        return decoding.kinds[name]
    valid = expectation(name if isinstance(name, str) else "", decoding.kinds.keys())
    found = f"found {found_text(name)}" if "kind" in data else "missing"
    decoding.report((*path, "kind"), f"{found}; no such stage kind; {valid}")
    return None


def _decode_gates(data: JSON, kind: StageKind[Any] | None, path: ValuePath, decoding: _Decoding) -> dict[str, Gate]:
    if not isinstance(data, dict):
        decoding.report(path, f"found {found_text(data)}, expected a mapping from metrics of the stage to bounds")
        return {}
    for name in sorted(data.keys()):
        problem = _metric_problem(name, kind) if kind is not None else ""
        if problem:
            decoding.report((*path, name), problem)
    gates = {name: decode(Gate, bounds, (*path, name), decoding.problems) for name, bounds in data.items()}
    return {name: gate for name, gate in gates.items() if gate is not None}


def _metric_problem(name: str, kind: StageKind[Any]) -> str:
    new_name = new_metric_name(kind.renamed_metrics, name)
    if new_name is not None:
        return f"the metric is called {new_name!r} now"
    if kind.gives_metric(name):
        return ""
    return f"the kind {kind.name} has no such metric; {expectation(name, kind.metric_names or kind.metrics.keys())}"


def _section(data: Mapping[str, JSON], key: str) -> JSON:
    """An optional section of a stage; empty if missing or null."""
    value = data.get(key)
    return {} if value is None else value


def _decode_inputs(
    data: JSON, kind: StageKind[Any] | None, path: ValuePath, decoding: _Decoding
) -> dict[str, tuple[str, ...]]:
    if not isinstance(data, dict):
        decoding.report(path, f"found {found_text(data)}, expected a mapping from slots to stage names")
        return {}
    inputs: dict[str, tuple[str, ...]] = {}
    for slot, value in data.items():
        ids = [value] if isinstance(value, str) else value
        if not isinstance(ids, list) or not all(isinstance(stage_id, str) for stage_id in ids):
            decoding.report((*path, slot), f"found {found_text(value)}, expected a stage name or a list of them")
        elif ids:
            inputs[slot] = tuple(str(stage_id) for stage_id in ids)
    if kind is not None:
        _check_slots(inputs, data, kind, path, decoding)
        return {slot: inputs[slot] for slot in kind.inputs if slot in inputs}
    return inputs


def _check_slots(
    inputs: Mapping[str, tuple[str, ...]],
    data: Mapping[str, JSON],
    kind: StageKind[Any],
    path: ValuePath,
    decoding: _Decoding,
) -> None:
    for name in data:
        if name not in kind.inputs:
            valid = expectation(name, kind.inputs.keys())
            decoding.report((*path, name), f"stage kind {kind.name!r} has no such input slot; {valid}")
    for name, slot in kind.inputs.items():
        ids = inputs.get(name, ())
        if slot.required and not ids and (name not in data or data[name] in (None, [])):
            decoding.report((*path, name), f"missing; expected the name of a stage that makes {slot.kind!r}")
        if len(ids) > 1 and not slot.many:
            decoding.report((*path, name), f"found {len(ids)} stages, expected one")
        if len(set(ids)) < len(ids):
            twice = next(stage_id for stage_id in ids if ids.count(stage_id) > 1)
            decoding.report((*path, name), f"found {twice!r} twice")


def _report_unknown(data: Mapping[str, JSON], valid: Sequence[str], path: ValuePath, decoding: _Decoding) -> None:
    for key in data:
        if key not in valid:
            decoding.report((*path, key), f"unknown key; {expectation(key, valid)}")


def _check_wiring(decoding: _Decoding) -> None:
    """Check that every input names a stage of the recipe that makes the artifact kind that the slot takes."""
    for stage_id, inputs in decoding.inputs.items():
        kind = decoding.stage_kinds[stage_id]
        for slot, upstream_ids in inputs.items():
            path: ValuePath = ("stages", stage_id, "inputs", slot)
            for upstream_id in upstream_ids:
                _check_wire(kind.inputs[slot] if kind else None, upstream_id, path, decoding)


def _check_wire(slot: Slot | None, upstream_id: str, path: ValuePath, decoding: _Decoding) -> None:
    kinds = decoding.stage_kinds
    if upstream_id not in kinds:
        decoding.report(path, f"found no stage {upstream_id!r}; {expectation(upstream_id, kinds.keys())}")
        return
    upstream = kinds[upstream_id]
    if slot is not None and upstream is not None and upstream.output != slot.kind:
        makers = ", ".join(repr(name) for name, kind in kinds.items() if kind and kind.output == slot.kind)
        hint = f"; stages that make it: {makers}" if makers else ""
        decoding.report(path, f"needs {slot.kind!r}, but {upstream_id!r} makes {upstream.output!r}{hint}")


def _upstream_first(decoding: _Decoding) -> list[str]:
    """The stage ids in the order of the file, except that a stage that precedes its input is moved after it."""
    waiting = {
        stage_id: [name for ids in inputs.values() for name in ids if name in decoding.inputs]
        for stage_id, inputs in decoding.inputs.items()
    }
    ordered: dict[str, None] = {}
    while waiting:
        ready = next((name for name, upstream in waiting.items() if all(item in ordered for item in upstream)), None)
        if ready is None:
            decoding.report(("stages",), f"found a cycle: {' -> '.join(_cycle(waiting))}; a stage cannot need itself")
            return []
        ordered[ready] = None
        del waiting[ready]
    return list(ordered)


def _cycle(waiting: Mapping[str, Sequence[str]]) -> list[str]:
    """The stages of one cycle, in the direction of the data flow."""
    path = [next(iter(waiting))]
    while path[-1] not in path[:-1]:
        path.append(next(name for name in waiting[path[-1]] if name in waiting))
    return list(reversed(path[path.index(path[-1]) :]))


def _message(
    file: str, problems: Sequence[Problem], lines: Mapping[ValuePath, int], origins: Mapping[ValuePath, str]
) -> str:
    first: dict[tuple[ValuePath, str], Problem] = {}  # for each path; later problems follow from it
    for problem in problems:
        first.setdefault((problem.path, "" if problem.path else problem.text), problem)
    located = sorted((_located(problem, lines, origins) for problem in first.values()), key=lambda item: item[0])
    if len(located) == 1:
        line, text = located[0]
        return f"{file}:{line}: {text}" if line else f"{file}: {text}"
    rows = [f"  line {line}: {text}" if line else f"  {text}" for line, text in located[:MAX_LISTED_PROBLEMS]]
    if len(located) > MAX_LISTED_PROBLEMS:
        rows.append(f"  and {len(located) - MAX_LISTED_PROBLEMS} more")
    return "\n".join([f"{file}: {len(located)} problems", *rows])


def _located(problem: Problem, lines: Mapping[ValuePath, int], origins: Mapping[ValuePath, str]) -> tuple[int, str]:
    """The line (0: unknown) and the text of a problem; the line is that of the nearest enclosing value that has one."""
    path, where = problem.path, path_text(problem.path)
    if not path:
        return 0, problem.text
    text = f"{where}: {problem.text}"
    for depth in range(len(path), -1, -1):
        if path[:depth] in origins:
            return 0, f"{where} (from {origins[path[:depth]]}): {problem.text}"
        if path[:depth] in lines:
            below = [origin for changed, origin in origins.items() if changed[: len(path)] == path]
            return (0, f"{where} (from {below[0]}): {problem.text}") if below else (lines[path[:depth]], text)
    return 0, text
