"""A Ray cluster loses a node or its head, or data are non-finite: the run continues or can be continued.

Chains through Ray Train are marked slow; what workers do when one of them dies, hangs or meets non-finite data is also
tested with plain processes, in `test_training_workers.py`.
"""

import hashlib
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray.cluster_utils

from orchestrator.cluster.ray_hooks import drain_ray_node, read_environment_again
from orchestrator.failures.failure_class import FailureClass
from tests.chaos.cluster_driver import CHECKPOINT_EVERY, LOOP, lines
from tests.chaos.cluster_runs import ROOT, consumed, digests, failure_classes, finish, start, wait_for, weights
from tests.orchestrator.shard_map.squares_driver import NUM_SHARDS

pytestmark = pytest.mark.ray

ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_AUTH_TOKEN": "",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "5",  # 60 s by default
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "30",  # 60 s by default, spent once where Ray still counts on a lost node
    "RAY_health_check_period_ms": "1000",  # 3 s by default; a node is dead after five missed checks
    "PYTHONPATH": str(ROOT),
    "SQUARES_PAUSE_S": "0.5",
}


@dataclass(frozen=True)
class Quiet:
    """An undisturbed run on one worker."""

    root: Path
    printed: str


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A head with one processor."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        read_environment_again()  # another test of this process may have made Ray read it
        started = ray.cluster_utils.Cluster(initialize_head=True, head_node_args=node_arguments())
        try:
            yield started
        finally:
            started.shutdown()


@pytest.fixture(scope="module")
def quiet(cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> Quiet:
    root = tmp_path_factory.mktemp("nodes") / "quiet"
    code, text = finish(start(root, cluster.address, workers=1))
    assert code == 0, text
    assert len(consumed(root)) == LOOP.steps
    return Quiet(root=root, printed=text)


def node_arguments() -> dict[str, Any]:
    return {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 80 * 2**20}


PROBE = """
import sys
import ray
from stages.training.workers.nodes import responding_nodes
ray.init(address=sys.argv[1], log_to_driver=False)
for _ in range(2):
    print("responding:", *responding_nodes(), flush=True)
    sys.stdin.readline()
"""


def responding(probe: subprocess.Popen[str]) -> list[str]:
    """The ids that it prints next, among what Ray prints."""
    assert probe.stdout is not None
    line = next(line for line in probe.stdout if line.startswith("responding:"))
    return line.split()[1:]


def test_shards_continue_without_a_lost_node_which_no_longer_responds(cluster: Any, tmp_path: Path) -> None:
    root = tmp_path / "broken"
    node = cluster.add_node(**node_arguments())
    command = [sys.executable, "-c", PROBE, cluster.address]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as probe:
        assert probe.stdin is not None
        assert len(responding(probe)) == 2
        process = start(root, cluster.address, workers=2, stages="squares")
        wait_for(lambda: len(lines(root / "worked")) >= 3, process)  # one of two workers has made one
        cluster.remove_node(node, allow_graceful=False)
        probe.stdin.write("\n")
        probe.stdin.flush()
        assert responding(probe) == [cluster.head_node.node_id]
        probe.communicate("\n")
    expected = {f"s{number}": hashlib.sha256(f"{number} squared".encode()).hexdigest() for number in range(NUM_SHARDS)}
    assert digests(process) == {f"squares/{name}.txt": digest for name, digest in expected.items()}
    done = lines(root / "worked")
    assert set(done) == set(expected)
    assert len(done) - len(expected) <= 1  # the shard in the hands of the lost node's worker


@pytest.mark.slow
def test_a_training_continues_without_a_lost_node(cluster: Any, quiet: Quiet, tmp_path: Path) -> None:
    """Two workers until one of the nodes is lost, then one worker."""
    root = tmp_path / "broken"
    node = cluster.add_node(**node_arguments())
    process = start(root, cluster.address, workers=2)
    wait_for(lambda: len(lines(root / "steps")) >= 8 * LOOP.micro_batches_per_step, process)
    (root / "hold").touch()
    cluster.remove_node(node, allow_graceful=False)
    wait_for(lambda: FailureClass.NODE_LOST in failure_classes(root), process)
    (root / "hold").unlink()
    code, text = finish(process)
    assert code == 0, text
    expected = weights(quiet.root)
    for name, tensor in weights(root).items():
        assert tensor.allclose(expected[name], rtol=1e-4, atol=1e-6), name  # sums in another order
    assert consumed(root) == consumed(quiet.root)  # I7
    # I6: at most the interval of one checkpoint was trained again, and one that was being written.
    again = len(lines(root / "steps")) - LOOP.steps * LOOP.micro_batches_per_step
    assert 0 <= again <= (2 * CHECKPOINT_EVERY + 1) * LOOP.micro_batches_per_step


@pytest.mark.slow
def test_a_training_on_a_drained_node_saves_at_once_and_loses_no_step(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `illume drain-node` and the notice of a spot machine do: Ray tells the workers before the node is gone."""
    monkeypatch.setenv("CLUSTER_PAUSE_S", "1")  # workers ask every 5 s
    root = tmp_path / "drained"
    node = cluster.add_node(**node_arguments())
    process = start(root, cluster.address, workers=2, stages="train_toy")
    wait_for(lambda: len(lines(root / "steps")) >= 2 * LOOP.micro_batches_per_step, process)
    refused = drain_ray_node(cluster.address, node.node_id, message="maintenance", deadline_s=time.time() + 300)
    assert not refused
    wait_for(lambda: bool(failure_classes(root)), process)
    done = len(lines(root / "steps"))
    cluster.remove_node(node, allow_graceful=False)
    code, text = finish(process)
    assert code == 0, text
    assert set(failure_classes(root)) == {FailureClass.PREEMPTED}
    assert done < LOOP.steps * LOOP.micro_batches_per_step
    assert len(lines(root / "steps")) == LOOP.steps * LOOP.micro_batches_per_step  # none was done twice
    assert len(consumed(root)) == LOOP.steps
    weights(root, stages="train_toy")  # and the invariants


@pytest.mark.slow
def test_non_finite_data_end_a_run_with_their_names_and_it_is_continued_without_them(
    cluster: Any, quiet: Quiet, tmp_path: Path
) -> None:
    """A NaN in a worker process of Ray Train: window after window is skipped, until the limit is reached."""
    root = tmp_path / "broken"
    root.mkdir()
    (root / "poison").write_text("\n".join(map(str, range(6, 60))))
    code, text = finish(start(root, cluster.address, workers=1))
    assert code == 1, text
    assert set(failure_classes(root)) == {FailureClass.NUMERIC}
    for said in ("loss nan", "at learning rates 0.0", "samples sample-", "2 windows"):
        assert said in text, text
    (root / "poison").unlink()
    code, text = finish(start(root, cluster.address, workers=1))
    assert code == 0, text
    assert text == quiet.printed  # to the byte: no skip was kept that did not help
    weights(root)  # and the invariants


@pytest.mark.slow
def test_a_run_whose_cluster_lost_a_node_and_then_its_head_is_continued_on_another(
    cluster: Any, quiet: Quiet, tmp_path: Path
) -> None:
    """The last test of this file, as the cluster is lost."""
    root = tmp_path / "broken"
    node = cluster.add_node(**node_arguments())
    process = start(root, cluster.address, workers=1)
    wait_for(lambda: len(lines(root / "worked")) >= 4, process)
    cluster.remove_node(node, allow_graceful=False)
    wait_for(lambda: bool(lines(root / "steps")), process)
    cluster.head_node.kill_gcs_server()
    code, text = finish(process)
    assert code == 1, text
    assert "Traceback" not in text
    cluster.shutdown()
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
