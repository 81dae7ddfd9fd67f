"""Who holds a lease: a process that can be told from every other one, and the proof that it is gone.

Rule: a process counts as gone only on evidence from its own kernel and process namespace; a host name proves nothing.
"""

import json
import os
import socket
import uuid
from dataclasses import asdict, dataclass, replace
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Owner:
    """A process, or one of several holders inside it."""

    host: str  # for people
    boot: str  # id of this start of the kernel; empty where the system does not tell
    namespace: str  # of process ids: containers count for themselves
    pid: int
    started: int  # start time of the process in clock ticks after boot; -1: unknown
    claim: str = ""  # random, one for each lease: two holders in one process are two owners

    def text(self) -> str:
        """The form kept in lease rows."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))


def this_process() -> Owner:
    process = _process(os.getpid())
    return Owner(
        host=socket.gethostname(),
        boot=_boot_id(),
        namespace=_namespace(),
        pid=os.getpid(),
        started=-1 if process is None else process[1],
    )


def with_claim(owner: Owner) -> str:
    """The text of the owner with a new random claim."""
    return replace(owner, claim=uuid.uuid4().hex).text()


def is_gone(owner: str) -> bool:
    """True if the process behind the text of an owner provably no longer runs; False if it may."""
    parsed = _parsed(owner)
    if parsed is None or not parsed.boot or not parsed.namespace or parsed.started < 0:
        return False
    if (parsed.boot, parsed.namespace) != (_boot_id(), _namespace()):
        return False
    process = _process(parsed.pid)
    return process is None or process[0] in "ZX" or process[1] not in (parsed.started, -1)


def describe(owner: str) -> str:
    """`process 4711 on host7`, for messages."""
    parsed = _parsed(owner)
    return owner if parsed is None else f"process {parsed.pid} on {parsed.host}"


def _parsed(owner: str) -> Owner | None:
    try:
        return Owner(**json.loads(owner))
    except (TypeError, ValueError):
        return None  # written by another version, or a name given by hand


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
    """State letter and start time of a process (`man 5 proc`, fields 3 and 22), `("?", -1)` if hidden; None: gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return ("?", -1) if _answers(pid) else None
    after_name = stat.rpartition(")")[2].split()  # the name may hold blanks and brackets
    return after_name[0], int(after_name[19])


def _answers(pid: int) -> bool:
    """Ask the kernel itself: /proc may hide the processes of other users."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
