"""The Jobs API of a Ray cluster over HTTP. Ray itself is not imported: a controller needs no Ray on its machine.

Source: "Ray Jobs REST API" of the Ray documentation; `ray/dashboard/modules/job/job_head.py`.
"""

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from orchestrator.errors import NodeLostError, PrecheckError

TIMEOUT_S = 20.0


class JobState(StrEnum):
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    STOPPED = "STOPPED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"


ENDED = frozenset({JobState.STOPPED, JobState.SUCCEEDED, JobState.FAILED})


@dataclass(frozen=True, kw_only=True)
class JobInfo:
    state: JobState
    message: str


@dataclass(frozen=True, kw_only=True)
class RayJobs:
    """Jobs of one cluster. Every call raises NodeLostError if the cluster does not answer, and may be repeated."""

    address: str  # "http://HEAD:8265"
    token: str = field(default="", repr=False)
    command: str = "illume"  # how the program is called on the cluster
    environment: Mapping[str, str] = field(default_factory=dict)  # of the stage drivers, beyond what the cluster has

    def check(self) -> None:
        """Raises: PrecheckError: the cluster does not take our token."""
        self._call("GET", "/api/version")

    def submit(self, job_id: str, arguments: str, metadata: Mapping[str, str]) -> None:
        """Start a job under an id of our choice; nothing happens if it exists already, whatever became of it.

        Raises: PrecheckError: the cluster refuses the job, or us.
        """
        body = {
            "submission_id": job_id,
            "entrypoint": f"{self.command} {arguments}",
            "metadata": dict(metadata),
            "runtime_env": {"env_vars": dict(self.environment)} if self.environment else {},
        }
        try:
            self._call("POST", "/api/jobs/", body)
        except PrecheckError:
            if self.info(job_id) is None:
                raise

    def info(self, job_id: str) -> JobInfo | None:
        """None: the cluster knows no such job."""
        found = self._call("GET", f"/api/jobs/{urllib.parse.quote(job_id)}")
        if found is None:
            return None
        return JobInfo(state=JobState(found["status"]), message=str(found.get("message") or ""))

    def at_work(self, run_id: str) -> list[str]:
        """Ids of the jobs that were submitted for a run, by their metadata, and have not ended."""
        found: Any = self._call("GET", "/api/jobs/") or []
        return [
            job["submission_id"]
            for job in found
            if (job.get("metadata") or {}).get("run") == run_id and job["status"] not in ENDED
        ]

    def stop(self, job_id: str) -> None:
        """Ask a job to end: SIGTERM, and a few seconds later SIGKILL."""
        self._call("POST", f"/api/jobs/{urllib.parse.quote(job_id)}/stop")

    def logs(self, job_id: str) -> str:
        """All that the job has printed; "" if the cluster knows no such job."""
        found = self._call("GET", f"/api/jobs/{urllib.parse.quote(job_id)}/logs")
        return str(found["logs"]) if found is not None else ""

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
        """The answer; None for 404."""
        headers = {"Content-Type": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address.rstrip("/") + path, data=data, headers=headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
                found: dict[str, Any] = json.loads(response.read() or b"{}")
                return found
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            said = error.read().decode(errors="replace").strip()[-500:]
            if error.code in (401, 403):
                raise PrecheckError(
                    f"Ray Jobs at {self.address}: refused us ({error.code}); give the cluster's token in the profile's "
                    "token_file or in RAY_AUTH_TOKEN"
                ) from error
            if error.code == 400 or "already exists" in said:
                raise PrecheckError(f"Ray Jobs at {self.address}: {said}") from error
            raise NodeLostError(f"Ray Jobs at {self.address}: answers {error.code}: {said}") from error
        except (OSError, ValueError) as error:
            raise NodeLostError(f"Ray Jobs at {self.address}: does not answer ({error})") from error
