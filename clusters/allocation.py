"""How many nodes of which machine type a stage gets, on clusters that give each job nodes of its own."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from clusters.planner.machines import MachineType
from orchestrator.cluster.jobs import JobSize
from orchestrator.documents.suggestions import expectation
from orchestrator.errors import PrecheckError

M = TypeVar("M", bound=MachineType)

NODES_VARIABLE = "ILLUME_RAY_NODES"  # tells a stage driver how many nodes its cluster has at the start
AUTOSCALES_VARIABLE = "ILLUME_CLUSTER_AUTOSCALES"  # tells a stage driver whether more may join later, or must not
DRIVER_CPUS = 1.0  # that the stage driver may need on a node, beside its workers


@dataclass(frozen=True, kw_only=True)
class Allocation(Generic[M]):
    """The nodes of one job."""

    name: str  # of the machine type
    machine: M
    nodes: int
    workers: int  # on each node, at most
    cpus: int  # of each node
    gpus: int  # of each node
    memory_gib: int  # of each node; 0: unstated


def allocate(machines: Mapping[str, M], size: JobSize) -> Allocation[M]:
    """Whole workers on as few nodes as possible, with accelerators only for those that ask for them.

    Raises: PrecheckError: no machine type can hold one worker, or has that many nodes.
    """
    if size.machine and size.machine not in machines:
        raise PrecheckError(f"resources.machine: {size.machine!r}: {expectation(size.machine, sorted(machines))}")
    named = {size.machine: machines[size.machine]} if size.machine else machines
    fitting = {name: machine for name, machine in named.items() if workers_of_node(machine, size)}
    alike = {name: machine for name, machine in fitting.items() if bool(machine.gpus) == bool(size.gpus)} or fitting
    if not alike:
        raise PrecheckError(
            f"resources: no machine type ({', '.join(named)}) holds a worker of {size.cpus:g} CPUs, {size.gpus:g} GPUs "
            f"and {size.memory_gib:g} GiB"
        )
    roomy = [name for name, machine in alike.items() if nodes_for(machine, size) <= machine.nodes]
    if not roomy:
        most = max(machine.nodes * workers_of_node(machine, size) for machine in alike.values())
        raise PrecheckError(
            f"resources.workers: {size.workers} do not fit the machine types ({', '.join(named)}), whose nodes hold "
            f"{most}; request fewer, or raise `nodes` of the machine type"
        )
    machine = alike[roomy[0]]
    nodes = nodes_for(machine, size)
    on_each = math.ceil(size.workers / nodes)
    return Allocation(
        name=roomy[0],
        machine=machine,
        nodes=nodes,
        workers=on_each,
        cpus=min(int(machine.cpus), math.ceil(on_each * size.cpus + DRIVER_CPUS)),
        gpus=math.ceil(on_each * size.gpus),
        memory_gib=math.ceil(on_each * size.memory_gib),
    )


def workers_of_node(machine: MachineType, size: JobSize) -> int:
    """How many workers one node holds, the stage driver beside them."""
    free_cpus = machine.cpus - DRIVER_CPUS if machine.cpus > 1 else machine.cpus
    counts = [free_cpus / size.cpus] if size.cpus else []
    if size.gpus:
        counts.append(machine.gpus / size.gpus)
    if size.memory_gib and machine.memory_gib:
        counts.append(machine.memory_gib / size.memory_gib)
    return int(min(counts, default=size.workers))


def nodes_for(machine: MachineType, size: JobSize) -> int:
    return math.ceil(size.workers / workers_of_node(machine, size))


def check_cpus(machines: Mapping[str, MachineType]) -> None:
    """Raises: ValueError: no machine type, or one that does not say its CPUs."""
    if not machines:
        raise ValueError("machines: empty; name at least one kind of node, with its cpus")
    for name, machine in machines.items():
        if machine.cpus < 1:
            raise ValueError(f"machines.{name}.cpus: found {machine.cpus:g}, expected the CPUs of a node")
