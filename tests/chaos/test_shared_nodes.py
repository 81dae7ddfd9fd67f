"""Nodes whose ranks all ask for one checkpoint at once, from a bucket behind a bad network, while some are killed."""

import hashlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.artifact import FileEntry
from orchestrator.backends import bucket as connection
from orchestrator.backends import transfers
from orchestrator.store.copies import copy_budget
from orchestrator.store.copies.local_copy import readable_folder
from tests.orchestrator.store.weak_bucket import WeakBucket, weak_bucket

NODES, RANKS = 2, 8
DATA_KEY = "checkpoint/data"
RANK = """
import json, pathlib, sys
from orchestrator.artifact import FileEntry
from orchestrator.store.copies.local_copy import readable_folder
from orchestrator.store.store import open_store
files = [FileEntry(**entry) for entry in json.loads(sys.argv[3])]
readable_folder(open_store(sys.argv[1]), pathlib.Path(sys.argv[2]), "checkpoint/data", files)
"""


@pytest.fixture
def weak(monkeypatch: pytest.MonkeyPatch) -> Iterator[WeakBucket]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(connection, "STALL_S", 0.3)
    monkeypatch.setattr(transfers, "BREAK_WAIT_S", 0.0)
    with weak_bucket() as found:
        yield found


def put(weak: WeakBucket, name: str, content: bytes) -> FileEntry:
    weak.objects[f"{DATA_KEY}/{name}"] = content
    return FileEntry(path=name, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def test_two_nodes_with_eight_ranks_fetch_each_file_once_for_each_node(weak: WeakBucket, tmp_path: Path) -> None:
    files = [put(weak, f"weights-{number}", bytes([number]) * 700_000) for number in range(4)]
    weak.faults = ["cut 300000", "busy", "ok", "stall 500000", "ok", "cut 1"]
    num_faults = len(weak.faults)
    failed: list[Exception] = []

    def rank(node: int) -> None:
        try:
            folder = readable_folder(weak.store, tmp_path / f"node-{node}", DATA_KEY, files)
            for file in files:
                content = (folder / file.path).read_bytes()
                assert hashlib.sha256(content).hexdigest() == file.sha256
        except Exception as error:  # noqa: BLE001 - of any kind
            failed.append(error)

    threads = [threading.Thread(target=rank, args=(node,)) for node in range(NODES) for _ in range(RANKS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert len(weak.requests) <= NODES * len(files) + num_faults
    assert weak.sent <= NODES * sum(file.bytes for file in files) + num_faults * transfers.YIELD_BYTES


def test_a_rank_that_is_killed_while_it_downloads_is_followed_by_one_that_goes_on(
    weak: WeakBucket, tmp_path: Path
) -> None:
    content = bytes(range(256)) * 8192  # 2 MiB
    file = put(weak, "weights", content)
    weak.faults = ["stall 1500000"]
    entries = f'[{{"path": "weights", "bytes": {file.bytes}, "sha256": "{file.sha256}"}}]'
    command = [sys.executable, "-c", RANK, weak.store.url, str(tmp_path), entries]
    first = subprocess.Popen(command)
    part = next(iter(_arriving(tmp_path)))
    others: list[bytes] = []
    waiting = [
        threading.Thread(
            target=lambda: others.append(
                (readable_folder(weak.store, tmp_path, DATA_KEY, [file]) / "weights").read_bytes()
            )
        )
        for _ in range(RANKS)
    ]
    for thread in waiting:
        thread.start()
    assert part.stat().st_size > 1_000_000
    first.send_signal(signal.SIGKILL)
    first.wait()
    for thread in waiting:
        thread.join()
    assert others == [content] * RANKS
    assert len(weak.requests) == 2
    assert int(weak.requests[1][1].partition("-")[0]) > 1_000_000  # where the one that was killed had come to
    assert weak.sent < len(content) + 2 * transfers.YIELD_BYTES


def _arriving(cache: Path) -> Iterator[Path]:
    """The file that is being downloaded, once most of what comes has arrived."""
    for _ in range(3000):
        for found in cache.glob("downloads/*/weights"):
            if found.stat().st_size > 1_000_000:
                yield found
        threading.Event().wait(0.01)
    raise AssertionError("nothing arrives")


ON_A_SMALL_DISK = """
import hashlib, subprocess, sys
from pathlib import Path
from orchestrator.artifact import FileEntry
from orchestrator.errors import StoreError
from orchestrator.store.copies.copy_locks import release
from orchestrator.store.copies.local_copy import readable_folder
from orchestrator.backends.local_store import LocalStore
root, cache = Path(sys.argv[1]), Path(sys.argv[2])
class Remote:
    url = "remote"
    is_local = False
    inner = LocalStore(root)
    def local(self, key): return None
    def download(self, key, path): return self.inner.download(key, path)
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(cache)], check=True)
def read(name, num_bytes, holder):
    content = name.encode() * num_bytes
    store = Remote()
    store.inner.put_new(f"{name}/data/file", content)
    entry = FileEntry(path="file", bytes=num_bytes, sha256=hashlib.sha256(content).hexdigest())
    try:
        folder = readable_folder(store, cache, f"{name}/data", [entry], holder)
        print(name, (folder / "file").read_bytes() == content, sorted(path.name for path in cache.iterdir()))
    except StoreError as error:
        print(name, error)
read("a", 1_000_000, "a finished stage")
read("b", 1_000_000, "a stage")
release(cache, "a finished stage")
read("c", 1_500_000, "a stage")
read("d", 1_500_000, "a stage")
print((cache / "b/data/file").stat().st_size, (cache / "c/data/file").stat().st_size)
"""


def test_a_disk_that_fills_under_the_copies_loses_those_that_nobody_reads(tmp_path: Path) -> None:
    for name in ("store", "cache"):
        (tmp_path / name).mkdir()
    command = [
        "unshare",
        "-rm",
        sys.executable,
        "-c",
        ON_A_SMALL_DISK,
        str(tmp_path / "store"),
        str(tmp_path / "cache"),
    ]
    environment = {**os.environ, copy_budget.BUDGET_VARIABLE: "1TB"}  # so that only the disk is full
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode and ("unshare" in done.stderr or "mount" in done.stderr):
        pytest.skip("this machine does not let a test mount a disk")
    assert done.returncode == 0, done.stderr
    first, second, third, refused, sizes = done.stdout.splitlines()
    assert first == "a True ['LOCKS', 'a', 'downloads']"
    assert second == "b True ['LOCKS', 'a', 'b', 'downloads']"
    assert third == "c True ['LOCKS', 'b', 'c', 'downloads']"  # nobody read `a` any more
    assert re.search(r"the disk of node \S+ is full: found", refused)
    assert "expected 1,500,000, and every local copy is being read. Free some space, or set ILLUME_CACHE" in refused
    assert sizes == "1000000 1500000"
