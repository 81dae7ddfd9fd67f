import re

import pytest
from starlette.testclient import TestClient

from orchestrator.web.downloads import range_of
from tests.orchestrator.web.conftest import MadeUp

HOSTILE = "<script>alert(1)</script> \"'><img src=x onerror=alert(2)> {{ 7*7 }} \x1b[31m \u202e"


def write_log(made_up: MadeUp, name: str, data: bytes) -> None:
    folder = made_up.workspace.root / "store" / "runs" / "r1" / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


def test_a_page_holds_no_control_characters(client: TestClient, run: MadeUp) -> None:
    write_log(run, "raw-1-1.log", b"\x1b[1;31mred\x1b[0m \x1b]0;a title\x07 nul\x00 bell\x07 12%\r50%\n")
    run.fail("r1", "raw", "\x1b[31mno memory\x1b[0m left", number=2)
    page = client.get("/runs/r1/logs/raw-1-1.log").text
    assert "<span>red  nul bell 12%50%</span>" in page
    for address in ("/runs/r1/logs/raw-1-1.log", "/runs/r1", "/runs/r1/stages/raw", "/runs"):
        assert not re.search(r"[\x00-\x08\x0b-\x1f]", client.get(address).text), address
    assert "no memory left" in client.get("/runs/r1/stages/raw").text


@pytest.fixture
def run(made_up: MadeUp) -> MadeUp:
    made_up.start("r1")
    made_up.attempt("r1", "raw")
    return made_up


def test_a_log_that_does_not_exist_yet_says_so(client: TestClient, run: MadeUp) -> None:
    answer = client.get("/runs/r1/logs/raw-1-1.log")
    assert answer.status_code == 404
    assert "or not yet" in answer.text
    assert "No log yet" in client.get("/runs/r1/stages/raw").text
    for name in ("..%2F..%2FSTORE.json", "%2Fetc%2Fpasswd", "raw-1-1.log%00"):
        assert client.get(f"/runs/r1/logs/{name}").status_code in (404, 400), name


def test_the_end_of_a_long_log_is_shown_and_the_rest_is_a_link_away(client: TestClient, run: MadeUp) -> None:
    write_log(run, "raw-1-1.log", b"".join(b"line %07d\n" % number for number in range(50_000)))
    found = client.get("/api/v1/runs/r1/logs/raw-1-1.log").json()
    assert found["lines"][-1]["text"] == "line 0049999"
    assert 4000 < len(found["lines"]) < 6000, "a part"
    earlier = client.get(f"/api/v1{found['earlier']}").json()
    assert earlier["end"] <= found["start"] + 13
    assert earlier["lines"][-1]["start"] + 13 >= found["start"], "no line between them is left out"
    found = client.get("/api/v1/runs/r1/logs/raw-1-1.log?at=130").json()
    assert found["lines"][0]["start"] == 0
    assert found["lines"][10]["text"] == "line 0000010"
    page = client.get("/runs/r1/logs/raw-1-1.log?at=130").text
    assert re.search(r'class="line is-current" id="L130"', page)
    assert client.get("/runs/r1/logs/raw-1-1.log?at=-7").status_code == 400


def test_a_search_shows_lines_with_links_to_them(client: TestClient, run: MadeUp) -> None:
    write_log(run, "raw-1-1.log", b"one\ntwo\nthree two\n")
    found = client.get("/api/v1/runs/r1/logs/raw-1-1.log?q=TWO").json()
    assert [(line["start"], line["text"]) for line in found["lines"]] == [(4, "two"), (8, "three two")]
    assert found["lines"][1]["link"] == "/runs/r1/logs/raw-1-1.log?at=8#L8"
    assert "No line holds this text" in client.get("/runs/r1/logs/raw-1-1.log?q=four").text


def test_workers_logs_stand_beside_that_of_their_attempt(client: TestClient, run: MadeUp) -> None:
    for name in ("raw-1-1.log", "raw-1-1.worker-71.log", "raw-1-12.log", "curated-1-1.log"):
        write_log(run, name, b"x\n")
    logs = client.get("/api/v1/runs/r1/stages/raw").json()["logs"]
    assert [(file["name"], file["is_worker"]) for file in logs] == [
        ("raw-1-1.log", False),
        ("raw-1-1.worker-71.log", True),
    ]


def test_what_a_log_holds_is_text_and_nothing_else(client: TestClient, run: MadeUp) -> None:
    write_log(run, "raw-1-1.log", HOSTILE.encode() + b"\n\xff\xfe\n")
    page = client.get("/runs/r1/logs/raw-1-1.log").text
    assert "<script>alert" not in page
    assert "<img" not in page
    assert "{{ 7*7 }}" in page
    raw = client.get("/runs/r1/logs/raw-1-1.log/raw")
    assert raw.headers["content-disposition"].startswith("attachment")
    assert raw.headers["content-type"].startswith("text/plain")
    assert raw.headers["x-content-type-options"] == "nosniff"


def test_a_log_is_sent_in_the_parts_that_are_asked_for(client: TestClient, run: MadeUp) -> None:
    write_log(run, "raw-1-1.log", b"0123456789")
    path = "/runs/r1/logs/raw-1-1.log/raw"
    assert client.get(path).content == b"0123456789"
    part = client.get(path, headers={"Range": "bytes=2-4"})
    assert (part.status_code, part.content, part.headers["content-range"]) == (206, b"234", "bytes 2-4/10")
    beyond = client.get(path, headers={"Range": "bytes=20-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, "bytes */10")
    assert "expected bytes within the 10" in beyond.text
    for ignored in ("items=0-1", "bytes=5-2", "bytes=0-1,4-5", "bytes=-", "bytes=a-b"):
        whole = client.get(path, headers={"Range": ignored})
        assert (whole.status_code, whole.content) == (200, b"0123456789")


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=5-", (5, 10)),
        ("bytes=-3", (7, 10)),
        ("bytes=-30", (0, 10)),
        ("bytes=8-99", (8, 10)),
        ("bytes=0-99999999999999999999", (0, 10)),
        ("bytes=-0", None),
        ("bytes=10-", None),
    ],
)
def test_ranges(header: str, found: tuple[int, int] | None) -> None:
    assert range_of(header, 10) == found
