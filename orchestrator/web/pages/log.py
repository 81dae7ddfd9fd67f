"""A log of a run: its end, a part of it, or the lines that hold a text."""

from dataclasses import dataclass

from orchestrator.web.page import Page
from orchestrator.web.service import Service
from orchestrator.web.views.logs import LogView, load_log


@dataclass(frozen=True, kw_only=True)
class LogQuery:
    run: str
    file: str
    at: int = -1  # a line, in bytes from the start of the log
    start: int = -1  # of the part to show, or of the search; -1: so that the end is shown
    q: str = ""
    follow: bool = False


def _load(service: Service, query: LogQuery) -> LogView:
    return load_log(service, query.run, query.file, at=query.at, q=query.q, start=query.start, follow=query.follow)


LOG = Page(
    name="log",
    path="/runs/{run}/logs/{file}",
    query=LogQuery,
    view=LogView,
    load=_load,
    summary="A part of a log: its end, the lines around a place, or those that hold a text.",
)
