"""Finds the nodes of the cluster that still respond. Ray needs 15 seconds and more to notice that a node is gone."""

from collections.abc import Collection
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

RESPONSE_TIMEOUT_S = 40.0  # Ray checks nodes every 3 s and declares one dead after 5 missed responses


def _ping() -> bool:
    return True


def on_node(node_id: str) -> NodeAffinitySchedulingStrategy:
    """Schedule on this node only: a task fails rather than run on another one."""
    return NodeAffinitySchedulingStrategy(node_id=node_id, soft=False)


def responding_nodes(timeout_s: float = RESPONSE_TIMEOUT_S) -> Collection[str]:
    """Ids of the nodes that run a task within the timeout; returns early once each has responded or failed.

    To be called after a worker was lost, before anything new is scheduled.
    """
    ping = ray.remote(num_cpus=0, max_retries=0)(_ping)
    node_ids: dict[Any, str] = {
        ping.options(scheduling_strategy=on_node(node["NodeID"])).remote(): node["NodeID"]
        for node in ray.nodes()
        if node["Alive"]
    }
    done, _ = ray.wait(list(node_ids), num_returns=len(node_ids), timeout=timeout_s)
    return {node_ids[reference] for reference in done if _has_responded(reference)}


def _has_responded(reference: Any) -> bool:
    try:
        return bool(ray.get(reference))
    except ray.exceptions.RayError:
        return False
