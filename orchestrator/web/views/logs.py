"""The logs of a run: which there are, and a part of one."""

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.liveness.liveness import UNFINISHED
from orchestrator.logs.ranges import LogFileInfo, LogRange, Match, lines_around, list_logs, open_log, search_log
from orchestrator.logs.reading import stage_of_file
from orchestrator.logs.run_logs import RunLogs
from orchestrator.web.addresses import link
from orchestrator.web.page import BadRequestError, NotFoundError
from orchestrator.web.service import Service
from orchestrator.web.views.run import summary_of

SHOWN_BYTES = 64 * 1024
BEFORE_BYTES = 8 * 1024  # shown before a line that a link leads to
MAX_MATCHES = 200
SEARCH_S = 0.15  # of one page; the next goes on


@dataclass(frozen=True, kw_only=True)
class LogFile:
    name: str
    bytes: int
    is_worker: bool  # what a worker process logged and printed; else that of the attempt
    link: str


@dataclass(frozen=True, kw_only=True)
class LogLineView:
    start: int  # place of the line: bytes from the start of the log
    text: str
    link: str  # to this line


@dataclass(frozen=True, kw_only=True)
class LogView:
    run: str
    recipe: str
    stage: str
    file: str
    bytes: int
    lines: tuple[LogLineView, ...]
    start: int  # of the part that is shown
    end: int
    earlier: str  # address of the part before; empty: there is none
    later: str
    newest: str
    raw: str  # address of the whole, to download
    others: tuple[LogFile, ...]  # of the same attempt
    is_following: bool
    is_live: bool  # the run may still write it
    q: str
    at: int  # the line that is pointed to; -1: none
    search_on: str  # address at which the search goes on; empty: all was searched


def logs_of(service: Service, run_id: str) -> RunLogs:
    workspace = service.workspace()
    return RunLogs(store=workspace.store, state=workspace.root, run_id=run_id)


def find_log(service: Service, run_id: str, name: str) -> LogRange:
    """Raises: NotFoundError: it does not exist, or not yet. StoreError."""
    found = open_log(logs_of(service, run_id), name)
    if found is None:
        raise NotFoundError(
            f"log {name!r} of run {run_id}: there is none, or not yet: a log begins with its attempt's first line"
        )
    return found


def log_files(service: Service, run_id: str, *, stage_id: str = "", attempt: str = "") -> tuple[LogFile, ...]:
    """The logs of a run, of one stage, or of one attempt. Raises: StoreError."""
    found = list_logs(logs_of(service, run_id))
    wanted = [info for info in found if stage_id in ("", stage_of_file(info.name))]
    stem = attempt.removeprefix(f"{run_id}-")
    of_attempt = [info for info in wanted if not attempt or info.name.startswith(f"{stem}.")]
    return tuple(_file(run_id, info) for info in of_attempt)


def load_log(service: Service, run_id: str, name: str, *, at: int, q: str, start: int, follow: bool) -> LogView:
    """Raises: NotFoundError. BadRequestError: a place before the start of the log."""
    if start < -1 or at < -1:
        raise BadRequestError("address: start, at: expected a number of bytes from the start of the log")
    run = summary_of(service.workspace().database, run_id)
    log = find_log(service, run_id, name)
    attempt = f"{run_id}-{name.removesuffix('.log').partition('.')[0]}"
    search_on = ""
    if q:
        matches = search_log(log, q, start=max(0, start), limit=MAX_MATCHES, budget_s=SEARCH_S)
        lines: Sequence[Match] = matches.found
        begin, end = max(0, start), matches.scanned_to
        search_on = "" if matches.is_whole else link("runs", run_id, "logs", name, q=q, start=matches.scanned_to)
    else:
        begin = _begin(log, at, start)
        lines = lines_around(log, begin, SHOWN_BYTES)
        begin = lines[0].start if lines else begin
        end = lines[-1].start + len(lines[-1].text.encode()) + 1 if lines else begin
    return LogView(
        run=run_id,
        recipe=run.recipe,
        stage=stage_of_file(name) or "",
        file=name,
        bytes=log.size_bytes,
        lines=tuple(_line(run_id, name, match) for match in lines),
        start=begin,
        end=end,
        earlier=link("runs", run_id, "logs", name, start=str(max(0, begin - SHOWN_BYTES))) if begin and not q else "",
        later=link("runs", run_id, "logs", name, start=str(end)) if end < log.size_bytes and not q else "",
        newest=link("runs", run_id, "logs", name),
        raw=link("runs", run_id, "logs", name, "raw"),
        others=log_files(service, run_id, attempt=attempt),
        is_following=follow and run.state in UNFINISHED,
        is_live=run.state in UNFINISHED,
        q=q,
        at=at,
        search_on=search_on,
    )


def _begin(log: LogRange, at: int, start: int) -> int:
    """Where the shown part begins: a little before a line that is pointed to, else as asked, else so that it ends."""
    if at >= 0:
        return max(0, min(at, log.size_bytes) - BEFORE_BYTES)
    return min(start, log.size_bytes) if start >= 0 else max(0, log.size_bytes - SHOWN_BYTES)


def _line(run_id: str, name: str, match: Match) -> LogLineView:
    address = link("runs", run_id, "logs", name, at=str(match.start))
    return LogLineView(start=match.start, text=match.text, link=f"{address}#L{match.start}")


def _file(run_id: str, info: LogFileInfo) -> LogFile:
    is_worker = info.name.count(".") > 1
    return LogFile(name=info.name, bytes=info.bytes, is_worker=is_worker, link=link("runs", run_id, "logs", info.name))
