"""The plan of a recipe: what runs, what is reused, and why. A frozen value, made before anything runs.

Rule: a stage has the action `reuse` if and only if running the plan computes nothing for it.
"""

import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.artifact import JSON, ArtifactKey, Fingerprint, Manifest
from orchestrator.artifacts.restarts import restart_in
from orchestrator.artifacts.takedowns import Takedown
from orchestrator.documents.suggestions import check_names
from orchestrator.errors import PrecheckError, RecipeError
from orchestrator.history.attempts import StageRow
from orchestrator.identity import fingerprint_of
from orchestrator.planning.code_digest import CodeDigest
from orchestrator.planning.reasons import (
    CodeChanged,
    CodePolicy,
    ConsumersExist,
    Continues,
    Forced,
    InputChanged,
    NeverMade,
    OutputMissing,
    QuarantineRetried,
    Reason,
    Tainted,
    UpstreamReruns,
    own_changes,
    sequence_changes,
)
from orchestrator.planning.stage_identity import IdentifiedStage, PlanView, TaintIndex, deciding_inputs, identify
from orchestrator.stage import Recipe, StageSpec

Action = typing.Literal["run", "reuse", "skip"]


@dataclass(frozen=True, kw_only=True)
class PlannedStage:
    spec: StageSpec
    payload: dict[str, JSON]  # the identity; its canonical JSON hashes to `fingerprint`
    fingerprint: Fingerprint
    action: Action
    reasons: tuple[Reason, ...]  # why it runs or is skipped; for `reuse` only a warning that its code changed
    redo: bool  # its artifact exists and is retracted, with its shard records, before it runs
    code: CodeDigest  # recorded in the manifest's provenance, never identity
    estimate_s: float | None  # from the run history; only for `run`

    @property
    def id(self) -> str:
        return self.spec.id

    @property
    def key(self) -> ArtifactKey:
        return ArtifactKey(self.spec.kind.name, self.fingerprint)


@dataclass(frozen=True, kw_only=True)
class Plan:
    recipe: str
    stages: tuple[PlannedStage, ...]  # upstream first
    file: str = ""  # of the recipe, for messages

    def stage(self, stage_id: str) -> PlannedStage:
        """The stage with this id. Raises: RecipeError: there is none."""
        check_names([stage_id], [stage.id for stage in self.stages], where=self.recipe, what="stage")
        return next(stage for stage in self.stages if stage.id == stage_id)

    @property
    def to_run(self) -> tuple[PlannedStage, ...]:
        return tuple(stage for stage in self.stages if stage.action == "run")


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """Options of the user for a plan. Stages are named by id."""

    force: tuple[str, ...] = ()  # make these again, with everything made from them
    until: tuple[str, ...] = ()  # stop after these; the rest of the recipe is not planned
    only: tuple[str, ...] = ()  # run no other stage; what these read must exist
    retry_quarantined: bool = False  # make the shards with items that were found to fail again, and what follows
    code: CodePolicy = "warn"
    accept_taint: bool = False  # use models that were trained on what was taken down


def make_plan(recipe: Recipe, view: PlanView, options: PlanOptions | None = None) -> Plan:
    """Decide for every wanted stage whether it runs.

    Raises:
        RecipeError: an option names an unknown stage; a source file is missing; `only` leaves out a stage whose output
            is needed and absent; code changed under the policy `fail`.
    """
    options = options or PlanOptions()
    specs = _wanted(recipe, options)
    ends = set(options.only) or _ends(specs)
    stages = identify(
        specs, view, force=options.force, code=options.code, forbid_tainted_models=not options.accept_taint
    )
    if options.code == "fail":
        _refuse_changed_code(recipe, stages.values())
    retried = _quarantined(stages, options, view)
    redo = _stages_to_redo(stages, options, retried)
    run = _stages_to_run(stages, ends=ends, redo=redo)
    _refuse_outside_only(recipe, stages, run=run, only=options.only)
    planned = []
    for stage in stages.values():
        action: Action = "run" if stage.spec.id in run else "reuse" if stage.manifest else "skip"
        reasons = _reasons(stage, action, stages, run=run, options=options, recipe=recipe.name, view=view)
        if (num_items := retried.get(stage.spec.id)) and action == "run":
            forced = stage.spec.id in options.force  # then all of its shards are made again
            reasons = [*reasons[:forced], QuarantineRetried(items=num_items), *reasons[forced:]]
        if action == "run" and (restart := restart_in(stage.payload)):
            reasons = [*reasons, Continues(step=restart.step, fingerprint=restart.fingerprint)]
        planned.append(
            PlannedStage(
                spec=stage.spec,
                payload=stage.payload,
                fingerprint=stage.fingerprint,
                action=action,
                reasons=tuple(reasons),
                redo=stage.spec.id in redo and stage.manifest is not None,
                code=stage.code,
                estimate_s=_estimate_s(stage, stages, recipe.name, view) if action == "run" else None,
            )
        )
    return Plan(recipe=recipe.name, stages=tuple(planned), file=recipe.file)


def _estimate_s(
    stage: IdentifiedStage, stages: Mapping[str, IdentifiedStage], recipe: str, view: PlanView
) -> float | None:
    manifests = [stages[name].manifest for name in upstream_ids(stage.spec)]
    rows = [entry.rows or 0 for manifest in manifests if manifest is not None for entry in manifest.files]
    is_known = bool(manifests) and None not in manifests
    whole_s = view.estimate_s(recipe, stage.spec, stage.fingerprint, sum(rows) if is_known else None)
    restart, count = restart_in(stage.payload), stage.spec.kind.units
    if whole_s is None or restart is None or count is None:
        return whole_s
    units = max(1.0, count(stage.spec.config))
    return whole_s * max(0.0, units - restart.step) / units


def run_prechecks(plan: Plan) -> None:
    """Call the `precheck` of every stage that runs with its configuration and those of its inputs by slot.

    A slot with `many` is given as a tuple of configurations, any other as its only one. And its `precheck_execution`.

    Raises:
        PrecheckError: a stage cannot work as configured. Nothing has run.
    """
    configs = {stage.id: stage.spec.config for stage in plan.stages}
    for stage in plan.to_run:
        check, slots = stage.spec.kind.precheck, stage.spec.kind.inputs
        if check is not None:
            inputs = {slot: tuple(configs[name] for name in ids) for slot, ids in stage.spec.inputs.items()}
            check(stage.spec.config, {slot: found if slots[slot].many else found[0] for slot, found in inputs.items()})
        if (check_execution := stage.spec.kind.precheck_execution) is not None:
            try:
                check_execution(stage.spec.config, stage.spec.execution, stage.spec.resources)
            except PrecheckError as error:
                raise PrecheckError(f"stages.{stage.id}: {error}") from None


def check_needs(plan: Plan) -> None:
    """Check that the files and folders exist that stages read from outside the store and list in `needs`.

    Raises:
        PrecheckError: lists every missing path. Nothing has run.
    """
    problems = []
    for stage in plan.to_run:
        for name, path in (stage.spec.kind.needs(stage.spec.config) if stage.spec.kind.needs else {}).items():
            where = f"stages.{stage.id}.config.{name}"
            if not path:
                problems.append(f"{where}: empty, but this stage starts from files outside the store; give their path")
            elif not Path(path).exists():
                problems.append(f"{where}: nothing at {path!r}; give the path of the files that the config names")
    if problems:
        raise PrecheckError("\n".join([f"{plan.file or plan.recipe}: the run cannot start", *problems]))


def upstream_ids(spec: StageSpec) -> list[str]:
    return [stage_id for ids in spec.inputs.values() for stage_id in ids]


def tainted_stages(
    plan: Plan,
    takedowns: Sequence[Takedown],
    *,
    find: Callable[[ArtifactKey], Manifest | None] = lambda _key: None,
    forbid_tainted_models: bool = True,
) -> dict[str, tuple[str, ...]]:
    """The stages of a plan that a later takedown forbids, each with the ids of the takedowns."""
    taint_index = TaintIndex(takedowns, find=find, forbid_tainted_models=forbid_tainted_models)
    found = {stage.id: taint_index.takedowns_of(stage.payload) for stage in plan.stages}
    return {stage_id: ids for stage_id, ids in found.items() if ids}


def _wanted(recipe: Recipe, options: PlanOptions) -> list[StageSpec]:
    """The stages that the options select, with everything upstream of them, in the recipe's order."""
    known = [spec.id for spec in recipe.stages]
    where = recipe.file or recipe.name
    for option, names in (("until", options.until), ("only", options.only), ("force", options.force)):
        check_names(names, known, where=f"{where}: --{option}", what="stage")
    targets = set(options.until) | set(options.only)
    wanted = set(targets or known)
    for spec in reversed(recipe.stages):
        if spec.id in wanted:
            wanted.update(upstream_ids(spec))
    selected = [spec for spec in recipe.stages if spec.id in wanted]
    check_names(options.force, [spec.id for spec in selected], where=f"{where}: --force", what="stage of this plan")
    return selected


def _ends(specs: Iterable[StageSpec]) -> set[str]:
    specs = list(specs)
    return {spec.id for spec in specs} - {name for spec in specs for name in upstream_ids(spec)}


def _refuse_changed_code(recipe: Recipe, stages: Iterable[IdentifiedStage]) -> None:
    changed = [f"  {stage.spec.id}: {', '.join(stage.changed_files)}" for stage in stages if stage.changed_files]
    if changed:
        lines = "\n".join(changed)
        raise RecipeError(
            f"{recipe.file or recipe.name}: the code of stages that would be reused has changed:\n{lines}\n"
            "Raise the version of the stage kind if its output changes, or plan with --code rerun or --code warn."
        )


def _quarantined(stages: Mapping[str, IdentifiedStage], options: PlanOptions, view: PlanView) -> dict[str, int]:
    """The stages whose quarantined items are tried again, with their number."""
    if not options.retry_quarantined:
        return {}
    made = {name: stage.manifest for name, stage in stages.items() if stage.manifest is not None}
    counts = {name: view.quarantined(stages[name].spec.kind.name, manifest) for name, manifest in made.items()}
    return {name: count for name, count in counts.items() if count}


def _stages_to_redo(stages: Mapping[str, IdentifiedStage], options: PlanOptions, retried: Collection[str]) -> set[str]:
    """Stages whose existing artifact is made again: by request, or because one of its inputs is made again."""
    roots = set(options.force) | set(retried)
    if options.code == "rerun":
        roots |= {name for name, stage in stages.items() if stage.changed_files}
    if options.only:
        roots &= set(options.only)
    reached = set(roots)
    for name, stage in stages.items():
        decisive = {upstream for ids in deciding_inputs(stage.spec).values() for upstream in ids}
        if reached & decisive and (not options.only or name in options.only):
            reached.add(name)
    return {name for name in reached if stages[name].manifest is not None} | (roots & set(options.force))


def _stages_to_run(stages: Mapping[str, IdentifiedStage], *, ends: Collection[str], redo: Collection[str]) -> set[str]:
    """Found from the ends backwards: stages to redo, and absent ones that are an end or an input of a running stage."""
    run: set[str] = set()
    needed = set(ends)
    for name in reversed(list(stages)):
        stage = stages[name]
        if name in redo or (stage.manifest is None and name in needed):
            run.add(name)
            needed.update(upstream_ids(stage.spec))
    return run


def _refuse_outside_only(
    recipe: Recipe, stages: Mapping[str, IdentifiedStage], *, run: Collection[str], only: Sequence[str]
) -> None:
    outside = [name for name in stages if only and name in run and name not in only]
    if outside:
        raise RecipeError(
            f"{recipe.file or recipe.name}: --only {' --only '.join(only)}: found no output of "
            f"{', '.join(outside)}, which is needed; add --only {' --only '.join(outside)}, or use --until"
        )


def _reasons(
    stage: IdentifiedStage,
    action: Action,
    stages: Mapping[str, IdentifiedStage],
    *,
    run: Collection[str],
    options: PlanOptions,
    recipe: str,
    view: PlanView,
) -> list[Reason]:
    changed_code = [CodeChanged(files=stage.changed_files, policy=options.code)] if stage.changed_files else []
    if action == "skip":
        return [ConsumersExist()]
    if action == "reuse":
        return [*changed_code]
    reasons: list[Reason] = [Forced()] if stage.spec.id in options.force else []
    if stage.manifest is not None:
        rerun = [name for ids in deciding_inputs(stage.spec).values() for name in ids if name in run]
        reasons += changed_code if options.code == "rerun" else []
        return reasons + ([UpstreamReruns(stages=tuple(dict.fromkeys(rerun)))] if rerun else [])
    before = view.previous(recipe, stage.spec.id, stage.spec.kind.name)
    if before is None:
        return [*reasons, NeverMade()]
    if fingerprint_of(before) == stage.fingerprint:
        return [*reasons, OutputMissing()]
    reasons += [
        Tainted(takedown=takedown) for takedown in TaintIndex(view.takedowns, find=view.find).takedowns_of(before)
    ]
    differences = own_changes(before, stage.payload, stage.spec.kind.config)
    differences += _input_changes(stage, before, stages, run=run, view=view)
    return reasons + (differences or ([] if reasons else [NeverMade()]))


def _input_changes(
    stage: IdentifiedStage,
    before: Mapping[str, JSON],
    stages: Mapping[str, IdentifiedStage],
    *,
    run: Collection[str],
    view: PlanView,
) -> list[Reason]:
    """Changes of each slot since last time; an upstream stage that runs explains more than its new fingerprint."""
    reasons: list[Reason] = []
    old_inputs = before.get("inputs")
    old_inputs = old_inputs if isinstance(old_inputs, dict) else {}
    rerun: list[str] = []
    inputs = deciding_inputs(stage.spec)
    for slot in [*inputs, *(slot for slot in old_inputs if slot not in inputs)]:
        names = inputs.get(slot, ())
        fingerprints = old_inputs.get(slot)
        old = [Fingerprint(str(item)) for item in fingerprints] if isinstance(fingerprints, list) else []
        new = [stages[name].fingerprint for name in names]
        fresh = [name for name in names if name in run and stages[name].fingerprint not in old]
        if old == new or fresh:
            rerun += fresh
            continue
        reasons.append(_input_change(slot, old, [stages[name] for name in names], view))
    return reasons + ([UpstreamReruns(stages=tuple(dict.fromkeys(rerun)))] if rerun else [])


def _input_change(
    slot: str, old: Sequence[Fingerprint], new: Sequence[IdentifiedStage], view: PlanView
) -> InputChanged:
    """The change of one slot, counted in shards if all artifacts on both sides have shards, else in artifacts."""
    kinds = {stage.spec.kind.name for stage in new}
    before = [
        next(filter(None, (view.find(ArtifactKey(kind, fingerprint)) for kind in kinds)), None) for fingerprint in old
    ]
    sides = [*before, *(stage.manifest for stage in new)]
    if before and new and all(manifest is not None and manifest.shards for manifest in sides):
        added, removed = sequence_changes(_shards(before), _shards(stage.manifest for stage in new))
        if added or removed:
            return InputChanged(slot=slot, added=added, removed=removed, unit="shards")
    added, removed = sequence_changes(old, [stage.fingerprint for stage in new])
    return InputChanged(slot=slot, added=added, removed=removed, unit="artifacts")


def _shards(manifests: Iterable[Manifest | None]) -> list[str]:
    return [shard for manifest in manifests if manifest is not None for shard in manifest.shards]


def stage_rows(plan: Plan) -> list[StageRow]:
    """The stages of a plan as the history records them with their run."""
    return [
        StageRow(
            stage_id=stage.id,
            stage_kind=stage.spec.kind.name,
            fingerprint=stage.fingerprint,
            action=stage.action,
            reasons=tuple(str(reason) for reason in stage.reasons),
            upstream=tuple(upstream_ids(stage.spec)),
        )
        for stage in plan.stages
    ]
