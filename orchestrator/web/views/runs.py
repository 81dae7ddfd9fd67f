"""The list of runs, and what needs a person."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.history.database.database import Database
from orchestrator.history.events import AttemptState, RunState
from orchestrator.history.run_search import (
    RunFilter,
    attempts_of_runs,
    last_reports,
    recipes_of_runs,
    search_runs,
    starters_of_runs,
)
from orchestrator.history.run_status import RunStatus, RunSummary, run_statuses
from orchestrator.liveness.life_in_status import is_abandoned, with_life
from orchestrator.liveness.liveness import UNFINISHED, RunLife
from orchestrator.web.service import Service
from orchestrator.web.views.money import Cost, cost_of, prices_of_runs
from orchestrator.web.views.needs import Need, needs_of_runs, needs_of_takedowns
from orchestrator.web.views.queue import QueueRow, load_queue
from orchestrator.web.views.stage_rows import at_work, first_line, silent_since
from orchestrator.workspace import Workspace

PAGE_RUNS = 50
NEEDS_RUNS = 100  # the newest runs among which needs are looked for


@dataclass(frozen=True, kw_only=True)
class StripCell:
    """One stage in the strip of a run."""

    stage: str
    state: str
    share: float | None  # done, of a stage at work


@dataclass(frozen=True, kw_only=True)
class RunRow:
    run: str
    recipe: str
    state: str
    message: str  # what failed first, what it waits for in the queue, or the first line of what is known
    owner: str  # who created it; empty: not recorded
    created_at: float  # seconds since 1970
    updated_at: float
    is_over: bool
    is_abandoned: bool  # it has not ended, and its driver is gone
    silent_since: float | None  # the last report of progress of a stage at work, or its begin; None: none is at work
    strip: tuple[StripCell, ...]
    cost: Cost  # so far, of all attempts


@dataclass(frozen=True, kw_only=True)
class RunsView:
    needs: tuple[Need, ...]
    runs: tuple[RunRow, ...]
    older: str  # value of `before` for the next page; empty: there is none
    recipes: tuple[str, ...]  # to choose from
    states: tuple[str, ...]


def load_runs(service: Service, wanted: RunFilter) -> RunsView:
    workspace = service.workspace()
    database = workspace.database
    found = search_runs(database, wanted, limit=PAGE_RUNS + 1)
    shown, has_older = found[:PAGE_RUNS], len(found) > PAGE_RUNS
    known = {run.run_id: row for run in shown if (row := service.ended_rows.get(run)) is not None}
    rows = known | _new_rows(service, [run for run in shown if run.run_id not in known])
    rows |= _with_queue(database, [row for row in rows.values() if row.state == RunState.PLANNED])
    last = shown[-1] if has_older else None
    return RunsView(
        needs=tuple(load_needs(service)),
        runs=tuple(rows[run.run_id] for run in shown),
        older=f"{last.created_at!r},{last.run_id}" if last else "",
        recipes=tuple(recipes_of_runs(database)),
        states=tuple(state.value for state in RunState),
    )


def _with_queue(database: Database, planned: Sequence[RunRow]) -> dict[str, RunRow]:
    """Runs that have not begun, with their place in the queue and what they wait for."""
    waiting = {row.run: row for row in load_queue(database).runs if row.state == "WAITING"} if planned else {}
    return {
        row.run: replace(row, message=f"in the queue, {_place(found)}: waits for {found.waits_for or 'its turn'}")
        for row in planned
        if (found := waiting.get(row.run)) is not None
    }


def _place(row: QueueRow) -> str:
    return "next" if row.position == 1 else f"number {row.position}"


def _new_rows(service: Service, wanted: Sequence[RunSummary]) -> dict[str, RunRow]:
    """By run; those of runs that have ended are kept."""
    if not wanted:
        return {}
    workspace, ids = service.workspace(), [run.run_id for run in wanted]
    database = workspace.database
    lives = lives_of(workspace, wanted)
    attempts, owners = attempts_of_runs(database, ids), starters_of_runs(database, ids)
    prices = prices_of_runs(database, ids)
    reports = last_reports(database, [row for rows in attempts.values() for row in at_work(rows)])
    now = max(run.updated_at for run in wanted)
    rows = {}
    for status in statuses_of(service, wanted):
        run = status.run
        life, owner = lives.get(run.run_id), owners.get(run.run_id)
        work = service.plans.work(workspace.store, run.plan_digest)
        cost = cost_of(attempts[run.run_id], work, prices.get(run.run_id, {}), now)
        silent = silent_since(attempts[run.run_id], reports)
        row = _row(_alive(status, lives), cost, owner.name if owner else "", life, silent)
        rows[run.run_id] = row
        if work:  # without it the store was away, or has lost the plan
            service.ended_rows.put(run, row)
    return rows


def statuses_of(service: Service, wanted: Sequence[RunSummary]) -> list[RunStatus]:
    """In the order of the runs; read only where something has changed."""
    known = {run.run_id: status for run in wanted if (status := service.ended_statuses.get(run)) is not None}
    new = run_statuses(service.workspace().database, [run for run in wanted if run.run_id not in known])
    for status in new:
        service.ended_statuses.put(status.run, status)
    found = known | {status.run.run_id: status for status in new}
    return [found[run.run_id] for run in wanted]


def load_needs(service: Service) -> list[Need]:
    """Of the newest runs, and of the store."""
    workspace = service.workspace()
    newest = search_runs(workspace.database, RunFilter(), limit=NEEDS_RUNS)
    return [
        *needs_of_runs(statuses_of(service, newest), lives_of(workspace, newest)),
        *service.takedown_needs.get(lambda: needs_of_takedowns(workspace, service.settings.kinds)),
    ]


def lives_of(workspace: Workspace, runs: Sequence[RunSummary]) -> dict[str, RunLife]:
    """Who is alive, for the runs that have not ended."""
    return {run.run_id: workspace.liveness.run(run.run_id) for run in runs if run.state in UNFINISHED}


def strip_of(status: RunStatus) -> tuple[StripCell, ...]:
    return tuple(
        StripCell(
            stage=stage.stage_id,
            state=stage.state,
            share=min(1.0, stage.done / stage.total) if stage.total and stage.elapsed_s is not None else None,
        )
        for stage in status.stages
    )


def _message(status: RunStatus) -> str:
    """Of a run that failed what failed first, else the first line of what is known of it."""
    failed = [stage for stage in status.stages if stage.state == AttemptState.FAILED and stage.message]
    if status.run.state == RunState.FAILED and failed:
        return f"{failed[0].stage_id}: {first_line(failed[0].message).removeprefix(f'{failed[0].stage_id}: ')}"
    return first_line(status.run.message)


def _alive(status: RunStatus, lives: Mapping[str, RunLife]) -> RunStatus:
    life = lives.get(status.run.run_id)
    return with_life(status, life) if life is not None else status


def _row(status: RunStatus, cost: Cost, owner: str, life: RunLife | None, silent: float | None) -> RunRow:
    run = status.run
    return RunRow(
        run=run.run_id,
        recipe=run.recipe,
        state=run.state,
        message=_message(status),
        owner=owner,
        created_at=run.created_at,
        updated_at=run.updated_at,
        is_over=run.state not in UNFINISHED,
        is_abandoned=life is not None and is_abandoned(run.state, life),
        silent_since=silent if run.state in UNFINISHED else None,
        strip=strip_of(status),
        cost=cost,
    )
