"""Stages as RayJobs that are carried out: a stand-in API server, and an operator that starts real Ray processes."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.store.layout import RUNS
from orchestrator.workspace import Workspace
from tests.chaos.test_slurm import PROGRAM, STEPS
from tests.clusters.kuberay.api_server import ApiServer, api_server
from tests.clusters.kuberay.operator import Operator

if importlib.util.find_spec("kubernetes") is None:
    pytest.skip("needs the package kubernetes: pip install 'illume-orchestrator[kubernetes]'", allow_module_level=True)

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Desk:
    folder: Path
    server: ApiServer
    operator: Operator

    def start(self) -> subprocess.Popen[str]:
        (self.folder / "recipe.yaml").write_text(STEPS.replace("ROOT", str(self.folder)))
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
        words = [sys.executable, *PROGRAM.split(), "run", "recipe.yaml", "--cluster", "profile.yaml"]
        words += ["--tracking", "none", "--store", str(self.folder / "store"), "--database", str(self.folder / "i.db")]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "KUBECONFIG": str(self.folder / "kubeconfig")}
        with (self.folder / "controller.log").open("a") as output:
            return subprocess.Popen(words, cwd=self.folder, env=environment, stdout=output, stderr=output, text=True)

    def log(self) -> str:
        return f"{(self.folder / 'controller.log').read_text()}\n{self.operator.log()}"

    def worked(self) -> list[str]:
        file = self.folder / "worked"
        return file.read_text().split() if file.exists() else []

    def wait_for_step(self, name: str, controller: subprocess.Popen[str]) -> None:
        give_up_at = time.monotonic() + 240
        while name not in self.worked():
            assert controller.poll() is None, self.log()
            assert time.monotonic() < give_up_at, self.log()
            time.sleep(0.1)

    def failures(self) -> list[str]:
        with Workspace.open(
            str(self.folder / "store"), str(self.folder / "i.db"), "none", root=self.folder / ".illume"
        ) as workspace:
            (run_id,) = workspace.store.folders(RUNS)
            return [
                str(event.fields["failure_class"]) for event in workspace.runs.events(run_id) if event.kind == "retry"
            ]


@pytest.fixture
def desk(tmp_path: Path, shared: Path) -> Iterator[Desk]:
    with api_server(shared / "specs" / "kuberay" / "ray.io_rayjobs.yaml") as server:
        server.queues.add("research")
        with Operator(server=server, folder=tmp_path) as operator:
            yield Desk(folder=tmp_path, server=server, operator=operator)


def test_a_job_that_kueue_evicts_goes_on_in_another_cluster_and_repeats_nothing(desk: Desk) -> None:
    controller = desk.start()
    desk.wait_for_step("step2", controller)
    desk.operator.suspend()
    assert controller.wait(timeout=400) == 0, desk.log()
    assert desk.failures() == ["preempted"], desk.log()
    assert sorted(desk.worked()) == sorted(set(desk.worked()))  # no shard and no step was made twice
    assert len(desk.operator.started) == len(set(desk.operator.started)) == 3  # each attempt is a RayJob of its own


def test_a_cluster_that_loses_its_power_is_replaced_and_costs_one_step_at_most(desk: Desk) -> None:
    controller = desk.start()
    desk.wait_for_step("step2", controller)
    desk.operator.kill()
    assert controller.wait(timeout=400) == 0, desk.log()
    assert len(desk.worked()) - len(set(desk.worked())) <= 1
    assert len(desk.operator.started) == 3
