"""Records the shards of a group in batches, in the background, while the next ones are made.

What a lost process takes with it is bounded: the batch that is being made and the one that is being recorded, each of
at most `MAX_BATCH_S` of work.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future

from orchestrator.artifacts.shard_records import StoredShard
from orchestrator.shards import ShardOutcome
from orchestrator.store.attempt_folder import AttemptFolder

BATCH_S = 0.1  # of work; if an earlier batch is still being recorded, the next one grows
MAX_BATCH_S = 0.25

Made = tuple[AttemptFolder, ShardOutcome]
Recorded = StoredShard | Exception


class BatchRecorder:
    """Used once, from one thread; `record` is called in the thread of `executor`, one batch at a time."""

    def __init__(
        self,
        record: Callable[[Sequence[Made]], Sequence[Recorded]],
        executor: Executor,
        *,
        before_wait: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._record, self._executor, self._clock = record, executor, clock
        self._before_wait = before_wait
        self._batch: dict[int, Made] = {}
        self._began = clock()  # the work on the batch
        self._running: tuple[tuple[int, ...], Future[Sequence[Recorded]]] | None = None
        self._results: dict[int, Recorded] = {}

    def add(self, index: int, made: Made) -> None:
        """Record a shard that was made, with the other ones of its batch. `index`: its place among the results."""
        self._batch[index] = made
        age_s = self._clock() - self._began
        if age_s >= MAX_BATCH_S or (age_s >= BATCH_S and self._is_free()):
            self._hand_over()

    def results(self) -> dict[int, Recorded]:
        """Wait until all is recorded; the record or the error of each shard by its index."""
        if self._batch:
            self._hand_over()
        self._collect()
        return self._results

    def _is_free(self) -> bool:
        return self._running is None or self._running[1].done()

    def _hand_over(self) -> None:
        self._collect()
        batch, self._batch = self._batch, {}
        self._running = tuple(batch), self._executor.submit(self._record, list(batch.values()))
        self._began = self._clock()

    def _collect(self) -> None:
        if self._running is not None:
            indexes, future = self._running
            if not future.done():
                self._before_wait()
            self._results.update(zip(indexes, future.result(), strict=True))
            self._running = None
