"""Random failures on a small recipe until the time is over: `make chaos SEED=7 MINUTES=10`.

Each round arms one to three random failpoints in each of up to four drivers, some of them at the same time, sends some
of them SIGKILL, SIGTERM or SIGHUP after a random while, and lets one undisturbed driver end the run. Files must be
those of an undisturbed run, decided records must not change, and the invariants must hold. Every round has a seed of
its own; the first that fails is printed with the line that arms the same again: what meets what is left to the machine,
so it may take several tries.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

from orchestrator.errors import EXIT_REQUEUE
from tests.chaos.counting_driver import open_workspace, plan_of
from tests.chaos.invariants import check, check_decisions_kept, decisions
from tests.chaos.test_failpoints import PASSED, finish, start

ACTIONS = ("kill", "kill", "raise", "delay:0.2", "delay:1.0")
END_SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP)
GRACES_S = (0.0, 0.5, 30.0)
# A signal that arrives while Python itself starts ends the process as by default.
ENDS = (0, 1, 2, EXIT_REQUEUE, *(-number for number in END_SIGNALS))
MOST_DRIVERS, MOST_POINTS, LATEST_PASS = 4, 3, 6


def storm(root: Path, rng: random.Random) -> list[str]:
    """Kill or freeze drivers in `root`. Returns what was done to each."""
    story = []
    under_way: list[subprocess.Popen[str]] = []
    for _ in range(rng.randint(1, MOST_DRIVERS)):
        points = rng.sample(PASSED, rng.randint(1, MOST_POINTS))
        armed = ";".join(f"{point}={rng.choice(ACTIONS)}@{rng.randint(1, LATEST_PASS)}" for point in points)
        end_after_s = rng.choice([None, rng.uniform(0.0, 3.0)])
        number = rng.choice(END_SIGNALS)
        grace_s = rng.choice(GRACES_S)
        is_alone = rng.random() < 0.7
        story.append(f"{armed} {number.name} after {end_after_s} grace {grace_s} alone {is_alone}")
        driver = start(root, armed, ILLUME_STOP_GRACE_S=f"{grace_s:g}")
        under_way.append(driver)
        if end_after_s is not None:
            time.sleep(end_after_s)
            driver.send_signal(number)
        if is_alone:
            _wait(driver)
    for driver in under_way:
        _wait(driver)
    return story


def _wait(driver: subprocess.Popen[str]) -> None:
    driver.communicate(timeout=120)
    assert driver.returncode in ENDS, driver.returncode


def one_round(seed: int, quiet: dict[str, str]) -> list[str]:
    """Run one round and check the invariants. Returns what was done; an AssertionError contains it too."""
    rng = random.Random(seed)
    root = Path(tempfile.mkdtemp(prefix=f"storm-{seed}-"))
    story = storm(root, rng)
    try:
        before = decisions(root)
        assert finish(root) == quiet
        check_decisions_kept(before, decisions(root))
        with open_workspace(root) as workspace:
            check(root, workspace, lambda: plan_of(root, workspace), abandoned=True)
    except AssertionError as error:
        raise AssertionError(f"{error}\nwhat was done: {json.dumps(story, indent=1)}\nleft in {root}") from error
    shutil.rmtree(root)
    return story


@click.command()
@click.option("--seed", default=lambda: int.from_bytes(os.urandom(4), "big"), type=int)
@click.option("--minutes", default=5.0, show_default=True)
@click.option("--rounds", default=0, help="Stop after so many, whatever the time.")
def main(seed: int, minutes: float, rounds: int) -> None:
    """Run rounds until the time or their number is reached."""
    click.echo(f"seed {seed}")
    with tempfile.TemporaryDirectory() as folder:
        quiet = finish(Path(folder) / "quiet")
    ends_at = time.monotonic() + 60 * minutes
    stories: list[str] = []
    done = 0
    while time.monotonic() < ends_at and (not rounds or done < rounds):
        try:
            stories += one_round(seed + done, quiet)
        except Exception as error:  # noqa: BLE001 - whatever it was, its round can be repeated
            again = f"python -m tests.chaos.storm --seed {seed + done} --rounds 1"
            click.echo(f"round {done + 1} failed:\n{error}\nagain: {again}")
            sys.exit(1)
        done += 1
        click.echo(f"round {done}: fine")
    armed = sum(story.count("=") for story in stories)
    killed = sum(" after None " not in story for story in stories)
    click.echo(
        f"{done} rounds, none failed: {len(stories)} drivers with {armed} failpoints armed, {killed} of them sent "
        "a signal after a while too"
    )


if __name__ == "__main__":
    main()
