"""Starts `cluster_driver.py` in processes of its own, and reads what it left."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from orchestrator.cluster.ray_cluster import Cluster
from orchestrator.history.run_status import list_runs
from orchestrator.planning.plan import make_plan
from orchestrator.planning.stage_identity import PlanView
from orchestrator.workspace import Workspace
from tests.chaos.cluster_driver import lines, recipe
from tests.chaos.invariants import check

ROOT = Path(__file__).parents[2]


def start(root: Path, address: str, workers: int, *, stages: str = "all") -> subprocess.Popen[str]:
    root.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "tests.chaos.cluster_driver", str(root), address, str(workers), stages]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], timeout_s: float = 300.0) -> None:
    give_up_at = time.monotonic() + timeout_s
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < give_up_at
        time.sleep(0.05)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code, and what it printed: the digests of all files, or what went wrong."""
    out, err = process.communicate(timeout=400)
    return process.returncode, err if process.returncode else out


def digests(process: subprocess.Popen[str]) -> dict[str, str]:
    code, text = finish(process)
    assert code == 0, text
    found: dict[str, str] = json.loads(text)
    return found


def weights(root: Path, *, stages: str = "all") -> dict[str, Any]:
    """The trained weights; also checks the invariants."""
    with Workspace.open(root=root / "illume", tracking_url="none", cluster=Cluster()) as workspace:
        view = PlanView(find=workspace.artifacts.find)
        stage = make_plan(recipe(str(root), 2, stages), view).stages[-1]
        artifact = workspace.artifacts.open(stage.key)
        found = load_file(str(artifact.path / "model.safetensors"))
        check(root, workspace, lambda: make_plan(recipe(str(root), 2, stages), view))
        return found


def consumed(root: Path) -> dict[int, set[str]]:
    """The data of each optimizer step."""
    found: dict[int, set[str]] = {}
    for line in lines(root / "steps"):
        step, data = line.split()
        found.setdefault(int(step), set()).add(data)
    return found


def failure_classes(root: Path) -> list[str]:
    """The failure classes of the failed attempts of all runs."""
    with Workspace.open(root=root / "illume", tracking_url="none", cluster=Cluster()) as workspace:
        events = [event for run in list_runs(workspace.database) for event in workspace.runs.events(run.run_id)]
        return [str(event.fields["failure_class"]) for event in events if "failure_class" in event.fields]
