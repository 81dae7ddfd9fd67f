"""What a controller and the stage driver of a job tell each other, through the store alone.

    runs/<run>/jobs/<attempt>/JOB.json                 written before the job is submitted
    runs/<run>/jobs/<attempt>/telemetry/<number>.json  metrics and progress; the reader deletes what it has recorded
    runs/<run>/jobs/<attempt>/STOP                     the controller asks for a clean stop
    runs/<run>/jobs/<attempt>/OUTCOME.json             how it ended

So neither needs the other to be there, and a stage driver needs no database.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.artifact import JSON
from orchestrator.errors import OrchestratorError
from orchestrator.failures.classes import FailureClass, FailureReport
from orchestrator.store.layout import RUNS
from orchestrator.store.store import Store, put_same, read_record, record_bytes

FLUSH_S = 2.0
NUMBER_DIGITS = 9


@dataclass(frozen=True, kw_only=True)
class JobOutcome:
    """`failure` is None after a commit and after a clean stop."""

    stopped: str = ""  # why it stopped before the end
    failure: FailureReport | None = None
    progressed: bool = False

    def to_json(self) -> dict[str, JSON]:
        failure = self.failure
        told: JSON = None if failure is None else {**vars(failure), "failure": str(failure.failure)}
        return {"stopped": self.stopped, "failure": told, "progressed": self.progressed}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "JobOutcome":
        told = record["failure"]
        failure = None if told is None else FailureReport(**{**told, "failure": FailureClass(told["failure"])})
        return cls(stopped=record["stopped"], failure=failure, progressed=record["progressed"])


@dataclass(frozen=True, kw_only=True)
class TelemetryBatch:
    """What a stage driver has said since its last batch."""

    key: str
    points: list[tuple[str, float, int, float]]  # name, value, step, seconds since 1970
    first_said: int  # number of the first of `said`, counted over the attempt
    said: list[tuple[str, dict[str, JSON]]]  # events
    progress: tuple[int, int, str] | None  # done, total, unit


@dataclass(frozen=True, kw_only=True)
class JobRecords:
    store: Store
    run_id: str
    attempt_id: str

    @property
    def _folder(self) -> str:
        return f"{RUNS}/{self.run_id}/jobs/{self.attempt_id}"

    def announce(self) -> None:
        put_same(self.store, f"{self._folder}/JOB.json", record_bytes({"attempt": self.attempt_id}))

    def is_announced(self) -> bool:
        return self.store.get(f"{self._folder}/JOB.json") is not None

    def ask_stop(self) -> None:
        self.store.put_new(f"{self._folder}/STOP", b"")

    def is_stop_asked(self) -> bool:
        return self.store.get(f"{self._folder}/STOP") is not None

    def put_outcome(self, outcome: JobOutcome) -> None:
        """The first one counts."""
        self.store.put_new(f"{self._folder}/OUTCOME.json", record_bytes(outcome.to_json()))

    def outcome(self) -> JobOutcome | None:
        record = read_record(self.store, f"{self._folder}/OUTCOME.json")
        return None if record is None else JobOutcome.from_json(record)

    def put_telemetry(self, number: int, batch: Mapping[str, JSON]) -> None:
        key = f"{self._folder}/telemetry/{number:0{NUMBER_DIGITS}d}.json"
        put_same(self.store, key, record_bytes(dict(batch)))

    def telemetry(self) -> Iterator[TelemetryBatch]:
        """The batches that are there, in order."""
        for key in sorted(item.key for item in self.store.list(f"{self._folder}/telemetry")):
            record: dict[str, Any] | None = read_record(self.store, key)
            if record is not None:
                yield TelemetryBatch(
                    key=key,
                    points=[(name, float(value), step, at) for name, value, step, at in record["points"]],
                    first_said=record["first_said"],
                    said=[(kind, fields) for kind, fields in record["said"]],
                    progress=tuple(record["progress"]) if record["progress"] else None,
                )


@dataclass
class StoreTracker:
    """`stage.Tracker` of a stage driver: one thread writes batches; a store that is away delays them only."""

    records: JobRecords
    warn: Callable[[str], None]
    _points: list[JSON] = field(default_factory=list)
    _said: list[JSON] = field(default_factory=list)
    _progress: JSON = None
    _batch: dict[str, JSON] | None = None  # taken, and not known to be written
    _number: int = 0
    _num_said: int = 0
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
        at = round(time.time(), 3)
        with self._lock:
            # As text, because JSON has no word for a value that is no number.
            self._points += [[name, repr(float(value)), int(step), at] for name, value in metrics.items()]

    def progress(self, done: int, total: int, unit: str) -> None:
        with self._lock:
            self._progress = [done, total, unit]

    def log_event(self, kind: str, fields: Mapping[str, JSON]) -> None:
        with self._lock:
            self._said.append([kind, dict(fields)])

    def _loop(self) -> None:
        while not self._closed.wait(FLUSH_S):
            self._flush()

    def _flush(self) -> None:
        """The same batch again until the store has said that it has it."""
        if self._batch is None:
            self._batch = self._take()
        while self._batch is not None:
            try:
                self.records.put_telemetry(self._number, self._batch)
            except OrchestratorError as error:
                self.warn(f"metrics and progress wait: {error}")
                return
            self._number += 1
            self._batch = self._take()

    def _take(self) -> dict[str, JSON] | None:
        with self._lock:
            points, said, progress = self._points, self._said, self._progress
            self._points, self._said, self._progress = [], [], None
        if not points and not said and progress is None:
            return None
        first_said = self._num_said
        self._num_said += len(said)
        return {"points": points, "first_said": first_said, "said": said, "progress": progress}
