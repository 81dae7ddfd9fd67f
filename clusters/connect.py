"""Makes the cluster that stages run on from a profile. Nothing is started or contacted before a stage needs it."""

import os
from collections.abc import Mapping
from pathlib import Path

from clusters.allocation import AUTOSCALES_VARIABLE, NODES_VARIABLE
from clusters.grace import with_grace
from clusters.kuberay.config import KubeRayProfile
from clusters.kuberay.jobs import KubeRayJobs
from clusters.profiles import LocalProfile, Profile, RayJobsProfile, RayProfile
from clusters.shared import shared_jobs
from clusters.slurm.config import SlurmProfile
from clusters.slurm.jobs import SlurmJobs
from orchestrator.cluster.ray_cluster import Cluster, LocalRay, RayAddress
from orchestrator.cluster.ray_jobs import RayJobs
from orchestrator.errors import RecipeError

TOKEN_VARIABLE = "RAY_AUTH_TOKEN"
TOKEN_PATH_VARIABLE = "RAY_AUTH_TOKEN_PATH"


def connect(profile: Profile, environment: Mapping[str, str] = os.environ) -> Cluster:
    """The cluster of a profile. Raises: RecipeError: the token file of the profile cannot be read."""
    if isinstance(profile, LocalProfile):
        return Cluster(
            LocalRay(
                cpus=profile.cpus,
                gpus=profile.gpus,
                memory_gib=profile.memory_gib,
                object_store_mib=profile.object_store_mib,
                plain_training_workers=profile.plain_training_workers,
            ),
            stop_grace_s=profile.stop_grace_s,
        )
    if isinstance(profile, SlurmProfile):
        return Cluster(SlurmJobs(profile=profile))
    if isinstance(profile, KubeRayProfile):
        return Cluster(KubeRayJobs(profile=profile))
    token = _find_token(profile, environment)
    if isinstance(profile, RayJobsProfile):
        of_drivers = with_grace(profile.environment, profile.stop_grace_s)
        if profile.autoscales is not None:
            of_drivers.setdefault(AUTOSCALES_VARIABLE, "1" if profile.autoscales else "0")
        jobs = RayJobs(address=profile.address, token=token, command=profile.command, environment=of_drivers)
        return Cluster(jobs, stop_grace_s=profile.stop_grace_s, shared=shared_jobs(profile))
    address = RayAddress(address=profile.address, token=token)
    return Cluster(address, stop_grace_s=profile.stop_grace_s, autoscales=profile.autoscales)


def cluster_of_this_job(environment: Mapping[str, str] = os.environ) -> Cluster:
    """The Ray cluster in which this process runs as a job. Raises: RecipeError: it is not a job."""
    address = environment.get("RAY_ADDRESS")
    if not address:
        raise RecipeError("RAY_ADDRESS is not set; `illume stage-driver` runs as a job of a Ray cluster only")
    token = environment.get(TOKEN_VARIABLE, "")
    if not token and environment.get("RAY_AUTH_MODE") != "disabled":
        files = [Path(environment.get(TOKEN_PATH_VARIABLE, "")), Path.home() / ".ray" / "auth_token"]
        token = next((_read_token(file) for file in files if file.is_file()), "")
    autoscales = {"1": True, "0": False}.get(environment.get(AUTOSCALES_VARIABLE, ""))
    nodes = environment.get(NODES_VARIABLE, "")
    return Cluster(
        RayAddress(address=address, token=token), autoscales=autoscales, nodes=int(nodes) if nodes.isdigit() else 0
    )


def _find_token(profile: RayProfile | RayJobsProfile, environment: Mapping[str, str]) -> str:
    return _read_token(Path(profile.token_file)) if profile.token_file else environment.get(TOKEN_VARIABLE, "")


def _read_token(file: Path) -> str:
    try:
        token = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"token_file: cannot read {file}: {error}; expected the token of the Ray cluster") from error
    if not token:
        raise RecipeError(f"token_file: {file} is empty; expected the token of the Ray cluster")
    return token
