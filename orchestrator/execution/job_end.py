"""How an attempt ended that ran as a job: by the outcome that it wrote into the store, and by what its cluster says."""

import re
from collections.abc import Callable
from dataclasses import replace

from orchestrator.cluster.jobs import JobInfo, JobState
from orchestrator.errors import NodeLostError, OrchestratorError, PrecheckError
from orchestrator.failures.classes import classified, report_of
from orchestrator.failures.failure_class import INFRASTRUCTURE, FailureClass
from orchestrator.installation.version import version
from orchestrator.liveness.job_records import JobOutcome

_EXIT_CODE = re.compile(r"exit code (\d+)")  # as Ray, KubeRay and the batch script of Slurm say it
_NO_PROGRAM = (
    "is illume {version} in the image, or the environment, of the cluster, and `command` of the profile right?"
)
_HINTS = {
    2: "does the cluster see the store of this machine, and has it illume {version} as this machine has?",
    126: _NO_PROGRAM,
    127: _NO_PROGRAM,
}


def conclude(
    job_id: str, info: JobInfo | None, outcome: JobOutcome | None, last_lines: Callable[[], str]
) -> JobOutcome:
    """The outcome of a job that has ended, or has left one.

    `last_lines`: of its output, asked for only if there is no outcome.

    Raises:
        ClassifiedError: its machines were taken, and it wrote no outcome.
        PrecheckError: it could not begin: another version or no program there, or another store.
        NodeLostError: it wrote no outcome, for another reason.
    """
    was_taken = info is not None and info.state is JobState.PREEMPTED
    message = "" if info is None else info.message
    if outcome is None and was_taken:
        raise classified(FailureClass.PREEMPTED, f"job {job_id} was ended: {message}")
    if outcome is None:
        end = "is not known to the cluster any more" if info is None else f"ended as {info.state}: {message}"
        raise _without_outcome(f"job {job_id} {end} and left no outcome; {last_lines()}", message)
    if was_taken and _was_cut(outcome):
        taken = classified(FailureClass.PREEMPTED, f"job {job_id} stopped: {message}")
        return replace(outcome, stopped="", failure=report_of(taken))
    if info is not None and info.by_person and is_preempted(outcome):
        return replace(outcome, stopped=f"job {job_id} was stopped: {message}", failure=None)
    return outcome


def is_preempted(outcome: JobOutcome) -> bool:
    """The stage driver was told that its machines go, or that its time is over, and has left."""
    return outcome.failure is not None and outcome.failure.failure is FailureClass.PREEMPTED


def _without_outcome(text: str, message: str) -> OrchestratorError:
    """The error of a job that wrote nothing into the store; its exit code says whether the next one can do better."""
    found = _EXIT_CODE.search(message)
    hint = _HINTS.get(int(found[1])) if found else None
    return NodeLostError(text) if hint is None else PrecheckError(f"{text}\n{hint.format(version=version())}")


def _was_cut(outcome: JobOutcome) -> bool:
    """The attempt stopped, or failed as attempts do whose machines go."""
    return bool(outcome.stopped) or (outcome.failure is not None and outcome.failure.failure in INFRASTRUCTURE)
