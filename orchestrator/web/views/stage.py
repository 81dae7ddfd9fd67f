"""A stage of a run: attempts, metrics, gates, identity, outputs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from orchestrator.commands.shared.outcome import summaries_of
from orchestrator.commands.shared.targets import Target, planned_stages
from orchestrator.errors import OrchestratorError
from orchestrator.history.database.database import Database
from orchestrator.history.events import EventKind
from orchestrator.history.run_search import AttemptRow, attempts_of_runs, events_of_kinds, last_reports
from orchestrator.history.run_status import RunStatus, run_statuses
from orchestrator.liveness.life_in_status import is_abandoned
from orchestrator.liveness.liveness import UNFINISHED
from orchestrator.reports.run_summary import StageSummary
from orchestrator.retention.pins import is_pinned
from orchestrator.web.addresses import link
from orchestrator.web.page import NotFoundError
from orchestrator.web.service import Service
from orchestrator.web.views.logs import LogFile, log_files
from orchestrator.web.views.money import prices_of_runs
from orchestrator.web.views.run import refined, summary_of
from orchestrator.web.views.shards import ShardMapView, maps_of
from orchestrator.web.views.stage_rows import ABANDONED, EXPLAINING, StageRow, at_work, stage_rows
from orchestrator.workspace import Workspace

MAX_FILES = 200  # of the largest
MAX_MESSAGE = 20_000  # characters of an error
NUM_METRIC_EVENTS = 50  # the newest, in which the last value of each metric is looked for


@dataclass(frozen=True, kw_only=True)
class Metric:
    name: str
    value: float
    meaning: str  # as the kind declares it
    step: int | None  # of a training; None: of the whole output


@dataclass(frozen=True, kw_only=True)
class GateRow:
    metric: str
    at_least: float | None
    at_most: float | None
    severity: str
    actual: float | None  # None: not known yet
    holds: bool | None


@dataclass(frozen=True, kw_only=True)
class OutputFile:
    path: str
    bytes: int
    rows: int | None
    link: str  # to download it


@dataclass(frozen=True, kw_only=True)
class OutputView:
    kind: str
    headline: str
    warnings: tuple[str, ...]
    folder: str  # a path on the machine of the service, or an address in the store
    made_by_run: str
    num_files: int
    bytes: int
    files: tuple[OutputFile, ...]  # the largest


@dataclass(frozen=True, kw_only=True)
class StageView:
    run: str
    recipe: str
    run_state: str
    is_over: bool
    last_event: int
    row: StageRow
    attempt: int  # the one that is shown; 0: there is none yet
    attempt_id: str
    attempt_state: str
    message: str  # of the attempt, whole
    failure_class: str
    metrics: tuple[Metric, ...]
    gates: tuple[GateRow, ...]
    fingerprint: str
    identity: str  # the payload as indented JSON
    config: str  # as indented JSON
    resources: str
    hangs_after_s: float | None  # without progress for so long it counts as hanging; None: the plan does not say
    output: OutputView | None
    is_pinned: bool
    maps: tuple[ShardMapView, ...]  # of the shown attempt
    has_all_shards: bool  # False: not all have been read yet; the next request goes on
    logs: tuple[LogFile, ...]  # of the shown attempt
    problem: str  # why what is in the store cannot be shown


def load_stage(service: Service, run_id: str, stage_id: str, number: int) -> StageView:
    """Raises: NotFoundError."""
    workspace = service.workspace()
    run = summary_of(workspace.database, run_id)
    life = workspace.liveness.run(run_id) if run.state in UNFINISHED else None
    whole = refined(workspace, run_statuses(workspace.database, [run])[0], life)
    status = RunStatus(run=run, stages=tuple(stage for stage in whole.stages if stage.stage_id == stage_id))
    if not status.stages:
        names = ", ".join(stage.stage_id for stage in whole.stages)
        raise NotFoundError(f"run {run_id}: has no stage {stage_id!r}; it has {names}")
    attempts = attempts_of_runs(workspace.database, [run_id], stage_id)[run_id]
    chosen = _chosen(attempts, number, run_id, stage_id)
    happened = events_of_kinds(workspace.database, run_id, EXPLAINING, stages=[stage_id])
    work, prices = service.plans.work(workspace.store, run.plan_digest), prices_of_runs(workspace.database, [run_id])
    planned, summary, problem = _from_store(service, workspace, status)
    reports = last_reports(workspace.database, at_work(attempts))
    was_left = life is not None and is_abandoned(run.state, life)
    maps: tuple[ShardMapView, ...] = ()
    has_all_shards = True
    if chosen is not None:
        table = service.shards.of_attempt(workspace.database, run_id, stage_id, chosen.attempt_id)
        has_all_shards = table.is_complete
        maps = maps_of(table, run_id, stage_id, chosen.number)
    return StageView(
        run=run_id,
        recipe=run.recipe,
        run_state=run.state,
        is_over=run.state not in UNFINISHED,
        last_event=run.last_event,
        row=stage_rows(status, attempts, happened, work, prices.get(run_id, {}), reports, is_abandoned=was_left)[0],
        attempt=chosen.number if chosen else 0,
        attempt_id=chosen.attempt_id if chosen else "",
        attempt_state=_attempt_state(chosen, status.stages[0].state, was_left=was_left),
        message=(chosen.message if chosen else status.stages[0].message)[:MAX_MESSAGE],
        failure_class=chosen.failure_class if chosen else "",
        metrics=_metrics(workspace, chosen, summary),
        gates=_gates(planned, summary),
        fingerprint=status.stages[0].fingerprint,
        identity=_as_text(planned.get("payload")),
        config=_as_text(planned.get("config")),
        resources=_as_text(planned.get("resources")),
        hangs_after_s=planned.get("retry", {}).get("hang_after_s"),
        output=_output(summary, run_id),
        is_pinned=summary is not None and _is_pinned(workspace, status),
        maps=maps,
        has_all_shards=has_all_shards,
        logs=_logs(service, run_id, chosen),
        problem=problem,
    )


def _attempt_state(chosen: AttemptRow | None, state: str, *, was_left: bool) -> str:
    """Of an attempt whose driver is gone not the one that it was left in."""
    if chosen is None:
        return state
    return ABANDONED if was_left and at_work([chosen]) else chosen.state


def find_attempt(database: Database, run_id: str, stage_id: str, number: int) -> AttemptRow:
    """An attempt by its number, or with 0 the newest. Raises: NotFoundError."""
    summary_of(database, run_id)
    found = _chosen(attempts_of_runs(database, [run_id], stage_id)[run_id], number, run_id, stage_id)
    if found is None:
        raise NotFoundError(f"run {run_id}: stage {stage_id!r} has no attempt yet, or there is no such stage")
    return found


def _chosen(attempts: Sequence[AttemptRow], number: int, run_id: str, stage_id: str) -> AttemptRow | None:
    if not number:
        return attempts[-1] if attempts else None
    for row in attempts:
        if row.number == number:
            return row
    raise NotFoundError(f"run {run_id}: stage {stage_id!r} has no attempt {number}; it has {len(attempts)}")


def _from_store(
    service: Service, workspace: Workspace, status: RunStatus
) -> tuple[Mapping[str, Any], StageSummary | None, str]:
    """The planned stage, what came out, and why that cannot be shown: the page goes on without it."""
    stage_id = status.stages[0].stage_id
    try:
        planned = [stage for stage in planned_stages(workspace.artifacts, status.run) if stage["id"] == stage_id]
        summaries = summaries_of(workspace, Target(status=status, stage_id=stage_id), service.settings.kinds)
        return planned[0] if planned else {}, summaries[0] if summaries else None, ""
    except OrchestratorError as error:
        return {}, None, str(error)


def _metrics(workspace: Workspace, chosen: AttemptRow | None, summary: StageSummary | None) -> tuple[Metric, ...]:
    """Of the output, in the order in which its kind declares them; of an attempt at work the last values."""
    if summary is not None and summary.metrics:
        order = {name: number for number, name in enumerate(summary.meanings)}
        names = sorted(summary.metrics, key=lambda name: (order.get(name, len(order)), name))
        return tuple(
            Metric(name=name, value=summary.metrics[name], meaning=summary.meanings.get(name, ""), step=None)
            for name in names
        )
    if chosen is None:
        return ()
    recent = events_of_kinds(
        workspace.database, chosen.run_id, [EventKind.METRICS], stages=[chosen.stage_id], newest=NUM_METRIC_EVENTS
    )
    last: dict[str, Metric] = {}
    for event in recent:
        points: Any = event.fields.get("points", []) if event.attempt_id == chosen.attempt_id else []
        for name, value, step, _at in points:
            last[name] = Metric(name=name, value=float(value), meaning="", step=int(step))
    return tuple(last[name] for name in sorted(last))


def _gates(planned: Mapping[str, Any], summary: StageSummary | None) -> tuple[GateRow, ...]:
    metrics = summary.metrics if summary is not None else {}
    rows = []
    for name, gate in planned.get("gates", {}).items():
        actual = metrics.get(name)
        low, high = gate.get("at_least"), gate.get("at_most")
        holds = None if actual is None else (low is None or actual >= low) and (high is None or actual <= high)
        rows.append(
            GateRow(
                metric=name,
                at_least=low,
                at_most=high,
                severity=str(gate.get("severity", "error")),
                actual=actual,
                holds=holds,
            )
        )
    return tuple(rows)


def _output(summary: StageSummary | None, run_id: str) -> OutputView | None:
    if summary is None or not summary.folder:
        return None
    base = link("runs", run_id, "stages", summary.status.stage_id, "files")
    largest = sorted(summary.files, key=lambda entry: -entry.bytes)[:MAX_FILES]
    return OutputView(
        kind=summary.artifact_kind,
        headline=summary.headline,
        warnings=summary.warnings,
        folder=summary.folder,
        made_by_run=summary.made_by_run,
        num_files=len(summary.files),
        bytes=summary.bytes,
        files=tuple(
            OutputFile(path=entry.path, bytes=entry.bytes, rows=entry.rows, link=f"{base}/{quote(entry.path)}")
            for entry in largest
        ),
    )


def _is_pinned(workspace: Workspace, status: RunStatus) -> bool:
    try:
        return is_pinned(workspace.store, status.stages[0].key)
    except OrchestratorError:  # the store is away, which stands above every page
        return False


def _logs(service: Service, run_id: str, chosen: AttemptRow | None) -> tuple[LogFile, ...]:
    try:
        return log_files(service, run_id, attempt=chosen.attempt_id) if chosen is not None else ()
    except OrchestratorError:  # as above
        return ()


def _as_text(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) if value else ""
