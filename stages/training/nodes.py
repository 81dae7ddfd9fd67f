"""Which nodes of the cluster still answer. Ray needs 15 seconds and more to notice that a node is gone."""

from collections.abc import Collection
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

ANSWER_S = 40.0  # Ray asks nodes every 3 s and gives them up after 5 answers that did not come


def _answer() -> bool:
    return True


def on_node(node_id: str) -> NodeAffinitySchedulingStrategy:
    """There and nowhere else."""
    return NodeAffinitySchedulingStrategy(node_id=node_id, soft=False)


def answering_nodes(timeout_s: float = ANSWER_S) -> Collection[str]:
    """Ids of the nodes that answer; comes back when each has answered or was given up by Ray, at last after the time.

    To be called after something was lost, before anything new is placed.
    """
    ask = ray.remote(num_cpus=0, max_retries=0)(_answer)
    asked: dict[Any, str] = {
        ask.options(scheduling_strategy=on_node(node["NodeID"])).remote(): node["NodeID"]
        for node in ray.nodes()
        if node["Alive"]
    }
    done, _ = ray.wait(list(asked), num_returns=len(asked), timeout=timeout_s)
    return {asked[reference] for reference in done if _answered(reference)}


def _answered(reference: Any) -> bool:
    try:
        return bool(ray.get(reference))
    except ray.exceptions.RayError:
        return False
