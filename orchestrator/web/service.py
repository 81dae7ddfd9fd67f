"""The state of a running service: the opened workspace, which may be away and come back."""

import logging
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from orchestrator.errors import OrchestratorError
from orchestrator.web.curves import Curves
from orchestrator.web.manifests import Manifests
from orchestrator.web.memo import Memo
from orchestrator.web.plans import Plans
from orchestrator.web.settings import Settings
from orchestrator.web.shards import ShardTables
from orchestrator.web.step_answers import StepAnswers
from orchestrator.workspace import Workspace

log = logging.getLogger(__name__)

REOPEN_S = 2.0  # between two tries to open a workspace that is away, or has no index yet
CHECK_STORE_S = 30.0  # between two checks that the store is there and the right one
CHANGES_S = 10.0  # between two lists of the changes of a store
TAKEDOWNS_S = 60.0  # between two looks at what takedowns have still to do


@dataclass(kw_only=True)
class Service:
    """Holds what must be closed. Thread-safe."""

    settings: Settings
    started_at: float = field(default_factory=time.time)
    plans: Plans = field(default_factory=Plans)
    curves: Curves = field(default_factory=Curves)
    shards: ShardTables = field(default_factory=ShardTables)
    manifests: Manifests = field(default_factory=Manifests)
    steps: StepAnswers = field(default_factory=StepAnswers)
    takedown_needs: Memo[list[Any]] = field(default_factory=lambda: Memo(keep_s=TAKEDOWNS_S))
    changes: Memo[list[Any]] = field(default_factory=lambda: Memo(keep_s=CHANGES_S))
    store_problems: Memo[str] = field(default_factory=lambda: Memo(keep_s=CHECK_STORE_S))
    stopping: threading.Event = field(default_factory=threading.Event)
    _workspace: Workspace | None = None
    _problem: OrchestratorError | None = None  # why it could not be opened
    _opened_at: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _threads: list[threading.Thread] = field(default_factory=list)

    def workspace(self) -> Workspace:
        """The workspace. Opened when it is first asked for, and again while it is away.

        Raises:
            StoreError, DatabaseError, RecipeError: it cannot be opened.
        """
        with self._lock:
            is_whole = self._workspace is not None and self._workspace.has_index
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
            thread = threading.Thread(target=work.run, args=(self.stopping,), name=work.name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def close(self) -> None:
        """Stop the background work and close the workspace."""
        self.stopping.set()
        for thread in self._threads:
            thread.join()
        with self._lock:
            if self._workspace is not None:
                self._workspace.close()
                self._workspace = None

    def _reopen(self) -> None:
        """Open the workspace, or remember why that is not possible."""
        before, self._workspace = self._workspace, None
        self._opened_at = time.monotonic()
        if before is not None:
            before.close()
        try:
            self._workspace, self._problem = self.settings.open(), None
        except OrchestratorError as error:
            if str(error) != str(self._problem):
                log.warning("the workspace cannot be opened: %s", error)
            self._problem = error


def _store_problem(workspace: Workspace) -> str:
    try:
        workspace.check_store()
    except OrchestratorError as error:  # also one that a newer version has written
        return str(error)
    return ""
