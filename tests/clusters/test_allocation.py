import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusters.allocation import allocate, check_cpus, workers_of_node
from clusters.planner.machines import MachineType
from orchestrator.cluster.jobs import JobSize
from orchestrator.errors import PrecheckError

CPU = MachineType(cpus=32, memory_gib=128, nodes=4)
GPU = MachineType(gpu="H100", gpus=8, cpus=96, memory_gib=900, nodes=2)
MACHINES = {"data": CPU, "train": GPU}


def test_a_stage_without_accelerators_gets_nodes_without() -> None:
    found = allocate(MACHINES, JobSize(workers=60, cpus=1))
    assert (found.machine, found.nodes, found.cpus, found.gpus) == (CPU, 2, 31, 0)


def test_a_training_gets_accelerators() -> None:
    found = allocate(MACHINES, JobSize(workers=16, cpus=8, gpus=1, memory_gib=100))
    assert (found.machine, found.nodes, found.gpus, found.cpus, found.memory_gib) == (GPU, 2, 8, 65, 800)


def test_memory_can_decide() -> None:
    assert allocate(MACHINES, JobSize(workers=4, cpus=1, memory_gib=60)).nodes == 2


def test_a_machine_type_by_name() -> None:
    assert allocate(MACHINES, JobSize(workers=2, machine="train")).machine is GPU
    with pytest.raises(PrecheckError, match=r"resources\.machine: 'trian': did you mean 'train'"):
        allocate(MACHINES, JobSize(machine="trian"))


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (JobSize(cpus=200), "no machine type"),
        (JobSize(gpus=9), "no machine type"),
        (JobSize(workers=17, gpus=1), "nodes hold 16"),
        (JobSize(workers=200), "resources.workers: 200"),
    ],
)
def test_what_no_machine_holds_is_refused(size: JobSize, message: str) -> None:
    with pytest.raises(PrecheckError, match=message):
        allocate(MACHINES, size)


@given(
    workers=st.integers(1, 60),
    cpus=st.sampled_from([0.5, 1.0, 3.0, 8.0]),
    gpus=st.sampled_from([0.0, 1.0, 2.0]),
    memory=st.sampled_from([0.0, 2.0, 30.0]),
)
def test_all_workers_fit_on_the_nodes_and_one_node_less_is_too_few(
    workers: int, cpus: float, gpus: float, memory: float
) -> None:
    size = JobSize(workers=workers, cpus=cpus, gpus=gpus, memory_gib=memory)
    try:
        found = allocate(MACHINES, size)
    except PrecheckError:
        return
    on_each = math.ceil(workers / found.nodes)
    assert on_each <= workers_of_node(found.machine, size)
    assert found.cpus >= math.ceil(on_each * cpus)
    assert found.gpus >= on_each * gpus
    assert found.nodes <= found.machine.nodes
    assert (found.nodes - 1) * workers_of_node(found.machine, size) < workers


def test_machine_types_say_their_cpus() -> None:
    with pytest.raises(ValueError, match="machines: empty"):
        check_cpus({})
    with pytest.raises(ValueError, match=r"machines\.a\.cpus"):
        check_cpus({"a": MachineType()})
