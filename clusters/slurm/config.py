"""The profile of a Slurm cluster, and how many nodes of which kind a stage gets."""

import math
from dataclasses import dataclass, field

from clusters.planner.machines import MachineType
from orchestrator.cluster.jobs import JobSize
from orchestrator.documents.suggestions import expectation
from orchestrator.errors import PrecheckError

_DRIVER_CPUS = 1.0  # of the head, beside its workers


@dataclass(frozen=True, kw_only=True)
class SlurmMachine(MachineType):
    """Nodes of one kind, and where Slurm has them."""

    partition: str = ""  # "": the default partition
    constraint: str = ""  # features that a node must have
    gres: str = "gpu"  # the name of an accelerator in Slurm's GRES, with a type if it has one: gpu:h100


@dataclass(frozen=True, kw_only=True)
class SlurmProfile:
    """A Slurm cluster whose commands (sbatch, squeue, scancel, scontrol) work where the controller runs.

    The folder must be seen by the controller and all nodes. The nodes need this program in the same version, the store
    under the same address, and nothing else: each job starts its own Ray.
    """

    folder: str  # for scripts, output and the records of ended jobs
    machines: dict[str, SlurmMachine]
    account: str = ""
    qos: str = ""
    time_limit_min: int = 0  # of a job; 0: the partition's. A longer training goes on in the next job
    notice_s: int = (
        120  # before the time limit, and before a preemption where Slurm sends it: time to write a checkpoint
    )
    command: str = "illume"  # that starts this program on a node
    setup: str = ""  # a shell script that each node reads first, for instance to activate an environment
    container: str = ""  # an image for nodes with pyxis; it must hold this program
    options: tuple[str, ...] = ()  # more options of sbatch, for instance --exclusive
    environment: dict[str, str] = field(default_factory=dict)  # of the stage drivers; not for secrets, Slurm keeps it

    def __post_init__(self) -> None:
        if not self.folder.startswith("/"):
            raise ValueError(f"folder: found {self.folder!r}, expected a path from the root that all nodes see")
        if not self.machines:
            raise ValueError("machines: empty; name at least one kind of node, with its cpus")
        if self.time_limit_min < 0 or self.notice_s < 10:
            raise ValueError("expected time_limit_min of 0 or more, and at least 10 s of notice_s")
        if self.time_limit_min and self.notice_s >= 60 * self.time_limit_min:
            raise ValueError(f"notice_s: {self.notice_s} s are no less than the time limit of a job")
        for name, machine in self.machines.items():
            if machine.cpus < 1:
                raise ValueError(f"machines.{name}.cpus: found {machine.cpus:g}, expected the CPUs of a node")


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """The nodes of one job."""

    machine: SlurmMachine
    nodes: int
    cpus: int  # of each node
    gpus: int  # of each node
    memory_gib: int  # of each node; 0: unstated


def allocate(profile: SlurmProfile, size: JobSize) -> Allocation:
    """Whole workers on as few nodes as possible.

    Raises: PrecheckError: no machine type can hold one worker, or has that many nodes.
    """
    machines = profile.machines
    if size.machine and size.machine not in machines:
        raise PrecheckError(f"resources.machine: {size.machine!r}: {expectation(size.machine, sorted(machines))}")
    named = {size.machine: machines[size.machine]} if size.machine else machines
    fitting = [machine for machine in named.values() if workers_of_node(machine, size)]
    with_or_without = [machine for machine in fitting if bool(machine.gpus) == bool(size.gpus)] or fitting
    if not with_or_without:
        raise PrecheckError(
            f"resources: no machine type ({', '.join(named)}) holds a worker of {size.cpus:g} CPUs, {size.gpus:g} GPUs "
            f"and {size.memory_gib:g} GiB"
        )
    roomy = [machine for machine in with_or_without if nodes_for(machine, size) <= machine.nodes]
    if not roomy:
        most = max(machine.nodes * workers_of_node(machine, size) for machine in with_or_without)
        raise PrecheckError(
            f"resources.workers: {size.workers} do not fit the machine types ({', '.join(named)}), whose nodes hold "
            f"{most}; request fewer, or raise `nodes` of the machine type"
        )
    machine = roomy[0]
    nodes = nodes_for(machine, size)
    on_each = math.ceil(size.workers / nodes)
    return Allocation(
        machine=machine,
        nodes=nodes,
        cpus=min(int(machine.cpus), math.ceil(on_each * size.cpus + _DRIVER_CPUS)),
        gpus=math.ceil(on_each * size.gpus),
        memory_gib=math.ceil(on_each * size.memory_gib),
    )


def workers_of_node(machine: SlurmMachine, size: JobSize) -> int:
    """How many workers one node holds, its driver beside them."""
    counts = [(machine.cpus - _DRIVER_CPUS) / size.cpus if machine.cpus > 1 else machine.cpus / size.cpus]
    if size.cpus == 0:
        counts = []
    if size.gpus:
        counts.append(machine.gpus / size.gpus)
    if size.memory_gib and machine.memory_gib:
        counts.append(machine.memory_gib / size.memory_gib)
    return int(min(counts, default=size.workers))


def nodes_for(machine: SlurmMachine, size: JobSize) -> int:
    return math.ceil(size.workers / workers_of_node(machine, size))
