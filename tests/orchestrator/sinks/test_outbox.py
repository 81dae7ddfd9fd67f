import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from sqlalchemy import insert

from orchestrator.attempt_id import AttemptId
from orchestrator.history.database import schema
from orchestrator.history.database.database import Database
from orchestrator.history.events import Event
from orchestrator.history.leases import Leases
from orchestrator.history.run_store import RunStore
from orchestrator.sinks.outbox import MAX_WAIT_S, Outbox, SinkRejectedError, _SinkWorker, backoff_s, deliveries

TellStory = Callable[[Database, str], Any]


class ListSink:
    """Keeps what it gets; `fail` may raise instead."""

    def __init__(self, name: str = "list", linger_s: float = 0.0) -> None:
        self.name = name
        self.linger_s = linger_s
        self.batches: list[list[Event]] = []
        self.fail: Callable[[Sequence[Event]], None] = lambda _events: None

    def deliver(self, events: Sequence[Event]) -> None:
        self.fail(events)
        self.batches.append(list(events))

    @property
    def numbers(self) -> list[tuple[str, int]]:
        return [(event.run_id, event.sequence) for batch in self.batches for event in batch]


def numbered(database: Database, run_id: str = "r1") -> list[tuple[str, int]]:
    return [(run_id, event.sequence) for event in RunStore(database).events(run_id)]


def wait_until(condition: Callable[[], bool], *, timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def test_every_sink_gets_every_event_once_and_in_order(database: Database, tell_story: TellStory) -> None:
    sinks = [ListSink("one"), ListSink("two")]
    with Outbox(database, sinks) as outbox:
        outbox.follow("r1")  # before the run has an event
        tell_story(database, "r1")
        assert outbox.drain(20.0) == {}
    assert sinks[0].numbers == sinks[1].numbers == numbered(database)
    assert deliveries(database, only_waiting=True) == []


def test_what_comes_while_a_sink_takes_events_waits_for_the_next_round(
    database: Database, tell_story: TellStory
) -> None:
    """Else each event of a lively run costs a call of every sink, and several commits."""
    sink = ListSink()
    story = tell_story(database, "r1")

    def say_more(_events: Sequence[Event]) -> None:
        story.run_store.record("r1", "note", {}, epoch=story.epoch)

    sink.fail = say_more
    worker = _SinkWorker(database, Leases(database), sink)
    row = {"run_id": "r1", "sink": sink.name, "delivered": 0, "rejected": 0, "problem": ""}
    database.write(lambda connection: connection.execute(insert(schema.outbox).values(row)))
    for round_number in (1, 2, 3):
        assert worker._deliver_round() == (1, 0)
        assert len(sink.batches) == round_number


def test_a_failing_sink_delays_only_itself_and_gets_everything_later(database: Database, tell_story: TellStory) -> None:
    dead, well = ListSink("dead"), ListSink("well")

    def refuse(_events: Sequence[Event]) -> None:
        raise ConnectionRefusedError("http://me:hunter2@host refused")

    dead.fail = refuse
    story = tell_story(database, "r1")
    with Outbox(database, [dead, well]) as outbox:
        outbox.follow("r1")
        waiting = outbox.drain(20.0)
        assert waiting == {"dead": len(numbered(database))}
        assert well.numbers == numbered(database)
        (problem,) = [item.problem for item in deliveries(database) if item.sink == "dead"]
        assert problem == "ConnectionRefusedError: http://me:***@host refused"
        dead.fail = lambda _events: None
        story.run_store.record("r1", "note", {}, epoch=story.epoch)
        assert outbox.drain(20.0) == {}
    assert dead.numbers == numbered(database)
    assert {item.problem for item in deliveries(database)} == {""}


def test_draining_a_failing_sink_stops_after_a_few_tries(database: Database, tell_story: TellStory) -> None:
    sink = ListSink()
    tries: list[float] = []

    def refuse(_events: Sequence[Event]) -> None:
        tries.append(time.monotonic())
        raise TimeoutError

    sink.fail = refuse
    tell_story(database, "r1")
    with Outbox(database, [sink]) as outbox:
        outbox.follow("r1")
        started = time.monotonic()
        assert outbox.drain(60.0) != {}
        assert time.monotonic() - started < 10
    assert 3 <= len(tries) <= 5


def test_a_hanging_sink_does_not_delay_the_end_of_a_run(database: Database, tell_story: TellStory) -> None:
    sink, well, release = ListSink("hangs"), ListSink("well"), threading.Event()
    sink.fail = lambda _events: assert_true(release.wait(20))
    tell_story(database, "r1")
    outbox = Outbox(database, [sink, well])
    outbox.follow("r1")
    assert set(outbox.drain(1.0)) == {"hangs"}
    assert well.numbers == numbered(database)
    started = time.monotonic()
    outbox.close()
    assert time.monotonic() - started < 5
    release.set()


def assert_true(value: bool) -> None:
    assert value


def test_a_failed_batch_is_delivered_again_in_full(database: Database, tell_story: TellStory) -> None:
    sink = ListSink()
    failures = [RuntimeError("first"), RuntimeError("second")]
    seen: list[list[int]] = []

    def fail_twice(events: Sequence[Event]) -> None:
        seen.append([event.sequence for event in events])
        if failures:
            raise failures.pop()

    sink.fail = fail_twice
    tell_story(database, "r1")
    with Outbox(database, [sink]) as outbox:
        outbox.follow("r1")
        assert outbox.drain(20.0) == {}
    assert seen == [seen[0]] * 3
    assert sink.numbers == numbered(database)


def test_a_rejected_event_is_skipped_and_counted(database: Database, tell_story: TellStory) -> None:
    sink = ListSink()

    def refuse_third(events: Sequence[Event]) -> None:
        if any(event.sequence == 3 for event in events):
            raise SinkRejectedError("value too long")

    sink.fail = refuse_third
    tell_story(database, "r1")
    with Outbox(database, [sink]) as outbox:
        outbox.follow("r1")
        assert outbox.drain(20.0) == {}
    assert sink.numbers == [number for number in numbered(database) if number[1] != 3]
    (delivery,) = deliveries(database)
    assert (delivery.rejected, delivery.waiting) == (1, 0)
    assert delivery.problem == "r1/00000003: SinkRejectedError: value too long"


def test_undelivered_events_of_an_earlier_process_are_delivered_by_the_next(
    database: Database, tell_story: TellStory
) -> None:
    dead = ListSink("mlflow")

    def refuse(_events: Sequence[Event]) -> None:
        raise ConnectionRefusedError

    dead.fail = refuse
    tell_story(database, "r1")
    with Outbox(database, [dead]) as outbox:
        outbox.follow("r1")
        outbox.drain(1.0)
    tell_story(database, "r2")
    tell_story(database, "r3")  # nobody asked to deliver this one to the sink
    again = ListSink("mlflow")
    with Outbox(database, [again]) as outbox:
        outbox.follow("r2")
        assert outbox.drain(20.0) == {}
    assert again.numbers == numbered(database, "r1") + numbered(database, "r2")


def test_two_processes_do_not_deliver_one_run_at_the_same_time(database: Database, tell_story: TellStory) -> None:
    tell_story(database, "r1")
    other = Leases(database)
    lease = other.acquire("outbox:r1:list")
    assert lease is not None
    sink = ListSink()
    with Outbox(database, [sink]) as outbox:
        outbox.follow("r1")
        assert outbox.drain(2.0) == {"list": len(numbered(database))}
        outbox.drain(0.0)  # ends in the middle of a round, whose end is no answer to the next one
        other.release(lease)
        assert outbox.drain(20.0) == {}
    assert sink.numbers == numbered(database)


def test_metrics_linger_and_other_events_do_not(database: Database, tell_story: TellStory) -> None:
    sink = ListSink(linger_s=3600.0)
    story = tell_story(database, "r1")
    with Outbox(database, [sink]) as outbox:
        outbox.follow("r1")
        wait_until(lambda: len(sink.numbers) == len(numbered(database)))
        tracker = story.run_store.telemetry.tracker(
            AttemptId(run_id="r1", stage_id="clean", epoch=story.epoch, name="x")
        )
        tracker.log_metrics({"loss": 1.0}, step=1)
        story.run_store.telemetry.flush()
        time.sleep(1.2)  # more than two looks of the sink's thread
        assert len(sink.numbers) == len(numbered(database)) - 1
        story.run_store.record("r1", "note", {}, epoch=story.epoch)
        wait_until(lambda: len(sink.numbers) == len(numbered(database)))
        tracker.log_metrics({"loss": 2.0}, step=2)
        story.run_store.telemetry.flush()
        assert outbox.drain(20.0) == {}  # the end waits for nothing
    assert sink.numbers == numbered(database)


@pytest.mark.parametrize("num_bad", [1, 12])
def test_runs_that_a_sink_cannot_take_keep_no_other_run_waiting(
    database: Database, tell_story: TellStory, num_bad: int
) -> None:
    """As runs of experiments that were deleted: they wait until somebody restores the experiment."""
    sink = ListSink()
    bad = [f"bad-{number}" for number in range(num_bad)]

    def refuse_bad(events: Sequence[Event]) -> None:
        if events[0].run_id in bad:
            raise RuntimeError("its experiment was deleted; restore it")

    sink.fail = refuse_bad
    for run_id in [*bad, "good"]:
        tell_story(database, run_id)
    with Outbox(database, [sink]) as outbox:
        for run_id in [*bad, "good"]:
            outbox.follow(run_id)
        assert outbox.drain(30.0) == {"list": sum(len(numbered(database, run_id)) for run_id in bad)}
        assert sink.numbers == numbered(database, "good")
        sink.fail = lambda _events: None  # restored
        assert outbox.drain(30.0) == {}
    for run_id in bad:
        assert [number for number in sink.numbers if number[0] == run_id] == numbered(database, run_id)


def test_events_that_break_a_sink_are_skipped_once_it_takes_a_later_one(
    database: Database, tell_story: TellStory
) -> None:
    sink = ListSink()

    def trip_over_some(events: Sequence[Event]) -> None:
        if any(event.sequence in (3, 4) for event in events):
            raise KeyError("alias")

    sink.fail = trip_over_some
    tell_story(database, "r1")
    with Outbox(database, [sink]) as outbox:
        outbox.follow("r1")
        assert outbox.drain(30.0) == {}
    taken = list(dict.fromkeys(number for number in sink.numbers))
    assert sorted(taken) == [number for number in numbered(database) if number[1] not in (3, 4)]
    (delivery,) = deliveries(database)
    assert (delivery.rejected, delivery.waiting) == (2, 0)
    assert delivery.problem == "r1/00000004: KeyError: 'alias'"


def test_nothing_is_skipped_while_the_sink_takes_nothing(database: Database, tell_story: TellStory) -> None:
    """A proxy that answers with a page of its own makes the client fail as over a bad event."""
    sink = ListSink()

    def answer_nonsense(_events: Sequence[Event]) -> None:
        raise ValueError("expected JSON, found <html>")

    sink.fail = answer_nonsense
    tell_story(database, "r1")
    with Outbox(database, [sink]) as outbox:
        outbox.follow("r1")
        assert outbox.drain(30.0) == {"list": len(numbered(database))}
        sink.fail = lambda _events: None
        assert outbox.drain(30.0) == {}
    assert sink.numbers == numbered(database)
    assert [delivery.rejected for delivery in deliveries(database)] == [0]


@pytest.mark.parametrize(("failures", "low_s", "high_s"), [(1, 0.375, 0.625), (4, 3.0, 5.0), (100, 45.0, 75.0)])
def test_back_off_doubles_up_to_a_minute_and_spreads(failures: int, low_s: float, high_s: float) -> None:
    assert backoff_s(failures, 0.0) == low_s
    assert backoff_s(failures, 1.0) == high_s
    assert MAX_WAIT_S == 60.0
