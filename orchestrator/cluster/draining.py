"""Leaving a node before it is taken away: Ray places no new work there, trainings save, stage drivers leave.

Kubernetes, Slurm and the spot markets say ahead of time that a node goes. Nobody tells Ray, so this does. Trainings
ask Ray for it and commit a checkpoint; a node without work left ends at once. A node that is drained and then lost
counts as preempted, never against a stage's retries.
"""

import os
import signal
import socket
import time
from contextlib import suppress
from dataclasses import dataclass

import psutil

from orchestrator.cluster.ray_hooks import RayNode, drain_ray_node, find_bootstrap_address, ray_nodes
from orchestrator.errors import NodeLostError, PrecheckError

DRIVER_COMMAND = "stage-driver"  # the hidden command that runs one attempt of a stage on a cluster
PREEMPTION_SIGNAL = signal.SIGUSR2  # to a stage driver: its machines are taken away
_CONNECT_S = 2.0
_POLL_S = 0.5


@dataclass(frozen=True, kw_only=True)
class RayAddress:
    """Where a cluster is reached: `host:port` of its GCS."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    def answers(self) -> bool:
        """Without Ray's client, which waits 40 s for a cluster that is gone."""
        try:
            with socket.create_connection((self.host, self.port), timeout=_CONNECT_S):
                return True
        except OSError:
            return False


def cluster_address(given: str = "") -> RayAddress:
    """The address given, that of the environment (RAY_ADDRESS; KubeRay's FQ_RAY_IP), or of the Ray of this machine.

    Raises: PrecheckError: there is none.
    """
    kuberay = os.environ.get("FQ_RAY_IP", "")
    kuberay = f"{kuberay}:{os.environ.get('RAY_PORT', '6379')}" if kuberay else ""
    text = given or os.environ.get("RAY_ADDRESS", "") or kuberay or find_bootstrap_address()
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit():
        raise PrecheckError(
            f"Ray's address: found {text or 'none'!r}, expected HOST:PORT; run on a node of the cluster, or give "
            "--address"
        )
    return RayAddress(host=host, port=int(port))


def node_of_this_machine(address: RayAddress, node_id: str = "") -> RayNode:
    """The live node with this id, or the only live one of this machine.

    Raises:
        PrecheckError: there is none, or more than one.
        NodeLostError: the cluster does not answer.
    """
    if not address.answers():
        raise NodeLostError(f"Ray at {address} does not answer; nothing was drained")
    live = [node for node in ray_nodes(str(address)) if node.alive]
    if node_id:
        found = [node for node in live if node.node_id == node_id]
    else:
        own = _own_addresses()
        found = [node for node in live if node.ip in own]
    if len(found) == 1:
        return found[0]
    there = ", ".join(f"{node.node_id} at {node.ip}" for node in live) or "none"
    expected = f"node {node_id}" if node_id else "one node of this machine"
    raise PrecheckError(f"Ray at {address}: found {len(found)} of {expected}; live nodes: {there}. Give --node-id")


def drain(address: RayAddress, node: RayNode, *, message: str, within_s: float) -> None:
    """Tell Ray that a node goes in `within_s` seconds. May be repeated. Raises: NodeLostError: Ray does not take it."""
    refused = drain_ray_node(str(address), node.node_id, message=message, deadline_s=time.time() + within_s)
    if refused:
        raise NodeLostError(f"Ray at {address} does not drain node {node.node_id}: {refused}")


def wait_until_left(address: RayAddress, node: RayNode, within_s: float) -> bool:
    """Wait until a drained node has no work any more, at most so long. True: it has ended, or its cluster has."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if not address.answers() or not any(
            found.alive and found.node_id == node.node_id for found in ray_nodes(str(address))
        ):
            return True
        time.sleep(_POLL_S)
    return False


def notify_stage_drivers(address: RayAddress) -> list[int]:
    """Tell the stage drivers of this cluster on this machine that it is taken away; their process ids.

    They commit a checkpoint and leave with the code that asks for another attempt. Needed on the head node, which
    takes its cluster with it. Drivers of other clusters on the same machine are left alone.
    """
    told = []
    for process in psutil.process_iter(["cmdline", "environ"]):  # of processes of others, both are None
        words, variables = process.info["cmdline"] or [], process.info["environ"] or {}
        if DRIVER_COMMAND in words[:4] and _is_same(variables.get("RAY_ADDRESS", ""), address):
            with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
                process.send_signal(PREEMPTION_SIGNAL)
                told.append(process.pid)
    return told


def _is_same(text: str, address: RayAddress) -> bool:
    """Whether two addresses are one: equal, or one port of this machine."""
    host, _, port = text.rpartition(":")
    here = _own_addresses()
    return port == str(address.port) and (host == address.host or {host, address.host} <= here)


def _own_addresses() -> set[str]:
    return {entry.address for entries in psutil.net_if_addrs().values() for entry in entries} | {"localhost"}


def wait_for_processes(pids: list[int], within_s: float) -> bool:
    """True: all of them have ended in time."""
    deadline = time.monotonic() + within_s
    while (left := any(psutil.pid_exists(pid) for pid in pids)) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    return not left
