"""Checkpoints written behind the training loop: only the copy of the state into host memory holds it up."""

import logging
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from orchestrator.stage import Checkpoints
from stages.training.checkpoint_files import Snapshot

logger = logging.getLogger(__name__)


class CheckpointSaver:
    """At most one checkpoint is under way; the next waits for it, so work at risk stays below two intervals.

    An older checkpoint goes only when a newer one was read back and found whole.
    """

    def __init__(self, checkpoints: Checkpoints, keep: int, window: int) -> None:
        self._checkpoints, self._keep, self._window = checkpoints, keep, window
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._under_way: Future[float] | None = None
        self._written_s: float | None = None

    def __enter__(self) -> "CheckpointSaver":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """What is under way is finished also when the loop failed; its own failure is raised unless one is already."""
        try:
            self.wait()
        except Exception as failed:
            if error is None:
                raise
            logger.warning("the checkpoint under way could not be written: %s", failed)
        finally:
            self._pool.shutdown()

    def save(self, snapshot: Snapshot) -> None:
        """Begin to write. Raises: what ended the checkpoint before this one."""
        self.wait()
        self._under_way = self._pool.submit(self._write, snapshot)

    def wait(self) -> None:
        """Until nothing is under way. Raises: StoreError; older checkpoints are safe."""
        if self._under_way is not None:
            done, self._under_way = self._under_way, None
            self._written_s = done.result()

    @property
    def writing(self) -> bool:
        return self._under_way is not None and not self._under_way.done()

    def timings(self) -> Mapping[str, float]:
        """`checkpoint_write_s` of the newest checkpoint that was finished since the last call, if there is one.

        Raises: what ended it; so a failed checkpoint is known within a step.
        """
        if self._under_way is not None and self._under_way.done():
            self.wait()
        written_s, self._written_s = self._written_s, None
        return {} if written_s is None else {"checkpoint_write_s": written_s}

    def _write(self, snapshot: Snapshot) -> float:
        began = time.monotonic()
        step = snapshot.progress.step
        with tempfile.TemporaryDirectory(prefix="checkpoint-") as name:
            snapshot.write(Path(name))
            self._checkpoints.commit(step, Path(name), {"step": step})
        self._checkpoints.prune(self._keep, needed=step - step % self._window)  # where a bad loss leads back to
        return time.monotonic() - began
