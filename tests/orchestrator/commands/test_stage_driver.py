"""`illume stage-driver`: whatever happens, it writes an outcome into the store."""

import subprocess
import sys
from pathlib import Path

from orchestrator.attempt_id import AttemptId
from orchestrator.errors import EXIT_FAILED
from orchestrator.execution.job_records import JobRecords
from orchestrator.failures.failure_class import FailureClass
from orchestrator.store.store import open_store

# A process of its own: the command replaces the log handlers and the SIGTERM handler.
PROGRAM = "import sys; from orchestrator.cli import exit_code; sys.exit(exit_code(sys.argv[1:]))"


def test_a_plan_that_is_not_in_the_store_is_an_outcome(tmp_path: Path) -> None:
    store = tmp_path / "store"
    arguments = ["stage-driver", "run", "count", "run-count-1-1", "--plan", "0" * 64, "--epoch", "1"]
    command = [sys.executable, "-c", PROGRAM, *arguments, "--store", str(store)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == EXIT_FAILED, done.stderr
    attempt = AttemptId.of("run", "count", epoch=1, number=1)
    outcome = JobRecords(store=open_store(str(store)), attempt=attempt).outcome()
    assert outcome is not None
    assert outcome.failure is not None
    assert outcome.failure.failure is FailureClass.PRECHECK
    assert "does the cluster see the controller's store there?" in outcome.failure.summary
