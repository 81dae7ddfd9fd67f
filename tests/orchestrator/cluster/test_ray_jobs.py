"""The Jobs API as the client sees it, played by a small HTTP server."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, ClassVar

import pytest

from orchestrator.cluster.ray_jobs import JobInfo, JobState, RayJobs
from orchestrator.errors import NodeLostError, PrecheckError


class Api(BaseHTTPRequestHandler):
    """Answers as `answers` says by method and path, 404 otherwise; keeps what it was asked."""

    answers: ClassVar[dict[str, tuple[int, Any]]] = {}
    asked: ClassVar[list[tuple[str, Any, str | None]]] = []

    def do_GET(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def _answer(self, method: str) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        what = f"{method} {self.path}"
        self.asked.append((what, json.loads(body) if body else None, self.headers.get("Authorization")))
        code, answer = self.answers.get(what, (404, "no such job"))
        self.send_response(code)
        self.end_headers()
        self.wfile.write(answer.encode() if isinstance(answer, str) else json.dumps(answer).encode())

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture
def jobs() -> Iterator[RayJobs]:
    Api.answers, Api.asked = {}, []
    server = HTTPServer(("127.0.0.1", 0), Api)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield RayJobs(
        address=f"http://127.0.0.1:{server.server_port}/", token="secret", command="illume", environment={"A": "b"}
    )
    server.shutdown()
    server.server_close()


def test_a_job_is_submitted_with_our_id_the_token_and_the_environment(jobs: RayJobs) -> None:
    Api.answers["POST /api/jobs/"] = (200, {"submission_id": "one"})
    jobs.submit("one", "stage-driver r1", {"run": "r1"})
    expected = {
        "submission_id": "one",
        "entrypoint": "illume stage-driver r1",
        "metadata": {"run": "r1"},
        "runtime_env": {"env_vars": {"A": "b"}},
    }
    assert Api.asked == [("POST /api/jobs/", expected, "Bearer secret")]


def test_a_job_that_is_there_already_is_not_submitted_again(jobs: RayJobs) -> None:
    Api.answers["POST /api/jobs/"] = (500, "Job with submission_id one already exists. Please use another one.")
    with pytest.raises(PrecheckError, match="already exists"):
        jobs.submit("one", "stage-driver", {})
    Api.answers["GET /api/jobs/one"] = (200, {"status": "FAILED", "message": "it was killed"})
    jobs.submit("one", "stage-driver", {})


def test_states_logs_and_stops(jobs: RayJobs) -> None:
    assert jobs.info("one") is None
    assert jobs.logs("one") == ""
    jobs.stop("one")
    Api.answers |= {
        "GET /api/jobs/one": (200, {"status": "RUNNING", "message": None}),
        "GET /api/jobs/one/logs": (200, {"logs": "words\n"}),
        "POST /api/jobs/one/stop": (200, {"stopped": True}),
    }
    assert jobs.info("one") == JobInfo(state=JobState.RUNNING, message="")
    assert jobs.logs("one") == "words\n"
    jobs.stop("one")
    assert Api.asked[-1][0] == "POST /api/jobs/one/stop"


def test_the_jobs_of_a_run_that_have_not_ended(jobs: RayJobs) -> None:
    assert jobs.at_work("r1") == []
    rows = [("one", "RUNNING", "r1"), ("two", "FAILED", "r1"), ("three", "PENDING", "r1"), ("four", "RUNNING", "r2")]
    listed: list[Any] = [
        {"submission_id": name, "status": status, "metadata": {"run": run}} for name, status, run in rows
    ]
    strange = [{"submission_id": "five", "status": "RUNNING", "metadata": None}]
    strange.append({"submission_id": None, "status": "RUNNING", "metadata": {}})  # a driver that is no job
    Api.answers["GET /api/jobs/"] = (200, [*listed, *strange])
    assert jobs.at_work("r1") == ["one", "three"]


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        ((401, "Unauthorized"), PrecheckError, r"refused us \(401\); give the cluster's token"),
        ((400, "entrypoint: missing"), PrecheckError, "entrypoint: missing"),
        ((500, "the head is upset"), NodeLostError, "answers 500: the head is upset"),
        ((200, "<html>a proxy's page</html>"), NodeLostError, "does not answer"),
    ],
)
def test_what_the_cluster_answers_is_told_with_its_address(
    jobs: RayJobs, answer: tuple[int, str], error: type[Exception], message: str
) -> None:
    Api.answers["GET /api/version"] = answer
    with pytest.raises(error, match=message) as failure:
        jobs.check()
    assert jobs.address in str(failure.value)
    assert "secret" not in str(failure.value)
