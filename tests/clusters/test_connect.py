"""Joining a Ray cluster that another process started, with its token."""

import subprocess
import sys
from collections.abc import Iterator

import pytest

pytestmark = pytest.mark.ray

HEAD = """
import os, sys
from orchestrator.cluster.ray_cluster import Cluster, LocalRay
cluster = Cluster(LocalRay(cpus=3))
cluster.connect()
import ray
print(ray.get_runtime_context().gcs_address, os.environ["RAY_AUTH_TOKEN"], flush=True)
sys.stdin.read()
cluster.close()
"""
JOIN = """
import sys
from collections import Counter
from clusters.connect import connect
from clusters.profiles import RayProfile
from orchestrator.cluster.capacity import WorkerResources
cluster = connect(RayProfile(address=sys.argv[1]), {"RAY_AUTH_TOKEN": sys.argv[2]})
worker = cluster.spawn(Counter, "hello", resources=WorkerResources(cpus=1))
call = worker.call("most_common", 1)
assert cluster.wait([call], 60) == [call]
print(cluster.cpus, call.result())
"""


@pytest.fixture(scope="module")
def head() -> Iterator[list[str]]:
    """Address and token of a cluster that another process started."""
    command = [sys.executable, "-c", HEAD]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().split()
        process.communicate("")


def join(address: str, token: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", JOIN, address, token]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def test_a_cluster_of_another_process_is_joined_with_its_token(head: list[str]) -> None:
    address, token = head
    joined = join(address, token)
    assert joined.stdout == "3.0 [('l', 2)]\n", joined.stderr


def test_a_wrong_token_is_refused(head: list[str]) -> None:
    refused = join(head[0], "0" * 64)
    assert refused.returncode == 1
    assert f"NodeLostError: Ray at {head[0]} cannot be used" in refused.stderr
