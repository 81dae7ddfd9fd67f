"""The client of the Ray Jobs API against a small HTTP server."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, ClassVar

import pytest

from orchestrator.cluster.jobs import JobInfo, JobState
from orchestrator.cluster.ray_jobs import RayJobs
from orchestrator.errors import NodeLostError, PrecheckError


class FakeJobsApi(BaseHTTPRequestHandler):
    """Answers from `answers` by method and path, 404 otherwise; records the requests."""

    answers: ClassVar[dict[str, tuple[int, Any]]] = {}
    requests: ClassVar[list[tuple[str, Any, str | None]]] = []

    def do_GET(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def _answer(self, method: str) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        route = f"{method} {self.path}"
        self.requests.append((route, json.loads(body) if body else None, self.headers.get("Authorization")))
        code, answer = self.answers.get(route, (404, "no such job"))
        self.send_response(code)
        self.end_headers()
        self.wfile.write(answer.encode() if isinstance(answer, str) else json.dumps(answer).encode())

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture
def jobs() -> Iterator[RayJobs]:
    FakeJobsApi.answers, FakeJobsApi.requests = {}, []
    server = HTTPServer(("127.0.0.1", 0), FakeJobsApi)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield RayJobs(
        address=f"http://127.0.0.1:{server.server_port}/", token="secret", command="illume", environment={"A": "b"}
    )
    server.shutdown()
    server.server_close()


def test_a_job_is_submitted_with_our_id_the_token_and_the_environment(jobs: RayJobs) -> None:
    FakeJobsApi.answers["POST /api/jobs/"] = (200, {"submission_id": "one"})
    jobs.submit("one", "stage-driver r1", {"run": "r1"})
    expected = {
        "submission_id": "one",
        "entrypoint": "illume stage-driver r1",
        "metadata": {"run": "r1"},
        "runtime_env": {"env_vars": {"A": "b"}},
    }
    assert FakeJobsApi.requests == [("POST /api/jobs/", expected, "Bearer secret")]


def test_a_job_that_exists_is_not_submitted_again(jobs: RayJobs) -> None:
    FakeJobsApi.answers["POST /api/jobs/"] = (500, "Job with submission_id one already exists. Please use another one.")
    FakeJobsApi.answers["GET /api/jobs/"] = (200, [])
    with pytest.raises(PrecheckError, match="already exists"):
        jobs.submit("one", "stage-driver", {})
    FakeJobsApi.answers["GET /api/jobs/one"] = (200, {"status": "FAILED", "message": "it was killed"})
    jobs.submit("one", "stage-driver", {})


def test_a_proxy_that_knows_no_such_page_has_accepted_no_job(jobs: RayJobs) -> None:
    with pytest.raises(NodeLostError, match="is it a Ray cluster's head"):
        jobs.submit("one", "stage-driver", {})


def test_states_logs_and_stops(jobs: RayJobs) -> None:
    FakeJobsApi.answers["GET /api/jobs/"] = (200, [])
    assert jobs.info("one") is None
    assert jobs.logs("one") == ""
    jobs.stop("one")
    FakeJobsApi.answers |= {
        "GET /api/jobs/one": (200, {"status": "RUNNING", "message": None}),
        "GET /api/jobs/one/logs": (200, {"logs": "words\n"}),
        "POST /api/jobs/one/stop": (200, {"stopped": True}),
    }
    assert jobs.info("one") == JobInfo(state=JobState.RUNNING, message="")
    assert jobs.logs("one") == "words\n"
    jobs.stop("one")
    assert FakeJobsApi.requests[-1][0] == "POST /api/jobs/one/stop"


def test_unfinished_jobs_are_those_of_the_run_that_have_not_ended(jobs: RayJobs) -> None:
    FakeJobsApi.answers["GET /api/jobs/"] = (200, [])
    assert jobs.unfinished_jobs("r1") == []
    rows = [("one", "RUNNING", "r1"), ("two", "FAILED", "r1"), ("three", "PENDING", "r1"), ("four", "RUNNING", "r2")]
    listed: list[Any] = [
        {"submission_id": name, "status": status, "metadata": {"run": run}} for name, status, run in rows
    ]
    odd = [{"submission_id": "five", "status": "RUNNING", "metadata": None}]
    odd.append({"submission_id": None, "status": "RUNNING", "metadata": {}})  # a driver that is not a job
    FakeJobsApi.answers["GET /api/jobs/"] = (200, [*listed, *odd])
    assert jobs.unfinished_jobs("r1") == ["one", "three"]


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        ((401, "Unauthorized"), PrecheckError, r"refused the token \(401\); set the cluster's token"),
        ((400, "entrypoint: missing"), PrecheckError, "entrypoint: missing"),
        ((500, "internal error"), NodeLostError, "answers 500: internal error"),
        ((200, "<html>a proxy's page</html>"), NodeLostError, "does not answer"),
    ],
)
def test_errors_of_the_cluster_name_its_address(
    jobs: RayJobs, answer: tuple[int, str], error: type[Exception], message: str
) -> None:
    FakeJobsApi.answers["GET /api/version"] = answer
    with pytest.raises(error, match=message) as failure:
        jobs.check()
    assert jobs.address in str(failure.value)
    assert "secret" not in str(failure.value)


def test_an_answer_that_is_cut_means_that_the_cluster_does_not_answer(
    jobs: RayJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(handler: FakeJobsApi) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b'{"logs": "step 1')

    monkeypatch.setattr(FakeJobsApi, "do_GET", cut)
    for ask in (jobs.logs, jobs.info, jobs.unfinished_jobs):
        with pytest.raises(NodeLostError, match="does not answer"):
            ask("one")


@pytest.mark.parametrize("answer", [[], {"status": "ODD"}, {}, "words"])
def test_an_answer_that_is_not_understood_is_no_state_of_a_job(jobs: RayJobs, answer: Any) -> None:
    FakeJobsApi.answers["GET /api/jobs/one"] = (200, json.dumps(answer))
    with pytest.raises(NodeLostError, match="is it a Ray cluster's head"):
        jobs.info("one")


def test_a_job_that_is_listed_is_not_lost(jobs: RayJobs) -> None:
    FakeJobsApi.answers["GET /api/jobs/"] = (200, [{"submission_id": "one", "status": "RUNNING", "metadata": {}}])
    with pytest.raises(NodeLostError, match="lists job one, but does not find it"):
        jobs.info("one")
    assert jobs.info("two") is None
