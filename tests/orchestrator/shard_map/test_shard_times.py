from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.artifact import JSON
from orchestrator.shard_map import shard_times
from orchestrator.shard_map.pending import PendingShard
from orchestrator.shard_map.shard_times import ShardTimes, ranges_of
from orchestrator.shards import Shard


@dataclass
class Recorder:
    events: list[tuple[str, Mapping[str, JSON]]] = field(default_factory=list)

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None: ...

    def progress(self, done: int, total: int, unit: str) -> None: ...

    def log_event(self, kind: str, fields: Mapping[str, JSON]) -> None:
        self.events.append((kind, fields))


def pending(number: int, **failures: int) -> PendingShard:
    return PendingShard(
        shard=Shard(name=f"s-{number}", items=(1,)), fingerprint=f"f{number}", remaining=(0,), **failures
    )


def test_shards_are_recorded_together_and_none_is_lost() -> None:
    recorder, now = Recorder(), [0.0]
    times = ShardTimes(recorder, "judge", {f"f{number}": number for number in range(9)}, clock=lambda: now[0])
    times.found(["f0", "f1", "f4"])
    times.done(pending(2), seconds=0.5, quarantined=0)
    assert [kind for kind, _ in recorder.events] == ["shards_found"]
    assert recorder.events[0][1]["ranges"] == [[0, 1], [4, 4]]
    now[0] = shard_times.FLUSH_S
    times.done(pending(3, deaths=1, infra_failures=2), seconds=41.25, quarantined=7)
    assert recorder.events[1][1]["shards"] == [[2, "s-2", 0.5, 1, 0], [3, "s-3", 41.25, 4, 7]]
    times.done(pending(5), seconds=1.0, quarantined=0)
    times.flush()
    times.flush()
    assert [fields["shards"] for _, fields in recorder.events[2:]] == [[[5, "s-5", 1.0, 1, 0]]]


def test_an_event_stays_small() -> None:
    recorder = Recorder()
    times = ShardTimes(recorder, "judge", {f"f{number}": number for number in range(600)}, clock=lambda: 0.0)
    for number in range(600):
        times.done(pending(number), seconds=0.1, quarantined=0)
    times.flush()
    sizes = [len(shards) for _, fields in recorder.events if isinstance(shards := fields["shards"], list)]
    assert sizes == [250, 250, 100]


def test_ranges_are_those_of_neighbours() -> None:
    assert ranges_of([4, 0, 1, 2, 9]) == [(0, 2), (4, 4), (9, 9)]
    assert ranges_of([]) == []
