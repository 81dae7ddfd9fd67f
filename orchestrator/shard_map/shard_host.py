"""The worker process's side of the shard map: runs one shard after the other and records its outcome.

Errors are returned as plain data. A process that makes no progress for too long dumps its stacks into its log and ends.
"""

import contextlib
import faulthandler
import logging
import os
import re
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TextIO

from orchestrator.artifact import JSON, ArtifactKey
from orchestrator.artifacts.attempt_guard import AttemptGuard
from orchestrator.artifacts.shard_ledger import ShardLedger
from orchestrator.artifacts.shard_records import StoredShard
from orchestrator.attempt_id import AttemptId
from orchestrator.errors import OrchestratorError, StageCodeError
from orchestrator.failures.classes import FailureReport, report_of
from orchestrator.logs.worker_log import WorkerLog, WorkerLogs
from orchestrator.shard_map.batch_recorder import BatchRecorder, Made, Recorded
from orchestrator.shards import Quarantined, RemoteFolder, ShardInput, ShardOutcome, ShardWorker
from orchestrator.store.attempt_folder import AttemptFolder
from orchestrator.store.output_checks import files_in_writing, output_problem

log = logging.getLogger(__name__)

TIMER_PRECISION = 0.01  # of the limit: a timer that was started within this share of it counts as started now


@dataclass(frozen=True, kw_only=True)
class HostSettings:
    ledger: ShardLedger
    stage_kind: str
    attempt: AttemptId
    hang_after_s: float
    scratch: Path  # on the controller's machine; where it cannot be made, the system's temporary folder is used
    logs: WorkerLogs | None = None  # each process writes "curate-1.worker-<pid>.log" there
    guard: AttemptGuard | None = None  # of the stage attempt; asked before each record


@dataclass(frozen=True, kw_only=True)
class ShardRequest:
    """One shard to run, or a part of it for a trial."""

    name: str
    fingerprint: str
    items: tuple[JSON, ...]
    work: dict[str, JSON]
    quarantined: tuple[Quarantined, ...] = ()  # items of the shard that are not in `items`
    reads: tuple[RemoteFolder, ...] = ()  # to be fetched on this machine before the work begins


@dataclass(frozen=True, slots=True)
class TimedShard:
    """A recorded shard, and how long the work on it took: without its record, for which the store is waited for."""

    stored: StoredShard
    work_s: float = field(compare=False)


@dataclass(frozen=True, kw_only=True)
class HostInfo:
    pid: int
    host: str


class ShardHost:
    """The object in a worker process that runs shards. Its methods run one at a time and return errors as reports."""

    def __init__(self, settings: HostSettings) -> None:
        self._settings = settings
        self._work: Callable[[ShardInput], ShardOutcome] | None = None
        log_file = settings.logs.open(f"worker-{os.getpid()}") if settings.logs is not None else sys.stderr
        self._executor = ThreadPoolExecutor(1, "recorder")
        self._watchdog = _Watchdog(settings.hang_after_s, log_file)

    def start(self, worker: ShardWorker) -> HostInfo | FailureReport:
        """Prepare for the shards of a map, after releasing what an earlier map's worker holds."""
        self._work = None
        try:
            if self._settings.guard is not None:
                self._settings.guard.check_node()
            with self._watchdog.watch(None):
                self._work = worker.start()
        except Exception as error:  # noqa: BLE001 - the boundary of the process: reported, not swallowed
            return report_of(error)
        return HostInfo(pid=os.getpid(), host=socket.gethostname())

    def run(self, request: ShardRequest) -> TimedShard | FailureReport:
        """Run a shard and record it. The record is durable when this returns it."""
        settings = self._settings
        try:
            key = ArtifactKey(settings.stage_kind, request.fingerprint)
            output = settings.ledger.new_output(key, owner=settings.attempt.name)
        except Exception as error:  # noqa: BLE001 - as above
            return report_of(error)
        try:
            began = time.monotonic()
            outcome = self._outcome(request, output.data)
            work_s = time.monotonic() - began
            outcome = replace(outcome, quarantined=(*outcome.quarantined, *request.quarantined))
            if settings.guard is not None:
                settings.guard.check()
            stored = settings.ledger.record(
                output, outcome, provenance=settings.attempt.provenance, epoch=settings.attempt.epoch
            )
            return TimedShard(stored, work_s)
        except Exception as error:  # noqa: BLE001 - as above
            return self._failed(request, output, error)

    def run_group(self, requests: tuple[ShardRequest, ...]) -> tuple[TimedShard | FailureReport, ...]:
        """Run small shards one after the other and record them in batches, each at little more than the cost of one.

        The records are durable when this returns them; a failure concerns its own shard only.
        """
        found: dict[int, TimedShard | FailureReport] = {}
        outputs, work_s = dict[int, AttemptFolder](), dict[int, float]()
        recorder = BatchRecorder(self._record, self._executor, before_wait=self._watchdog.pause)
        with self._watchdog.watch_many():
            for index, request in enumerate(requests):
                began = time.monotonic()
                made = self._make(request)
                if isinstance(made, FailureReport):
                    found[index] = made
                else:
                    outputs[index], work_s[index] = made[0], time.monotonic() - began
                    recorder.add(index, made)
        for index, result in recorder.results().items():
            if isinstance(result, Exception):
                found[index] = self._failed(requests[index], outputs[index], result)
            else:
                found[index] = TimedShard(result, work_s[index])
        return tuple(found[index] for index in range(len(requests)))

    def _make(self, request: ShardRequest) -> tuple[AttemptFolder, ShardOutcome] | FailureReport:
        settings = self._settings
        try:
            key = ArtifactKey(settings.stage_kind, request.fingerprint)
            output = settings.ledger.new_output(key, owner=settings.attempt.name, in_group=True)
        except Exception as error:  # noqa: BLE001 - the boundary of the process: reported, not swallowed
            return report_of(error)
        try:
            outcome = self._raw_outcome(request, output.data)
        except Exception as error:  # noqa: BLE001 - as above
            return self._failed(request, output, error)
        return output, replace(outcome, quarantined=(*outcome.quarantined, *request.quarantined))

    def _record(self, finished: Sequence[Made]) -> Sequence[Recorded]:
        """Record the outputs whose folders are in order. Called in the background."""
        try:
            return self._record_sound(finished)
        except Exception as error:  # noqa: BLE001 - as above; what was recorded of the group is found when it runs again
            return [error] * len(finished)

    def _record_sound(self, finished: Sequence[Made]) -> Sequence[Recorded]:
        settings = self._settings
        writing = files_in_writing(settings.ledger.outputs)
        problems = [output_problem(output.data, writing) for output, _ in finished]
        sound = [made for made, problem in zip(finished, problems, strict=True) if not problem]
        if settings.guard is not None and sound:
            settings.guard.check()
        provenance, epoch = settings.attempt.provenance, settings.attempt.epoch
        records = iter(settings.ledger.record_all(sound, provenance=provenance, epoch=epoch))
        return [StageCodeError(f"the worker: {problem}") if problem else next(records) for problem in problems]

    def _failed(self, request: ShardRequest, output: AttemptFolder, error: Exception) -> FailureReport:
        report = _reproducible(report_of(error), output.data)
        log.warning("shard %s: %s", request.name, report.traceback)
        self._discard(output, report)
        return report

    def run_trial(self, request: ShardRequest) -> ShardOutcome | FailureReport:
        """Run items and discard the files."""
        with _temporary_folder(self._settings.scratch) as output:
            try:
                return self._outcome(request, output)
            except Exception as error:  # noqa: BLE001 - as above
                return _reproducible(report_of(error), output)

    def _outcome(self, request: ShardRequest, output: Path) -> ShardOutcome:
        """The outcome of a shard whose output was checked."""
        outcome = self._raw_outcome(request, output)
        problem = output_problem(output)
        if problem:
            raise StageCodeError(f"the worker: {problem}")
        return outcome

    def _raw_outcome(self, request: ShardRequest, output: Path) -> ShardOutcome:
        assert self._work is not None, "`start` is called before a shard is run"
        for folder in request.reads:
            folder.fetch()
        with self._watchdog.watch(output):
            shard = ShardInput(name=request.name, items=request.items, work=request.work, output=output)
            outcome: object = self._work(shard)
        if not isinstance(outcome, ShardOutcome):
            raise StageCodeError(f"the worker returned {type(outcome).__name__}, expected ShardOutcome")
        return outcome

    def _discard(self, output: AttemptFolder, report: FailureReport) -> None:
        try:
            self._settings.ledger.abort(output, reason=report.summary)
        except OrchestratorError as error:  # garbage collection finds it later
            log.warning("shard output %s could not be deleted: %s", output.attempt_id, error)


_ADDRESS = re.compile(r"0x[0-9a-fA-F]+")


def _reproducible(report: FailureReport, output: Path) -> FailureReport:
    """The report without paths and addresses that differ between runs: its summary may become part of a record."""
    return replace(report, summary=_ADDRESS.sub("0x...", report.summary.replace(str(output), "<output>")))


@contextlib.contextmanager
def _temporary_folder(scratch: Path) -> Iterator[Path]:
    with contextlib.suppress(OSError):  # on another machine the path may not be writable
        scratch.mkdir(parents=True, exist_ok=True)
    parent = scratch if os.access(scratch, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="trial-", dir=parent, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


class _Watchdog:
    """Ends the process, after a stack dump, when the running work makes no progress for `limit_s`.

    Progress is the start or the end of a shard and any change below its output folder. The timer is `faulthandler`'s,
    which runs outside Python and so also catches a call that never releases the interpreter.
    """

    def __init__(self, limit_s: float, log_file: TextIO | WorkerLog) -> None:
        self._limit_s, self._log_file = limit_s, log_file
        self._lock = threading.Lock()
        self._folder: Path | None = None
        self._is_for_many, self._restarted_at = False, float("-inf")
        threading.Thread(target=self._poll_folder, name="watchdog", daemon=True).start()

    @contextlib.contextmanager
    def watch(self, folder: Path | None) -> Iterator[None]:
        with self._lock:
            self._folder = folder
            self._restart_timer()
        try:
            yield
        finally:
            with self._lock:
                self._folder = None
                if not self._is_for_many:
                    self._stop_timer()

    @contextlib.contextmanager
    def watch_many(self) -> Iterator[None]:
        """Watch many pieces of work, each by `watch`: a timer is a thread, which costs more than a small shard."""
        self._is_for_many = True
        try:
            yield
        finally:
            with self._lock:
                self._is_for_many = False
                self._stop_timer()

    def pause(self) -> None:
        """Let the work take any time until the next piece is watched: it waits for the store."""
        with self._lock:
            self._stop_timer()

    def _restart_timer(self) -> None:
        now = time.monotonic()
        if now - self._restarted_at > self._limit_s * TIMER_PRECISION:
            self._restarted_at = now
            faulthandler.dump_traceback_later(self._limit_s, exit=True, file=self._log_file.fileno())

    def _stop_timer(self) -> None:
        self._restarted_at = float("-inf")
        faulthandler.cancel_dump_traceback_later()

    def _poll_folder(self) -> None:
        pause, last_state = threading.Event(), None
        while not pause.wait(min(self._limit_s / 4, 10.0)):
            folder = self._folder
            state = None if folder is None else (folder, _folder_state(folder))
            with self._lock:
                if state is not None and state != last_state and self._folder == folder:
                    self._restart_timer()
            last_state = state


def _folder_state(folder: Path) -> tuple[int, int]:
    """A value that changes when a file below `folder` is created or written."""
    newest = total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # renamed or deleted meanwhile
            status = path.stat()
            newest, total = max(newest, status.st_mtime_ns), total + status.st_size
    return newest, total
