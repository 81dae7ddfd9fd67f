"""A killed driver, or two at once, give the bytes of an undisturbed run; nothing is made twice."""

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.workspace import Workspace

pytestmark = pytest.mark.ray

DRIVER = Path(__file__).with_name("squares_driver.py")
ALL_WORK = {*(f"s{number}" for number in range(8)), *(f"step{number}" for number in range(1, 9))}


def start(root: Path, *arguments: str) -> subprocess.Popen[str]:
    root.mkdir(exist_ok=True)
    command = [sys.executable, str(DRIVER), str(root), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def digests(driver: subprocess.Popen[str]) -> dict[str, str]:
    out, errors = driver.communicate(timeout=120)
    assert driver.returncode == 0, errors
    found: dict[str, str] = json.loads(out)
    return found


def worked(root: Path) -> Counter[str]:
    file = root / "worked"
    return Counter(file.read_text().split() if file.exists() else ())


def kill_when(driver: subprocess.Popen[str], ready: Callable[[], bool]) -> None:
    for _ in range(1200):
        if ready():
            break
        assert driver.poll() is None, driver.communicate()[1]
        time.sleep(0.05)
    driver.kill()
    driver.communicate()


def test_killed_drivers_and_two_at_once_give_the_same_bytes(tmp_path: Path) -> None:
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    # Two drivers with one store: each piece of work is done by one of them.
    drivers = [start(undisturbed), start(undisturbed)]
    first, second = [digests(driver) for driver in drivers]
    assert first == second
    assert len(first) == 8 + 1
    assert worked(undisturbed) == Counter(ALL_WORK)

    # A driver killed among shards, the next one killed among steps, the third one finishes.
    kill_when(start(killed), lambda: worked(killed)["s3"] > 0)
    shards_made = len(list((killed / "illume" / "store" / "shards").rglob("*.json")))
    kill_when(start(killed, "--again"), lambda: worked(killed)["step3"] > 0)
    assert digests(start(killed, "--again")) == first

    again = worked(killed) - Counter(ALL_WORK)
    assert set(worked(killed)) == ALL_WORK
    assert shards_made >= 2
    twice = {name for name in again if name.startswith("step")}
    assert len(twice) <= 1
    assert len(set(again) - twice) <= 2  # the shards that were running when the driver was killed

    with Workspace.open(root=killed / "illume", tracking_url="none") as workspace:
        run_id = next(iter(workspace.records.runs()))[0]
        ends = [
            f"{event.stage_id} {event.epoch} {event.fields['to']}"
            for event in workspace.runs.events(run_id)
            if event.kind == "attempt_state" and event.fields["to"] not in ("INTENT", "RUNNING")
        ]
    assert ends == ["squares 2 LOST", "squares 2 COMMITTED", "steps 3 LOST", "steps 3 COMMITTED"]
