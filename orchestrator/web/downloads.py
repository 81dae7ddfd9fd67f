"""Logs and files of outputs, as they are: never opened by the browser, and in parts where it asks for parts."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import PurePosixPath
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from orchestrator.commands.shared.targets import planned_stages
from orchestrator.history.event_search import EventFilter, Place, search_events
from orchestrator.history.events import event_to_line
from orchestrator.reports.run_outputs import open_output, run_outputs
from orchestrator.web.page import NotFoundError
from orchestrator.web.pages.events import EVENTS, filter_of
from orchestrator.web.service import Service
from orchestrator.web.views.logs import find_log
from orchestrator.web.views.run import summary_of

EXPORT_PAGE = 1000
_RANGE = re.compile(r"bytes=([0-9]{0,30})-([0-9]{0,30})")
Chunks = Callable[[int, int], Iterator[bytes]]  # the bytes from a start to an end


def download_routes() -> list[BaseRoute]:
    return [
        Route("/events/export", export_events, name="export events"),
        Route("/runs/{run}/logs/{file}/raw", raw_log, name="raw log"),
        Route("/runs/{run}/stages/{stage}/files/{path:path}", output_file, name="output file"),
    ]


def raw_log(request: Request) -> Response:
    """A log as it is, as text. Raises: NotFoundError."""
    log = find_log(request.app.state.service, request.path_params["run"], request.path_params["file"])
    return ranged(request, log.chunks, log.size_bytes, name=log.name, media_type="text/plain; charset=utf-8")


def output_file(request: Request) -> Response:
    """One file of what a stage made. Raises: NotFoundError: there is no such file."""
    service: Service = request.app.state.service
    workspace = service.workspace()
    run_id, stage_id, path = (str(request.path_params[name]) for name in ("run", "stage", "path"))
    run = summary_of(workspace.database, run_id)
    planned = [stage for stage in planned_stages(workspace.artifacts, run) if stage["id"] == stage_id]
    outputs = run_outputs(workspace.artifacts, workspace.database, run, planned)
    output = outputs.stages[stage_id].output if stage_id in outputs.stages else None
    if output is None or not any(entry.path == path for entry in output.manifest.files):
        raise NotFoundError(f"run {run_id}: stage {stage_id!r} has no file {path!r} (any more)")
    folder = open_output(workspace.artifacts, output, lambda name: name == path)
    headers = {"Content-Disposition": attachment(path), "Cache-Control": "no-store"}
    return FileResponse(folder / path, media_type="application/octet-stream", headers=headers)


def ranged(request: Request, chunks: Chunks, size: int, *, name: str, media_type: str) -> Response:
    """All bytes, or those of the one `Range` that is asked for; what is no such range is ignored, as RFC 9110 says."""
    headers = {"Accept-Ranges": "bytes", "Content-Disposition": attachment(name), "Cache-Control": "no-store"}
    asked = request.headers.get("range", "")
    try:
        found = range_of(asked, size)
    except ValueError:  # also of a request without any
        headers["Content-Length"] = str(size)
        return StreamingResponse(chunks(0, size), media_type=media_type, headers=headers)
    if found is None:
        text = f"Range: found {asked[:80]!r}, expected bytes within the {size:,} that there are\n"
        return PlainTextResponse(text, status_code=416, headers={"Content-Range": f"bytes */{size}"})
    start, end = found
    headers |= {"Content-Range": f"bytes {start}-{end - 1}/{size}", "Content-Length": str(end - start)}
    return StreamingResponse(chunks(start, end), status_code=206, media_type=media_type, headers=headers)


def range_of(header: str, size: int) -> tuple[int, int] | None:
    """Start and end of the one range that a header asks for; None: no byte is there. Source: RFC 9110, 14.1.2.

    Raises: ValueError: it asks for no range, for several, or for another unit.
    """
    match = _RANGE.fullmatch(header.strip())
    if match is None or match.group() == "bytes=-":
        raise ValueError(f"found {header[:80]!r}, expected bytes=FIRST-LAST")
    first, last = match.groups()
    if first and last and int(first) > int(last):
        raise ValueError(f"found {header[:80]!r}, whose end is before its start")
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(size, int(last) + 1) if last else size
    return (start, end) if start < end else None


def attachment(path: str) -> str:
    """A header that makes a browser save a file and never show it, whatever it holds."""
    return f"attachment; filename*=UTF-8''{quote(PurePosixPath(path).name, safe='')}"


def export_events(request: Request) -> Response:
    """The events that a filter finds, newest first, one JSON object for each line, as `illume events --json` has them.

    Raises: BadRequestError: the filter cannot be used.
    """
    service: Service = request.app.state.service
    query = EVENTS.parse({}, dict(request.query_params))
    lines = _event_lines(service, filter_of(query))
    headers = {"Content-Disposition": attachment("events.jsonl"), "Cache-Control": "no-store"}
    return StreamingResponse(lines, media_type="application/jsonl", headers=headers)


def _event_lines(service: Service, wanted: EventFilter) -> Iterator[str]:
    place: Place | None = wanted.before
    while True:
        found = search_events(service.workspace().database, replace(wanted, before=place), limit=EXPORT_PAGE)
        for event in found.events:
            yield event_to_line(event) + "\n"
        place = found.scanned_to
        if place is None:
            return
