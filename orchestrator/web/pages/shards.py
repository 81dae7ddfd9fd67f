"""The shards of an attempt: those that took long, were retried, or have quarantined items."""

from dataclasses import dataclass

from orchestrator.web.page import Page
from orchestrator.web.service import Service
from orchestrator.web.shards import Order
from orchestrator.web.views.shards import ShardsView, load_shards
from orchestrator.web.views.stage import find_attempt


@dataclass(frozen=True, kw_only=True)
class ShardsQuery:
    run: str
    stage: str
    attempt: int = 0  # its number; 0: the newest
    map: int = 0  # its number in the attempt
    order: Order = "slowest"
    first: int = 0  # place
    last: int = -1  # -1: of the last shard


def _load(service: Service, query: ShardsQuery) -> ShardsView:
    row = find_attempt(service.workspace().database, query.run, query.stage, query.attempt)
    return load_shards(
        service,
        query.run,
        query.stage,
        row.attempt_id,
        row.number,
        chosen=query.map,
        order=query.order,
        first=query.first,
        last=query.last,
    )


SHARDS = Page(
    name="shards",
    path="/runs/{run}/stages/{stage}/shards",
    query=ShardsQuery,
    view=ShardsView,
    load=_load,
    summary="The shards of an attempt: the slowest, those that were retried, those with quarantined items.",
)
