"""When what waits is expected to start: the rules of `order.py` played forward with the times of earlier runs."""

import heapq
import itertools
from collections.abc import Mapping
from dataclasses import replace

from orchestrator.queue.claims import View, decide_view
from orchestrator.queue.order import Holder, Policy

MAX_STEPS = 500  # ends that are played; what would start later is not foreseen


def expected_starts(
    view: View, lasts_s: Mapping[str, float | None], *, policy: Policy | None = None
) -> dict[str, float]:
    """By run the time at which its request starts, for those that can be foreseen.

    `lasts_s`: how long each run still takes or, of one that waits, will take; None: unknown, so that nothing is
    foreseen that needs its room.
    """
    found: dict[str, float] = {}
    requests, holders, now = list(view.requests), list(view.holders), view.now
    numbers = itertools.count()
    ends: list[tuple[float, int, str]] = []
    for run_id in {holder.request.run_id for holder in holders}:
        _note_end(ends, now, lasts_s.get(run_id), next(numbers), run_id)
    for _ in range(MAX_STEPS):
        decision = decide_view(replace(view, requests=requests, holders=holders, now=now), policy)
        for start in decision.starts:
            found.setdefault(start.run_id, now)
            holders.append(Holder(request=start, granted_at=now))
            _note_end(ends, now, lasts_s.get(start.run_id), next(numbers), start.run_id)
        started = {start.key for start in decision.starts}
        requests = [request for request in requests if request.key not in started]
        if not requests or not ends:
            break
        now, _, over = heapq.heappop(ends)
        holders = [holder for holder in holders if holder.request.run_id != over]
    return found


def _note_end(ends: list[tuple[float, int, str]], now: float, lasts_s: float | None, number: int, run_id: str) -> None:
    if lasts_s is not None:
        heapq.heappush(ends, (now + max(0.0, lasts_s), number, run_id))
