"""Resolves targets, as given on the command line: `RUN`, `RUN:STAGE` and the first digits of an identity.

RUN is a run's id, the only prefix of one, a recipe's name for its newest run, or `last` for the newest run of all.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import click

from orchestrator.artifacts.artifact_store import ArtifactStore, StoredArtifact
from orchestrator.artifacts.run_records import RunRecords
from orchestrator.artifacts.takedowns import read_takedowns, taken_down_text
from orchestrator.documents.suggestions import expectation
from orchestrator.errors import RecipeError
from orchestrator.history.database.database import Database
from orchestrator.history.run_status import RunStatus, RunSummary, StageStatus, list_runs, newest_run, run_status
from orchestrator.store.layout import ARTIFACTS, stored_keys
from orchestrator.store.store import Store

NUM_SEARCHED_RUNS = 10_000
NUM_NAMED_RUNS = 5  # in a message
MIN_PREFIX = 4  # hex digits of an identity
LAST = "last"
WITHOUT_IT = "`illume run` makes one without that content, `illume takedown receipt` shows what was done"


@dataclass(frozen=True, kw_only=True)
class Target:
    """A run, or one stage of it."""

    status: RunStatus
    stage_id: str | None  # None: the whole run

    @property
    def run(self) -> RunSummary:
        return self.status.run

    @property
    def stages(self) -> tuple[StageStatus, ...]:
        """The stage, or all stages of the run, upstream first."""
        return tuple(stage for stage in self.status.stages if self.stage_id in (None, stage.stage_id))


class TargetCommand(click.Command):
    """A command that takes one target; refuses RUN STAGE, and names RUN:STAGE instead."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        given = list(args)
        ctx.allow_extra_args = True
        extra = super().parse_args(ctx, args)
        if extra and not ctx.resilient_parsing:
            run = given[given.index(extra[0]) - 1]
            stage = extra[0].rpartition(":")[2]
            one = f"; write it as `illume {self.name} {run}:{stage}`" if len(extra) == 1 and ":" not in run else ""
            raise click.UsageError(
                f"found {' '.join(extra)!r} after the target, expected one target RUN:STAGE{one}", ctx
            )
        return extra


def find_target(database: Database, text: str | None) -> Target:
    """The run or stage that `RUN` or `RUN:STAGE` names; without a text the newest run.

    Raises:
        RecipeError: there is none, or more than one.
    """
    run, colon, stage_id = (text or LAST).rpartition(":")
    if not colon:
        return Target(status=run_status(database, find_run(database, text).run_id), stage_id=None)
    if not run:
        raise RecipeError(f"{text!r}: expected RUN:STAGE; '{LAST}{text}' is the stage of the newest run")
    status = run_status(database, find_run(database, run).run_id)
    stage_of(status, stage_id)
    return Target(status=status, stage_id=stage_id)


def find_run(database: Database, name: str | None) -> RunSummary:
    """The run with this id, the newest one of the recipe with this name, or the only one with this prefix of its id.

    Without a name, or with `last`: the newest run.

    Raises:
        RecipeError: there is none, or more than one.
    """
    if name in (None, LAST):
        newest = newest_run(database)
        if newest is None:
            raise RecipeError("found no run in the database; start one with `illume run RECIPE`")
        return newest
    assert name is not None, "checked above"
    if ":" in name:
        raise RecipeError(f"{name!r}: found a stage, expected a run: {name.partition(':')[0]!r}")
    known = list_runs(database, limit=NUM_SEARCHED_RUNS)
    found = [run for run in known if run.run_id == name] or [run for run in known if run.recipe == name][:1]
    found = found or [run for run in known if run.run_id.startswith(name)]
    if len(found) > 1:
        matches = ", ".join(f"{run.run_id} ({run.recipe})" for run in found[:NUM_NAMED_RUNS])
        raise RecipeError(f"run {name!r}: found {len(found)} whose ids begin so; give more of the id: {matches}")
    if not found:
        raise RecipeError(
            f"found no run {name!r}; {_known_runs(database, known, name)}; `illume status` lists the runs"
        )
    return found[0]


def _known_runs(database: Database, known: list[RunSummary], name: str) -> str:
    """What the unknown name of a run may mean: a stage of the newest run, or a run with a similar name."""
    if known and name in [stage.stage_id for stage in run_status(database, known[0].run_id).stages]:
        return f"the newest run has a stage of this name: '{LAST}:{name}'"
    names = [run.run_id for run in known[:NUM_NAMED_RUNS]] + [run.recipe for run in known[:50]]
    return expectation(name, set(names))


def stage_of(status: RunStatus, stage_id: str) -> StageStatus:
    """Raises: RecipeError: the run has no such stage."""
    stages = {stage.stage_id: stage for stage in status.stages}
    if stage_id not in stages:
        valid = expectation(stage_id, stages.keys())
        raise RecipeError(f"run {status.run.run_id}: found no stage {stage_id!r}; {valid}")
    return stages[stage_id]


def find_artifact(artifacts: ArtifactStore, database: Database, target: str) -> StoredArtifact:
    """A committed artifact, by `RUN:STAGE` or by the first digits of its identity.

    Raises:
        RecipeError: there is none, or more than one.
    """
    if ":" in target:
        found_target = find_target(database, target)
        return artifact_of_stage(artifacts, found_target.status, str(found_target.stage_id))
    if not is_identity_prefix(target):
        raise RecipeError(_not_an_artifact(database, target))
    prefix = target.lower()
    keys = [key for key in stored_keys(artifacts.store, ARTIFACTS) if key.fingerprint.startswith(prefix)]
    found = [stored for key in keys if (stored := artifacts.stored(key)) is not None]
    if not found:
        _check_prefix_not_taken_down(artifacts.store, prefix)
    if len(found) != 1:
        kinds = ", ".join(f"{stored.manifest.stage_kind} {stored.manifest.fingerprint[:16]}" for stored in found[:5])
        raise RecipeError(f"{target!r}: found {len(found)} artifacts, expected one{': ' + kinds if found else ''}")
    return found[0]


def is_identity_prefix(target: str) -> bool:
    return len(target) >= MIN_PREFIX and set(target.lower()) <= set("0123456789abcdef")


def _not_an_artifact(database: Database, target: str) -> str:
    """The message for a target that is neither RUN:STAGE nor digits; names the stages that may be meant."""
    expected = f"{target!r}: expected RUN:STAGE, or at least {MIN_PREFIX} digits of an identity from `illume plan`"
    newest = newest_run(database)
    if newest and target in [stage.stage_id for stage in run_status(database, newest.run_id).stages]:
        return f"{expected}; did you mean '{LAST}:{target}'?"
    try:
        status = find_target(database, target).status
    except RecipeError:
        return expected
    return f"{expected}; stages of this run: {', '.join(f'{target}:{stage.stage_id}' for stage in status.stages)}"


def artifact_of_stage(artifacts: ArtifactStore, status: RunStatus, stage_id: str) -> StoredArtifact:
    """The committed artifact of a stage.

    Raises: RecipeError: the run has no such stage, or the stage has no committed artifact.
    """
    stage = stage_of(status, stage_id)
    stored = artifacts.stored(stage.key)
    if stored is None:
        check_not_taken_down(artifacts.store, status.run.run_id, stage)
        raise RecipeError(
            f"run {status.run.run_id}: stage {stage_id!r} has no artifact; found it {stage.state}, "
            "expected it to be done; continue with `illume resume`"
        )
    return stored


def check_not_taken_down(store: Store, run_id: str, stage: StageStatus) -> None:
    """Raises: RecipeError: a takedown removed the artifact of the stage, so continuing the run does not make it."""
    text = taken_down_text(read_takedowns(store), stage.fingerprint)
    if text:
        raise RecipeError(f"run {run_id}: stage {stage.stage_id!r} was {text}; {WITHOUT_IT}")


def _check_prefix_not_taken_down(store: Store, prefix: str) -> None:
    takedowns = read_takedowns(store)
    tainted = {artifact.fingerprint for takedown in takedowns for artifact in takedown.tainted}
    gone = [fingerprint for fingerprint in tainted if fingerprint.startswith(prefix)]
    if len(gone) == 1:
        raise RecipeError(f"artifact {gone[0][:16]} was {taken_down_text(takedowns, gone[0])}; {WITHOUT_IT}")


def planned_stages(artifacts: ArtifactStore, run: RunSummary) -> list[Mapping[str, Any]]:
    """The saved stages of the run's plan.

    Raises:
        RecipeError: the store has no such plan.
    """
    plan: Mapping[str, Any] | None = RunRecords(artifacts.store).plan(run.plan_digest)
    if plan is None:
        raise RecipeError(f"run {run.run_id}: its plan plans/{run.plan_digest}.json is not in {artifacts.store.url}")
    return list(plan["stages"])
