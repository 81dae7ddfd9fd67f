"""A real driver fails at the failpoints of the commit, checkpoint, lease and outbox code; the next finishes the run.

Whatever was armed, the files are those of an undisturbed run, no decided record ever changed, no step that was
committed is done again, and the invariants hold.
"""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from orchestrator.failpoints import POINTS
from tests.chaos.counting_driver import STEPS, open_workspace, plan_of
from tests.chaos.invariants import check, check_decisions_kept, decisions

pytestmark = pytest.mark.timeout(900)

PATIENCE_S = 250.0  # a loaded machine needs many times what a quiet one does
DRIVER = Path(__file__).with_name("counting_driver.py")
WORK = {*(f"step{number}" for number in range(1, STEPS + 1)), "double"}
# Not passed by a run without shards and without damage.
ELSEWHERE = {"artifact.retracted"} | {point for point in POINTS if point.startswith("shard.")}
PASSED = sorted(set(POINTS) - ELSEWHERE)


def start(root: Path, failpoints: str = "", **variables: str) -> subprocess.Popen[str]:
    root.mkdir(exist_ok=True)
    repository = str(Path(__file__).parents[2])
    environment = {**os.environ, "ILLUME_FAILPOINTS": failpoints, "PYTHONPATH": repository, **variables}
    command = [sys.executable, str(DRIVER), str(root)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def ended(driver: subprocess.Popen[str]) -> tuple[int, str]:
    out, complaint = driver.communicate(timeout=PATIENCE_S)
    return driver.returncode, out if driver.returncode == 0 else complaint


def finish(root: Path) -> dict[str, str]:
    code, out = ended(start(root))
    assert code == 0, out
    found: dict[str, str] = json.loads(out)
    return found


def worked(root: Path) -> Counter[str]:
    file = root / "worked"
    return Counter(file.read_text().split() if file.exists() else ())


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Digests of an undisturbed run."""
    root = tmp_path_factory.mktemp("quiet")
    found = finish(root)
    assert worked(root) == Counter(WORK)
    assert len(found) == 3
    check_all(root)
    return found


def check_all(root: Path) -> None:
    with open_workspace(root) as workspace:
        check(root, workspace, lambda: plan_of(root, workspace))


@pytest.mark.parametrize("point", PASSED)
def test_a_driver_killed_at_a_point_is_continued(point: str, quiet: dict[str, str], tmp_path: Path) -> None:
    root = tmp_path / "storm"
    code, out = ended(start(root, f"{point}=kill"))
    assert code == -signal.SIGKILL, f"{point} was not passed: {out}"
    before = decisions(root)
    assert finish(root) == quiet
    check_decisions_kept(before, decisions(root))
    again = worked(root) - Counter(WORK)
    assert set(worked(root)) == WORK
    assert sum(again.values()) <= 1, f"I6: {again} was done twice"
    check_all(root)


@pytest.mark.parametrize("point", [point for point in PASSED if point.startswith(("artifact.", "checkpoint."))])
def test_a_lost_acknowledgement_does_no_harm(point: str, quiet: dict[str, str], tmp_path: Path) -> None:
    """The write succeeds, but the writer gets an error: the same driver tries again and finishes."""
    root = tmp_path / "storm"
    code, out = ended(start(root, f"{point}=raise"))
    assert code == 0, out
    assert json.loads(out) == quiet
    assert set(worked(root)) == WORK
    check_all(root)


def test_a_sink_that_fails_after_a_delivery_gets_nothing_twice(quiet: dict[str, str], tmp_path: Path) -> None:
    root = tmp_path / "storm"
    code, out = ended(start(root, "outbox.delivered=raise"))
    assert (code, json.loads(out)) == (0, quiet)
    check_all(root)


def test_a_driver_that_froze_beyond_its_lease_changes_nothing_when_it_wakes(
    quiet: dict[str, str], tmp_path: Path
) -> None:
    root = tmp_path / "storm"
    frozen = start(root, f"checkpoint.commit=hold:{root / 'go-on'}@2")
    _freeze(frozen, root)
    try:
        _expire_leases(root)
        assert finish(root) == quiet
        before = decisions(root)
    finally:
        (root / "go-on").touch()
        frozen.send_signal(signal.SIGCONT)
    code, out = ended(frozen)
    assert code != 0, "the driver that was replaced must say so"
    assert "lease" in out
    assert decisions(root).items() >= before.items()
    assert finish(root) == quiet
    check_all(root)


def _freeze(driver: subprocess.Popen[str], root: Path) -> None:
    """Stop a driver that waits after its second checkpoint, at a moment when none of its threads is in a transaction:
    a process that is stopped inside a transaction locks a SQLite file for all others."""
    deadline = time.monotonic() + PATIENCE_S
    while len(list((root / "illume").rglob("checkpoints/*/COMMIT"))) < 2:
        assert driver.poll() is None, driver.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    while True:
        driver.send_signal(signal.SIGSTOP)
        while psutil.Process(driver.pid).status() != psutil.STATUS_STOPPED:  # the signal takes a moment
            assert time.monotonic() < deadline
            time.sleep(0.01)
        with closing(sqlite3.connect(root / "illume" / "index.db", timeout=0.2, isolation_level=None)) as database:
            try:
                database.execute("begin immediate")
            except sqlite3.OperationalError:
                driver.send_signal(signal.SIGCONT)
                assert time.monotonic() < deadline
                time.sleep(0.02)
            else:
                database.execute("rollback")
                return


def _expire_leases(root: Path) -> None:
    """Let all leases expire."""
    from sqlalchemy import update

    from orchestrator.history.database import schema

    with open_workspace(root) as workspace:
        workspace.database.write(lambda connection: connection.execute(update(schema.leases).values(expires_at=0.0)))


def test_both_drivers_of_one_recipe_end_with_the_same_artifacts(quiet: dict[str, str], tmp_path: Path) -> None:
    root = tmp_path / "storm"
    drivers = [start(root, "artifact.outcome=delay:0.5"), start(root, "checkpoint.files=delay:0.3")]
    results = [ended(driver) for driver in drivers]
    assert any(code == 0 for code, _ in results), results
    assert finish(root) == quiet
    check_all(root)
