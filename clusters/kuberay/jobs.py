"""Stages as RayJobs of the KubeRay operator, through the official Kubernetes client.

An object is found again by its name, which follows from the job's id. The operator starts nothing a second time: when
Kueue takes the nodes of a job that had begun, the object is deleted once its head has ended, and the controller submits
the next attempt, which Kueue queues anew.
"""

import contextlib
import datetime as dt
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import yaml

from clusters.allocation import allocate
from clusters.kuberay import kueue
from clusters.kuberay.config import KubeRayProfile
from clusters.kuberay.manifest import (
    GROUP,
    JOB_ANNOTATION,
    PLURAL,
    RUN_LABEL,
    VERSION,
    label_value,
    object_name,
    ray_job,
)
from orchestrator.cluster.jobs import ENDED, JobInfo, JobSize, JobState
from orchestrator.errors import NodeLostError, PrecheckError
from orchestrator.installation.extras import require_extra

log = logging.getLogger(__name__)

TIMEOUT_S = 20.0
STARTED_ANNOTATION = "illume.dev/started"  # the name of its first RayCluster
_UNNAMED = "true"  # there: the operator had not said it
_LOG_LINES = 20_000
_UNREACHABLE_S = 60.0  # after the end of its grace period, a pod is on a node that nobody reaches
_JOB_STATES = {
    "SUCCEEDED": JobState.SUCCEEDED,
    "FAILED": JobState.FAILED,
    "STOPPED": JobState.STOPPED,
    "RUNNING": JobState.RUNNING,
}
_TAKEN_AWAY = frozenset({"Suspending", "Suspended", "Retrying"})
_TIME_IS_OVER = "DeadlineExceeded"

Clients = Callable[[], tuple[Any, Any]]  # the clients of custom objects and of pods


def connect(context: str) -> tuple[Any, Any]:
    """Clients of the cluster that `kubectl` or the pod's service account names.

    Raises: PrecheckError: neither is configured.
    """
    require_extra("kubernetes")
    from kubernetes import client, config

    try:
        config.load_kube_config(context=context or None)
    except config.ConfigException as outside:
        try:
            config.load_incluster_config()
        except config.ConfigException as error:
            raise PrecheckError(
                f"context: found no Kubernetes cluster: {outside}; set KUBECONFIG, or run in a pod that has a "
                "service account"
            ) from error
    return client.CustomObjectsApi(), client.CoreV1Api()


@dataclass(frozen=True, kw_only=True)
class KubeRayJobs:
    """The jobs of one namespace. Every call raises NodeLostError if the API does not answer, and can be repeated."""

    profile: KubeRayProfile
    size: JobSize = field(default_factory=JobSize)
    clients: Clients | None = field(default=None, repr=False, compare=False)

    def check(self) -> None:
        """Raises: PrecheckError: no rights, no operator, no such namespace or queue."""
        objects, _ = self._clients()
        with self._explained("list RayJobs"):
            objects.list_namespaced_custom_object(
                GROUP, VERSION, self.profile.namespace, PLURAL, limit=1, _request_timeout=TIMEOUT_S
            )
        if self.profile.queue:
            with self._explained(f"find Kueue's queue {self.profile.queue!r}"):
                kueue.in_served_version(
                    lambda version: objects.get_namespaced_custom_object(
                        kueue.GROUP,
                        version,
                        self.profile.namespace,
                        "localqueues",
                        self.profile.queue,
                        _request_timeout=TIMEOUT_S,
                    )
                )

    def sized(self, size: JobSize) -> Self:
        return replace(self, size=size)

    def manifest(self, job_id: str, arguments: str, metadata: Mapping[str, str]) -> dict[str, Any]:
        """What `submit` sends. Raises: PrecheckError: no machine type holds a worker."""
        allocation = allocate(self.profile.machines, self.size)
        return ray_job(self.profile, allocation, job_id=job_id, arguments=arguments, run_id=metadata.get("run", ""))

    def preview(self, job_id: str, arguments: str, metadata: Mapping[str, str]) -> str:
        return yaml.safe_dump(self.manifest(job_id, arguments, metadata), sort_keys=False)

    def submit(self, job_id: str, arguments: str, metadata: Mapping[str, str]) -> None:
        """The server judges the manifest before it is created. Raises: PrecheckError: it refuses it."""
        body = self.manifest(job_id, arguments, metadata)
        objects, _ = self._clients()
        for dry_run in ({"dry_run": "All"}, {}):
            with self._explained(f"create RayJob {object_name(job_id)}", exists_is_fine=True):
                _understood(
                    objects.create_namespaced_custom_object(
                        GROUP,
                        VERSION,
                        self.profile.namespace,
                        PLURAL,
                        body,
                        field_validation="Strict",
                        _request_timeout=TIMEOUT_S,
                        **dry_run,
                    )
                )

    def info(self, job_id: str) -> JobInfo | None:
        found = self._get(job_id)
        if found is None:  # an API server that is starting may say so, too
            if any(item["metadata"]["name"] == object_name(job_id) for item in self._listed()):
                raise NodeLostError(f"Kubernetes lists RayJob {object_name(job_id)}, but does not find it")
            return None
        info = _info(found)
        started = (found["metadata"].get("annotations") or {}).get(STARTED_ANNOTATION, "")
        cluster = str((found.get("status") or {}).get("rayClusterName") or "")
        if info.state is JobState.RUNNING and not started:
            self._mark_started(job_id, cluster)
        is_another = bool(cluster) and started not in ("", _UNNAMED, cluster)  # admitted again while nobody looked
        if started and (info.state is JobState.PENDING or (is_another and info.state not in ENDED)):
            return self._taken_away(job_id, found, started)
        if info.state is JobState.PENDING and (found.get("spec") or {}).get("suspend"):
            reason = kueue.why_it_waits(self._workload(found))
            return replace(info, message=f"Kueue: {reason}") if reason else info
        return info

    def _taken_away(self, job_id: str, found: Mapping[str, Any], cluster: str) -> JobInfo:
        """Of a job that had begun. It runs on until its head pod has ended, which has time to write a checkpoint."""
        is_suspending = (found.get("status") or {}).get("jobDeploymentStatus") == "Suspending"
        if is_suspending or self._has_head(cluster):
            return JobInfo(state=JobState.RUNNING, message="Kueue takes its nodes; its pods are ending")
        end = kueue.eviction(self._workload(found))
        try:
            self._delete(job_id)  # or it would be admitted again, for an attempt that is over
        except NodeLostError as error:  # asked again before the next attempt; the store fences this one
            log.warning("job %s: %s", job_id, error)
        return end

    def unfinished_jobs(self, run_id: str) -> list[str]:
        return [
            str(item["metadata"]["annotations"][JOB_ANNOTATION])
            for item in self._listed(label_selector=f"{RUN_LABEL}={label_value(run_id)}")
            if _info(item).state not in ENDED and JOB_ANNOTATION in item["metadata"].get("annotations", {})
        ]

    def stop(self, job_id: str) -> None:
        """Delete the RayJob: its pods get SIGTERM, and `stop_grace_s` later SIGKILL."""
        self._delete(job_id)

    def logs(self, job_id: str) -> str:
        """The output of the pod that submits the entrypoint, which is that of the stage driver."""
        _, pods = self._clients()
        namespace = self.profile.namespace
        with self._explained("read the pods of a RayJob"):
            found = pods.list_namespaced_pod(
                namespace, label_selector=f"job-name={object_name(job_id)}", _request_timeout=TIMEOUT_S
            )
            names = [pod.metadata.name for pod in found.items]
        with self._explained("read a pod's output", absent_is_fine=True):
            return "".join(
                pods.read_namespaced_pod_log(name, namespace, tail_lines=_LOG_LINES, _request_timeout=TIMEOUT_S)
                for name in names
            )
        return ""

    def _get(self, job_id: str) -> dict[str, Any] | None:
        objects, _ = self._clients()
        with self._explained(f"find RayJob {object_name(job_id)}", absent_is_fine=True):
            return _understood(
                objects.get_namespaced_custom_object(
                    GROUP, VERSION, self.profile.namespace, PLURAL, object_name(job_id), _request_timeout=TIMEOUT_S
                )
            )
        return None

    def _listed(self, **selector: str) -> list[dict[str, Any]]:
        objects, _ = self._clients()
        with self._explained("list RayJobs"):
            found = _understood(
                objects.list_namespaced_custom_object(
                    GROUP, VERSION, self.profile.namespace, PLURAL, _request_timeout=TIMEOUT_S, **selector
                )
            )
        return list(found.get("items") or [])

    def _workload(self, found: Mapping[str, Any]) -> Mapping[str, Any]:
        """Kueue's object of a RayJob; empty if there is none, or who asks may not read it."""
        from kubernetes.client import ApiException

        uid = str(found["metadata"].get("uid") or "")
        if not self.profile.queue or not uid:
            return {}
        objects, _ = self._clients()

        def listed(version: str) -> Any:
            return objects.list_namespaced_custom_object(
                kueue.GROUP,
                version,
                self.profile.namespace,
                "workloads",
                label_selector=f"{kueue.UID_LABEL}={uid}",
                _request_timeout=TIMEOUT_S,
            )

        with self._explained("list Kueue's Workloads"):
            try:
                items = _understood(kueue.in_served_version(listed)).get("items") or []
            except ApiException as error:
                if error.status not in (403, 404):
                    raise
                return {}
            return dict(items[0]) if items else {}

    def _has_head(self, cluster: str) -> bool:
        """Whether the pod of the stage driver is there; not one whose node should have ended it a while ago."""
        if cluster == _UNNAMED:
            return False
        _, pods = self._clients()
        selector = f"ray.io/cluster={cluster},ray.io/node-type=head"
        with self._explained("list the pods of a RayCluster"):
            found = pods.list_namespaced_pod(
                self.profile.namespace, label_selector=selector, _request_timeout=TIMEOUT_S
            )
            return any(_may_run(pod) for pod in found.items)

    def _mark_started(self, job_id: str, cluster: str) -> None:
        """So that a suspended object that waits for its first admission differs from one whose nodes were taken."""
        objects, _ = self._clients()
        body = {"metadata": {"annotations": {STARTED_ANNOTATION: cluster or _UNNAMED}}}
        with self._explained("annotate a RayJob", absent_is_fine=True):
            objects.patch_namespaced_custom_object(
                GROUP, VERSION, self.profile.namespace, PLURAL, object_name(job_id), body, _request_timeout=TIMEOUT_S
            )

    def _delete(self, job_id: str) -> None:
        objects, _ = self._clients()
        with self._explained("delete a RayJob", absent_is_fine=True):
            objects.delete_namespaced_custom_object(
                GROUP,
                VERSION,
                self.profile.namespace,
                PLURAL,
                object_name(job_id),
                propagation_policy="Foreground",
                _request_timeout=TIMEOUT_S,
            )

    def _clients(self) -> tuple[Any, Any]:
        return self.clients() if self.clients is not None else connect(self.profile.context)

    @contextlib.contextmanager
    def _explained(self, action: str, *, exists_is_fine: bool = False, absent_is_fine: bool = False) -> Iterator[None]:
        """The API's refusals as errors of ours. What is fine ends the block early."""
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        where = f"Kubernetes, namespace {self.profile.namespace}: cannot {action}"
        try:
            yield
        except ApiException as error:
            if (error.status == 409 and exists_is_fine) or (error.status == 404 and absent_is_fine):
                return
            said = _said(error)
            if error.status in (401, 403):
                raise PrecheckError(f"{where}: no rights: {said}; ask for the role in clusters/README.md") from error
            if error.status in (400, 404, 422):
                raise PrecheckError(f"{where}: {said}") from error
            raise NodeLostError(f"{where}: {error.status}: {said}") from error
        except (HTTPError, OSError) as error:
            raise NodeLostError(f"{where}: it does not answer ({type(error).__name__}: {error})") from error


def _may_run(pod: Any) -> bool:
    deadline = pod.metadata.deletion_timestamp  # with its grace period
    is_late = deadline is not None and (dt.datetime.now(dt.UTC) - deadline).total_seconds() > _UNREACHABLE_S
    return pod.status.phase in ("Pending", "Running", "Unknown") and not is_late


def _understood(answer: object) -> dict[str, Any]:
    """An object, not the page of a proxy. Raises: OSError."""
    if not isinstance(answer, dict):
        raise OSError(f"it answers {str(answer)[:200]!r}")
    return answer


def _info(found: Mapping[str, Any]) -> JobInfo:
    status: Mapping[str, Any] = found.get("status") or {}
    job, deployment = str(status.get("jobStatus") or ""), str(status.get("jobDeploymentStatus") or "")
    message = " ".join(filter(None, (str(status.get("reason") or ""), str(status.get("message") or ""))))
    if status.get("reason") == _TIME_IS_OVER:
        return JobInfo(state=JobState.PREEMPTED, message=f"its time is over: {message}")
    if deployment in ("Failed", "ValidationFailed") and job not in ("SUCCEEDED", "STOPPED"):
        return JobInfo(state=JobState.FAILED, message=message or deployment)
    if deployment in _TAKEN_AWAY or not deployment:
        waits = "Kueue" if (found.get("spec") or {}).get("suspend") else "the KubeRay operator"
        return JobInfo(state=JobState.PENDING, message=f"{waits}{f': {message}' if message else ''}")
    if job in _JOB_STATES:
        return JobInfo(state=_JOB_STATES[job], message=message)
    if deployment == "Complete":
        return JobInfo(state=JobState.SUCCEEDED, message=message)
    return JobInfo(state=JobState.PENDING, message=f"KubeRay: {deployment}{f': {message}' if message else ''}")


def _said(error: Any) -> str:
    """The sentence of an API error, without its headers."""
    try:
        return str(json.loads(error.body)["message"])[:1000]
    except (TypeError, ValueError, KeyError):
        return str(error.reason)
