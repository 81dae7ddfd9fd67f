"""The worker process's side of the shard map: work on one shard after the other, and record what comes out.

Errors go back as plain data. A process that shows no sign of life for too long writes its stacks into its log and ends.
"""

import contextlib
import faulthandler
import logging
import os
import re
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

from orchestrator.artifact import JSON
from orchestrator.artifacts.shard_ledger import ShardLedger, StoredShard
from orchestrator.errors import OrchestratorError
from orchestrator.failures.classes import FailureReport, report_of
from orchestrator.shards import Quarantined, ShardInput, ShardOutcome, ShardWorker
from orchestrator.store.attempt_folder import AttemptFolder

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class HostSettings:
    ledger: ShardLedger
    stage_kind: str
    attempt_id: str
    hang_after_s: float
    scratch: Path  # on the controller's machine; elsewhere a folder for temporary files takes its place
    provenance: Mapping[str, JSON]
    epoch: int
    log_stem: str = ""  # "/logs/curate-1": each process writes "/logs/curate-1.worker-<pid>.log"


@dataclass(frozen=True, kw_only=True)
class ShardOrder:
    """One shard, or a part of it for a trial."""

    name: str
    fingerprint: str
    items: tuple[JSON, ...]
    work: dict[str, JSON]
    quarantined: tuple[Quarantined, ...] = ()  # items that were left out because they cannot be worked on


@dataclass(frozen=True, kw_only=True)
class HostInfo:
    pid: int
    host: str


class ShardHost:
    """Lives in a worker process; its methods are called one after the other. Errors come back as reports."""

    def __init__(self, settings: HostSettings) -> None:
        self._settings = settings
        self._function: Callable[[ShardInput], ShardOutcome] | None = None
        self._log_file = _open_log(settings.log_stem)
        self._watch = _Watch(settings.hang_after_s, self._log_file)

    def start(self, worker: ShardWorker) -> HostInfo | FailureReport:
        """Get ready for the shards of a map. What an earlier map's worker holds is given up first."""
        self._function = None
        try:
            with self._watch.over(None):
                self._function = worker.start()
        except Exception as error:  # noqa: BLE001 - the border of the process: reported, not swallowed
            return report_of(error)
        return HostInfo(pid=os.getpid(), host=socket.gethostname())

    def run(self, order: ShardOrder) -> StoredShard | FailureReport:
        """Work on a shard and record it. The record is durable when this returns it."""
        settings = self._settings
        try:
            output = settings.ledger.new_output(settings.stage_kind, order.fingerprint, owner=settings.attempt_id)
        except Exception as error:  # noqa: BLE001 - as above
            return report_of(error)
        try:
            outcome = self._outcome(order, output.data)
            outcome = replace(outcome, quarantined=(*outcome.quarantined, *order.quarantined))
            return settings.ledger.record(output, outcome, provenance=settings.provenance, epoch=settings.epoch)
        except Exception as error:  # noqa: BLE001 - as above
            report = _stable(report_of(error), output.data)
            log.warning("shard %s: %s", order.name, report.traceback)
            self._discard(output, report)
            return report

    def try_out(self, order: ShardOrder) -> ShardOutcome | FailureReport:
        """Work on items and throw the files away."""
        with _temporary_folder(self._settings.scratch) as output:
            try:
                return self._outcome(order, output)
            except Exception as error:  # noqa: BLE001 - as above
                return _stable(report_of(error), output)

    def _outcome(self, order: ShardOrder, output: Path) -> ShardOutcome:
        assert self._function is not None, "the process was started before it is given a shard"
        with self._watch.over(output):
            shard = ShardInput(name=order.name, items=order.items, work=order.work, output=output)
            outcome: object = self._function(shard)
        if not isinstance(outcome, ShardOutcome):
            raise TypeError(f"the worker returned {type(outcome).__name__}, expected ShardOutcome")
        return outcome

    def _discard(self, output: AttemptFolder, report: FailureReport) -> None:
        try:
            self._settings.ledger.discard(output, reason=report.summary)
        except OrchestratorError as error:  # the collector finds it later
            log.warning("shard output %s left behind: %s", output.attempt_id, error)


_ADDRESS = re.compile(r"0x[0-9a-fA-F]+")


def _stable(report: FailureReport, output: Path) -> FailureReport:
    """The report without what differs between two runs: its summary may become part of a durable record."""
    return replace(report, summary=_ADDRESS.sub("0x...", report.summary.replace(str(output), "<output>")))


@contextlib.contextmanager
def _temporary_folder(scratch: Path) -> Iterator[Path]:
    with contextlib.suppress(OSError):  # another machine, where that path cannot be made
        scratch.mkdir(parents=True, exist_ok=True)
    parent = scratch if os.access(scratch, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="trial-", dir=parent, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _open_log(stem: str) -> TextIO:
    """Where this process's log lines and stack dumps go; its standard error where the log folder is not at hand."""
    if not stem or not os.access(Path(stem).parent, os.W_OK):
        return sys.stderr
    file = Path(f"{stem}.worker-{os.getpid()}.log").open("a", buffering=1)  # noqa: SIM115 - open for the process's life
    handler = logging.StreamHandler(file)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.INFO)
    faulthandler.enable(file)
    return file


class _Watch:
    """Ends the process, after a stack dump, when the work under way gives no sign of life for `limit_s`.

    Signs of life are the begin and the end of a shard and any change below its output folder. The clock is
    `faulthandler`'s, which runs outside Python and so also catches a call that never gives the interpreter back.
    """

    def __init__(self, limit_s: float, log_file: TextIO) -> None:
        self._limit_s, self._log_file = limit_s, log_file
        self._lock = threading.Lock()
        self._folder: Path | None = None
        threading.Thread(target=self._look_for_life, name="watch", daemon=True).start()

    @contextlib.contextmanager
    def over(self, folder: Path | None) -> Iterator[None]:
        with self._lock:
            self._folder = folder
            self._wind()
        try:
            yield
        finally:
            with self._lock:
                self._folder = None
                faulthandler.cancel_dump_traceback_later()

    def _wind(self) -> None:
        faulthandler.dump_traceback_later(self._limit_s, exit=True, file=self._log_file)

    def _look_for_life(self) -> None:
        pause, seen = threading.Event(), None
        while not pause.wait(min(self._limit_s / 4, 10.0)):
            folder = self._folder
            state = None if folder is None else (folder, _state_of(folder))
            with self._lock:
                if state is not None and state != seen and self._folder == folder:
                    self._wind()
            seen = state


def _state_of(folder: Path) -> tuple[int, int]:
    """Changes when a file below `folder` is made or written to."""
    newest = total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # renamed or deleted meanwhile
            status = path.stat()
            newest, total = max(newest, status.st_mtime_ns), total + status.st_size
    return newest, total
