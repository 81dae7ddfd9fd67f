"""Stages as jobs of a real Slurm: time limits, preemption, a lost node, a stop, exit codes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import EXIT_REQUEUE
from orchestrator.store.layout import RUNS
from orchestrator.workspace import Workspace
from tests.clusters.slurm.lab import Lab, lab, require_slurm

ROOT = Path(__file__).parents[2]
PROGRAM = "-m tests.chaos.jobs_program"
PATIENCE_S = 900  # for a machine that many share; nothing is waited for that has happened
pytestmark = [pytest.mark.ray, pytest.mark.timeout(3 * PATIENCE_S)]
STEPS = """
name: steps
stages:
  squares:
    kind: squares
    resources: {workers: 3}
    config: {root: ROOT}
  steps:
    kind: steps
    inputs: {squares: squares}
    config: {root: ROOT}
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    require_slurm()
    with lab(tmp_path_factory.mktemp("slurm")) as found:
        yield found


@dataclass(frozen=True)
class Desk:
    """A folder, and runs in it whose stages are Slurm jobs."""

    folder: Path
    slurm: Lab
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, recipe: str, *, pause_s: float = 0.0, **profile: Any) -> subprocess.Popen[str]:
        (self.folder / "recipe.yaml").write_text(recipe.replace("ROOT", str(self.folder)))
        document = {
            "kind": "slurm",
            "folder": str(self.folder / "jobs"),
            "machines": {"small": {"cpus": 3, "nodes": 2, "partition": "main"}},
            "command": f"{sys.executable} {PROGRAM}",
            "environment": {"PYTHONPATH": str(ROOT), "SQUARES_PAUSE_S": str(pause_s), "PATH": path_with_ray()},
            **profile,
        }
        (self.folder / "profile.yaml").write_text(json.dumps(document))
        words = [sys.executable, *PROGRAM.split(), "run", "recipe.yaml", "--cluster", "profile.yaml"]
        words += ["--tracking", "none", "--store", str(self.folder / "store"), "--database", str(self.folder / "i.db")]
        environment = {**os.environ, **self.slurm.environment, "PYTHONPATH": str(ROOT)}
        with (self.folder / "controller.log").open("a") as output:
            process = subprocess.Popen(words, cwd=self.folder, env=environment, stdout=output, stderr=output, text=True)
        self.started.append(process)
        return process

    def log(self) -> str:
        outputs = [*sorted((self.folder / "jobs").rglob("*.log"))] if (self.folder / "jobs").exists() else []
        texts = [f"== {file.relative_to(self.folder)}\n{file.read_text()[-3000:]}" for file in outputs]
        return "\n".join([(self.folder / "controller.log").read_text(), *texts])

    def worked(self) -> list[str]:
        file = self.folder / "worked"
        return file.read_text().split() if file.exists() else []

    def wait_for(self, condition: Callable[[], bool], controller: subprocess.Popen[str]) -> None:
        give_up_at = time.monotonic() + PATIENCE_S
        while not condition():
            assert controller.poll() is None, self.log()
            assert time.monotonic() < give_up_at, self.log()
            time.sleep(0.1)

    def ended(self, controller: subprocess.Popen[str]) -> int:
        try:
            return controller.wait(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            controller.kill()
            raise AssertionError(self.log()) from None

    def how_jobs_ended(self) -> list[list[str]]:
        """As each wrote it, which takes a moment longer than the stage: the daemons of Ray are stopped before."""
        folders = sorted((self.folder / "jobs").iterdir())
        give_up_at = time.monotonic() + PATIENCE_S
        while not all((folder / "ended").exists() for folder in folders):
            assert time.monotonic() < give_up_at, self.log()
            time.sleep(0.1)
        return [(folder / "ended").read_text().split() for folder in folders]

    def wait_for_an_empty_queue(self) -> None:
        """No job is left: Slurm notes the end of a batch shell a moment after it."""
        give_up_at = time.monotonic() + PATIENCE_S
        while self.slurm.command("squeue", "--noheader", "--states=running,pending").strip():
            assert time.monotonic() < give_up_at, self.log()
            time.sleep(0.2)

    def failures(self) -> list[str]:
        with Workspace.open(
            str(self.folder / "store"), str(self.folder / "i.db"), "none", root=self.folder / ".illume"
        ) as workspace:
            (run_id,) = workspace.store.folders(RUNS)
            events = workspace.runs.events(run_id, limit=10_000)
        return [str(event.fields["failure_class"]) for event in events if event.kind == "retry"]


@pytest.fixture
def desk(tmp_path: Path, slurm: Lab) -> Iterator[Desk]:
    found = Desk(folder=tmp_path, slurm=slurm)
    yield found
    for process in found.started:  # of a test that failed; its jobs end with the lab
        process.kill()


def path_with_ray() -> str:
    return f"{Path(sys.executable).parent}:{os.environ['PATH']}"


def slurm_id(desk: Desk, stage: str) -> str:
    """Of the newest job of a stage."""
    claims = sorted((desk.folder / "jobs").glob(f"*-{stage}-*/claim/slurm_id"), key=lambda file: file.stat().st_mtime)
    return claims[-1].read_text().strip()


def test_a_notice_before_the_end_of_the_time_costs_no_step(desk: Desk) -> None:
    """Three workers need two nodes of three CPUs. Slurm gives notice in the second stage, and another job goes on."""
    controller = desk.start(STEPS, pause_s=0.5)
    desk.wait_for(lambda: "step2" in desk.worked(), controller)
    desk.slurm.command("scancel", "--batch", "--signal=USR1", slurm_id(desk, "steps"))
    assert desk.ended(controller) == 0, desk.log()
    assert desk.failures() == ["preempted"]
    assert sorted(desk.worked()) == sorted(set(desk.worked()))  # no shard and no step was made twice
    assert desk.how_jobs_ended() == [["0"], ["85", "preempted"], ["0"]]
    folders = sorted((desk.folder / "jobs").iterdir())
    script = next(folder for folder in folders if "squares" in folder.name) / "job.sbatch"
    assert "--nodes=2" in script.read_text()
    assert (folders[0] / "token").stat().st_mode & 0o077 == 0
    desk.wait_for_an_empty_queue()


# The head has a node of its own, a worker needs a whole node, and one worker is enough to begin.
ELASTIC = STEPS.replace("workers: 3", "workers: 2, min_workers: 1, cpus: 3")
ONE_BY_ONE: dict[str, Any] = {
    "head": "head",
    "machines": {
        "large": {"cpus": 4, "nodes": 3, "partition": "main", "array": True},
        "head": {"cpus": 1, "partition": "main"},
    },
}


@pytest.mark.slow
def test_a_stage_begins_with_one_node_and_another_one_joins(desk: Desk) -> None:
    """One of the three nodes is somebody else's at first: the head and one worker have the others."""
    words = ["--parsable", "--exclusive", "--wrap=sleep 3600", f"--output={desk.folder}/other"]
    other = desk.slurm.command("sbatch", *words).strip()
    controller = desk.start(ELASTIC, pause_s=3.0, **ONE_BY_ONE)
    desk.wait_for(lambda: bool(desk.worked()), controller)
    waiting = desk.slurm.command("squeue", "--noheader", "--states=pending", "--format=%.100j")
    assert waiting.strip().endswith("-squares-1-1-nodes"), waiting
    desk.slurm.command("scancel", other)
    folder = next((desk.folder / "jobs").glob("*-squares-*"))
    desk.wait_for(lambda: (folder / "node-1.log").exists(), controller)
    assert desk.ended(controller) == 0, desk.log()
    assert desk.failures() == []
    assert sorted(desk.worked()) == sorted(set(desk.worked()))
    assert {code for code, *_ in desk.how_jobs_ended()} == {"0"}
    desk.wait_for_an_empty_queue()


@pytest.mark.slow
def test_a_higher_partition_takes_the_nodes_and_the_stage_goes_on_afterwards(desk: Desk) -> None:
    controller = desk.start(STEPS, pause_s=1.0)
    desk.wait_for(lambda: "step2" in desk.worked(), controller)
    desk.slurm.command(
        "sbatch", "--partition=urgent", "--nodes=3", "--exclusive", "--wrap=sleep 5", f"--output={desk.folder}/urgent"
    )
    assert desk.ended(controller) == 0, desk.log()
    assert desk.failures() == ["preempted"]
    assert sorted(desk.worked()) == sorted(set(desk.worked()))


@pytest.mark.slow
def test_a_preemption_without_notice_is_no_stop_by_a_person(tmp_path: Path) -> None:
    """Slurm sends SIGTERM to Ray, its workers and the stage driver at once."""
    require_slurm()
    with lab(tmp_path / "slurm", notice=False) as slurm:
        desk = Desk(folder=tmp_path, slurm=slurm)
        controller = desk.start(STEPS, pause_s=1.0)
        desk.wait_for(lambda: "step2" in desk.worked(), controller)
        words = ["--partition=urgent", "--nodes=3", "--exclusive", "--wrap=sleep 5", f"--output={desk.folder}/urgent"]
        slurm.command("sbatch", *words)
        assert desk.ended(controller) == 0, desk.log()
        assert desk.failures() == ["preempted"]


@pytest.mark.slow
def test_a_lost_node_costs_one_step_at_most(desk: Desk) -> None:
    controller = desk.start(STEPS, pause_s=1.0)
    desk.wait_for(lambda: "step2" in desk.worked(), controller)
    job = slurm_id(desk, "steps")
    node = desk.slurm.command("squeue", "--noheader", f"--jobs={job}", "--format=%N").strip()
    desk.slurm.kill_node(node)
    try:
        assert desk.ended(controller) == 0, desk.log()
    finally:
        desk.slurm.start_node(node)
    assert desk.failures() == ["node_lost"]
    twice = [step for step in set(desk.worked()) if desk.worked().count(step) > 1]
    assert len(twice) <= 1


@pytest.mark.slow
def test_ctrl_c_stops_the_job_at_its_commit_point(desk: Desk) -> None:
    controller = desk.start(STEPS, pause_s=1.0)
    desk.wait_for(lambda: "step2" in desk.worked(), controller)
    controller.send_signal(signal.SIGINT)
    assert desk.ended(controller) == EXIT_REQUEUE, desk.log()
    folder = next((desk.folder / "jobs").glob("*-steps-*"))
    assert (folder / "ended").read_text().split() == ["85"]
    again = desk.start(STEPS)
    assert desk.ended(again) == 0, desk.log()
    assert sorted(desk.worked()) == sorted(set(desk.worked()))


@pytest.mark.slow
def test_a_job_that_an_administrator_cancels_ends_the_run(desk: Desk) -> None:
    controller = desk.start(STEPS, pause_s=1.0)
    desk.wait_for(lambda: "step2" in desk.worked(), controller)
    desk.slurm.command("scancel", slurm_id(desk, "steps"))
    assert desk.ended(controller) != 0, desk.log()
    again = desk.start(STEPS)
    assert desk.ended(again) == 0, desk.log()
