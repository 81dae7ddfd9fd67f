"""An evaluation as a task of Ray beside a training; on a cluster without room it does not begin."""

import time
from contextlib import closing
from pathlib import Path

import pytest

from orchestrator.cluster.ray_cluster import Cluster, LocalRay
from orchestrator.stage import Resources
from stages.training.beside.side_run import Evaluated
from tests.stages.training.test_loop import LOOP
from tests.stages.training.toy import ToyTask
from tests.stages.training.watching.test_validation import SETTINGS, train, values_of
from tests.stages.training.workers.test_evaluation import settings_of

pytestmark = pytest.mark.ray


def test_a_task_evaluates_the_newest_checkpoint_or_says_why_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[4]))  # the program is one of the tests
    values = values_of(train(tmp_path / "trained", ToyTask(), SETTINGS))
    with closing(Cluster(LocalRay(cpus=1))) as cluster:
        cluster.connect()
        from stages.training.beside.ray_run import RayRun, has_room  # late: needs Ray

        assert has_room(Resources(cpus=1))
        assert not has_room(Resources(cpus=4))
        results: list[Evaluated] = []
        for folder in ("trained", "nothing"):
            run = RayRun(settings_of(tmp_path / folder), Resources(cpus=1))
            found = run.result()
            while found is None:
                time.sleep(0.1)
                found = run.result()
            run.close()
            results.append(found)
    assert results[0].step == LOOP.steps
    assert (results[0].metrics or {})["validation/fit/loss"] == values[LOOP.steps]
    assert results[1].metrics is None
    assert "no committed checkpoint" in results[1].error
