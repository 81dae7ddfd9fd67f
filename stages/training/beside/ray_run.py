"""One evaluation that runs beside a training: a task of Ray, with the resources of one training worker."""

from contextlib import suppress
from typing import Any

import ray
import torch

from orchestrator.stage import Resources
from stages.training.beside.side_run import Evaluated
from stages.training.workers.evaluation import evaluate_newest
from stages.training.workers.worker import WorkerSettings


class RayRun:
    """`SideRun` on any node that has room."""

    def __init__(self, settings: WorkerSettings, resources: Resources) -> None:
        task = ray.remote(num_cpus=resources.cpus, num_gpus=resources.gpus, max_retries=0)(_evaluate)
        self._task: Any = task.remote(settings)

    def result(self) -> Evaluated | None:
        try:
            step, metrics = ray.get(self._task, timeout=0)
        except ray.exceptions.GetTimeoutError:
            return None
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None) or error  # only errors of the task itself have one
            return Evaluated(error=f"{type(cause).__name__}: {cause}")
        return Evaluated(step=step, metrics=metrics)

    def close(self) -> None:
        with suppress(ray.exceptions.RayError):
            ray.cancel(self._task, force=True)


def has_room(resources: Resources) -> bool:
    """Whether the cluster has what one training worker takes; a task that waits would make it grow."""
    free = ray.available_resources()
    return bool(free.get("CPU", 0.0) >= resources.cpus and free.get("GPU", 0.0) >= resources.gpus)


def _evaluate(settings: WorkerSettings) -> tuple[int, dict[str, float]]:
    log = settings.logs.open(settings.beside)
    try:
        return evaluate_newest(settings, torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu"))
    finally:
        log.close()
