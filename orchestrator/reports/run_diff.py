"""The differences between two runs: recipe, code, environment, identities, outputs, metrics and time.

Pure comparison of two results of `run_outputs`. The content of artifacts is compared elsewhere, by code that knows
their kinds.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from orchestrator.artifact import JSON, Manifest
from orchestrator.planning.defaults import complete_config
from orchestrator.planning.reasons import code_changes, leaves, own_changes, sequence_changes, value_changes
from orchestrator.planning.stage_identity import recorded_code
from orchestrator.recipe.loading import Kinds
from orchestrator.reports.run_outputs import RunOutputs, StageOutput
from orchestrator.store.manifests import number_to_json

DIFF_FORMAT = 2
ABSENT = "(absent)"
NO_KINDS: Kinds = MappingProxyType({})
EXECUTION_SECTIONS = ("execution", "resources", "retry", "gates")  # of a stage in a plan; never identity
State = Literal["same", "changed", "added", "removed"]
ONE_SIDED_STATES: tuple[State, State] = ("added", "removed")  # of stages that only the second, only the first run has


@dataclass(frozen=True, kw_only=True)
class Change:
    """A changed value at a dotted path (`place`); values as short text."""

    place: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.place}: {self.before} -> {self.after}"


@dataclass(frozen=True, kw_only=True)
class StageDiff:
    """The differences of one stage, which at least one of the runs has. Pairs are (before, after)."""

    id: str
    state: State  # of its identity
    is_first: bool = False  # its identity differs, but that of none of its inputs does
    reasons: tuple[str, ...] = ()  # why the identity differs
    code: tuple[str, ...] = ()  # source files that differ between the codes that made the outputs
    environment: tuple[Change, ...] = ()  # differences in Python, packages and host when the outputs were made
    outputs: Literal["one artifact", "equal", "different", "unknown"] = "unknown"  # unknown: one is not in the store
    files: tuple[str, ...] = ()  # of the outputs; those that differ
    before: StageOutput | None = None
    after: StageOutput | None = None

    @property
    def is_nondeterministic(self) -> bool:
        """True if the same identity was made twice with different results."""
        return self.state == "same" and self.outputs == "different"

    def metrics(self) -> dict[str, tuple[float | None, float | None]]:
        """The metrics of both outputs by name, as (before, after)."""
        before, after = (_metrics(side) for side in (self.before, self.after))
        return {name: (before.get(name), after.get(name)) for name in {**after, **before}}


def is_same_metric(before: float | None, after: float | None) -> bool:
    """Equality in which NaN equals NaN."""
    return before == after or (before is not None and after is not None and before != before and after != after)


@dataclass(frozen=True, kw_only=True)
class RunDiff:
    """The differences between two runs."""

    before: RunOutputs
    after: RunOutputs
    identity: tuple[Change, ...]  # changed values of stages in both recipes that are part of the identity
    execution: tuple[Change, ...]  # likewise, values that only decide how and where they run
    stages: tuple[StageDiff, ...]  # upstream first

    @property
    def environment(self) -> dict[Change, list[str]]:
        """Differences of the environments that made the outputs, each with the ids of its stages."""
        found: dict[Change, list[str]] = {}
        for stage in self.stages:
            for change in stage.environment:
                found.setdefault(change, []).append(stage.id)
        return found

    def of_state(self, state: State) -> list[StageDiff]:
        return [stage for stage in self.stages if stage.state == state]


def diff_runs(before: RunOutputs, after: RunOutputs, kinds: Kinds = NO_KINDS) -> RunDiff:
    """Compare two runs. `kinds` give the defaults, which identities leave out; without them defaults show as absent."""
    ids = [*after.stages, *(stage_id for stage_id in before.stages if stage_id not in after.stages)]
    unlike = {name for name in ids if _state(before.stages.get(name), after.stages.get(name)) != "same"}
    stages = tuple(_stage(before.stages.get(name), after.stages.get(name), unlike, kinds) for name in ids)
    changes = [change for stage in stages for change in _recipe_changes(stage, kinds)]
    return RunDiff(
        before=before,
        after=after,
        identity=tuple(change for change, is_identity in changes if is_identity),
        execution=tuple(change for change, is_identity in changes if not is_identity),
        stages=stages,
    )


def diff_to_json(diff: RunDiff) -> dict[str, JSON]:
    identity, execution = (
        [_change_to_json(change) for change in changes] for changes in (diff.identity, diff.execution)
    )
    environment: list[JSON] = [
        {**_change_to_json(change), "stages": list(ids)} for change, ids in diff.environment.items()
    ]
    added, removed = ([stage.id for stage in diff.of_state(state)] for state in ONE_SIDED_STATES)
    return {
        "format": DIFF_FORMAT,
        "before": _run_to_json(diff.before),
        "after": _run_to_json(diff.after),
        "recipe": {
            "added": [*added],
            "removed": [*removed],
            "identity": [*identity],
            "execution": [*execution],
        },
        "environment": environment,
        "first": [stage.id for stage in diff.stages if stage.is_first],
        "stages": [_stage_to_json(stage) for stage in diff.stages],
    }


def _state(before: StageOutput | None, after: StageOutput | None) -> State:
    if before is None or after is None:
        return "added" if before is None else "removed"
    return "same" if before.fingerprint == after.fingerprint else "changed"


def _stage(before: StageOutput | None, after: StageOutput | None, unlike: set[str], kinds: Kinds) -> StageDiff:
    either = after or before
    assert either is not None, "one of the runs has the stage"
    state = _state(before, after)
    upstream = {name for side in (before, after) if side for name in side.upstream}
    manifests = [side.output.manifest if side and side.output else None for side in (before, after)]
    outputs, files = _compare_outputs(before, after)
    return StageDiff(
        id=either.id,
        state=state,
        is_first=state != "same" and not upstream & unlike,
        reasons=tuple(_reasons(before, after, kinds)) if before and after and state == "changed" else (),
        code=_code(manifests[0], manifests[1]),
        environment=_environment(manifests[0], manifests[1]),
        outputs=outputs,
        files=files,
        before=before,
        after=after,
    )


def _reasons(before: StageOutput, after: StageOutput, kinds: Kinds) -> Iterator[str]:
    """Why the identities of a stage differ: changes of its own values, then of its inputs."""
    if before.planned["kind"] != after.planned["kind"]:
        yield f"kind: {before.planned['kind']} -> {after.planned['kind']}"
        return
    old, new = before.planned["payload"], after.planned["payload"]
    yield from (str(reason) for reason in own_changes(old, new, _config_class(after.planned, kinds)))
    for slot in {**new["inputs"], **old["inputs"]}:
        parents = old["inputs"].get(slot, []), new["inputs"].get(slot, [])
        if parents[0] != parents[1]:
            added, removed = sequence_changes(*parents)
            yield f"input {slot}: +{added} -{removed} artifacts" if added or removed else f"input {slot}: another order"


def _compare_outputs(
    before: StageOutput | None, after: StageOutput | None
) -> tuple[Literal["one artifact", "equal", "different", "unknown"], tuple[str, ...]]:
    if before is None or after is None or before.output is None or after.output is None:
        return "unknown", ()
    if before.fingerprint == after.fingerprint and before.output.attempt_id == after.output.attempt_id:
        return "one artifact", ()
    outputs = (before.output, after.output)
    digests = [{entry.path: entry.sha256 for entry in output.manifest.files} for output in outputs]
    unlike = code_changes(digests[0], digests[1])
    return ("different" if unlike else "equal"), unlike


def _code(before: Manifest | None, after: Manifest | None) -> tuple[str, ...]:
    if before is None or after is None:
        return ()
    old, new = recorded_code(before).files, recorded_code(after).files
    return code_changes(old, new) if old and new else ()


def _config_class(planned: Mapping[str, Any], kinds: Kinds) -> type | None:
    kind = kinds.get(planned["kind"])
    return None if kind is None else kind.config


def _semantic_config(planned: Mapping[str, Any], kinds: Kinds) -> JSON:
    config: JSON = planned["payload"]["config"]
    config_class = _config_class(planned, kinds)
    return config if config_class is None else complete_config(config_class, config)


def _recipe_changes(stage: StageDiff, kinds: Kinds) -> Iterator[tuple[Change, bool]]:
    """(change, whether it is part of the identity) for each value of a stage that differs between the recipes."""
    place, sides = f"stages.{stage.id}", (stage.before, stage.after)
    old, new = (side.planned if side else None for side in sides)
    if old is None or new is None:
        return
    if old["kind"] != new["kind"]:  # values of different kinds cannot be compared
        yield Change(place=f"{place}.kind", before=old["kind"], after=new["kind"]), True
        return
    if old["payload"]["version"] != new["payload"]["version"]:
        versions = [str(planned["payload"]["version"]) for planned in (old, new)]
        yield Change(place=f"{place} ({new['kind']}) version", before=versions[0], after=versions[1]), True
    semantic = [_semantic_config(planned, kinds) for planned in (old, new)]
    for name, before, after in value_changes(*semantic):
        yield Change(place=f"{place}.config.{name}", before=before, after=after), True
    for name, before, after in value_changes(old["inputs"], new["inputs"]):
        yield Change(place=f"{place}.inputs.{name}", before=before, after=after), True
    known = {path for config in semantic for path, _ in leaves(config)}
    for name, before, after in value_changes(old["config"], new["config"]):  # the rest: locations
        if name not in known:
            yield Change(place=f"{place}.config.{name}", before=before, after=after), False
    for section in EXECUTION_SECTIONS:
        for name, before, after in value_changes(old.get(section, {}), new.get(section, {})):
            yield Change(place=f"{place}.{section}.{name}", before=before, after=after), False


def _environment(before: Manifest | None, after: Manifest | None) -> tuple[Change, ...]:
    if before is None or after is None:
        return ()
    old, new = _environment_of(before), _environment_of(after)
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return tuple(Change(place=name, before=old.get(name, ABSENT), after=new.get(name, ABSENT)) for name in names)


def _environment_of(manifest: Manifest) -> dict[str, str]:
    """The environment in the provenance of an artifact, by name; missing values are left out."""
    provenance: Mapping[str, Any] = manifest.provenance
    packages = provenance.get("packages")
    facts = {name: provenance.get(name) for name in ("python", "platform", "host")}
    facts |= packages if isinstance(packages, dict) else {}
    return {name: str(value) for name, value in facts.items() if value is not None}


def _metrics(side: StageOutput | None) -> Mapping[str, float]:
    return side.output.manifest.metrics if side and side.output else {}


def _change_to_json(change: Change) -> dict[str, JSON]:
    return {"place": change.place, "before": change.before, "after": change.after}


def _run_to_json(outputs: RunOutputs) -> dict[str, JSON]:
    run = outputs.run
    return {
        "run": run.run_id,
        "recipe": run.recipe,
        "state": str(run.state),
        "created_at": run.created_at,
        "plan_digest": run.plan_digest,
    }


def _stage_to_json(stage: StageDiff) -> dict[str, JSON]:
    metrics: dict[str, JSON] = {
        name: [None if value is None else number_to_json(value) for value in pair]
        for name, pair in stage.metrics().items()
    }
    return {
        "id": stage.id,
        "state": stage.state,
        "first": stage.is_first,
        "reasons": list(stage.reasons),
        "code": list(stage.code),
        "outputs": stage.outputs,
        "files": list(stage.files),
        "metrics": metrics,
        "before": _side_to_json(stage.before),
        "after": _side_to_json(stage.after),
    }


def _side_to_json(side: StageOutput | None) -> JSON:
    if side is None:
        return None
    return {
        "kind": str(side.planned["kind"]),
        "fingerprint": side.fingerprint,
        "action": str(side.planned["action"]),
        "made_here": side.made_here,
        "attempt": side.output.attempt_id if side.output else None,
        "attempts": side.attempts,
        "seconds": side.seconds,
        "spent_s": side.spent_s,
        "gpu_hours": side.gpu_hours,
        **({"taken_down": side.taken_down} if side.taken_down else {}),
    }
