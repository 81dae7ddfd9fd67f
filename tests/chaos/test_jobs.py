"""Stages as jobs of a Ray cluster with a token: the controller is killed, and the stage continues."""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.cluster.jobs import ENDED
from orchestrator.cluster.ray_jobs import RayJobs
from orchestrator.errors import EXIT_INFRASTRUCTURE, EXIT_REQUEUE, EXIT_UNUSABLE, NodeLostError
from orchestrator.installation.version import version
from orchestrator.store.layout import RUNS
from orchestrator.workspace import Workspace

ROOT = Path(__file__).parents[2]
PROGRAM = "-m tests.chaos.jobs_program"
PATIENCE_S = 600  # for a machine that many share; nothing is waited for that has happened
pytestmark = [pytest.mark.ray, pytest.mark.timeout(3 * PATIENCE_S)]
SQUARES = """
name: squares
stages:
  squares:
    kind: squares
    resources: {workers: 2}
    config: {root: ROOT}
  steps:
    kind: steps
    inputs: {squares: squares}
    config: {root: ROOT}
"""
TROUBLE = """
name: trouble
stages:
  trouble:
    kind: trouble
    config: {root: ROOT, what: WHAT}
"""


@dataclass(frozen=True)
class Head:
    address: str
    token: str

    @property
    def jobs(self) -> RayJobs:
        return RayJobs(address=self.address, token=self.token)


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """A cluster of one node with a token, as an administrator starts it."""
    token = secrets.token_hex(32)
    gcs, dashboard, agent = (free_tcp_port() for _ in range(3))
    arguments = f"--head --block --port={gcs} --num-cpus=2 --dashboard-host=127.0.0.1 --dashboard-port={dashboard}"
    arguments += f" --node-ip-address=127.0.0.1 --object-store-memory={80 * 2**20} --disable-usage-stats"
    arguments += f" --dashboard-agent-listen-port={agent}"  # another cluster may have the usual one
    with tempfile.TemporaryDirectory(prefix="rj") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", token)
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("SQUARES_PAUSE_S", "1")
        ray = [str(Path(sys.executable).with_name("ray")), "start", *arguments.split(), f"--temp-dir={folder}"]
        log = tmp_path_factory.mktemp("head") / "ray.log"
        with log.open("w") as output:
            process = subprocess.Popen(ray, stdout=output, stderr=output)
        found = Head(address=f"http://127.0.0.1:{dashboard}", token=token)
        try:
            wait_for(lambda: answers(found.jobs) or process.poll() is not None)
            assert process.poll() is None, log.read_text()
            yield found
        finally:
            for member in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
                member.kill()
            process.wait(30)


def free_tcp_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(jobs: RayJobs) -> bool:
    try:
        return jobs.info("none") is None
    except NodeLostError:
        return False


@dataclass(frozen=True)
class Desk:
    """A folder, and the program run in it by a controller of its own."""

    folder: Path
    head: Head
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def write(self, recipe: str) -> None:
        (self.folder / "recipe.yaml").write_text(recipe.replace("ROOT", str(self.folder)))
        profile = {"kind": "ray_jobs", "address": self.head.address, "command": f"{sys.executable} {PROGRAM}"}
        (self.folder / "profile.yaml").write_text(json.dumps(profile))

    def start(self, command: str = "run", **environment: str) -> subprocess.Popen[str]:
        places = ["--store", str(self.folder / "store"), "--database", str(self.folder / "index.db")]
        words = [sys.executable, *PROGRAM.split(), command, "--tracking", "none", "--cluster", "profile.yaml", *places]
        if command == "run":
            words.append("recipe.yaml")
        process = subprocess.Popen(
            words,
            cwd=self.folder,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def worked(self) -> list[str]:
        file = self.folder / "worked"
        return file.read_text().split() if file.exists() else []

    def has_more_than(self, count: int) -> bool:
        return len(self.worked()) > count

    def wait_for_work(self, mark: str, controller: subprocess.Popen[str]) -> None:
        wait_for(lambda: mark in self.worked() or controller.poll() is not None)
        assert controller.poll() is None, controller.communicate()

    def open(self) -> Workspace:
        return Workspace.open(
            str(self.folder / "store"), str(self.folder / "index.db"), "none", root=self.folder / ".illume"
        )

    def events(self) -> list[Any]:
        with self.open() as workspace:
            (run_id,) = workspace.store.folders(RUNS)
            return workspace.runs.events(run_id, limit=10_000)


@pytest.fixture
def desk(tmp_path: Path, head: Head) -> Iterator[Desk]:
    found = Desk(folder=tmp_path, head=head)
    yield found
    for process in found.started:  # of a test that failed
        process.kill()


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    out, err = process.communicate(timeout=PATIENCE_S)
    return process.returncode, out + err


def wait_for(condition: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up_at
        time.sleep(0.05)


def states(events: list[Any], stage: str) -> list[str]:
    return [event.fields["to"] for event in events if event.kind == "attempt_state" and event.stage_id == stage]


def test_a_controller_that_is_killed_costs_nothing(desk: Desk) -> None:
    """Killed under the first stage and under the second; each is made by one job, from its start to its end."""
    desk.write(SQUARES)
    for mark in ("s2", "step2"):
        controller = desk.start()
        desk.wait_for_work(mark, controller)
        controller.send_signal(signal.SIGKILL)
        controller.communicate()
        before = len(desk.worked())
        wait_for(partial(desk.has_more_than, before))  # the stage goes on
    code, text = ended(desk.start())
    assert code == 0, text
    assert "continuing run" in text
    events = desk.events()
    assert states(events, "squares") == ["INTENT", "RUNNING", "COMMITTED"]
    assert states(events, "steps") == ["INTENT", "RUNNING", "COMMITTED"]
    assert sorted(desk.worked()) == sorted({*desk.worked()})  # nothing was made twice
    assert len(desk.worked()) == 16
    shards = [event for event in events if event.kind == "shards_finished"]
    assert len(shards) == 1  # told once, whoever was there to hear it
    assert {event.epoch for event in events} >= {1, 2, 3}
    check_nothing_left(desk, events)


def test_a_clean_stop_reaches_the_job_and_is_continued(desk: Desk) -> None:
    desk.write(SQUARES)
    controller = desk.start()
    desk.wait_for_work("s1", controller)
    controller.send_signal(signal.SIGINT)
    code, text = ended(controller)
    assert code == EXIT_REQUEUE, text
    assert "Continue with `illume resume" in text
    made = len(desk.worked())
    assert made < 8
    with desk.open() as workspace:
        (run_id,) = workspace.store.folders(RUNS)
    stray = replace(desk.head.jobs, command="sleep")  # as if the cluster had been away when its attempt was given up
    stray.submit(f"illume-{run_id}-stray", "300", {"run": run_id})
    code, text = ended(desk.start("resume"))
    assert code == 0, text
    assert f"job illume-{run_id}-stray is still running for an attempt that has ended; stopping it" in text
    assert wait_until_ended(desk.head.jobs, f"illume-{run_id}-stray")
    assert len(desk.worked()) == 16  # shards that were recorded are not made again
    check_nothing_left(desk, desk.events())


def test_an_error_of_a_stage_is_reported_and_not_tried_again(desk: Desk) -> None:
    desk.write(TROUBLE.replace("WHAT", "mistake"))
    code, text = ended(desk.start())
    assert code == 1
    assert "ValueError: columns: found 3, expected 4" in text
    events = desk.events()
    assert states(events, "trouble") == ["INTENT", "RUNNING", "FAILED"]
    assert [event.fields.get("failure_class") for event in events if event.fields.get("to") == "FAILED"] == [
        "user_code",
        None,
    ]
    check_nothing_left(desk, events)


def test_a_job_that_dies_without_an_outcome_is_tried_again(desk: Desk) -> None:
    desk.write(TROUBLE.replace("WHAT", "killed"))
    code, text = ended(desk.start())
    assert code == 0, text
    events = desk.events()
    assert states(events, "trouble") == ["INTENT", "RUNNING", "FAILED", "INTENT", "RUNNING", "COMMITTED"]
    (failed,) = [event for event in events if event.fields.get("to") == "FAILED"]
    assert failed.fields["failure_class"] == "node_lost"
    assert "the last words of a stage driver" in str(failed.fields["message"])
    points = [point for event in events if event.kind == "metrics" for point in event.fields["points"]]
    assert [point[:3] for point in points] == [["loss", 0.5, 1]]
    check_nothing_left(desk, events)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", f"is illume {version()} in the image, or the environment, of the cluster"),
        ("--store ELSEWHERE", f"does the cluster see the store of this machine, and has it illume {version()}"),
        ("--controller-version 0.0.1", "but 0.0.1 submitted this job; give the cluster's image"),
        ("--an-option-of-later", "No such option"),
    ],
    ids=["no program", "another store", "another version", "a much older one"],
)
def test_a_cluster_that_cannot_begin_is_told_once_and_not_tried_again(desk: Desk, options: str, message: str) -> None:
    desk.write(TROUBLE.replace("WHAT", "none"))
    program = desk.folder / "program"
    if options:
        words = options.replace("ELSEWHERE", str(desk.folder / "elsewhere"))
        program.write_text(f'#!/bin/sh\nexec {sys.executable} {PROGRAM} "$@" {words}\n')
        program.chmod(0o755)
    profile = {"kind": "ray_jobs", "address": desk.head.address, "command": str(program)}
    (desk.folder / "profile.yaml").write_text(json.dumps(profile))
    code, text = ended(desk.start())
    assert code == EXIT_UNUSABLE, text
    assert message in text
    events = desk.events()
    assert states(events, "trouble") == ["INTENT", "RUNNING", "FAILED"]  # one job
    assert "precheck" in [event.fields.get("failure_class") for event in events]


def test_a_wrong_token_is_refused_before_there_is_a_run(desk: Desk) -> None:
    desk.write(TROUBLE.replace("WHAT", "none"))
    code, text = ended(desk.start(RAY_AUTH_TOKEN="0" * 64))
    assert code == EXIT_UNUSABLE, text
    assert "set the cluster's token" in text
    with desk.open() as workspace:
        assert not workspace.store.folders(RUNS)


def test_a_cluster_that_does_not_respond_is_named(desk: Desk, free_port: int) -> None:
    desk.write(TROUBLE.replace("WHAT", "none"))
    profile = desk.folder / "profile.yaml"
    profile.write_text(f"kind: ray_jobs\naddress: http://127.0.0.1:{free_port}\n")
    code, text = ended(desk.start())
    assert code == EXIT_INFRASTRUCTURE, text
    assert f"Ray Jobs at http://127.0.0.1:{free_port}: does not answer" in text


def check_nothing_left(desk: Desk, events: list[Any]) -> None:
    """No job is running, and no telemetry is undelivered."""
    attempts = {event.attempt_id for event in events if event.attempt_id}
    for attempt in attempts:
        info = desk.head.jobs.info(f"illume-{attempt}")
        assert info is not None
        assert info.state in ENDED or wait_until_ended(desk.head.jobs, f"illume-{attempt}")
    with desk.open() as workspace:
        assert not [item.key for item in workspace.store.list(RUNS) if "/telemetry/" in item.key]


def wait_until_ended(jobs: RayJobs, job_id: str) -> bool:
    """The outcome is known a moment before the process has ended."""
    give_up_at = time.monotonic() + PATIENCE_S
    while time.monotonic() < give_up_at:
        info = jobs.info(job_id)
        if info is not None and info.state in ENDED:
            return True
        time.sleep(0.2)
    return False
