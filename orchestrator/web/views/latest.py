"""What a run did last: its newest events, and the end of the log that people look into first."""

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.errors import OrchestratorError
from orchestrator.history.event_search import EventFilter, search_events
from orchestrator.history.events import AttemptState
from orchestrator.history.run_search import AttemptRow
from orchestrator.logs.ranges import lines_around, open_log
from orchestrator.logs.run_logs import RunLogs
from orchestrator.web.addresses import link
from orchestrator.web.service import Service
from orchestrator.web.views.events import EventRow, event_row

NUM_EVENTS, NUM_LINES = 8, 8
TAIL_BYTES = 4096


@dataclass(frozen=True, kw_only=True)
class LogEnd:
    """The last lines of the log of an attempt."""

    stage: str
    attempt: str
    number: int
    lines: tuple[str, ...]
    link: str  # to the log; that of an attempt at work is followed


def latest_events(service: Service, run_id: str) -> tuple[EventRow, ...]:
    """Newest first, without progress and metrics."""
    found = search_events(service.workspace().database, EventFilter(run_id=run_id), limit=NUM_EVENTS)
    return tuple(event_row(event) for event in found.events)


def log_end(service: Service, run_id: str, attempts: Sequence[AttemptRow]) -> LogEnd | None:
    """Of the newest attempt at work, else of the newest one that failed; None: it has no log (yet)."""
    at_work = [row for row in attempts if row.state in (AttemptState.INTENT, AttemptState.RUNNING)]
    failed = [row for row in attempts if row.state in (AttemptState.FAILED, AttemptState.LOST)]
    if not (at_work or failed):
        return None
    row = (at_work or failed)[-1]
    workspace, file = service.workspace(), f"{row.attempt_id.removeprefix(f'{run_id}-')}.log"
    try:
        log = open_log(RunLogs(store=workspace.store, state=workspace.root, run_id=run_id), file)
        lines = lines_around(log, max(0, log.size_bytes - TAIL_BYTES), TAIL_BYTES) if log is not None else []
    except (OrchestratorError, OSError):  # a store that is away stands above every page
        return None
    if not lines:
        return None  # a log begins with the first line of its attempt
    query = {"follow": 1} if at_work else {}
    return LogEnd(
        stage=row.stage_id,
        attempt=row.attempt_id,
        number=row.number,
        lines=tuple(line.text for line in lines[-NUM_LINES:]),
        link=link("runs", run_id, "logs", file, **query),
    )
