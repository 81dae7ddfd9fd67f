"""Notices of spot machines, asked of a local server that answers as the metadata services of the clouds do."""

import datetime as dt
import email.utils
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from clusters import spot_notices
from clusters.spot_notices import (
    AwsNotices,
    AzureNotices,
    GcpNotices,
    MetadataError,
    NoticeSource,
    notice_source,
    wait_for_notice,
)
from orchestrator.errors import PrecheckError

Answer = Callable[[str, str, dict[str, str]], tuple[int, str]]


@contextmanager
def service(answer: Answer) -> Iterator[str]:
    """The address of a server that answers (method, path, headers) with (status, body)."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, body = answer(self.command, self.path, headers)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body.encode())))
            self.end_headers()
            self.wfile.write(body.encode())

        do_PUT = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def soon(seconds: float = 110.0) -> dt.datetime:
    return dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds)


def aws(action: str | None, *, tokens: list[str]) -> Answer:
    def answer(method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
        if path == "/latest/api/token" and method == "PUT" and "x-aws-ec2-metadata-token-ttl-seconds" in headers:
            return 200, tokens[0]
        if headers.get("x-aws-ec2-metadata-token") != tokens[0]:
            return 401, ""
        return (404, "") if action is None else (200, action)

    return answer


def gcp(text: str) -> Answer:
    return lambda method, path, headers: (
        (200, text)
        if path == "/computeMetadata/v1/instance/preempted" and headers.get("metadata-flavor") == "Google"
        else (403, "")
    )


def azure(events: list[dict[str, Any]], name: str = "worker_3") -> Answer:
    def answer(method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
        if headers.get("metadata") != "true":
            return 400, ""
        if path.startswith("/metadata/scheduledevents?"):
            return 200, json.dumps({"DocumentIncarnation": 2, "Events": events})
        return 200, name

    return answer


def preempt(*resources: str, **fields: str) -> dict[str, Any]:
    return {"EventId": "e1", "EventType": "Preempt", "EventStatus": "Scheduled", "Resources": list(resources), **fields}


def test_aws_says_when_the_machine_goes() -> None:
    action = json.dumps({"action": "terminate", "time": soon().strftime("%Y-%m-%dT%H:%M:%SZ")})
    with service(aws(action, tokens=["t1"])) as address:
        notice = AwsNotices(address=address).ask()
    assert notice is not None
    assert "terminate" in notice.text
    assert 100 < notice.within_s <= 110


def test_aws_asks_for_another_token_when_the_old_one_has_expired() -> None:
    tokens = ["t1"]
    with service(aws(None, tokens=tokens)) as address:
        source = AwsNotices(address=address)
        assert source.ask() is None
        tokens[0] = "t2"
        with pytest.raises(MetadataError, match="401"):
            source.ask()
        assert source.ask() is None


@pytest.mark.parametrize(("text", "within_s"), [("FALSE", None), ("TRUE", 30.0), ("TRUE\n", 30.0)])
def test_google_says_that_the_machine_goes(text: str, within_s: float | None) -> None:
    with service(gcp(text)) as address:
        notice = GcpNotices(address=address).ask()
    assert (notice.within_s if notice else None) == within_s


@pytest.mark.parametrize(
    ("names", "status", "in_s", "shortest", "longest"),
    [
        (["worker_3"], "Scheduled", 110.0, 100, 110),
        (["worker_1", "worker_3"], "Scheduled", None, 30, 30),
        (["worker_3"], "Started", None, 0, 0),
    ],
)
def test_azure_says_when_the_machine_goes(
    names: list[str], status: str, in_s: float | None, shortest: float, longest: float
) -> None:
    moment = "" if in_s is None else email.utils.format_datetime(soon(in_s), usegmt=True)
    with service(azure([preempt(*names, NotBefore=moment, EventStatus=status)])) as address:
        notice = AzureNotices(address=address).ask()
    assert notice is not None
    assert shortest <= notice.within_s <= longest


@pytest.mark.parametrize(
    "events", [[], [preempt("worker_4")], [{**preempt("worker_3"), "EventType": "Reboot"}], ["no event"]]
)
def test_events_of_other_machines_and_of_other_kinds_are_no_notice(events: list[Any]) -> None:
    with service(azure(events)) as address:
        assert AzureNotices(address=address).ask() is None


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        (AwsNotices, aws("not json", tokens=["t"])),
        (AwsNotices, aws('{"action": "stop"}', tokens=["t"])),
        (AwsNotices, aws('{"action": "stop", "time": "2026-01-01T00:00:00"}', tokens=["t"])),
        (GcpNotices, gcp("<html>a captive portal</html>")),
        (AzureNotices, lambda *_: (200, "[]")),
        (AzureNotices, lambda *_: (200, '{"Events": "none"}')),
        (AzureNotices, lambda *_: (500, "")),
    ],
)
def test_an_answer_that_no_cloud_gives_is_an_error_and_no_notice(kind: Callable[..., Any], answer: Answer) -> None:
    with service(answer) as address, pytest.raises(MetadataError):
        kind(address=address).ask()


@pytest.mark.parametrize(
    ("answer", "cloud"), [(aws(None, tokens=["t"]), "aws"), (gcp("FALSE"), "gcp"), (azure([]), "azure")]
)
def test_the_cloud_is_the_one_whose_service_answers(answer: Answer, cloud: str) -> None:
    with service(answer) as address:
        assert notice_source("auto", address).cloud == cloud


def test_a_machine_of_no_cloud_is_told_so() -> None:
    with pytest.raises(PrecheckError, match=r"no metadata service.*name the cloud"):
        notice_source("auto", "http://127.0.0.1:9")
    with pytest.raises(PrecheckError, match="found 'ibm', expected auto, aws, gcp, azure"):
        notice_source("ibm")


def test_a_service_that_is_away_for_a_while_is_reported_once_and_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    class Source:
        cloud: spot_notices.Cloud = "gcp"
        answers: Iterator[str] = iter(["down", "down", "", "down", "gone"])

        def ask(self) -> spot_notices.Notice | None:
            answer = next(self.answers)
            if answer == "down":
                raise MetadataError("it does not answer")
            return spot_notices.Notice(text=answer, within_s=30.0) if answer else None

    source: NoticeSource = Source()
    monkeypatch.setattr(spot_notices.time, "sleep", lambda _seconds: None)
    reports: list[str] = []
    assert wait_for_notice(source, interval_s=1.0, report_failure=reports.append).text == "gone"
    assert reports == ["it does not answer", "it does not answer"]
