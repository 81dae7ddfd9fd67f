"""Ray clusters: starts a small local Ray or joins a cluster, and runs worker processes in it.

The only kernel file that imports Ray, but for `ray_hooks.py`. Ray is connected once for the whole process, when it is
first needed.
"""

import atexit
import logging
import math
import os
import pickle
import secrets
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from orchestrator.cluster import ray_hooks
from orchestrator.cluster.capacity import Capacity, NodeCapacity, SharedCluster, WorkerResources, all_together
from orchestrator.cluster.end_signals import keep_handlers
from orchestrator.cluster.jobs import JobLauncher
from orchestrator.errors import NodeLostError, StageCodeError
from orchestrator.redaction.masking import remember_secret

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 120.0  # 4 to 8 s are usual; loaded machines take longer
NODES_TIMEOUT_S = 600.0  # of a job's own cluster; images are pulled meanwhile
NODES_POLL_S = 1.0
SESSION_PREFIX = "il-"
MAX_PARENT_CHARACTERS = 20  # of the temporary folder's path
LOCAL_OBJECT_STORE_MIB = 128  # it carries records and metrics, not data


@dataclass(frozen=True, kw_only=True)
class LocalRay:
    """A Ray that this process starts on this machine, and that ends with it."""

    cpus: float = 0.0  # 0: the CPUs that this process may use
    gpus: float | None = None  # None: those that Ray detects
    memory_gib: float = 0.0  # for all stages together; 0: Ray decides
    object_store_mib: int = LOCAL_OBJECT_STORE_MIB
    # Training workers are processes of the stage, started without Ray. None: those of trainings without GPUs are.
    plain_training_workers: bool | None = None


@dataclass(frozen=True, kw_only=True)
class RayAddress:
    """The address of a running Ray cluster."""

    address: str  # "host:6379", or "ray-head.namespace:6379"
    token: str = field(default="", repr=False)  # "" means that the cluster runs without authentication


class Call:
    """A running method call in a worker process."""

    def __init__(self, reference: Any) -> None:
        self.reference = reference

    def result(self) -> Any:
        """The method's return value; only for calls that `Cluster.wait` returned. Raises Ray's errors."""
        import ray

        return ray.get(self.reference)


class WorkerProcess:
    """A process that holds one object; its calls run one at a time in the main thread."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def call(self, method: str, *arguments: Any) -> Call:
        """Call a method of the object. Raises: StageCodeError: an argument cannot be sent to another process."""
        try:
            return Call(getattr(self._actor, method).remote(*arguments))
        except (TypeError, pickle.PicklingError) as error:
            names = ", ".join(type(argument).__name__ for argument in arguments)
            raise StageCodeError(
                f"{names} cannot be sent to a worker process: {error.__cause__ or error}; a worker is a frozen "
                "dataclass of plain values that opens files, locks and connections in `start`"
            ) from error

    def kill(self) -> None:
        import ray

        ray.kill(self._actor, no_restart=True)


class Cluster:
    """This process's connection to Ray. Thread-safe."""

    def __init__(
        self,
        target: LocalRay | RayAddress | JobLauncher | None = None,
        *,
        stop_grace_s: float | None = None,
        autoscales: bool | None = None,
        shared: SharedCluster | None = None,
        nodes: int = 0,
    ) -> None:
        self.stop_grace_s = stop_grace_s  # between SIGTERM and the kill of this process; None: not stated
        own = target if isinstance(target, LocalRay | RayAddress) else None
        # If set, stages run as jobs there and none in this process.
        self.jobs: JobLauncher | None = None if isinstance(target, LocalRay | RayAddress) else target
        self._target: LocalRay | RayAddress = own or LocalRay()
        self._shared = shared  # of jobs: what the profile says of a cluster that has no queue of its own
        self._num_nodes = nodes  # that the cluster has once all have joined; 0: unknown
        self._autoscales = autoscales  # nodes are added on demand; None: not stated
        self._lock = threading.Lock()
        self._connected = False
        self._min_cpus = 0.0
        self._closing = threading.Event()
        self._session: Path | None = None
        self._by_value: set[str] = set()

    @property
    def cpus(self) -> float:
        """CPUs for all stages at one time.

        Known without Ray for a local one; a cluster is asked; unlimited for jobs, which wait on the cluster.
        """
        if self.jobs is not None:
            return math.inf
        if isinstance(self._target, LocalRay):
            return self._target.cpus or float(_available_cpus())
        return float(self._resources().get("CPU", 0.0))

    def has_plain_training_workers(self, *, gpus: float) -> bool:
        """Whether training workers with `gpus` each are processes of this one; else Ray Train starts them."""
        if self.jobs is not None or not isinstance(self._target, LocalRay):
            return False
        stated = self._target.plain_training_workers
        return not gpus if stated is None else stated

    def capacity(self, *, with_gpus: bool) -> Capacity | None:
        """What worker processes can get at most; None for jobs, which ask the cluster themselves.

        A local Ray runs more workers than CPUs; only `with_gpus` it is started to count its GPUs. A joined cluster
        without any GPU is taken for one that adds nodes on demand if GPUs are asked for and its profile says nothing.
        """
        if self.jobs is not None:
            return None
        if isinstance(self._target, LocalRay):
            return self._local_capacity(with_gpus=with_gpus)
        nodes = self._nodes()
        has_gpus = any(node.gpus for node in nodes)
        guess = not nodes or (with_gpus and not has_gpus)
        return Capacity(nodes=nodes, may_grow=guess if self._autoscales is None else self._autoscales)

    @property
    def is_local(self) -> bool:
        return self.jobs is None and isinstance(self._target, LocalRay)

    def shared(self, *, with_gpus: bool) -> SharedCluster | None:
        """What the runs here share; None: it is not known, grows on demand, or has a queue of its own."""
        if self.jobs is not None:
            return self._shared
        if isinstance(self._target, LocalRay):
            [node] = self._local_capacity(with_gpus=with_gpus).nodes
            return SharedCluster(name=f"machine {socket.gethostname()}", total=replace(node, cpus=self.cpus))
        capacity = self.capacity(with_gpus=with_gpus)
        if capacity is None or capacity.may_grow:
            return None
        return SharedCluster(name=f"ray {self._target.address}", total=all_together(capacity.nodes))

    def wait_for_nodes(self, is_stop_requested: Callable[[], bool]) -> None:
        """Wait until all nodes of a cluster that starts with this process have joined, or a stop is requested.

        Raises: NodeLostError: some did not within `NODES_TIMEOUT_S`.
        """
        deadline, said = time.monotonic() + NODES_TIMEOUT_S, -1
        while self._num_nodes and (found := len(self._nodes())) < self._num_nodes and not is_stop_requested():
            text = f"{self._target_text()}: {found} of {self._num_nodes} nodes have joined"
            if time.monotonic() > deadline:
                raise NodeLostError(
                    f"{text} after {NODES_TIMEOUT_S:.0f} s; look at the logs of the nodes that are missing"
                )
            if found != said:
                log.info("%s; waiting for the others", text)
            said = found
            time.sleep(NODES_POLL_S)

    def free(self) -> NodeCapacity:
        """What no worker has reserved now, on all nodes together."""
        import ray

        self.connect()
        return _node_capacity(ray.available_resources())

    def raise_local_cpu_limit(self, cpus: float) -> None:
        """Let a local Ray advertise at least this many CPUs, even if the machine has fewer. Call it before Ray starts.

        A stage that requests more CPUs than there are then runs slower instead of waiting for ever.
        """
        self._min_cpus = max(self._min_cpus, cpus)

    def connect(self) -> None:
        """Start or join Ray if this process has not done so.

        Raises:
            NodeLostError: it did not come up in time, or the address does not answer.
        """
        with self._lock:
            if self._connected:
                return
            import ray

            if not ray.is_initialized():
                self._run_owner_thread()
                atexit.register(self.close)
            self._connected = True
            for module in self._by_value:
                ray_hooks.send_by_value(sys.modules[module])

    def send_by_value(self, module: str) -> None:
        """Send the functions and classes of an imported module as they are: workers cannot import it by its name."""
        with self._lock:
            self._by_value.add(module)
            if self._connected:
                ray_hooks.send_by_value(sys.modules[module])

    def spawn(self, actor_class: type, *arguments: Any, resources: WorkerResources) -> WorkerProcess:
        """A new process that holds `actor_class(*arguments)`. Returns at once; Ray starts it when it can."""
        import ray

        self.connect()
        options: dict[str, Any] = {"num_cpus": resources.cpus, "num_gpus": resources.gpus}
        if resources.memory_gib:
            options["memory"] = int(resources.memory_gib * 1024**3)
        # The shard map does the retries: a restarted actor would run a shard again without the ledger knowing.
        actor = ray.remote(**options, max_restarts=0, max_task_retries=0)(actor_class)
        return WorkerProcess(actor.remote(*arguments))

    def wait(self, calls: Sequence[Call], timeout_s: float) -> list[Call]:
        """Wait until a call ends and return all that ended; empty after `timeout_s`."""
        import ray

        by_reference = {call.reference: call for call in calls}
        done, _ = ray.wait(list(by_reference), num_returns=1, timeout=timeout_s, fetch_local=False)
        if done and len(by_reference) > 1:  # also those that ended at the same time
            done, _ = ray.wait(list(by_reference), num_returns=len(by_reference), timeout=0, fetch_local=False)
        return [by_reference[reference] for reference in done]

    def close(self) -> None:
        """Disconnect from Ray; a local Ray ends."""
        with self._lock:
            if not self._connected:
                return
            import ray

            ray.shutdown()
            self._closing.set()
            self._connected = False
            if self._session is not None:
                shutil.rmtree(self._session, ignore_errors=True)

    def _local_capacity(self, *, with_gpus: bool) -> Capacity:
        gpus = float(self._resources().get("GPU", 0.0)) if with_gpus else 0.0
        memory_gib = self._target.memory_gib if isinstance(self._target, LocalRay) else 0.0
        return Capacity(nodes=[NodeCapacity(gpus=gpus, memory_gib=memory_gib or machine_memory_gib())])

    def _nodes(self) -> list[NodeCapacity]:
        import ray

        self.connect()
        return [_node_capacity(node["Resources"]) for node in ray.nodes() if node["Alive"]]

    def _resources(self) -> dict[str, float]:
        import ray

        self.connect()
        return dict(ray.cluster_resources())

    def _run_owner_thread(self) -> None:
        """Connect in a thread that lives as long as the process.

        Linux ends the processes of a local Ray when the thread that started them ends, and each stage runs in a thread
        that ends before the process.
        """
        self._closing = threading.Event()
        ready, failure = threading.Event(), list[BaseException]()

        def connect_and_hold() -> None:
            try:
                self._init()
            except BaseException as error:  # noqa: BLE001 - re-raised in the waiting thread
                failure.append(error)
            ready.set()
            self._closing.wait()

        threading.Thread(target=connect_and_hold, name="ray-owner", daemon=True).start()
        if not ready.wait(CONNECT_TIMEOUT_S):
            raise NodeLostError(f"{self._target_text()} did not come up within {CONNECT_TIMEOUT_S:.0f} s")
        if failure:
            self._closing.set()
            raise NodeLostError(f"{self._target_text()} cannot be used: {failure[0]}") from failure[0]

    def _target_text(self) -> str:
        return "Ray on this machine" if isinstance(self._target, LocalRay) else f"Ray at {self._target.address}"

    def _init(self) -> None:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        ray_hooks.hide_gpus_by_default()
        # By default Ray authenticates depending on files on the machine; explicit settings keep sessions separate.
        token = secrets.token_hex(32) if isinstance(self._target, LocalRay) else self._target.token
        os.environ["RAY_AUTH_MODE"] = "token" if token else "disabled"
        os.environ["RAY_AUTH_TOKEN"] = token
        remember_secret(token)
        import ray

        ray_hooks.read_environment_again()
        logging.getLogger("ray").setLevel(logging.ERROR)
        settings: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
        with keep_handlers():
            if isinstance(self._target, RayAddress):
                ray.init(address=self._target.address, **settings)
            else:
                self._session = _session_folder()
                ray.init(**settings, **_local_settings(self._target, self._min_cpus, self._session))
        ray_hooks.mute_lost_workers()


def _node_capacity(resources: Mapping[str, float]) -> NodeCapacity:
    return NodeCapacity(
        cpus=resources.get("CPU", 0.0),
        gpus=resources.get("GPU", 0.0),
        memory_gib=resources.get("memory", 0.0) / 1024**3,
    )


def machine_memory_gib() -> float:
    """The memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3


def _local_settings(target: LocalRay, min_cpus: float, session: Path) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "address": "local",
        "num_cpus": max(target.cpus or _available_cpus(), min_cpus),
        "include_dashboard": False,
        "object_store_memory": target.object_store_mib * 1024**2,
        **ray_hooks.local_settings(temp_dir=str(session), memory_bytes=int(target.memory_gib * 1024**3)),
    }
    if target.gpus is not None:
        settings["num_gpus"] = target.gpus
    return settings


def _session_folder() -> Path:
    """Make a session folder with a short path: paths of Unix sockets are limited to 107 characters.

    Also deletes the folders of drivers that were killed (on Linux).
    """
    parent = Path(tempfile.gettempdir())
    parent = parent if len(str(parent)) <= MAX_PARENT_CHARACTERS else Path("/tmp")
    for old in parent.glob(f"{SESSION_PREFIX}*-*"):
        pid = old.name.removeprefix(SESSION_PREFIX).partition("-")[0]
        if pid.isdecimal() and Path("/proc/self").exists() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(old, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{SESSION_PREFIX}{os.getpid()}-", dir=parent))


def _available_cpus() -> int:
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    return len(affinity(0)) if affinity else os.cpu_count() or 1
