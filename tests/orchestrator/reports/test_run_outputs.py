from typing import Any

import pytest

from orchestrator.errors import StageFailedError
from orchestrator.history.run_status import run_status
from orchestrator.reports.run_outputs import RunOutputs, open_output, run_outputs
from orchestrator.stage import StageContext
from tests.orchestrator.execution.test_executor import TROUBLES, Site, fail, site, stage

__all__ = ["site"]  # the fixture

STAGES = (stage("one", 1), stage("two", 2, "one"))


def outputs_of(site: Site, run_id: str) -> RunOutputs:
    workspace = site.workspace
    run = run_status(workspace.database, run_id).run
    plan: Any = workspace.records.plan(run.plan_digest)
    return run_outputs(workspace.artifacts, workspace.database, run, plan["stages"])


def number_in(site: Site, outputs: RunOutputs, stage_id: str) -> str:
    output = outputs.stages[stage_id].output
    assert output is not None
    folder = open_output(site.workspace.artifacts, output, lambda path: path == "number.txt")
    return (folder / "number.txt").read_text()


def test_a_reused_output_is_that_of_the_run_that_made_it(site: Site) -> None:
    TROUBLES["two"] = fail(ConnectionError("gone"))
    site.run(*STAGES)
    site.run(*STAGES)
    first, second = (outputs_of(site, run_id) for run_id in site.run_ids)
    assert [(name, entry.made_here, entry.attempts) for name, entry in first.stages.items()] == [
        ("one", True, 1),
        ("two", True, 2),
    ]
    assert [(name, entry.made_here, entry.attempts) for name, entry in second.stages.items()] == [
        ("one", False, 0),
        ("two", False, 0),
    ]
    for name, entry in second.stages.items():
        assert entry.output == first.stages[name].output
        assert entry.seconds == first.stages[name].seconds
        assert (entry.spent_s, entry.gpu_hours) == (0.0, 0.0)
    assert first.stages["two"].upstream == ["one"]
    assert number_in(site, second, "two") == "3"


def test_a_run_keeps_its_own_output_when_the_artifact_is_made_again(site: Site) -> None:
    site.run(*STAGES)

    def write_more(context: StageContext) -> None:
        (context.output / "more.txt").write_text("other files under the same identity")

    TROUBLES["two"] = write_more
    site.run(*STAGES, force=("two",))
    first, second = (outputs_of(site, run_id).stages["two"] for run_id in site.run_ids)
    assert first.fingerprint == second.fingerprint
    assert first.output is not None
    assert second.output is not None
    assert first.output.attempt_id != second.output.attempt_id
    assert [len(entry.output.manifest.files) for entry in (first, second) if entry.output] == [1, 2]


def test_a_stage_that_failed_has_no_output_but_attempts(site: Site) -> None:
    TROUBLES["two"] = fail(ValueError("a mistake"))
    with pytest.raises(StageFailedError):
        site.run(*STAGES)
    entry = outputs_of(site, site.run_ids[-1]).stages["two"]
    assert (entry.output, entry.attempts, entry.made_here, entry.seconds) == (None, 1, False, None)
    assert entry.spent_s >= 0.0
