"""Page 2: a run."""

from dataclasses import dataclass

from orchestrator.web.page import Page
from orchestrator.web.service import Service
from orchestrator.web.views.run import RunView, load_run


@dataclass(frozen=True, kw_only=True)
class RunQuery:
    run: str


def _load(service: Service, query: RunQuery) -> RunView:
    return load_run(service, query.run)


RUN = Page(
    name="run",
    path="/runs/{run}",
    query=RunQuery,
    view=RunView,
    load=_load,
    summary="A run: its stages and why they ran, its attempts over time, what failed first.",
)
