"""The worker process's side of the shard map, called in this process: records, trials and reports of errors."""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import pytest

from orchestrator.artifact import JSON, ArtifactKey
from orchestrator.artifacts.attempt_guard import AttemptGuard
from orchestrator.artifacts.shard_ledger import ShardLedger
from orchestrator.attempt_id import AttemptId
from orchestrator.failures.classes import FailureReport
from orchestrator.failures.failure_class import FailureClass
from orchestrator.shard_map.shard_host import HostInfo, HostSettings, ShardHost, ShardRequest, TimedShard
from orchestrator.shards import Quarantined, RemoteFolder, ShardInput, ShardOutcome
from orchestrator.store.commits import abort
from orchestrator.store.layout import artifact_site
from orchestrator.store.store import open_store
from tests.orchestrator.conftest import MemoryStore

FINGERPRINT = "ab" * 32
WORK_S = 0.01
RECORD_S = 0.05


@dataclass(frozen=True, kw_only=True)
class Counter:
    """Counts the items into a file; fails on the item "bad"."""

    def start(self) -> Callable[[ShardInput], ShardOutcome]:
        return self._work

    def _work(self, shard: ShardInput) -> ShardOutcome:
        (shard.output / "count").write_text(str(len(shard.items)))
        if "bad" in shard.items:
            raise ValueError(f"bad item in {shard.output} at {hex(id(shard))}")
        return ShardOutcome(rows=len(shard.items))


@dataclass(frozen=True, kw_only=True)
class LeavingOpen:
    files: list[TextIO]

    def start(self) -> Callable[[ShardInput], ShardOutcome]:
        return self._work

    def _work(self, shard: ShardInput) -> ShardOutcome:
        self.files.append((shard.output / "count").open("w"))
        return ShardOutcome(rows=1)


@dataclass(frozen=True, kw_only=True)
class NotStarting:
    def start(self) -> Callable[[ShardInput], ShardOutcome]:
        raise ValueError("no such model")


@pytest.fixture
def ledger(tmp_path: Path) -> ShardLedger:
    return ShardLedger(open_store(tmp_path / "store"), tmp_path / "cache")


@pytest.fixture
def host(ledger: ShardLedger, tmp_path: Path) -> ShardHost:
    return ShardHost(
        HostSettings(
            ledger=ledger,
            stage_kind="count",
            attempt=AttemptId.of("run", "count", epoch=1, number=1),
            hang_after_s=60.0,
            scratch=tmp_path / "scratch",
        )
    )


def request(*items: str, quarantined: tuple[Quarantined, ...] = ()) -> ShardRequest:
    return ShardRequest(name="s", fingerprint=FINGERPRINT, items=items, work={}, quarantined=quarantined)


def test_a_shard_is_recorded_with_the_items_that_were_quarantined_before(host: ShardHost, ledger: ShardLedger) -> None:
    assert isinstance(host.start(Counter()), HostInfo)
    out = Quarantined(item="c", reason="dies")
    made = host.run(request("a", "b", quarantined=(out,)))
    assert isinstance(made, TimedShard)
    stored = made.stored
    assert stored.outcome == ShardOutcome(rows=2, quarantined=(out,))
    assert ledger.find(ArtifactKey("count", FINGERPRINT)) == stored
    assert (ledger.fetch(stored) / "count").read_text() == "2"


def test_a_failure_is_reported_without_paths_and_addresses_and_leaves_no_record(
    host: ShardHost, ledger: ShardLedger
) -> None:
    host.start(Counter())
    reports = [host.run(request("bad")), host.run_trial(request("bad"))]
    for report in reports:
        assert isinstance(report, FailureReport)
        assert (report.failure, report.summary) == (
            FailureClass.USER_CODE,
            "ValueError: bad item in <output> at 0x...",
        )
        assert report.place.startswith("test_shard_host.py:")
    assert ledger.find(ArtifactKey("count", FINGERPRINT)) is None


def test_a_trial_leaves_no_files_and_no_record(host: ShardHost, ledger: ShardLedger, tmp_path: Path) -> None:
    host.start(Counter())
    assert host.run_trial(request("a")) == ShardOutcome(rows=1)
    assert list((tmp_path / "scratch").iterdir()) == []
    assert ledger.find(ArtifactKey("count", FINGERPRINT)) is None


def test_a_worker_that_cannot_start_is_reported(host: ShardHost) -> None:
    report = host.start(NotStarting())
    assert isinstance(report, FailureReport)
    assert report.summary == "ValueError: no such model"


def test_a_file_that_the_worker_left_open_is_not_recorded(host: ShardHost) -> None:
    worker = LeavingOpen(files=[])
    host.start(worker)
    report = host.run(request("a"))
    worker.files.pop().close()
    assert isinstance(report, FailureReport)
    assert report.failure is FailureClass.USER_CODE
    assert "the worker: count is still open for writing" in report.summary


def test_a_group_is_recorded_together_and_a_failure_is_of_its_own_shard(host: ShardHost, ledger: ShardLedger) -> None:
    assert isinstance(host.start(Counter()), HostInfo)
    names = [f"{number:02}" * 32 for number in range(5)]
    requests = [
        ShardRequest(name=name, fingerprint=name, items=("bad",) if index == 2 else ("a", "b"), work={})
        for index, name in enumerate(names)
    ]
    first, second, failed, *others = host.run_group(tuple(requests))
    assert isinstance(failed, FailureReport)
    assert failed.failure is FailureClass.DATA or failed.summary.startswith("ValueError: bad item in <output>")
    found = ledger.find_many("count", names)
    assert found == {
        made.stored.key.fingerprint: made.stored.without_bytes()
        for made in (first, second, *others)
        if isinstance(made, TimedShard)
    }
    assert sorted(found) == [*names[:2], *names[3:]]
    assert host.run_group(tuple(requests[:2])) == (first, second)  # recorded once
    files = [item.key for item in ledger.store.list("shards") if item.key.endswith("/count")]
    assert len(files) == 4


def test_a_group_of_an_attempt_that_has_ended_records_nothing(host: ShardHost, ledger: ShardLedger) -> None:
    assert isinstance(host.start(Counter()), HostInfo)
    guard = AttemptGuard(
        store=ledger.store, key=ArtifactKey("count", "01" * 32), attempt=AttemptId.of("run", "count", epoch=1, number=1)
    )
    abort(ledger.store, artifact_site(guard.key), guard.attempt.name, reason="taken over")
    host._settings = dataclasses.replace(host._settings, guard=guard)
    names = [f"{number:02}" * 32 for number in range(3)]
    reports = host.run_group(tuple(ShardRequest(name=name, fingerprint=name, items=(), work={}) for name in names))
    assert ["taken over" in report.summary for report in reports if isinstance(report, FailureReport)] == [True] * 3
    assert ledger.find_many("count", names) == {}


@dataclass(frozen=True, kw_only=True)
class Copies:
    """Copies the file "count" of another shard."""

    def start(self) -> Callable[[ShardInput], ShardOutcome]:
        return self._work

    def _work(self, shard: ShardInput) -> ShardOutcome:
        (shard.output / "copy").write_text((Path(str(shard.work["from"])) / "count").read_text())
        return ShardOutcome(rows=1)


def test_what_a_shard_reads_is_on_its_machine_before_its_work_begins(tmp_path: Path) -> None:
    store, attempt = MemoryStore(), AttemptId.of("run", "count", epoch=1, number=1)
    settings = {
        node: HostSettings(
            ledger=ShardLedger(store, tmp_path / node),
            stage_kind="count",
            attempt=attempt,
            hang_after_s=60.0,
            scratch=tmp_path / "scratch",
        )
        for node in ("first", "second")
    }
    first, second = (ShardHost(settings[node]) for node in ("first", "second"))
    assert isinstance(first.start(Counter()), HostInfo)
    made = first.run(request("a", "b"))
    assert isinstance(made, TimedShard)
    record = settings["second"].ledger.to_record(made.stored, shard="s", reused=False)
    assert isinstance(record.folder, RemoteFolder)
    assert isinstance(second.start(Copies()), HostInfo)
    work: dict[str, JSON] = {"from": str(record.place)}
    reading = ShardRequest(name="t", fingerprint="cd" * 32, items=(), work=work, reads=(record.folder,))
    copied = second.run(reading)
    assert isinstance(copied, TimedShard)
    assert store.get(copied.stored.key_of("copy")) == b"2"


@dataclass(frozen=True, kw_only=True)
class Sleeping:
    """Works for `WORK_S`."""

    def start(self) -> Callable[[ShardInput], ShardOutcome]:
        return self._work

    def _work(self, shard: ShardInput) -> ShardOutcome:
        time.sleep(WORK_S)
        return ShardOutcome(rows=1)


@dataclass
class SlowStore(MemoryStore):
    """Each record takes `RECORD_S`."""

    def put_new(self, key: str, data: bytes) -> bool:
        time.sleep(RECORD_S)
        return super().put_new(key, data)


@pytest.mark.parametrize("in_group", [True, False])
def test_the_time_of_a_shard_is_that_of_its_work_and_not_of_a_slow_store(tmp_path: Path, in_group: bool) -> None:
    settings = HostSettings(
        ledger=ShardLedger(SlowStore(), tmp_path / "cache"),
        stage_kind="count",
        attempt=AttemptId.of("run", "count", epoch=1, number=1),
        hang_after_s=60.0,
        scratch=tmp_path / "scratch",
    )
    host = ShardHost(settings)
    assert isinstance(host.start(Sleeping()), HostInfo)
    began = time.monotonic()
    made = host.run_group((request("a"),))[0] if in_group else host.run(request("a"))
    assert isinstance(made, TimedShard)
    assert WORK_S <= made.work_s <= time.monotonic() - began - 2 * RECORD_S  # its outcome and its record


def test_a_file_that_a_shard_of_a_group_left_open_is_its_own_mistake(host: ShardHost) -> None:
    files: list[TextIO] = []
    assert isinstance(host.start(LeavingOpen(files=files)), HostInfo)
    names = [f"{number:02}" * 32 for number in range(2)]
    reports = host.run_group(tuple(ShardRequest(name=name, fingerprint=name, items=(), work={}) for name in names))
    assert ["still open for writing" in report.summary for report in reports if isinstance(report, FailureReport)] == [
        True,
        True,
    ]
    for file in files:
        file.close()
