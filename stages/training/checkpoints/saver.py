"""Writes checkpoints in the background of all workers: each puts its own file straight into the store.

The training loop waits only for the copy of its state into host memory. Rank 0 begins and concludes; a checkpoint
exists once it has heard from all workers that their files are written and read back.
"""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from types import MappingProxyType, TracebackType

import torch.distributed as dist

from orchestrator.artifact import JSON, FileEntry
from orchestrator.errors import StoreError
from orchestrator.stage import Checkpoints
from stages.training.agreement import WorkerRank, gather_texts
from stages.training.checkpoints.host_copies import HostCopies
from stages.training.checkpoints.local_copies import LocalCopies, worker_file
from stages.training.checkpoints.peer_copies import PeerCopies
from stages.training.checkpoints.progress import PROGRESS_FILE, Progress
from stages.training.checkpoints.reader import FORMAT
from stages.training.checkpoints.slices import TensorSlice, slice_file
from stages.training.step_line import CHECKPOINT_WRITE_S

logger = logging.getLogger(__name__)

NO_FACTS: Mapping[str, JSON] = MappingProxyType({})


class CheckpointSaver:
    """Writes one checkpoint at a time; the next one waits for it, so less than two intervals of work are at risk.

    An older checkpoint is deleted only after a newer one was read back and verified. All workers call the same methods.
    `frozen`: digests of the tensors that do not train.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        worker: WorkerRank,
        *,
        keep: int,
        window: int,
        frozen: Mapping[str, str] = MappingProxyType({}),
        copies: LocalCopies | None = None,
        peers: PeerCopies | None = None,
    ) -> None:
        self._local, self._peers = copies, peers
        self._checkpoints, self._worker, self._keep, self._window = checkpoints, worker, keep, window
        self.best_step: int | None = None  # its checkpoint is kept as well
        self._frozen = dict(frozen)
        # Collectives of its own: those of the loop go on beside them.
        self._group = dist.new_group(backend="gloo") if worker.world_size > 1 else None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._copies = HostCopies()
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

    def save(self, slices: Sequence[TensorSlice], progress: Progress, facts: Mapping[str, JSON] = NO_FACTS) -> None:
        """Start to write a checkpoint, after the previous one is done: `slices` are copied, the training may go on.

        `facts` are recorded beside its step. Raises: the error of the previous one.
        """
        self.wait()
        copies = self._copies.take(slices)
        self._pending = self._pool.submit(self._write, copies, progress, facts)

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
        return {} if written_s is None else {CHECKPOINT_WRITE_S: written_s}

    def _write(self, slices: Sequence[TensorSlice], progress: Progress, facts: Mapping[str, JSON]) -> float:
        began = time.monotonic()
        while not self._has_written(slices, progress, facts):
            logger.info("checkpoint of step %d: an attempt that was aborted came first; writing again", progress.step)
        if self._peers is not None:
            self._peers.exchange(progress.step, slice_file(slices) if slices else None)
        if self._local is not None:
            self._local.keep_only(progress.step)
        if self._worker.rank == 0:  # a non-finite loss goes back to the one before its window
            self._checkpoints.prune(
                self._keep, needed=progress.step - progress.step % self._window, best=self.best_step
            )
        return time.monotonic() - began

    def _has_written(self, slices: Sequence[TensorSlice], progress: Progress, facts: Mapping[str, JSON]) -> bool:
        step, is_first = progress.step, self._worker.rank == 0
        draft = self._agree(lambda: self._checkpoints.begin(step) if is_first else "")[0]
        if not draft:
            return True
        written = self._agree(lambda: self._write_own(step, draft, slices))
        reports = [json.loads(text) for text in written]
        files = [FileEntry(**fields) for report in reports for fields in report["files"]]
        names = sorted({name for report in reports for name in report["tensors"]})

        def conclude() -> str:
            if not is_first:
                return ""
            state = _state_file(progress, names, self._frozen)
            entry = self._checkpoints.write_part(step, draft, PROGRESS_FILE, lambda: [state], len(state))
            return str(int(self._checkpoints.conclude(step, draft, [*files, entry], {"step": step, **facts})))

        return self._agree(conclude)[0] == "1"

    def _write_own(self, step: int, draft: str, slices: Sequence[TensorSlice]) -> str:
        if not slices:
            return json.dumps({"files": [], "tensors": []})
        file, name = slice_file(slices), worker_file(self._worker.rank)
        entry = self._checkpoints.write_part(step, draft, name, file.chunks, file.size)
        if entry.bytes != file.size:
            raise StoreError(f"checkpoint of step {step}: {entry.bytes} bytes of {name} were written, not {file.size}")
        if self._local is not None:
            self._local.write(step, name, file.chunks)
        return json.dumps({"files": [asdict(entry)], "tensors": [item.name for item in slices]})

    def _agree(self, work: Callable[[], str]) -> list[str]:
        """What `work` returned on each worker. Raises: its error, or StoreError where another worker's failed."""
        failed: Exception | None = None
        try:
            answer = f"+{work()}"
        except Exception as error:  # noqa: BLE001 - raised below, once the others know
            failed, answer = error, f"-{error}"
        answers = gather_texts(answer, self._worker, self._group)
        if failed is not None:
            raise failed
        for rank, text in enumerate(answers):
            if text.startswith("-"):
                raise StoreError(f"the checkpoint was not written: worker {rank}: {text[1:]}")
        return [text[1:] for text in answers]


def _state_file(progress: Progress, names: Sequence[str], frozen: Mapping[str, str]) -> bytes:
    state = {
        "format": FORMAT,
        "step": progress.step,
        "skips": [asdict(skip) for skip in progress.skips],
        "tensors": list(names),
        "frozen": dict(sorted(frozen.items())),
    }
    return json.dumps(state, indent=1).encode()
