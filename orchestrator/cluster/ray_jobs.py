"""A client of the Ray Jobs HTTP API. It does not import Ray, so a controller's machine needs no Ray.

Source: "Ray Jobs REST API" of the Ray documentation; `ray/dashboard/modules/job/job_head.py`.
"""

import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from orchestrator.cluster.jobs import ENDED, JobInfo, JobSize, JobState
from orchestrator.errors import NodeLostError, PrecheckError

TIMEOUT_S = 20.0


@dataclass(frozen=True, kw_only=True)
class RayJobs:
    """The jobs of one cluster. Every call raises NodeLostError if the cluster does not answer, and can be repeated."""

    address: str  # "http://HEAD:8265"
    token: str = field(default="", repr=False)
    command: str = "illume"  # the command that starts this program on the cluster
    environment: Mapping[str, str] = field(default_factory=dict)  # of the stage drivers, added to the cluster's own

    def check(self) -> None:
        """Raises: PrecheckError: the cluster does not accept the token."""
        self._call("GET", "/api/version")

    def sized(self, size: JobSize) -> Self:
        """Itself: Ray finds room for whatever a stage driver asks for."""
        return self

    def submit(self, job_id: str, arguments: str, metadata: Mapping[str, str]) -> None:
        """Start a job with the given id; does nothing if a job with this id exists, in any state.

        Raises: PrecheckError: the cluster refuses the job or the token.
        """
        body = self._body(job_id, arguments, metadata)
        try:
            answer: object = self._call("POST", "/api/jobs/", body)
        except PrecheckError:
            if self.info(job_id) is None:
                raise
        else:
            if not isinstance(answer, dict):  # None: a proxy without a head behind it says 404
                raise self._not_understood(answer)

    def preview(self, job_id: str, arguments: str, metadata: Mapping[str, str]) -> str:
        return json.dumps(self._body(job_id, arguments, metadata), indent=2)

    def _body(self, job_id: str, arguments: str, metadata: Mapping[str, str]) -> dict[str, Any]:
        return {
            "submission_id": job_id,
            "entrypoint": f"{self.command} {arguments}",
            "metadata": dict(metadata),
            "runtime_env": {"env_vars": dict(self.environment)} if self.environment else {},
        }

    def info(self, job_id: str) -> JobInfo | None:
        """A job's state; None if the cluster has no such job, neither by its id nor in its list."""
        found = self._call("GET", f"/api/jobs/{urllib.parse.quote(job_id)}")
        if found is None:  # a proxy or a head that is starting may say so, too
            if any(job.get("submission_id") == job_id for job in self._listed()):
                raise NodeLostError(f"Ray Jobs at {self.address}: lists job {job_id}, but does not find it")
            return None
        try:
            return JobInfo(state=JobState(found["status"]), message=str(found.get("message") or ""))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise self._not_understood(found) from error

    def unfinished_jobs(self, run_id: str) -> list[str]:
        """Ids of the jobs of a run (by their metadata) that have not ended."""
        return [
            str(job.get("submission_id"))
            for job in self._listed()
            if (job.get("metadata") or {}).get("run") == run_id and job.get("status") not in ENDED
        ]

    def _listed(self) -> list[dict[str, Any]]:
        found: Any = self._call("GET", "/api/jobs/")
        if not isinstance(found, list) or not all(isinstance(job, dict) for job in found):
            raise self._not_understood(found)
        return found

    def _not_understood(self, found: object) -> NodeLostError:
        return NodeLostError(f"Ray Jobs at {self.address}: answers {str(found)[:200]!r}; is it a Ray cluster's head?")

    def stop(self, job_id: str) -> None:
        """Ask a job to end: SIGTERM, and a few seconds later SIGKILL."""
        self._call("POST", f"/api/jobs/{urllib.parse.quote(job_id)}/stop")

    def logs(self, job_id: str) -> str:
        """The job's output so far; "" if the cluster has no such job."""
        found = self._call("GET", f"/api/jobs/{urllib.parse.quote(job_id)}/logs")
        return str(found.get("logs") or "") if isinstance(found, dict) else ""

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
        """The decoded response; None for 404."""
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
            response_text = _text_of(error)
            if error.code in (401, 403):
                raise PrecheckError(
                    f"Ray Jobs at {self.address}: refused the token ({error.code}); set the cluster's token in the "
                    "profile's token_file or in RAY_AUTH_TOKEN"
                ) from error
            if error.code == 400 or "already exists" in response_text:
                raise PrecheckError(f"Ray Jobs at {self.address}: {response_text}") from error
            raise NodeLostError(f"Ray Jobs at {self.address}: answers {error.code}: {response_text}") from error
        except (OSError, ValueError, http.client.HTTPException) as error:  # HTTPException: e.g. an answer that is cut
            raise NodeLostError(f"Ray Jobs at {self.address}: does not answer ({error})") from error


def _text_of(error: urllib.error.HTTPError) -> str:
    """The end of the body of an error's response, as far as it arrived."""
    try:
        return error.read().decode(errors="replace").strip()[-500:]
    except (OSError, http.client.HTTPException) as cut:
        return f"(cut: {cut})"
