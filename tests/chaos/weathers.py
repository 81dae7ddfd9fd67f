"""What happens around drivers in the storm: each weather does something once, seeded, and says what it did.

disk      a driver with its stages in its process, SQLite and a folder: freezing, a mount that goes away
jobs      stages as jobs: a frozen controller and its successor, jobs lost to the cluster that live on (zombies)
network   a bucket and PostgreSQL over a network: partitions, fail-overs, read-only phases, no name server;
              stages as jobs or not
all       kills, failpoints, garbage collection and takedowns beside everything
"""

import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import psutil
import psycopg
from sqlalchemy import update

from orchestrator.artifacts.takedowns import Takedown
from orchestrator.errors import EXIT_INFRASTRUCTURE, EXIT_REQUEUE, OrchestratorError, RecipeError
from orchestrator.history.database import schema
from orchestrator.history.database.known_store import remembered_store
from orchestrator.retention.garbage import delete_garbage, find_garbage
from orchestrator.retention.leftovers import Leftovers
from orchestrator.retention.unneeded import retract_unneeded, unneeded_artifacts
from orchestrator.workspace import Workspace
from tests.chaos.counting_driver import open_workspace
from tests.chaos.folder_jobs import FolderJobs
from tests.chaos.services import Services
from tests.chaos.test_failpoints import DRIVER, PASSED, PATIENCE_S

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
ACTIONS = ("kill", "kill", "raise", "delay:0.2", "delay:1.0")
END_SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP)
# A signal that arrives while Python itself starts ends the process as by default.
ENDS = (0, 1, 2, EXIT_INFRASTRUCTURE, EXIT_REQUEUE, *(-number for number in END_SIGNALS))
MOST_DRIVERS, LATEST_PASS = 3, 6
CLIMATES = ("disk", "jobs", "network")


@dataclass
class Round:
    """One round of the storm: a folder, the drivers started in it, and what was done to them."""

    root: Path
    climate: str
    rng: random.Random
    services: Services | None = None  # of the climate "network"
    drivers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    story: list[str] = field(default_factory=list)
    patience_s: float = PATIENCE_S  # for a process to end
    bucket: str = field(default_factory=lambda: f"storm-{uuid.uuid4().hex}")

    def __post_init__(self) -> None:
        self.root.mkdir(exist_ok=True)
        self.has_jobs = self.climate == "jobs" or (self.climate == "network" and self.rng.random() < 0.5)
        self.jobs.folder.mkdir(exist_ok=True)
        if self.services and (url := self.services.database_url(of_driver=False)):
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute(f'create schema "{self.bucket}"')

    @property
    def jobs(self) -> FolderJobs:
        return FolderJobs(folder=self.root / "jobs")

    def environment(self, *, of_driver: bool) -> dict[str, str]:
        """The variables of `counting_driver.py`, for a driver or for this process."""
        found = {"COUNTING_PAUSE_S": "0.3"}
        if self.has_jobs:
            found["COUNTING_JOBS"] = str(self.jobs.folder)
        if self.services:
            found |= {"NO_PROXY": "*", "COUNTING_STORE": self.services.store_url(self.bucket, of_driver=of_driver)}
            if url := self.services.database_url(of_driver=of_driver):
                found["COUNTING_DATABASE"] = f"{url}?options=-csearch_path%3D{self.bucket}"
        return found

    @contextmanager
    def workspace(self) -> Iterator[Workspace]:
        """As another command of the same user opens it: past all cut cables."""
        before = dict(os.environ)
        os.environ.update(self.environment(of_driver=False))
        try:
            with open_workspace(self.root) as workspace:
                yield workspace
        finally:
            os.environ.clear()
            os.environ.update(before)

    def start(self, failpoints: str = "") -> subprocess.Popen[bytes]:
        environment = {**os.environ, **self.environment(of_driver=True), "ILLUME_FAILPOINTS": failpoints}
        environment["ILLUME_STOP_GRACE_S"] = self.rng.choice(("0", "0.5", "30"))
        place = self.services.namespace if self.services else None
        with (self.root / f"driver-{len(self.drivers)}.out").open("wb") as out:
            driver = subprocess.Popen(
                [*(place.prefix if place else []), sys.executable, str(DRIVER), str(self.root)],
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**environment, "PYTHONPATH": str(ROOT)},
            )
        self.drivers.append(driver)
        return driver

    def alive(self) -> list[subprocess.Popen[bytes]]:
        return [driver for driver in self.drivers if driver.poll() is None]

    def until(self, found: Callable[[], T]) -> T:
        """What `found` returns once it is not empty, with a driver at work meanwhile; empty after a while."""
        deadline = time.monotonic() + 10.0
        while True:
            if not self.alive():
                self.start()
            result = found()
            if result or time.monotonic() > deadline:
                return result
            time.sleep(0.05)

    def running_jobs(self) -> list[tuple[str, psutil.Process]]:
        return [(job, process) for job in self.jobs.all() if (process := self.jobs.process(job))]

    def wait(self, least_s: float, most_s: float) -> None:
        time.sleep(self.rng.uniform(least_s, most_s))

    def calm(self) -> None:
        """End all weather and wait until every process has ended."""
        if self.services:
            self.services.mend()
            if self.services.namespace:
                self.services.namespace.know_names(True)
        running = [psutil.Process(driver.pid) for driver in self.alive()]
        running += [process for job in self.jobs.all() if (process := self.jobs.process(job))]
        for process in running:
            with suppress(psutil.NoSuchProcess):
                process.resume()
        deadline = time.monotonic() + self.patience_s
        for driver in self.drivers:
            driver.wait(max(1.0, deadline - time.monotonic()))
            assert driver.returncode in ENDS, f"a driver ended with {driver.returncode}"
        while any(self.jobs.process(job) for job in self.jobs.all()):
            assert time.monotonic() < deadline, "a job does not end"
            time.sleep(0.1)


Weather = Callable[[Round], str]


def new_driver(storm: Round) -> str:
    """Start a driver, perhaps with failpoints armed."""
    points = storm.rng.sample(PASSED, storm.rng.choice((0, 0, 1, 2)))
    armed = ";".join(f"{point}={storm.rng.choice(ACTIONS)}@{storm.rng.randint(1, LATEST_PASS)}" for point in points)
    if len(storm.alive()) < MOST_DRIVERS:
        storm.start(armed)
    return f"a driver with {armed or 'nothing'} armed"


def killed_driver(storm: Round) -> str:
    number = storm.rng.choice(END_SIGNALS)
    for driver in storm.alive()[:1]:
        driver.send_signal(number)
    return f"a driver ended by {number.name}"


def frozen_driver(storm: Round) -> str:
    """A driver stands still until its lease has run out and another has taken over; then it wakes."""
    frozen = psutil.Process(storm.rng.choice(storm.until(storm.alive)).pid)
    with suppress(psutil.NoSuchProcess):
        frozen.suspend()
    _expire_leases(storm)
    storm.start()
    storm.wait(0.5, 2.0)
    with suppress(psutil.NoSuchProcess):
        frozen.resume()
    return "a driver frozen beyond its lease, while another took over"


def _expire_leases(storm: Round) -> None:
    with suppress(OrchestratorError), storm.workspace() as workspace:
        expired = update(schema.leases).values(expires_at=0.0)
        workspace.database.write(lambda connection: connection.execute(expired))


def killed_job(storm: Round) -> str:
    for _, process in storm.until(storm.running_jobs)[:1]:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    return "a job killed"


def zombie_job(storm: Round) -> str:
    """A job stands still and the cluster gives its node up; a next attempt works when it wakes."""
    running = storm.until(storm.running_jobs)
    if not running:
        return "no job to lose"
    job, process = storm.rng.choice(running)
    with suppress(psutil.NoSuchProcess):
        process.suspend()
        storm.jobs.lose(job)
        storm.wait(0.5, 2.5)
        process.resume()
    return f"{job} lost to the cluster, and alive again"


def mount_away(storm: Round) -> str:
    """The folder below the mount shows for a while; nobody may mistake it for the store or write into it.

    Only once the database knows which store it will be: before that, an empty folder is a store that is to be made.
    """
    store, away = storm.root / "illume" / "store", storm.root / "illume" / "away"
    if not storm.until(lambda: _is_remembered(storm)):
        return "no store yet"
    store.rename(away)
    is_empty = storm.rng.random() < 0.5
    if is_empty:
        store.mkdir()
    storm.wait(0.2, 1.5)
    below = [path for path in store.rglob("*") if path.is_file()] if store.exists() else []
    assert below == [], f"written below a mount that was away: {below}"
    if store.exists():
        store.rename(storm.root / f"below-{uuid.uuid4().hex}")
    away.rename(store)
    return f"the mount away, {'an empty' if is_empty else 'no'} folder in its place"


def _is_remembered(storm: Round) -> bool:
    with suppress(OrchestratorError), storm.workspace() as workspace:
        return remembered_store(workspace.database) is not None
    return False


def partition(storm: Round) -> str:
    assert storm.services
    storm.services.cut()
    storm.wait(0.3, 3.0)
    storm.services.mend()
    return f"a partition, {'of a network namespace' if storm.services.namespace else 'by cutting connections'}"


def no_names(storm: Round) -> str:
    assert storm.services
    if storm.services.namespace is None:
        return "names cannot be taken away here"
    storm.services.namespace.know_names(False)
    storm.wait(0.3, 2.0)
    storm.services.namespace.know_names(True)
    return "the name server away"


def database_restart(storm: Round) -> str:
    assert storm.services
    if storm.services.postgresql is None:
        return "no PostgreSQL here"
    storm.services.postgresql.restart()
    return "PostgreSQL restarted as after a crash"


def database_read_only(storm: Round) -> str:
    """A standby until it is promoted: reads are answered, writes are refused, also on connections that are open."""
    assert storm.services
    url = storm.services.database_url(of_driver=False)
    if url is None:
        return "no PostgreSQL here"
    for value, wait_s in (("on", storm.rng.uniform(0.3, 2.0)), ("off", 0.0)):
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"alter system set default_transaction_read_only = {value}")
            connection.execute("select pg_reload_conf()")
        time.sleep(wait_s)
    return "PostgreSQL read-only for a while"


def collection(storm: Round) -> str:
    """`illume gc --unneeded-days 0 --older-than-h 0 --delete` beside everything."""
    try:
        with storm.workspace() as workspace:
            _collect(workspace)
    except OrchestratorError as error:
        return f"gc refused: {error}"
    return "gc"


def _collect(workspace: Workspace) -> None:
    workspace.check_store()
    now_s, live = time.time() + 1.0, workspace.is_live
    unneeded = unneeded_artifacts(
        workspace.artifacts, workspace.liveness, now_s=now_s, older_than_s=0.0, is_registered=lambda _kind: False
    )
    retract_unneeded(workspace.artifacts, workspace.liveness, unneeded, reason="the storm")
    garbage = find_garbage(workspace.store, now_s=now_s, is_live=live, older_than_s=0.0)
    delete_garbage(workspace.store, garbage, is_live=live)
    leftovers = Leftovers(artifacts=workspace.artifacts, liveness=workspace.liveness, is_live=live)
    leftovers.delete(leftovers.find(now_s=now_s, older_than_s=0.0))


def takedown(storm: Round) -> str:
    """Content is taken down: refused while anything may write, else a new plan makes everything again without it."""
    found = Takedown(
        id=f"T-{uuid.uuid4().hex[:8]}",
        note="",
        created="2026-01-01T00:00:00+00:00",
        content={"digests": frozenset({uuid.uuid4().hex})},
        examined=frozenset(),
    )
    try:
        with storm.workspace() as workspace:
            workspace.check_store()
            workspace.take_down(found)
    except RecipeError as error:
        return f"a takedown refused: {str(error)[:150]}"
    except OrchestratorError as error:
        return f"a takedown failed: {error}"
    return "a takedown applied"


BESIDE_ALL: Mapping[Weather, int] = {new_driver: 6, killed_driver: 1, collection: 2, takedown: 1}  # with weights
BY_CLIMATE: Mapping[str, Mapping[Weather, int]] = {
    "disk": {**BESIDE_ALL, frozen_driver: 3, mount_away: 2},
    "jobs": {**BESIDE_ALL, frozen_driver: 3, killed_job: 1, zombie_job: 4},
    "network": {**BESIDE_ALL, partition: 3, no_names: 2, database_restart: 2, database_read_only: 2},
}


def blow(storm: Round, weathers: Sequence[Weather] | int) -> None:
    """Start a driver, let these weathers, or so many random ones, happen one after the other, and end in calm."""
    chances = BY_CLIMATE[storm.climate]
    if isinstance(weathers, int):
        weathers = storm.rng.choices(list(chances), list(chances.values()), k=weathers)
    storm.story.append(new_driver(storm))
    for weather in weathers:
        storm.wait(0.3, 1.5)
        storm.story.append(weather(storm))
    storm.calm()
