"""A process that has imported what trainings need and forks into workers: `python -m stages.training.workers.template`.

Importing torch and transformers is most of the start of a small training, so it is done once for all workers of a
driver. The template computes nothing and starts no thread, so that its copies are as good as new processes.

The socket brings one request at a time: a worker to start, with its pipe and its log as descriptors, or one whose exit
code is asked for. When it closes, the driver is gone, and the template ends; workers see that by their own pipes.
"""

import importlib
import json
import os
import signal
import socket
import struct
import sys
from collections.abc import Mapping, Sequence
from typing import Any

MODULES = ("torch._dynamo", "stages.training.loop", "stages.training.workers.process_worker")
LENGTH = struct.Struct("!I")  # before each message


def send(connection: socket.socket, message: Any, descriptors: Sequence[int] = ()) -> None:
    body = json.dumps(message).encode()
    socket.send_fds(connection, [LENGTH.pack(len(body))], descriptors)
    connection.sendall(body)


def receive(connection: socket.socket, *, max_descriptors: int = 0) -> tuple[Any, list[int]]:
    """Raises: EOFError if the other side has closed."""
    head, descriptors, _, _ = socket.recv_fds(connection, LENGTH.size, max_descriptors)
    if len(head) < LENGTH.size:
        raise EOFError
    left, body = LENGTH.unpack(head)[0], b""
    while len(body) < left:
        if not (part := connection.recv(left - len(body))):
            raise EOFError
        body += part
    return json.loads(body), descriptors


def main(descriptor: int) -> None:
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):  # the driver says when it ends
        signal.signal(number, signal.SIG_IGN)
    for name in MODULES:
        importlib.import_module(name)
    with socket.socket(fileno=descriptor) as driver:
        while True:
            try:
                request, descriptors = receive(driver, max_descriptors=2)
                send(driver, _answer(driver, request, descriptors))
            except (EOFError, OSError):
                return


def _answer(driver: socket.socket, request: Mapping[str, Any], descriptors: Sequence[int]) -> int | None:
    """The process id of a started worker, or the exit code of one, as `subprocess.Popen.poll` has it."""
    if "pid" in request:
        found, status = os.waitpid(request["pid"], os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if found else None
    sys.path[:] = request["path"]
    if request["module"]:
        importlib.import_module(request["module"])
    if not (pid := os.fork()):
        driver.close()
        _become_worker(request, *descriptors)
    for descriptor in descriptors:
        os.close(descriptor)
    return pid


def _become_worker(request: Mapping[str, Any], pipe: int, log: int) -> None:
    """Does not return."""
    code = 1
    try:
        os.setsid()  # Ctrl-C is for the driver, which then asks its workers to stop
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        os.environ.clear()
        os.environ.update(request["environment"])
        os.chdir(request["folder"])
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        from stages.training.workers import process_worker

        code = process_worker.main(pipe, *request["plugins"])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # nothing of the template is run to its end here


if __name__ == "__main__":
    main(int(sys.argv[1]))
