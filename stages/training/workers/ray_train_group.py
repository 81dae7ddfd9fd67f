"""Training workers on Ray Train, which starts them on the nodes of the cluster and makes their process group.

It does nothing else here. A failed worker group ends the attempt, so that one policy decides about retries.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch

from orchestrator.cluster import ray_hooks
from orchestrator.errors import NodeLostError, OrchestratorError
from orchestrator.stage import Resources, StageContext
from stages.training.watching.notices import Notice
from stages.training.watching.timeouts import collective_timeout_s
from stages.training.workers.nodes import on_node, responding_nodes
from stages.training.workers.reports import Report, WorkerReports
from stages.training.workers.worker import Steps, WorkerSettings, run_in_process, take_stacks

logger = logging.getLogger(__name__)

REPORT_WAIT_AFTER_S = 10.0  # workers that have room are scheduled within this time
HEALTH_CHECK_S = 0.5  # of Ray Train, between two
NODE_ID_LABEL = "ray.io/node-id"  # that Ray gives every node
STACKS_TIMEOUT_S = 60.0  # for all nodes together
_WAITING_STATES = frozenset({"PENDING", "RESCHEDULING"})  # of a placement group
_DEAD = frozenset({"ActorDiedError", "RayActorError", "ActorUnavailableError", "NodeDiedError"})


class RayTrainGroup:
    """`driver.WorkerGroup` of one attempt."""

    def __init__(self, settings: WorkerSettings, context: StageContext) -> None:
        context.connect_ray()
        os.environ.setdefault(ray_hooks.HEALTH_CHECK_INTERVAL_S, str(HEALTH_CHECK_S))
        os.environ.setdefault(ray_hooks.TRAIN_METRICS, "0")  # our metrics go to the tracker
        if context.resources.gpus:
            for name, value in ray_hooks.nccl_hang_detector(collective_timeout_s(context.retry.hang_after_s)).items():
                os.environ.setdefault(name, value)
        if len(ray.nodes()) == 1:  # the only node is never drained
            os.environ.setdefault(ray_hooks.PREEMPTION_WATCHER, "0")
        this_node = on_node(ray.get_runtime_context().get_node_id())  # the actor is lost only together with its reader
        self._reports = ray.remote(num_cpus=0, scheduling_strategy=this_node)(WorkerReports).remote()
        self._stage, self._stacks, self._context = context.stage_id, settings.stacks, context
        self._began = time.monotonic()
        asked = context.resources
        num_workers = f"{asked.min_workers} to {asked.workers}" if asked.min_workers else f"{asked.workers}"
        self._asked = f"{num_workers} workers with {asked.cpus:g} CPUs and {asked.gpus:g} GPUs each"
        trainer = _trainer(settings, self._reports, context)
        self._fit: Future[Any] = Future()
        # A daemon, and not waited for: `fit` has no end while the cluster has no room for the workers.
        name = f"fit-{context.stage_id}"
        threading.Thread(target=_complete, args=(self._fit, trainer.fit), name=name, daemon=True).start()

    def wait(self, timeout_s: float) -> bool:
        return bool(wait([self._fit], timeout=timeout_s).done)

    def collect(self, stop: bool) -> Report | None:
        try:
            report: Report = ray.get(self._reports.collect.remote(stop), timeout=30)
        except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError) as error:
            logger.warning("%s: no worker reports: %s", self._stage, _first_line(error))
            return None
        return report

    def stacks(self, processes: Mapping[int, tuple[str, int]], *, kill: bool) -> dict[int, str]:
        """One task on each node, all at the same time."""
        of_node: dict[str, dict[int, int]] = {}
        for rank, (node_id, pid) in processes.items():
            of_node.setdefault(node_id, {})[pid] = rank
        tasks = {
            node_id: _take_stacks.options(scheduling_strategy=on_node(node_id)).remote(list(ranks), self._stacks, kill)
            for node_id, ranks in of_node.items()
        }
        ray.wait(list(tasks.values()), num_returns=len(tasks), timeout=STACKS_TIMEOUT_S)
        found: dict[int, str] = {}
        for node_id, task in tasks.items():
            try:
                stacks = ray.get(task, timeout=0.1)
            except ray.exceptions.RayError as error:  # it did not answer, or is gone
                stacks = dict.fromkeys(of_node[node_id], f"no stacks: {_first_line(error)}")
            found |= {of_node[node_id][pid]: text for pid, text in stacks.items()}
        return found

    def has_spare(self, nodes: Collection[str]) -> bool:
        return num_placeable(ray.nodes(), self._context.resources, without=nodes) >= self._context.resources.workers

    def waiting_for(self) -> str:
        """The placement group of the workers is pending for as long as the nodes have no room for it."""
        if time.monotonic() - self._began < REPORT_WAIT_AFTER_S:
            return ""
        if not any(group["state"] in _WAITING_STATES for group in ray.util.placement_group_table().values()):
            return ""
        free = ray.available_resources()
        has = f"{free.get('CPU', 0.0):g} CPUs, {free.get('GPU', 0.0):g} GPUs"
        return f"{self._asked}; free: {has}"

    def error(self) -> BaseException | None:
        return self._fit.exception()

    def explain(self, error: BaseException, processes: Mapping[int, tuple[str, int]]) -> Exception:
        nodes = {rank: node_id for rank, (node_id, _) in processes.items()}
        return explain(error, nodes, responding_nodes())

    def close(self) -> None:
        """Does nothing: a `fit` that has not ended is that of a driver that stops, and ends with it."""


def num_placeable(nodes: Sequence[Mapping[str, Any]], resources: Resources, *, without: Collection[str]) -> int:
    """How many workers the living nodes (as `ray.nodes`) hold together, were they free; `without` some, by name."""
    needed = {"CPU": resources.cpus, "GPU": resources.gpus}
    return sum(
        min(int(node["Resources"].get(name, 0.0) / amount) for name, amount in needed.items() if amount)
        for node in nodes
        if node["Alive"] and node["NodeManagerHostname"] not in without
    )


def avoiding(nodes: Sequence[Mapping[str, Any]], resources: Resources, avoided: Collection[str]) -> dict[str, str]:
    """Ray's label selector that leaves out the avoided nodes; {} if there are none, or not enough others."""
    found = [node["NodeID"] for node in nodes if node["Alive"] and node["NodeManagerHostname"] in avoided]
    if not found:
        return {}
    if num_placeable(nodes, resources, without=avoided) < resources.workers:
        logger.warning("no nodes to spare: the workers may start on %s again", ", ".join(sorted(avoided)))
        return {}
    return {NODE_ID_LABEL: f"!in({','.join(sorted(found))})"}


def _complete(future: Future[Any], call: Callable[[], Any]) -> None:
    try:
        future.set_result(call())
    except BaseException as error:  # noqa: BLE001 - re-raised where the result is read
        future.set_exception(error)


def explain(error: BaseException, nodes: Mapping[int, str], responding: Collection[str]) -> Exception:
    """Why Ray Train's `fit` raised `error`. `nodes`: of the workers, by rank; `responding`: those that still do."""
    failures = ray_hooks.worker_failures(error)
    if lost := sorted(rank for rank, node_id in nodes.items() if node_id not in responding):
        workers = ", ".join(f"worker {rank} on node {nodes[rank][:12]}" for rank in lost)
        return NodeLostError(f"nodes of training workers no longer respond: {workers}")
    for rank, cause in sorted(failures.items()):
        if type(cause).__name__ in _DEAD:
            return NodeLostError(f"training worker {rank} died: {_first_line(cause)}")
    return RuntimeError(str(next(iter(failures.values()), error)))


class _ActorLink:
    """`worker.DriverLink` through the `WorkerReports` actor."""

    def __init__(self, reports: Any, rank: int) -> None:
        self._reports, self._rank = reports, rank
        self._pending: Any = None
        self._stop = False

    def register(self) -> None:
        node_id = ray.get_runtime_context().get_node_id()
        self._reports.register.remote(self._rank, node_id, os.getpid())

    def notify(self, notice: Notice) -> None:
        self._reports.notify.remote(notice)

    def send(self, newest_step: int, steps: Steps) -> None:
        if self._pending is not None and ray.wait([self._pending], timeout=0)[0]:
            self._stop = ray.get(self._pending)
        self._pending = self._reports.send.remote(self._rank, newest_step, steps)

    def fail(self, error: OrchestratorError) -> None:
        ray.get(self._reports.fail.remote(error))

    def stop_requested(self) -> bool:
        return self._stop

    def preempted(self) -> bool:
        """Ray keeps the signals of its workers to itself, and says what happens to their nodes."""
        return False

    def look_for_preemption(self) -> Mapping[str, Any] | None:
        found = ray.train.get_preemption_info()
        if found is None:
            return None
        return {"nodes": found.preempted_node_ids, "workers": found.preempted_ranks, "deadline_ms": found.deadline_ms}

    def close(self) -> None:
        ray.wait([self._pending], timeout=10)


def _worker(config: dict[str, Any]) -> None:
    """The train function of one Ray Train worker."""
    context = ray.train.get_context()
    rank = context.get_world_rank()
    run_in_process(
        config["settings"],
        rank=rank,
        world_size=context.get_world_size(),
        device=ray.train.torch.get_device(),
        link=_ActorLink(config["reports"], rank),
    )


def _trainer(settings: WorkerSettings, reports: Any, context: StageContext) -> ray.train.torch.TorchTrainer:
    resources = context.resources
    limit_s = collective_timeout_s(context.retry.hang_after_s)
    per_worker = {"CPU": resources.cpus, "GPU": resources.gpus}
    # No dataset is read by Ray Train, and placement groups end with the driver's job.
    return ray_hooks.without_unused_helpers(ray.train.torch.TorchTrainer)(
        _worker,
        train_loop_config={"settings": settings, "reports": reports},
        torch_config=ray.train.torch.TorchConfig(timeout_s=int(limit_s)),
        scaling_config=ray.train.ScalingConfig(
            num_workers=(resources.min_workers, resources.workers) if resources.min_workers else resources.workers,
            use_gpu=resources.gpus > 0,
            resources_per_worker={name: amount for name, amount in per_worker.items() if amount},
            label_selector=avoiding(ray.nodes(), resources, context.avoided_nodes) or None,
        ),
        run_config=ray.train.RunConfig(
            name=context.attempt_id,
            storage_path=str(context.scratch / "ray_train"),
            failure_config=ray.train.FailureConfig(max_failures=0),
        ),
    )


@ray.remote(num_cpus=0)
def _take_stacks(pids: list[int], folder: Path, kill: bool) -> dict[int, str]:
    return take_stacks(pids, folder, kill=kill)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
