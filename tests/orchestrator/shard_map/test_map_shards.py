"""The durable shard map on a local Ray: recorded shards are not run again, whatever happens to the workers."""

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.artifact import JSON
from orchestrator.artifacts.shard_ledger import ShardLedger
from orchestrator.attempt_id import AttemptId
from orchestrator.cluster.ray_cluster import Cluster, LocalRay
from orchestrator.errors import CancelledError, StageCodeError
from orchestrator.failures.classes import ClassifiedError, classify
from orchestrator.failures.failure_class import FailureClass
from orchestrator.logs.worker_log import WorkerLogs
from orchestrator.plugins.loading import load_target
from orchestrator.shard_map.map_settings import MapSettings, MapTools
from orchestrator.shard_map.map_shards import FinishedShard, map_shards, shard_fingerprint
from orchestrator.shard_map.worker_pool import IdleWorkers
from orchestrator.shards import Quarantined, Shard, ShardInput, ShardOutcome, ShardWorker
from orchestrator.stage import Resources, RetryPolicy
from orchestrator.store.store import open_store

pytestmark = pytest.mark.ray

HANG_S = 1.0
LONG_TIMEOUT = RetryPolicy(attempts=3, wait_s=0.01, hang_after_s=60.0)  # for tests that a slow machine must not fail


MINE = """\
from dataclasses import dataclass

from orchestrator.shards import ShardOutcome
from orchestrator.logs.worker_log import WorkerLogs
from orchestrator.stage import StageKind


@dataclass(frozen=True, kw_only=True)
class Worker:
    def start(self):
        return self.work

    def work(self, shard):
        return ShardOutcome(rows=len(shard.items), result="from a file")


def run(config, context):
    return {}


KIND = StageKind(name="mine", version=1, config=Worker, run=run, output="mine@1")
"""


@dataclass(frozen=True, kw_only=True)
class Locked:
    """Holds what no other process can have."""

    lock: Any = field(default_factory=threading.Lock)

    def start(self) -> Callable[[ShardInput], ShardOutcome]:
        raise AssertionError("never sent")


@dataclass(frozen=True, kw_only=True)
class Squares:
    """Writes the square of each item; items can also be words that cause failures; flags are files in `folder`."""

    folder: Path

    def start(self) -> Callable[[ShardInput], ShardOutcome]:
        if (self.folder / "cannot-start").exists():
            raise ValueError("no such model")
        return self._work

    def _work(self, shard: ShardInput) -> ShardOutcome:
        with (self.folder / "worked").open("a") as log:
            log.write(f"{shard.name}:{len(shard.items)}\n")
        quarantined, squares = [], []
        for item in shard.items:
            if item == "unreadable":
                quarantined.append(Quarantined(item=item, reason="cannot be read"))
                continue
            squares.append(item**2 if isinstance(item, int) else self._fail(str(item), shard))
        (shard.output / "squares.txt").write_text("\n".join(map(str, squares)))
        total = float(sum(squares))
        return ShardOutcome(rows=len(squares), quarantined=tuple(quarantined), metrics={"sum": total}, result=squares)

    def _fail(self, word: str, shard: ShardInput) -> int:
        once = self.folder / f"{word}-happened"
        if word.startswith("once-"):
            if once.exists():
                return 0
            once.touch()
            word = word.removeprefix("once-")
        if word == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if word == "hang":
            time.sleep(60)
        if word == "busy":  # longer than a hang, with progress
            for tick in range(8):
                (shard.output / "ticks").write_text("x" * tick)
                time.sleep(HANG_S / 4)
            (shard.output / "ticks").unlink()
            return 1
        if word == "slow":
            time.sleep(0.5)
            return 2
        if word == "network":
            raise ConnectionResetError("the peer is gone")
        raise ValueError(f"cannot square {word!r} of {shard.output}")


class RecordingTracker:
    """A tracker that keeps the events and progress it receives."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Mapping[str, JSON]]] = []
        self.steps: list[tuple[int, int]] = []

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None:
        raise AssertionError("a map logs no metrics")

    def progress(self, done: int, total: int, unit: str) -> None:
        self.steps.append((done, total))

    def log_event(self, kind: str, fields: Mapping[str, JSON]) -> None:
        self.events.append((kind, fields))

    def all(self, kind: str) -> list[Mapping[str, JSON]]:
        return [fields for found, fields in self.events if found == kind]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    import ray.cloudpickle

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    cluster = Cluster(LocalRay(cpus=2))
    yield cluster
    cluster.close()


@dataclass(kw_only=True)
class Bench:
    """One store, one folder of flags, and maps over them."""

    cluster: Cluster
    folder: Path
    ledger: ShardLedger
    idle_workers: IdleWorkers

    def settings(self, **changes: object) -> MapSettings:
        policy = RetryPolicy(attempts=3, wait_s=0.01, hang_after_s=HANG_S, max_quarantined_share=0.2)
        settings = MapSettings(
            attempt=AttemptId.of("run", "squares", epoch=1, number=1),
            stage_kind="square_numbers",
            version=1,
            label="numbers",
            identity={"power": 2},
            resources=Resources(workers=2, cpus=1),
            retry=policy,
            scratch=self.folder / "scratch",
            logs=WorkerLogs(
                store=self.ledger.store,
                folder="logs",
                stem=str(self.folder / "squares-1"),
                scratch=self.folder / "scratch",
            ),
        )
        return replace(settings, **changes)  # type: ignore[arg-type]  # names and types are the caller's

    def run(
        self,
        shards: list[Shard],
        tracker: RecordingTracker | None = None,
        worker: ShardWorker | None = None,
        **changes: object,
    ) -> list[FinishedShard]:
        tools = self.tools(tracker or RecordingTracker())
        return map_shards(worker or Squares(folder=self.folder), shards, self.settings(**changes), tools)

    def tools(self, tracker: RecordingTracker, stop_requested: Callable[[], bool] = lambda: False) -> MapTools:
        return MapTools(
            cluster=self.cluster,
            ledger=self.ledger,
            tracker=tracker,
            stop_requested=stop_requested,
            record_use=lambda shards: None,
            on_recorded=lambda stored: None,
            rng=random.Random(0),
            idle_workers=self.idle_workers,
        )

    def worked(self) -> list[str]:
        """`shard:number of items` of all calls since the last look."""
        log = self.folder / "worked"
        lines = log.read_text().split() if log.exists() else []
        log.unlink(missing_ok=True)
        return sorted(lines)


@pytest.fixture
def bench(cluster: Cluster, tmp_path: Path) -> Iterator[Bench]:
    ledger = ShardLedger(open_store(tmp_path / "store"), tmp_path / "cache")
    with IdleWorkers() as idle_workers:
        yield Bench(cluster=cluster, folder=tmp_path, ledger=ledger, idle_workers=idle_workers)


def shard(name: str, *items: JSON) -> Shard:
    return Shard(name=name, items=items)


def results(finished: list[FinishedShard]) -> list[JSON]:
    return [entry.stored.outcome.result for entry in finished]


def test_results_come_in_order_and_files_are_recorded(bench: Bench) -> None:
    tracker = RecordingTracker()
    finished = bench.run([shard("a", 1, 2), shard("b", 3), shard("c", 4, 5)], tracker)
    assert results(finished) == [[1, 4], [9], [16, 25]]
    assert (bench.ledger.fetch(finished[2].stored) / "squares.txt").read_text() == "16\n25"
    assert tracker.steps[0] == (0, 5)
    assert tracker.steps[-1] == (5, 5)
    assert not any(entry.reused for entry in finished)


def test_only_new_or_changed_shards_are_made(bench: Bench) -> None:
    bench.run([shard("a", 1, 2), shard("b", 3)])
    bench.worked()
    tracker = RecordingTracker()
    moved = Shard(name="renamed", items=(1, 2), work={"path": "elsewhere"})
    finished = bench.run([moved, shard("b", 4), shard("c", 3)], tracker)
    assert bench.worked() == ["b:1"]
    assert [entry.reused for entry in finished] == [True, False, True]
    assert [entry.name for entry in finished] == ["renamed", "b", "c"]
    assert tracker.all("shards_planned") == [{"label": "numbers", "shards": 3, "reused": 2}]


def test_the_fingerprint_covers_what_decides_the_output(bench: Bench) -> None:
    settings = bench.settings()
    same = shard_fingerprint(settings, shard("a", 1))
    changed = [
        shard_fingerprint(bench.settings(version=2), shard("a", 1)),
        shard_fingerprint(bench.settings(label="other"), shard("a", 1)),
        shard_fingerprint(bench.settings(identity={"power": 3}), shard("a", 1)),
        shard_fingerprint(bench.settings(stage_kind="other"), shard("a", 1)),
        shard_fingerprint(settings, shard("a", 2)),
        shard_fingerprint(settings, Shard(name="a", items=(1,), identity={"sha256": "ab"})),
    ]
    assert len({same, *changed}) == 7
    assert (
        shard_fingerprint(
            bench.settings(resources=Resources(workers=9), attempt=AttemptId.of("x", "squares", epoch=2, number=1)),
            shard("b", 1),
        )
        == same
    )


def test_equal_shards_are_made_once(bench: Bench) -> None:
    assert results(bench.run([shard("a", 7), shard("b", 7)])) == [[49], [49]]
    assert bench.worked() == ["a:1"]


def test_a_map_without_shards_returns_nothing(bench: Bench) -> None:
    assert bench.run([]) == []


def test_two_shards_of_one_name_are_refused(bench: Bench) -> None:
    with pytest.raises(StageCodeError, match="squares: numbers: found two shards named 'a'"):
        bench.run([shard("a", 1), shard("a", 2)])


def test_items_without_an_identity_are_refused_with_the_shard(bench: Bench) -> None:
    path: Any = Path("image.png")
    with pytest.raises(StageCodeError, match=r"squares: numbers: shard 'a': items\[1\]: PosixPath has no obvious"):
        bench.run([shard("a", 1, path)])


def test_a_worker_that_cannot_be_sent_or_started_is_refused_at_once(bench: Bench) -> None:
    nothing: Any = object()
    with pytest.raises(StageCodeError, match="found object as the worker, expected a value of a class with a method"):
        bench.run([shard("a", 1)], worker=nothing)
    with pytest.raises(StageCodeError, match=r"Locked cannot be sent to a worker process: .*lock"):
        bench.run([shard("a", 1)], worker=Locked())


def test_code_that_only_this_process_can_import_is_sent_by_value_or_refused_at_once(
    bench: Bench, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    (kind,) = load_target(f"{tmp_path}/mine.py:KIND")
    module = sys.modules[kind.run.__module__]
    worker = module.Worker()
    with pytest.raises(ClassifiedError, match=f"(?s)the workers cannot import the code .*{module.__name__}") as caught:
        bench.run([shard("a", 1)], worker=worker)
    assert classify(caught.value) is FailureClass.USER_CODE
    bench.cluster.send_by_value(module.__name__)
    assert results(bench.run([shard("a", 1)], worker=worker)) == ["from a file"]


def test_a_killed_worker_repeats_only_the_shard_that_it_worked_on(bench: Bench) -> None:
    tracker = RecordingTracker()
    shards = [shard(f"s{number}", number) for number in range(6)] + [shard("killed", 9, "once-die")]
    assert results(bench.run(shards, tracker))[-1] == [81, 0]
    assert bench.worked() == sorted([f"s{number}:1" for number in range(6)] + ["killed:2"] * 2)
    lost = tracker.all("worker_lost")
    assert [(fields["shard"], fields["failure"]) for fields in lost] == [("killed", "node_lost")]
    assert not tracker.all("quarantined")


def test_fail_with_the_network_is_tried_again(bench: Bench) -> None:
    assert results(bench.run([shard("a", 1, "once-network")])) == [[1, 0]]
    with pytest.raises(Exception, match="shard b, tried 3 times") as failure:
        bench.run([shard("b", 1, "network")])
    assert classify(failure.value) is FailureClass.INFRA_TRANSIENT


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("raise", "ValueError: cannot square 'raise' of <output> (test_map_shards.py:"),
        ("die", "the worker process dies on it"),
        ("hang", "no sign of life while working on it, twice"),
    ],
)
def test_bad_items_are_found_by_bisection_and_quarantined(bench: Bench, word: str, reason: str) -> None:
    tracker = RecordingTracker()
    finished = bench.run([shard("good", 1, 2, 3), shard("bad", 1, 2, word)], tracker)
    outcome = finished[1].stored.outcome
    assert [entry.item for entry in outcome.quarantined] == [word]
    assert outcome.quarantined[0].reason.startswith(reason)
    assert outcome.result == [1, 4]
    assert [fields["shard"] for fields in tracker.all("quarantined")] == ["bad"]
    bench.worked()
    again = bench.run([shard("bad", 1, 2, word), shard("good", 1, 2, 3)])
    assert again[0].stored.outcome == outcome
    assert bench.worked() == []


def test_a_hung_worker_dumps_its_stacks_into_its_log(bench: Bench) -> None:
    assert results(bench.run([shard("a", 3, "once-hang")])) == [[9, 0]]
    logs = "".join(path.read_text() for path in bench.folder.glob("squares-1.worker-*.log"))
    assert "Timeout" in logs
    assert "in _fail" in logs


def test_slow_work_that_writes_files_is_no_hang(bench: Bench) -> None:
    tracker = RecordingTracker()
    assert results(bench.run([shard("a", "busy")], tracker)) == [[1]]
    assert not tracker.all("worker_lost")


def test_what_workers_quarantine_themselves_counts_too(bench: Bench) -> None:
    outcome = bench.run([shard("a", *range(9), "unreadable")])[0].stored.outcome
    assert outcome.quarantined == (Quarantined(item="unreadable", reason="cannot be read"),)
    message = (
        r"squares: numbers: found 4 of 12 items that cannot be worked on, expected at most 20.00%:\n"
        r"  3 x cannot be read; first: \"unreadable\"\n  1 x ValueError: cannot square 'raise'"
    )
    bad = [shard("c", 1, "raise"), shard("b", *["unreadable"] * 3, *range(7))]
    with pytest.raises(Exception, match=message) as failure:
        bench.run(bad, resources=Resources(workers=1))
    assert classify(failure.value) is FailureClass.DATA_POISON
    with pytest.raises(Exception, match="found 3 of 10 items"):
        bench.run(bad[1:])  # the shard is recorded; its share is still too high


def test_a_bug_in_the_code_fails_the_map_at_once(bench: Bench) -> None:
    shards = [shard(f"s{number}", *["raise"] * 50) for number in range(20)]
    with pytest.raises(
        Exception, match=r"each of 4 single items .* alike:\n(.*\n)*.*ValueError: cannot square"
    ) as found:
        bench.run(shards)
    assert classify(found.value) is FailureClass.USER_CODE
    assert len(bench.worked()) <= 2 + 4


def test_a_shard_of_bad_items_only_is_quarantined_where_other_items_work(bench: Bench) -> None:
    shards = [shard("bad", "raise"), *(shard(f"s{number}", number) for number in range(9))]
    finished = bench.run(shards, resources=Resources(workers=1))
    assert [entry.item for entry in finished[0].stored.outcome.quarantined] == ["raise"]
    assert finished[0].stored.outcome.rows == 0


def test_a_worker_that_cannot_start_fails_the_map(bench: Bench) -> None:
    (bench.folder / "cannot-start").touch()
    with pytest.raises(Exception, match=r"the workers cannot start:\n(.*\n)*ValueError: no such model") as failure:
        bench.run([shard("a", 1)])
    assert classify(failure.value) is FailureClass.USER_CODE


def test_a_stop_finishes_the_running_shards_and_the_next_map_makes_the_rest(bench: Bench) -> None:
    shards = [shard(f"s{number}", "slow", number) for number in range(8)]
    tracker = RecordingTracker()

    def first_is_done() -> bool:
        return any(done > 0 for done, _ in tracker.steps)

    with pytest.raises(CancelledError, match=r"squares: stopped with \d of 8 missing shards made"):
        map_shards(
            Squares(folder=bench.folder),
            shards,
            bench.settings(retry=LONG_TIMEOUT),
            bench.tools(tracker, first_is_done),
        )
    made = len(bench.worked())
    assert 1 <= made <= 4
    finished = bench.run(shards, retry=LONG_TIMEOUT)
    assert sum(entry.reused for entry in finished) == made
    assert len(bench.worked()) == 8 - made


def pids(tracker: RecordingTracker) -> set[JSON]:
    return {event["pid"] for event in tracker.all("worker_started")}


def test_the_next_map_of_an_attempt_reuses_idle_processes(bench: Bench) -> None:
    first, second, third = RecordingTracker(), RecordingTracker(), RecordingTracker()
    bench.run([shard("a", 1), shard("b", 2)], first)
    assert results(bench.run([shard("a", 3), shard("b", 4)], second, label="again")) == [[9], [16]]
    assert pids(second) <= pids(first)
    bench.run([shard("c", "once-die", 5)], third)  # one of them dies, its shard runs on another
    assert len(third.all("worker_lost")) == 1
    assert bench.run([shard("d", 6)])[0].stored.outcome.result == [36]


def test_an_idle_process_that_died_is_replaced(bench: Bench) -> None:
    first, second = RecordingTracker(), RecordingTracker()
    bench.run([shard("a", 1)], first)
    for pid in pids(first):
        os.kill(int(str(pid)), signal.SIGKILL)
    assert results(bench.run([shard("b", 2)], second)) == [[4]]
    assert pids(second).isdisjoint(pids(first))


def test_idle_processes_are_killed_after_a_while_and_at_once_after_a_failure(bench: Bench) -> None:
    tracker = RecordingTracker()
    bench.idle_workers = IdleWorkers(keep_s=0.1)
    bench.run([shard("a", 1)], tracker)
    with pytest.raises(Exception, match="each of 1 single items that were tried fails alike"):
        bench.run([shard("b", "broken")], tracker)
    assert bench.idle_workers.take() is None
    deadline = time.monotonic() + 30
    while any(psutil.pid_exists(int(str(pid))) for pid in pids(tracker)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
