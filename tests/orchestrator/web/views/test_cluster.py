"""The page of the cluster, from a made-up history."""

from starlette.testclient import TestClient

from tests.orchestrator.web.conftest import MadeUp


def test_what_is_at_work_what_waits_and_which_machines_are_avoided(client: TestClient, made_up: MadeUp) -> None:
    made_up.start("r1")
    made_up.attempt("r1", "raw")
    made_up.record("r1", "waiting", {"for": "gpus: 8, 2 are free"}, stage="curated")
    made_up.record("r1", "worker_started", {"host": "node-1", "pid": 1}, stage="raw")
    for what in ("slow", "slow"):
        made_up.record("r1", "node_offence", {"node": "node-2", "what": what, "certain": False}, stage="raw")
    made_up.record("r1", "node_offence", {"node": "node-3", "what": "slow", "certain": False}, stage="raw")
    made_up.record("r1", "node_offence", {"node": "node-4", "what": "corrupt", "certain": True}, stage="raw")
    view = client.get("/api/v1/cluster").json()
    assert [(row["stage"], row["gpus"], row["workers"]) for row in view["at_work"]] == [("raw", 2.0, 2)]
    assert [(row["stage"], row["why"]) for row in view["waiting"]] == [("curated", "gpus: 8, 2 are free")]
    avoided = {machine["name"]: machine["is_avoided"] for machine in view["machines"]}
    assert avoided == {"node-1": False, "node-2": True, "node-3": False, "node-4": True}
    assert "gpus: 8, 2 are free" in client.get("/cluster").text


def test_an_idle_cluster_says_what_to_do(client: TestClient) -> None:
    page = client.get("/cluster").text
    assert "Nothing is at work" in page
    assert "illume run quickstart" in page
