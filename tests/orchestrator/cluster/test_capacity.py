"""Whether workers can ever run together, by nodes; what a joined cluster has comes from Ray."""

import math

import pytest

from orchestrator.cluster import ray_cluster
from orchestrator.cluster.capacity import Capacity, NodeCapacity, WorkerResources, describe
from orchestrator.cluster.ray_cluster import Cluster, LocalRay, RayAddress
from orchestrator.errors import NodeLostError

NODE = NodeCapacity(cpus=8.0, gpus=4.0, memory_gib=64.0)


def worker(cpus: float = 1.0, gpus: float = 0.0, memory_gib: float = 0.0) -> WorkerResources:
    return WorkerResources(cpus=cpus, gpus=gpus, memory_gib=memory_gib)


@pytest.mark.parametrize(
    ("asks", "num_workers", "expected"),
    [
        (worker(), 16, ""),
        (worker(), 17, "cpus: found 1 for each of 17 workers, but all nodes together have 16"),
        (worker(cpus=9), 1, "cpus: found 9 for each worker, but the largest node has 8"),
        (worker(gpus=1), 8, ""),
        (worker(gpus=1), 9, "gpus: found 1 for each of 9 workers, but all nodes together have 8"),
        (worker(gpus=5), 1, "gpus: found 5 for each worker, but the largest node has 4"),
        (worker(gpus=3), 3, "gpus: found 3 for each of 3 workers, but all nodes together have 8"),
        (worker(gpus=2.5), 3, "workers: found 3, but the nodes hold 2 of this size (1 CPU, 2.5 GPUs)"),
        (worker(cpus=0.5, gpus=0.1), 32, ""),
        (worker(memory_gib=65), 1, "memory_gib: found 65 for each worker, but the largest node has 64"),
        (worker(cpus=0), 10_000, ""),
    ],
)
def test_what_can_never_run_has_a_reason(asks: WorkerResources, num_workers: int, expected: str) -> None:
    assert Capacity(nodes=[NODE, NODE]).shortage(asks, num_workers) == expected
    assert Capacity(nodes=[NODE, NODE], may_grow=True).shortage(asks, num_workers) == ""


def test_ten_tenths_of_a_gpu_fit_one() -> None:
    assert NodeCapacity(gpus=1.0).room_for(worker(cpus=0, gpus=0.1)) == 10


def test_a_local_ray_has_cpus_for_all_and_the_memory_of_its_machine() -> None:
    capacity = Cluster(LocalRay(memory_gib=4.0)).capacity(with_gpus=False)
    assert capacity is not None
    assert capacity.nodes == [NodeCapacity(cpus=math.inf, gpus=0.0, memory_gib=4.0)]
    of_machine = Cluster(LocalRay()).capacity(with_gpus=False)
    assert of_machine is not None
    assert "memory_gib: found 1e+06 for each worker" in of_machine.shortage(worker(memory_gib=1e6), 1)


@pytest.mark.parametrize(
    ("autoscales", "gpus", "with_gpus", "may_grow"),
    [
        (None, 0.0, True, True),  # GPU nodes come from zero
        (None, 4.0, True, False),
        (None, 0.0, False, False),
        (True, 4.0, True, True),
        (False, 0.0, True, False),
    ],
)
def test_a_cluster_without_gpus_may_add_nodes_unless_its_profile_denies_it(
    autoscales: bool | None, gpus: float, with_gpus: bool, may_grow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(RayAddress(address="head:6379"), autoscales=autoscales)
    monkeypatch.setattr(cluster, "_nodes", lambda: [NodeCapacity(cpus=8.0, gpus=gpus, memory_gib=64.0)])
    capacity = cluster.capacity(with_gpus=with_gpus)
    assert capacity is not None
    assert capacity.may_grow == may_grow


@pytest.mark.parametrize(
    ("target", "gpus", "expected"),
    [
        (LocalRay(), 0.0, True),
        (LocalRay(), 1.0, False),  # Ray assigns them
        (LocalRay(plain_training_workers=False), 0.0, False),
        (LocalRay(plain_training_workers=True), 1.0, True),  # refused by the training, which says what to do
        (RayAddress(address="head:6379"), 0.0, False),
    ],
)
def test_training_workers_without_gpus_are_plain_processes_of_a_machine(
    target: LocalRay | RayAddress, gpus: float, expected: bool
) -> None:
    assert Cluster(target).has_plain_training_workers(gpus=gpus) is expected


def test_resources_are_described_for_people() -> None:
    assert describe(WorkerResources(cpus=1, gpus=2, memory_gib=4)) == "1 CPU, 2 GPUs, 4 GiB"
    assert describe(WorkerResources(cpus=0)) == "nothing"


class JoiningNodes:
    """A cluster whose nodes join one by one, each time that it is asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, last: int) -> None:
        self.asked, self.last, self.now_s = 0, last, 0.0
        monkeypatch.setattr(Cluster, "_nodes", self.nodes)
        monkeypatch.setattr(ray_cluster.time, "monotonic", lambda: self.now_s)
        monkeypatch.setattr(ray_cluster.time, "sleep", self.sleep)

    def nodes(self, *_: object) -> list[NodeCapacity]:
        self.asked += 1
        return [NodeCapacity(cpus=1.0)] * min(self.asked, self.last)

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def test_a_job_waits_until_the_nodes_of_its_cluster_have_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or its stage would be refused for its size, while the nodes for it are starting."""
    nodes = JoiningNodes(monkeypatch, last=3)
    cluster = Cluster(RayAddress(address="head:6379"), nodes=3)
    cluster.wait_for_nodes(lambda: False)
    assert nodes.asked == 3


def test_nodes_that_never_join_are_an_infrastructure_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = JoiningNodes(monkeypatch, last=2)
    cluster = Cluster(RayAddress(address="head:6379"), nodes=3)
    with pytest.raises(NodeLostError, match="2 of 3 nodes have joined after 600 s"):
        cluster.wait_for_nodes(lambda: False)
    assert 600 <= nodes.now_s < 610
    cluster.wait_for_nodes(lambda: True)  # a stop ends the waiting


def test_a_cluster_of_unknown_size_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = JoiningNodes(monkeypatch, last=0)
    Cluster(RayAddress(address="head:6379")).wait_for_nodes(lambda: False)
    assert nodes.asked == 0
