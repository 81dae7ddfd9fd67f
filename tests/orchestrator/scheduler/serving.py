"""A place with a queue and real servers, for the tests and for the picture of the queue over time."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.history.database.database import Database
from orchestrator.history.events import Event
from orchestrator.history.run_status import list_runs
from orchestrator.history.run_store import RunStore

PROGRAM = (sys.executable, "-c", "from orchestrator.cli import main; main()")
KINDS = '''
"""Stages that work for some seconds, or until a file exists, and can be stopped; one of them on the workers of Ray."""

import time
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import CancelledError
from orchestrator.shards import Shard, ShardOutcome
from orchestrator.stage import Location, StageKind


@dataclass(frozen=True, kw_only=True)
class WorkConfig:
    name: str
    seconds: float = 0.0
    until: str = ""


def run(config, context):
    ends_at = time.monotonic() + config.seconds
    while time.monotonic() < ends_at or (config.until and not Path(config.until).exists()):
        if context.stop_requested():
            raise CancelledError(f"{context.stage_id}: stopped")
        time.sleep(0.05)
    (context.output / "done.txt").write_text(config.name)
    return {}


@dataclass(frozen=True, kw_only=True)
class ShardsConfig:
    name: str
    shards: int
    seconds: float
    log: Location


@dataclass(frozen=True, kw_only=True)
class Worker:
    name: str
    seconds: float
    log: str

    def start(self):
        return self.work

    def work(self, shard):
        time.sleep(self.seconds)
        with Path(self.log).open("a") as file:
            file.write(f"{self.name}-{shard.name}\\n")
        (shard.output / f"{shard.name}.txt").write_text(self.name)
        return ShardOutcome(rows=1)


def run_shards(config, context):
    worker = Worker(name=config.name, seconds=config.seconds, log=str(config.log))
    shards = [Shard(name=f"s{number}", items=(number,)) for number in range(config.shards)]
    for record in context.map_shards(worker, shards, label="work", identity={"name": config.name}):
        context.adopt(record)
    return {}


WORK = StageKind(name="work", version=1, config=WorkConfig, run=run, output="words@1")
SHARDS = StageKind(name="shards", version=1, config=ShardsConfig, run=run_shards, output="words@1")
KINDS = [WORK, SHARDS]
'''


@dataclass
class Place:
    """A folder with a store, a database, a profile and the stage kind."""

    folder: Path
    profile: str
    servers: "list[subprocess.Popen[bytes]]" = field(default_factory=list)

    def __post_init__(self) -> None:
        (self.folder / "works.py").write_text(KINDS)
        (self.folder / "profile.yaml").write_text(self.profile)

    def illume(self, *arguments: str, person: str = "ada") -> Any:
        """The JSON that a command prints."""
        environment = {**os.environ, "ILLUME_TRACKING": "none", "ILLUME_ACTOR": person}
        done = subprocess.run([*PROGRAM, *arguments], cwd=self.folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def submit(
        self, name: str, *arguments: str, person: str = "ada", cpus: float = 1, workers: int = 1, **config: Any
    ) -> str:
        """Queue a run of one stage; returns its id."""
        own = {"kind": "work", "config": {"name": name, **config}}
        if "shards" in config:
            own = {"kind": "shards", "config": {"name": name, "log": str(self.folder / "worked"), **config}}
        stage = {**own, "resources": {"cpus": cpus, "workers": workers}}
        recipe = self.folder / f"{name}.yaml"
        recipe.write_text(json.dumps({"name": name, "stages": {"work": stage}}))
        options = ("--plugin", "./works.py:KINDS", "--cluster", "profile.yaml", "--json")
        found: str = self.illume("submit", recipe.name, *options, *arguments, person=person)["run_id"]
        return found

    def serve(self) -> "subprocess.Popen[bytes]":
        environment = {**os.environ, "ILLUME_TRACKING": "none"}
        command = [*PROGRAM, "serve", "--scheduler", "--port", "0"]
        with (self.folder / f"server-{len(self.servers)}.log").open("wb") as output:
            server = subprocess.Popen(
                command, cwd=self.folder, env=environment, stdout=output, stderr=output, start_new_session=True
            )
        self.servers.append(server)
        return server

    @property
    def database(self) -> Database:
        return Database(str(self.folder / ".illume/index.db"))

    def states(self) -> dict[str, str]:
        return {run.run_id: str(run.state) for run in list_runs(self.database)}

    def wait(self, is_so: Callable[[], bool], *, seconds: float = 280.0) -> None:
        deadline_s = time.monotonic() + seconds
        while not is_so():
            assert time.monotonic() < deadline_s, self.story()
            time.sleep(0.3)

    def story(self) -> str:
        """For a failed test: what the servers and drivers said."""
        logs = [*self.folder.glob("server-*.log"), *(self.folder / ".illume/queue").glob("*.log")]
        return "\n".join([str(self.states()), *(f"{file.name}:\n{file.read_text()}" for file in logs)])

    def events(self, run_id: str) -> list[Event]:
        return RunStore(self.database).events(run_id)


@contextmanager
def place(folder: Path, profile: str) -> Iterator[Place]:
    found = Place(folder, profile)
    try:
        yield found
    finally:
        for server in found.servers:
            if server.poll() is None:
                server.send_signal(signal.SIGTERM)
        for server in found.servers:
            try:
                server.wait(40)
            except subprocess.TimeoutExpired:
                server.kill()
