import pytest

from orchestrator.cluster.jobs import JobInfo, JobState
from orchestrator.errors import NodeLostError, OrchestratorError, PrecheckError
from orchestrator.execution.job_end import conclude
from orchestrator.failures.classes import classified, classify, report_of
from orchestrator.failures.failure_class import FailureClass
from orchestrator.installation.version import version
from orchestrator.liveness.job_records import JobOutcome

DONE = JobOutcome(progressed=True)
STOPPED = JobOutcome(stopped="SIGTERM")
TAKEN = JobOutcome(failure=report_of(classified(FailureClass.PREEMPTED, "its machines are taken away")))
LOST = JobOutcome(failure=report_of(NodeLostError("a worker died")))
MISTAKE = JobOutcome(failure=report_of(ValueError("columns")))


def info(state: JobState, message: str = "", *, by_person: bool = False) -> JobInfo:
    return JobInfo(state=state, message=message, by_person=by_person)


@pytest.mark.parametrize("outcome", [DONE, STOPPED, TAKEN, LOST, MISTAKE])
@pytest.mark.parametrize("state", [JobState.RUNNING, JobState.SUCCEEDED, JobState.FAILED, JobState.STOPPED, None])
def test_the_outcome_of_a_job_counts(outcome: JobOutcome, state: JobState | None) -> None:
    assert conclude("j", None if state is None else info(state), outcome, str) == outcome


@pytest.mark.parametrize("outcome", [STOPPED, TAKEN, LOST])
def test_what_a_job_said_when_its_machines_went_is_their_doing(outcome: JobOutcome) -> None:
    found = conclude("j", info(JobState.PREEMPTED, "Kueue took its nodes"), outcome, str)
    assert found.stopped == ""
    assert found.failure is not None
    assert found.failure.failure is FailureClass.PREEMPTED
    assert "Kueue took its nodes" in found.failure.summary
    for own in (DONE, MISTAKE):
        assert conclude("j", info(JobState.PREEMPTED), own, str) == own


def test_a_job_that_a_person_took_out_of_the_queue_is_not_tried_again() -> None:
    found = conclude("j", info(JobState.STOPPED, "its Workload was deactivated", by_person=True), TAKEN, str)
    assert found == JobOutcome(stopped="job j was stopped: its Workload was deactivated")


@pytest.mark.parametrize(
    ("ended", "failure", "text"),
    [
        (info(JobState.PREEMPTED, "time limit"), FailureClass.PREEMPTED, "job j was ended: time limit"),
        (None, FailureClass.NODE_LOST, "job j is not known to the cluster any more and left no outcome; last lines"),
        (info(JobState.FAILED, "exit code 137"), FailureClass.NODE_LOST, "job j ended as FAILED: exit code 137"),
        (info(JobState.FAILED, "exit code 1"), FailureClass.NODE_LOST, "job j ended as FAILED: exit code 1"),
        (
            info(JobState.FAILED, "Job entrypoint command failed with exit code 127, last available logs:\nsh: illume"),
            FailureClass.PRECHECK,
            f"is illume {version()} in the image, or the environment, of the cluster",
        ),
        (info(JobState.FAILED, "exit code 126"), FailureClass.PRECHECK, "`command` of the profile right?"),
        (
            info(JobState.FAILED, "exit code 2"),
            FailureClass.PRECHECK,
            f"does the cluster see the store of this machine, and has it illume {version()} as this machine has?",
        ),
    ],
)
def test_without_an_outcome_the_exit_code_says_whether_another_job_can_do_better(
    ended: JobInfo | None, failure: FailureClass, text: str
) -> None:
    with pytest.raises(OrchestratorError) as error:
        conclude("j", ended, None, lambda: "last lines")
    assert classify(error.value) is failure
    assert text in str(error.value)
    assert isinstance(error.value, PrecheckError) == (failure is FailureClass.PRECHECK)
