"""A plan as plain data, kept in the store under its digest: the SHA-256 of its canonical JSON.

Rule: reading a plan gives exactly the plan that was written, or an error that says why that is impossible.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

from orchestrator.artifact import JSON, Fingerprint
from orchestrator.errors import RecipeError
from orchestrator.identity import canonical_json, config_to_json, fingerprint_of, semantic_config, to_json
from orchestrator.planning.code_digest import code_of
from orchestrator.planning.plan import Plan, PlannedStage
from orchestrator.planning.reasons import REASON_TYPES, Reason
from orchestrator.recipe.loading import Kinds
from orchestrator.stage import Gate, Resources, RetryPolicy, StageSpec
from orchestrator.typed_json import Problem, ValuePath, decode, path_text

PLAN_FORMAT = 1


def plan_digest(plan: Plan) -> str:
    return _digest(plan_to_json(plan))


def plan_to_json(plan: Plan) -> dict[str, JSON]:
    return {
        "format": PLAN_FORMAT,
        "recipe": plan.recipe,
        "file": plan.file,
        "stages": [_stage_to_json(stage) for stage in plan.stages],
    }


def plan_from_json(
    data: Mapping[str, JSON], kinds: Kinds, *, digest: str | None = None, allow_changed_kinds: bool = False
) -> Plan:
    """The plan in `data`, with its stage kinds taken from `kinds` and their current code.

    `allow_changed_kinds`: also accept a plan whose stages would make something else now. It shows what was made and
    must not be run.

    Raises:
        RecipeError: the data is not a plan, does not match `digest`, or the stage kinds have changed since, so that the
            plan would make something else now.
    """
    if digest is not None and _digest(data) != digest:
        raise RecipeError(f"plans/{digest}.json: does not match its digest; make a new plan with `illume run`")
    if data.get("format") != PLAN_FORMAT:
        raise RecipeError(f"plan: found format {data.get('format')!r}, expected {PLAN_FORMAT}; make a new plan")
    fields: Mapping[str, Any] = data
    try:
        stages = tuple(_stage_from_json(stage, kinds, allow_changed_kinds) for stage in fields["stages"])
        return Plan(recipe=str(fields["recipe"]), stages=stages, file=str(fields["file"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise RecipeError(f"plan: not a readable plan ({error!r}); make a new one with `illume run`") from error


def reason_from_json(data: Mapping[str, JSON]) -> Reason:
    reason: Reason = _checked(REASON_TYPES[str(data["type"])], data, ())
    return reason


def _digest(data: Mapping[str, JSON]) -> str:
    return hashlib.sha256(canonical_json(data).encode()).hexdigest()


def _stage_to_json(stage: PlannedStage) -> JSON:
    spec = stage.spec
    return {
        "id": spec.id,
        "kind": spec.kind.name,
        "config": config_to_json(spec.config),
        "inputs": to_json(spec.inputs),
        "resources": to_json(spec.resources),
        "retry": to_json(spec.retry),
        "gates": to_json(spec.gates),
        "payload": stage.payload,
        "fingerprint": stage.fingerprint,
        "action": stage.action,
        "redo": stage.redo,
        "reasons": [to_json(reason) for reason in stage.reasons],
        "estimate_s": stage.estimate_s,
    }


def _stage_from_json(data: Mapping[str, Any], kinds: Kinds, allow_changed_kinds: bool) -> PlannedStage:
    kind = kinds.get(data["kind"])
    if kind is None:
        raise RecipeError(f"plan: stage {data['id']!r} is of kind {data['kind']!r}, which no longer exists")
    spec = StageSpec(
        id=data["id"],
        kind=kind,
        config=_decoded(kind.config, data, "config"),
        inputs={slot: tuple(ids) for slot, ids in data["inputs"].items()},
        resources=_decoded(Resources, data, "resources"),
        retry=_decoded(RetryPolicy, data, "retry"),
        gates={
            name: _checked(Gate, bounds, ("stages", data["id"], "gates", name))
            for name, bounds in data.get("gates", {}).items()  # plans of older versions have none
        },
    )
    payload, fingerprint = data["payload"], Fingerprint(data["fingerprint"])
    is_same_kind = payload["version"] == kind.version and payload["config"] == semantic_config(spec.config)
    if not (is_same_kind or allow_changed_kinds) or fingerprint_of(payload) != fingerprint:
        raise RecipeError(
            f"plan: stage {spec.id!r} would make something else now, because the version or the configuration of kind "
            f"{kind.name!r} has changed; make a new plan with `illume run`"
        )
    return PlannedStage(
        spec=spec,
        payload=payload,
        fingerprint=fingerprint,
        action=data["action"],
        reasons=tuple(reason_from_json(reason) for reason in data["reasons"]),
        redo=data["redo"],
        code=code_of(kind),
        estimate_s=data["estimate_s"],
    )


def _decoded(config_class: type[Any], data: Mapping[str, Any], section: str) -> Any:
    return _checked(config_class, data[section], ("stages", data["id"], section))


def _checked(config_class: type[Any], data: Any, path: ValuePath) -> Any:
    problems: list[Problem] = []
    decoded = decode(config_class, data, path, problems)
    if decoded is None:
        found = "; ".join(f"{path_text(problem.path)}: {problem.text}" for problem in problems)
        raise RecipeError(f"plan: {found}; the stage kind has changed, make a new plan with `illume run`")
    return decoded
