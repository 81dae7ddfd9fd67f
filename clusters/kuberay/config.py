"""The profile of a Kubernetes cluster with the KubeRay operator."""

import re
from dataclasses import dataclass, field
from typing import Literal

from clusters.allocation import check_cpus
from clusters.planner.machines import MachineType

_DNS_LABEL = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")


@dataclass(frozen=True, kw_only=True)
class Toleration:
    """A taint that pods of a machine type may be placed on."""

    key: str
    operator: Literal["Exists", "Equal"] = "Exists"
    value: str = ""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""


@dataclass(frozen=True, kw_only=True)
class KubeMachine(MachineType):
    """Nodes of one kind, and how Kubernetes finds them."""

    node_selector: dict[str, str] = field(default_factory=dict)  # labels that a node must have
    tolerations: tuple[Toleration, ...] = ()
    topology: str = ""  # a label of nodes; Kueue places the pods of a job close to one another by it, if it can
    devices: dict[str, int] = field(default_factory=dict)  # other resources of one node, for instance rdma/ib: 8
    gpu_resource: str = "nvidia.com/gpu"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A PersistentVolumeClaim that all pods mount."""

    claim: str
    path: str


@dataclass(frozen=True, kw_only=True)
class KubeRayProfile:
    """A namespace of a Kubernetes cluster, reached as `kubectl` reaches it, or from a pod by its service account.

    The image holds this program in the same version. Secrets are named here and never contained.
    """

    namespace: str
    image: str
    machines: dict[str, KubeMachine]
    context: str = ""  # of the kubeconfig; "": the current one
    queue: str = ""  # Kueue's LocalQueue; "": jobs start at once
    priority_class: str = ""  # Kueue's WorkloadPriorityClass
    pod_priority_class: str = ""
    service_account: str = ""
    head_cpus: float = 4.0
    head_memory_gib: float = 16.0
    ray_version: str = "2.60.0"  # of the image
    command: str = "illume"
    environment: dict[str, str] = field(default_factory=dict)  # of all pods; not for secrets, Kubernetes shows it
    secrets: tuple[str, ...] = ()  # names of Secrets whose keys become variables of all pods, e.g. of the store
    claims: tuple[Claim, ...] = ()
    shared_memory_gib: float = 16.0  # of /dev/shm in each pod
    time_limit_min: int = 0  # of a job, its time in the queue not counted; 0: none
    start_limit_min: int = 0  # from its admission until it runs, e.g. while images are pulled; 0: none
    stop_grace_s: int = 120  # that a pod has after SIGTERM, to write a checkpoint
    keep_s: int = 600  # that an ended job stays to be looked at; its pods go at once
    redis: str = (
        ""  # host:port, so that a lost head pod does not end the job; "": it does, and the next attempt goes on
    )
    redis_secret: str = ""  # name of a Secret with the key `password`

    def __post_init__(self) -> None:
        for name in ("namespace", "queue", "service_account"):
            value = getattr(self, name)  # three fields share one rule
            if value and not _DNS_LABEL.fullmatch(value):
                raise ValueError(f"{name}: found {value!r}, expected lower-case letters, digits and '-'")
        if not self.namespace or not self.image:
            raise ValueError("expected a namespace and an image")
        check_cpus(self.machines)
        if min(self.time_limit_min, self.start_limit_min, self.keep_s) < 0 or self.stop_grace_s < 1:
            raise ValueError("limits cannot be negative, and a pod needs at least one second of stop_grace_s")
        if self.redis_secret and not self.redis:
            raise ValueError("redis_secret without redis: name the server, host:port")
        if self.priority_class and not self.queue:
            raise ValueError("priority_class is Kueue's and needs a queue; pod_priority_class works without")
