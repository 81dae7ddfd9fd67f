"""The status of a run whose artifacts a takedown removed or marked: it says by which one, when, and who applied it."""

from collections.abc import Sequence
from dataclasses import replace

from orchestrator.artifacts.takedowns import Takedown, taken_down_text
from orchestrator.history.events import AttemptState
from orchestrator.history.run_status import REUSED, SKIPPED, TAKEN_DOWN, RunStatus, StageStatus

_MADE = (AttemptState.COMMITTED, REUSED, SKIPPED)


def with_takedowns(status: RunStatus, takedowns: Sequence[Takedown]) -> RunStatus:
    """`status`, in which stages whose artifact was taken down have that state; kept models have the message only."""
    if not takedowns:
        return status
    return replace(status, stages=tuple(_stage(stage, takedowns) for stage in status.stages))


def _stage(stage: StageStatus, takedowns: Sequence[Takedown]) -> StageStatus:
    text = taken_down_text(takedowns, stage.fingerprint)
    if not text or stage.state not in _MADE:
        return stage
    is_removed = any(takedown.removes(stage.fingerprint) for takedown in takedowns)
    return replace(stage, state=TAKEN_DOWN if is_removed else stage.state, message=text)
