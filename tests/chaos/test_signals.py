"""SIGTERM and SIGHUP at every phase of a driver: exit 85 within the time that there is, and nothing done twice.

The phases are failpoints that hold the driver until it has the signal. Data stages and trainings, whose work is in
other processes, are in `test_signals_of_stages.py`.
"""

import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import EXIT_REQUEUE
from tests.chaos.counting_driver import open_workspace, plan_of
from tests.chaos.invariants import check
from tests.chaos.test_failpoints import WORK, ended, finish, start, worked

pytestmark = pytest.mark.timeout(300)

PHASES = ("epoch.claimed", "attempt.running", "checkpoint.files", "artifact.outcome")
SLOW_PHASES = (
    "run.checking",
    "run.created",
    "lease.acquired",
    "epoch.begun",
    "attempt.intent",
    "attempt.claimed",
    "checkpoint.manifest",
    "checkpoint.outcome",
    "checkpoint.commit",
    "artifact.files",
    "artifact.manifest",
    "artifact.commit",
    "attempt.committed",
)
BEFORE_WORK = ("run.checking", "run.created")  # nothing ran yet that could go on to a commit point
QUIET = {name: 1 for name in WORK}


def hold(root: Path, point: str, monkeypatch: pytest.MonkeyPatch) -> subprocess.Popen[str]:
    """A driver that has reached the point, and waits there for the file ROOT/release."""
    reached = root / "reached"
    reached.mkdir(parents=True)
    monkeypatch.setenv("ILLUME_FAILPOINTS_ONCE", str(reached))
    driver = start(root, f"{point}=hold:{root / 'release'}")
    deadline = time.monotonic() + 120
    while not (reached / point).exists():
        assert driver.poll() is None, driver.communicate()
        assert time.monotonic() < deadline, f"{point} was not passed"
        time.sleep(0.02)
    return driver


def check_end(root: Path, *, again: int = 0) -> None:
    """The next driver makes the files of an undisturbed run, and does at most so many pieces of work twice."""
    finish(root)
    lost = worked(root) - Counter(QUIET)
    assert set(worked(root)) == WORK
    assert sum(lost.values()) <= again, f"{lost} was done twice"
    with open_workspace(root) as workspace:
        check(root, workspace, lambda: plan_of(root, workspace))


def phases(*fast: str) -> list[Any]:
    """These phases, and all others marked slow."""
    rest = [point for point in (*PHASES, *SLOW_PHASES) if point not in fast]
    return [*fast, *(pytest.param(point, marks=pytest.mark.slow) for point in rest)]


@pytest.mark.parametrize(
    ("point", "number"),
    [
        ("run.checking", signal.SIGHUP),
        ("epoch.begun", signal.SIGTERM),
        ("checkpoint.files", signal.SIGHUP),
        *(pytest.param(*phase.values, signal.SIGTERM, marks=phase.marks) for phase in phases()),
    ],
)
def test_a_driver_stops_at_its_next_commit_point(
    point: str, number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "run"
    monkeypatch.setenv("ILLUME_STOP_GRACE_S", "0")
    driver = hold(root, point, monkeypatch)
    driver.send_signal(number)
    if point not in BEFORE_WORK:
        assert driver.stderr is not None
        assert "stopping at the next commit point" in driver.stderr.readline() + driver.stderr.readline()
    (root / "release").touch()
    code, text = ended(driver)
    assert code == EXIT_REQUEUE, text
    check_end(root)


@pytest.mark.parametrize("point", phases(*PHASES))
def test_a_driver_that_cannot_reach_a_commit_point_leaves_in_time(
    point: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it waits for never comes: a store that hangs, in the middle of a checkpoint or of a commit."""
    root = tmp_path / "run"
    monkeypatch.setenv("ILLUME_STOP_GRACE_S", "2")
    driver = hold(root, point, monkeypatch)
    driver.send_signal(signal.SIGTERM)
    code, text = ended(driver)
    assert code == EXIT_REQUEUE, text
    check_end(root, again=1 if point.startswith("checkpoint.") else 0)
