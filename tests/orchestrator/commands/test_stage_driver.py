"""`illume stage-driver`: whatever happens, it writes an outcome into the store."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.artifacts.run_records import RunRecords
from orchestrator.attempt_id import AttemptId
from orchestrator.errors import EXIT_UNUSABLE
from orchestrator.failures.classes import FailureReport
from orchestrator.failures.failure_class import FailureClass
from orchestrator.installation.version import version
from orchestrator.liveness.job_records import JobRecords
from orchestrator.logs.reading import LineFilter, LogReader
from orchestrator.logs.run_logs import RunLogs
from orchestrator.planning.plan import make_plan
from orchestrator.planning.plan_file import plan_digest, plan_to_json
from orchestrator.planning.stage_identity import PlanView
from orchestrator.plugins.loading import installed_kinds
from orchestrator.recipe.loading import load_recipe
from orchestrator.store.store import open_store
from tests.orchestrator import conftest as orchestrator_fixtures
from tests.orchestrator.plugins import foreign
from tests.orchestrator.plugins.foreign import Kit
from tests.orchestrator.test_cli import KINDS

# A process of its own: the command replaces the log handlers and the SIGTERM handler.
PROGRAM = "import sys; from orchestrator.cli import exit_code; sys.exit(exit_code(sys.argv[1:]))"
kit = foreign.kit


s3_server = orchestrator_fixtures.s3_server
s3 = orchestrator_fixtures.s3


def drive(store: Path | str, digest: str, *options: str, packages: str = "") -> FailureReport:
    """Run the command as on a cluster with these packages. Returns the failure that it writes as its outcome."""
    arguments = ["stage-driver", "run", "count", "run-count-1-1", "--plan", digest, "--epoch", "1", *options]
    command = [sys.executable, "-c", PROGRAM, *arguments, "--store", str(store)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": packages}, capture_output=True, text=True)
    assert done.returncode == EXIT_UNUSABLE, done.stderr
    attempt = AttemptId.of("run", "count", epoch=1, number=1)
    outcome = JobRecords(store=open_store(str(store)), attempt=attempt).outcome()
    assert outcome is not None
    assert outcome.failure is not None
    return outcome.failure


def test_a_plan_that_is_not_in_the_store_is_an_outcome(tmp_path: Path) -> None:
    failure = drive(tmp_path / "store", "0" * 64)
    assert failure.failure is FailureClass.PRECHECK
    assert "does the cluster see the controller's store there?" in failure.summary


def test_a_controller_of_another_version_is_refused(tmp_path: Path) -> None:
    failure = drive(tmp_path / "store", "0" * 64, "--controller-version", "9.9.9")
    assert failure.failure is FailureClass.PRECHECK, "never retried"
    assert f"illume {version()} is on node" in failure.summary
    assert "but 9.9.9 submitted this job; give the cluster's image, or environment, illume 9.9.9" in failure.summary
    same = drive(tmp_path / "other", "0" * 64, "--controller-version", version())
    assert "does the cluster see" in same.summary


@pytest.mark.parametrize("is_local", [True, False], ids=["local", "s3"])
def test_what_a_job_says_is_in_the_logs_of_its_run_without_any_controller(
    is_local: bool, s3: orchestrator_fixtures.S3Server, tmp_path: Path
) -> None:
    url = str(tmp_path / "store") if is_local else s3.url("joblog")
    drive(url, "0" * 64)
    logs = RunLogs(store=open_store(url), state=tmp_path / "elsewhere", run_id="run")
    reader = LogReader(logs=logs, filter=LineFilter(stages=["count"]))
    (line,) = reader.read_new(is_over=True)
    assert line.file == "count-1-1.job.log"
    assert f"plan {'0' * 64} is not in" in line.text
    assert line.time is not None
    RunLogs(store=logs.store, state=tmp_path / "controller", run_id="run").finish("run-count-1-1", tmp_path / "scratch")
    assert reader.read_new(is_over=True) == []


@pytest.mark.parametrize(
    ("is_there", "message"),
    [
        (
            True,
            "made with plugin shout-kit 1.0 (shout_kit.kinds:ALL), but stage kind 'yell' is of plugin shout-kit 1.1",
        ),
        (False, "made with plugin shout-kit 1.0 (shout_kit.kinds:ALL), which is missing on "),
    ],
)
def test_a_plugin_that_the_cluster_has_in_another_version_or_lacks_is_refused(
    is_there: bool, message: str, kit: Kit, tmp_path: Path
) -> None:
    recipe = load_recipe(
        kit.package / "recipes" / "yelling.yaml", {**KINDS, **{kind.name: kind for kind in installed_kinds()}}
    )
    plan = make_plan(recipe, PlanView(find=lambda _key: None))
    RunRecords(open_store(str(tmp_path / "store"))).put_plan(plan_digest(plan), plan_to_json(plan))
    kit.install(version="1.1")
    failure = drive(tmp_path / "store", plan_digest(plan), packages=str(kit.site) if is_there else "")
    assert failure.failure is FailureClass.PRECHECK, "never retried"
    assert message in failure.summary
    assert "pip install shout-kit==1.0" in failure.summary
