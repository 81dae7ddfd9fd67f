"""Profiles, the YAML files that say where runs execute: on this machine with limits, or on an existing Ray cluster.

In a joined cluster (`ray`) the stages end with the process that controls the run; as jobs (`ray_jobs`) they outlive it.

    kind: local                   kind: ray
    cpus: 8                       address: ray-head:6379
    memory_gib: 24                token_file: /run/secrets/ray-token

    kind: ray_jobs
    address: http://ray-head:8265
    token_file: /run/secrets/ray-token
    machines:
      train: {gpu: H100, gpus: 8, nodes: 8, cpus: 96, memory_gib: 900}

    kind: slurm
    folder: /shared/illume
    machines:
      train: {partition: gpu, gpu: H100, gpus: 8, nodes: 8, cpus: 96, gres: "gpu:h100"}
    time_limit_min: 1440

`machines` says what the nodes are; `illume estimate` plans with it, and `illume run` refuses what cannot fit them.
A profile is execution only: it never changes the output. It names files with secrets and contains none.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from clusters.grace import check_grace
from clusters.kuberay.config import KubeRayProfile
from clusters.planner.machines import MachineType
from clusters.slurm.config import SlurmProfile
from orchestrator.cluster.ray_cluster import LOCAL_OBJECT_STORE_MIB
from orchestrator.documents.typed_json import ValuePath, decode, path_text
from orchestrator.errors import RecipeError
from orchestrator.recipe.yaml_subset import parse_yaml, read_text

MIN_OBJECT_STORE_MIB = 75  # with less, Ray does not start


@dataclass(frozen=True, kw_only=True)
class LocalProfile:
    """A local Ray cluster on this machine, for as long as the command runs."""

    cpus: float = 0.0  # 0: all that this process may use
    gpus: float | None = None  # null: those that Ray finds
    memory_gib: float = 0.0  # that all stages may request together; 0: Ray decides
    object_store_mib: int = LOCAL_OBJECT_STORE_MIB
    # Start training workers as plain processes, in 3 s instead of the 15 s of Ray Train. null: those that use no GPU.
    plain_training_workers: bool | None = None
    stop_grace_s: float | None = None  # see `check_grace`

    def __post_init__(self) -> None:
        check_grace(self.stop_grace_s)
        if min(self.cpus, self.gpus or 0.0, self.memory_gib) < 0:
            raise ValueError("cpus, gpus and memory_gib cannot be negative")
        if self.object_store_mib < MIN_OBJECT_STORE_MIB:
            raise ValueError(
                f"object_store_mib: found {self.object_store_mib}, expected {MIN_OBJECT_STORE_MIB} or more"
            )


@dataclass(frozen=True, kw_only=True)
class RayProfile:
    """An existing Ray cluster, reached through the port of its GCS."""

    address: str  # "host:6379"
    token_file: str = ""  # "": the variable RAY_AUTH_TOKEN; without both, the cluster has no authentication
    machines: dict[str, MachineType] = field(default_factory=dict)  # what its nodes are, by a name of yours
    stop_grace_s: float | None = None  # see `check_grace`
    # Nodes are added on demand, so no stage is refused for its size. null: so if it has no GPU, and GPUs are asked for.
    autoscales: bool | None = None

    def __post_init__(self) -> None:
        check_grace(self.stop_grace_s)
        host, colon, port = self.address.rpartition(":")
        if not (host and colon and port.isdecimal()) or "/" in self.address:
            raise ValueError(f"address: found {self.address!r}, expected 'host:port', e.g. 'ray-head:6379'")


@dataclass(frozen=True, kw_only=True)
class RayJobsProfile:
    """A Ray cluster on which every stage is a job of its own, reached through its dashboard.

    The controller may be killed: stages continue, and the next controller follows them. The cluster needs this program
    in the same version and the store under the same address.
    """

    address: str  # "http://host:8265"
    token_file: str = ""  # as for `RayProfile`
    command: str = "illume"  # that starts this program on the cluster
    environment: dict[str, str] = field(default_factory=dict)  # of the stage drivers; not for secrets, Ray shows it
    machines: dict[str, MachineType] = field(default_factory=dict)  # what its nodes are, by a name of yours
    stop_grace_s: float | None = None  # of the stage drivers, see `check_grace`
    autoscales: bool | None = None  # as for `RayProfile`

    def __post_init__(self) -> None:
        check_grace(self.stop_grace_s)
        scheme, _, host = self.address.partition("://")
        if scheme not in ("http", "https") or not host:
            raise ValueError(f"address: found {self.address!r}, expected 'http://host:port', e.g. 'http://head:8265'")


Profile = LocalProfile | RayProfile | RayJobsProfile | KubeRayProfile | SlurmProfile
_KINDS: dict[str, type[Profile]] = {
    "local": LocalProfile,
    "ray": RayProfile,
    "ray_jobs": RayJobsProfile,
    "kuberay": KubeRayProfile,
    "slurm": SlurmProfile,
}


def machines_of(profile: Profile) -> Mapping[str, MachineType]:
    """The machine types that a profile names; none for this machine."""
    return {} if isinstance(profile, LocalProfile) else profile.machines


def profile_at(location: str) -> Profile:
    """The profile in a file, or for an address the jobs on that cluster. Raises: RecipeError, see `load_profile`."""
    if "://" not in location:
        return load_profile(Path(location))
    try:
        return RayJobsProfile(address=location)
    except ValueError as error:
        raise RecipeError(f"--cluster: {error}") from error


def load_profile(file: Path) -> Profile:
    """The profile in a YAML file. Raises: RecipeError: the file cannot be read, or a key or value is wrong."""
    document = parse_yaml(read_text(file, "profile"), str(file))
    data, problems = document.data, list(document.problems)
    kind = data.pop("kind", None) if isinstance(data, dict) else None
    if not isinstance(kind, str) or kind not in _KINDS:
        raise RecipeError(f"{file}: kind: found {kind!r}, expected one of: {', '.join(_KINDS)}")
    profile = decode(_KINDS[kind], data, (), problems)
    if problems or profile is None:
        lines = [f"  {_where(problem.path)}{problem.text}" for problem in problems]
        raise RecipeError("\n".join([f"{file}: cannot be used as a profile:", *lines]))
    return profile


def _where(path: ValuePath) -> str:
    return f"{path_text(path)}: " if path else ""
