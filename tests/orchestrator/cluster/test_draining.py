"""Leaving a node: which node it is, whom it tells, and a real Ray that ends a drained node."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cluster import draining
from orchestrator.cluster.draining import (
    RayAddress,
    cluster_address,
    drain,
    node_of_this_machine,
    notify_stage_drivers,
    wait_for_processes,
    wait_until_left,
)
from orchestrator.cluster.ray_hooks import RayNode, ray_nodes, read_environment_again
from orchestrator.errors import NodeLostError, PrecheckError

NO_ADDRESS = ("RAY_ADDRESS", "FQ_RAY_IP", "RAY_PORT")
# A stage driver as `ps` shows it.
DRIVER = """
import signal, sys, time
signal.signal(signal.SIGUSR2, lambda *_: sys.exit(85))
print("up", flush=True)
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NO_ADDRESS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(draining, "find_bootstrap_address", lambda: "")


@pytest.fixture
def head() -> Iterator[RayAddress]:
    """A port that accepts connections, in place of a head."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield RayAddress(host="127.0.0.1", port=server.getsockname()[1])


@contextmanager
def stage_driver(folder: Path, address: RayAddress) -> Iterator[subprocess.Popen[str]]:
    """It is reaped when it ends, as the init of a container does."""
    script = folder / "illume"
    script.write_text(DRIVER)
    words = [sys.executable, str(script), "stage-driver", "run", "stage"]
    environment = {**os.environ, "RAY_ADDRESS": str(address)}
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        process.stdout.readline()
        threading.Thread(target=process.wait, daemon=True).start()
        yield process
        process.kill()


def node(node_id: str, ip: str = "127.0.0.1", *, is_head: bool = False, alive: bool = True) -> RayNode:
    return RayNode(node_id=node_id, ip=ip, is_head=is_head, alive=alive)


def know(monkeypatch: pytest.MonkeyPatch, nodes: Sequence[RayNode]) -> None:
    monkeypatch.setattr(draining, "ray_nodes", lambda _address: nodes)


@pytest.mark.parametrize(
    ("variables", "given", "address"),
    [
        ({}, "10.0.0.1:6379", "10.0.0.1:6379"),
        ({"RAY_ADDRESS": "head:6380"}, "", "head:6380"),
        ({"FQ_RAY_IP": "head.ns.svc.cluster.local"}, "", "head.ns.svc.cluster.local:6379"),
        ({"FQ_RAY_IP": "head.ns", "RAY_PORT": "7000"}, "", "head.ns:7000"),
    ],
)
def test_the_address_of_the_cluster(
    variables: dict[str, str], given: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert str(cluster_address(given)) == address


@pytest.mark.parametrize("given", ["", "head", "http://head:8265/x", ":6379"])
def test_no_address_says_what_to_give(given: str) -> None:
    with pytest.raises(PrecheckError, match=r"expected HOST:PORT.*--address"):
        cluster_address(given)


def test_the_node_is_the_live_one_of_this_machine(head: RayAddress, monkeypatch: pytest.MonkeyPatch) -> None:
    know(monkeypatch, [node("gone", alive=False), node("here"), node("there", "203.0.113.9")])
    assert node_of_this_machine(head).node_id == "here"
    assert node_of_this_machine(head, "there").node_id == "there"
    with pytest.raises(PrecheckError, match=r"found 0 of node gone; live nodes: here at 127.0.0.1, there at"):
        node_of_this_machine(head, "gone")


def test_two_nodes_of_one_machine_need_a_name(head: RayAddress, monkeypatch: pytest.MonkeyPatch) -> None:
    know(monkeypatch, [node("a"), node("b")])
    with pytest.raises(PrecheckError, match=r"found 2 of one node of this machine.*--node-id"):
        node_of_this_machine(head)


def test_a_cluster_that_is_gone_is_told_at_once() -> None:
    with pytest.raises(NodeLostError, match="does not answer; nothing was drained"):
        node_of_this_machine(RayAddress(host="127.0.0.1", port=9))


def test_stage_drivers_of_the_cluster_on_this_machine_are_told(head: RayAddress, tmp_path: Path) -> None:
    elsewhere = RayAddress(host="127.0.0.1", port=head.port + 1)
    with stage_driver(tmp_path, head) as driver, stage_driver(tmp_path, elsewhere) as neighbour:
        assert notify_stage_drivers(head) == [driver.pid]
        assert wait_for_processes([driver.pid], 30)
        assert driver.wait() == 85
        assert not wait_for_processes([neighbour.pid], 0.1)  # of another cluster on this machine


def test_work_that_stays_is_waited_for_until_the_time_is_over(
    head: RayAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    know(monkeypatch, [node("here")])
    assert not wait_until_left(head, node("here"), 0.6)
    know(monkeypatch, [node("here", alive=False)])
    assert wait_until_left(head, node("here"), 10.0)


def test_a_refusal_of_the_head_is_told(head: RayAddress, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draining, "drain_ray_node", lambda *_, **__: "it is not idle")
    with pytest.raises(NodeLostError, match="does not drain node here: it is not idle"):
        drain(head, node("here"), message="spot", within_s=5)


@pytest.mark.ray
def test_a_drained_node_of_a_real_ray_gets_no_work_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray.cluster_utils

    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    read_environment_again()
    arguments: dict[str, Any] = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 80 * 2**20}
    cluster = ray.cluster_utils.Cluster(initialize_head=True, head_node_args=arguments)
    try:
        added = cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
        address = cluster_address(cluster.address)
        found = node_of_this_machine(address, added.node_id)
        assert not found.is_head
        drain(address, found, message="spot", within_s=20)
        assert wait_until_left(address, found, 20)
        assert {known.node_id for known in ray_nodes(str(address)) if known.alive} != {added.node_id}
    finally:
        cluster.shutdown()
