"""The RayJob of one attempt. Source: KubeRay v1.7, ray.io/v1; Kueue v0.19.

Values that are None are left out. What the operator or Kueue would refuse is refused here first, in their words.
"""

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from clusters.allocation import NODES_VARIABLE, Allocation
from clusters.grace import with_grace
from clusters.kuberay.config import KubeMachine, KubeRayProfile
from orchestrator.artifact import JSON

API_VERSION, GROUP, VERSION, PLURAL = "ray.io/v1", "ray.io", "v1", "rayjobs"
MANAGED_BY = "illume"
RUN_LABEL, JOB_ANNOTATION = "illume.dev/run", "illume.dev/job"
_MAX_NAME = 47  # of a RayJob, because the operator adds to it
_STAGE_CHARACTERS, _DIGEST_CHARACTERS = 24, 12
_LEFT_FOR_TERM_S = 20  # of the grace period of a pod, for Ray's own end after the drain
_LABEL = re.compile(r"[^A-Za-z0-9._-]")


@dataclass(frozen=True, kw_only=True)
class Resources:
    requests: dict[str, str]
    limits: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Container:
    name: str
    image: str
    resources: Resources
    env: tuple[dict[str, JSON], ...] | None = None
    envFrom: tuple[dict[str, JSON], ...] | None = None
    ports: tuple[dict[str, JSON], ...] | None = None
    volumeMounts: tuple[dict[str, JSON], ...] = ()
    lifecycle: dict[str, JSON] | None = None
    securityContext: dict[str, JSON] | None = None


@dataclass(frozen=True, kw_only=True)
class PodSpec:
    containers: tuple[Container, ...]
    terminationGracePeriodSeconds: int
    volumes: tuple[dict[str, JSON], ...] = ()
    nodeSelector: dict[str, str] | None = None
    tolerations: tuple[dict[str, JSON], ...] | None = None
    priorityClassName: str | None = None
    serviceAccountName: str | None = None
    restartPolicy: str = "Never"


@dataclass(frozen=True, kw_only=True)
class PodTemplate:
    spec: PodSpec
    metadata: dict[str, JSON] | None = None


@dataclass(frozen=True, kw_only=True)
class HeadGroup:
    rayStartParams: dict[str, str]
    template: PodTemplate


@dataclass(frozen=True, kw_only=True)
class WorkerGroup:
    groupName: str
    replicas: int
    minReplicas: int
    maxReplicas: int
    rayStartParams: dict[str, str]
    template: PodTemplate


@dataclass(frozen=True, kw_only=True)
class RayClusterSpec:
    rayVersion: str
    authOptions: dict[str, JSON]
    headGroupSpec: HeadGroup
    workerGroupSpecs: tuple[WorkerGroup, ...]
    gcsFaultToleranceOptions: dict[str, JSON] | None = None
    enableInTreeAutoscaling: bool = False


@dataclass(frozen=True, kw_only=True)
class RayJobSpec:
    entrypoint: str
    rayClusterSpec: RayClusterSpec
    suspend: bool | None = None  # Kueue changes it when it admits the job
    ttlSecondsAfterFinished: int | None = None
    activeDeadlineSeconds: int | None = None
    preRunningDeadlineSeconds: int | None = None
    submissionMode: str = "K8sJobMode"
    shutdownAfterJobFinishes: bool = True
    backoffLimit: int = 0
    submitterConfig: dict[str, int] | None = None


def ray_job(
    profile: KubeRayProfile, allocation: Allocation[KubeMachine], *, job_id: str, arguments: str, run_id: str
) -> dict[str, Any]:
    """The manifest, as it is sent."""
    labels: dict[str, JSON] = {"app.kubernetes.io/managed-by": MANAGED_BY, RUN_LABEL: label_value(run_id)}
    if profile.queue:
        labels["kueue.x-k8s.io/queue-name"] = profile.queue
    if profile.priority_class:
        labels["kueue.x-k8s.io/priority-class"] = profile.priority_class
    spec = RayJobSpec(
        entrypoint=f"{profile.command} {arguments}",
        rayClusterSpec=_cluster(profile, allocation),
        suspend=True if profile.queue else None,
        ttlSecondsAfterFinished=profile.keep_s,
        activeDeadlineSeconds=60 * profile.time_limit_min or None,
        preRunningDeadlineSeconds=60 * profile.start_limit_min or None,
        submitterConfig={"backoffLimit": 0},
    )
    return {
        "apiVersion": API_VERSION,
        "kind": "RayJob",
        "metadata": {
            "name": object_name(job_id),
            "namespace": profile.namespace,
            "labels": labels,
            "annotations": {JOB_ANNOTATION: job_id},
        },
        "spec": to_manifest(spec),
    }


def object_name(job_id: str) -> str:
    """A DNS-1035 name of at most 47 characters that always means this job: its end is readable, a digest decides."""
    words = re.sub(r"[^a-z0-9]+", "-", job_id.removeprefix("illume-").lower())
    readable = words[-_STAGE_CHARACTERS:].strip("-")
    name = f"illume-{readable}-{hashlib.sha256(job_id.encode()).hexdigest()[:_DIGEST_CHARACTERS]}"
    assert len(name) <= _MAX_NAME
    return name


def label_value(text: str) -> str:
    """As a label takes it: at most 63 characters of a small alphabet."""
    return _LABEL.sub("-", text)[:63].strip("-._")


def to_manifest(value: Any) -> Any:
    """Dataclasses as mappings without what is None; tuples as lists."""
    if is_dataclass(value):
        pairs = ((field.name, getattr(value, field.name)) for field in fields(value))
        return {name: to_manifest(found) for name, found in pairs if found is not None}
    if isinstance(value, Mapping):
        return {name: to_manifest(found) for name, found in value.items()}
    if isinstance(value, tuple | list):
        return [to_manifest(found) for found in value]
    return value


def _cluster(profile: KubeRayProfile, allocation: Allocation[KubeMachine]) -> RayClusterSpec:
    head = _pod(
        profile,
        name="ray-head",
        resources=_resources(profile.head_cpus, profile.head_memory_gib, {}),
        environment={NODES_VARIABLE: str(1 + allocation.nodes)},
        ports=tuple(
            {"containerPort": port, "name": name}
            for name, port in (("gcs-server", 6379), ("dashboard", 8265), ("client", 10001))
        ),
    )
    machine = allocation.machine
    devices = {**machine.devices, **({machine.gpu_resource: allocation.gpus} if allocation.gpus else {})}
    memory = allocation.memory_gib or machine.memory_gib or profile.head_memory_gib
    resources = _resources(allocation.cpus, memory, devices)
    worker = _pod(profile, name="ray-worker", resources=resources, environment={}, machine=machine)
    topology: dict[str, JSON] = {"kueue.x-k8s.io/podset-preferred-topology": machine.topology}
    return RayClusterSpec(
        rayVersion=profile.ray_version,
        authOptions={"mode": "token"},
        gcsFaultToleranceOptions=_redis(profile),
        # No work on the head, but for the stage driver, which needs no CPU of Ray's.
        headGroupSpec=HeadGroup(
            rayStartParams={"num-cpus": "0", "dashboard-host": "0.0.0.0"},
            template=PodTemplate(spec=head),
        ),
        workerGroupSpecs=(
            WorkerGroup(
                groupName=label_value(allocation.name).lower() if allocation.name.lower() != "head" else "workers",
                replicas=allocation.nodes,
                minReplicas=allocation.nodes,
                maxReplicas=allocation.nodes,
                rayStartParams={},
                template=PodTemplate(
                    spec=worker, metadata={"annotations": topology} if machine.topology and profile.queue else None
                ),
            ),
        ),
    )


def _pod(
    profile: KubeRayProfile,
    *,
    name: str,
    resources: Resources,
    environment: Mapping[str, str],
    machine: KubeMachine | None = None,
    ports: tuple[dict[str, JSON], ...] | None = None,
) -> PodSpec:
    memory: dict[str, JSON] = {"medium": "Memory", "sizeLimit": quantity_gib(profile.shared_memory_gib)}
    volumes: list[dict[str, JSON]] = [{"name": "shared-memory", "emptyDir": memory}]
    mounts: list[dict[str, JSON]] = [{"name": "shared-memory", "mountPath": "/dev/shm"}]
    for number, claim in enumerate(profile.claims):
        volumes.append({"name": f"claim-{number}", "persistentVolumeClaim": {"claimName": claim.claim}})
        mounts.append({"name": f"claim-{number}", "mountPath": claim.path})
    left_s = profile.stop_grace_s - _drain_s(profile)  # of the pod's time, when SIGTERM comes after the drain
    variables = {**with_grace(profile.environment, left_s), **environment}
    container = Container(
        name=name,
        image=profile.image,
        resources=resources,
        env=tuple({"name": key, "value": value} for key, value in variables.items()),
        envFrom=tuple({"secretRef": {"name": secret}} for secret in profile.secrets) or None,
        ports=ports,
        volumeMounts=tuple(mounts),
        lifecycle=_lifecycle(profile, spot=machine is not None and machine.spot),
        securityContext={"allowPrivilegeEscalation": False},
    )
    return PodSpec(
        containers=(container,),
        terminationGracePeriodSeconds=profile.stop_grace_s,
        volumes=tuple(volumes),
        nodeSelector=(machine.node_selector or None) if machine else None,
        tolerations=_tolerations(machine) if machine else None,
        priorityClassName=profile.pod_priority_class or None,
        serviceAccountName=profile.service_account or None,
    )


def _lifecycle(profile: KubeRayProfile, *, spot: bool) -> dict[str, JSON]:
    """A pod that goes is drained before it gets SIGTERM; on a spot machine, as soon as the cloud says that it goes.

    Both run in Ray's own container, which alone has the address and the token of its cluster.
    """
    drain = f"{profile.command} drain-node --within-s {_drain_s(profile)} --wait --message 'the pod is deleted'"
    hooks: dict[str, JSON] = {"preStop": {"exec": {"command": ["sh", "-c", drain]}}}
    if spot:
        watch = f"while ! {profile.command} drain-node --watch auto; do sleep 60; done"
        hooks["postStart"] = {"exec": {"command": ["sh", "-c", f"({watch}) > /proc/1/fd/1 2>&1 &"]}}
    return hooks


def _drain_s(profile: KubeRayProfile) -> int:
    """Of the grace period, which Kubernetes counts from before the hook."""
    return max(profile.stop_grace_s // 2, profile.stop_grace_s - _LEFT_FOR_TERM_S)


def _tolerations(machine: KubeMachine) -> tuple[dict[str, JSON], ...] | None:
    found: list[dict[str, JSON]] = []
    for toleration in machine.tolerations:
        given = {"key": toleration.key, "operator": toleration.operator}
        given |= {"value": toleration.value} if toleration.operator == "Equal" else {}
        given |= {"effect": toleration.effect} if toleration.effect else {}
        found.append(dict(given))
    return tuple(found) or None


def _resources(cpus: float, memory_gib: float, devices: Mapping[str, int]) -> Resources:
    """CPUs are requested and not limited, because a limit slows down without need; memory and devices are both."""
    limits = {"memory": quantity_gib(memory_gib), **{name: str(count) for name, count in devices.items()}}
    return Resources(requests={"cpu": f"{cpus:g}", **limits}, limits=limits)


def _redis(profile: KubeRayProfile) -> dict[str, JSON] | None:
    if not profile.redis:
        return None
    options: dict[str, JSON] = {"redisAddress": profile.redis}
    if profile.redis_secret:
        secret: dict[str, JSON] = {"name": profile.redis_secret, "key": "password"}
        options["redisPassword"] = {"valueFrom": {"secretKeyRef": secret}}
    return options


def quantity_gib(gib: float) -> str:
    return f"{gib:g}Gi" if gib == int(gib) else f"{math.ceil(gib * 1024)}Mi"
