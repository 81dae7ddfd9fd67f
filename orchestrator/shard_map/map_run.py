"""Carries out the missing shards of one map on worker processes, and decides what follows when one fails.

The rules:

- Each process has one shard at a time, so a death has one suspect. What was running there runs again elsewhere.
- Trouble of the infrastructure (network, store, disk) is tried again with back-off, `retry.attempts` times per shard.
  Out of memory first halves the number of processes.
- A shard that raises, or whose process dies or hangs twice, is searched for the items at fault by trial runs whose
  output is thrown away. Those items are quarantined, with the reason in the shard's record, and the shard runs
  without them. Above `retry.max_quarantined_share` of the map's items the map fails.
- A mistake in the code is told apart from bad items like this: as long as no item of the map has ever worked, a
  failing shard first has a few single items tried, spread over all unfinished shards. If every one of them fails with
  the same class of error at the same line, the code is at fault and the map fails at once. As soon as anything has
  worked, the code works, and what fails is the items.
"""

import heapq
import itertools
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from orchestrator.artifact import JSON
from orchestrator.artifacts.shard_ledger import ShardLedger, StoredShard
from orchestrator.artifacts.takedowns import Takedown
from orchestrator.cluster.ray_cluster import Cluster, WorkerNeeds
from orchestrator.errors import CancelledError
from orchestrator.failures.classes import FailureClass, FailureReport, classified
from orchestrator.failures.retries import backoff_s
from orchestrator.shard_map.bisection import Search, TrialFailure, all_alike, find_poison, spread
from orchestrator.shard_map.quarantine import Tally, shortened
from orchestrator.shard_map.shard_host import HostInfo, HostSettings, ShardOrder
from orchestrator.shard_map.worker_pool import Ended, Spares, WorkerPool
from orchestrator.shards import Quarantined, Shard, ShardWorker
from orchestrator.stage import Resources, RetryPolicy, Tracker

log = logging.getLogger(__name__)

POLL_S = 0.25  # how often a stop request is looked for
NUM_PROBES = 4  # single items that decide between a mistake in the code and bad items
DEATHS_BEFORE_SEARCH = 2
MAX_SEARCHES = 2  # of one shard: the second is for items that only fail together with others
MAX_REASON_CHARACTERS = 400

_TRANSIENT = {FailureClass.INFRA_TRANSIENT, FailureClass.GPU_OOM, FailureClass.CAPACITY}
_NOT_OURS_TO_DECIDE = {FailureClass.PRECHECK, FailureClass.CONTROLLER_LOST}


@dataclass(frozen=True, kw_only=True)
class MapSettings:
    stage_id: str
    stage_kind: str
    attempt_id: str
    version: int
    label: str
    identity: Mapping[str, JSON]
    resources: Resources
    retry: RetryPolicy
    scratch: Path
    provenance: Mapping[str, JSON]  # of the shard records: run, stage, attempt
    epoch: int
    log_stem: str = ""  # see `HostSettings`
    memory_halvings: int = 0
    unit: str = "items"
    takedowns: Sequence[Takedown] = ()


@dataclass(frozen=True, kw_only=True)
class MapTools:
    """What a map works with."""

    cluster: Cluster
    ledger: ShardLedger
    tracker: Tracker
    stop_requested: Callable[[], bool]
    on_made: Callable[[StoredShard], None]  # called for each shard right after it was recorded
    rng: random.Random  # of the back-off only
    spares: Spares  # processes that the attempt's maps leave to one another


@dataclass(kw_only=True)
class Lot:
    """What is known about one shard that is being made."""

    shard: Shard
    fingerprint: str
    left: tuple[int, ...]  # positions of the items that are not quarantined
    poison: dict[int, str] = field(default_factory=dict)  # position -> reason
    deaths: int = 0  # of processes that ran the whole shard
    troubles: int = 0  # failures of the infrastructure
    unknowns: int = 0
    searches: int = 0
    search: Search | None = None
    last: FailureReport | None = None


@dataclass(frozen=True, kw_only=True)
class _Unit:
    """One call to make: the whole shard, a trial of its search, or a probe for a mistake in the code."""

    mode: Literal["shard", "trial", "probe"]
    lot: Lot
    positions: tuple[int, ...]


class MapRun:
    """One carrying-out of a map; used once, from one thread."""

    def __init__(
        self,
        worker: ShardWorker,
        lots: Sequence[Lot],
        settings: MapSettings,
        tools: MapTools,
        *,
        tally: Tally,
        reused: Mapping[str, StoredShard],
    ) -> None:
        self._lots, self._settings, self._tools, self._tally = lots, settings, tools, tally
        self._records: dict[str, StoredShard] = {}
        # Some item of this map has worked.
        self._proven = any(stored.outcome.rows > 0 for stored in reused.values())
        self._done_items = tally.num_items - sum(len(lot.shard.items) for lot in lots)
        self._ready: list[tuple[bool, int, _Unit]] = []  # heap: trials and probes first, then in order
        self._later: list[tuple[float, int, _Unit]] = []  # heap by the time to wait for
        self._order = itertools.count()
        self._suspects: list[Lot] = []  # wait for the probes
        self._probes: dict[tuple[str, int], TrialFailure | None] = {}
        self._probes_open = 0
        self._start_failures = 0
        self._start_after = 0.0
        resources = settings.resources
        host = HostSettings(
            ledger=tools.ledger,
            stage_kind=settings.stage_kind,
            attempt_id=settings.attempt_id,
            hang_after_s=settings.retry.hang_after_s,
            scratch=settings.scratch,
            provenance=settings.provenance,
            epoch=settings.epoch,
            log_stem=settings.log_stem,
        )
        self._pool: WorkerPool[_Unit] = WorkerPool(
            tools.cluster,
            host,
            worker,
            size=max(1, min(resources.workers >> settings.memory_halvings, len(lots))),
            needs=WorkerNeeds(cpus=resources.cpus, gpus=resources.gpus, memory_gib=resources.memory_gib),
            spares=tools.spares,
        )

    def run(self) -> dict[str, StoredShard]:
        """Records by fingerprint."""
        self._tell_progress()
        for lot in self._lots:
            self._push(_Unit(mode="shard", lot=lot, positions=lot.left))
        with self._pool:
            while len(self._records) < len(self._lots):
                if self._tools.stop_requested():
                    self._finish_under_way()
                self._dispatch()
                for ended in self._pool.wait(POLL_S):
                    self._handle(ended)
        return self._records

    def _finish_under_way(self) -> None:
        """Raises: CancelledError: always, once the shards under way are recorded (trials are dropped)."""
        while self._pool.num_under_way:
            for ended in self._pool.wait(POLL_S):
                if ended.key is not None and ended.key.mode == "shard" and ended.error is None:
                    self._handle(ended)
        raise CancelledError(
            f"{self._settings.stage_id}: stopped with {len(self._records)} of {len(self._lots)} missing shards made"
        )

    def _push(self, unit: _Unit, wait_s: float = 0.0) -> None:
        order = next(self._order)
        if wait_s:
            heapq.heappush(self._later, (time.monotonic() + wait_s, order, unit))
        else:
            heapq.heappush(self._ready, (unit.mode == "shard", order, unit))

    def _dispatch(self) -> None:
        now = time.monotonic()
        while self._later and self._later[0][0] <= now:
            self._push(heapq.heappop(self._later)[2])
        if now >= self._start_after:
            self._pool.grow(len(self._ready))
        while self._ready and self._pool.num_idle:
            if self._probes_open and self._ready[0][0]:
                return  # no more whole shards before it is known whether the code works at all
            unit = heapq.heappop(self._ready)[2]
            self._pool.submit(unit, "run" if unit.mode == "shard" else "try_out", self._order_for(unit))

    def _order_for(self, unit: _Unit) -> ShardOrder:
        lot, shard = unit.lot, unit.lot.shard
        return ShardOrder(
            name=shard.name,
            fingerprint=lot.fingerprint,
            items=tuple(shard.items[position] for position in unit.positions),
            work=shard.work,
            quarantined=self._quarantined(lot),
        )

    def _quarantined(self, lot: Lot) -> tuple[Quarantined, ...]:
        return tuple(
            Quarantined(item=lot.shard.items[position], reason=reason)
            for position, reason in sorted(lot.poison.items())
        )

    # What follows when a call has ended.

    def _handle(self, ended: Ended[_Unit]) -> None:
        unit = ended.key
        if ended.died or (ended.error and unit is None):
            self._tell_death(ended)
        if unit is None:
            self._started(ended)
        elif ended.error is not None:
            self._failed(unit, ended.error, died=ended.died)
        elif isinstance(ended.outcome, StoredShard):
            self._made(unit.lot, ended.outcome)
        else:
            self._proven = True
            self._answer(unit, None)

    def _tell_death(self, ended: Ended[_Unit]) -> None:
        assert ended.error is not None
        fields: dict[str, JSON] = {
            "label": self._settings.label,
            "pid": ended.pid,
            "shard": ended.key.lot.shard.name if ended.key else None,
            "failure": ended.error.failure,
            "message": shortened(ended.error.summary),
        }
        self._tools.tracker.log_event("worker_lost", fields)
        at = f" at shard {ended.key.lot.shard.name}" if ended.key else ""
        cause = f"{ended.error.failure}: {shortened(ended.error.summary)}"
        log.warning("%s: worker %d lost%s (%s)", self._settings.stage_id, ended.pid, at, cause)

    def _started(self, ended: Ended[_Unit]) -> None:
        report = ended.error
        if report is None:
            assert isinstance(ended.outcome, HostInfo)
            self._start_failures = 0
            fields: dict[str, JSON] = {"pid": ended.outcome.pid, "host": ended.outcome.host}
            self._tools.tracker.log_event("worker_started", fields)
            return
        if report.failure is FailureClass.HOST_OOM and self._pool.halve():
            return
        self._start_failures += 1
        again = ended.died or report.failure in _TRANSIENT
        again = again or (report.failure is FailureClass.UNKNOWN and self._start_failures == 1)
        if not again or self._start_failures >= self._settings.retry.attempts:
            raise self._failure(report, "the workers cannot start")
        self._start_after = time.monotonic() + self._backoff_s(self._start_failures)

    def _failed(self, unit: _Unit, report: FailureReport, *, died: bool) -> None:
        lot, attempts = unit.lot, self._settings.retry.attempts
        if report.failure in _NOT_OURS_TO_DECIDE:
            raise self._failure(report, f"shard {lot.shard.name}")
        if report.failure is FailureClass.PREEMPTED:
            self._push(unit, self._backoff_s(1))
        elif report.failure is FailureClass.HOST_OOM and self._pool.halve():
            self._push(unit)
        elif report.failure in _TRANSIENT:
            lot.troubles += 1
            if lot.troubles >= attempts:
                raise self._failure(report, f"shard {lot.shard.name}, tried {lot.troubles} times")
            self._push(unit, self._backoff_s(lot.troubles))
        elif unit.mode != "shard":
            self._answer(unit, _trial_failure(report, died=died))
        elif not self._tried_again(unit, report, died=died):
            self._suspect(lot, report)

    def _tried_again(self, unit: _Unit, report: FailureReport, *, died: bool) -> bool:
        """A death may be bad luck, an unknown error trouble of the infrastructure: once."""
        lot = unit.lot
        if died or report.failure is FailureClass.HOST_OOM:
            lot.deaths += 1
            again = lot.deaths < DEATHS_BEFORE_SEARCH
        else:
            lot.unknowns += report.failure is FailureClass.UNKNOWN
            again = report.failure is FailureClass.UNKNOWN and lot.unknowns == 1
        if again:
            self._push(unit, 0.0 if died else self._backoff_s(1))
        return again

    def _made(self, lot: Lot, record: StoredShard) -> None:
        self._records[lot.fingerprint] = record
        self._tools.on_made(record)
        self._proven = self._proven or record.outcome.rows > 0
        known = set(lot.poison.values())
        self._leave_out(lot, [entry for entry in record.outcome.quarantined if entry.reason not in known])
        self._done_items += len(lot.shard.items)
        self._tell_progress()

    def _tell_progress(self) -> None:
        self._tools.tracker.progress(self._done_items, self._tally.num_items, self._settings.unit)

    def _leave_out(self, lot: Lot, quarantined: Sequence[Quarantined]) -> None:
        if not quarantined:
            return
        self._tally.add(quarantined)
        fields: dict[str, JSON] = {
            "label": self._settings.label,
            "shard": lot.shard.name,
            "items": len(quarantined),
            "first_item": quarantined[0].item,
            "first_reason": shortened(quarantined[0].reason),
        }
        self._tools.tracker.log_event("quarantined", fields)
        self._tally.check()

    # The search for what is at fault.

    def _suspect(self, lot: Lot, report: FailureReport) -> None:
        lot.last = report
        lot.searches += 1
        if not lot.left or lot.searches > MAX_SEARCHES:
            what = "without any item" if not lot.left else "although each of its items works alone"
            raise self._failure(replace(report, failure=FailureClass.USER_CODE), f"shard {lot.shard.name} fails {what}")
        if self._proven or (self._probes and not self._probes_open):
            self._search(lot)
            return
        self._suspects.append(lot)
        if not self._probes_open:
            self._probe()

    def _probe(self) -> None:
        singles = [(lot, at) for lot in self._lots if lot.fingerprint not in self._records for at in lot.left]
        chosen = [singles[index] for index in spread(len(singles), NUM_PROBES)]
        self._probes_open = len(chosen)
        for lot, position in chosen:
            self._push(_Unit(mode="probe", lot=lot, positions=(position,)))

    def _answer(self, unit: _Unit, failure: TrialFailure | None) -> None:
        if unit.mode == "trial":
            self._advance(unit.lot, failure)
            return
        self._probes[unit.lot.fingerprint, unit.positions[0]] = failure
        self._probes_open -= 1
        if self._probes_open:
            return
        suspects, self._suspects = self._suspects, []
        if all_alike(list(self._probes.values())) and not self._proven:
            assert suspects[0].last is not None
            raise self._failure(
                suspects[0].last, f"each of {len(self._probes)} single items that were tried fails alike"
            )
        for lot in suspects:
            self._search(lot)

    def _search(self, lot: Lot) -> None:
        self._tools.tracker.log_event("searching", {"label": self._settings.label, "shard": lot.shard.name})
        lot.search = find_poison(len(lot.left))
        self._advance(lot, None)

    def _advance(self, lot: Lot, failure: TrialFailure | None) -> None:
        assert lot.search is not None
        try:
            trial = lot.search.send(failure)
        except StopIteration as stop:
            self._found(lot, stop.value)
            return
        self._push(_Unit(mode="trial", lot=lot, positions=tuple(lot.left[index] for index in trial)))

    def _found(self, lot: Lot, poison: Mapping[int, TrialFailure]) -> None:
        """Run the shard again, without the items at fault if there are any."""
        new = {lot.left[index]: failure.reason for index, failure in poison.items()}
        lot.search, lot.deaths = None, 0
        lot.poison.update(new)
        lot.left = tuple(position for position in lot.left if position not in new)
        items = lot.shard.items
        self._leave_out(lot, [Quarantined(item=items[position], reason=reason) for position, reason in new.items()])
        self._push(_Unit(mode="shard", lot=lot, positions=lot.left))

    def _failure(self, report: FailureReport, what: str) -> Exception:
        settings = self._settings
        return classified(report.failure, f"{settings.stage_id}: {settings.label}: {what}:\n{report.traceback}")

    def _backoff_s(self, failures: int) -> float:
        return backoff_s(failures, self._settings.retry.wait_s, rng=self._tools.rng)


def _trial_failure(report: FailureReport, *, died: bool) -> TrialFailure:
    if report.failure is FailureClass.HANG:
        return TrialFailure(reason="no sign of life while working on it, twice", signature=("hang", ""), died=True)
    if died:
        return TrialFailure(reason="the worker process dies on it", signature=("died", ""), died=True)
    reason = f"{report.summary} ({report.place})" if report.place else report.summary
    return TrialFailure(reason=reason[:MAX_REASON_CHARACTERS], signature=report.signature)
