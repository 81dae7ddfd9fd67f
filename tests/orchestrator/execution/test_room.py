"""Stages that can never get what they ask for are refused before a run exists."""

from types import SimpleNamespace
from typing import Any

import pytest

from clusters.slurm.config import SlurmMachine, SlurmProfile
from clusters.slurm.jobs import SlurmJobs
from orchestrator.cluster.capacity import Capacity, NodeCapacity
from orchestrator.errors import EXIT_UNUSABLE, PrecheckError
from orchestrator.execution.room import check_jobs, check_room
from orchestrator.stage import Resources


def check(resources: Resources, *nodes: NodeCapacity, may_grow: bool = False) -> None:
    stage: Any = SimpleNamespace(id="train", spec=SimpleNamespace(resources=resources))
    cluster: Any = SimpleNamespace(capacity=lambda with_gpus: Capacity(nodes=nodes, may_grow=may_grow), jobs=None)
    check_room([stage], cluster)


def test_the_refusal_names_the_setting_and_the_ways_out() -> None:
    with pytest.raises(PrecheckError) as refused:
        check(Resources(workers=8, gpus=1), NodeCapacity(cpus=64, gpus=4))
    assert refused.value.exit_code == EXIT_UNUSABLE
    assert str(refused.value) == (
        "stages.train.resources.gpus: found 1 for each of 8 workers, but all nodes together have 4; ask for less, or "
        "use a larger cluster (if nodes are added on demand: `autoscales: true` in its profile)"
    )


def test_a_training_that_goes_on_with_fewer_workers_needs_room_for_those() -> None:
    check(Resources(workers=8, min_workers=4, gpus=1), NodeCapacity(cpus=64, gpus=4))
    with pytest.raises(PrecheckError):
        check(Resources(workers=8, min_workers=5, gpus=1), NodeCapacity(cpus=64, gpus=4))


def test_a_cluster_that_adds_nodes_is_waited_for() -> None:
    check(Resources(workers=64, gpus=8, memory_gib=500), NodeCapacity(cpus=4, memory_gib=8), may_grow=True)


def test_without_stages_the_cluster_is_not_asked() -> None:
    check_room([], SimpleNamespace())  # type: ignore[arg-type]  # a double


def test_a_stage_that_no_machine_holds_is_refused_before_the_first_one_is_sent() -> None:
    machines = {"data": SlurmMachine(cpus=16, nodes=2), "train": SlurmMachine(gpu="H100", gpus=8, cpus=96)}
    jobs = SlurmJobs(profile=SlurmProfile(folder="/nowhere", machines=machines))
    small: Any = SimpleNamespace(id="clean", spec=SimpleNamespace(resources=Resources(workers=4)))
    large: Any = SimpleNamespace(id="train", spec=SimpleNamespace(resources=Resources(workers=16, gpus=1)))
    check_jobs([small], jobs)
    with pytest.raises(PrecheckError, match=r"^stages\.train\.resources\.workers: 16 do not fit the machine types"):
        check_jobs([small, large], jobs)
