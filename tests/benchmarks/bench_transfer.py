"""Downloads through a server that throttles, cuts and stalls: time, requests, and bytes that were sent twice.

Run: python tests/benchmarks/bench_transfer.py [--gigabytes 3] [--cut-share 0.1] [--stall-share 0.02] [--stall-s 2]
         [--processes 4]
The server runs in a process of its own, makes the bytes up as they are asked for, and cuts or stalls that share of its
answers at a random byte. Side by side: the same object through the same server without faults. The time-out for a
stalled connection is lowered from 30 s to `--stall-s`. Upload: the same server takes parts, loses some of them, and
answers some only the second time. At last, so many processes of one node ask for the object at once, each with keys of
its own, by which the server counts the bytes that it sent to each: all go to one of them, the others read its copy.
"""

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import click

BLOCK = random.Random(7).randbytes(1 << 20)
PIECE = 1 << 18


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    size = 0
    cut_share = stall_share = 0.0
    rng = random.Random(11)
    lock = threading.Lock()
    counts: dict[str, int]


class Handler(BaseHTTPRequestHandler):
    """One object of `size` bytes at any key; parts that are uploaded are counted. `/counts` tells what happened."""

    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_args: object) -> None: ...

    def count(self, name: str, number: int = 1) -> None:
        with self.server.lock:
            self.server.counts[name] = self.server.counts.get(name, 0) + number

    @property
    def client(self) -> str:
        """The access key of the request."""
        return self.headers.get("Authorization", "").partition("Credential=")[2].partition("/")[0]

    def fault(self) -> str:
        with self.server.lock:
            roll = self.server.rng.random()
        share = self.server.cut_share
        return "cut" if roll < share else "stall" if roll < share + self.server.stall_share else ""

    def do_GET(self) -> None:
        if self.path == "/counts":
            return self.reply(json.dumps(self.server.counts).encode())
        start, _, end = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        first, last = int(start), min(int(end or self.server.size), self.server.size - 1)
        self.send_response(206 if "Range" in self.headers else 200)
        self.send_header("Content-Length", str(last - first + 1))
        self.send_header("ETag", '"one"')
        self.send_header("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
        if "Range" in self.headers:
            self.send_header("Content-Range", f"bytes {first}-{last}/{self.server.size}")
        self.end_headers()
        fault = self.fault()
        with self.server.lock:
            stop = self.server.rng.randrange(first, last + 2) if fault else last + 1
        self.count("requests")
        self.send_bytes(first, stop)
        if fault:
            self.count(fault)
            self.close_connection = True
        if fault == "stall":
            time.sleep(60)
        return None

    def send_bytes(self, at: int, stop: int) -> None:
        try:
            while at < stop:
                offset = at % len(BLOCK)
                piece = BLOCK[offset : offset + min(PIECE, stop - at)]
                self.wfile.write(piece)
                self.count("sent", len(piece))
                self.count(f"sent to {self.client}", len(piece))
                at += len(piece)
        except OSError:
            self.close_connection = True

    def do_POST(self) -> None:
        self.take_body()
        text = b"<CompleteMultipartUploadResult><ETag>one</ETag></CompleteMultipartUploadResult>"
        self.reply(b"<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>"
                   if "uploads" in self.path else text)  # fmt: skip

    def do_PUT(self) -> None:
        fault = self.fault()
        self.count("parts")
        taken = self.take_body()
        self.count("sent", taken)
        if fault == "cut":  # taken, and the answer is lost
            self.count("cut")
            self.close_connection = True
            self.connection.close()
        elif fault == "stall":
            self.count("busy")
            self.reply(b"", status=503)
        else:
            self.reply(b"")

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(self.server.size))
        self.send_header("ETag", '"one"')
        self.send_header("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
        self.end_headers()

    def take_body(self) -> int:
        left = total = int(self.headers.get("Content-Length") or 0)
        while left > 0:
            left -= len(self.rfile.read(min(left, PIECE)))
        return total

    def reply(self, body: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"one"')
        self.end_headers()
        self.wfile.write(body)


def serve(size: int, cut_share: float, stall_share: float) -> None:
    server = Server(("127.0.0.1", 0), Handler)
    server.size, server.cut_share, server.stall_share, server.counts = size, cut_share, stall_share, {}
    click.echo(server.server_port)
    sys.stdout.flush()
    server.serve_forever()


class Trial:
    """A server process and a store at its address."""

    def __init__(self, size: int, cut_share: float, stall_share: float) -> None:
        command = [sys.executable, __file__, "--serve", str(size), str(cut_share), str(stall_share)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.endpoint = f"http://127.0.0.1:{int(self.process.stdout.readline())}"

    @property
    def store(self) -> Any:
        from orchestrator.store.store import open_store

        return open_store(f"s3://bucket?endpoint={self.endpoint}&region=us-east-1")

    def __enter__(self) -> "Trial":
        return self

    def __exit__(self, *_error: object) -> None:
        self.process.kill()
        self.process.wait()

    def counts(self) -> dict[str, int]:
        found: dict[str, int] = json.loads(urllib.request.urlopen(f"{self.endpoint}/counts").read())
        return found


def expected_digest(size: int) -> str:
    hasher, left = hashlib.sha256(), size
    while left > 0:
        hasher.update(BLOCK[:left])
        left -= len(BLOCK)
    return hasher.hexdigest()


def report(what: str, seconds: float, busy: float, size: int, counts: dict[str, int]) -> None:
    twice = counts.get("sent", 0) - size
    faults = ", ".join(f"{counts[name]} {name}" for name in ("cut", "stall", "busy") if name in counts) or "no faults"
    speed, requests = size / seconds / 1e6, counts.get("requests", counts.get("parts", 0))
    click.echo(
        f"{what:22} {seconds:6.1f} s  {speed:6.0f} MB/s  cpu {busy:5.1f} s  {requests:5} requests ({faults}); "
        f"sent twice: {twice / 1e6:.1f} MB ({100 * twice / size:.2f} %)"
    )


def fetch(endpoint: str, cache: str, size: int, sha256: str) -> None:
    """What a process of a node does that reads a file of an artifact."""
    from orchestrator.artifact import FileEntry
    from orchestrator.store.copies.local_copy import readable_folder
    from orchestrator.store.store import open_store

    store = open_store(f"s3://bucket?endpoint={endpoint}&region=us-east-1")
    file = FileEntry(path="file", bytes=size, sha256=sha256)
    assert (readable_folder(store, Path(cache), "artifact/data", [file]) / "file").stat().st_size == size


def fetch_at_once(num_processes: int, size: int, sha256: str, folder: Path) -> None:
    """Print the bytes that each of the processes of one node downloads."""
    names = [f"process{number}" for number in range(num_processes)]
    with Trial(size, 0.0, 0.0) as trial:
        command = [sys.executable, __file__, "--fetch", trial.endpoint, str(folder / "copies"), str(size), sha256]
        began = time.perf_counter()
        processes = [subprocess.Popen(command, env={**os.environ, "AWS_ACCESS_KEY_ID": name}) for name in names]
        assert not any([process.wait() for process in processes]), "a process failed"
        seconds, counts = time.perf_counter() - began, trial.counts()
    sent = ", ".join(f"{counts.get(f'sent to {name}', 0) / 1e6:.1f}" for name in names)
    times = counts["sent"] / size
    click.echo(f"{num_processes} processes of a node  {seconds:6.1f} s  MB sent to each: {sent}; in all {times:.2f}x")


@click.command()
@click.option("--gigabytes", default=3.0)
@click.option("--cut-share", default=0.1)
@click.option("--stall-share", default=0.02)
@click.option("--stall-s", default=2.0)
@click.option("--processes", default=4)
def main(gigabytes: float, cut_share: float, stall_share: float, stall_s: float, processes: int) -> None:
    os.environ.update(AWS_ACCESS_KEY_ID="x", AWS_SECRET_ACCESS_KEY="x", NO_PROXY="127.0.0.1")
    from orchestrator.backends import bucket

    bucket.STALL_S = stall_s
    size = int(gigabytes * 1e9)
    expected = expected_digest(size)
    folder = Path(tempfile.mkdtemp())
    try:
        for what, cut, stall in (("download, no faults", 0.0, 0.0), ("download, cut, stalled", cut_share, stall_share)):
            (folder / "file").unlink(missing_ok=True)
            with Trial(size, cut, stall) as trial:
                began, busy = time.perf_counter(), time.process_time()
                digest = trial.store.download("key", folder / "file")
                seconds, busy = time.perf_counter() - began, time.process_time() - busy
                assert (digest.bytes, digest.sha256) == (size, expected), "what arrived differs"
                report(what, seconds, busy, size, trial.counts())
        for what, cut, stall in (("upload, no faults", 0.0, 0.0), ("upload, lost answers", cut_share, stall_share)):
            with Trial(size, cut, stall) as trial:
                began, busy = time.perf_counter(), time.process_time()
                trial.store.upload(folder / "file", "key")
                report(what, time.perf_counter() - began, time.process_time() - busy, size, trial.counts())
        fetch_at_once(processes, size, expected, folder)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]))
    elif sys.argv[1:2] == ["--fetch"]:
        fetch(sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5])
    else:
        main()
