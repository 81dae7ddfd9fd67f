"""The scheduler's loop: copies records, starts drivers for the runs whose turn it is, and hears how they end.

Several servers do the same at once. Rule: this process holds nothing that cannot be lost. Who goes next follows from
the records and the claims; one start at a time is guarded by a lease `start:<run>`, and the run by its own lease.
"""

import logging
import socket
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from orchestrator.errors import EXIT_UNUSABLE, DatabaseError, OrchestratorError
from orchestrator.history.database.database import Database
from orchestrator.history.events import RunState
from orchestrator.history.leases import Lease, LeaseKeeper
from orchestrator.history.run_status import run_status
from orchestrator.planning.plan import stage_rows
from orchestrator.planning.plan_file import plan_from_json
from orchestrator.queue.claims import Claims
from orchestrator.queue.entries import Entry, open_entries, request_of
from orchestrator.queue.looking import pool_in
from orchestrator.queue.order import Policy
from orchestrator.queue.rows import copy_missing
from orchestrator.queue.servers import SERVER
from orchestrator.recipe.loading import Kinds
from orchestrator.scheduler.drivers import Drivers, Ended
from orchestrator.workspace import Workspace

TICK_S = 2.0
COPY_S = 30.0  # between two looks for records that only the store has
START_S = 120.0  # how long a start is one server's, so that its driver can take the run's lease
STUCK_S = 600.0  # a round that takes longer will not end; a store that is away is given up sooner
STOP_S = 25.0  # how long the end of a server waits for its drivers
FIRST_WAIT_S, MAX_WAIT_S = 15.0, 900.0  # before a driver that ended without an end of its run is started again

log = logging.getLogger(__name__)


class Watcher(Protocol):
    """Something that is done on each round beside starting runs."""

    def look(self, workspace: Workspace, now: float) -> dict[str, str]:
        """Do it; returns the runs that may not start, with the reason."""


@dataclass(kw_only=True)
class Scheduler:
    """One server's part of the scheduling."""

    open: Callable[[], Workspace]
    kinds: Kinds
    drivers: Drivers
    watchers: Sequence[Watcher] = ()
    max_runs: int = 32  # drivers of this server at one time
    policy: Policy = field(default_factory=Policy)
    tick_s: float = TICK_S
    clock: Callable[[], float] = time.time
    _copied_at: float = 0.0
    _round_at: float = field(default_factory=time.monotonic)  # when the last round ended
    _problem: str = ""  # of the last round
    _waits: dict[str, tuple[int, float]] = field(default_factory=dict)  # by run: bad ends, and not before
    _starts: dict[str, Lease] = field(default_factory=dict)

    def run(self, stopping: threading.Event) -> None:
        """Work until the event is set, then stop the drivers. Errors of a round are logged, and it is tried again."""
        while not stopping.is_set():
            try:
                with self.open() as workspace, LeaseKeeper(workspace.leases) as keeper:
                    self._run(workspace, keeper, stopping)
            except OrchestratorError as error:
                self._problem = str(error)
                log.warning("scheduler: %s; trying again", error)
                stopping.wait(self.tick_s)
            except Exception as error:  # the queue of a team must not end with one record that nobody expected
                self._problem = f"{type(error).__name__}, a bug in illume; the traceback is in the log"
                log.exception("scheduler: a bug in illume ended this round; trying again")
                stopping.wait(self.tick_s)
        self.drivers.stop(STOP_S)

    def problem(self) -> str:
        """What is wrong with it if only the end of this process helps: a round that does not end. Empty: nothing is."""
        quiet_s = time.monotonic() - self._round_at
        return f"no round has ended for {quiet_s:.0f} s" if not self._problem and quiet_s > STUCK_S else ""

    def note(self) -> str:
        """How it is, for people: its last round failed, or what it drives."""
        if self._problem:
            return f"its last round failed, it tries again: {self._problem}"
        return f"ok, drives {len(self.drivers)} runs"

    def _run(self, workspace: Workspace, keeper: LeaseKeeper, stopping: threading.Event) -> None:
        own = workspace.leases.acquire(f"{SERVER}{uuid.uuid4().hex[:12]}")
        assert own is not None, "nobody else has this name"
        keeper.keep(own)
        try:
            while not stopping.is_set():
                if workspace.database.was_replaced():
                    raise DatabaseError(f"database {workspace.database.address}: its file was moved or replaced")
                self.tick(workspace)
                self._round_at, self._problem = time.monotonic(), ""
                stopping.wait(self.tick_s)
        finally:
            workspace.leases.release(own, forget=True)

    def tick(self, workspace: Workspace) -> None:
        """One round."""
        now = self.clock()
        for ended in self.drivers.ended():
            self._note_end(workspace, ended, now)
        if now - self._copied_at >= COPY_S:
            self._copied_at = now
            copy_missing(workspace.store, workspace.database)
        held_back = {run_id: "a pause after a bad end" for run_id, (_, at) in self._waits.items() if now < at}
        for watcher in self.watchers:
            held_back |= watcher.look(workspace, now)
        entries = open_entries(workspace.database, held_back=held_back)
        for entry in self._turns(workspace.database, entries):
            if entry.run_id not in self.drivers and len(self.drivers) < self.max_runs:
                self._start(workspace, entry)

    def _turns(self, database: Database, entries: Sequence[Entry]) -> list[Entry]:
        """Those whose turn it is: that got room, or that need none as their cluster has its own queue."""
        free = {entry.run_id: entry for entry in entries if entry.state == "WAITING" and not entry.held_back}
        machine = f"machine {socket.gethostname()}"
        found = []
        for record in dict.fromkeys(entry.submission.pool for entry in entries):
            of_pool = [entry for entry in free.values() if entry.submission.pool == record]
            if record is None:
                found += sorted(of_pool, key=lambda entry: (-entry.priority, entry.asked_at))
                continue
            claims = Claims(database, pool_in(record, machine=machine), policy=self.policy)
            found += [free[run_id] for run_id in claims.queue(map(request_of, of_pool))]
        return found

    def _start(self, workspace: Workspace, entry: Entry) -> None:
        lease = workspace.leases.acquire(f"start:{entry.run_id}", duration_s=START_S)
        if lease is None:
            return  # another server starts it
        try:
            self._make_run(workspace, entry)
            self.drivers.start(entry.submission)
        except (OrchestratorError, OSError) as error:
            log.warning("run %s: cannot be started: %s", entry.run_id, error)
            self._wait_longer(entry.run_id, self.clock())
            workspace.leases.release(lease, forget=True)
        else:
            self._starts[entry.run_id] = lease

    def _make_run(self, workspace: Workspace, entry: Entry) -> None:
        """Make the run from its plan if the database has lost it."""
        submission = entry.submission
        plan = workspace.records.plan(submission.plan_digest)
        if plan is None:
            raise OrchestratorError(f"its plan {submission.plan_digest[:12]} is not in {workspace.store.url}")
        decoded = plan_from_json(plan, self.kinds, allow_changed_kinds=True)
        workspace.runs.create_run(
            submission.run_id,
            recipe_name=submission.recipe,
            plan_digest=submission.plan_digest,
            stages=stage_rows(decoded),
        )

    def _note_end(self, workspace: Workspace, ended: Ended, now: float) -> None:
        lease = self._starts.pop(ended.run_id, None)
        if lease is not None:
            workspace.leases.release(lease, forget=True)
        run = run_status(workspace.database, ended.run_id).run
        log.info("run %s: its driver ended with code %d; the run is %s", ended.run_id, ended.code, run.state)
        if run.state is RunState.PLANNED and ended.code == EXIT_UNUSABLE:
            fields = {"message": ended.last_words.splitlines()[-1] if ended.last_words else "its driver was refused"}
            workspace.runs.transition_run(ended.run_id, RunState.PLANNED, RunState.FAILED, epoch=0, fields=fields)
            workspace.deliver(ended.run_id)
        elif run.state in (RunState.PLANNED, RunState.RUNNING) or ended.code == EXIT_UNUSABLE:
            log.warning("run %s: its driver ended with code %d: %s", ended.run_id, ended.code, ended.last_words[-500:])
            self._wait_longer(ended.run_id, now)
        else:
            self._waits.pop(ended.run_id, None)

    def _wait_longer(self, run_id: str, now: float) -> None:
        times = self._waits.get(run_id, (0, 0.0))[0] + 1
        self._waits[run_id] = (times, now + min(MAX_WAIT_S, FIRST_WAIT_S * 2 ** (times - 1)))
