"""A folder in which a user works with the command line, in processes of its own."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from orchestrator.artifacts.artifact_store import ArtifactStore, StoredArtifact
from orchestrator.store.store import open_store
from stages import STAGE_KINDS

ILLUME = Path(sys.executable).with_name("illume")
TINY = Path(__file__).with_name("tiny.yaml")
RAY_TRAIN = Path(__file__).with_name("ray_train.yaml")  # starts training workers as on a cluster, in 15 s each time
# All kinds but those that read weights or data of others, and those that a recipe names for trainings on GPUs only.
KINDS = set(STAGE_KINDS) - {
    *("adopt_tokenizer", "adopt_mllm", "adopt_decoder", "draw_benchmark", "score_images"),
    *("index_images", "index_samples"),
}
LOOK_S = 0.005  # between two looks for the moment to kill
PATIENCE_S = 500.0  # a loaded machine needs several times what a quiet one does


@dataclass(frozen=True, kw_only=True)
class Answer:
    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


@dataclass(frozen=True, kw_only=True)
class Driver:
    """A running command."""

    process: subprocess.Popen[str]
    log: Path

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Wait for a condition; fails if the command ends before."""
        give_up_at = time.monotonic() + PATIENCE_S
        while not ready():
            assert self.process.poll() is None, f"it ended with {self.process.returncode}:\n{self.log.read_text()}"
            assert time.monotonic() < give_up_at, f"the moment did not come:\n{self.log.read_text()}"
            time.sleep(LOOK_S)

    def kill(self) -> None:
        """`kill -9`, and wait until the workers, which outlive their driver for a moment, have ended by themselves."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        commands = {child: _command_of(child) for child in children}
        self.process.kill()
        self.process.wait(60)
        workers = [child for child, command in commands.items() if "ray::" in command and "Agent" not in command]
        _, alive = psutil.wait_procs(workers, timeout=60)
        assert not alive, f"these outlive the killed driver: {[commands[worker] for worker in alive]}"

    def kill_one(self, title: str) -> None:
        """`kill -9` of one Ray process that this command started, by the class of its actor."""
        self._find(title).kill()

    @contextmanager
    def pause(self, title: str) -> Iterator[None]:
        """Stop such a process for the duration of the block."""
        process = self._find(title)
        process.suspend()
        try:
            yield
        finally:
            process.resume()

    def _find(self, title: str) -> psutil.Process:
        for child in psutil.Process(self.process.pid).children(recursive=True):
            if f"ray::{title}" in _command_of(child):
                return child
        raise AssertionError(f"no process ray::{title} below {self.process.pid}")

    def finish(self) -> str:
        """Everything that the command printed, after it has ended successfully."""
        code = self.process.wait(PATIENCE_S)
        assert code == 0, f"it ended with {code}:\n{self.log.read_text()}"
        return self.log.read_text()


@dataclass(frozen=True, kw_only=True)
class Desk:
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    cluster: Path | None = None  # profile; None: as the command line chooses, with plain training workers

    def illume(self, *arguments: str, code: int = 0) -> Answer:
        """Run a command and wait for it; it must exit with `code`."""
        done = subprocess.run(
            [str(ILLUME), *arguments],
            cwd=self.folder,
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        assert done.returncode == code, f"illume {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return Answer(code=done.returncode, out=done.stdout, err=done.stderr)

    @contextmanager
    def start(self, *arguments: str) -> Iterator[Driver]:
        """A command that runs concurrently with the test, at most for the duration of the block."""
        handle, log = tempfile.mkstemp(prefix="command-", suffix=".log", dir=self.folder)
        with open(handle, "w") as file:
            process = subprocess.Popen(
                [str(ILLUME), *arguments], cwd=self.folder, env=self._environment(), stdout=file, stderr=file, text=True
            )
        try:
            yield Driver(process=process, log=Path(log))
        finally:
            if process.poll() is None:
                process.kill()
                process.wait(60)

    @property
    def store(self) -> Path:
        return self.folder / ".illume" / "store"

    def artifacts(self) -> dict[str, StoredArtifact]:
        """All committed artifacts, by fingerprint."""
        artifacts = ArtifactStore(open_store(self.store), self.folder / ".illume" / "cache")
        return {str(stored.manifest.fingerprint): stored for stored in artifacts.all()}

    def digests(self) -> dict[tuple[str, str], dict[str, str]]:
        """(stage kind, fingerprint) -> file -> sha256, of all committed artifacts."""
        return {
            (stored.manifest.stage_kind, fingerprint): {entry.path: entry.sha256 for entry in stored.manifest.files}
            for fingerprint, stored in self.artifacts().items()
        }

    def shard_records(self, stage_kind: str) -> set[str]:
        """Fingerprints of the shards of a kind that are recorded."""
        return {file.stem for file in (self.store / "shards" / stage_kind).glob("*/*.json")}

    def checkpoints(self, stage_kind: str) -> set[str]:
        """Committed checkpoints of a kind, as `fingerprint/step`."""
        found = (self.store / "artifacts" / stage_kind).glob("*/*/checkpoints/*/COMMIT")
        return {f"{commit.parents[2].name}/{commit.parent.name}" for commit in found}

    def plan(self, *arguments: str) -> dict[str, Any]:
        """The stages of a plan by id."""
        return {stage["id"]: stage for stage in self.illume("plan", *arguments, "--json").data["stages"]}

    def actions(self, *arguments: str) -> dict[str, str]:
        return {stage_id: stage["action"] for stage_id, stage in self.plan(*arguments).items()}

    def events(self, *arguments: str) -> list[Any]:
        return self.illume("events", "--json", *arguments).lines

    def _environment(self) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if not name.startswith(("ILLUME_", "MLFLOW_"))}
        cluster = {"ILLUME_CLUSTER": str(self.cluster)} if self.cluster else {}
        return {**own, "OMP_NUM_THREADS": "1", **cluster, **self.environment}


def _command_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()).strip()
    except psutil.Error:  # it ended meanwhile
        return ""
