"""Stores and databases to test against: a local folder, a real S3 protocol server, memory; SQLite and PostgreSQL."""

import hashlib
import io
import os
import pwd
import random
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from orchestrator.artifact import JSON, Artifact, ArtifactKey, Chunks, FileEntry, Manifest
from orchestrator.attempt_id import AttemptId
from orchestrator.backends.objects import Digest, StoredObject
from orchestrator.history.attempts import AttemptIntent, InputSummary, StageRow
from orchestrator.history.database.database import Database
from orchestrator.history.events import AttemptState, EventKind, RunState
from orchestrator.history.leases import Leases
from orchestrator.history.run_store import RunStore
from orchestrator.identity import fingerprint_of
from orchestrator.store.store import Store, open_store


@dataclass
class S3Server:
    """The S3 of moto over HTTP, one request at a time (its own check for 'If-None-Match' is not atomic).

    `faults` are taken one for each conditional PUT: "lost reply" carries it out and answers 500, "conflict" answers
    409 and does nothing, "error" answers 500 and does nothing. `forget_conditions` drops 'If-None-Match' from requests.
    """

    endpoint: str = ""
    faults: list[str] = field(default_factory=list)
    forget_conditions: bool = False
    refuse_writes: str = ""  # status line to answer every PUT with
    overtaken_by: bytes = b""  # what another writer puts in the place of the next multipart upload
    lost_completions: int = 0  # of multipart uploads: so many are carried out, and answered with an error
    refusals: dict[tuple[str, str], str] = field(default_factory=dict)  # (method, part of its facts) -> error
    weather: random.Random | None = None  # any request may be late, refused, or carried out without an answer
    troubles: int = 0  # that the weather made
    lock: Any = field(default_factory=threading.Lock)
    moto: Any = field(default_factory=lambda: DomainDispatcherApplication(create_backend_app))

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        with self.lock:
            trouble = self._trouble(environ)
            if trouble == "lost reply":
                self._carry_out(environ)
            if trouble:
                return self._answer(start_response, "503 Slow Down")
            code = self._refusal(environ)
            if code:
                return self._answer(start_response, "400 Bad Request", f"<Error>{code}</Error>".encode())
            if environ["REQUEST_METHOD"] == "PUT" and self.refuse_writes:
                return self._answer(start_response, self.refuse_writes)
            if "HTTP_IF_NONE_MATCH" in environ and environ["REQUEST_METHOD"] == "PUT":
                return self._create(environ, start_response)
            is_completion = environ["REQUEST_METHOD"] == "POST" and "uploadId=" in environ["QUERY_STRING"]
            if is_completion and self.lost_completions:
                self.lost_completions -= 1
                self._carry_out(environ)
                return self._answer(start_response, "500 Internal Server Error")
            answer = list(self.moto(environ, start_response))
            if is_completion and self.overtaken_by:
                theirs, self.overtaken_by = self.overtaken_by, b""
                put = {"REQUEST_METHOD": "PUT", "QUERY_STRING": "", "CONTENT_LENGTH": str(len(theirs))}
                self._carry_out({**environ, **put, "wsgi.input": io.BytesIO(theirs)})
            return answer

    def _create(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if self.forget_conditions:
            del environ["HTTP_IF_NONE_MATCH"]
        fault = self.faults.pop(0) if self.faults else ""
        if fault == "conflict":
            return self._answer(start_response, "409 Conflict")
        if fault == "lost reply":
            self._carry_out(environ)
        if fault:
            return self._answer(start_response, "500 Internal Server Error")
        return list(self.moto(environ, start_response))

    def _carry_out(self, environ: dict[str, Any]) -> None:
        list(self.moto(environ, lambda *_: lambda _: None))

    def _trouble(self, environ: dict[str, Any]) -> str:
        """The simulated fault of a request: about one in six fails."""
        if self.weather is None:
            return ""
        roll = self.weather.random()
        self.troubles += roll < 0.17
        if roll < 0.05:
            time.sleep(0.1)
            return ""
        if roll < 0.11:
            return "lost reply" if environ["REQUEST_METHOD"] in ("PUT", "DELETE") else "error"
        return "error" if roll < 0.17 else ""

    def _refusal(self, environ: dict[str, Any]) -> str:
        facts = f"{environ['PATH_INFO']}?{environ['QUERY_STRING']} {environ.get('HTTP_X_AMZ_COPY_SOURCE', '')}"
        facts += environ.get("HTTP_AUTHORIZATION", "")
        found = (
            code
            for (method, sign), code in self.refusals.items()
            if method == environ["REQUEST_METHOD"] and sign in facts
        )
        return next(found, "")

    def _answer(self, start_response: Callable[..., Any], status: str, body: bytes = b"") -> list[bytes]:
        start_response(status, [("Content-Length", str(len(body))), ("Connection", "close")])
        return [body]

    def url(self, bucket: str) -> str:
        """The address of an empty store in a fresh or known bucket."""
        urllib.request.urlopen(urllib.request.Request(f"{self.endpoint}/{bucket}", method="PUT")).read()
        return f"s3://{bucket}/deep/prefix?endpoint={self.endpoint}&region=us-east-1"


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    with running_s3() as server:
        yield server


@contextmanager
def running_s3() -> Iterator[S3Server]:
    """A server with credentials and without proxies in the environment of this process."""
    server = S3Server()
    web = make_server("127.0.0.1", 0, server, threaded=True)
    server.endpoint = f"http://127.0.0.1:{web.server_port}"
    thread = threading.Thread(target=web.serve_forever, daemon=True)
    thread.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("NO_PROXY", "127.0.0.1")
        yield server
    web.shutdown()


@pytest.fixture
def s3(s3_server: S3Server) -> Iterator[S3Server]:
    """The server, without faults at the start and at the end."""
    yield s3_server
    s3_server.faults, s3_server.forget_conditions, s3_server.refuse_writes = [], False, ""
    s3_server.weather, s3_server.troubles = None, 0
    s3_server.overtaken_by, s3_server.refusals, s3_server.lost_completions = b"", {}, 0


@pytest.fixture
def s3_store(s3: S3Server, tmp_path: Path) -> Store:
    return open_store(s3.url(hashlib.sha256(str(tmp_path).encode()).hexdigest()[:20]))


@pytest.fixture
def local_store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


@pytest.fixture(params=["local", "s3", "memory"])
def store(request: pytest.FixtureRequest) -> Store:
    if request.param == "memory":
        return MemoryStore()
    found: Store = request.getfixturevalue(f"{request.param}_store")
    return found


@dataclass
class MemoryStore:
    """The simplest possible store: the reference for the other ones and the model in property tests."""

    objects: dict[str, bytes] = field(default_factory=dict)
    url: str = "memory"
    is_local: bool = False

    def put_new(self, key: str, data: bytes) -> bool:
        return self.objects.setdefault(key, data) is data

    def get(self, key: str) -> bytes | None:
        return self.objects.get(key)

    def get_range(self, key: str, start: int, size: int) -> bytes | None:
        data = self.objects.get(key)
        return None if data is None else data[start : start + size]

    def list(self, prefix: str) -> Iterator[StoredObject]:
        for key in sorted(self.objects):
            if key.startswith(f"{prefix}/"):
                yield StoredObject(key=key, bytes=len(self.objects[key]), modified_s=0.0)

    def folders(self, prefix: str) -> tuple[str, ...]:
        rests = [key.removeprefix(f"{prefix}/") for key in self.objects if key.startswith(f"{prefix}/")]
        return tuple(sorted({rest.split("/")[0] for rest in rests if "/" in rest}))

    def delete(self, key: str) -> None:
        self.objects.pop(key, None)

    def delete_many(self, keys: Sequence[str]) -> None:
        for key in keys:
            self.delete(key)

    def upload(self, path: Path, key: str) -> Digest:
        self.objects[key] = path.read_bytes()
        found = self.digest(key)
        assert found is not None
        return found

    def write(self, key: str, chunks: Chunks, size: int) -> Digest:
        self.objects[key] = b"".join(chunks())
        found = self.digest(key)
        assert found is not None
        assert found.bytes == size
        return found

    def download(self, key: str, path: Path) -> Digest | None:
        if key in self.objects:
            path.write_bytes(self.objects[key])
        return self.digest(key)

    def digest(self, key: str) -> Digest | None:
        data = self.objects.get(key)
        return None if data is None else Digest(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())

    def link(self, source: str, target: str) -> None:
        self.objects[target] = self.objects[source]

    def local(self, key: str) -> Path | None:
        return None


@pytest.fixture
def memory_store() -> MemoryStore:
    return MemoryStore()


def postgresql_programs() -> Path | None:
    """The folder with `initdb` and `pg_ctl`: on the search path, or where Debian installs them."""
    on_path = shutil.which("initdb")
    folders = [Path(on_path).parent] if on_path else sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in folders if (folder / "initdb").exists() and (folder / "pg_ctl").exists()), None)


@dataclass(frozen=True)
class PostgresqlServer:
    address: str  # without a database name
    restart: Callable[[], None]  # as after a crash: connections break, what was committed is there


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresqlServer]:
    """An empty PostgreSQL server of this test session."""
    programs = postgresql_programs()
    if programs is None:
        pytest.skip("the server programs of PostgreSQL are not installed on this machine")
    with running_postgresql(programs) as server:
        yield server


@contextmanager
def running_postgresql(programs: Path) -> Iterator[PostgresqlServer]:
    """An empty server. `programs`: the folder with `initdb` and `pg_ctl`."""
    user = None
    if os.geteuid() == 0:  # the server refuses to run as the administrator
        user = "postgres" if "postgres" in {entry.pw_name for entry in pwd.getpwall()} else "nobody"
    folder = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))  # short: the path of a Unix socket has a limit
    if user:
        shutil.chown(folder, user)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def call(*command: str) -> None:
        program = str(programs / command[0])
        subprocess.run(
            [program, *command[1:]], user=user, cwd=folder, check=True, stdout=subprocess.DEVNULL, timeout=60
        )

    data = str(folder / "data")
    call("initdb", "-D", data, "-U", "tester", "--auth=trust", "--no-sync")

    def start() -> None:
        options = f"-p {port} -k {folder} -h 127.0.0.1 -F"
        call("pg_ctl", "-D", data, "-w", "-l", str(folder / "log"), "-o", options, "start")

    def restart() -> None:
        call("pg_ctl", "-D", data, "-m", "immediate", "stop")
        start()

    start()
    try:
        yield PostgresqlServer(f"postgresql://tester@127.0.0.1:{port}", restart)
    finally:
        call("pg_ctl", "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgresql_server(postgresql: PostgresqlServer) -> str:
    return postgresql.address


@pytest.fixture
def postgresql_url(postgresql_server: str) -> str:
    """The address of a fresh schema, which takes milliseconds, while a new database takes half a second."""
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(f"{postgresql_server}/postgres", autocommit=True) as connection:
        connection.execute(f"create schema {name}")
    return f"{postgresql_server}/postgres?options=-csearch_path%3D{name}"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a fresh database of each kind."""
    if request.param == "sqlite":
        return str(tmp_path / "index.db")
    url: str = request.getfixturevalue("postgresql_url")
    return url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    found = Database(database_url)
    yield found
    found.close()


@dataclass(frozen=True)
class Story:
    """A run recorded in a database: one stage fails once, then makes an artifact; a driver dies and is replaced."""

    database: Database
    run_store: RunStore
    run_id: str
    epoch: int
    artifact: Artifact


@pytest.fixture
def tell_story() -> Callable[[Database, str], Story]:
    return _tell


def _tell(database: Database, run_id: str) -> Story:
    store, leases = RunStore(database), Leases(database)
    artifact = example_artifact()
    row = StageRow(stage_id="clean", stage_kind="curate", fingerprint=artifact.fingerprint, action="run")
    store.create_run(run_id, recipe_name="tiny", plan_digest="d" * 64, stages=[row])
    first = leases.acquire(f"run:{run_id}")
    assert first is not None
    epoch = store.begin_epoch(run_id, first)
    attempt = _begin(store, run_id, "a1", artifact, epoch)
    store.transition_attempt(
        attempt, AttemptState.RUNNING, AttemptState.FAILED, epoch=epoch, fields={"failure_class": "infra_transient"}
    )
    attempt = _begin(store, run_id, "a2", artifact, epoch)
    tracker = store.telemetry.tracker(AttemptId(run_id=run_id, stage_id="clean", epoch=epoch, name=attempt))
    for step in range(1, 6):
        tracker.log_metrics({"loss": 1.0 / step}, step=step)
    tracker.progress(40, 40, "images")
    leases.release(first)
    second = leases.acquire(f"run:{run_id}")  # the first driver died
    assert second is not None
    store.telemetry.flush()
    epoch = store.begin_epoch(run_id, second)
    store.transition_attempt(attempt, AttemptState.RUNNING, AttemptState.COMMITTED, epoch=epoch, artifact=artifact)
    store.record(
        run_id, EventKind.MODEL_VERSION, {"name": "cleaner", "uri": "s3://bucket/model", "alias": "best"}, epoch=epoch
    )
    store.transition_run(run_id, RunState.RUNNING, RunState.SUCCEEDED, epoch=epoch)
    store.close()
    return Story(database, store, run_id, epoch, artifact)


def _begin(store: RunStore, run_id: str, name: str, artifact: Artifact, epoch: int) -> str:
    source = InputSummary(slot="raw", kind="records@1", digest="e" * 64, name="ingest", bytes=2_000, rows=40, files=3)
    intent = AttemptIntent(
        attempt=AttemptId(run_id=run_id, stage_id="clean", epoch=epoch, name=f"{run_id}-{name}"),
        key=ArtifactKey("curate", artifact.fingerprint),
        stage_version=1,
        config={"min_side": 256, "sizes": [[1, 2], [3, 4]], "token": "plain", "deep": {"name": "x" * 7000}},
        inputs=(source,),
    )
    store.start_attempt(intent)
    store.transition_attempt(intent.attempt.name, AttemptState.INTENT, AttemptState.RUNNING, epoch=epoch)
    return intent.attempt.name


def example_artifact() -> Artifact:
    payload: dict[str, JSON] = {"kind": "curate", "version": 1}
    files = (FileEntry(path="shards/a.tar", bytes=1000, sha256="f" * 64, rows=38),)
    manifest = Manifest(
        kind="dataset@1",
        stage_kind="curate",
        fingerprint=fingerprint_of(payload),
        payload=payload,
        files=files,
        metrics={"kept": 38.0, "share": float("nan")},
        inputs={"raw": ("e" * 64,)},
    )
    return Artifact(path=Path("/nowhere"), manifest=manifest, manifest_sha256="c" * 64)
