"""Why a group on Ray Train ended: what `fit` raises, sorted by what decides about a retry. Its workers: tests/chaos."""

import pytest
import ray.exceptions
from ray.train.v2.api.exceptions import WorkerGroupError

from orchestrator.errors import NodeLostError
from stages.training.workers.ray_train_group import explain

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
