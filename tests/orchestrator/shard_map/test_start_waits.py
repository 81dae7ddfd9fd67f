"""A map that cannot start its first process says so once, and once that it could."""

from types import SimpleNamespace
from typing import Any

from orchestrator.cluster.capacity import NodeCapacity, WorkerResources
from orchestrator.shard_map.start_waits import StartWait


class Scene:
    """A clock, a cluster with some free CPUs, and the events that were logged."""

    def __init__(self, free_cpus: float) -> None:
        self.now = 100.0
        self.free = NodeCapacity(cpus=free_cpus, memory_gib=7.25)
        self.events: list[tuple[str, Any]] = []
        self.wait = StartWait(
            tracker=SimpleNamespace(log_event=lambda kind, fields: self.events.append((kind, fields))),  # type: ignore[arg-type]  # a double
            cluster=SimpleNamespace(free=lambda: self.free),  # type: ignore[arg-type]  # a double
            resources=WorkerResources(cpus=4),
            clock=lambda: self.now,
        )

    def poll(self, after_s: float, *, num_starting: int = 1, num_started: int = 0) -> list[str]:
        self.now += after_s
        self.wait.poll(num_starting=num_starting, num_started=num_started)
        return [kind for kind, _ in self.events]


def test_a_process_without_room_is_reported_once_with_what_is_free() -> None:
    scene = Scene(free_cpus=1.0)
    assert scene.poll(0.0) == []
    assert scene.poll(9.0) == []
    assert scene.poll(2.0) == ["waiting"]
    assert scene.poll(60.0) == ["waiting"]
    text = "room for a worker process (4 CPUs; free: 1 CPU, 7.2 GiB)"
    assert scene.events == [("waiting", {"for": text})]
    assert scene.poll(1.0, num_starting=0, num_started=1) == ["waiting", "waited"]
    assert scene.poll(1.0, num_starting=0, num_started=1) == ["waiting", "waited"]


def test_a_process_that_has_room_and_is_slow_does_not_wait() -> None:
    scene = Scene(free_cpus=4.0)
    scene.poll(0.0)
    assert scene.poll(60.0) == []
    scene.free = NodeCapacity(cpus=3.0)  # others have taken it
    assert scene.poll(11.0) == ["waiting"]


def test_a_map_with_a_process_at_work_does_not_wait_for_more() -> None:
    scene = Scene(free_cpus=0.0)
    scene.poll(0.0)
    assert scene.poll(60.0, num_started=1) == []
