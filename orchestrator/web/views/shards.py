"""The shards of an attempt: a strip of all, and a list of those that somebody looks for."""

from dataclasses import dataclass
from typing import get_args

from orchestrator.web.addresses import link
from orchestrator.web.drawings.heat_strip import ShardCell
from orchestrator.web.page import NotFoundError
from orchestrator.web.service import Service
from orchestrator.web.shards import AttemptTable, MapTable, Order, ShardFact

ORDERS: tuple[Order, ...] = get_args(Order)
MAX_LISTED = 100


@dataclass(frozen=True, kw_only=True)
class ShardMapView:
    """One map of an attempt."""

    number: int  # of the map in its attempt, from 0
    label: str
    num_shards: int
    num_reused: int
    num_done: int  # made by this attempt
    num_retried: int
    num_quarantined: int  # items
    is_finished: bool
    is_recorded: bool  # False: by a version that did not say how long each shard took
    cells: tuple[ShardCell, ...]  # neighbouring shards together
    href: str  # of a cell, with `{first}` and `{last}`


@dataclass(frozen=True, kw_only=True)
class ShardRow:
    place: int
    name: str
    seconds: float
    tries: int
    quarantined: int  # items
    log: str  # address of the log's lines that name it


@dataclass(frozen=True, kw_only=True)
class ShardsView:
    run: str
    stage: str
    attempt: int
    maps: tuple[ShardMapView, ...]
    has_all_shards: bool  # False: not all have been read yet; the next request goes on
    chosen: int  # number of the map that is listed
    order: str
    first: int  # place
    last: int
    rows: tuple[ShardRow, ...]
    num_fitting: int  # of which `rows` are the first


def maps_of(table: AttemptTable, run_id: str, stage_id: str, attempt: int) -> tuple[ShardMapView, ...]:
    return tuple(
        _map(number, found, link("runs", run_id, "stages", stage_id, "shards", attempt=attempt, map=str(number)))
        for number, found in enumerate(table.maps)
        if found.num_shards
    )


def load_shards(
    service: Service,
    run_id: str,
    stage_id: str,
    attempt_id: str,
    attempt: int,
    *,
    chosen: int,
    order: Order,
    first: int,
    last: int,
) -> ShardsView:
    """Raises: NotFoundError."""
    table = service.shards.of_attempt(service.workspace().database, run_id, stage_id, attempt_id)
    if not 0 <= chosen < max(1, len(table.maps)):
        raise NotFoundError(f"stage {stage_id!r}: attempt {attempt} has {len(table.maps)} maps, not one {chosen}")
    found = table.maps[chosen] if table.maps else MapTable(label="", num_shards=0, num_reused=0)
    last = found.num_shards - 1 if last < 0 else last
    fitting = found.places(first, last, order)
    stem = attempt_id.removeprefix(f"{run_id}-")
    return ShardsView(
        run=run_id,
        stage=stage_id,
        attempt=attempt,
        has_all_shards=table.is_complete,
        maps=maps_of(table, run_id, stage_id, attempt),
        chosen=chosen,
        order=order,
        first=first,
        last=last,
        rows=tuple(_row(found.fact(place), run_id, stem) for place in found.first_places(fitting, order, MAX_LISTED)),
        num_fitting=len(fitting),
    )


def _row(fact: ShardFact, run_id: str, stem: str) -> ShardRow:
    return ShardRow(
        place=fact.place,
        name=fact.name,
        seconds=fact.seconds,
        tries=fact.tries,
        quarantined=fact.quarantined,
        log=link("runs", run_id, "logs", f"{stem}.log", q=fact.name),
    )


def _map(number: int, table: MapTable, address: str) -> ShardMapView:
    cells = table.cells()
    return ShardMapView(
        number=number,
        label=table.label,
        num_shards=table.num_shards,
        num_reused=table.num_reused,
        num_done=len(table.names),
        num_retried=sum(cell.num_retried for cell in cells),
        num_quarantined=sum(cell.num_quarantined for cell in cells),
        is_finished=table.is_finished,
        is_recorded=not table.is_finished or bool(table.names) or table.num_reused > 0,
        cells=cells,
        href=f"{address}&first={{first}}&last={{last}}&order=slowest",
    )
