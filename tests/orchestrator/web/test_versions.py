from starlette.testclient import TestClient

from orchestrator.history.events import RunState
from orchestrator.history.run_search import RunFilter, search_runs
from orchestrator.web.versions import Versions
from tests.orchestrator.web.conftest import MadeUp


def test_only_what_has_ended_is_kept_until_something_is_added(made_up: MadeUp) -> None:
    versions: Versions[str] = Versions()
    made_up.start("r1")
    (at_work,) = search_runs(made_up.workspace.database, RunFilter(), limit=1)
    versions.put(at_work, "at work")
    assert versions.get(at_work) is None
    made_up.end("r1", RunState.FAILED)
    (ended,) = search_runs(made_up.workspace.database, RunFilter(), limit=1)
    versions.put(ended, "ended")
    assert versions.get(ended) == "ended"
    made_up.workspace.runs.record_tainted_model("r1", "t1", stage_id="raw", attempt_id="r1-raw-1-1")
    (tainted,) = search_runs(made_up.workspace.database, RunFilter(), limit=1)
    assert versions.get(tainted) is None


def test_the_list_of_runs_reads_an_ended_run_once_and_sees_it_go_on(client: TestClient, made_up: MadeUp) -> None:
    made_up.start("r1")
    made_up.fail("r1", "raw", "no memory left")
    made_up.end("r1", RunState.FAILED)
    before = client.get("/api/v1/runs").json()
    assert client.get("/api/v1/runs").json() == before
    lease = made_up.workspace.leases.acquire("run:r1")
    assert lease is not None
    made_up.leases["r1"] = lease
    made_up.workspace.runs.begin_epoch("r1", lease)
    made_up.commit("r1", "raw")
    (row,) = client.get("/api/v1/runs").json()["runs"]
    assert (row["state"], row["strip"][0]["state"]) == ("RUNNING", "COMMITTED")
