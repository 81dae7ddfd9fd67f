"""What Kueue says of a RayJob: the conditions of its Workload, and its queue. Source: Kueue v0.19.

A Workload is found by the UID of its RayJob. Who may not read Workloads gets no reasons, and all else works.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.cluster.jobs import JobInfo, JobState

GROUP = "kueue.x-k8s.io"
VERSIONS = ("v1beta2", "v1beta1")  # newest first; a cluster serves one of them or both
UID_LABEL = "kueue.x-k8s.io/job-uid"
_BY_A_PERSON = frozenset({"Deactivated", "InactiveWorkload"})  # `active: false`; of Kueue's own, a cause follows
_BY_KUEUE = "DeactivatedDueTo"
_TIME_IS_OVER = "DeactivatedDueToMaximumExecutionTimeExceeded"


def in_served_version(call: Callable[[str], Any]) -> Any:
    """The answer in the newest version of Kueue's API that the cluster serves.

    Raises: ApiException: 404 if it serves none, or if there is no such object.
    """
    from kubernetes.client import ApiException

    *newer, oldest = VERSIONS
    for version in newer:
        try:
            return call(version)
        except ApiException as error:
            if error.status != 404 or _names_an_object(error):
                raise
    return call(oldest)


def _names_an_object(error: Any) -> bool:
    """Whether a 404 is about an object; one about a version of the API says "404 page not found"."""
    try:
        return bool(json.loads(error.body)["details"]["name"])
    except (TypeError, ValueError, KeyError):
        return False


def why_it_waits(workload: Mapping[str, Any]) -> str:
    """A sentence of Kueue's; "" if it says nothing."""
    if (workload.get("spec") or {}).get("active") is False:
        return "its Workload is deactivated; `kubectl` sets spec.active again"
    quota = _condition(workload, "QuotaReserved")
    if quota.get("status") == "True":
        checks = (workload.get("status") or {}).get("admissionChecks") or ()
        waiting = [check for check in checks if check.get("state") != "Ready"]
        return "; ".join(": ".join(filter(None, (check.get("name"), check.get("message")))) for check in waiting)
    return str(quota.get("message") or "")


def eviction(workload: Mapping[str, Any]) -> JobInfo:
    """How a job ended that Kueue has suspended; without a Workload, as one whose nodes were wanted."""
    evicted = _condition(workload, "Evicted")
    reason, message = str(evicted.get("reason") or ""), str(evicted.get("message") or "")
    said = f": {message}" if message else ""
    if reason in _BY_A_PERSON:
        return JobInfo(state=JobState.STOPPED, message=f"its Workload was deactivated{said}", by_person=True)
    if reason == _TIME_IS_OVER:
        return JobInfo(state=JobState.PREEMPTED, message=f"its time is over{said}")
    if reason.startswith(_BY_KUEUE):
        return JobInfo(state=JobState.FAILED, message=f"Kueue gives it no nodes any more{said}")
    return JobInfo(state=JobState.PREEMPTED, message=f"Kueue took its nodes for other work{said}")


def _condition(workload: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    conditions = (workload.get("status") or {}).get("conditions") or ()
    return next((condition for condition in conditions if condition.get("type") == kind), {})
