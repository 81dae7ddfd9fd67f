"""`illume drain-node` as hooks call it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from orchestrator.cluster.draining import RayAddress
from orchestrator.commands.drain_node import drain_node_command
from tests.clusters.test_spot_notices import gcp, service
from tests.orchestrator.cluster import test_draining
from tests.orchestrator.cluster.test_draining import know, node, stage_driver

head = test_draining.head


def test_the_hook_of_a_head_waits_for_its_stage_drivers_and_drains_nothing(
    head: RayAddress, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    know(monkeypatch, [node("head", is_head=True), node("other", "203.0.113.9")])
    monkeypatch.setattr("orchestrator.commands.drain_node.drain", lambda *_, **__: pytest.fail("drained the head"))
    with stage_driver(tmp_path, head) as driver:
        done = CliRunner().invoke(drain_node_command, ["--address", str(head), "--within-s", "30", "--wait"])
        assert done.exception is None, done.output
        assert "told 1 stage drivers" in done.output
        assert "no work is left" in done.output
        assert driver.wait() == 85


def test_the_hook_of_a_pod_whose_cluster_ended_before_has_nothing_to_do() -> None:
    done = CliRunner().invoke(drain_node_command, ["--address", "127.0.0.1:9", "--wait"])
    assert done.exception is None, done.output
    assert "nothing was drained" in done.output


def test_a_notice_of_the_cloud_drains_the_node(head: RayAddress, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: Iterator[bool] = iter([True, True, False])
    monkeypatch.setattr("orchestrator.cluster.draining.ray_nodes", lambda _address: [node("here", alive=next(alive))])
    drained: list[tuple[str, str, float]] = []

    def drain(_address: str, node_id: str, *, message: str, deadline_s: float) -> str:
        drained.append((node_id, message, deadline_s))
        return ""

    monkeypatch.setattr("orchestrator.cluster.draining.drain_ray_node", drain)
    answers = iter(["FALSE", "FALSE", "TRUE"])
    with service(lambda method, path, headers: gcp(next(answers))(method, path, headers)) as address:
        words = ["--watch", "gcp", "--metadata-address", address, "--interval-s", "0.1", "--address", str(head)]
        done = CliRunner().invoke(drain_node_command, words)
    assert done.exception is None, done.output
    assert [(node_id, message) for node_id, message, _ in drained] == [("here", "Google Cloud: preempted")]
    assert "no work is left" in done.output
