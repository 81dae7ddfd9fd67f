"""Curves of trainings: the metrics of every step, thinned while they are read, so that a month is as small as an hour.

Rule: the events of a training are read once, a bounded number in one request, and later requests go on after them.
"""

import math
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.history.database.database import Database
from orchestrator.history.events import Event, EventKind
from orchestrator.history.run_search import events_after

MAX_BUCKETS = 512  # of a curve; beyond it neighbours are joined
MAX_TRAININGS = 16  # whose curves are kept
EVENTS_PER_READ = 50  # of up to 1,000 points each
POINTS_PER_REQUEST = 60_000  # take about 0.1 s
MAX_MARKS = 400

CHECKPOINT, SKIPPED = "checkpoint_stall_s", "data_steps_skipped"  # metrics that tell of moments
MOMENTS = ("loss_spike", "slow_worker", "corrupt_worker")  # events with a step and a message
KINDS = (EventKind.METRICS, *MOMENTS)


@dataclass(frozen=True, kw_only=True)
class TrainingMark:
    """A moment of a training."""

    step: int
    kind: str  # "checkpoint", "restart", "skip", or the kind of the event
    text: str


@dataclass(frozen=True, kw_only=True)
class Samples:
    """A thinned curve: for each bucket its first step, the mean of its values, the lowest and the highest."""

    steps: tuple[int, ...]
    means: tuple[float, ...]
    lows: tuple[float, ...]
    highs: tuple[float, ...]
    last: float


@dataclass(kw_only=True)
class Curve:
    """Takes the values of one metric, step by step."""

    width: int = 1  # steps of a bucket
    last: float = math.nan
    last_step: int = -1
    buckets: dict[int, tuple[float, int, float, float]] = field(default_factory=dict)  # sum, count, low, high

    def add(self, step: int, value: float) -> None:
        self.last, self.last_step = value, step
        if not math.isfinite(value):
            return
        key = step // self.width
        before = self.buckets.get(key)
        if before is None or self.width == 1:  # a step that was repeated after a restart counts once
            self.buckets[key] = (value, 1, value, value)
        else:
            self.buckets[key] = _joined(before, (value, 1, value, value))
        while len(self.buckets) > MAX_BUCKETS:
            self._widen()

    def samples(self) -> Samples:
        order = sorted(self.buckets)
        found = [self.buckets[key] for key in order]
        return Samples(
            steps=tuple(key * self.width for key in order),
            means=tuple(total / count for total, count, _, _ in found),
            lows=tuple(low for _, _, low, _ in found),
            highs=tuple(high for _, _, _, high in found),
            last=self.last,
        )

    def _widen(self) -> None:
        self.width *= 2
        before, self.buckets = self.buckets, {}
        for key, bucket in before.items():
            known = self.buckets.get(key // 2)
            self.buckets[key // 2] = bucket if known is None else _joined(known, bucket)


@dataclass(kw_only=True)
class TrainingCurves:
    """What has been read of one training. Used under the lock of `Curves`."""

    curves: dict[str, Curve] = field(default_factory=dict)
    marks: list[TrainingMark] = field(default_factory=list)
    last_event: int = 0
    attempt: str = ""
    skipped: float = 0.0
    is_complete: bool = False

    def take(self, event: Event) -> int:
        """Adds an event; the number of its points."""
        self.last_event = event.sequence
        if event.kind in MOMENTS:
            self._mark(event.fields.get("step"), str(event.kind), str(event.fields.get("message", "")))
            return 1
        points: Any = event.fields.get("points", [])
        for name, value, step, _time in points:
            self._point(event, str(name), float(value), int(step))
        return len(points)

    def _point(self, event: Event, name: str, value: float, step: int) -> None:
        attempt = event.attempt_id or ""
        if attempt != self.attempt:
            if self.attempt:
                self._mark(step, "restart", f"goes on from step {step:,}")
            self.attempt, self.skipped = attempt, 0.0
        if name == CHECKPOINT:
            self._mark(step, "checkpoint", f"took {value:.2f} s of training")
        elif name == SKIPPED:
            if value > self.skipped:
                self._mark(step, "skip", f"{value - self.skipped:,.0f} steps of data passed over")
            self.skipped = value
        self.curves.setdefault(name, Curve()).add(step, value)

    def _mark(self, step: object, kind: str, text: str) -> None:
        if isinstance(step, int):
            self.marks.append(TrainingMark(step=step, kind=kind, text=text))
            del self.marks[:-MAX_MARKS]


@dataclass(kw_only=True)
class Curves:
    """The curves of the trainings that were looked at last. Thread-safe."""

    _known: OrderedDict[tuple[str, str], TrainingCurves] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def look(
        self, database: Database, run_id: str, stage_id: str
    ) -> tuple[dict[str, Samples], list[TrainingMark], bool]:
        """The curves by metric, the marks, and whether all events have been read.

        Raises: DatabaseError.
        """
        with self._lock:
            found = self._known.setdefault((run_id, stage_id), TrainingCurves())
            self._known.move_to_end((run_id, stage_id))
            while len(self._known) > MAX_TRAININGS:
                self._known.popitem(last=False)
            found.is_complete = True
            num_points = 0
            for events in _batches(database, run_id, stage_id, found):
                num_points += sum(found.take(event) for event in events)
                if num_points >= POINTS_PER_REQUEST:
                    found.is_complete = False
                    break
            curves = {name: curve.samples() for name, curve in found.curves.items()}
            return curves, list(found.marks), found.is_complete


def _batches(database: Database, run_id: str, stage_id: str, found: TrainingCurves) -> Iterator[Sequence[Event]]:
    while True:
        events = events_after(database, run_id, KINDS, stage_id=stage_id, after=found.last_event, limit=EVENTS_PER_READ)
        if not events:
            return
        yield events
        if len(events) < EVENTS_PER_READ:
            return


def _joined(
    one: tuple[float, int, float, float], other: tuple[float, int, float, float]
) -> tuple[float, int, float, float]:
    return one[0] + other[0], one[1] + other[1], min(one[2], other[2]), max(one[3], other[3])
