"""A small KubeRay operator and Kueue: each RayJob of the stand-in API server becomes real Ray processes here.

It does what its manifest says: a head, a node for each replica of the workers, the entrypoint, the `preStop` hook of
the head before anything is ended. As with KubeRay 1.7, a RayJob is suspended before its pods have ended, and becomes
another cluster once it is admitted again. As with Kueue, each RayJob has a Workload, and the oldest that waits goes
first; a test takes the room away and gives it back.
"""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.clusters.kuberay.api_server import ApiServer
from tests.clusters.slurm.lab import free_ports

NO_ROOM = "couldn't assign flavors to pod set head: insufficient unused quota for cpu in flavor default, 4 more needed"
TAKEN = "Preempted to accommodate a workload (UID: 1, JobUID: 2) due to prioritization in the ClusterQueue"
_POLL_S = 0.2


@dataclass(kw_only=True)
class RayProcesses:
    """The cluster of one RayJob."""

    manifest: dict[str, Any]
    log: Path
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="k-", dir="/tmp")))  # short: sockets
    port: int = field(default_factory=lambda: free_ports(1)[0])
    token: str = field(default_factory=lambda: secrets.token_hex(16))
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    driver: subprocess.Popen[bytes] | None = None
    head_id: str = ""  # of the head's node; the hook needs it, as the nodes of one machine share its address

    @property
    def cluster(self) -> dict[str, Any]:
        found: dict[str, Any] = self.manifest["spec"]["rayClusterSpec"]
        return found

    @property
    def head(self) -> dict[str, Any]:
        (found,) = self.cluster["headGroupSpec"]["template"]["spec"]["containers"]
        return dict(found)

    def environment(self) -> dict[str, str]:
        given = {entry["name"]: entry["value"] for entry in self.head.get("env", ())}
        ray = {"RAY_ADDRESS": f"127.0.0.1:{self.port}", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}
        return {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", **given, **ray}

    def start(self) -> None:
        head = [
            "--head",
            f"--port={self.port}",
            "--include-dashboard=false",
            f"--temp-dir={self.folder}",
            "--num-cpus=0",
        ]
        self._ray(*head, f"--ray-client-server-port={free_ports(1)[0]}")
        for group in self.cluster["workerGroupSpecs"]:
            (container,) = group["template"]["spec"]["containers"]
            for _ in range(group["replicas"]):
                self._ray(f"--address=127.0.0.1:{self.port}", f"--num-cpus={container['resources']['requests']['cpu']}")
        with self.log.open("ab") as output:
            self.driver = subprocess.Popen(
                ["sh", "-c", f"exec {self.manifest['spec']['entrypoint']}"],
                env=self.environment(),
                stdout=output,
                stderr=output,
            )

    def stop(self, *, with_hooks: bool = True) -> None:
        if with_hooks:
            *shell, words = self.head["lifecycle"]["preStop"]["exec"]["command"]
            hook = [*shell, f"{words} --node-id {self.head_id}"]
            with self.log.open("ab") as output:
                subprocess.run(hook, env=self.environment(), stdout=output, stderr=output, check=False, timeout=120)
        for process in [*([self.driver] if self.driver else []), *self.processes]:
            with suppress(ProcessLookupError):
                process.kill() if process is self.driver else os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def find_head(self) -> None:
        """Asked in a process of its own, as the token of this cluster is not that of the test."""
        ask = (
            "from orchestrator.cluster.ray_hooks import ray_nodes\n"
            f"print(*[node.node_id for node in ray_nodes('127.0.0.1:{self.port}') if node.is_head])"
        )
        command = [sys.executable, "-c", ask]
        done = subprocess.run(command, env=self.environment(), capture_output=True, text=True, check=False)
        self.head_id = done.stdout.strip()

    def _ray(self, *words: str) -> None:
        """With --block `ray start` stays, in a group with everything that it started. A pod that fails is replaced."""
        ray = str(Path(sys.executable).parent / "ray")
        start = [ray, "start", *words, "--object-store-memory=100000000", "--disable-usage-stats", "--block"]
        command = ["bash", "-c", 'until "$@"; do sleep 1; done', "pod", *start]
        with self.log.open("ab") as output:
            started = subprocess.Popen(
                command, env=self.environment(), stdout=output, stderr=output, start_new_session=True
            )
        self.processes.append(started)


@dataclass(kw_only=True)
class Operator:
    """Watches the objects of the server until it is stopped."""

    server: ApiServer
    folder: Path
    running: dict[str, RayProcesses] = field(default_factory=dict)
    started: list[str] = field(default_factory=list)  # names of RayJobs, once for each cluster that was made
    has_room: bool = True  # in Kueue's quota
    _ending: list[threading.Thread] = field(default_factory=list)  # pods within their grace period
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> "Operator":
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        for thread in self._ending:
            thread.join()
        for found in self.running.values():
            found.stop(with_hooks=False)

    def log(self) -> str:
        return "\n".join(f"== {file.name}\n{file.read_text()[-6000:]}" for file in sorted(self.folder.glob("*.log")))

    def evict(self) -> None:
        """Kueue takes the nodes of the running job for other work; there is no room until the test says so."""
        self.has_room = False
        (name,) = self.running
        manifest = self.server.objects[name]
        evicted = _condition("Evicted", "True", "Preempted", TAKEN)
        pending = _condition("QuotaReserved", "False", "Pending", NO_ROOM)
        self.server.workloads[manifest["metadata"]["uid"]]["status"] = {"conditions": [evicted, pending]}
        manifest["spec"]["suspend"] = True

    def kill(self) -> None:
        """The machines of the running job lose their power."""
        (found,) = self.running.values()
        found.stop(with_hooks=False)

    def _watch(self) -> None:
        while not self._stop.wait(_POLL_S):
            for name, found in list(self.running.items()):
                self._look(name, found)
            for name, manifest in list(self.server.objects.items()):
                self._queue(manifest)
                if name not in self.running:
                    self._start_or_suspend(name, manifest)

    def _queue(self, manifest: dict[str, Any]) -> None:
        """As Kueue does: a Workload for each RayJob, admitted while there is room."""
        uid = manifest["metadata"]["uid"]
        if "kueue.x-k8s.io/queue-name" not in manifest["metadata"]["labels"]:
            return
        pending = _condition("QuotaReserved", "False", "Pending", NO_ROOM)
        workload = self.server.workloads.setdefault(
            uid, {"spec": {"active": True}, "status": {"conditions": [pending]}}
        )
        if self.has_room and manifest["spec"].get("suspend"):
            workload["status"] = {"conditions": [_condition("QuotaReserved", "True", "QuotaReserved", "")]}
            manifest["spec"]["suspend"] = False

    def _start_or_suspend(self, name: str, manifest: dict[str, Any]) -> None:
        status = manifest.setdefault("status", {})
        state = status.get("jobDeploymentStatus", "")
        if state == "Suspending":
            manifest["status"] = {"jobDeploymentStatus": "Suspended", "jobStatus": ""}
        elif state in ("", "Suspended") and not manifest["spec"].get("suspend"):
            self.started.append(name)
            cluster = f"{name}-{len(self.started)}"
            found = self.running[name] = RayProcesses(manifest=manifest, log=self.folder / f"{cluster}.log")
            manifest["status"] = {"jobDeploymentStatus": "Initializing", "rayClusterName": cluster}
            self.server.heads[cluster] = {"metadata": {"name": f"{cluster}-head"}, "status": {"phase": "Running"}}
            found.start()
            manifest["status"] |= {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}

    def _look(self, name: str, found: RayProcesses) -> None:
        if not found.head_id:
            found.find_head()
        manifest = self.server.objects.get(name)
        cluster = found.manifest["status"]["rayClusterName"]
        if manifest is None or manifest["spec"].get("suspend"):
            self.running.pop(name)
            if manifest is not None:
                manifest["status"] = {"jobDeploymentStatus": "Suspending", "jobStatus": "RUNNING"}
            self._ending.append(threading.Thread(target=self._end, args=(cluster, found)))
            self._ending[-1].start()
            return
        code = found.driver.poll() if found.driver is not None else None
        if code is not None:
            found.stop(with_hooks=False)
            self.server.heads.pop(cluster)
            self.running.pop(name)
            state, job = ("Complete", "SUCCEEDED") if code == 0 else ("Failed", "FAILED")
            manifest["status"] |= {"jobDeploymentStatus": state, "jobStatus": job, "message": f"exit code {code}"}

    def _end(self, cluster: str, found: RayProcesses) -> None:
        """The pods of a cluster that is deleted, in their grace period."""
        spec = found.cluster["headGroupSpec"]["template"]["spec"]
        deadline = time.gmtime(time.time() + spec["terminationGracePeriodSeconds"])
        metadata = self.server.heads[cluster]["metadata"]
        metadata["deletionTimestamp"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", deadline)
        found.stop()
        self.server.heads.pop(cluster)


def _condition(kind: str, status: str, reason: str, message: str) -> dict[str, str]:
    return {"type": kind, "status": status, "reason": reason, "message": message}
