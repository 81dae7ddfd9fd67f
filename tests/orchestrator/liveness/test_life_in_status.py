"""What status says about runs whose driver is gone or frozen."""

from orchestrator.history.attempts import StageRow
from orchestrator.history.events import AttemptState, RunState
from orchestrator.history.run_status import run_status
from orchestrator.liveness.life_in_status import is_abandoned, with_life
from orchestrator.workspace import Workspace
from tests.orchestrator import test_cli
from tests.orchestrator.liveness import test_liveness
from tests.orchestrator.liveness.test_liveness import ATTEMPT, ELSEWHERE, KEY, RUN, drive, expire
from tests.orchestrator.test_cli import Illume

workspace = test_liveness.workspace
illume = test_cli.illume


def test_the_dead_have_no_speed_and_no_time_left(workspace: Workspace) -> None:
    drive(workspace, owner=ELSEWHERE, as_job=True)
    tracker = workspace.runs.telemetry.tracker(ATTEMPT)
    tracker.progress(0, 100, "steps")
    tracker.progress(40, 100, "steps")
    workspace.runs.telemetry.flush()
    alive = with_life(run_status(workspace.database, RUN), workspace.liveness.run(RUN))
    assert (alive.run.message, alive.stages[0].message) == ("", "")
    expire(workspace)
    found = with_life(run_status(workspace.database, RUN), workspace.liveness.run(RUN))
    stage = found.stages[0]
    assert (stage.done, stage.rate_per_s, stage.eta_s) == (40, 0.0, None)
    assert stage.message.startswith(
        "its driver is frozen (process 4711 on host7), its job illume-run-1-train-1-1 may be running since "
    )
    assert f"continue it with `illume resume {RUN}`, end it with `illume cancel {RUN}`" in found.run.message
    assert is_abandoned(found.run.state, workspace.liveness.run(RUN))


def test_a_run_that_is_being_started_is_not_abandoned(workspace: Workspace) -> None:
    assert not is_abandoned(RunState.PLANNED, workspace.liveness.run(RUN))
    assert not is_abandoned(RunState.SUCCEEDED, workspace.liveness.run(RUN))


def test_a_stage_says_whom_it_waits_for_and_since_when(workspace: Workspace) -> None:
    lease = workspace.leases.acquire(f"run:{RUN}")
    assert lease is not None
    epoch = workspace.runs.begin_epoch(RUN, lease)
    workspace.runs.record(RUN, "waiting", {"for": "process 7 on host9"}, epoch=epoch, stage_id="train")
    assert run_status(workspace.database, RUN).stages[0].message.startswith("waiting for process 7 on host9 since 20")


def test_what_waits_for_a_driver_that_is_gone_waits_no_more(workspace: Workspace) -> None:
    lease = workspace.leases.acquire(f"run:{RUN}")
    assert lease is not None
    epoch = workspace.runs.begin_epoch(RUN, lease)
    workspace.runs.record(RUN, "waiting", {"for": "process 7 on host9"}, epoch=epoch, stage_id="train")
    workspace.leases.release(lease)
    found = with_life(run_status(workspace.database, RUN), workspace.liveness.run(RUN))  # no attempt is open
    assert found.run.message.startswith("its driver is gone; continue it with")
    stage = found.stages[0]
    assert (stage.message, stage.waiting_for, stage.waiting_since) == ("its driver is gone", "", None)


def test_a_job_of_a_run_that_has_ended_is_told(workspace: Workspace) -> None:
    lease = drive(workspace, as_job=True)
    workspace.runs.transition_run(RUN, RunState.RUNNING, RunState.FAILED, epoch=lease.epoch)
    workspace.leases.release(lease)
    found = with_life(run_status(workspace.database, RUN), workspace.liveness.run(RUN))
    told = "its driver is gone, its job illume-run-1-train-1-1 may be running"
    assert found.run.message.startswith(f"{told}; continue it with")
    assert found.stages[0].message == told
    workspace.runs.transition_attempt(ATTEMPT.name, AttemptState.RUNNING, AttemptState.LOST, epoch=lease.epoch)
    plain = run_status(workspace.database, RUN)
    assert with_life(plain, workspace.liveness.run(RUN)) == plain  # nothing is left to tell


def test_following_ends_where_nobody_is_at_work(illume: Illume) -> None:
    assert illume("run", "words.yaml").code == 0
    with Workspace.open(tracking_url="none") as place:
        row = StageRow(stage_id="train", stage_kind=KEY.stage_kind, fingerprint=KEY.fingerprint, action="run")
        place.runs.create_run(RUN, recipe_name="r", plan_digest="d" * 64, stages=[row])
        drive(place, owner=ELSEWHERE)
        expire(place)
    followed = illume("status", "-f", RUN)
    assert (followed.code, "its driver is frozen (process 4711 on host7)" in followed.out) == (0, True)
    assert illume("events", "-f", RUN).code == 0
    listed = illume("status").out
    assert "its driver is frozen" in listed
    assert "RUNNING, but its driver is frozen (process 4711 on host7)" in illume("doctor").out
