import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from orchestrator.errors import RecipeError
from orchestrator.web.settings import Settings
from orchestrator.web.sign_in.identify import check_settings
from tests.orchestrator.web.conftest import ClientOf, MadeUp

PUBLIC = "https://illume.example.org"


def token_file(tmp_path: Path, **users: str) -> Path:
    """A file with these users and roles; the token of each is `<name>-token`."""
    path = tmp_path / "tokens"
    lines = [f"{name} {role} {hashlib.sha256(f'{name}-token'.encode()).hexdigest()}" for name, role in users.items()]
    path.write_text("# who may sign in\n" + "\n".join(lines) + "\nproxied operator -\n")
    path.chmod(0o600)
    return path


def bearer(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {name}-token"}


@pytest.fixture
def guarded(client_of: ClientOf, tmp_path: Path) -> TestClient:
    file = token_file(tmp_path, alice="operator", bob="viewer", carol="admin")
    return client_of(host="0.0.0.0", token_file=file, public_url=PUBLIC, base_url=PUBLIC, address="10.0.0.9")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"host": "0.0.0.0"}, "people have to sign in"),
        ({"host": "10.1.2.3"}, "--trusted-proxy ADDRESS"),
        ({"host": "0.0.0.0", "trusted_proxy": "10.0.0.1"}, "--public-url"),
        ({"trusted_proxy": "a proxy"}, "expected an address"),
        ({"public_url": "illume.example.org"}, "expected https://HOST"),
        ({"token_file": Path("/nowhere/tokens")}, "cannot be read"),
    ],
)
def test_settings_that_let_strangers_in_are_refused(
    settings: Settings, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        check_settings(Settings(**{**vars(settings), **changes}))  # type: ignore[arg-type]


def test_loopback_needs_no_sign_in_and_other_settings_are_fine(settings: Settings, tmp_path: Path) -> None:
    check_settings(settings)
    file = token_file(tmp_path, alice="viewer")
    check_settings(Settings(**{**vars(settings), "host": "::", "token_file": file, "public_url": PUBLIC}))


def test_without_a_token_a_page_leads_to_signing_in_and_the_api_refuses(guarded: TestClient) -> None:
    answer = guarded.get("/runs?q=a")
    assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in?next=%2Fruns%3Fq%3Da")
    assert guarded.get("/api/v1/runs").status_code == 401
    assert guarded.get("/metrics").status_code == 401
    assert guarded.get("/healthz").status_code == 200
    assert guarded.get("/api/v1/runs", headers=bearer("alice")).status_code == 200
    assert guarded.get("/api/v1/runs", headers=bearer("mallory")).status_code == 401


def stop_clock(client: Any, limit: str) -> None:
    """So that a slow machine grants no more than a fast one."""
    getattr(client.app.state, limit).clock = lambda: 0.0


def sign_in(client: TestClient, token: str, target: str = "/runs") -> int:
    client.get("/sign-in")
    form = {"form_token": client.cookies["illume_form"], "token": token, "next": target}
    return client.post("/sign-in", data=form).status_code


def test_a_token_signs_in_with_a_cookie_that_scripts_and_other_sites_do_not_get(guarded: TestClient) -> None:
    assert sign_in(guarded, "alice-token") == 303
    cookies = guarded.get("/runs").request.headers["cookie"]
    assert "illume_token=alice-token" in cookies
    answer = guarded.post(
        "/sign-in", data={"form_token": guarded.cookies["illume_form"], "token": "alice-token", "next": "//evil.org"}
    )
    assert answer.headers["location"] == "/"
    (cookie,) = [value for value in answer.headers.get_list("set-cookie") if value.startswith("illume_token")]
    assert {"HttpOnly", "SameSite=Strict", "Secure"} <= {part.strip() for part in cookie.split(";")}
    assert "alice" in guarded.get("/runs").text
    assert "alice-token" not in guarded.get("/runs").text
    guarded.post("/sign-out", data={"form_token": guarded.cookies["illume_form"]})
    assert guarded.get("/runs").status_code == 303


def test_a_token_that_is_taken_out_of_the_file_opens_nothing_any_more(guarded: TestClient, tmp_path: Path) -> None:
    assert guarded.get("/api/v1/runs", headers=bearer("bob")).status_code == 200
    token_file(tmp_path, alice="operator")
    assert guarded.get("/api/v1/runs", headers=bearer("bob")).status_code == 401


def test_wrong_tokens_are_tried_slowly(guarded: TestClient) -> None:
    stop_clock(guarded, "sign_in_limit")
    found = [sign_in(guarded, f"guess-{number}") for number in range(12)]
    assert found[:10] == [403] * 10
    assert 429 in found


def test_a_viewer_looks_and_an_operator_acts(guarded: TestClient, made_up: MadeUp) -> None:
    made_up.start("r1")
    refused = guarded.post("/api/v1/runs/r1/cancel", json={}, headers=bearer("bob"))
    assert refused.status_code == 403
    assert refused.json()["message"] == "role: bob is viewer, this needs operator"
    done = guarded.post("/api/v1/runs/r1/cancel", json={"reason": "wrong data"}, headers=bearer("alice"))
    assert done.status_code == 200, done.text
    run = guarded.get("/api/v1/runs/r1", headers=bearer("bob")).json()
    assert (run["cancel_requested"], run["cancel_requested_by"]) == (True, "alice")
    assert guarded.get("/denied", headers=bearer("alice")).status_code == 403
    denied = guarded.get("/api/v1/denied", headers=bearer("carol")).json()["denied"]
    assert [(row["user"], row["address"], row["request"]) for row in denied] == [
        ("alice", "10.0.0.9", "GET /denied"),
        ("bob", "10.0.0.9", "POST /api/v1/runs/r1/cancel"),
    ]


def test_only_the_proxy_says_who_somebody_is(client_of: ClientOf, tmp_path: Path) -> None:
    settings = {"host": "10.0.0.2", "trusted_proxy": "10.0.0.1", "token_file": token_file(tmp_path)}
    base = {"public_url": PUBLIC, "base_url": PUBLIC}
    proxy = client_of(address="10.0.0.1", **settings, **base)
    stranger = client_of(address="10.0.0.3", **settings, **base)
    header = {"X-Forwarded-User": "proxied"}
    assert proxy.get("/api/v1/runs", headers=header).status_code == 200
    assert proxy.get("/api/v1/runs").status_code == 401
    assert stranger.get("/api/v1/runs", headers=header).status_code == 401
    unknown = proxy.post("/api/v1/runs/r1/cancel", json={}, headers={"X-Forwarded-User": "dave"})
    assert "dave is viewer" in unknown.json()["message"]
    known = proxy.post("/api/v1/runs/r1/cancel", json={}, headers=header)
    assert known.status_code == 404, "an operator, and there is no such run"


@pytest.mark.parametrize("host", ["evil.org", "127.0.0.1:9999", "illume.example.org.evil.org", ""])
def test_another_name_for_this_address_gets_nothing(client: TestClient, host: str) -> None:
    answer = client.get("/runs", headers={"Host": host})
    assert answer.status_code == 403
    assert "Host: found" in answer.text


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.org"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:8401"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Content-Type": "text/plain"},
    ],
)
def test_a_page_of_another_origin_changes_nothing(client: TestClient, made_up: MadeUp, headers: dict[str, str]) -> None:
    made_up.start("r1")
    json_type = {"Content-Type": "application/json"}
    answer = client.post("/api/v1/runs/r1/cancel", content=b"{}", headers={**json_type, **headers})
    assert answer.status_code == 403
    assert not client.get("/api/v1/runs/r1").json()["cancel_requested"]
    recorded = (made_up.workspace.root / "web" / "denied.jsonl").read_text().splitlines()
    assert [json.loads(line)["request"] for line in recorded] == ["POST /api/v1/runs/r1/cancel"]


def test_searches_have_a_limit(client: TestClient) -> None:
    stop_clock(client, "search_limit")
    found = [client.get("/api/v1/runs?q=a").status_code for _ in range(40)]
    assert found[:30] == [200] * 30
    assert 429 in found
    assert client.get("/api/v1/runs").status_code == 200, "looking has none"
