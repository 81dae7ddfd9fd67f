"""A plan as plain data, kept in the store under its digest: the SHA-256 of its canonical JSON.

Rule: reading a plan gives exactly the plan that was written, or an error that says why that is impossible.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

from orchestrator.artifact import JSON, Fingerprint
from orchestrator.documents.renames import with_new_names
from orchestrator.documents.suggestions import check_names
from orchestrator.documents.typed_json import JSONObject, Problem, ValuePath, decode, path_text, record_from_json
from orchestrator.errors import CorruptArtifactError, RecipeError
from orchestrator.identity import (
    canonical_json,
    config_to_json,
    fingerprint_of,
    holds_secrets,
    semantic_config,
    to_json,
)
from orchestrator.planning.code_digest import code_of
from orchestrator.planning.plan import Action, Plan, PlannedStage
from orchestrator.planning.reasons import REASON_TYPES, Reason
from orchestrator.plugins.table import PluginRecord, kinds_of_plan, plugins_to_json
from orchestrator.recipe.loading import Kinds
from orchestrator.redaction.masking import mask_mapping
from orchestrator.stage import Gate, Resources, RetryPolicy, StageSpec

T = TypeVar("T")
PLAN_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class _PlanRecord:
    """The persisted form of a `Plan`; a stage is decoded with its kind."""

    format: Literal[1]
    recipe: str
    file: str
    stages: tuple[JSONObject, ...]
    plugins: tuple[PluginRecord, ...] = ()  # where its foreign stage kinds come from


@dataclass(frozen=True, kw_only=True)
class _StageRecord:
    """The persisted form of a `PlannedStage`."""

    id: str
    kind: str
    config: JSONObject
    inputs: dict[str, tuple[str, ...]]
    resources: JSONObject
    retry: JSONObject
    execution: JSONObject = field(default_factory=dict)  # as the gates: plans of older versions have none
    gates: dict[str, JSONObject] = field(default_factory=dict)
    payload: JSONObject
    fingerprint: str
    action: Action
    redo: bool
    reasons: tuple[JSONObject, ...]
    estimate_s: float | None
    approval: bool = False
    secrets: bool = False  # the configuration holds some, which are masked here


def plan_digest(plan: Plan) -> str:
    return digest_of(plan_to_json(plan))


def plan_to_json(plan: Plan) -> dict[str, JSON]:
    plugins = plugins_to_json(stage.spec.kind for stage in plan.stages)
    return mask_mapping(
        {
            "format": PLAN_FORMAT,
            "recipe": plan.recipe,
            "file": plan.file,
            "stages": [_stage_to_json(stage) for stage in plan.stages],
            **({"plugins": plugins} if plugins else {}),
        }
    )


def stages_with_secrets(plan: Plan) -> list[str]:
    """The stages to run whose configuration holds a secret, which the plan in the store does not."""
    return [stage.id for stage in plan.to_run if holds_secrets(stage.spec.config)]


def plan_from_json(
    data: Mapping[str, JSON],
    kinds: Kinds,
    *,
    digest: str | None = None,
    allow_changed_kinds: bool = False,
    secrets: Plan | None = None,
) -> Plan:
    """The plan in `data`, with its stage kinds taken from `kinds` and its plugins, and their current code.

    `allow_changed_kinds`: also accept a plan whose stages would make something else now. It shows what was made and
    must not be run. `secrets`: a plan of the same recipe, for secrets in configurations, which `data` does not hold.

    Raises:
        NewerFormatError: its format is newer than this program.
        PluginError: a plugin that the plan was made with is missing here, or of another version.
        RecipeError: the data is not a plan, does not match `digest`, or the stage kinds have changed since, so that the
            plan would make something else now.
    """
    record = _record(_PlanRecord, data, "plan")
    if digest is not None and digest_of(data) != digest:
        raise RecipeError(f"plans/{digest}.json: does not match its digest; make a new plan with `illume run`")
    kinds = kinds_of_plan(kinds, record.plugins, any_version=allow_changed_kinds)
    records = [_record(_StageRecord, stage, f"plan: stage {stage.get('id')!r}") for stage in record.stages]
    stages = tuple(_stage_from_record(stage, kinds, allow_changed_kinds) for stage in records)
    plan = Plan(recipe=record.recipe, stages=stages, file=record.file)
    masked = [stage.id for stage in records if stage.secrets and stage.action == "run"]
    return plan if allow_changed_kinds else _with_secrets(plan, masked, secrets)


def _with_secrets(plan: Plan, masked: Sequence[str], secrets: Plan | None) -> Plan:
    """Raises: RecipeError: a stage to run needs a secret that is not known."""
    specs = {stage.id: stage.spec for stage in secrets.stages} if secrets else {}
    stages = {stage.id: stage for stage in plan.stages}
    for stage_id in masked:
        spec, found = stages[stage_id].spec, specs.get(stage_id)
        if found is None or config_to_json(found.config) != config_to_json(spec.config):
            raise RecipeError(
                f"stages.{stage_id}.config: holds a secret, and no plan keeps secrets; continue with `illume run "
                f"{plan.file or 'RECIPE'}` on this machine, or let the stage read the secret from the environment"
            )
        stages[stage_id] = replace(stages[stage_id], spec=replace(spec, config=found.config))
    return replace(plan, stages=tuple(stages.values()))


def reason_from_json(data: Mapping[str, JSON]) -> Reason:
    """Raises: RecipeError: not a reason."""
    reason_type = str(data.get("type"))
    check_names([reason_type], REASON_TYPES, where="plan", what="type of reason")
    reason: Reason = _checked(REASON_TYPES[reason_type], data, ())
    return reason


def digest_of(data: Mapping[str, JSON]) -> str:
    """`plan_digest` of a plan as plain data."""
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
        "execution": config_to_json(spec.execution),
        "gates": to_json(spec.gates),
        "payload": stage.payload,
        "fingerprint": stage.fingerprint,
        "action": stage.action,
        "redo": stage.redo,
        "reasons": [to_json(reason) for reason in stage.reasons],
        "estimate_s": stage.estimate_s,
        **({"approval": True} if spec.approval else {}),
        **({"secrets": True} if holds_secrets(spec.config) else {}),
    }


def _stage_from_record(record: _StageRecord, kinds: Kinds, allow_changed_kinds: bool) -> PlannedStage:
    kind = kinds.get(record.kind)
    if kind is None:
        raise RecipeError(f"plan: stage {record.id!r} is of kind {record.kind!r}, which no longer exists")
    path: ValuePath = ("stages", record.id)
    spec = StageSpec(
        id=record.id,
        kind=kind,
        config=_checked(kind.config, with_new_names(kind.config, record.config), (*path, "config")),
        inputs=record.inputs,
        resources=_checked(Resources, record.resources, (*path, "resources")),
        retry=_checked(RetryPolicy, record.retry, (*path, "retry")),
        execution=_checked(kind.execution, record.execution, (*path, "execution")),
        gates={name: _checked(Gate, bounds, (*path, "gates", name)) for name, bounds in record.gates.items()},
        approval=record.approval,
    )
    payload, fingerprint = record.payload, Fingerprint(record.fingerprint)
    is_same_kind = payload.get("version") == kind.version and payload.get("config") == semantic_config(spec.config)
    if not (is_same_kind or allow_changed_kinds) or fingerprint_of(payload) != fingerprint:
        raise RecipeError(
            f"plan: stage {spec.id!r} would make something else now, because the version or the configuration of kind "
            f"{kind.name!r} has changed; make a new plan with `illume run`"
        )
    return PlannedStage(
        spec=spec,
        payload=payload,
        fingerprint=fingerprint,
        action=record.action,
        reasons=tuple(reason_from_json(reason) for reason in record.reasons),
        redo=record.redo,
        code=code_of(kind),
        estimate_s=record.estimate_s,
    )


def _record(record_class: type[T], data: Mapping[str, JSON], where: str) -> T:
    try:
        return record_from_json(record_class, data, where)
    except CorruptArtifactError as error:
        raise RecipeError(f"{error}; make a new plan with `illume run`") from error


def _checked(config_class: type[Any], data: Any, path: ValuePath) -> Any:
    problems: list[Problem] = []
    decoded = decode(config_class, data, path, problems)
    if decoded is None:
        found = "; ".join(f"{path_text(problem.path)}: {problem.text}" for problem in problems)
        raise RecipeError(f"plan: {found}; the stage kind has changed, make a new plan with `illume run`")
    return decoded
