from starlette.testclient import TestClient

from orchestrator.attempt_id import AttemptId
from orchestrator.history.telemetry import Telemetry
from tests.orchestrator.web.conftest import MadeUp


def test_machines_are_told_with_their_workers_losses_and_complaints(client: TestClient, made_up: MadeUp) -> None:
    made_up.start("r1")
    attempt = made_up.attempt("r1", "raw")
    for host, pid in (("node-1", 7), ("node-1", 8), ("node-2", 7)):
        made_up.record("r1", "worker_started", {"host": host, "pid": pid}, stage="raw", attempt=attempt)
        if host == "node-1" and pid == 7:
            lost = {"pid": 7, "failure": "preempted", "message": "its node is taken away"}
            made_up.record("r1", "worker_lost", lost, stage="raw", attempt=attempt)
    made_up.record("r1", "node_offence", {"node": "node-9", "what": "corrupt", "certain": True}, stage="raw")
    found = {row["name"]: row for row in client.get("/api/v1/cluster").json()["machines"]}
    assert {name: (row["num_workers"], row["num_lost"]) for name, row in found.items()} == {
        "node-1": (1, 1), "node-2": (1, 0), "node-9": (0, 0)}  # fmt: skip
    assert (found["node-1"]["was_taken"], found["node-2"]["was_taken"]) == (True, False)
    assert (found["node-9"]["is_avoided"], found["node-2"]["stages"]) == (True, ["r1:raw"])
    page = client.get("/cluster").text
    for text in ("drained or taken away", "no complaints", "avoided", "corrupt in r1"):
        assert text in page


def test_the_use_of_a_machine_is_what_its_training_told_last(client: TestClient, made_up: MadeUp) -> None:
    epoch = made_up.start("r1")
    made_up.attempt("r1", "model")
    telemetry = Telemetry(made_up.workspace.database)
    tracker = telemetry.tracker(AttemptId.of("r1", "model", epoch=epoch, number=1))
    for step, percent in enumerate((20.0, 83.4)):
        tracker.log_metrics({"loss": 1.0, "system/gpu_0_utilization_percentage": percent}, step=step)
    tracker.progress(2, 4, "steps")
    telemetry.close()
    (row,) = client.get("/api/v1/cluster").json()["at_work"]
    assert row["use"] == [{"name": "GPU", "percent": 83.4}]
    assert "GPU 83 %" in client.get("/cluster").text
