"""How long the pages of `illume serve` take, and how much memory, over a large made-up history.

    python tests/benchmarks/bench_web.py [--runs 1000] [--events 1000000] [--shards 100000] [--ledger-rows 10000000]

The history is made in a temporary folder, with a curated dataset whose ledger has all columns of a real one (1.1 GB;
most of its shards are links to the first four). The service is a process of its own, asked over HTTP, while five pages
follow a run live. Prints a line for each page: median and 95th percentile in milliseconds, after its first answer, and
how many bytes the service read for the pages of the dataset.
"""

import argparse
import json
import math
import os
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil

from orchestrator.artifact import JSON, ArtifactKey
from orchestrator.artifacts.artifact_store import ManifestDraft
from orchestrator.artifacts.run_records import RunRecords
from orchestrator.identity import fingerprint_of
from orchestrator.workspace import Workspace
from tests.benchmarks.bench_ledger import REASONS, write_ledger

NUM_STAGES, NUM_ATTEMPTS, NUM_ASKED, NUM_FOLLOWERS = 10, 3, 40, 5
SHARDS_IN_EVENT = 250
LEDGER_SHARD_ROWS, NUM_DISTINCT = 100_000, 4
LOG_BYTES = 1024**3
TOO_MANY_REQUESTS = 429
BEGAN = 1_750_000_000.0
ACTOR = {"user": "alice", "host": "host7", "program": "0.2.0", "command": "illume run tiny.yaml"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--shards", type=int, default=100_000)
    parser.add_argument("--ledger-rows", type=int, default=10_000_000)
    parser.add_argument("--keep", type=Path, help="a folder for the history, which is used again")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-web-") as folder:
        root = Path(options.keep or folder, "illume")
        began = time.monotonic()
        if not root.exists():
            make_history(root, num_runs=options.runs, num_events=options.events, num_shards=options.shards)
            make_dataset(root, num_runs=options.runs, num_rows=options.ledger_rows)
        size = (root / "index.db").stat().st_size / 1e6
        took = f"in {time.monotonic() - began:.0f} s"
        say(f"made {options.runs} runs, {options.events} events, {size:.0f} MB, {options.ledger_rows} rows, {took}")
        measure(root)


def make_history(root: Path, *, num_runs: int, num_events: int, num_shards: int) -> None:
    """The newest run is at work on a map of `num_shards`; a log of it has 1 GB."""
    with Workspace.open(root=root, tracking_url="none") as workspace:
        stages: list[JSON] = [_planned(number) for number in range(NUM_STAGES)]
        plan: dict[str, JSON] = {"format": 1, "recipe": "tiny", "file": "tiny.yaml", "stages": stages}
        RunRecords(workspace.store).put_plan("d" * 64, plan)
    with sqlite3.connect(root / "index.db") as connection:
        connection.execute("pragma synchronous=off")
        for number in range(num_runs):
            _make_run(connection, number, num_runs)
        connection.executemany(
            "insert or ignore into events values (?,?,?,?,?,?,?,?)", _events(num_runs, num_events, num_shards)
        )
        connection.execute(
            "update runs set last_event = (select max(sequence) from events where events.run_id = runs.run_id)"
        )
        connection.execute("analyze")
    logs = root / "store" / "runs" / _run_id(num_runs - 1) / "logs"
    logs.mkdir(parents=True)
    block = b"2025-06-15T08:15:00.250Z INFO curate: shard images-00007 done in 0.5 s, 128 rows\n" * 12_000
    with (logs / "s3-1-3.log").open("wb") as file:
        for _ in range(LOG_BYTES // len(block)):
            file.write(block)


def make_dataset(root: Path, *, num_runs: int, num_rows: int) -> None:
    """The first stage of the newest run has made a curated dataset of `num_rows`, committed as stages commit."""
    payload: dict[str, JSON] = {"kind": "curate", "version": 1}
    fingerprint, attempt = fingerprint_of(payload), f"{_run_id(num_runs - 1)}-s0-1-{NUM_ATTEMPTS}"
    metrics = {"keep": 0.75 * num_rows, "drop": 0.25 * num_rows}
    metrics |= {f"reason {reason}": 0.25 * num_rows / len(REASONS) for reason in REASONS}
    with Workspace.open(root=root, tracking_url="none") as workspace:
        folder = workspace.artifacts.new_attempt(ArtifactKey("curate", fingerprint), attempt)
        write_ledger(folder.data, num_rows, LEDGER_SHARD_ROWS, NUM_DISTINCT)
        names = [f"ledger/{path.name}" for path in sorted((folder.data / "ledger").iterdir())]
        rows = dict.fromkeys(names, LEDGER_SHARD_ROWS)
        draft = ManifestDraft(kind="dataset@1", payload=payload, metrics=metrics, rows=rows)
        workspace.artifacts.commit(folder, draft, epoch=1)
    with sqlite3.connect(root / "index.db") as connection:
        for table in ("stages", "attempts"):
            of_stage = f"update {table} set fingerprint = ? where run_id = ? and stage_id = 's0'"
            connection.execute(of_stage, (fingerprint, _run_id(num_runs - 1)))


def _make_run(connection: sqlite3.Connection, number: int, num_runs: int) -> None:
    run_id, at = _run_id(number), BEGAN + 3600.0 * number
    state = "RUNNING" if number == num_runs - 1 else ("SUCCEEDED", "FAILED", "CANCELLED")[number % 3]
    row = (run_id, f"recipe{number % 20}", "d" * 64, state, 1, "process 7 on host7", 1, 0, "", at, at + 3000.0)
    connection.execute("insert into runs values (?,?,?,?,?,?,?,?,?,?,?)", row)
    for stage in range(NUM_STAGES):
        upstream = json.dumps([f"s{stage - 1}"] if stage else [])
        values = (run_id, f"s{stage}", stage, "curate", _fingerprint(number, stage), "run", '["never made"]', upstream)
        connection.execute("insert into stages values (?,?,?,?,?,?,?,?,'',null)", values)
        for attempt in range(1, NUM_ATTEMPTS + 1):
            is_last = attempt == NUM_ATTEMPTS
            ended = "RUNNING" if state == "RUNNING" and stage == 3 and is_last else "COMMITTED" if is_last else "FAILED"
            began = at + 300.0 * stage + 90.0 * attempt
            connection.execute(
                "insert into attempts values (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
                (f"{run_id}-s{stage}-1-{attempt}", run_id, f"s{stage}", attempt, 1, ended, "curate",
                 _fingerprint(number, stage), "" if is_last else "node_lost", "" if is_last else "a node was lost",
                 began, began, None if ended == "RUNNING" else began + 80.0, 50, 100, "shards", 1.0),
            )  # fmt: skip


def _events(num_runs: int, num_events: int, num_shards: int) -> Iterator[tuple[object, ...]]:
    newest = _run_id(num_runs - 1)
    attempt = f"{newest}-s3-1-3"
    each = num_events // num_runs
    for number in range(num_runs):
        run_id, at = _run_id(number), BEGAN + 3600.0 * number
        created = {"actor": ACTOR, "recipe": f"recipe{number % 20}", "plan_digest": "d" * 64, "stages": []}
        yield run_id, 1, at, 0, "run_created", None, None, _json(created)
        for sequence in range(2, each + 1):
            stage = f"s{sequence % NUM_STAGES}"
            if sequence % 10 == 0:
                fields = {"actor": ACTOR, "from": "INTENT", "to": "RUNNING", "number": 1}
                kind = "attempt_state"
            else:
                fields, kind = {"points": [["loss", "0.5", sequence, at]], "first": sequence}, "metrics"
            yield run_id, sequence, at + sequence, 1, kind, stage, f"{run_id}-{stage}-1-1", _json(fields)
    sequence, at = each + 1, BEGAN + 3600.0 * num_runs
    planned = {"actor": ACTOR, "label": "judge", "shards": num_shards, "reused": 0}
    yield newest, sequence, at, 1, "shards_planned", "s3", attempt, _json(planned)
    for first in range(0, num_shards, SHARDS_IN_EVENT):
        sequence += 1
        places = range(first, min(num_shards, first + SHARDS_IN_EVENT))
        done = [
            [place, f"images-{place:06d}", (place * 37 % 1000) / 100, 1 + (place % 997 == 0), 0] for place in places
        ]
        fields = {"actor": ACTOR, "label": "judge", "shards": done}
        yield newest, sequence, at + first, 1, "shards_done", "s3", attempt, _json(fields)


def measure(root: Path) -> None:
    port = _free_port()
    environment = {**os.environ, "ILLUME_HOME": str(root), "ILLUME_TRACKING": "none"}
    command = [sys.executable, "-c", "from orchestrator.cli import main; main()", "serve", "--port", str(port)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as service:
        try:
            base = f"http://127.0.0.1:{port}"
            _wait_for(f"{base}/healthz")
            newest = json.load(urllib.request.urlopen(f"{base}/api/v1/runs"))["runs"][0]["run"]
            for _ in range(NUM_FOLLOWERS):
                address = f"{base}/events/stream?run={newest}"
                threading.Thread(target=_follow, args=(address,), daemon=True).start()
            say(f"{'page':52} {'p50 ms':>8} {'p95 ms':>8} {'first ms':>9} {'cpu ms':>7}")
            for path in _paths(newest):
                first, busy_s = _time(base + path), _cpu_s(service.pid)
                times = sorted(_time(base + path) for _ in range(NUM_ASKED))
                cpu_ms = 1e3 * (_cpu_s(service.pid) - busy_s) / NUM_ASKED  # with what the followers ask meanwhile
                p95 = times[math.ceil(0.95 * len(times)) - 1]
                shown = path.replace(newest, "RUN")[:52]
                found = f"{1e3 * times[len(times) // 2]:8.0f} {1e3 * p95:8.0f} {1e3 * first:9.0f} {cpu_ms:7.0f}"
                say(f"{shown:52} {found}")
            read = psutil.Process(service.pid).io_counters().read_chars
            for path in _dataset_paths(newest):
                _time(base + path)
            read = psutil.Process(service.pid).io_counters().read_chars - read
            say(f"read for {len(_dataset_paths(newest))} pages of the dataset: {read / 1e6:.1f} MB")
            log = f"{base}/runs/{newest}/logs/s3-1-3.log/raw"
            first_bytes = sorted(_first_byte(log) for _ in range(NUM_ASKED))
            say(f"first byte of a log of 1 GB: {1e3 * first_bytes[NUM_ASKED // 2]:.0f} ms")
            metrics = urllib.request.urlopen(f"{base}/metrics").read().decode()
            (memory,) = [line for line in metrics.splitlines() if line.startswith("illume_web_memory_bytes")]
            say(f"memory {float(memory.split()[1]) / 1e6:.0f} MB")
        finally:
            service.terminate()


def _paths(run: str) -> list[str]:
    return [
        "/runs", "/runs?state=FAILED", "/runs?owner=alice", f"/runs/{run}", f"/runs/{run}/stages/s3",
        f"/runs/{run}/stages/s3/shards?order=slowest", "/events", f"/events?run={run}", "/events?actor=alice",
        "/events?actor=nobody", "/events?q=nothing+such", "/cluster", *_dataset_paths(run),
        f"/runs/{run}/logs/s3-1-3.log", f"/runs/{run}/logs/s3-1-3.log?at=500000000", "/api/v1/runs", "/metrics",
        "/healthz",
    ]  # fmt: skip


def _dataset_paths(run: str) -> list[str]:
    """Pages about the dataset with the large ledger."""
    return ["/datasets", f"/datasets/{fingerprint_of({'kind': 'curate', 'version': 1})}", f"/runs/{run}/stages/s0"]


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _cpu_s(pid: int) -> float:
    spent = psutil.Process(pid).cpu_times()
    return float(spent.user + spent.system)


def _time(address: str) -> float:
    """Of an answer; a page that is asked too often is asked again later, as its rate limit demands."""
    while True:
        time.sleep(0.03)
        began = time.perf_counter()
        try:
            with urllib.request.urlopen(address) as answer:
                answer.read()
            return time.perf_counter() - began
        except urllib.error.HTTPError as error:
            if error.code != TOO_MANY_REQUESTS:
                raise
            time.sleep(1.0)


def _first_byte(address: str) -> float:
    began = time.perf_counter()
    with urllib.request.urlopen(address) as answer:
        answer.read(1)
        return time.perf_counter() - began


def _follow(address: str) -> None:
    with urllib.request.urlopen(address) as answer:
        for _line in answer:
            pass


def _wait_for(address: str) -> None:
    for _ in range(300):
        try:
            urllib.request.urlopen(address).read()
            return
        except OSError:
            time.sleep(0.2)
    raise TimeoutError(f"{address}: no answer")


def _planned(number: int) -> dict[str, JSON]:
    return {
        "id": f"s{number}", "kind": "curate", "config": {}, "inputs": {"raw": [f"s{number - 1}"] if number else []},
        "resources": {"cpus": 1.0, "gpus": 8.0, "workers": 64}, "retry": {}, "gates": {},
        "payload": {"kind": "curate", "version": 1}, "fingerprint": _fingerprint(0, number), "action": "run",
        "redo": False, "reasons": [], "estimate_s": None,
    }  # fmt: skip


def _fingerprint(run: int, stage: int) -> str:
    return f"{run:032x}{stage:032x}"


def _run_id(number: int) -> str:
    return f"20250615-{number:06d}-abcdef"


def _json(fields: object) -> str:
    return json.dumps(fields, sort_keys=True, separators=(",", ":"))


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


if __name__ == "__main__":
    main()
