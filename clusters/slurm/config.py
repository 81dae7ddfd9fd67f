"""The profile of a Slurm cluster."""

from dataclasses import dataclass, field
from typing import Literal

from clusters.allocation import check_cpus
from clusters.grace import check_grace
from clusters.planner.machines import MachineType
from orchestrator.documents.suggestions import expectation


@dataclass(frozen=True, kw_only=True)
class SlurmMachine(MachineType):
    """Nodes of one kind, and where Slurm has them."""

    partition: str = ""  # "": the default partition
    constraint: str = ""  # features that a node must have
    gres: str = "gpu"  # the name of an accelerator in Slurm's GRES, with a type if it has one: gpu:h100
    # A stage that states `min_workers` begins with the nodes of these; each of the others is a task of a job array and
    # joins when Slurm has it. One that is lost or taken away costs what ran there, and is queued again.
    array: bool = False


@dataclass(frozen=True, kw_only=True)
class SlurmProfile:
    """A Slurm cluster whose commands (sbatch, squeue, scancel, scontrol) work where the controller runs.

    The folder must be seen by the controller and all nodes. The nodes need this program in the same version, the store
    under the same address, and nothing else: each job starts its own Ray.
    """

    folder: str  # for scripts, output and the records of ended jobs
    machines: dict[str, SlurmMachine]
    # The machine type of one more node, for the stage driver and the head of Ray, beside those of the workers (a
    # heterogeneous job): for instance a small one that nobody takes away. "": the first node of the workers.
    head: str = ""
    account: str = ""
    qos: str = ""
    time_limit_min: int = 0  # of a job; 0: the partition's. A longer training goes on in the next job
    notice_s: int = (
        120  # before the time limit, and before a preemption where Slurm sends it: time to write a checkpoint
    )
    # Between SIGTERM and the kill, if somebody ends a job by hand: `KillWait` of the cluster; null: 30, its default.
    stop_grace_s: float | None = None
    command: str = "illume"  # that starts this program on a node
    setup: str = ""  # a shell script that each node reads first, for instance to activate an environment
    container: str = ""  # an image that holds this program: what --container-image of pyxis, or apptainer, takes
    container_runtime: Literal["pyxis", "apptainer"] = "pyxis"
    container_mounts: tuple[str, ...] = ()  # paths seen in the container, beside `folder` and the temporary one
    options: tuple[str, ...] = ()  # more options of sbatch, for instance --exclusive
    environment: dict[str, str] = field(default_factory=dict)  # of the stage drivers; not for secrets, Slurm keeps it

    def __post_init__(self) -> None:
        if not self.folder.startswith("/"):
            raise ValueError(f"folder: found {self.folder!r}, expected a path from the root that all nodes see")
        check_cpus(self.machines)
        check_grace(self.stop_grace_s)
        if self.head and (self.head not in self.machines or self.machines[self.head].spot):
            stays = sorted(name for name, machine in self.machines.items() if not machine.spot)
            raise ValueError(
                f"head: found {self.head!r}, {expectation(self.head, stays)} (not spot: the job ends with it)"
            )
        if not all(mount.startswith("/") and not set(mount) & set(",:") for mount in self.container_mounts):
            raise ValueError("container_mounts: expected paths from the root, without a comma or a colon")
        if self.time_limit_min < 0 or self.notice_s < 10:
            raise ValueError("expected time_limit_min of 0 or more, and at least 10 s of notice_s")
        if self.time_limit_min and self.notice_s >= 60 * self.time_limit_min:
            raise ValueError(f"notice_s: {self.notice_s} s are no less than the time limit of a job")
