"""A run: its stages, its attempts over time, what failed first, what can be done."""

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.artifacts.takedowns import read_takedowns
from orchestrator.errors import OrchestratorError
from orchestrator.history.actors import actor_of
from orchestrator.history.database.database import Database
from orchestrator.history.events import AttemptState, EventKind, RunState
from orchestrator.history.run_search import (
    AttemptRow,
    RunFilter,
    attempts_of_runs,
    events_of_kinds,
    last_reports,
    search_runs,
    starters_of_runs,
)
from orchestrator.history.run_status import RunStatus, RunSummary, StageStatus, run_statuses
from orchestrator.liveness.life_in_status import is_abandoned, with_life
from orchestrator.liveness.liveness import UNFINISHED, RunLife
from orchestrator.queue.entries import submission_of
from orchestrator.queue.servers import live_servers
from orchestrator.reports.taken_down import with_takedowns
from orchestrator.scheduler.approving import approval_waits
from orchestrator.web.addresses import link
from orchestrator.web.page import NotFoundError
from orchestrator.web.service import Service
from orchestrator.web.views.events import EventRow
from orchestrator.web.views.latest import LogEnd, latest_events, log_end
from orchestrator.web.views.money import Cost, cost_of, prices_of_runs
from orchestrator.web.views.needs import Need, needs_of_runs
from orchestrator.web.views.queue import load_queue
from orchestrator.web.views.runs import StripCell, strip_of
from orchestrator.web.views.stage_rows import EXPLAINING, StageRow, at_work, silent_since, stage_rows
from orchestrator.workspace import Workspace

MAX_MESSAGE = 4000  # characters of an error
NUM_EARLIER = 10
STARTABLE = (RunState.FAILED, RunState.CANCELLED, RunState.INTERRUPTED)
_FAILED = (AttemptState.FAILED, AttemptState.LOST)


@dataclass(frozen=True, kw_only=True)
class FirstFailure:
    """What failed first of what is still in the way of a run."""

    stage: str
    attempt: str
    number: int
    at: float  # seconds since 1970
    failure_class: str
    message: str
    command: str  # to type next
    link: str  # to the stage's page, with this attempt
    log: str  # to its log
    num_later: int  # attempts that failed after it


@dataclass(frozen=True, kw_only=True)
class Asking:
    """A stage that waits for the word of a person."""

    stage: str
    since: float  # seconds since 1970
    reads: tuple[str, ...]  # the stages whose output is to be looked at


@dataclass(frozen=True, kw_only=True)
class RunView:
    run: str
    recipe: str
    state: str
    message: str
    plan_digest: str
    epoch: int
    owner: str  # who created it; empty: not recorded
    owner_command: str
    owner_reason: str
    driver: str  # of the newest epoch, and what is known of it
    created_at: float  # seconds since 1970
    updated_at: float
    is_over: bool
    is_abandoned: bool  # it has not ended, and its driver is gone
    cancel_requested: bool
    cancel_requested_by: str
    last_event: int  # the stream of events goes on after it
    strip: tuple[StripCell, ...]
    stages: tuple[StageRow, ...]  # upstream first
    silent_since: float | None  # the last report of progress of a stage at work, or its begin; None: none is at work
    first_failure: FirstFailure | None
    needs: tuple[Need, ...]
    cost: Cost  # so far
    latest: tuple[EventRow, ...]  # events, newest first
    log: LogEnd | None  # of what is at work, else of what failed
    earlier: tuple[str, ...]  # other runs of the recipe, newest first
    can_cancel: bool
    can_resume: bool
    can_run_again: bool
    asks: tuple[Asking, ...]  # stages that wait for the word of a person
    queue_wait: str  # why it has no driver yet, of a run in the queue; empty: it is not there, or has one
    has_server: bool  # somebody carries out what is in the queue


def load_run(service: Service, run_id: str) -> RunView:
    """Raises: NotFoundError."""
    workspace = service.workspace()
    run = summary_of(workspace.database, run_id)
    life = workspace.liveness.run(run_id) if run.state in UNFINISHED else None
    status = refined(workspace, run_statuses(workspace.database, [run])[0], life)
    attempts = attempts_of_runs(workspace.database, [run_id])[run_id]
    ids = [stage.stage_id for stage in status.stages]
    happened = events_of_kinds(workspace.database, run_id, EXPLAINING, stages=ids)
    owner = starters_of_runs(workspace.database, [run_id]).get(run_id)
    work, prices = service.plans.work(workspace.store, run.plan_digest), prices_of_runs(workspace.database, [run_id])
    of_run, has_server = prices.get(run_id, {}), bool(live_servers(workspace.database))
    reports = last_reports(workspace.database, at_work(attempts))
    was_left = life is not None and is_abandoned(run.state, life)
    others = search_runs(workspace.database, RunFilter(recipe=run.recipe), limit=NUM_EARLIER + 1)
    return RunView(
        run=run_id,
        recipe=run.recipe,
        state=run.state,
        message=status.run.message[:MAX_MESSAGE],
        plan_digest=run.plan_digest,
        epoch=run.epoch,
        owner=owner.name if owner else "",
        owner_command=owner.command if owner else "",
        owner_reason=owner.reason if owner else "",
        driver=life.describe() if life is not None else run.owner,
        created_at=run.created_at,
        updated_at=run.updated_at,
        is_over=run.state not in UNFINISHED,
        is_abandoned=was_left,
        cancel_requested=run.cancel_requested,
        cancel_requested_by=who_cancelled(workspace.database, run),
        last_event=run.last_event,
        strip=strip_of(status),
        stages=stage_rows(status, attempts, happened, work, of_run, reports, is_abandoned=was_left),
        silent_since=silent_since(attempts, reports),
        first_failure=first_failure(status, attempts),
        needs=tuple(needs_of_runs([status], {run_id: life} if life is not None else {})),
        cost=cost_of(attempts, work, of_run, run.updated_at),
        latest=latest_events(service, run_id),
        log=log_end(service, run_id, attempts),
        earlier=tuple(other.run_id for other in others if other.run_id != run_id)[:NUM_EARLIER],
        can_cancel=run.state in UNFINISHED and not run.cancel_requested,
        can_resume=run.state in STARTABLE or was_left,
        can_run_again=run.state not in UNFINISHED,
        asks=tuple(_asking(stage, run.updated_at) for stage in status.stages if approval_waits(stage)),
        queue_wait=queue_wait(workspace.database, run_id) if run.state in UNFINISHED else "",
        has_server=has_server,
    )


def _asking(stage: StageStatus, now: float) -> Asking:
    return Asking(stage=stage.stage_id, since=stage.waiting_since or now, reads=stage.upstream)


def queue_wait(database: Database, run_id: str) -> str:
    """What a run in the queue waits for before it gets a driver; empty: it has one, or is not in the queue."""
    if submission_of(database, run_id) is None:
        return ""
    waiting = [row for row in load_queue(database).runs if row.run == run_id and row.state == "WAITING"]
    return waiting[0].waits_for or "its turn" if waiting else ""


def summary_of(database: Database, run_id: str) -> RunSummary:
    """Raises: NotFoundError: there is no such run, or it was deleted meanwhile."""
    found = search_runs(database, RunFilter(ids=(run_id,)), limit=1)
    if not found:
        raise NotFoundError(
            f"run {run_id[:80]}: not in the database, or not any more; `illume index rebuild` finds lost ones"
        )
    return found[0]


def refined(workspace: Workspace, status: RunStatus, life: RunLife | None) -> RunStatus:
    """The status as `illume status` shows it: with what is known of its driver, and what was taken down."""
    status = with_life(status, life) if life is not None else status
    try:
        return with_takedowns(status, read_takedowns(workspace.store))
    except OrchestratorError:  # the store is away, which stands above every page
        return status


def who_cancelled(database: Database, run: RunSummary) -> str:
    """Who asked the newest epoch to stop; empty: nobody, or not recorded."""
    if not run.cancel_requested:
        return ""
    asked = events_of_kinds(database, run.run_id, [EventKind.CANCEL_REQUESTED], newest=1)
    actor = actor_of(asked[-1]) if asked else None
    return actor.name if actor is not None else ""


def first_failure(status: RunStatus, attempts: Sequence[AttemptRow]) -> FirstFailure | None:
    """Of the stages whose newest attempt failed: the failure that began first. A retry that worked needs nobody."""
    failed = {stage.attempt_id for stage in status.stages if stage.state in _FAILED}
    found = sorted(
        (row for row in attempts if row.attempt_id in failed), key=lambda row: row.ended_at or row.created_at
    )
    if not found:
        return None
    first, run_id = found[0], status.run.run_id
    return FirstFailure(
        stage=first.stage_id,
        attempt=first.attempt_id,
        number=first.number,
        at=first.ended_at or first.created_at,
        failure_class=first.failure_class,
        message=first.message[:MAX_MESSAGE],
        command=f"illume resume {run_id}",
        link=link("runs", run_id, "stages", first.stage_id, attempt=first.number),
        log=link("runs", run_id, "logs", f"{first.attempt_id.removeprefix(f'{run_id}-')}.log"),
        num_later=len(found) - 1,
    )
