"""Five queued runs of two persons on one Ray of two nodes: order, room that is made, and nothing paid for twice."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.history.events import Event
from tests.orchestrator.scheduler.serving import place

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

HEAD = """
import os, sys
os.environ.update(RAY_AUTH_MODE="disabled", RAY_AUTH_TOKEN="")
import ray.cluster_utils
node = {"num_cpus": 2, "include_dashboard": False, "object_store_memory": 80 * 2**20}
cluster = ray.cluster_utils.Cluster(initialize_head=True, head_node_args=node)
cluster.add_node(num_cpus=2, object_store_memory=80 * 2**20)
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""
SHARDS, LARGE = 6, 32


@pytest.fixture
def address() -> Iterator[str]:
    """Of a Ray with two nodes of two processors."""
    command = [sys.executable, "-c", HEAD]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as head:
        assert head.stdout is not None
        yield next(line.strip() for line in head.stdout if ":" in line)
        head.communicate("")


def first(events: list[Event], kind: str, state: str) -> float:
    return next(event.time for event in events if event.kind == kind and event.fields.get("to") == state)


def test_five_runs_share_a_ray_of_two_nodes(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "")
    with place(tmp_path, f"kind: ray\naddress: {address}\n") as queue:
        large = queue.submit("large", person="ada", workers=4, shards=LARGE, seconds=2.0)
        second = queue.submit("second", person="ada", workers=2, shards=SHARDS, seconds=1.0)
        small = queue.submit("small", person="bob", workers=2, shards=SHARDS, seconds=1.0)
        last = queue.submit("last", person="ada", workers=1, shards=SHARDS, seconds=1.0)
        queue.serve()
        queue.serve()
        queue.wait(lambda: (tmp_path / "worked").exists())  # the large one asked first, and is at work
        urgent = queue.submit("urgent", "--priority", "5", person="bob", workers=4, shards=SHARDS, seconds=1.0)
        queue.wait(lambda: set(queue.states().values()) == {"SUCCEEDED"}, seconds=280)

        story = {run_id: queue.events(run_id) for run_id in (large, second, small, urgent, last)}
        done = {run_id: first(events, "run_state", "SUCCEEDED") for run_id, events in story.items()}
        begun = {run_id: first(events, "attempt_state", "RUNNING") for run_id, events in story.items()}
        assert begun[urgent] < min(begun[second], begun[small], begun[last]), "the higher priority goes first"
        assert done[urgent] < done[large], "and takes the room of a lower one, which continues"
        assert any(f"made room for run {urgent}" in str(event.fields) for event in story[large])
        for run_id, events in story.items():
            commits = [event for event in events if event.fields.get("to") == "COMMITTED"]
            assert len(commits) == 1, f"run {run_id}: one artifact"
        worked = (tmp_path / "worked").read_text().split()
        assert len(set(worked)) == 4 * SHARDS + LARGE
        assert len(worked) - len(set(worked)) <= 4, "a shard is made again only if it was at work at a stop"
