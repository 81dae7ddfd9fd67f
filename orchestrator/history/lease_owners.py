"""Owners of leases: identifies a process uniquely, and proves that a process no longer runs.

Rule: a process counts as gone only on evidence from its own kernel and process namespace; a host name proves nothing.
"""

import json
import os
import socket
import uuid
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil

from orchestrator.documents.typed_json import parse_record
from orchestrator.errors import CorruptArtifactError

UNKNOWN_START = -1


@dataclass(frozen=True, kw_only=True)
class LeaseOwner:
    """A process that holds leases; `claim` tells several leases of one process apart."""

    host: str  # for messages
    boot: str  # boot id of the operating system; empty if unknown
    namespace: str  # pid namespace, which differs between containers
    pid: int
    started: int  # start time of the process in clock ticks after boot, or `UNKNOWN_START`
    claim: str = ""  # random for each lease, so two leases of one process have different owners

    def text(self) -> str:
        """The form stored in lease rows."""
        return json.dumps(asdict(self), separators=(",", ":"))


def this_process() -> LeaseOwner:
    process = _process(os.getpid())
    assert process is not None, "this process runs"
    return LeaseOwner(
        host=socket.gethostname(),
        boot=_boot_id(),
        namespace=_namespace(),
        pid=os.getpid(),
        started=process[1],
    )


def with_claim(owner: LeaseOwner) -> str:
    """The text of the owner with a new random claim."""
    return replace(owner, claim=uuid.uuid4().hex).text()


def is_gone(owner: str) -> bool:
    """True if the process of an owner text provably no longer runs; False if it may run."""
    parsed = _parse(owner)
    if parsed is None or not parsed.boot or not parsed.namespace or parsed.started == UNKNOWN_START:
        return False
    if (parsed.boot, parsed.namespace) != (_boot_id(), _namespace()):
        return False
    process = _process(parsed.pid)
    return process is None or process[0] in "ZX" or process[1] not in (parsed.started, UNKNOWN_START)


def is_stopped(owner: str) -> bool:
    """True if the process of an owner text is provably stopped (e.g. SIGSTOP), so that it renews nothing for now."""
    parsed = _parse(owner)
    if parsed is None or not parsed.boot or (parsed.boot, parsed.namespace) != (_boot_id(), _namespace()):
        return False
    process = _process(parsed.pid)
    return process is not None and process[0] in "Tt" and process[1] == parsed.started


def machine_of(owner: str) -> tuple[str, str] | None:
    """(boot id, host name) of the owner's machine; None if it is not known."""
    parsed = _parse(owner)
    return (parsed.boot, parsed.host) if parsed is not None and parsed.boot else None


def describe(owner: str) -> str:
    """The owner for messages, e.g. `process 4711 on host7`."""
    parsed = _parse(owner)
    return owner if parsed is None else f"process {parsed.pid} on {parsed.host}"


def _parse(owner: str) -> LeaseOwner | None:
    try:
        return parse_record(LeaseOwner, owner.encode(errors="replace"), "lease", unknown="forbid")
    except CorruptArtifactError:
        return None  # written by another version or by hand


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _process(pid: int) -> tuple[str, int] | None:
    """State letter and start time of a process (`man 5 proc`, fields 3 and 22); None: gone.

    `("?", UNKNOWN_START)` if it belongs to another user and is hidden.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return ("?", UNKNOWN_START) if psutil.pid_exists(pid) else None
    after_name = stat.rpartition(")")[2].split()  # the name may contain blanks and brackets
    return after_name[0], int(after_name[19])
