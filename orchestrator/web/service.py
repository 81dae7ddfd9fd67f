"""The state of a running service: the opened workspace, which may be away and come back."""

import logging
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from orchestrator.errors import DatabaseError, OrchestratorError
from orchestrator.history.run_status import RunStatus
from orchestrator.web.curves import Curves
from orchestrator.web.manifests import Manifests
from orchestrator.web.memo import Memo
from orchestrator.web.plans import Plans
from orchestrator.web.settings import Background, Settings
from orchestrator.web.shards import ShardTables
from orchestrator.web.versions import Versions
from orchestrator.workspace import Workspace

log = logging.getLogger(__name__)

REOPEN_S = 2.0  # between two tries to open a workspace that is away, or has no index yet
CHECK_STORE_S = 30.0  # between two checks that the store is there and the right one
CHANGES_S = 10.0  # between two lists of the changes of a store
TAKEDOWNS_S = 60.0  # between two looks at what takedowns have still to do


@dataclass(frozen=True, kw_only=True)
class WorkState:
    """How a background work is."""

    name: str
    is_well: bool  # False: ending this process, so that it is started again, is what helps
    text: str


@dataclass(kw_only=True)
class Service:
    """Holds what must be closed. Thread-safe."""

    settings: Settings
    started_at: float = field(default_factory=time.time)
    plans: Plans = field(default_factory=Plans)
    curves: Curves = field(default_factory=Curves)
    shards: ShardTables = field(default_factory=ShardTables)
    manifests: Manifests = field(default_factory=Manifests)
    ended_rows: Versions[Any] = field(default_factory=Versions)  # of the list of runs
    ended_statuses: Versions[RunStatus] = field(default_factory=Versions)
    takedown_needs: Memo[list[Any]] = field(default_factory=lambda: Memo(keep_s=TAKEDOWNS_S))
    changes: Memo[list[Any]] = field(default_factory=lambda: Memo(keep_s=CHANGES_S))
    store_problems: Memo[str] = field(default_factory=lambda: Memo(keep_s=CHECK_STORE_S))
    stopping: threading.Event = field(default_factory=threading.Event)
    _workspace: Workspace | None = None
    _problem: OrchestratorError | None = None  # why it could not be opened
    _opened_at: float = 0.0
    _had_index: bool = False  # once it was there, its absence is a problem, not a beginning
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _threads: dict[str, threading.Thread] = field(default_factory=dict)

    def workspace(self) -> Workspace:
        """The workspace. Opened when it is first asked for, and again while it is away.

        Raises:
            StoreError, DatabaseError, RecipeError: it cannot be opened.
        """
        with self._lock:
            found = self._workspace
            is_whole = found is not None and found.has_index and not found.database.was_replaced()
            if not is_whole and time.monotonic() - self._opened_at >= REOPEN_S:
                self._reopen()
            if self._workspace is None:
                assert self._problem is not None, "it was opened, or the reason is known"
                raise self._problem
            return self._workspace

    def store_problem(self) -> str:
        """Why the store cannot be used, in words; empty if it can.

        Raises:
            StoreError, DatabaseError, RecipeError: the workspace cannot be opened at all.
        """
        return self.store_problems.get(partial(_store_problem, self.workspace()))

    def start(self) -> None:
        """Start the background work."""
        for work in self.settings.background:
            thread = threading.Thread(target=self._carry_out, args=(work,), name=work.name, daemon=True)
            self._threads[work.name] = thread
            thread.start()

    def background(self) -> list[WorkState]:
        """How the background work is."""
        return [self._state_of(work) for work in self.settings.background]

    def close(self) -> None:
        """Stop the background work and close the workspace."""
        self.stopping.set()
        for thread in self._threads.values():
            thread.join()
        with self._lock:
            if self._workspace is not None:
                self._workspace.close()
                self._workspace = None

    def _carry_out(self, work: Background) -> None:
        try:
            work.run(self.stopping)
        except Exception:  # `/healthz` tells what watches over this process that it has ended
            log.exception("%s: ended by a bug in illume", work.name)

    def _state_of(self, work: Background) -> WorkState:
        thread = self._threads.get(work.name)
        if thread is None or not thread.is_alive():
            text = "has ended; start this service again" if not self.stopping.is_set() else "stopped"
            return WorkState(name=work.name, is_well=False, text=text)
        problem = work.problem()
        return WorkState(name=work.name, is_well=not problem, text=problem or work.note() or "ok")

    def _reopen(self) -> None:
        """Open the workspace, or remember why that is not possible."""
        before, self._workspace = self._workspace, None
        self._opened_at = time.monotonic()
        if before is not None:
            self._had_index = self._had_index or before.has_index
            before.close()
        try:
            self._workspace, self._problem = _opened(self.settings, had_index=self._had_index), None
        except OrchestratorError as error:
            if str(error) != str(self._problem):
                log.warning("the workspace cannot be opened: %s", error)
            self._problem = error


def _opened(settings: Settings, *, had_index: bool) -> Workspace:
    """Raises: also DatabaseError: the database was there before, and is gone."""
    workspace = settings.open()
    if had_index and not workspace.has_index:
        workspace.close()
        raise DatabaseError(
            "the database is gone: its file was moved or deleted while this service had it open; bring it back, or "
            "make it again from the store: `illume index rebuild`"
        )
    return workspace


def _store_problem(workspace: Workspace) -> str:
    try:
        workspace.check_store()
    except OrchestratorError as error:  # also one that a newer version has written
        return str(error)
    return ""
