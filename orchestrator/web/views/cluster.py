"""The cluster as the records know it: what is at work on what, machines that were seen, nodes to avoid, what waits."""

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.history.events import RunState
from orchestrator.history.run_search import RunFilter, attempts_of_runs, last_reports, search_runs
from orchestrator.history.run_status import run_statuses
from orchestrator.liveness.life_in_status import is_abandoned
from orchestrator.liveness.liveness import UNFINISHED
from orchestrator.web.addresses import link
from orchestrator.web.plans import PlannedWork
from orchestrator.web.service import Service
from orchestrator.web.views.machines import Machine, Use, machines_of, use_of
from orchestrator.web.views.queue import QueueView, load_queue
from orchestrator.web.views.stage_rows import at_work as in_work

MAX_RUNS = 100  # unfinished ones that are looked at
NUM_NEWEST = 30  # runs whose complaints about machines are told, although they may be over


@dataclass(frozen=True, kw_only=True)
class AtWork:
    """An attempt that runs now."""

    run: str
    recipe: str
    stage: str
    attempt: int
    gpus: float
    cpus: float
    workers: int
    since: float  # seconds since 1970
    share: float | None  # of its work that is done
    driver: str
    is_abandoned: bool  # its driver is gone: it is not counted
    silent_since: float  # seconds since 1970: its last report of progress, or its begin
    use: tuple[Use, ...]  # of the machine of its first worker, of a training that tells
    link: str


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """A stage that waits, and for what."""

    run: str
    recipe: str
    stage: str
    why: str
    since: float | None
    gpus: float
    link: str


@dataclass(frozen=True, kw_only=True)
class ClusterView:
    at_work: tuple[AtWork, ...]
    waiting: tuple[Waiting, ...]
    queue: QueueView
    machines: tuple[Machine, ...]
    gpus: float  # requested by what is at work
    cpus: float
    num_runs: int  # that are not over
    last_event: int


def load_cluster(service: Service) -> ClusterView:
    workspace = service.workspace()
    database = workspace.database
    wanted = RunFilter(states=tuple(state for state in RunState if state in UNFINISHED))
    runs = search_runs(database, wanted, limit=MAX_RUNS)
    newest = search_runs(database, RunFilter(), limit=NUM_NEWEST)
    attempts = attempts_of_runs(database, [run.run_id for run in runs])
    at_work: list[AtWork] = []
    waiting: list[Waiting] = []
    open_ = [row for rows in attempts.values() for row in in_work(rows)]
    reports = last_reports(database, open_)
    for status in run_statuses(database, runs):
        run = status.run
        work = service.plans.work(workspace.store, run.plan_digest)
        life = workspace.liveness.run(run.run_id)
        for stage in status.stages:
            if stage.waiting_for:
                waiting.append(
                    Waiting(
                        run=run.run_id,
                        recipe=run.recipe,
                        stage=stage.stage_id,
                        why=stage.waiting_for,
                        since=stage.waiting_since,
                        gpus=_planned(work, stage.stage_id).gpus,
                        link=link("runs", run.run_id, "stages", stage.stage_id),
                    )
                )
        for row in in_work(attempts[run.run_id]):
            planned = _planned(work, row.stage_id)
            at_work.append(
                AtWork(
                    run=run.run_id,
                    recipe=run.recipe,
                    stage=row.stage_id,
                    attempt=row.number,
                    gpus=planned.gpus,
                    cpus=planned.cpus,
                    workers=planned.workers,
                    since=row.started_at or row.created_at,
                    share=row.done / row.total if row.total else None,
                    driver=life.describe(),
                    is_abandoned=is_abandoned(run.state, life),
                    silent_since=reports.get(row.attempt_id, row.started_at or row.created_at),
                    use=use_of(database, row),
                    link=link("runs", run.run_id, "stages", row.stage_id, attempt=row.number),
                )
            )
    return ClusterView(
        at_work=tuple(at_work),
        waiting=tuple(sorted(waiting, key=lambda row: row.since or 0.0)),
        queue=load_queue(database),
        machines=machines_of(database, open_, [run.run_id for run in (*runs, *newest)]),
        gpus=sum(row.gpus for row in at_work if not row.is_abandoned),
        cpus=sum(row.cpus for row in at_work if not row.is_abandoned),
        num_runs=len(runs),
        last_event=max((run.last_event for run in runs), default=0),
    )


def _planned(work: Mapping[str, PlannedWork], stage_id: str) -> PlannedWork:
    """Nothing, where the plan is not known."""
    return work.get(stage_id) or PlannedWork(stage_id=stage_id, gpus=0.0, cpus=0.0, workers=0)
