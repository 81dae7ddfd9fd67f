"""The page of the cluster, from a made-up history."""

from starlette.testclient import TestClient

from orchestrator.queue.records import Budget, Limits, PoolRecord, StageNeed, Submission
from orchestrator.queue.rows import add_record
from tests.orchestrator.web.conftest import MadeUp


def test_what_is_at_work_what_waits_and_which_machines_are_avoided(client: TestClient, made_up: MadeUp) -> None:
    made_up.start("r1")
    attempt = made_up.attempt("r1", "raw")
    made_up.record("r1", "waiting", {"for": "gpus: 8, 2 are free"}, stage="curated")
    made_up.record("r1", "worker_started", {"host": "node-1", "pid": 1}, stage="raw", attempt=attempt)
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
    assert "The queue is empty" in page
    assert "no scheduler lives" in page


def test_the_queue_stands_in_its_order_with_reasons_and_budgets(client: TestClient, made_up: MadeUp) -> None:
    workspace = made_up.workspace
    for number, run_id in enumerate(("q1", "q2")):
        submission = Submission(
            at=f"2026-05-04T10:0{number}:00Z",
            run_id=run_id,
            recipe="tiny",
            plan_digest="0" * 64,
            person="mira",
            priority=number,
            pool=PoolRecord(name="a100", cpus=8.0, gpus=4.0, memory_gib=64.0),
            stages=(StageNeed(stage_id="train", fingerprint="1" * 64, cpus=1.0, gpus=4.0),),
        )
        add_record(workspace.store, workspace.database, "submissions", run_id, submission)
    budget = Budget(at="2026-05-04T10:00:00Z", limits=Limits(gpu_hours=500.0))
    add_record(workspace.store, workspace.database, "budgets", "user:mira", budget)
    view = client.get("/api/v1/cluster").json()["queue"]
    assert [(row["run"], row["position"], row["gpus"]) for row in view["runs"]] == [("q2", 1, 4.0), ("q1", 2, 4.0)]
    assert [(row["subject"], row["gpu_hours"]) for row in view["budgets"]] == [("user:mira", 500.0)]
    page = client.get("/cluster").text
    assert "illume serve --scheduler" in page  # what they wait for
    assert "mira" in page
