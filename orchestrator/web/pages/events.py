"""Who did what: the events of runs, newest first."""

from dataclasses import dataclass

from orchestrator.history.event_search import EventFilter
from orchestrator.web.page import BadRequestError, Page, whole_number
from orchestrator.web.service import Service
from orchestrator.web.views.events import EventsView, load_events


@dataclass(frozen=True, kw_only=True)
class EventsQuery:
    run: str = ""
    stage: str = ""
    kind: str = ""
    actor: str = ""  # a name, or a pattern with `*`
    q: str = ""  # a part of the event's text
    before: str = ""  # as the page before says
    all: bool = False  # also progress and metrics


def _load(service: Service, query: EventsQuery) -> EventsView:
    return load_events(service, filter_of(query))


def filter_of(query: EventsQuery) -> EventFilter:
    """Raises: BadRequestError."""
    before = None
    if query.before:
        words = query.before.split(",")
        try:
            time, run, sequence = words
            before = (float(time), run, whole_number(sequence))
        except ValueError:
            raise BadRequestError(f"address: before: found {query.before!r}, expected TIME,RUN,NUMBER") from None
    return EventFilter(
        run_id=query.run,
        stage_id=query.stage,
        kind=query.kind,
        actor=query.actor,
        text=query.q,
        before=before,
        has_telemetry=query.all,
    )


EVENTS = Page(
    name="events",
    path="/events",
    query=EventsQuery,
    view=EventsView,
    load=_load,
    summary="What happened, newest first, and who did it.",
)
