"""Notices that a node is about to be taken away: by a signal to a worker, or from the cluster.

A training that hears of one makes a checkpoint at once and ends, so that no step is lost and it continues elsewhere.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from stages.training.agreement import WorkerRank

LOOK_S = 5.0  # between two questions to the cluster, which all workers ask together


class PreemptionNotices(Protocol):
    """Where notices come from."""

    def preempted(self) -> bool:
        """Whether this worker's process was told to end."""

    def look_for_preemption(self) -> Mapping[str, Any] | None:
        """What the cluster says: the nodes and the deadline; None: nothing. Called by all workers at the same step."""


class PreemptionWatch:
    """Decides when to ask. Rank 0 says when, all ask at the same step, and any worker may have been told to end."""

    def __init__(
        self, notices: PreemptionNotices, worker: WorkerRank, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._notices, self._worker, self._clock = notices, worker, clock
        self._asked_at = clock()

    def is_due(self) -> bool:
        """Whether this worker wants all to ask after the step."""
        if self._worker.rank != 0 or self._clock() - self._asked_at < LOOK_S:
            return False
        self._asked_at = self._clock()
        return True

    def was_told(self) -> bool:
        return self._notices.preempted()

    def reason(self, *, was_told: bool, is_asked: bool) -> Mapping[str, Any] | None:
        """Why the training is to end now; None: it is not. The arguments are what all workers agreed on."""
        if is_asked and (found := self._notices.look_for_preemption()) is not None:
            return {"message": f"nodes are taken away: {', '.join(found['nodes'])}", **found}
        return {"message": "a worker was told to end (SIGTERM)"} if was_told else None
