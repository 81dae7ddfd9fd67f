"""What would run, what is reused, and why: a frozen value made before anything runs.

The rule that keeps it correct: a stage is `reuse` if and only if carrying out the plan computes nothing for it.
"""

import typing
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.artifact import JSON, Fingerprint, Manifest
from orchestrator.artifacts.takedowns import Takedown
from orchestrator.errors import PrecheckError, RecipeError
from orchestrator.identity import fingerprint_of
from orchestrator.planning.code_digest import CodeDigest
from orchestrator.planning.reasons import (
    CodeChanged,
    CodePolicy,
    ConsumersExist,
    Forced,
    InputChanged,
    NeverMade,
    OutputMissing,
    Reason,
    Tainted,
    UpstreamReruns,
    own_changes,
    sequence_changes,
)
from orchestrator.planning.stage_identity import IdentifiedStage, PlanView, Taints, identify
from orchestrator.recipe.suggestions import check_names
from orchestrator.stage import Recipe, StageSpec

Action = typing.Literal["run", "reuse", "skip"]


@dataclass(frozen=True, kw_only=True)
class PlannedStage:
    spec: StageSpec
    payload: dict[str, JSON]  # the identity; its canonical JSON hashes to `fingerprint`
    fingerprint: Fingerprint
    action: Action
    reasons: tuple[Reason, ...]  # why it runs or is skipped; for `reuse` only a warning that its code moved
    redo: bool = False  # its artifact exists and is withdrawn, with its shard records, before it runs
    code: CodeDigest = field(default_factory=CodeDigest)  # recorded in the manifest's provenance, never identity
    estimate_s: float | None = None  # from history; only for `run`

    @property
    def id(self) -> str:
        return self.spec.id


@dataclass(frozen=True, kw_only=True)
class Plan:
    recipe: str
    stages: tuple[PlannedStage, ...]  # upstream first
    file: str = ""  # the recipe's, for messages

    def stage(self, stage_id: str) -> PlannedStage:
        """Raises: RecipeError: no stage of the plan has that id."""
        check_names([stage_id], [stage.id for stage in self.stages], where=self.recipe, what="stage")
        return next(stage for stage in self.stages if stage.id == stage_id)

    @property
    def to_run(self) -> tuple[PlannedStage, ...]:
        return tuple(stage for stage in self.stages if stage.action == "run")


@dataclass(frozen=True, kw_only=True)
class PlanWishes:
    """What the user asked for on top of the recipe, in stage ids."""

    force: tuple[str, ...] = ()  # make these again, and whatever was made from them
    until: tuple[str, ...] = ()  # stop after these; the rest of the recipe is not planned
    only: tuple[str, ...] = ()  # run no other stage; what these read must exist
    code: CodePolicy = "warn"
    accept_taint: bool = False  # go on with models that saw what was taken down


def make_plan(recipe: Recipe, view: PlanView, wishes: PlanWishes | None = None) -> Plan:
    """Decide for every wanted stage whether it runs.

    Raises:
        RecipeError: a wish names an unknown stage; a source file is missing; `only` leaves out a stage whose output
            is needed and absent; code changed under the policy `fail`.
    """
    wishes = wishes or PlanWishes()
    specs = _wanted(recipe, wishes)
    ends = set(wishes.only) or _ends(specs)
    stages = identify(specs, view, force=wishes.force, code=wishes.code, models_count=not wishes.accept_taint)
    if wishes.code == "fail":
        _refuse_changed_code(recipe, stages.values())
    redo = _redone(stages, wishes)
    run = _running(stages, ends=ends, redo=redo)
    _refuse_outside_only(recipe, stages, run=run, only=wishes.only)
    planned = []
    for stage in stages.values():
        action: Action = "run" if stage.spec.id in run else "reuse" if stage.manifest else "skip"
        planned.append(
            PlannedStage(
                spec=stage.spec,
                payload=stage.payload,
                fingerprint=stage.fingerprint,
                action=action,
                reasons=tuple(_reasons(stage, action, stages, run=run, wishes=wishes, recipe=recipe.name, view=view)),
                redo=stage.spec.id in redo and stage.manifest is not None,
                code=stage.code,
                estimate_s=view.estimate_s(recipe.name, stage.spec, stage.fingerprint) if action == "run" else None,
            )
        )
    return Plan(recipe=recipe.name, stages=tuple(planned), file=recipe.file)


def run_prechecks(plan: Plan) -> None:
    """Let the kinds of all stages that run look at their configuration, and at those of their inputs by slot.

    A slot with `many` gives a tuple of configurations, any other its only one.

    Raises:
        PrecheckError: a stage cannot work as configured; nothing was spent.
    """
    configs = {stage.id: stage.spec.config for stage in plan.stages}
    for stage in plan.to_run:
        check, slots = stage.spec.kind.precheck, stage.spec.kind.inputs
        if check is not None:
            inputs = {slot: tuple(configs[name] for name in ids) for slot, ids in stage.spec.inputs.items()}
            check(stage.spec.config, {slot: found if slots[slot].many else found[0] for slot, found in inputs.items()})


def check_needs(plan: Plan) -> None:
    """See that the files and folders exist that stages take from outside, and whose identity their config states.

    Raises:
        PrecheckError: that lists every one that is missing; nothing was spent.
    """
    problems = []
    for stage in plan.to_run:
        for name, place in (stage.spec.kind.needs(stage.spec.config) if stage.spec.kind.needs else {}).items():
            where = f"stages.{stage.id}.config.{name}"
            if not place:
                problems.append(f"{where}: empty, but this stage starts from files outside the store; give their path")
            elif not Path(place).exists():
                problems.append(f"{where}: nothing at {place!r}; give the path of the files that the config names")
    if problems:
        raise PrecheckError("\n".join([f"{plan.file or plan.recipe}: the run cannot start", *problems]))


def upstream_ids(spec: StageSpec) -> list[str]:
    return [stage_id for ids in spec.inputs.values() for stage_id in ids]


def tainted_stages(
    plan: Plan, takedowns: Sequence[Takedown], *, models_count: bool = True
) -> dict[str, tuple[str, ...]]:
    """The stages of a plan that a later takedown made unusable, with the ids of the takedowns."""
    taints = Taints(takedowns, models_count=models_count)
    found = {stage.id: taints.of(stage.payload) for stage in plan.stages}
    return {stage_id: ids for stage_id, ids in found.items() if ids}


def _wanted(recipe: Recipe, wishes: PlanWishes) -> list[StageSpec]:
    """The stages that the wishes select, with everything upstream of them, in the recipe's order."""
    known = [spec.id for spec in recipe.stages]
    where = recipe.file or recipe.name
    for option, names in (("until", wishes.until), ("only", wishes.only), ("force", wishes.force)):
        check_names(names, known, where=f"{where}: --{option}", what="stage")
    targets = set(wishes.until) | set(wishes.only)
    wanted = set(targets or known)
    for spec in reversed(recipe.stages):
        if spec.id in wanted:
            wanted.update(upstream_ids(spec))
    selected = [spec for spec in recipe.stages if spec.id in wanted]
    check_names(wishes.force, [spec.id for spec in selected], where=f"{where}: --force", what="stage of this plan")
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


def _redone(stages: Mapping[str, IdentifiedStage], wishes: PlanWishes) -> set[str]:
    """Stages whose existing artifact is to be made again: asked for, or made from one that is."""
    roots = set(wishes.force)
    if wishes.code == "rerun":
        roots |= {name for name, stage in stages.items() if stage.changed_files}
    if wishes.only:
        roots &= set(wishes.only)
    reached = set(roots)
    for name, stage in stages.items():
        if reached.intersection(upstream_ids(stage.spec)) and (not wishes.only or name in wishes.only):
            reached.add(name)
    return {name for name in reached if stages[name].manifest is not None} | (roots & set(wishes.force))


def _running(stages: Mapping[str, IdentifiedStage], *, ends: Collection[str], redo: Collection[str]) -> set[str]:
    """Worked back from the ends: what is to be redone, and what is absent and needed by an end or by what runs."""
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
    wishes: PlanWishes,
    recipe: str,
    view: PlanView,
) -> list[Reason]:
    changed_code = [CodeChanged(files=stage.changed_files, policy=wishes.code)] if stage.changed_files else []
    if action == "skip":
        return [ConsumersExist()]
    if action == "reuse":
        return [*changed_code]
    reasons: list[Reason] = [Forced()] if stage.spec.id in wishes.force else []
    if stage.manifest is not None:
        rerun = [name for name in upstream_ids(stage.spec) if name in run]
        reasons += changed_code if wishes.code == "rerun" else []
        return reasons + ([UpstreamReruns(stages=tuple(dict.fromkeys(rerun)))] if rerun else [])
    before = view.previous(recipe, stage.spec.id, stage.spec.kind.name)
    if before is None:
        return [*reasons, NeverMade()]
    if fingerprint_of(before) == stage.fingerprint:
        return [*reasons, OutputMissing()]
    reasons += [Tainted(takedown=takedown) for takedown in Taints(view.takedowns).of(before)]
    differences = own_changes(before, stage.payload)
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
    """Compare each slot with last time; an upstream that is going to run explains more than its fingerprint."""
    reasons: list[Reason] = []
    old_inputs = before.get("inputs")
    old_inputs = old_inputs if isinstance(old_inputs, dict) else {}
    rerun: list[str] = []
    for slot in [*stage.spec.inputs, *(slot for slot in old_inputs if slot not in stage.spec.inputs)]:
        names = stage.spec.inputs.get(slot, ())
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
    """In shards where all artifacts on both sides are made of shards, else in whole artifacts."""
    kinds = {stage.spec.kind.name for stage in new}
    before = [next(filter(None, (view.find(kind, fingerprint) for kind in kinds)), None) for fingerprint in old]
    sides = [*before, *(stage.manifest for stage in new)]
    if before and new and all(manifest is not None and manifest.shards for manifest in sides):
        added, removed = sequence_changes(_shards(before), _shards(stage.manifest for stage in new))
        if added or removed:
            return InputChanged(slot=slot, added=added, removed=removed, unit="shards")
    added, removed = sequence_changes(old, [stage.fingerprint for stage in new])
    return InputChanged(slot=slot, added=added, removed=removed, unit="artifacts")


def _shards(manifests: Iterable[Manifest | None]) -> list[str]:
    return [shard for manifest in manifests if manifest is not None for shard in manifest.shards]
