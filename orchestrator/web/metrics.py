"""`/metrics`: numbers of runs and of this process, in the text format that Prometheus scrapes."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import psutil
from sqlalchemy import Connection, func, select
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from orchestrator.errors import OrchestratorError
from orchestrator.history.database.schema import attempts, runs
from orchestrator.history.events import AttemptState
from orchestrator.web.service import Service

BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5, 10.0)


@dataclass(kw_only=True)
class Counts:
    """What this process has answered. Thread-safe."""

    requests: Counter[tuple[str, int]] = field(default_factory=Counter)  # (route, status)
    within: Counter[tuple[str, float]] = field(default_factory=Counter)  # (route, bucket): took at most so long
    seconds: dict[str, float] = field(default_factory=dict)  # by route
    denied: Counter[str] = field(default_factory=Counter)  # by reason
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def answered(self, route: str, status: int, seconds: float) -> None:
        with self._lock:
            self.requests[route, status] += 1
            self.seconds[route] = self.seconds.get(route, 0.0) + seconds
            for bucket in BUCKETS_S:
                self.within[route, bucket] += seconds <= bucket

    def refused(self, reason: str) -> None:
        with self._lock:
            self.denied[reason] += 1


async def metrics(request: Request) -> Response:
    state = request.app.state
    text = await run_in_threadpool(metrics_text, state.service, state.counts, state.feed.listeners)
    return PlainTextResponse(text, media_type="text/plain; version=0.0.4")


def metrics_text(service: Service, counts: Counts, num_streams: int) -> str:
    lines = list(_of_process(service, counts, num_streams))
    try:
        lines += _of_runs(service)
        lines.append("illume_up 1")
    except OrchestratorError:  # the scrape itself says that the database is away
        lines.append("illume_up 0")
    return "\n".join(lines) + "\n"


def _of_process(service: Service, counts: Counts, num_streams: int) -> Iterator[str]:
    yield "# TYPE illume_web_memory_bytes gauge"
    yield f"illume_web_memory_bytes {psutil.Process().memory_info().rss}"
    yield "# TYPE illume_web_uptime_seconds gauge"
    yield f"illume_web_uptime_seconds {time.time() - service.started_at:.3f}"
    yield "# TYPE illume_web_streams gauge"
    yield f"illume_web_streams {num_streams}"
    yield "# TYPE illume_web_requests_total counter"
    for (route, status), number in sorted(counts.requests.items()):
        yield f'illume_web_requests_total{{route="{route}",status="{status}"}} {number}'
    yield "# TYPE illume_web_request_seconds histogram"
    for route, seconds in sorted(counts.seconds.items()):
        number = sum(found for (name, _status), found in counts.requests.items() if name == route)
        for bucket in BUCKETS_S:
            yield f'illume_web_request_seconds_bucket{{route="{route}",le="{bucket}"}} {counts.within[route, bucket]}'
        yield f'illume_web_request_seconds_bucket{{route="{route}",le="+Inf"}} {number}'
        yield f'illume_web_request_seconds_sum{{route="{route}"}} {seconds:.6f}'
        yield f'illume_web_request_seconds_count{{route="{route}"}} {number}'
    yield "# TYPE illume_web_denied_total counter"
    for reason, number in sorted(counts.denied.items()):
        yield f'illume_web_denied_total{{reason="{reason}"}} {number}'


def _of_runs(service: Service) -> Iterator[str]:
    def work(connection: Connection) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
        states = connection.execute(select(runs.c.state, func.count()).group_by(runs.c.state)).all()
        is_open = attempts.c.state.in_([AttemptState.INTENT, AttemptState.RUNNING])
        at_work = select(attempts.c.stage_kind, func.count()).where(is_open).group_by(attempts.c.stage_kind)
        return [(row[0], row[1]) for row in states], [(row[0], row[1]) for row in connection.execute(at_work)]

    states, at_work = service.workspace().database.read(work)
    yield "# TYPE illume_runs gauge"
    for state, number in states:
        yield f'illume_runs{{state="{state}"}} {number}'
    yield "# TYPE illume_attempts_open gauge"
    for kind, number in at_work:
        yield f'illume_attempts_open{{stage_kind="{kind}"}} {number}'
