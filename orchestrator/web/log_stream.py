"""Tells pages that follow a log that it has grown."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from orchestrator.errors import OrchestratorError
from orchestrator.web.open_streams import event_stream
from orchestrator.web.page import BadRequestError, whole_number
from orchestrator.web.service import Service
from orchestrator.web.stream import BEAT_S
from orchestrator.web.views.logs import find_log

LOCAL_POLL_S = 0.5
REMOTE_POLL_S = 5.0  # as often as writers upload


async def log_stream(request: Request) -> Response:
    """`/runs/RUN/logs/FILE/stream?after=BYTES`; the id of a message is the length of the log.

    Raises: NotFoundError: there is no such log.
    """
    run_id, name = request.path_params["run"], request.path_params["file"]
    last = request.headers.get("Last-Event-ID") or request.query_params.get("after", "0")
    try:
        after = whole_number(last)
    except ValueError:
        raise BadRequestError(f"after: found {last[:80]!r}, expected a number of bytes") from None
    service: Service = request.app.state.service
    await run_in_threadpool(find_log, service, run_id, name)
    return event_stream(request, log_lines(service, run_id, name, after))


async def log_lines(service: Service, run_id: str, name: str, after: int) -> AsyncGenerator[str, None]:
    yield "retry: 1000\n\n"
    poll_s = LOCAL_POLL_S if service.workspace().store.is_local else REMOTE_POLL_S
    said_at = time.monotonic()
    while not service.stopping.is_set():
        try:
            size = (await run_in_threadpool(find_log, service, run_id, name)).size_bytes
        except OrchestratorError as error:
            yield f"event: problem\ndata: {json.dumps({'message': str(error)})}\n\n"
            size = after
        if size != after:
            after, said_at = size, time.monotonic()
            yield f"id: {size}\ndata: {json.dumps({'run': run_id, 'file': name, 'bytes': size})}\n\n"
        elif time.monotonic() - said_at >= BEAT_S:
            said_at = time.monotonic()
            yield ": still here\n\n"
        await asyncio.sleep(poll_s)
