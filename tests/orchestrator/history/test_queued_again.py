from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import Connection

from orchestrator.errors import DatabaseError
from orchestrator.history.events import RunState
from orchestrator.history.queued_again import queue_again
from orchestrator.history.rebuild import rebuild_index
from orchestrator.history.run_status import run_status
from orchestrator.sinks.openlineage_sink import run_event, store_location
from orchestrator.workspace import Workspace


def ended(workspace: Workspace, run_id: str, end: RunState | None) -> int:
    workspace.runs.create_run(run_id, recipe_name="tiny", plan_digest="d", stages=[])
    lease = workspace.leases.acquire(f"run:{run_id}")
    assert lease is not None
    epoch = workspace.runs.begin_epoch(run_id, lease)
    workspace.runs.request_cancel(run_id)
    if end is not None:
        workspace.runs.transition_run(run_id, RunState.RUNNING, end, epoch=epoch)
        workspace.leases.release(lease)
    return epoch


@pytest.mark.parametrize("end", [RunState.FAILED, RunState.CANCELLED, RunState.INTERRUPTED])
def test_a_run_that_has_ended_waits_again_once_and_the_old_cancel_is_forgotten(tmp_path: Path, end: RunState) -> None:
    with Workspace.open(root=tmp_path, tracking_url="none") as workspace:
        epoch = ended(workspace, "r1", end)
        assert [queue_again(workspace.database, "r1") for _ in range(2)] == [True, False]
        run = run_status(workspace.database, "r1").run
        assert (run.state, run.epoch, run.cancel_requested) == (RunState.PLANNED, epoch, False)
        workspace.runs.request_cancel("r1")
        lease = workspace.leases.acquire("run:r1")
        assert lease is not None
        assert workspace.runs.begin_epoch("r1", lease) == epoch + 1
        assert workspace.runs.cancel_requested("r1"), "a cancel of one that waits is for what comes"


@pytest.mark.parametrize("end", [RunState.SUCCEEDED, None])
def test_a_run_that_has_succeeded_or_is_at_work_does_not(tmp_path: Path, end: RunState | None) -> None:
    with Workspace.open(root=tmp_path, tracking_url="none") as workspace:
        ended(workspace, "r1", end)
        assert not queue_again(workspace.database, "r1")
        with pytest.raises(DatabaseError, match="run r9: not in the database"):
            queue_again(workspace.database, "r9")


def emptied(table: str, connection: Connection) -> None:
    connection.exec_driver_sql(f"delete from {table}")


def test_the_change_is_delivered_and_a_rebuilt_index_knows_it(tmp_path: Path) -> None:
    with Workspace.open(root=tmp_path, tracking_url="none") as workspace:
        ended(workspace, "r1", RunState.FAILED)
        queue_again(workspace.database, "r1")
        workspace.deliver("r1")
        (event,) = [run_event(event, store_location("file:///store")) for event in workspace.runs.events("r1")][-1:]
        assert event is not None
        assert event["eventType"] == "OTHER"
        for table in ("runs", "events"):
            workspace.database.write(partial(emptied, table))
        rebuild_index(workspace.database, workspace.artifacts)
        assert run_status(workspace.database, "r1").run.state == RunState.PLANNED
