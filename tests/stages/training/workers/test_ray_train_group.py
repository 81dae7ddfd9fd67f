"""Why a group on Ray Train ended: what `fit` raises, sorted by what decides about a retry. Its workers: tests/chaos."""

from typing import Any

import pytest
import ray.exceptions
from ray.train.v2.api.exceptions import WorkerGroupError

from orchestrator.errors import NodeLostError
from orchestrator.stage import Resources
from stages.training.workers.ray_train_group import avoiding, explain, num_placeable

NODES = {0: "a" * 40, 1: "b" * 40}
BOTH = set(NODES.values())


class HealthCheckFailedError(Exception):
    """As Ray's WorkerHealthCheckFailedError."""

    def __init__(self, cause: Exception) -> None:
        super().__init__("health check failed")
        self.health_check_failure = cause


def group_error(**failures: Exception) -> WorkerGroupError:
    return WorkerGroupError("failed", {int(rank[1:]): failure for rank, failure in failures.items()})


def test_a_node_that_no_longer_responds_explains_every_error() -> None:
    found = explain(group_error(_0=RuntimeError("connection closed by peer")), NODES, {NODES[0]})
    assert isinstance(found, NodeLostError)
    assert str(found) == "nodes of training workers no longer respond: worker 1 on node bbbbbbbbbbbb"


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_worker_that_died_explains_the_errors_of_the_others(wrapped: bool) -> None:
    died = ray.exceptions.RayActorError(error_msg="the worker died\nwith details")
    failure = HealthCheckFailedError(died) if wrapped else died
    found = explain(group_error(_1=failure, _0=RuntimeError("connection closed by peer")), NODES, BOTH)
    assert isinstance(found, NodeLostError)
    assert str(found).startswith("training worker 1 died: ")
    assert "with details" not in str(found)


def test_otherwise_a_worker_s_error_is_told_as_it_is() -> None:
    found = explain(group_error(_1=ValueError("columns: found 3")), NODES, BOTH)
    assert type(found) is RuntimeError
    assert str(found) == "columns: found 3"
    assert str(explain(OSError("no space"), {}, set())) == "no space"


def node(name: str, *, cpus: float = 8.0, gpus: float = 2.0, alive: bool = True) -> dict[str, Any]:
    """As in `ray.nodes`."""
    return {
        "NodeID": f"id-of-{name}",
        "NodeManagerHostname": name,
        "Alive": alive,
        "Resources": {"CPU": cpus, "GPU": gpus, "memory": 1e9},
    }


CLUSTER = [node("a"), node("b"), node("c"), node("gone", alive=False), node("head", gpus=0.0)]


def test_nodes_to_avoid_are_left_out_by_a_label_where_the_others_have_room() -> None:
    four = Resources(workers=4, cpus=2.0, gpus=1.0)
    assert num_placeable(CLUSTER, four, without=()) == 6
    assert num_placeable(CLUSTER, four, without={"b"}) == 4
    assert avoiding(CLUSTER, four, {"b"}) == {"ray.io/node-id": "!in(id-of-b)"}
    assert avoiding(CLUSTER, four, {"gone", "elsewhere"}) == {}
    assert avoiding(CLUSTER, four, ()) == {}


def test_no_node_is_avoided_that_cannot_be_spared(caplog: pytest.LogCaptureFixture) -> None:
    """A training that waits for ever for another node is worse than one on a slow node."""
    assert avoiding(CLUSTER, Resources(workers=5, cpus=2.0, gpus=1.0), {"b"}) == {}
    assert "no nodes to spare: the workers may start on b again" in caplog.text


def test_ray_reads_the_label_selector() -> None:
    from ray._private.label_utils import validate_label_selector

    selector = avoiding(CLUSTER, Resources(workers=1), {"a", "b"})
    assert validate_label_selector(selector) is None
