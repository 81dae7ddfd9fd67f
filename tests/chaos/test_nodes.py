"""A Ray cluster loses a node or its head, or data are non-finite: the run continues or can be continued."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray._raylet
import ray.cluster_utils
from safetensors.torch import load_file

from orchestrator.cluster.ray_cluster import Cluster
from orchestrator.failures.classes import FailureClass
from orchestrator.history.run_status import list_runs
from orchestrator.planning.plan import make_plan
from orchestrator.planning.stage_identity import PlanView
from orchestrator.workspace import Workspace
from tests.chaos.cluster_driver import CHECKPOINT_EVERY, LOOP, lines, recipe
from tests.chaos.invariants import check

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_AUTH_TOKEN": "",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "5",  # 60 s by default
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "30",  # 60 s by default, spent once where Ray still counts on a lost node
    "PYTHONPATH": str(ROOT),
    "SQUARES_PAUSE_S": "0.5",
}


@dataclass(frozen=True)
class Quiet:
    """An undisturbed run on one worker, and the cluster on which it ran: a head with one processor."""

    root: Path
    cluster: Any
    printed: str


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Quiet]:
    root = tmp_path_factory.mktemp("nodes") / "quiet"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        ray._raylet.Config.initialize("")  # another test of this process may have made Ray read the environment
        ray._raylet.AuthenticationTokenLoader.instance().reset_cache()
        cluster = ray.cluster_utils.Cluster(initialize_head=True, head_node_args=node_arguments())
        try:
            code, text = finish(start(root, cluster, workers=1))
            assert code == 0, text
            assert len(consumed(root)) == LOOP.steps
            yield Quiet(root=root, cluster=cluster, printed=text)
        finally:
            cluster.shutdown()


def node_arguments() -> dict[str, Any]:
    return {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 80 * 2**20}


def start(root: Path, cluster: Any, workers: int) -> subprocess.Popen[str]:
    root.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "tests.chaos.cluster_driver", str(root), cluster.address, str(workers)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], timeout_s: float = 300.0) -> None:
    give_up_at = time.monotonic() + timeout_s
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < give_up_at
        time.sleep(0.05)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    out, err = process.communicate(timeout=400)
    return process.returncode, err if process.returncode else out


def weights(root: Path) -> dict[str, Any]:
    with Workspace.open(root=root / "illume", tracking_url="none", cluster=Cluster()) as workspace:
        stage = make_plan(recipe(str(root), 2), PlanView(find=workspace.artifacts.find)).stages[-1]
        artifact = workspace.artifacts.open(stage.key)
        found = load_file(str(artifact.path / "model.safetensors"))
        check(root, workspace, lambda: make_plan(recipe(str(root), 2), PlanView(find=workspace.artifacts.find)))
        return found


def consumed(root: Path) -> dict[int, set[str]]:
    """The data of each optimizer step."""
    found: dict[int, set[str]] = {}
    for line in lines(root / "steps"):
        step, data = line.split()
        found.setdefault(int(step), set()).add(data)
    return found


def failure_classes(root: Path) -> list[str]:
    """The failure classes of the failed attempts of all runs."""
    with Workspace.open(root=root / "illume", tracking_url="none", cluster=Cluster()) as workspace:
        events = [event for run in list_runs(workspace.database) for event in workspace.runs.events(run.run_id)]
        return [str(event.fields["failure_class"]) for event in events if "failure_class" in event.fields]


def test_a_training_continues_without_a_lost_node(quiet: Quiet, tmp_path: Path) -> None:
    """Two workers until one of the nodes is lost, then one worker."""
    root = tmp_path / "broken"
    node = quiet.cluster.add_node(**node_arguments())
    process = start(root, quiet.cluster, workers=2)
    wait_for(lambda: len(lines(root / "steps")) >= 8 * LOOP.micros_per_step, process)
    (root / "hold").touch()
    quiet.cluster.remove_node(node, allow_graceful=False)
    wait_for(lambda: FailureClass.NODE_LOST in failure_classes(root), process)
    (root / "hold").unlink()
    code, text = finish(process)
    assert code == 0, text
    expected = weights(quiet.root)
    for name, tensor in weights(root).items():
        assert tensor.allclose(expected[name], rtol=1e-4, atol=1e-6), name  # sums in another order
    assert consumed(root) == consumed(quiet.root)  # I7
    # I6: at most the interval of one checkpoint was trained again, and one that was being written.
    again = len(lines(root / "steps")) - LOOP.steps * LOOP.micros_per_step
    assert 0 <= again <= (2 * CHECKPOINT_EVERY + 1) * LOOP.micros_per_step


def test_non_finite_data_end_a_run_with_their_names_and_it_is_continued_without_them(
    quiet: Quiet, tmp_path: Path
) -> None:
    """A NaN in a worker process of Ray Train: window after window is skipped, until the limit is reached."""
    root = tmp_path / "broken"
    root.mkdir()
    (root / "poison").write_text("\n".join(map(str, range(6, 60))))
    code, text = finish(start(root, quiet.cluster, workers=1))
    assert code == 1, text
    assert set(failure_classes(root)) == {FailureClass.NUMERIC}
    for said in ("loss nan", "at learning rates 0.0", "samples sample-", "2 windows"):
        assert said in text, text
    (root / "poison").unlink()
    code, text = finish(start(root, quiet.cluster, workers=1))
    assert code == 0, text
    assert text == quiet.printed  # to the byte: no skip was kept that did not help
    weights(root)  # and the invariants


@pytest.mark.slow
def test_a_run_whose_cluster_lost_a_node_and_then_its_head_is_continued_on_another(
    quiet: Quiet, tmp_path: Path
) -> None:
    """The last test of this file, as the cluster is lost."""
    root = tmp_path / "broken"
    node = quiet.cluster.add_node(**node_arguments())
    process = start(root, quiet.cluster, workers=1)
    wait_for(lambda: len(lines(root / "worked")) >= 4, process)
    quiet.cluster.remove_node(node, allow_graceful=False)
    wait_for(lambda: bool(lines(root / "steps")), process)
    quiet.cluster.head_node.kill_gcs_server()
    code, text = finish(process)
    assert code == 1, text
    assert "Traceback" not in text
    quiet.cluster.shutdown()
    other = ray.cluster_utils.Cluster(initialize_head=True, head_node_args=node_arguments())
    try:
        code, text = finish(start(root, other, workers=1))
    finally:
        other.shutdown()
    assert code == 0, text
    assert text == quiet.printed  # every file, to the byte
    assert consumed(root) == consumed(quiet.root)
    done = lines(root / "worked")
    assert len(done) - len(set(done)) <= 2  # shards that were in the hands of the lost node's worker
