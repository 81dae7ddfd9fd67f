"""Writes checkpoints in the background: the training loop waits only for the copy of its state into host memory."""

import logging
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType, TracebackType

from orchestrator.artifact import JSON
from orchestrator.stage import Checkpoints
from stages.training.checkpoint_files import Snapshot

logger = logging.getLogger(__name__)

NO_FACTS: Mapping[str, JSON] = MappingProxyType({})


class CheckpointSaver:
    """Writes one checkpoint at a time; the next one waits for it, so less than two intervals of work are at risk.

    An older checkpoint is deleted only after a newer one was read back and verified.
    """

    def __init__(self, checkpoints: Checkpoints, keep: int, window: int) -> None:
        self._checkpoints, self._keep, self._window = checkpoints, keep, window
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[float] | None = None
        self._written_s: float | None = None

    def __enter__(self) -> "CheckpointSaver":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Finish the pending write, also after the loop failed; an error of the write is raised if the loop did not."""
        try:
            self.wait()
        except Exception as failed:
            if error is None:
                raise
            logger.warning("the pending checkpoint could not be written: %s", failed)
        finally:
            self._pool.shutdown()

    def save(self, snapshot: Snapshot, facts: Mapping[str, JSON] = NO_FACTS) -> None:
        """Start to write a checkpoint, after the previous one is done. Raises: the error of the previous one.

        `facts` are recorded beside its step.
        """
        self.wait()
        self._pending = self._pool.submit(self._write, snapshot, facts)

    def wait(self) -> None:
        """Wait for the pending write, if any. Raises: StoreError if it failed; older checkpoints are safe."""
        if self._pending is not None:
            done, self._pending = self._pending, None
            self._written_s = done.result()

    @property
    def is_writing(self) -> bool:
        return self._pending is not None and not self._pending.done()

    def pop_timings(self) -> Mapping[str, float]:
        """`checkpoint_write_s` of the newest checkpoint that was finished since the last call, if there is one.

        Raises: the error of a failed write; so it is known within a step.
        """
        if self._pending is not None and self._pending.done():
            self.wait()
        written_s, self._written_s = self._written_s, None
        return {} if written_s is None else {"checkpoint_write_s": written_s}

    def _write(self, snapshot: Snapshot, facts: Mapping[str, JSON]) -> float:
        began = time.monotonic()
        step = snapshot.progress.step
        with tempfile.TemporaryDirectory(prefix="checkpoint-") as name:
            snapshot.write(Path(name))
            self._checkpoints.commit(step, Path(name), {"step": step, **facts})
        self._checkpoints.prune(self._keep, needed=step - step % self._window)  # a non-finite loss goes back to it
        return time.monotonic() - began
