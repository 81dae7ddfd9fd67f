"""Verdicts of a map without Ray: processes are doubles in this one that break, die, or lose their environment."""

import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from orchestrator.artifact import JSON
from orchestrator.artifacts.shard_ledger import ShardLedger
from orchestrator.attempt_id import AttemptId
from orchestrator.errors import NodeLostError, OrchestratorError
from orchestrator.failures.classes import classify
from orchestrator.failures.failure_class import FailureClass
from orchestrator.shard_map import map_run
from orchestrator.shard_map.map_settings import MapSettings, MapTools
from orchestrator.shard_map.map_shards import FinishedShard, map_shards
from orchestrator.shard_map.worker_pool import IdleWorkers
from orchestrator.shards import Quarantined, Shard, ShardInput, ShardOutcome
from orchestrator.stage import Resources, RetryPolicy
from orchestrator.store.store import open_store


class ProcessDiedError(Exception):
    """The double of a process ends."""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(map_run, "POLL_S", 0.002)


@dataclass(kw_only=True)
class Site:
    """A double of a cluster: what happens to an item is up to `work`, which gets the process and the item."""

    root: Path
    work: Callable[["Process", str], None]
    hosts: int = 2
    seed: int = 0
    processes: list["Process"] = field(default_factory=list)
    calls: list[tuple[int, tuple[JSON, ...]]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def spawn(self, holder: Callable[..., Any], *arguments: Any, resources: object) -> "Process":
        self.processes.append(Process(host=holder(*arguments), number=len(self.processes), site=self))
        return self.processes[-1]

    def wait(self, calls: Sequence["Call"], timeout_s: float) -> list["Call"]:
        return [random.Random(f"{self.seed}-{len(self.calls)}").choice(calls)]

    def run(self, shards: Sequence[Shard], *, workers: int = 2, share: float = 0.5) -> list[FinishedShard]:
        settings = MapSettings(
            stage_kind="tokenize",
            attempt=AttemptId.of("run", "tokenize", epoch=1, number=1),
            version=1,
            label="images",
            identity={},
            resources=Resources(workers=workers),
            retry=RetryPolicy(wait_s=0.001, max_quarantined_share=share),
            scratch=self.root / "scratch",
        )
        tools = MapTools(
            cluster=self,  # type: ignore[arg-type]  # a double
            ledger=self.ledger,
            tracker=Quiet(),
            record_use=lambda shards: None,
            stop_requested=lambda: False,
            on_recorded=lambda _stored: None,
            rng=random.Random(self.seed),
            idle_workers=IdleWorkers(),
        )
        return map_shards(Worker(site=self), shards, settings, tools)

    @property
    def ledger(self) -> ShardLedger:
        return ShardLedger(open_store(self.root / "store"), self.root / "cache")

    @property
    def quarantined(self) -> list[Quarantined]:
        return [entry for stored in self.ledger.all() for entry in stored.outcome.quarantined]


class Quiet:
    def log_metrics(self, *_arguments: object, **_options: object) -> None: ...

    def progress(self, *_arguments: object) -> None: ...

    def log_event(self, *_arguments: object) -> None: ...


@dataclass(kw_only=True, eq=False)
class Call:
    thunk: Callable[[], Any]

    def result(self) -> Any:
        return self.thunk()


@dataclass(kw_only=True, eq=False)
class Process:
    host: Any
    number: int
    site: Site
    broken: bool = False
    killed: bool = False

    def call(self, method: str, *arguments: Any) -> Call:
        def thunk() -> Any:
            CURRENT[:] = [self]
            return getattr(self.host, method)(*arguments)

        return Call(thunk=thunk)

    def kill(self) -> None:
        self.killed = True


CURRENT: list[Process] = []  # the process whose call is running


@dataclass(frozen=True, kw_only=True)
class Worker:
    site: Site

    def start(self) -> Callable[[ShardInput], ShardOutcome]:
        return self._work

    def _work(self, shard: ShardInput) -> ShardOutcome:
        process = CURRENT[0]
        assert not process.killed
        self.site.calls.append((process.number, shard.items))
        for item in shard.items:
            self.site.work(process, str(item))
        (shard.output / "out").write_text(" ".join(map(str, shard.items)))
        return ShardOutcome(rows=len(shard.items))


def shards(number: int = 8, size: int = 6) -> list[Shard]:
    return [Shard(name=f"s{n}", items=tuple(f"{n}-{i}" for i in range(size))) for n in range(number)]


ERRORS = {
    "sticky": lambda: type("AcceleratorError", (RuntimeError,), {"__module__": "torch"})("CUDA error: ECC error"),
    "runtime": lambda: RuntimeError("the driver shut down"),
    "value": lambda: ValueError("cannot decode"),
    "missing": lambda: FileNotFoundError(2, "No such file or directory", "/mnt/data/a.jpg"),
    "poison": lambda: ZeroDivisionError("x"),
}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.parametrize("first", ["0-0", "7-3"])
def test_a_process_that_broke_is_replaced_and_blames_no_item(
    tmp_path: Path, kind: str, workers: int, seed: int, first: str
) -> None:
    def work(process: Process, item: str) -> None:
        if item == first and not any(other.broken for other in process.site.processes):
            process.broken = True
        if process.broken:
            raise ERRORS[kind]()

    site = Site(root=tmp_path, work=work, seed=seed)
    done = site.run(shards(), workers=workers)
    assert site.quarantined == []
    assert sum(shard.stored.outcome.rows for shard in done) == 48


@pytest.mark.parametrize("seed", range(3))
def test_of_a_group_whose_process_dies_only_what_is_not_on_record_runs_again(tmp_path: Path, seed: int) -> None:
    deaths = list[str]()

    def work(process: Process, item: str) -> None:
        if item == "7-3" and not deaths:
            deaths.append(item)
            raise ProcessDiedError

    @dataclass
    class Dies:
        host: Any

        def __getattr__(self, method: str) -> Callable[..., Any]:
            def call(*arguments: Any) -> Any:
                answer = getattr(self.host, method)(*arguments)
                parts = answer if isinstance(answer, tuple) else (answer,)
                if any("ProcessDiedError" in str(getattr(part, "summary", "")) for part in parts):
                    raise NodeLostError("killed")
                return answer

            return call

    class Dying(Site):
        def spawn(self, holder: Callable[..., Any], *arguments: Any, resources: object) -> Process:
            process = super().spawn(holder, *arguments, resources=resources)
            process.host = Dies(process.host)
            return process

    site = Dying(root=tmp_path, work=work, seed=seed)
    done = site.run(shards(), workers=1)
    assert deaths == ["7-3"]
    assert site.quarantined == []
    assert sum(shard.stored.outcome.rows for shard in done) == 48
    assert len(site.processes) == 2
    times = Counter(items[0] for _, items in site.calls)
    assert {item for item, count in times.items() if count > 1} == {"7-0"}


@pytest.mark.parametrize("kind", ["value", "missing", "runtime"])
@pytest.mark.parametrize("starts_at", [0, 7, 20])
@pytest.mark.parametrize("lasts", [1, 12, 100_000])
def test_while_the_environment_is_away_nothing_is_called_poison(
    tmp_path: Path, kind: str, starts_at: int, lasts: int
) -> None:
    count = 0

    def work(_process: Process, _item: str) -> None:
        nonlocal count
        count += 1
        if starts_at <= count < starts_at + lasts:
            raise ERRORS[kind]()

    site = Site(root=tmp_path, work=work)
    failures = []
    try:
        site.run(shards())
    except OrchestratorError as error:
        failures = [classify(error)]
    assert site.quarantined == []
    if starts_at > 1:  # before the first success it looks like a bug in the code
        assert failures in ([], [FailureClass.INFRA_TRANSIENT])


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("bad", [{"3-1"}, {"0-0"}, {"3-1", "3-2", "6-5"}, {f"2-{i}" for i in range(6)}])
@pytest.mark.parametrize("breaks", [False, True])
def test_poison_is_quarantined_with_its_evidence(tmp_path: Path, workers: int, bad: set[str], breaks: bool) -> None:
    def work(process: Process, item: str) -> None:
        if item in bad:
            process.broken = breaks
            raise ValueError(f"cannot decode {item}")
        if process.broken:
            raise RuntimeError("device-side assert")

    site = Site(root=tmp_path, work=work)
    site.run(shards(), workers=workers)
    assert {str(entry.item) for entry in site.quarantined} == bad
    for entry in site.quarantined:
        assert entry.found_by == "search"
        assert [attempt.error.partition(" (")[0] for attempt in entry.tries] == [
            f"ValueError: cannot decode {entry.item}"
        ] * 2
        assert {attempt.attempt for attempt in entry.tries} == {"run-tokenize-1-1"}
        assert not bad & {str(attempt.witness) for attempt in entry.tries}


def test_the_two_failures_are_in_two_processes_with_a_witness_between_them(tmp_path: Path) -> None:
    def work(_process: Process, item: str) -> None:
        if item == "3-1":
            raise ValueError("cannot decode")

    site = Site(root=tmp_path, work=work)
    site.run(shards(), workers=2)
    alone = [number for number, (_, items) in enumerate(site.calls) if items == ("3-1",)][-2:]
    first, second = (site.calls[number][0] for number in alone)
    assert first != second
    for number, process in zip(alone, (first, second), strict=True):
        before = [items for one, items in site.calls[:number] if one == process][-1]
        assert len(before) == 1
        assert before != ("3-1",)


def test_an_item_that_kills_its_process_is_quarantined_and_one_whose_node_died_is_not(tmp_path: Path) -> None:
    node_deaths = 0

    def work(_process: Process, item: str) -> None:
        if item == "3-1":
            raise ProcessDiedError

    def take_node(process: Process, item: str) -> None:
        nonlocal node_deaths
        if item == "5-5" and node_deaths < 2:
            node_deaths += 1
            raise ProcessDiedError

    class Dying(Site):
        def spawn(self, holder: Callable[..., Any], *arguments: Any, resources: object) -> Process:
            process = super().spawn(holder, *arguments, resources=resources)
            process.host = Dies(process.host, self.error)
            return process

        error: Callable[[], Exception] = staticmethod(lambda: NodeLostError("killed"))

    @dataclass
    class Dies:
        host: Any
        error: Callable[[], Exception]

        def __getattr__(self, method: str) -> Any:
            def call(*arguments: Any) -> Any:
                answer = getattr(self.host, method)(*arguments)
                if "ProcessDiedError" in str(getattr(answer, "summary", "")):
                    raise self.error()
                return answer

            return call

    site = Dying(root=tmp_path / "a", work=work)
    site.run(shards())
    assert [(entry.item, entry.reason) for entry in site.quarantined] == [("3-1", "the worker process dies on it")]
    actor_died = type("RayActorError", (Exception,), {"__module__": "ray.exceptions"})
    taken = Dying(root=tmp_path / "b", work=take_node)
    taken.error = lambda: actor_died("The actor died because its node has died. Node Id: 1")
    done = taken.run(shards())
    assert node_deaths == 2
    assert taken.quarantined == []
    assert sum(shard.stored.outcome.rows for shard in done) == 48


def test_an_item_that_fails_now_and_then_is_not_poison(tmp_path: Path) -> None:
    failed: set[int] = set()

    def work(process: Process, item: str) -> None:
        if item == "3-1" and process.number not in failed and len(failed) < 1:
            failed.add(process.number)
            raise ValueError("once")

    site = Site(root=tmp_path, work=work)
    assert sum(shard.stored.outcome.rows for shard in site.run(shards())) == 48
    assert site.quarantined == []


def test_a_bug_in_the_code_is_found_in_two_processes_at_most(tmp_path: Path) -> None:
    def work(_process: Process, _item: str) -> None:
        raise ValueError("a bug")

    site = Site(root=tmp_path, work=work)
    with pytest.raises(Exception, match=r"single items .* alike") as error:
        site.run(shards(), workers=1)
    assert classify(error.value) is FailureClass.USER_CODE
    assert len({process for process, _ in site.calls}) == 2
    assert len(site.calls) <= 1 + 4 + 1


@pytest.mark.parametrize("missing", [("found_by", "tries"), ("tries",)])
def test_records_without_evidence_are_reported_in_one_line_and_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, missing: tuple[str, ...]
) -> None:
    def work(_process: Process, item: str) -> None:
        if item == "3-1":
            raise ValueError("cannot decode")

    site = Site(root=tmp_path, work=work)
    site.run(shards())
    for path in (tmp_path / "store" / "shards").rglob("*.json"):  # as older versions wrote them, or another program
        text = path.read_text()
        if '"search"' in text:
            record = json.loads(text)
            for entry in record["outcome"]["quarantined"]:
                for name in missing:
                    del entry[name]
            path.chmod(0o644)
            path.write_text(json.dumps(record))
    done = site.run(shards())
    assert all(shard.reused for shard in done)
    lines = [record.getMessage() for record in caplog.records if "without evidence" in record.getMessage()]
    assert len(lines) == 1
    assert ".json" in lines[0]
    assert "--retry-quarantined" in lines[0]
    assert [entry.item for entry in site.quarantined] == ["3-1"]
