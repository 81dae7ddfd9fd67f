"""The status of a run as far as somebody is at work on it: no speed and no time left for the dead."""

from dataclasses import replace

from orchestrator.history.events import AttemptState, RunState
from orchestrator.history.run_status import RunStatus
from orchestrator.liveness.liveness import UNFINISHED, DriverState, RunLife
from orchestrator.times import iso_time


def is_abandoned(state: RunState, life: RunLife) -> bool:
    """Whether a run that has not ended has no driver that answers. A run that is just being started has none yet."""
    return state in UNFINISHED and state is not RunState.PLANNED and life.driver.state is not DriverState.ALIVE


def with_life(status: RunStatus, life: RunLife) -> RunStatus:
    """`status`, with the run's message and its open stages saying what is known about its driver and its jobs."""
    if life.driver.state is DriverState.ALIVE or not (life.attempts or is_abandoned(status.run.state, life)):
        return status
    driver = life.driver
    since = f" since {iso_time(driver.since)}" if driver.since is not None and not driver.machine else ""
    found = f"{life.describe()}{since}"
    stages = tuple(
        replace(stage, rate_per_s=0.0, eta_s=None, message=found, waiting_for="", waiting_since=None)
        if stage.state in (AttemptState.INTENT, AttemptState.RUNNING) or stage.waiting_for
        else stage
        for stage in status.stages
    )
    run_id = life.run_id
    message = f"{found}; continue it with `illume resume {run_id}`, end it with `illume cancel {run_id}`"
    return replace(status, run=replace(status.run, message=message), stages=stages)
