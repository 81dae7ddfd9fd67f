"""Runs the missing shards of one map on worker processes and handles their failures.

The rules:

- A process runs one shard at a time, so a death has one suspect: it runs again on another process. Small ones run in
  groups (`groups.py`); those of a lost group run again alone.
- Infrastructure failures (network, store, disk) are retried with back-off, `retry.attempts` times per shard. Running
  out of memory first halves the number of processes.
- A shard that raises, or whose process dies or hangs twice, is bisected: trial runs on parts of it, whose output is
  discarded, find the items that fail. Before that, the process in which it failed has to work on a known-good item, or
  it is replaced and the shard runs again.
- Items that were found are heard (`verdicts.py`): they count as poison once they failed in two processes in which a
  known-good item works. They are quarantined, with reason and evidence in the shard's record, and the shard runs
  without them. Above `retry.max_quarantined_share` of the map's items the map fails. Where no process works on a
  known-good item, the environment is at fault: the shard waits and runs again, `retry.attempts` times.
- The death of a node says nothing about the shard that ran there.
- A bug in the code is distinguished from bad items by probes (`probes.py`) until an item of the map has worked. After
  that, failures are blamed on the items.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from orchestrator.artifacts.shard_records import StoredShard
from orchestrator.artifacts.shard_search import add_to_pack
from orchestrator.cluster.capacity import WorkerResources
from orchestrator.errors import CancelledError
from orchestrator.failures.classes import FailureReport, classified
from orchestrator.failures.failure_class import FailureClass
from orchestrator.failures.retries import backoff_s
from orchestrator.shard_map.bisection import TrialFailure, find_failing_items, trial_failure
from orchestrator.shard_map.groups import Grouping, MadeShard, call_of, results_of
from orchestrator.shard_map.inquiries import TRANSIENT, Inquiries, fault_of_environment, quarantined_items
from orchestrator.shard_map.map_events import report_death, report_quarantined
from orchestrator.shard_map.map_log import MapLog
from orchestrator.shard_map.map_settings import MapSettings, MapTools, host_settings
from orchestrator.shard_map.pending import Inquiry, PendingShard, Witnesses, WorkItem
from orchestrator.shard_map.probes import Probes
from orchestrator.shard_map.quarantine import QuarantineCount
from orchestrator.shard_map.shard_host import HostInfo
from orchestrator.shard_map.shard_times import ShardTimes
from orchestrator.shard_map.start_waits import StartWait
from orchestrator.shard_map.verdicts import Verdict, check_process, hear
from orchestrator.shard_map.work_queue import WorkQueue
from orchestrator.shard_map.worker_pool import CallResult, WorkerPool
from orchestrator.shards import Quarantined, ShardWorker
from orchestrator.store.shard_packs import Packer

log = logging.getLogger(__name__)

POLL_S = 0.25  # interval of the checks for a stop request
DEATHS_BEFORE_BISECTION = 2
MAX_BISECTIONS = 2  # of one shard: the second finds items that only fail together with others

_LIKE_A_DEATH = {FailureClass.HOST_OOM, FailureClass.NODE_LOST}
_NEVER_RETRIED = {FailureClass.PRECHECK, FailureClass.CONTROLLER_LOST}


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
        witnesses: Witnesses,
        packer: Packer,
        map_log: MapLog,
        times: ShardTimes,
    ) -> None:
        self._pending_shards, self._settings, self._tools = pending_shards, settings, tools
        self._quarantine_count, self._packer = quarantine_count, packer
        self._records: dict[str, StoredShard] = {}
        self._witnesses, self._log, self._times = witnesses, map_log, times
        self._done_items = quarantine_count.num_items - sum(len(pending.shard.items) for pending in pending_shards)
        self._items_before = self._done_items
        self._queue = WorkQueue()
        self._probes, self._grouping = Probes(), Grouping()
        self._start_failures = 0
        self._next_start_at = 0.0
        resources = settings.resources
        of_worker = WorkerResources(cpus=resources.cpus, gpus=resources.gpus, memory_gib=resources.memory_gib)
        self._pool: WorkerPool[WorkItem] = WorkerPool(
            tools.cluster,
            host_settings(settings, tools.ledger),
            worker,
            size=max(1, min(resources.workers >> settings.memory_halvings, len(pending_shards))),
            resources=of_worker,
            idle_workers=tools.idle_workers,
        )
        self._start_wait = StartWait(tracker=tools.tracker, cluster=tools.cluster, resources=of_worker)
        self._inquiries = Inquiries(
            self._pool,
            witnesses,
            push=self._queue.push,
            submit=self._submit,
            on_checked=self._on_checked,
            on_verdict=self._on_verdict,
        )

    def run(self) -> dict[str, StoredShard]:
        """Run all pending shards; their records by fingerprint."""
        self._report_progress()
        for pending in self._pending_shards:
            self._queue.push(WorkItem(mode="shard", pending=pending, positions=pending.remaining))
        made = list[MadeShard]()
        with self._pool as pool:
            while True:
                is_stopping = self._tools.stop_requested()
                if not is_stopping:
                    self._dispatch()  # before `made` is taken up, for which the processes would wait
                for shard in made:
                    self._on_recorded(*shard)
                if len(self._records) == len(self._pending_shards):
                    return self._records
                if is_stopping:
                    self._drain()
                made, others = self._grouping.take_made(pool.wait(POLL_S))
                for result in others:
                    self._on_result(result)
                self._start_wait.poll(num_starting=pool.num_starting, num_started=pool.num_idle + pool.num_running)

    def _drain(self) -> None:
        """Raises: CancelledError: always, once the running shards are recorded (results of trials are ignored)."""
        while self._pool.num_running:
            for part in [part for result in self._pool.wait(POLL_S) for part in results_of(result)]:
                if part.key is not None and part.key.mode == "shard" and part.error is None:
                    self._on_result(part)
        raise CancelledError(
            f"{self._settings.attempt.stage_id}: stopped with {len(self._records)} of {len(self._pending_shards)} "
            "missing shards made"
        )

    def _dispatch(self) -> None:
        queue, waiting = self._queue, list[WorkItem]()
        queue.take_due()
        if time.monotonic() >= self._next_start_at:
            self._pool.grow(len(queue))
        while queue.first is not None and self._pool.num_idle:
            if self._probes.num_open and queue.first.mode == "shard":
                break  # no whole shards until the probes show whether the code works at all
            work_item = queue.pop()
            last_place = work_item.inquiry.last_place if work_item.inquiry else ""
            process = self._pool.idle_process(work_item.avoid, last_place)
            if process is None:
                self._pool.add_process(work_item.avoid)
                waiting.append(work_item)
            else:
                self._submit(self._grouping.join(work_item, queue, num_processes=self._pool.size), process)
        for work_item in reversed(waiting):
            queue.put_back(work_item)

    def _submit(self, work_item: WorkItem, process: int) -> None:
        self._pool.submit(work_item, *call_of(work_item), process)

    def _on_result(self, result: CallResult[WorkItem]) -> None:
        work_item = result.key
        if result.died or (result.error and work_item is None):
            report_death(self._tools.tracker, self._settings.label, self._settings.attempt.stage_id, result)
        if work_item is None:
            self._on_started(result)
        elif work_item.mode == "group":
            self._on_group(work_item, result)
        elif work_item.inquiry is not None:
            self._inquiries.add_result(work_item, work_item.inquiry, result)
        elif result.error is not None:
            self._on_failure(work_item, result)
        elif isinstance(result.outcome, StoredShard):
            self._grouping.note(result.work_s)
            self._on_recorded(work_item.pending, result.outcome, result.seconds)
        else:
            self._witnesses.add(work_item.pending, work_item.positions)
            self._on_trial_result(work_item, None, result.process)

    def _on_group(self, work_item: WorkItem, result: CallResult[WorkItem]) -> None:
        """Take up each shard's own result; where the whole call failed, those without a record run by themselves."""
        for part in results_of(result) if isinstance(result.outcome, tuple) else ():
            self._on_result(part)
        if result.error is None:
            return
        wanted = [member.pending.fingerprint for member in work_item.group]
        recorded = self._tools.ledger.find_many(self._settings.stage_kind, wanted)
        seconds = result.seconds / len(work_item.group)
        for member in work_item.group:
            if member.pending.fingerprint in recorded:
                self._on_recorded(member.pending, recorded[member.pending.fingerprint], seconds)
                continue
            member.pending.alone = True
            self._queue.push(member)

    def _on_started(self, result: CallResult[WorkItem]) -> None:
        report = result.error
        if report is None:
            assert isinstance(result.outcome, HostInfo)
            self._start_failures = 0
            self._tools.tracker.log_event("worker_started", {"pid": result.outcome.pid, "host": result.outcome.host})
            return
        if report.failure is FailureClass.HOST_OOM and self._pool.halve():
            return
        self._start_failures += 1
        if result.died and report.failure is FailureClass.USER_CODE:
            report = replace(report, traceback=report.summary.partition(" traceback:")[0])  # Ray's own is of no use
            raise self._error(report, "the workers cannot import the code of the map; install its package there")
        again = result.died or report.failure in TRANSIENT
        again = again or (report.failure is FailureClass.UNKNOWN and self._start_failures == 1)
        if not again or self._start_failures >= self._settings.retry.attempts:
            raise self._error(report, "the workers cannot start")
        self._next_start_at = time.monotonic() + self._backoff_s(self._start_failures)

    def _on_failure(self, work_item: WorkItem, result: CallResult[WorkItem]) -> None:
        pending, report = work_item.pending, result.error
        assert report is not None, "called for failed calls only"
        if report.failure in _NEVER_RETRIED:
            raise self._error(report, f"shard {pending.shard.name}")
        if report.failure is FailureClass.PREEMPTED:
            self._queue.push(work_item, self._backoff_s(1))
        elif report.failure is FailureClass.HOST_OOM and self._pool.halve():
            self._queue.push(work_item)
        elif report.failure in TRANSIENT or result.node_died:
            self._queue.push(work_item, self._wait_for_environment(pending, report))
        elif work_item.mode != "shard":
            self._on_trial_result(work_item, trial_failure(report, died=result.died), result.process)
        elif not self._retry_once(work_item, report, died=result.died):
            self._check_process(pending, report, result.process)

    def _wait_for_environment(self, pending: PendingShard, report: FailureReport) -> float:
        """The wait before another try after a failure of the environment. Raises: its tries are used up."""
        pending.infra_failures += 1
        if pending.infra_failures >= self._settings.retry.attempts:
            raise self._error(report, f"shard {pending.shard.name}, tried {pending.infra_failures} times")
        return self._backoff_s(pending.infra_failures)

    def _retry_once(self, work_item: WorkItem, report: FailureReport, *, died: bool) -> bool:
        """Retry the first death or unknown error of a shard: it may come from the infrastructure. False: no retry."""
        pending = work_item.pending
        if died or report.failure in _LIKE_A_DEATH:
            pending.deaths += 1
            again = pending.deaths < DEATHS_BEFORE_BISECTION
        else:
            pending.unknown_failures += report.failure is FailureClass.UNKNOWN
            again = report.failure is FailureClass.UNKNOWN and pending.unknown_failures == 1
        if again:
            self._queue.push(work_item, 0.0 if died else self._backoff_s(1))
        return again

    def _on_recorded(self, pending: PendingShard, record: StoredShard, seconds: float) -> None:
        add_to_pack(self._packer, record)
        self._records[pending.fingerprint] = record.without_bytes()
        self._tools.on_recorded(record)
        self._witnesses.add_record(pending, record)
        known = {entry.reason for entry in pending.bad_items.values()}
        new = [entry for entry in record.outcome.quarantined if entry.reason not in known]
        self._count_quarantined(pending, new)
        self._done_items += len(pending.shard.items)
        self._times.done(pending, seconds=seconds, quarantined=len(record.outcome.quarantined))
        items_made = self._done_items - self._items_before
        self._log.recorded(record.outcome, items_done=self._done_items, items_made=items_made)
        self._report_progress()

    def _report_progress(self) -> None:
        self._tools.tracker.progress(self._done_items, self._quarantine_count.num_items, self._settings.unit)

    def _count_quarantined(self, pending: PendingShard, quarantined: Sequence[Quarantined]) -> None:
        if not quarantined:
            return
        self._quarantine_count.add(quarantined)
        report_quarantined(self._tools.tracker, self._settings.label, pending.shard.name, quarantined)
        self._quarantine_count.check()

    # Bisection: which items are at fault, or is it the code?

    def _check_process(self, pending: PendingShard, report: FailureReport, process: int) -> None:
        """Find the cause, unless the process in which the shard failed does not work on a known-good item either."""
        if self._witnesses and self._pool.is_idle(process):
            steps = check_process(process, len(self._witnesses))
            witnesses = tuple(self._witnesses)
            self._inquiries.begin(
                Inquiry(pending=pending, steps=steps, witnesses=witnesses, report=report, process=process)
            )
        else:
            self._find_cause(pending, report)

    def _find_cause(self, pending: PendingShard, report: FailureReport) -> None:
        pending.last_failure = report
        pending.bisections += 1
        if not pending.remaining or pending.bisections > MAX_BISECTIONS:
            how = "without any item" if not pending.remaining else "although each of its items works alone"
            if report.failure is not FailureClass.DATA:
                report = replace(report, failure=FailureClass.USER_CODE)
            raise self._error(report, f"shard {pending.shard.name} fails {how}")
        if self._witnesses or self._probes.are_done:
            self._bisect(pending)
            return
        self._probes.suspects.append(pending)
        if not self._probes.num_open:
            unfinished = [shard for shard in self._pending_shards if shard.fingerprint not in self._records]
            for shard, position in self._probes.choose(unfinished):
                self._queue.push(WorkItem(mode="probe", pending=shard, positions=(position,)))

    def _on_trial_result(self, work_item: WorkItem, failure: TrialFailure | None, process: int) -> None:
        if work_item.mode == "trial":
            if failure is not None and (work_item.pending.breaks_processes or not self._witnesses):
                self._pool.end(process)  # its next trial might fail because of this one
            self._next_trial(work_item.pending, failure)
            return
        probes = self._probes
        probes.add(work_item.pending.fingerprint, work_item.positions[0], failure, process)
        if probes.num_open:
            return
        if not self._witnesses and len(probes.processes) == 1:  # or is it the process?
            probes.num_open = 1
            self._queue.push(replace(work_item, avoid=frozenset(probes.processes)))
            return
        code_fails = probes.all_fail_alike and not self._witnesses
        suspects = probes.take_suspects()
        if code_fails:
            assert suspects[0].last_failure is not None
            what = f"each of {probes.num_items} single items that were tried fails alike"
            raise self._error(suspects[0].last_failure, what)
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
        self._queue.push(WorkItem(mode="trial", pending=pending, positions=positions))

    def _on_bisected(self, pending: PendingShard, failing: Mapping[int, TrialFailure]) -> None:
        """Hear the items at fault, if there are any; then run the shard again, without those that are poison."""
        pending.bisection, pending.deaths = None, 0
        if not failing:
            self._queue.push(WorkItem(mode="shard", pending=pending, positions=pending.remaining))
        elif self._witnesses:
            suspects = [pending.remaining[index] for index in failing]
            witnesses = tuple(self._witnesses)
            self._inquiries.begin(Inquiry(pending=pending, steps=hear(suspects, len(witnesses)), witnesses=witnesses))
        else:
            assert pending.last_failure is not None
            raise self._error(pending.last_failure, f"shard {pending.shard.name}: no item of the map has worked yet")

    def _on_checked(self, inquiry: Inquiry, *, works: bool) -> None:
        assert inquiry.report is not None, "a check is made after a failure"
        if works:
            self._find_cause(inquiry.pending, inquiry.report)
            return
        self._replace_process(inquiry.process)
        pending = inquiry.pending
        pending.deaths += 1
        if pending.deaths < DEATHS_BEFORE_BISECTION:
            self._queue.push(WorkItem(mode="shard", pending=pending, positions=pending.remaining), self._backoff_s(1))
            return
        pending.breaks_processes = True
        self._find_cause(pending, inquiry.report)

    def _replace_process(self, process: int) -> None:
        log.warning("%s: a worker fails on known-good items; it is replaced", self._settings.attempt.stage_id)
        self._pool.end(process)

    def _on_verdict(self, inquiry: Inquiry, verdict: Verdict) -> None:
        """Quarantine what is poison and run the shard again."""
        pending = inquiry.pending
        assert pending.last_failure is not None, "a hearing follows a failure"
        for process in verdict.broken:
            self._replace_process(process)
        wait_s = 0.0
        if not verdict.poison:
            pending.bisections -= 1  # it has found nothing
            unsound = (
                f"known-good items fail too: {verdict.unsound.reason}" if verdict.unsound else "it does not repeat"
            )
            wait_s = self._wait_for_environment(pending, fault_of_environment(pending.last_failure, unsound))
        new = quarantined_items(inquiry, verdict, self._settings.attempt.name)
        pending.bad_items.update(new)
        pending.remaining = tuple(position for position in pending.remaining if position not in new)
        self._count_quarantined(pending, list(new.values()))
        self._queue.push(WorkItem(mode="shard", pending=pending, positions=pending.remaining), wait_s)

    def _error(self, report: FailureReport, what: str) -> Exception:
        settings = self._settings
        return classified(report.failure, f"{settings.attempt.stage_id}: {settings.label}: {what}:\n{report.traceback}")

    def _backoff_s(self, failures: int) -> float:
        return backoff_s(failures, self._settings.retry.wait_s, rng=self._tools.rng)
