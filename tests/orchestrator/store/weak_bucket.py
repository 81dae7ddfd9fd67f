"""A bucket behind a bad network: answers are cut, stall, are refused, or are of another version of the object."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from orchestrator.backends.object_store import ObjectStore

MODIFIED = "Mon, 01 Jan 2024 00:00:00 GMT"


@dataclass
class WeakBucket:
    """Objects by key, read over HTTP. `faults` are taken one for each GET; without any left, answers are whole.

    "cut N": the connection ends after N bytes of the body. "stall N": nothing comes after N bytes, until the server
    ends. "busy": 503. "shifted": the answer says that it is of the bytes after those asked for. "replace": the object
    is another one from now on. "ok": no fault.
    """

    objects: dict[str, bytes] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)  # (key, range) of each GET
    sent: int = 0  # bytes of bodies
    endpoint: str = ""
    ended: threading.Event = field(default_factory=threading.Event)
    lock: Any = field(default_factory=threading.Lock)

    @property
    def store(self) -> ObjectStore:
        return ObjectStore.connect(f"s3://bucket?endpoint={self.endpoint}&region=us-east-1")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    bucket: WeakBucket


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_args: object) -> None: ...

    def do_HEAD(self) -> None:
        self._answer(self._body(), "ok")

    def do_GET(self) -> None:
        bucket = self.server.bucket
        with bucket.lock:
            fault = bucket.faults.pop(0) if bucket.faults else "ok"
            bucket.requests.append((self._key, self._range))
            if fault == "replace":
                bucket.objects[self._key] = bytes(len(bucket.objects[self._key]))
        if fault == "busy":
            self._refuse(503, "SlowDown")
        else:
            self._answer(self._body(), fault)

    @property
    def _key(self) -> str:
        return self.path.removeprefix("/bucket/")

    @property
    def _range(self) -> str:
        return self.headers.get("Range", "").removeprefix("bytes=")

    def _body(self) -> bytes | None:
        with self.server.bucket.lock:
            return self.server.bucket.objects.get(self._key)

    def _answer(self, body: bytes | None, fault: str) -> None:
        if body is None:
            return self._refuse(404, "NoSuchKey")
        etag = f'"{hashlib.md5(body).hexdigest()}"'
        if self.headers.get("If-Match", etag) != etag:
            return self._refuse(412, "PreconditionFailed")
        start, _, end = (self._range or "0-").partition("-")
        first, last = int(start), min(int(end or len(body)), len(body) - 1)
        if self._range and first >= len(body):
            return self._refuse(416, "InvalidRange")
        said = first + 1 if fault == "shifted" else first
        content = {"Content-Range": f"bytes {said}-{last}/{len(body)}"} if self._range else {}
        return self._send(body[first : last + 1], fault, {"ETag": etag, **content})

    def _send(self, part: bytes, fault: str, headers: dict[str, str]) -> None:
        bucket, (kind, _, number) = self.server.bucket, fault.partition(" ")
        self.send_response(206 if self._range else 200)
        for name, value in {"Content-Length": str(len(part)), "Last-Modified": MODIFIED, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        sent = part[: int(number)] if kind in ("cut", "stall") else part
        with bucket.lock:
            bucket.sent += len(sent)
        try:
            self.wfile.write(sent)
            self.wfile.flush()
        except OSError:  # the reader has what it wanted
            self.close_connection = True
        if kind == "stall":
            bucket.ended.wait()
        if kind in ("cut", "stall"):
            self.close_connection = True

    def _refuse(self, status: int, code: str) -> None:
        body = f"<Error><Code>{code}</Code><Message>refused</Message></Error>".encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def weak_bucket() -> Iterator[WeakBucket]:
    bucket = WeakBucket()
    server = _Server(("127.0.0.1", 0), _Handler)
    server.bucket = bucket
    bucket.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield bucket
    finally:
        bucket.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()
