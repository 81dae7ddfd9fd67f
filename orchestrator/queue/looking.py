"""The queue for people: everything that is in it, who goes next first, and why each waits."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.history.database.database import Database
from orchestrator.queue.amounts import Amounts
from orchestrator.queue.claims import Claims, Pool, decide_view
from orchestrator.queue.entries import Entry, request_of
from orchestrator.queue.forecast import expected_starts
from orchestrator.queue.records import THIS_MACHINE, PoolRecord
from orchestrator.queue.servers import live_servers

UNKNOWN_POOL = "its own queue"
NO_SERVER = "a server: `illume serve --scheduler`"


@dataclass(frozen=True, kw_only=True)
class Place:
    """An entry in its place."""

    entry: Entry
    pool: str
    position: int | None  # 1: it goes next on its pool; None: it has a driver
    waits_for: str
    expected_start: float | None = None  # seconds since 1970


def pool_in(record: PoolRecord, *, machine: str) -> Pool:
    """A pool as its database knows it. `machine`: the name of this one."""
    known = (record.cpus, record.gpus, record.memory_gib)
    capacity = None
    if None not in known:
        cpus, gpus, memory_gib = (amount or 0.0 for amount in known)
        capacity = Amounts(cpus=cpus, gpus=gpus, memory_gib=memory_gib)
    return Pool(name=machine if record.name == THIS_MACHINE else record.name, capacity=capacity)


def places(
    database: Database, entries: Sequence[Entry], *, machine: str, lasts_s: Mapping[str, float | None]
) -> list[Place]:
    """Runs with a driver first, then who goes next on each pool. Without a server nothing is expected to start."""
    has_server = bool(live_servers(database))
    found: list[Place] = []
    for record in dict.fromkeys(entry.submission.pool for entry in entries):
        of_pool = [entry for entry in entries if entry.submission.pool == record]
        found += [_driven(entry, record, machine) for entry in of_pool if entry.state != "WAITING"]
        waiting = [entry for entry in of_pool if entry.state == "WAITING"]
        if record is None:
            found += _without_pool(waiting, has_server=has_server)
        else:
            found += _in_pool(database, waiting, pool_in(record, machine=machine), lasts_s if has_server else None)
    return sorted(found, key=lambda place: place.entry.state == "WAITING")


def _driven(entry: Entry, record: PoolRecord | None, machine: str) -> Place:
    waits = entry.held_back or "; ".join(entry.stage_waits)
    pool = pool_in(record, machine=machine).name if record else UNKNOWN_POOL
    return Place(entry=entry, pool=pool, position=None, waits_for=waits)


def _without_pool(waiting: Iterable[Entry], *, has_server: bool) -> Iterable[Place]:
    ordered = sorted(waiting, key=lambda entry: (bool(entry.held_back), -entry.priority, entry.asked_at))
    for position, entry in enumerate(ordered, start=1):
        waits = entry.held_back or ("its driver" if has_server else NO_SERVER)
        yield Place(entry=entry, pool=UNKNOWN_POOL, position=position, waits_for=waits)


def _in_pool(
    database: Database, waiting: Sequence[Entry], pool: Pool, lasts_s: Mapping[str, float | None] | None
) -> list[Place]:
    view = Claims(database, pool).view()
    entries = {entry.run_id: entry for entry in waiting}
    free = [request_of(entry) for entry in waiting if not entry.held_back]
    started = {holder.request.run_id for holder in view.holders}
    stages = [request for request in view.requests if request.stage_id]
    requests = [*stages, *(request for request in free if request.run_id not in started)]
    view = replace(view, requests=requests)
    decision = decide_view(view)
    starts = {} if lasts_s is None else expected_starts(view, lasts_s)
    ordered = [request.run_id for request in decision.order if request.run_id in entries]
    rest = [entry.run_id for entry in waiting if entry.run_id not in ordered]
    found = []
    for position, run_id in enumerate([*ordered, *rest], start=1):
        entry = entries[run_id]
        waits = entry.held_back or (NO_SERVER if lasts_s is None else decision.waits.get((run_id, "")) or "its driver")
        start = None if entry.held_back else starts.get(run_id)
        found.append(Place(entry=entry, pool=pool.name, position=position, waits_for=waits, expected_start=start))
    return found
