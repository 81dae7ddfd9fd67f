"""Telemetry: buffers metrics and progress of attempts, and writes them about once a second in one thread.

Rule: a call never waits for the database. What the database refuses is kept and retried; beyond `MAX_POINTS` the oldest
metrics are dropped, and an event records how many.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, update

from orchestrator.artifact import JSON
from orchestrator.attempt_id import AttemptId
from orchestrator.errors import LeaseLostError, OrchestratorError
from orchestrator.history.database.database import Database
from orchestrator.history.database.schema import attempts
from orchestrator.history.events import RESERVED_KINDS, AttemptState, Event, EventKind
from orchestrator.history.projection import append_once, lock_run
from orchestrator.stage import Tracker

FLUSH_S = 1.0
PROGRESS_EVENT_S = 30.0  # between two progress events; the attempt's row has the live progress
RATE_WINDOW_S = 60.0  # the rate is measured over this newest part of the work
MAX_POINTS = 300_000  # buffered while the database is unreachable: about 60 MB
POINTS_PER_EVENT = 1000

log = logging.getLogger(__name__)


@dataclass
class _Buffer:
    """Telemetry of one attempt that is not written yet."""

    attempt: AttemptId
    points: deque[list[JSON]] = field(default_factory=deque)
    num_taken: int = 0  # points of the attempt before the first of `points`: written, dropped, or by another driver
    dropped_points: int = 0
    events: deque[tuple[str, dict[str, JSON]]] = field(default_factory=deque)  # (kind, fields) other than metrics
    progress: dict[str, JSON] | None = None
    samples: deque[tuple[float, int]] = field(default_factory=deque)  # (clock, done), for the rate
    progress_event_at: float = float("-inf")
    progress_event: dict[str, JSON] | None = None  # the newest progress that was written as an event

    def take_point(self) -> None:
        self.points.popleft()
        self.num_taken += 1


@dataclass(frozen=True)
class AttemptTracker:
    """`stage.Tracker` of one attempt."""

    telemetry: "Telemetry"
    attempt_id: str

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None:
        self.telemetry.log_metrics(self.attempt_id, metrics, step=step)

    def progress(self, done: int, total: int, unit: str) -> None:
        self.telemetry.progress(self.attempt_id, done, total, unit)

    def log_event(self, kind: str, fields: Mapping[str, JSON]) -> None:
        self.telemetry.log_event(self.attempt_id, kind, fields)


class Telemetry:
    """The telemetry of all attempts. Calls except `flush` and `close` never block. Thread-safe."""

    def __init__(
        self,
        database: Database,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._clock = clock
        self._wall_clock = wall_clock
        self._buffers: dict[str, _Buffer] = {}
        self._lock = threading.Lock()  # of the buffers
        self._writing = threading.Lock()  # one writer at a time, to keep the order
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def tracker(self, attempt: AttemptId) -> Tracker:
        """The tracker that a stage's `run` gets as `context.tracker`."""
        with self._lock:
            self._buffers[attempt.name] = _Buffer(attempt)
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name="telemetry", daemon=True)
                self._thread.start()
        return AttemptTracker(self, attempt.name)

    def log_metrics(self, attempt_id: str, metrics: Mapping[str, float], *, step: int) -> None:
        measured_at = round(self._wall_clock(), 3)
        self.log_points(attempt_id, [(name, float(value), int(step), measured_at) for name, value in metrics.items()])

    def log_points(self, attempt_id: str, points: Sequence[tuple[str, float, int, float]]) -> None:
        """Log metrics measured elsewhere, as (name, value, step, seconds since 1970)."""
        with self._lock:
            buffer = self._buffer(attempt_id)
            buffer.points.extend(list[JSON](point) for point in points)
            while len(buffer.points) > MAX_POINTS:
                buffer.take_point()
                buffer.dropped_points += 1

    def continue_from(self, attempt_id: str, num_points: int) -> None:
        """Number the attempt's next points from here: another driver has recorded those before."""
        with self._lock:
            self._buffer(attempt_id).num_taken = num_points

    def progress(self, attempt_id: str, done: int, total: int, unit: str) -> None:
        now = self._clock()
        with self._lock:
            buffer = self._buffer(attempt_id)
            samples = buffer.samples
            samples.append((now, done))
            while len(samples) > 2 and (now - samples[0][0] > RATE_WINDOW_S or len(samples) > 1000):
                samples.popleft()
            passed_s, gained = now - samples[0][0], done - samples[0][1]
            rate = gained / passed_s if passed_s > 0 and gained > 0 else 0.0
            buffer.progress = {"done": done, "total": total, "unit": unit, "rate_per_s": round(rate, 6)}

    def log_event(self, attempt_id: str, kind: str, fields: Mapping[str, JSON]) -> None:
        """Log an event of the stage. Raises: ValueError: the kind is reserved for the kernel."""
        if kind in RESERVED_KINDS:
            raise ValueError(f"event kind {kind!r} is reserved for the kernel; choose another one")
        with self._lock:
            self._buffer(attempt_id).events.append((kind, dict(fields)))

    def flush(self) -> None:
        """Write what is buffered. The telemetry of an epoch that is over is dropped.

        Raises:
            DatabaseError: the database cannot be used; everything stays buffered.
        """
        with self._writing:
            with self._lock:
                buffers = list(self._buffers.values())
            for buffer in buffers:
                try:
                    self._flush_buffer(buffer)
                except LeaseLostError as error:
                    log.warning("attempt %s: metrics dropped: %s", buffer.attempt, error)
                    self.forget(buffer.attempt.name)

    def forget(self, attempt_id: str) -> None:
        """Drop the buffer of an attempt that has ended and was flushed. Later calls of its tracker are ignored."""
        with self._lock:
            self._buffers.pop(attempt_id, None)

    def close(self) -> None:
        """Flush and end the thread."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()
        self.flush()

    def _buffer(self, attempt_id: str) -> _Buffer:
        """The attempt's buffer; a throw-away one if the attempt has ended."""
        ended = AttemptId(run_id="", stage_id="", epoch=0, name=attempt_id)
        return self._buffers.get(attempt_id) or _Buffer(ended)

    def _loop(self) -> None:
        while not self._closed.wait(FLUSH_S):
            try:
                self.flush()
            except OrchestratorError as error:
                log.warning("metrics and progress are delayed: %s", error)
            except Exception:  # without this thread a run would go on for weeks and seem to hang
                log.exception("metrics and progress are delayed by a bug in illume; trying again")

    def _flush_buffer(self, buffer: _Buffer) -> None:
        with self._lock:
            batch = _Batch.of(buffer, self._clock())
        if batch.is_empty:
            return
        attempt = buffer.attempt
        tried: dict[int, list[Event]] = {}

        def work(connection: Connection) -> None:
            lock_run(connection, attempt.run_id, attempt.epoch)
            if batch.progress is not None:
                open_states = attempts.c.state.in_([AttemptState.INTENT, AttemptState.RUNNING])
                of_attempt = attempts.c.attempt_id == attempt.name
                connection.execute(update(attempts).where(of_attempt, open_states).values(batch.progress))
            for index, (kind, fields) in enumerate(batch.events):
                append_once(
                    connection,
                    tried.setdefault(index, []),
                    attempt.run_id,
                    kind,
                    fields,
                    epoch=attempt.epoch,
                    stage_id=attempt.stage_id,
                    attempt_id=attempt.name,
                )

        self._database.write(work)
        with self._lock:
            batch.remove_from(buffer)


@dataclass
class _Batch:
    """The content of a buffer for one transaction. Removed from the buffer only after it is written."""

    events: list[tuple[str, dict[str, JSON]]]
    progress: dict[str, JSON] | None
    last_point: int  # as counted by `num_taken`
    num_events: int  # of `events`, those from `_Buffer.events`
    num_dropped: int
    progress_event_at: float | None

    @staticmethod
    def of(buffer: _Buffer, now: float) -> "_Batch":
        points = list(buffer.points)
        events: list[tuple[str, dict[str, JSON]]] = list(buffer.events)
        for start in range(0, len(points), POINTS_PER_EVENT):
            some: list[JSON] = list(points[start : start + POINTS_PER_EVENT])
            events.append((EventKind.METRICS, {"points": some, "first": buffer.num_taken + start}))
        if buffer.dropped_points:
            events.append((EventKind.METRICS_DROPPED, {"points": buffer.dropped_points}))
        progress_event_at = None
        if buffer.progress is not None and buffer.progress != buffer.progress_event:
            is_done = buffer.progress["done"] == buffer.progress["total"]
            if is_done or now - buffer.progress_event_at >= PROGRESS_EVENT_S:
                events.append((EventKind.PROGRESS, buffer.progress))
                progress_event_at = now
        last_point = buffer.num_taken + len(points)
        return _Batch(events, buffer.progress, last_point, len(buffer.events), buffer.dropped_points, progress_event_at)

    @property
    def is_empty(self) -> bool:
        return not self.events and self.progress is None

    def remove_from(self, buffer: _Buffer) -> None:
        while buffer.num_taken < self.last_point:
            buffer.take_point()
        for _ in range(self.num_events):
            buffer.events.popleft()
        buffer.dropped_points -= self.num_dropped
        if self.progress_event_at is not None:
            buffer.progress_event_at, buffer.progress_event = self.progress_event_at, self.progress
        if buffer.progress is self.progress:
            buffer.progress = None
