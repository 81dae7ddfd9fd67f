"""Ray: starting a small local one or joining a cluster, and worker processes in it. The only kernel file that names it.

Ray is connected once for the whole process, when something first needs it.
"""

import atexit
import logging
import math
import os
import secrets
import shutil
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.cluster.ray_jobs import RayJobs
from orchestrator.errors import NodeLostError

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 120.0  # 4 to 8 s are usual; loaded machines take longer
SESSION_PREFIX = "il-"
MAX_PARENT_CHARACTERS = 20  # of the folder for temporary files
LOCAL_OBJECT_STORE_MIB = 128  # records and metrics pass through it, not data


@dataclass(frozen=True, kw_only=True)
class LocalRay:
    """A Ray of our own on this machine, which ends with this process."""

    cpus: float = 0.0  # 0: the processors that this process may use
    gpus: float | None = None  # None: those that Ray finds
    memory_gib: float = 0.0  # what stages may ask for together; 0: Ray decides
    object_store_mib: int = LOCAL_OBJECT_STORE_MIB


@dataclass(frozen=True, kw_only=True)
class RayAddress:
    """A Ray that is there already."""

    address: str  # "host:6379", or "ray-head.namespace:6379"
    token: str = field(default="", repr=False)  # "" means that the cluster runs without authentication


@dataclass(frozen=True, kw_only=True)
class WorkerNeeds:
    """What Ray sets aside for one worker process."""

    cpus: float
    gpus: float = 0.0
    memory_gib: float = 0.0


class Call:
    """A method call under way in a worker process."""

    def __init__(self, reference: Any) -> None:
        self.reference = reference

    def result(self) -> Any:
        """What the method returned; only for calls that `Cluster.wait` named as done. Raises Ray's errors."""
        import ray

        return ray.get(self.reference)


class WorkerProcess:
    """One process that holds one object; calls run one after the other in its main thread."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def call(self, method: str, *arguments: Any) -> Call:
        return Call(getattr(self._actor, method).remote(*arguments))

    def kill(self) -> None:
        import ray

        ray.kill(self._actor, no_restart=True)


class Cluster:
    """The Ray of this process. Safe to use from several threads."""

    def __init__(self, where: LocalRay | RayAddress | RayJobs | None = None) -> None:
        self.jobs = where if isinstance(where, RayJobs) else None  # stages run there, and nothing in this process
        self._where: LocalRay | RayAddress = where if where and not isinstance(where, RayJobs) else LocalRay()
        self._lock = threading.Lock()
        self._connected = False
        self._least_cpus = 0.0
        self._closing = threading.Event()
        self._session: Path | None = None

    @property
    def cpus(self) -> float:
        """Processors for stages at one time. Known without Ray for a local one; asks a cluster; jobs wait there."""
        if self.jobs is not None:
            return math.inf
        if isinstance(self._where, LocalRay):
            return self._where.cpus or float(_own_cpus())
        return float(self._resources().get("CPU", 0.0))

    def gpus(self) -> float:
        if self.jobs is not None:
            return math.inf
        return float(self._resources().get("GPU", 0.0))

    def make_room_for(self, cpus: float) -> None:
        """Let a local Ray, before it starts, hand out this many processors even if the machine has fewer.

        A stage that asks for more than there is then runs slower instead of waiting for ever.
        """
        self._least_cpus = max(self._least_cpus, cpus)

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

    def spawn(self, holder: type, *arguments: Any, needs: WorkerNeeds) -> WorkerProcess:
        """A new process that holds `holder(*arguments)`. Comes back at once; Ray starts it when there is room."""
        import ray

        self.connect()
        options: dict[str, Any] = {"num_cpus": needs.cpus, "num_gpus": needs.gpus}
        if needs.memory_gib:
            options["memory"] = int(needs.memory_gib * 1024**3)
        # Retries are ours: a restarted actor would run a shard again behind the ledger's back.
        actor = ray.remote(**options, max_restarts=0, max_task_retries=0)(holder)
        return WorkerProcess(actor.remote(*arguments))

    def wait(self, calls: Sequence[Call], timeout_s: float) -> list[Call]:
        """The calls that have ended, as soon as there is one; none after `timeout_s`."""
        import ray

        by_reference = {call.reference: call for call in calls}
        done, _ = ray.wait(list(by_reference), num_returns=1, timeout=timeout_s, fetch_local=False)
        if done and len(by_reference) > 1:  # also those that ended at the same time
            done, _ = ray.wait(list(by_reference), num_returns=len(by_reference), timeout=0, fetch_local=False)
        return [by_reference[reference] for reference in done]

    def close(self) -> None:
        """Leave Ray; a local one ends."""
        with self._lock:
            if not self._connected:
                return
            import ray

            ray.shutdown()
            self._closing.set()
            self._connected = False
            if self._session is not None:
                shutil.rmtree(self._session, ignore_errors=True)

    def _resources(self) -> dict[str, float]:
        import ray

        self.connect()
        return dict(ray.cluster_resources())

    def _run_owner_thread(self) -> None:
        """Connect in a thread that lives as long as the process.

        Linux ends the processes of a local Ray when the thread that started them ends, and stages come and go in
        threads of their own.
        """
        self._closing = threading.Event()
        ready, failure = threading.Event(), list[BaseException]()

        def own() -> None:
            try:
                self._init()
            except BaseException as error:  # noqa: BLE001 - handed to the thread that waits for it
                failure.append(error)
            ready.set()
            self._closing.wait()

        threading.Thread(target=own, name="ray-owner", daemon=True).start()
        if not ready.wait(CONNECT_TIMEOUT_S):
            raise NodeLostError(f"{self._place()} did not come up within {CONNECT_TIMEOUT_S:.0f} s")
        if failure:
            self._closing.set()
            raise NodeLostError(f"{self._place()} cannot be used: {failure[0]}") from failure[0]

    def _place(self) -> str:
        return "Ray on this machine" if isinstance(self._where, LocalRay) else f"Ray at {self._where.address}"

    def _init(self) -> None:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")  # no GPU asked for, no GPU seen
        # Ray turns authentication on or off by what it finds on the machine; being explicit keeps sessions apart.
        token = secrets.token_hex(32) if isinstance(self._where, LocalRay) else self._where.token
        os.environ["RAY_AUTH_MODE"] = "token" if token else "disabled"
        os.environ["RAY_AUTH_TOKEN"] = token
        import ray
        import ray._raylet

        # A stage may have imported Ray before, which read the environment then.
        ray._raylet.Config.initialize("")
        ray._raylet.AuthenticationTokenLoader.instance().reset_cache()
        logging.getLogger("ray").setLevel(logging.ERROR)
        settings: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
        if isinstance(self._where, RayAddress):
            ray.init(address=self._where.address, **settings)
        else:
            self._session = _session_folder()
            ray.init(**settings, **_local_settings(self._where, self._least_cpus, self._session))
        # Its raylet also reports every dead worker on our standard output; the stage says that in its own words.
        ray._private.worker._worker_logs_enabled = False


def _local_settings(where: LocalRay, least_cpus: float, session: Path) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "address": "local",
        "num_cpus": max(where.cpus or _own_cpus(), least_cpus),
        "include_dashboard": False,
        "object_store_memory": where.object_store_mib * 1024**2,
        "_node_ip_address": "127.0.0.1",
        "_temp_dir": str(session),
    }
    if where.gpus is not None:
        settings["num_gpus"] = where.gpus
    if where.memory_gib:
        settings["_memory"] = int(where.memory_gib * 1024**3)
    return settings


def _session_folder() -> Path:
    """A folder of our own with a short name: the paths of Unix sockets in it end after 107 characters.

    Folders of drivers that were killed go away here (on Linux).
    """
    parent = Path(tempfile.gettempdir())
    parent = parent if len(str(parent)) <= MAX_PARENT_CHARACTERS else Path("/tmp")
    for old in parent.glob(f"{SESSION_PREFIX}*-*"):
        pid = old.name.removeprefix(SESSION_PREFIX).partition("-")[0]
        if pid.isdecimal() and Path("/proc/self").exists() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(old, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{SESSION_PREFIX}{os.getpid()}-", dir=parent))


def _own_cpus() -> int:
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    return len(affinity(0)) if affinity else os.cpu_count() or 1
