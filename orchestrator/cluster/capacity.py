"""What a cluster can give to worker processes at most, and whether a group of them fits. Knows no Ray."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class WorkerResources:
    """The resources that Ray reserves for one worker process."""

    cpus: float
    gpus: float = 0.0
    memory_gib: float = 0.0


@dataclass(frozen=True, kw_only=True)
class NodeCapacity:
    """What a node offers to all workers together, busy ones included."""

    cpus: float = math.inf
    gpus: float = 0.0
    memory_gib: float = math.inf

    def room_for(self, worker: WorkerResources) -> float:
        """How many such workers it holds; `inf` if they ask for nothing that is limited."""
        amounts = ((self.cpus, worker.cpus), (self.gpus, worker.gpus), (self.memory_gib, worker.memory_gib))
        return min((_times(asks, has) for has, asks in amounts if asks), default=math.inf)


def _times(asks: float, has: float) -> float:
    if has == math.inf:
        return has
    return math.floor(has / asks + 1e-9)  # a share of a GPU has an inexact sum: ten workers of 0.1 fit one


@dataclass(frozen=True, kw_only=True)
class SharedCluster:
    """What runs share: all nodes of a cluster together."""

    name: str  # the same for all that share it, e.g. `ray head:6379`
    total: NodeCapacity


def all_together(nodes: Sequence[NodeCapacity]) -> NodeCapacity:
    return NodeCapacity(
        cpus=sum(node.cpus for node in nodes),
        gpus=sum(node.gpus for node in nodes),
        memory_gib=sum(node.memory_gib for node in nodes),
    )


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """The nodes of a cluster as it is, and whether more may come."""

    nodes: Sequence[NodeCapacity]
    may_grow: bool = False  # an autoscaler adds nodes; of which size is not known here

    def shortage(self, worker: WorkerResources, num_workers: int) -> str:
        """Why `num_workers` such workers can never run together here; empty if they can, or if nodes may come."""
        if self.may_grow or sum(node.room_for(worker) for node in self.nodes) >= num_workers:
            return ""
        for name, asks in vars(worker).items():
            largest = max((getattr(node, name) for node in self.nodes), default=0.0)  # the fields have equal names
            if asks > largest:
                return f"{name}: found {asks:g} for each worker, but the largest node has {_amount(largest)}"
        for name, asks in vars(worker).items():
            total = sum(getattr(node, name) for node in self.nodes)  # the fields have equal names
            if asks * num_workers > total + 1e-9:
                return (
                    f"{name}: found {asks:g} for each of {num_workers} workers, but all nodes together have "
                    f"{_amount(total)}"
                )
        room = sum(node.room_for(worker) for node in self.nodes)
        return f"workers: found {num_workers}, but the nodes hold {room:g} of this size ({describe(worker)})"


def describe(worker: WorkerResources) -> str:
    """For messages: `1 CPU, 2 GPUs, 4 GiB`."""
    amounts = ((worker.cpus, "CPU"), (worker.gpus, "GPU"))
    parts = [f"{amount:g} {unit}{'' if amount == 1 else 's'}" for amount, unit in amounts if amount]
    if worker.memory_gib:
        parts.append(f"{worker.memory_gib:g} GiB")
    return ", ".join(parts) or "nothing"


def _amount(value: float) -> str:
    return f"{value:.4g}"
