"""The records that a controller and the stage driver of a job exchange through the store.

    runs/<run>/jobs/<attempt>/JOB.json                 written before the job is submitted
    runs/<run>/jobs/<attempt>/telemetry/<number>.json  metrics and progress; the controller deletes what it has recorded
    runs/<run>/jobs/<attempt>/stop/<epoch>.json        the controller of an epoch asks for a clean stop
    runs/<run>/jobs/<attempt>/OUTCOME.json             how it ended

So neither needs a connection to the other, and a stage driver needs no database. A stop request counts only from the
newest epoch of the run: a controller that was replaced stops nothing.
"""

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from orchestrator.artifact import JSON
from orchestrator.artifacts.run_epochs import EPOCH_DIGITS, RunEpochs
from orchestrator.attempt_id import AttemptId
from orchestrator.documents.typed_json import JSONObject, parse_record
from orchestrator.errors import OrchestratorError
from orchestrator.failures.classes import FailureReport
from orchestrator.store.layout import RUNS
from orchestrator.store.store import Store, put_same, record_bytes

log = logging.getLogger(__name__)

STOP_FORMAT = 1
FLUSH_S = 2.0
NUMBER_DIGITS = 9


def jobs_folder(run_id: str) -> str:
    """The folder with a folder for each job of a run."""
    return f"{RUNS}/{run_id}/jobs"


def job_id_of(attempt: AttemptId) -> str:
    """The submission id of an attempt's job."""
    return f"illume-{attempt}"


@dataclass(frozen=True, kw_only=True)
class JobOutcome:
    """How a job ended. `failure` is None after a commit and after a clean stop."""

    stopped: str = ""  # why it stopped early; empty if it did not
    failure: FailureReport | None = None
    progressed: bool = False

    def to_json(self) -> dict[str, JSON]:
        failure = self.failure
        report: JSON = None if failure is None else {**vars(failure), "failure": str(failure.failure)}
        return {"stopped": self.stopped, "failure": report, "progressed": self.progressed}


@dataclass(frozen=True, kw_only=True)
class TelemetryBatch:
    """Metrics, events and progress of a stage driver since its last batch."""

    key: str
    first_point: int | None  # number of the first of `points`, counted over the attempt; None: not numbered
    points: list[tuple[str, float, int, float]]  # name, value, step, seconds since 1970
    first_event: int  # number of the first of `events`, counted over the attempt
    events: list[tuple[str, dict[str, JSON]]]  # kind, fields
    progress: tuple[int, int, str] | None  # done, total, unit


@dataclass(frozen=True, kw_only=True)
class _TelemetryRecord:
    """The persisted form of a `TelemetryBatch`."""

    points: tuple[tuple[str, str, int, float], ...]  # the value as text
    first_said: int
    said: tuple[tuple[str, JSONObject], ...]
    progress: tuple[int, int, str] | None
    first_point: int | None = None  # missing in records of older versions


@dataclass(frozen=True, kw_only=True)
class JobRecords:
    """The records of one attempt's job."""

    store: Store
    attempt: AttemptId  # with the epoch of the driver that uses the records
    reported: set[str] = field(default_factory=set)  # keys that were warned about

    @property
    def _folder(self) -> str:
        return f"{jobs_folder(self.attempt.run_id)}/{self.attempt}"

    def announce(self) -> None:
        put_same(self.store, f"{self._folder}/JOB.json", record_bytes({"attempt": self.attempt.name}))

    def is_announced(self) -> bool:
        return self.store.get(f"{self._folder}/JOB.json") is not None

    def request_stop(self) -> None:
        """Ask the job to stop, because a person wants it; never because this driver goes away."""
        epoch = self.attempt.epoch
        record: dict[str, JSON] = {"format": STOP_FORMAT, "epoch": epoch, "nonce": uuid.uuid4().hex}
        self.store.put_new(f"{self._folder}/stop/{epoch:0{EPOCH_DIGITS}d}.json", record_bytes(record))

    def is_stop_requested(self) -> bool:
        """Whether the driver of the run's newest epoch asks for a stop."""
        requests = self._stop_requests()
        if not requests:
            return False
        newest = RunEpochs(store=self.store, run_id=self.attempt.run_id).newest() or max(requests)
        for epoch, key in requests.items():
            if epoch > newest and key not in self.reported:
                self.reported.add(key)
                log.warning("%s: %s: ignored, as the run's newest epoch is %d", self.store.url, key, newest)
        return newest in requests

    def was_stopped_for_another(self) -> bool:
        """Whether the driver of another epoch asked for a stop, and that of this one did not."""
        requests = self._stop_requests()
        return bool(requests) and self.attempt.epoch not in requests

    def _stop_requests(self) -> dict[int, str]:
        """Key of each stop request, by the epoch of its driver."""
        requests = {}
        for item in self.store.list(f"{self._folder}/stop"):
            name = item.key.rpartition("/")[2].removesuffix(".json")
            if name.isascii() and name.isdigit():
                requests[int(name)] = item.key
            elif item.key not in self.reported:
                self.reported.add(item.key)
                log.warning("%s: %s: ignored, as it is not named by an epoch", self.store.url, item.key)
        return requests

    def put_outcome(self, outcome: JobOutcome) -> None:
        """The first outcome wins."""
        self.store.put_new(f"{self._folder}/OUTCOME.json", record_bytes(outcome.to_json()))

    def outcome(self) -> JobOutcome | None:
        key = f"{self._folder}/OUTCOME.json"
        data = self.store.get(key)
        return None if data is None else parse_record(JobOutcome, data, f"{self.store.url}: {key}")

    def put_telemetry(self, number: int, batch: Mapping[str, JSON]) -> None:
        key = f"{self._folder}/telemetry/{number:0{NUMBER_DIGITS}d}.json"
        put_same(self.store, key, record_bytes(dict(batch)))

    def telemetry(self) -> Iterator[TelemetryBatch]:
        """The batches in the store, in order."""
        for key in sorted(item.key for item in self.store.list(f"{self._folder}/telemetry")):
            data = self.store.get(key)
            if data is not None:
                record = parse_record(_TelemetryRecord, data, f"{self.store.url}: {key}")
                yield TelemetryBatch(
                    key=key,
                    first_point=record.first_point,
                    points=[(name, float(value), step, at) for name, value, step, at in record.points],
                    first_event=record.first_said,
                    events=list(record.said),
                    progress=record.progress,
                )


@dataclass
class StoreTracker:
    """`stage.Tracker` of a stage driver: one thread writes batches; an unreachable store only delays them."""

    records: JobRecords
    warn: Callable[[str], None]
    wall_clock: Callable[[], float] = time.time
    _points: list[JSON] = field(default_factory=list)
    _events: list[JSON] = field(default_factory=list)
    _progress: JSON = None
    _batch: dict[str, JSON] | None = None  # taken from the buffers and not confirmed as written
    _number: int = 0
    _num_points: int = 0
    _num_events: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _closed: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> "StoreTracker":
        self._thread = threading.Thread(target=self._loop, name="telemetry", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._closed.set()
        if self._thread is not None:
            self._thread.join()
        self._flush()

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None:
        with self._lock:
            at = round(self.wall_clock(), 3)
            # As text, because JSON has no non-finite numbers.
            self._points += [[name, repr(float(value)), int(step), at] for name, value in metrics.items()]

    def progress(self, done: int, total: int, unit: str) -> None:
        with self._lock:
            self._progress = [done, total, unit]

    def log_event(self, kind: str, fields: Mapping[str, JSON]) -> None:
        with self._lock:
            self._events.append([kind, dict(fields)])

    def _loop(self) -> None:
        while not self._closed.wait(FLUSH_S):
            self._flush()

    def _flush(self) -> None:
        """Write all batches; a batch is repeated unchanged until the store confirms it."""
        if self._batch is None:
            self._batch = self._take()
        while self._batch is not None:
            try:
                self.records.put_telemetry(self._number, self._batch)
            except OrchestratorError as error:
                self.warn(f"metrics and progress are delayed: {error}")
                return
            self._number += 1
            self._batch = self._take()

    def _take(self) -> dict[str, JSON] | None:
        with self._lock:
            points, events, progress = self._points, self._events, self._progress
            self._points, self._events, self._progress = [], [], None
        if not points and not events and progress is None:
            return None
        first_point, first_event = self._num_points, self._num_events
        self._num_points += len(points)
        self._num_events += len(events)
        return {
            "first_point": first_point,
            "points": points,
            "first_said": first_event,
            "said": events,
            "progress": progress,
        }
