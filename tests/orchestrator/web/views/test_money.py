"""The money of runs: the same numbers as `illume status --cost`."""

import json

import pytest
from sqlalchemy import Connection
from starlette.testclient import TestClient

from orchestrator.queue.entries import submission_of
from orchestrator.queue.records import StageNeed, Submission
from orchestrator.queue.rows import FIRST, add_record
from orchestrator.queue.spending import costs_of, total_of
from orchestrator.web.views.money import prices_of_runs
from tests.orchestrator.web.conftest import STAGES, MadeUp

AT = "2026-05-04T10:15:00Z"


@pytest.mark.parametrize("price", [2.5, None])
def test_a_run_costs_what_the_command_line_says_and_unknown_is_unknown(
    client: TestClient, made_up: MadeUp, price: float | None
) -> None:
    made_up.start("r1")
    database = made_up.workspace.database
    needs = tuple(
        StageNeed(stage_id=stage, fingerprint="f", cpus=2.0, gpus=2.0, price_per_gpu_hour=price) for stage in STAGES
    )
    submission = Submission(at=AT, run_id="r1", recipe="tiny", plan_digest="d", person="ada", stages=needs)
    add_record(made_up.workspace.store, database, "submissions", "r1", submission, number=FIRST)
    made_up.commit("r1", "raw")
    made_up.fail("r1", "curated", "no memory left")
    made_up.end("r1")

    def work(connection: Connection) -> None:
        execute = connection.exec_driver_sql
        execute("update attempts set started_at = created_at - 3600.0 * number where stage_id = 'raw'")
        for row in execute("select sequence, fields from events where kind = 'attempt_state'").all():
            fields = {**json.loads(row.fields), "resources": {"gpus": 1.0, "cpus": 1.0, "workers": 2}}
            execute("update events set fields = ? where sequence = ?", (json.dumps(fields), row.sequence))

    database.write(work)
    found = submission_of(database, "r1")
    assert found is not None
    spent = total_of(costs_of(database, {"r1": found}, runs=["r1"]))
    view, (row,) = client.get("/api/v1/runs/r1").json(), client.get("/api/v1/runs").json()["runs"]
    for cost in (view["cost"], row["cost"]):
        assert cost["gpu_hours"] == pytest.approx(spent.gpu_hours)
        assert cost["money"] == (None if price is None else pytest.approx(spent.money))
    assert spent.gpu_hours == pytest.approx(2.0, rel=0.01)
    shown = client.get("/runs").text
    assert (">unknown<" in shown) is (price is None)
    assert (">5.00<" in shown) is (price is not None)


def test_runs_without_the_queue_have_no_prices(made_up: MadeUp) -> None:
    made_up.start("r1")
    assert prices_of_runs(made_up.workspace.database, ["r1"]) == {}
