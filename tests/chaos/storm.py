"""Random failures and weathers on a small recipe until the time is over: `make chaos SEED=7 MINUTES=10`.

Each round starts drivers in one climate (see `weathers.py`), kills, freezes and cuts them off, collects garbage and
takes content down beside them, and lets one undisturbed driver end the run. Its files must be those of an undisturbed
run and the invariants must hold. Every round has a seed of its own; the first that fails is printed with the line
that repeats it: what meets what is left to the machine, so it may take several tries.
"""

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import click

from tests.chaos.counting_driver import plan_of
from tests.chaos.invariants import check, check_decisions_kept, decisions
from tests.chaos.services import Services, running_services
from tests.chaos.test_failpoints import PATIENCE_S, finish
from tests.chaos.weathers import CLIMATES, Round, Weather, blow

MOST_WEATHERS = 8
QUIET_RUNS = 60  # as long as so many undisturbed ones a driver may take to end: others may use the machine, too


def one_round(
    climate: str,
    seed: int,
    quiet: dict[str, str],
    services: Services | None,
    weathers: Sequence[Weather] | None = None,
    patience_s: float = PATIENCE_S,
) -> Round:
    """Run one round, of random weathers if none are given, and check the invariants.

    Raises: AssertionError: it tells what was done, and where the files are.
    """
    rng = random.Random(f"{climate} {seed}")
    root = Path(tempfile.mkdtemp(prefix=f"storm-{climate}-{seed}-"))
    storm = Round(root, climate, rng, services if climate == "network" else None, patience_s=patience_s)
    try:
        blow(storm, rng.randint(2, MOST_WEATHERS) if weathers is None else weathers)
        before = decisions(root)
        found = finished(storm)
        assert found == quiet, f"found {found}, expected {quiet}"
        check_decisions_kept(before, decisions(root))
        with storm.workspace() as workspace:
            check(root, workspace, lambda: plan_of(root, workspace), abandoned=True, collected=True)
    except Exception as error:
        raise AssertionError(
            f"{error!r}\nwhat was done: {json.dumps(storm.story, indent=1)}\nleft in {root}"
        ) from error
    shutil.rmtree(root)
    return storm


def finished(storm: Round) -> dict[str, str]:
    """The files that an undisturbed driver ends with."""
    driver = storm.start()
    driver.wait(storm.patience_s)
    text = (storm.root / f"driver-{len(storm.drivers) - 1}.out").read_text()
    assert driver.returncode == 0, text[-3000:]
    storm.calm()
    found: dict[str, str] = json.loads(text[text.rindex("{") :])
    return found


@click.command()
@click.option("--seed", default=lambda: int.from_bytes(os.urandom(4), "big"), type=int)
@click.option("--minutes", default=5.0, show_default=True)
@click.option("--rounds", default=0, help="Stop after so many, whatever the time.")
@click.option("--climate", type=click.Choice(CLIMATES), help="Only this one; by default one after the other.")
def main(seed: int, minutes: float, rounds: int, climate: str | None) -> None:
    """Run rounds until the time or their number is reached."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the services are ended, too
    click.echo(f"seed {seed}")
    climates = (climate,) if climate else CLIMATES
    happened: Counter[str] = Counter()
    done = 0
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        services = stack.enter_context(running_services(folder)) if "network" in climates else None
        began = time.monotonic()
        quiet = finish(folder / "quiet")
        patience_s = max(PATIENCE_S, QUIET_RUNS * (time.monotonic() - began))
        ends_at = time.monotonic() + 60 * minutes
        while time.monotonic() < ends_at and (not rounds or done < rounds):
            here = climates[done % len(climates)]
            try:
                storm = one_round(here, seed + done, quiet, services, patience_s=patience_s)
            except AssertionError as error:
                again = f"python -m tests.chaos.storm --seed {seed + done} --rounds 1 --climate {here}"
                click.echo(f"round {done + 1} failed:\n{error}\nagain: {again}")
                sys.exit(1)
            done += 1
            happened.update(weather.partition(",")[0].partition(" with ")[0] for weather in storm.story)
            click.echo(f"round {done}, {here}: fine")
    click.echo(f"{done} rounds, none failed: {json.dumps(happened.most_common(20))}")


if __name__ == "__main__":
    main()
