"""A Ray cluster loses a node or its head, or data are non-finite: the run continues or can be continued."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray._raylet
import ray.cluster_utils

from orchestrator.failures.classes import FailureClass
from tests.chaos.cluster_driver import CHECKPOINT_EVERY, LOOP, lines
from tests.chaos.cluster_runs import ROOT, consumed, failure_classes, finish, start, wait_for, weights

pytestmark = pytest.mark.ray

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
            code, text = finish(start(root, cluster.address, workers=1))
            assert code == 0, text
            assert len(consumed(root)) == LOOP.steps
            yield Quiet(root=root, cluster=cluster, printed=text)
        finally:
            cluster.shutdown()


def node_arguments() -> dict[str, Any]:
    return {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 80 * 2**20}


def test_a_training_continues_without_a_lost_node(quiet: Quiet, tmp_path: Path) -> None:
    """Two workers until one of the nodes is lost, then one worker."""
    root = tmp_path / "broken"
    node = quiet.cluster.add_node(**node_arguments())
    process = start(root, quiet.cluster.address, workers=2)
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
    code, text = finish(start(root, quiet.cluster.address, workers=1))
    assert code == 1, text
    assert set(failure_classes(root)) == {FailureClass.NUMERIC}
    for said in ("loss nan", "at learning rates 0.0", "samples sample-", "2 windows"):
        assert said in text, text
    (root / "poison").unlink()
    code, text = finish(start(root, quiet.cluster.address, workers=1))
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
    process = start(root, quiet.cluster.address, workers=1)
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
        code, text = finish(start(root, other.address, workers=1))
    finally:
        other.shutdown()
    assert code == 0, text
    assert text == quiet.printed  # every file, to the byte
    assert consumed(root) == consumed(quiet.root)
    done = lines(root / "worked")
    assert len(done) - len(set(done)) <= 2  # shards that were in the hands of the lost node's worker
