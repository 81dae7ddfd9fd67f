"""Stages as RayJobs that are carried out: a stand-in API server, and an operator that starts real Ray processes."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from orchestrator.store.layout import ARTIFACTS, RUNS, stored_keys
from orchestrator.workspace import Workspace
from tests.chaos.test_slurm import PATIENCE_S, PROGRAM, STEPS
from tests.clusters.kuberay.api_server import ApiServer, api_server
from tests.clusters.kuberay.operator import NO_ROOM, Operator

if importlib.util.find_spec("kubernetes") is None:
    pytest.skip("needs the package kubernetes: pip install 'illume-orchestrator[kubernetes]'", allow_module_level=True)

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(3 * PATIENCE_S)]

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Desk:
    folder: Path
    server: ApiServer
    operator: Operator

    def start(self) -> subprocess.Popen[str]:
        profile = {
            "kind": "kuberay",
            "namespace": "mllm",
            "image": "registry.example/illume:0.2.0",
            "queue": "research",
            "machines": {"small": {"cpus": 3, "memory_gib": 4, "nodes": 2}},
            "command": f"{sys.executable} {PROGRAM}",
            "environment": {"PYTHONPATH": str(ROOT), "SQUARES_PAUSE_S": "2.0"},
            "stop_grace_s": 60,
        }
        (self.folder / "profile.yaml").write_text(json.dumps(profile))
        cluster = {"name": "c", "cluster": {"server": self.server.address}}
        context = {"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "mllm"}}
        config = {"apiVersion": "v1", "kind": "Config", "current-context": "c", "clusters": [cluster]}
        config |= {"contexts": [context], "users": [{"name": "u", "user": {}}]}
        (self.folder / "kubeconfig").write_text(json.dumps(config))
        return run(self.folder, "--cluster", "profile.yaml", KUBECONFIG=str(self.folder / "kubeconfig"))

    def log(self) -> str:
        return f"{(self.folder / 'controller.log').read_text()}\n{self.operator.log()}"

    def worked(self) -> list[str]:
        file = self.folder / "worked"
        return file.read_text().split() if file.exists() else []

    def wait_for(self, condition: Callable[[], bool], controller: subprocess.Popen[str]) -> None:
        give_up_at = time.monotonic() + PATIENCE_S
        while not condition():
            assert controller.poll() is None, self.log()
            assert time.monotonic() < give_up_at, self.log()
            time.sleep(0.1)

    def events(self, kind: str, field: str) -> list[str]:
        """A field of the events of a kind, in their order."""
        with opened(self.folder) as workspace:
            (run_id,) = workspace.store.folders(RUNS)
            return [str(event.fields[field]) for event in workspace.runs.events(run_id) if event.kind == kind]


def run(folder: Path, *options: str, **environment: str) -> subprocess.Popen[str]:
    """The stages of `STEPS`, in a folder and with a store of its own."""
    (folder / "recipe.yaml").write_text(STEPS.replace("ROOT", str(folder)))
    words = [sys.executable, *PROGRAM.split(), "run", "recipe.yaml", "--tracking", "none", *options]
    words += ["--store", str(folder / "store"), "--database", str(folder / "i.db")]
    with (folder / "controller.log").open("a") as output:
        return subprocess.Popen(
            words,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            stdout=output,
            stderr=output,
            text=True,
        )


def opened(folder: Path) -> Workspace:
    return Workspace.open(str(folder / "store"), str(folder / "i.db"), "none", root=folder / ".illume")


def digests(folder: Path) -> dict[str, str]:
    with opened(folder) as workspace:
        artifacts = [workspace.artifacts.open(key) for key in stored_keys(workspace.store, ARTIFACTS)]
        return {
            f"{artifact.kind}/{entry.path}": entry.sha256 for artifact in artifacts for entry in artifact.manifest.files
        }


@pytest.fixture
def desk(tmp_path: Path, shared: Path) -> Iterator[Desk]:
    with api_server(shared / "specs" / "kuberay" / "ray.io_rayjobs.yaml") as server:
        server.queues.add("research")
        with Operator(server=server, folder=tmp_path) as operator:
            yield Desk(folder=tmp_path, server=server, operator=operator)


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path) -> Iterator[None]:
    """No controller of a test that failed goes on."""
    yield
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "tests.chaos.jobs_program" in words and str(tmp_path / "store") in words:
            process.kill()


def test_a_job_that_kueue_evicts_goes_on_in_another_cluster_and_repeats_nothing(desk: Desk, tmp_path: Path) -> None:
    """The nodes are wanted in the second stage. It waits in the queue, with Kueue's reason, and is admitted again."""
    controller = desk.start()
    desk.wait_for(lambda: "step2" in desk.worked(), controller)
    desk.operator.evict()
    desk.wait_for(lambda: f"Kueue: {NO_ROOM}" in desk.events("waiting", "for"), controller)
    assert len(desk.server.objects) == 2, (
        desk.log()
    )  # the ended stage, and the attempt that waits; nothing of the evicted
    desk.operator.has_room = True
    assert controller.wait(timeout=PATIENCE_S) == 0, desk.log()
    assert desk.events("retry", "failure_class") == ["preempted"], desk.log()
    assert sorted(desk.worked()) == sorted(set(desk.worked()))  # no shard and no step was made twice
    assert len(desk.operator.started) == len(set(desk.operator.started)) == 3  # each attempt is a RayJob of its own
    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    assert run(undisturbed, SQUARES_PAUSE_S="0").wait(timeout=PATIENCE_S) == 0, undisturbed
    assert digests(desk.folder) == digests(undisturbed)


def test_a_cluster_that_loses_its_power_is_replaced_and_costs_one_step_at_most(desk: Desk) -> None:
    controller = desk.start()
    desk.wait_for(lambda: "step2" in desk.worked(), controller)
    desk.operator.kill()
    assert controller.wait(timeout=PATIENCE_S) == 0, desk.log()
    assert len(desk.worked()) - len(set(desk.worked())) <= 1
    assert len(desk.operator.started) == 3
