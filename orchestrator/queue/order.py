"""Who goes next on a shared cluster: pure functions of what waits, what is at work, and the time.

Rules, in this order:

1. A higher priority goes first. Waiting raises a request by one level every `Policy.level_s`, so nothing starves.
2. Within a level, whoever used least of the cluster lately goes first (dominant share: the largest of the shares of
   CPUs, accelerators and memory), then whoever asked first.
3. What does not fit lets smaller ones pass. Once it is to be waited for no longer (`Policy.passed_for_s`), only those
   pass that fit beside it and beside what passed it before; so it starts at the latest when all that was at work then
   has ended.
4. What does not fit asks runs of a lower priority to make room, if that is enough: the lowest and newest first, and
   none whose room does not help. How long something has waited counts in the order, but takes no room from anybody.
"""

import heapq
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from orchestrator.queue.amounts import Amounts, shortage, total

ROUND_S = 60.0  # of use that a start counts as, so that several starts at one moment are shared fairly


@dataclass(frozen=True, kw_only=True)
class Request:
    """A stage that waits for room, or a run that waits for a driver (`stage_id` is empty)."""

    run_id: str
    stage_id: str
    person: str
    priority: int
    need: Amounts
    asked_at: float
    makes: str = ""  # fingerprint of the artifact; "": unknown

    @property
    def key(self) -> tuple[str, str]:
        return self.run_id, self.stage_id


@dataclass(frozen=True, kw_only=True)
class Holder:
    """A stage that has its room."""

    request: Request
    granted_at: float
    may_yield: bool = False  # its run is in the queue, so it is continued after it made room
    is_yielding: bool = False


@dataclass(frozen=True, kw_only=True)
class Policy:
    level_s: float = 6 * 3600.0  # of waiting that count as one level of priority
    passed_for_s: float = 600.0  # how long smaller ones may pass one that does not fit


@dataclass(frozen=True, kw_only=True)
class Decision:
    starts: tuple[Request, ...] = ()
    yields: Mapping[str, Request] = field(default_factory=dict)  # run that is to make room -> for whom
    waits: Mapping[tuple[str, str], str] = field(default_factory=dict)  # why the others wait
    order: tuple[Request, ...] = ()  # all of them, who goes next first


@dataclass(kw_only=True)
class _Room:
    """What is free while one decision is made."""

    capacity: Amounts
    holders: Sequence[Holder]
    free: Amounts
    # Once room is promised to one request: what all others that start may use together, and what they use by now.
    limit: Amounts | None = None
    beside: Amounts = field(default_factory=Amounts)
    starts: list[Request] = field(default_factory=list)

    def fits(self, need: Amounts) -> bool:
        return need.fits_in(self.free) and (self.limit is None or need.fits_in(self.limit - self.beside))

    def start(self, request: Request, need: Amounts) -> None:
        self.starts.append(request)
        self.free = self.free - need
        self.beside = self.beside + need

    def promise(self, need: Amounts, beside: Iterable[Holder]) -> None:
        """Keep room for `need` beside these holders, which stay."""
        self.limit = self.capacity - need
        self.beside = total(holder.request.need for holder in beside)
        self.beside = self.beside + total(request.need.at_most(self.capacity) for request in self.starts)


def decide(
    requests: Sequence[Request],
    holders: Sequence[Holder],
    capacity: Amounts,
    *,
    now: float,
    used: Mapping[str, float] | None = None,
    policy: Policy | None = None,
) -> Decision:
    """Who starts now, who is asked to make room, and why the others wait.

    `used`: seconds of dominant share that each person had lately. A request larger than the cluster starts when
    nothing else is at work.
    """
    policy = policy or Policy()
    holders = [replace(holder, request=_cut(holder.request, capacity)) for holder in holders]
    room = _Room(capacity=capacity, holders=holders, free=capacity - total(holder.request.need for holder in holders))
    makers = {holder.request.makes: holder.request for holder in holders if holder.request.makes}
    yields: dict[str, Request] = {}
    waits: dict[tuple[str, str], str] = {}
    too_large: set[Amounts] = set()  # room only shrinks while a decision is made
    order = []
    for request in _in_order(requests, capacity, used or {}, now=now, policy=policy):
        order.append(request)
        maker = makers.get(request.makes) if request.makes else None
        if maker is not None and maker.run_id != request.run_id:
            waits[request.key] = f"an artifact that run {maker.run_id} makes"
            continue
        need = _cut(request, capacity).need
        if need not in too_large and room.fits(need):
            room.start(request, need)
            if request.makes:
                makers[request.makes] = request
            continue
        too_large.add(need)
        waits[request.key] = _why(need, room)
        if room.limit is None:
            yields = _make_room(request, need, room, now=now, policy=policy)
    return Decision(starts=tuple(room.starts), yields=yields, waits=waits, order=tuple(order))


def _cut(request: Request, capacity: Amounts) -> Request:
    """What asks for more than the whole cluster gets all of it, and so runs alone."""
    return replace(request, need=request.need.at_most(capacity))


def level(request: Request, *, now: float, policy: Policy) -> int:
    """The priority with what waiting adds to it."""
    return request.priority + int(max(0.0, now - request.asked_at) / policy.level_s)


def _in_order(
    requests: Sequence[Request], capacity: Amounts, used: Mapping[str, float], *, now: float, policy: Policy
) -> Iterator[Request]:
    """By level, then by use, then by time. Whoever is taken counts as using, so persons take turns."""
    levels: dict[int, dict[str, deque[Request]]] = defaultdict(lambda: defaultdict(deque))
    for request in sorted(requests, key=lambda waiting: (waiting.asked_at, waiting.key)):
        levels[level(request, now=now, policy=policy)][request.person].append(request)
    for number in sorted(levels, reverse=True):
        persons = levels[number]
        heap = [(used.get(person, 0.0), queue[0].asked_at, person) for person, queue in persons.items()]
        heapq.heapify(heap)
        while heap:
            use, _, person = heapq.heappop(heap)
            request = persons[person].popleft()
            yield request
            if persons[person]:
                use += ROUND_S * request.need.share_of(capacity)
                heapq.heappush(heap, (use, persons[person][0].asked_at, person))


def _why(need: Amounts, room: _Room) -> str:
    return shortage(need, room.free, room.capacity) or "room that is kept for one that goes first"


def _make_room(request: Request, need: Amounts, room: _Room, *, now: float, policy: Policy) -> dict[str, Request]:
    """Promise room to a request that does not fit, if it may take it; returns the runs that are to make it."""
    leaving = [holder for holder in room.holders if holder.is_yielding]
    lower = [
        holder
        for holder in room.holders
        if holder.may_yield and not holder.is_yielding and holder.request.priority < request.priority
    ]
    lower.sort(key=lambda holder: (holder.request.priority, -holder.granted_at))
    asked: list[Holder] = []
    while not need.fits_in(room.free + total(holder.request.need for holder in (*leaving, *asked))):
        if not lower:
            break
        asked += _with_all_of_its_run(lower)
    else:
        asked = _needed(asked, need, room.free + total(holder.request.need for holder in leaving))
        gone = {holder.request.key for holder in (*leaving, *asked)}
        room.promise(need, [holder for holder in room.holders if holder.request.key not in gone])
        return {holder.request.run_id: request for holder in asked}
    patience_ends = request.asked_at + policy.passed_for_s
    if now >= patience_ends:
        room.promise(need, [holder for holder in room.holders if holder.granted_at >= patience_ends])
    return {}


def _needed(asked: list[Holder], need: Amounts, free: Amounts) -> list[Holder]:
    """Without the runs whose room is not needed, those that would have been asked last first."""
    for run_id in reversed(dict.fromkeys(holder.request.run_id for holder in asked)):
        rest = [holder for holder in asked if holder.request.run_id != run_id]
        if need.fits_in(free + total(holder.request.need for holder in rest)):
            asked = rest
    return asked


def _with_all_of_its_run(lower: list[Holder]) -> list[Holder]:
    """Take the next one with the other stages of its run, as a run makes room as a whole."""
    first = lower[0].request.run_id
    taken = [holder for holder in lower if holder.request.run_id == first]
    lower[:] = [holder for holder in lower if holder.request.run_id != first]
    return taken
