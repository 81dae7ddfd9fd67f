"""What the runs on a profile's cluster share, as the queue sees it."""

from collections.abc import Mapping

from clusters.kuberay.config import KubeRayProfile
from clusters.planner.machines import MachineType
from clusters.profiles import LocalProfile, Profile, RayJobsProfile
from clusters.slurm.config import SlurmProfile
from orchestrator.cluster.capacity import NodeCapacity, SharedCluster, all_together
from orchestrator.queue.records import THIS_MACHINE, PoolRecord


def pool_of(profile: Profile | None) -> PoolRecord | None:
    """The pool of a profile; None: its cluster has a queue of its own, or its nodes come on demand."""
    if profile is None or isinstance(profile, LocalProfile):
        return PoolRecord(name=THIS_MACHINE)
    if isinstance(profile, KubeRayProfile | SlurmProfile) or profile.autoscales:
        return None
    if isinstance(profile, RayJobsProfile):
        shared = shared_jobs(profile)
        if shared is None:
            return None
        total = shared.total
        return PoolRecord(name=shared.name, cpus=total.cpus, gpus=total.gpus, memory_gib=total.memory_gib)
    return PoolRecord(name=f"ray {profile.address}")  # the first run that joins it finds out how large it is


def shared_jobs(profile: RayJobsProfile) -> SharedCluster | None:
    """A cluster of Ray jobs whose profile says what its nodes are; None: it does not, or nodes come on demand."""
    if (
        profile.autoscales
        or not profile.machines
        or not all(_is_known(machine) for machine in profile.machines.values())
    ):
        return None
    return SharedCluster(name=f"ray jobs {profile.address}", total=_total(profile.machines))


def _is_known(machine: MachineType) -> bool:
    return machine.cpus > 0 and machine.memory_gib > 0


def _total(machines: Mapping[str, MachineType]) -> NodeCapacity:
    nodes = [
        NodeCapacity(cpus=machine.cpus, gpus=machine.gpus, memory_gib=machine.memory_gib)
        for machine in machines.values()
        for _ in range(machine.nodes)
    ]
    return all_together(nodes)
