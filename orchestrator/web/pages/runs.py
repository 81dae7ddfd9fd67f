"""Page 1: the runs, and above them what needs a person."""

from dataclasses import dataclass

from orchestrator.history.events import RunState
from orchestrator.history.run_search import RunFilter
from orchestrator.web.page import BadRequestError, Page
from orchestrator.web.service import Service
from orchestrator.web.views.runs import RunsView, load_runs


@dataclass(frozen=True, kw_only=True)
class RunsQuery:
    q: str = ""  # a part of an id, of a recipe's name, of a message or of a stage's name
    state: str = ""
    recipe: str = ""
    owner: str = ""
    before: str = ""  # as the page before says


def _load(service: Service, query: RunsQuery) -> RunsView:
    return load_runs(service, filter_of(query))


def filter_of(query: RunsQuery) -> RunFilter:
    """Raises: BadRequestError."""
    states = [state for state in RunState if state == query.state.upper()]
    if query.state and not states:
        raise BadRequestError(f"address: state: found {query.state!r}, expected one of {', '.join(RunState)}")
    before = None
    if query.before:
        at, _, run_id = query.before.partition(",")
        try:
            before = (float(at), run_id)
        except ValueError:
            raise BadRequestError(f"address: before: found {query.before!r}, expected TIME,RUN") from None
    return RunFilter(states=tuple(states), recipe=query.recipe, owner=query.owner, text=query.q, before=before)


RUNS = Page(
    name="runs",
    path="/runs",
    query=RunsQuery,
    view=RunsView,
    load=_load,
    summary="The runs, newest first, and what needs a person.",
)
