"""The stream of events that live pages follow, as server-sent events.

Rule: the id of an event is its number in its run (for all runs: `RUN/NUMBER`), so that a page that comes back with
`Last-Event-ID` gets all it has missed. Events of all runs may come twice then; a page knows them by run and number.
"""

import asyncio
import json
import logging
import threading
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from orchestrator.errors import OrchestratorError
from orchestrator.history.database.schema import events, runs
from orchestrator.history.events import Event
from orchestrator.liveness.liveness import UNFINISHED
from orchestrator.web.open_streams import event_stream
from orchestrator.web.page import BadRequestError, NotFoundError, whole_number
from orchestrator.web.service import Service
from orchestrator.workspace import Workspace

log = logging.getLogger(__name__)

POLL_S = 0.5  # between two looks at the numbers of the runs' newest events, for all streams together
BEAT_S = 15.0  # a comment, so that proxies keep the connection
TICK_S = 2.0  # live progress changes rows without an event
PAGE = 500  # events of one read
OVERLAP_S = 60.0  # of the stream of all runs after a reconnect: longer than a transaction takes
MAX_FIELDS = 4096  # characters of JSON; what is longer is on the page, not in the stream

Heads = Mapping[str, int]  # run -> number of its newest event


@dataclass(kw_only=True)
class Feed:
    """Watches the numbers of the newest events in one thread, for as long as somebody listens."""

    service: Service
    heads: Heads = field(default_factory=dict)
    live: frozenset[str] = frozenset()  # the runs that have not ended
    problem: str = ""
    version: int = 0  # raised with every change
    listeners: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _is_running: bool = False

    def enter(self) -> None:
        with self._lock:
            self.listeners += 1
            if self._is_running:
                return
            self._is_running = True
            self.heads = {}
        threading.Thread(target=self._watch, name="event feed", daemon=True).start()

    def leave(self) -> None:
        with self._lock:
            self.listeners -= 1

    def _watch(self) -> None:
        while not self.service.stopping.is_set():
            with self._lock:
                if not self.listeners:
                    self._is_running = False
                    return
            try:
                workspace = self.service.workspace()
                found, problem, self.live = read_heads(workspace), "", read_live(workspace)
            except OrchestratorError as error:
                found, problem = self.heads, str(error)
            except Exception as error:  # all open pages follow this thread
                log.exception("event feed: a bug in illume; trying again")
                found, problem = self.heads, f"{type(error).__name__}; the traceback is in the log of the service"
            if (found, problem) != (self.heads, self.problem):
                self.heads, self.problem = found, problem
                self.version += 1
            self.service.stopping.wait(POLL_S)


def read_heads(workspace: Workspace) -> Heads:
    query = select(runs.c.run_id, runs.c.last_event)
    return workspace.database.read(lambda connection: {row[0]: row[1] for row in connection.execute(query)})


def read_live(workspace: Workspace) -> frozenset[str]:
    query = select(runs.c.run_id).where(runs.c.state.in_(UNFINISHED))
    return workspace.database.read(lambda connection: frozenset(connection.execute(query).scalars()))


async def stream(request: Request) -> Response:
    """`/events/stream?run=RUN`: the events of a run from now on, or after `Last-Event-ID` or `?after=N`."""
    feed: Feed = request.app.state.feed
    run_id = request.query_params.get("run", "")
    last = request.headers.get("Last-Event-ID") or request.query_params.get("after", "")
    after = await run_in_threadpool(start_after, feed.service, run_id, last)
    return event_stream(request, _lines(feed, run_id, after))


def start_after(service: Service, run_id: str, last: str) -> dict[str, int]:
    """For each run the number of the last event that the page has seen.

    Raises: NotFoundError: there is no such run. BadRequestError: the id is none of ours.
    """
    heads = read_heads(service.workspace())
    if run_id:
        if run_id not in heads:
            raise NotFoundError(f"run {run_id}: not in the database (any more)")
        return {run_id: _number(last) if last else heads[run_id]}
    if not last:
        return dict(heads)
    known_run, _, number = last.rpartition("/")
    since = _time_of(service.workspace(), known_run, _number(number)) - OVERLAP_S
    workspace = service.workspace()
    query = select(runs.c.run_id).where(runs.c.updated_at >= since)
    moved = workspace.database.read(lambda connection: set(connection.execute(query).scalars()))
    return {run: _last_before(workspace, run, head, since) if run in moved else head for run, head in heads.items()}


async def _lines(feed: Feed, run_id: str, after: dict[str, int]) -> AsyncGenerator[str, None]:
    feed.enter()
    try:
        yield "retry: 1000\n\n"
        version, said_at, ticked_at, told = -1, time.monotonic(), time.monotonic(), ""
        while not feed.service.stopping.is_set():
            if feed.version != version:
                version, problem = feed.version, feed.problem
                for text in await run_in_threadpool(new_messages, feed, run_id, after):
                    yield text
                    said_at = time.monotonic()
                if problem != told:
                    yield _message("problem", {"message": problem})
                    told = problem
            now = time.monotonic()
            is_live = run_id in feed.live if run_id else bool(feed.live)
            if is_live and now - ticked_at >= TICK_S:
                ticked_at = said_at = now
                yield _message("tick", {"run": run_id})
            if now - said_at >= BEAT_S:
                said_at = now
                yield ": still here\n\n"
            await asyncio.sleep(POLL_S / 2)
    finally:
        feed.leave()


def new_messages(feed: Feed, run_id: str, after: dict[str, int]) -> list[str]:
    """The events after what was sent, which is moved on."""
    found: list[str] = []
    heads = feed.heads
    for run, head in heads.items():
        if run_id not in ("", run):
            continue
        try:
            while after.setdefault(run, 0) < head:
                page = feed.service.workspace().runs.events(run, after=after[run], limit=PAGE)
                if not page:
                    break
                found += [event_text(event, is_of_one_run=bool(run_id)) for event in page]
                after[run] = page[-1].sequence
        except OrchestratorError as error:  # the page keeps what it shows, and is told
            return [*found, _message("problem", {"message": str(error)})]
    return found


def event_text(event: Event, *, is_of_one_run: bool) -> str:
    """One event on the wire."""
    fields = {name: value for name, value in event.fields.items() if name not in ("config", "artifact", "actor")}
    if len(json.dumps(fields)) > MAX_FIELDS:
        fields = {}
    data = {
        "sequence": event.sequence,
        "run": event.run_id,
        "stage": event.stage_id,
        "attempt": event.attempt_id,
        "time": event.time,
        "kind": event.kind,
        "fields": fields,
    }
    number = str(event.sequence) if is_of_one_run else f"{event.run_id}/{event.sequence}"
    return f"id: {number}\ndata: {json.dumps(data)}\n\n"


def _message(name: str, data: Mapping[str, Any]) -> str:
    """Something beside the events of runs: it has no id."""
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


def _number(text: str) -> int:
    try:
        return whole_number(text)
    except ValueError:
        raise BadRequestError(f"Last-Event-ID: found {text[:80]!r}, expected the number of an event") from None


def _time_of(workspace: Workspace, run_id: str, sequence: int) -> float:
    query = select(events.c.time).where(events.c.run_id == run_id, events.c.sequence == sequence)
    found = workspace.database.read(lambda connection: connection.execute(query).scalar_one_or_none())
    return float(found or 0.0)


def _last_before(workspace: Workspace, run_id: str, head: int, since: float) -> int:
    """The number of a run's last event before a time, by bisection: times of a run's events only rise."""
    low, high = 0, head  # events up to `low` are before, those above `high` are not
    while low < high:
        middle = (low + high + 1) // 2
        if _time_of(workspace, run_id, middle) < since:
            low = middle
        else:
            high = middle - 1
    return low
