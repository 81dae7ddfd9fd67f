"""Runs the missing shards of one map on worker processes and handles their failures.

The rules:

- Each process runs one shard at a time, so a death has one suspect. Its shard runs again on another process.
- Infrastructure failures (network, store, disk) are retried with back-off, `retry.attempts` times per shard. Running
  out of memory first halves the number of processes.
- A shard that raises, or whose process dies or hangs twice, is bisected: trial runs on parts of it, whose output is
  discarded, find the items at fault. Those items are quarantined, with the reason in the shard's record, and the shard
  runs without them. Above `retry.max_quarantined_share` of the map's items the map fails.
- A bug in the code is distinguished from bad items as follows. Until an item of the map has succeeded, a failing shard
  starts probes: a few single items, spread over all unfinished shards. If all probes fail with the same class of error
  at the same line, the code is at fault and the map fails at once. Once an item has succeeded, failures are blamed on
  the items.
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
from orchestrator.artifacts.attempt_guard import AttemptGuard
from orchestrator.artifacts.shard_ledger import ShardLedger, StoredShard
from orchestrator.artifacts.takedowns import Takedown
from orchestrator.attempt_id import AttemptId
from orchestrator.cluster.ray_cluster import Cluster, WorkerResources
from orchestrator.errors import CancelledError
from orchestrator.failures.classes import FailureReport, classified
from orchestrator.failures.failure_class import FailureClass
from orchestrator.failures.retries import backoff_s
from orchestrator.shard_map.bisection import (
    Bisection,
    TrialFailure,
    all_same_failure,
    evenly_spaced,
    find_failing_items,
    trial_failure,
)
from orchestrator.shard_map.quarantine import QuarantineCount, shortened
from orchestrator.shard_map.shard_host import HostInfo, HostSettings, ShardRequest
from orchestrator.shard_map.worker_pool import CallResult, IdleWorkers, WorkerPool
from orchestrator.shards import Quarantined, Shard, ShardWorker
from orchestrator.stage import Resources, RetryPolicy, Tracker

log = logging.getLogger(__name__)

POLL_S = 0.25  # interval of the checks for a stop request
NUM_PROBES = 4  # single items that decide between a bug in the code and bad items
DEATHS_BEFORE_BISECTION = 2
MAX_BISECTIONS = 2  # of one shard: the second finds items that only fail together with others

_TRANSIENT = {FailureClass.INFRA_TRANSIENT, FailureClass.GPU_OOM, FailureClass.CAPACITY}
_NEVER_RETRIED = {FailureClass.PRECHECK, FailureClass.CONTROLLER_LOST}


@dataclass(frozen=True, kw_only=True)
class MapSettings:
    stage_kind: str
    attempt: AttemptId
    version: int
    label: str
    identity: Mapping[str, JSON]
    resources: Resources
    retry: RetryPolicy
    scratch: Path
    log_stem: str = ""  # see `HostSettings`
    memory_halvings: int = 0
    unit: str = "items"
    takedowns: Sequence[Takedown] = ()
    guard: AttemptGuard | None = None  # see `HostSettings`


@dataclass(frozen=True, kw_only=True)
class MapTools:
    """The resources and callbacks that a map uses."""

    cluster: Cluster
    ledger: ShardLedger
    tracker: Tracker
    stop_requested: Callable[[], bool]
    on_recorded: Callable[[StoredShard], None]  # called for each shard right after its record is durable
    rng: random.Random  # of the back-off only
    idle_workers: IdleWorkers  # processes shared by the attempt's maps, one after the other


@dataclass(kw_only=True)
class PendingShard:
    """A shard without a record yet, and the state of its failures and bisection."""

    shard: Shard
    fingerprint: str
    remaining: tuple[int, ...]  # positions of the items that are not quarantined
    bad_items: dict[int, str] = field(default_factory=dict)  # position of a quarantined item -> reason
    deaths: int = 0  # of processes that ran the whole shard
    infra_failures: int = 0
    unknown_failures: int = 0
    bisections: int = 0  # started ones
    bisection: Bisection | None = None  # the running one
    last_failure: FailureReport | None = None


@dataclass(frozen=True, kw_only=True)
class WorkItem:
    """One call to make: a whole shard, a trial of its bisection, or a probe for a bug in the code."""

    mode: Literal["shard", "trial", "probe"]
    pending: PendingShard
    positions: tuple[int, ...]


class MapRun:
    """One execution of a map; used once, from one thread."""

    def __init__(
        self,
        worker: ShardWorker,
        pending_shards: Sequence[PendingShard],
        settings: MapSettings,
        tools: MapTools,
        *,
        quarantine_count: QuarantineCount,
        reused: Mapping[str, StoredShard],
    ) -> None:
        self._pending_shards, self._settings, self._tools = pending_shards, settings, tools
        self._quarantine_count = quarantine_count
        self._records: dict[str, StoredShard] = {}
        self._any_item_worked = any(stored.outcome.rows > 0 for stored in reused.values())
        self._done_items = quarantine_count.num_items - sum(len(pending.shard.items) for pending in pending_shards)
        self._ready: list[tuple[bool, int, WorkItem]] = []  # heap: trials and probes before whole shards
        self._delayed: list[tuple[float, int, WorkItem]] = []  # heap by the time from which it may run
        self._sequence = itertools.count()
        self._suspects: list[PendingShard] = []  # failed shards that wait for the probes' results
        self._probes: dict[tuple[str, int], TrialFailure | None] = {}
        self._num_open_probes = 0
        self._start_failures = 0
        self._next_start_at = 0.0
        resources = settings.resources
        host_settings = HostSettings(
            ledger=tools.ledger,
            stage_kind=settings.stage_kind,
            attempt=settings.attempt,
            hang_after_s=settings.retry.hang_after_s,
            scratch=settings.scratch,
            log_stem=settings.log_stem,
            guard=settings.guard,
        )
        self._pool: WorkerPool[WorkItem] = WorkerPool(
            tools.cluster,
            host_settings,
            worker,
            size=max(1, min(resources.workers >> settings.memory_halvings, len(pending_shards))),
            resources=WorkerResources(cpus=resources.cpus, gpus=resources.gpus, memory_gib=resources.memory_gib),
            idle_workers=tools.idle_workers,
        )

    def run(self) -> dict[str, StoredShard]:
        """Run all pending shards; their records by fingerprint."""
        self._report_progress()
        for pending in self._pending_shards:
            self._push(WorkItem(mode="shard", pending=pending, positions=pending.remaining))
        with self._pool:
            while len(self._records) < len(self._pending_shards):
                if self._tools.stop_requested():
                    self._drain()
                self._dispatch()
                for result in self._pool.wait(POLL_S):
                    self._on_result(result)
        return self._records

    def _drain(self) -> None:
        """Raises: CancelledError: always, once the running shards are recorded (results of trials are ignored)."""
        while self._pool.num_running:
            for result in self._pool.wait(POLL_S):
                if result.key is not None and result.key.mode == "shard" and result.error is None:
                    self._on_result(result)
        raise CancelledError(
            f"{self._settings.attempt.stage_id}: stopped with {len(self._records)} of {len(self._pending_shards)} "
            "missing shards made"
        )

    def _push(self, work_item: WorkItem, wait_s: float = 0.0) -> None:
        order = next(self._sequence)
        if wait_s:
            heapq.heappush(self._delayed, (time.monotonic() + wait_s, order, work_item))
        else:
            heapq.heappush(self._ready, (work_item.mode == "shard", order, work_item))

    def _dispatch(self) -> None:
        now = time.monotonic()
        while self._delayed and self._delayed[0][0] <= now:
            self._push(heapq.heappop(self._delayed)[2])
        if now >= self._next_start_at:
            self._pool.grow(len(self._ready))
        while self._ready and self._pool.num_idle:
            if self._num_open_probes and self._ready[0][0]:
                return  # no whole shards until the probes show whether the code works at all
            work_item = heapq.heappop(self._ready)[2]
            method = "run" if work_item.mode == "shard" else "run_trial"
            self._pool.submit(work_item, method, self._request_for(work_item))

    def _request_for(self, work_item: WorkItem) -> ShardRequest:
        pending, shard = work_item.pending, work_item.pending.shard
        return ShardRequest(
            name=shard.name,
            fingerprint=pending.fingerprint,
            items=tuple(shard.items[position] for position in work_item.positions),
            work=shard.work,
            quarantined=self._quarantined(pending),
        )

    def _quarantined(self, pending: PendingShard) -> tuple[Quarantined, ...]:
        return tuple(
            Quarantined(item=pending.shard.items[position], reason=reason)
            for position, reason in sorted(pending.bad_items.items())
        )

    # Results of calls.

    def _on_result(self, result: CallResult[WorkItem]) -> None:
        work_item = result.key
        if result.died or (result.error and work_item is None):
            self._report_death(result)
        if work_item is None:
            self._on_started(result)
        elif result.error is not None:
            self._on_failure(work_item, result.error, died=result.died)
        elif isinstance(result.outcome, StoredShard):
            self._on_recorded(work_item.pending, result.outcome)
        else:
            self._any_item_worked = True
            self._on_trial_result(work_item, None)

    def _report_death(self, result: CallResult[WorkItem]) -> None:
        assert result.error is not None
        fields: dict[str, JSON] = {
            "label": self._settings.label,
            "pid": result.pid,
            "shard": result.key.pending.shard.name if result.key else None,
            "failure": result.error.failure,
            "message": shortened(result.error.summary),
        }
        self._tools.tracker.log_event("worker_lost", fields)
        at = f" at shard {result.key.pending.shard.name}" if result.key else ""
        cause = f"{result.error.failure}: {shortened(result.error.summary)}"
        log.warning("%s: worker %d lost%s (%s)", self._settings.attempt.stage_id, result.pid, at, cause)

    def _on_started(self, result: CallResult[WorkItem]) -> None:
        report = result.error
        if report is None:
            assert isinstance(result.outcome, HostInfo)
            self._start_failures = 0
            fields: dict[str, JSON] = {"pid": result.outcome.pid, "host": result.outcome.host}
            self._tools.tracker.log_event("worker_started", fields)
            return
        if report.failure is FailureClass.HOST_OOM and self._pool.halve():
            return
        self._start_failures += 1
        if result.died and report.failure is FailureClass.USER_CODE:
            report = replace(report, traceback=report.summary.partition(" traceback:")[0])  # Ray's own is of no use
            raise self._error(report, "the workers cannot import the code of the map; install its package there")
        again = result.died or report.failure in _TRANSIENT
        again = again or (report.failure is FailureClass.UNKNOWN and self._start_failures == 1)
        if not again or self._start_failures >= self._settings.retry.attempts:
            raise self._error(report, "the workers cannot start")
        self._next_start_at = time.monotonic() + self._backoff_s(self._start_failures)

    def _on_failure(self, work_item: WorkItem, report: FailureReport, *, died: bool) -> None:
        pending, attempts = work_item.pending, self._settings.retry.attempts
        if report.failure in _NEVER_RETRIED:
            raise self._error(report, f"shard {pending.shard.name}")
        if report.failure is FailureClass.PREEMPTED:
            self._push(work_item, self._backoff_s(1))
        elif report.failure is FailureClass.HOST_OOM and self._pool.halve():
            self._push(work_item)
        elif report.failure in _TRANSIENT:
            pending.infra_failures += 1
            if pending.infra_failures >= attempts:
                raise self._error(report, f"shard {pending.shard.name}, tried {pending.infra_failures} times")
            self._push(work_item, self._backoff_s(pending.infra_failures))
        elif work_item.mode != "shard":
            self._on_trial_result(work_item, trial_failure(report, died=died))
        elif not self._retry_once(work_item, report, died=died):
            self._find_cause(pending, report)

    def _retry_once(self, work_item: WorkItem, report: FailureReport, *, died: bool) -> bool:
        """Retry the first death or unknown error of a shard: it may come from the infrastructure. False: no retry."""
        pending = work_item.pending
        if died or report.failure is FailureClass.HOST_OOM:
            pending.deaths += 1
            again = pending.deaths < DEATHS_BEFORE_BISECTION
        else:
            pending.unknown_failures += report.failure is FailureClass.UNKNOWN
            again = report.failure is FailureClass.UNKNOWN and pending.unknown_failures == 1
        if again:
            self._push(work_item, 0.0 if died else self._backoff_s(1))
        return again

    def _on_recorded(self, pending: PendingShard, record: StoredShard) -> None:
        self._records[pending.fingerprint] = record
        self._tools.on_recorded(record)
        self._any_item_worked = self._any_item_worked or record.outcome.rows > 0
        known = set(pending.bad_items.values())
        new = [entry for entry in record.outcome.quarantined if entry.reason not in known]
        self._count_quarantined(pending, new)
        self._done_items += len(pending.shard.items)
        self._report_progress()

    def _report_progress(self) -> None:
        self._tools.tracker.progress(self._done_items, self._quarantine_count.num_items, self._settings.unit)

    def _count_quarantined(self, pending: PendingShard, quarantined: Sequence[Quarantined]) -> None:
        if not quarantined:
            return
        self._quarantine_count.add(quarantined)
        fields: dict[str, JSON] = {
            "label": self._settings.label,
            "shard": pending.shard.name,
            "items": len(quarantined),
            "first_item": quarantined[0].item,
            "first_reason": shortened(quarantined[0].reason),
        }
        self._tools.tracker.log_event("quarantined", fields)
        self._quarantine_count.check()

    # Bisection: which items are at fault, or is it the code?

    def _find_cause(self, pending: PendingShard, report: FailureReport) -> None:
        pending.last_failure = report
        pending.bisections += 1
        if not pending.remaining or pending.bisections > MAX_BISECTIONS:
            how = "without any item" if not pending.remaining else "although each of its items works alone"
            if report.failure is not FailureClass.DATA:
                report = replace(report, failure=FailureClass.USER_CODE)
            raise self._error(report, f"shard {pending.shard.name} fails {how}")
        if self._any_item_worked or (self._probes and not self._num_open_probes):
            self._bisect(pending)
            return
        self._suspects.append(pending)
        if not self._num_open_probes:
            self._probe()

    def _probe(self) -> None:
        unfinished = [pending for pending in self._pending_shards if pending.fingerprint not in self._records]
        candidates = [(pending, position) for pending in unfinished for position in pending.remaining]
        chosen = [candidates[index] for index in evenly_spaced(len(candidates), NUM_PROBES)]
        self._num_open_probes = len(chosen)
        for pending, position in chosen:
            self._push(WorkItem(mode="probe", pending=pending, positions=(position,)))

    def _on_trial_result(self, work_item: WorkItem, failure: TrialFailure | None) -> None:
        if work_item.mode == "trial":
            self._next_trial(work_item.pending, failure)
            return
        self._probes[work_item.pending.fingerprint, work_item.positions[0]] = failure
        self._num_open_probes -= 1
        if self._num_open_probes:
            return
        suspects, self._suspects = self._suspects, []
        if all_same_failure(list(self._probes.values())) and not self._any_item_worked:
            assert suspects[0].last_failure is not None
            raise self._error(
                suspects[0].last_failure, f"each of {len(self._probes)} single items that were tried fails alike"
            )
        for pending in suspects:
            self._bisect(pending)

    def _bisect(self, pending: PendingShard) -> None:
        self._tools.tracker.log_event("searching", {"label": self._settings.label, "shard": pending.shard.name})
        pending.bisection = find_failing_items(len(pending.remaining))
        self._next_trial(pending, None)

    def _next_trial(self, pending: PendingShard, failure: TrialFailure | None) -> None:
        assert pending.bisection is not None
        try:
            trial = pending.bisection.send(failure)
        except StopIteration as stop:
            self._on_bisected(pending, stop.value)
            return
        positions = tuple(pending.remaining[index] for index in trial)
        self._push(WorkItem(mode="trial", pending=pending, positions=positions))

    def _on_bisected(self, pending: PendingShard, failing: Mapping[int, TrialFailure]) -> None:
        """Quarantine the items at fault, if there are any, and run the shard again."""
        new = {pending.remaining[index]: failure.reason for index, failure in failing.items()}
        pending.bisection, pending.deaths = None, 0
        pending.bad_items.update(new)
        pending.remaining = tuple(position for position in pending.remaining if position not in new)
        items = pending.shard.items
        quarantined = [Quarantined(item=items[position], reason=reason) for position, reason in new.items()]
        self._count_quarantined(pending, quarantined)
        self._push(WorkItem(mode="shard", pending=pending, positions=pending.remaining))

    def _error(self, report: FailureReport, what: str) -> Exception:
        settings = self._settings
        return classified(report.failure, f"{settings.attempt.stage_id}: {settings.label}: {what}:\n{report.traceback}")

    def _backoff_s(self, failures: int) -> float:
        return backoff_s(failures, self._settings.retry.wait_s, rng=self._tools.rng)
