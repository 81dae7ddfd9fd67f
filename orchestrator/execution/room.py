"""Refuses stages that can never get their CPUs, GPUs or memory, and those that a cluster does not take as jobs."""

from collections.abc import Sequence

from orchestrator.cluster.capacity import WorkerResources
from orchestrator.cluster.jobs import JobLauncher, JobSize
from orchestrator.cluster.ray_cluster import Cluster
from orchestrator.errors import PrecheckError
from orchestrator.planning.plan import PlannedStage
from orchestrator.stage import Resources


def check_room(stages: Sequence[PlannedStage], cluster: Cluster) -> None:
    """Check that the workers of each stage can run together on the cluster, if it gets all of it.

    Raises:
        PrecheckError: those of a stage cannot, however long it waits.
        NodeLostError: the cluster does not answer.
    """
    if not stages:
        return
    if cluster.jobs is not None:
        check_jobs(stages, cluster.jobs)
    capacity = cluster.capacity(with_gpus=any(stage.spec.resources.gpus for stage in stages))
    if capacity is None:  # each job asks
        return
    for stage in stages:
        resources = stage.spec.resources
        worker = WorkerResources(cpus=resources.cpus, gpus=resources.gpus, memory_gib=resources.memory_gib)
        shortage = capacity.shortage(worker, resources.min_workers or resources.workers)
        if shortage:
            raise PrecheckError(
                f"stages.{stage.id}.resources.{shortage}; ask for less, or use a larger cluster (if nodes are added on "
                "demand: `autoscales: true` in its profile)"
            )


def check_jobs(stages: Sequence[PlannedStage], jobs: JobLauncher) -> None:
    """Check that the cluster has machines for each stage, before the first one runs.

    Raises: PrecheckError: it has none for one of them.
    """
    for stage in stages:
        try:
            jobs.sized(job_size(stage.spec.resources)).preview(f"illume-check-{stage.id}", "", {})
        except PrecheckError as error:
            raise PrecheckError(f"stages.{stage.id}.{error}") from error


def job_size(resources: Resources) -> JobSize:
    """What a launcher needs to know of a stage."""
    return JobSize(
        workers=resources.workers,
        min_workers=resources.min_workers,
        cpus=resources.cpus,
        gpus=resources.gpus,
        memory_gib=resources.memory_gib,
        machine=resources.machine,
    )
