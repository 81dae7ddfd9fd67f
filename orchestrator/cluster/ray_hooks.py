"""All private parts of Ray that this project uses, as they were seen in `SEEN_IN`; Ray may change them without notice.

No other file names a private part. Each has a function or constant here and an entry in `HOOKS`, which says where it
is in Ray; a test looks each of them up, so that an upgrade of Ray that lacks one fails there and not in a run.
"""

import functools
import importlib
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

SEEN_IN = "2.60.0"

# Attributes of Ray's errors, read by name because the errors are classified without importing Ray.
WRAPPED_ERRORS = ("cause", "controller_failure", "health_check_failure", "_base_exc")  # the error inside another one
WORKER_FAILURES = "worker_failures"  # of the workers of a training, by rank
PREEMPTED = "_preempted"  # True: the node of the actor was taken away

# Environment variables of Ray Train that have no public setting.
HEALTH_CHECK_INTERVAL_S = "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"
TRAIN_METRICS = "RAY_TRAIN_METRICS_ENABLED"
PREEMPTION_WATCHER = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"

NCCL_HANG_DETECTOR = "RAY_TRAIN_ENABLE_NCCL_HANG_DETECTOR"
NCCL_HANG_ACTION = "RAY_TRAIN_NCCL_RAS_ACTION"
NCCL_HANG_CONFIRM_S = "RAY_TRAIN_NCCL_RAS_CONFIRM_DURATION_S"

UNUSED_CALLBACKS = ("DatasetsCallback", "PlacementGroupCleanerCallback")  # each starts a process of its own


@dataclass(frozen=True, kw_only=True)
class Hook:
    """A private part of Ray: text that its module must contain, or a name that must be found in it."""

    module: str
    name: str = ""  # dotted, below the module
    text: str = ""  # in the source of the module
    why: str


HOOKS = (
    Hook(module="ray._raylet", name="Config.initialize", why="read the environment again"),
    Hook(module="ray._raylet", name="AuthenticationTokenLoader.instance", why="read the token again"),
    Hook(module="ray._private.worker", name="_worker_logs_enabled", why="no lines about dead workers on our output"),
    Hook(module="ray._private.worker", text="_node_ip_address", why="a local Ray listens on this machine only"),
    Hook(module="ray._private.worker", text="_temp_dir", why="short paths of sockets"),
    Hook(module="ray._private.worker", text="_memory", why="memory of a local Ray"),
    Hook(module="ray.cloudpickle", name="register_pickle_by_value", why="send the code of a plugin file to workers"),
    Hook(module="ray._private.accelerators", name="RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO_ENV_VAR", why="hide GPUs"),
    Hook(
        module="ray.train.v2.api.data_parallel_trainer",
        name="DataParallelTrainer._create_default_callbacks",
        why="leave out helper processes",
    ),
    *(
        Hook(module="ray.train.v2.api.data_parallel_trainer", text=callback, why="leave out helper processes")
        for callback in UNUSED_CALLBACKS
    ),
    Hook(module="ray._raylet", name="InnerGcsClient.drain_node", why="leave a node that is taken away"),
    Hook(module="ray._raylet", name="InnerGcsClient.get_all_node_info", why="find the node of this machine"),
    Hook(module="ray._private.services", name="canonicalize_bootstrap_address", why="find the Ray of this machine"),
    Hook(
        module="ray.core.generated.autoscaler_pb2",
        name="DRAIN_NODE_REASON_PREEMPTION",
        why="a drained node counts as preempted",
    ),
    *(
        Hook(module="ray.train.v2._internal.constants", text=variable, why="settings of Ray Train")
        for variable in (
            HEALTH_CHECK_INTERVAL_S,
            TRAIN_METRICS,
            PREEMPTION_WATCHER,
            NCCL_HANG_DETECTOR,
            NCCL_HANG_ACTION,
            NCCL_HANG_CONFIRM_S,
        )
    ),
    Hook(module="ray.exceptions", text="self.cause", why="the error inside a RayTaskError"),
    Hook(module="ray.exceptions", text=f"self.{PREEMPTED}", why="preemption is not the fault of the work"),
    Hook(module="ray.train.v2.api.exceptions", text=f"self.{WORKER_FAILURES}", why="which worker failed, and why"),
    Hook(module="ray.train.v2.api.exceptions", text="self.controller_failure", why="the error inside another one"),
    Hook(module="ray.train.v2._internal.exceptions", text="self.health_check_failure", why="the error inside another"),
    Hook(module="ray.train.v2._internal.exceptions", text="self._base_exc", why="the error inside another one"),
)


def missing_hooks() -> list[str]:
    """What this Ray lacks of `HOOKS`, as sentences."""
    import ray

    return [
        f"{hook.module}: no {hook.name or hook.text!r} in Ray {ray.__version__} (seen in {SEEN_IN}): {hook.why}"
        for hook in HOOKS
        if not _is_there(hook)
    ]


def _is_there(hook: Hook) -> bool:
    try:
        module: ModuleType = importlib.import_module(hook.module)
        if hook.text:
            return hook.text in inspect.getsource(module)
        functools.reduce(getattr, hook.name.split("."), module)
    except (ImportError, AttributeError, OSError):
        return False
    return True


@dataclass(frozen=True, kw_only=True)
class RayNode:
    """A node as the head of its cluster knows it."""

    node_id: str
    ip: str
    is_head: bool
    alive: bool


def find_bootstrap_address() -> str:
    """`host:port` of the cluster that this machine belongs to; "": of none."""
    from ray._private.services import canonicalize_bootstrap_address

    return canonicalize_bootstrap_address("auto") or ""


def ray_nodes(address: str) -> Sequence[RayNode]:
    """Raises: ray.exceptions.RpcError: after 40 s without an answer."""
    import ray._raylet

    infos = ray._raylet.GcsClient(address=address).get_all_node_info(timeout=10)
    return [
        RayNode(node_id=key.hex(), ip=info.node_manager_address, is_head=info.is_head_node, alive=info.state == 0)
        for key, info in infos.items()
    ]


def drain_ray_node(address: str, node_id: str, *, message: str, deadline_s: float) -> str:
    """Why the head refuses to drain a node (seconds of the epoch until it goes); "": it does."""
    import ray._raylet
    from ray.core.generated.autoscaler_pb2 import DRAIN_NODE_REASON_PREEMPTION

    accepted, refusal = ray._raylet.GcsClient(address=address).drain_node(
        node_id, DRAIN_NODE_REASON_PREEMPTION, message, int(deadline_s * 1000)
    )
    return "" if accepted else refusal or "it was not accepted"


def read_environment_again() -> None:
    """Make Ray read its settings and its token again: a stage may have imported it before they were set."""
    import ray._raylet

    ray._raylet.Config.initialize("")
    ray._raylet.AuthenticationTokenLoader.instance().reset_cache()


def hide_gpus_by_default() -> None:
    """Workers without requested GPUs see none."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")


def mute_lost_workers() -> None:
    """Stop Ray from reporting dead workers on our standard output; the stage logs that itself."""
    import ray._private.worker

    ray._private.worker._worker_logs_enabled = False


def local_settings(*, temp_dir: str, memory_bytes: int) -> dict[str, Any]:
    """Settings of `ray.init` for a Ray that only this machine reaches; `memory_bytes` 0: Ray decides."""
    memory = {"_memory": memory_bytes} if memory_bytes else {}
    return {"_node_ip_address": "127.0.0.1", "_temp_dir": temp_dir, **memory}


def send_by_value(module: ModuleType) -> None:
    """Send functions and classes of a module as they are, for workers that cannot import it."""
    import ray.cloudpickle

    ray.cloudpickle.register_pickle_by_value(module)


def nccl_hang_detector(collective_timeout_s: float) -> Mapping[str, str]:
    """Environment that makes Ray Train compare the operation counts of NCCL's ranks, and fail a hung group.

    Half the time-out of a collective operation confirms a hang, so that it is found before NCCL destroys the evidence.
    """
    return {
        NCCL_HANG_DETECTOR: "1",
        NCCL_HANG_ACTION: "fail",
        NCCL_HANG_CONFIRM_S: str(collective_timeout_s / 2),
    }


def without_unused_helpers(trainer_class: type[Any]) -> type[Any]:
    """A trainer of Ray Train that starts no `UNUSED_CALLBACKS`; each of their processes takes seconds of a core."""
    create: Callable[[Any], list[Any]] = trainer_class._create_default_callbacks

    def needed(trainer: Any) -> list[Any]:
        return [callback for callback in create(trainer) if type(callback).__name__ not in UNUSED_CALLBACKS]

    return type(trainer_class.__name__, (trainer_class,), {"_create_default_callbacks": needed})


def worker_failures(error: BaseException | None) -> Mapping[int, BaseException]:
    """The errors of the workers of a training, by rank; of a worker that did not answer, the error of the check."""
    failures: Mapping[int, BaseException] = getattr(error, WORKER_FAILURES, {})  # only a WorkerGroupError has them
    return {rank: getattr(failure, "health_check_failure", failure) for rank, failure in failures.items()}
