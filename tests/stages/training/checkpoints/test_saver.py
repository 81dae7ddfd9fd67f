"""Checkpoints in the background of the training loop: what it waits for, and what a failed write costs."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from orchestrator.artifact import JSON, Chunks, FileEntry
from orchestrator.artifacts.checkpoints import StoredCheckpoints
from orchestrator.errors import StoreError
from orchestrator.stage import Checkpoint
from stages.training.agreement import WorkerRank
from stages.training.loop import run_worker
from tests.stages.training.test_loop import EVERY_5, LOOP, Recorder, checkpoints, single_worker, trained
from tests.stages.training.toy import ToyProgram, ToyTask


class Slow:
    """Checkpoints of which the first is not written before `gate` opens, or then fails."""

    def __init__(self, inner: StoredCheckpoints, *, fails: bool = False) -> None:
        self.inner, self.fails = inner, fails
        self.gate = threading.Event()
        self.commits: list[int] = []
        self.files: dict[tuple[int, str], bytes] = {}

    def take_over(self) -> None:
        self.inner.take_over()

    def open(self, step: int, digest: str) -> Checkpoint:
        return self.inner.open(step, digest)

    def latest(self) -> Checkpoint | None:
        return self.inner.latest()

    def begin(self, step: int) -> str:
        assert self.gate.wait(30)
        if self.fails:
            raise StoreError("the store does not answer")
        return self.inner.begin(step)

    def write_part(self, step: int, draft: str, name: str, chunks: Chunks, size: int) -> FileEntry:
        data = b"".join(chunks())
        self.files[step, name] = data
        return self.inner.write_part(step, draft, name, lambda: [data], size)

    def conclude(self, step: int, draft: str, files: Sequence[FileEntry], meta: Mapping[str, JSON]) -> bool:
        self.commits.append(step)
        return self.inner.conclude(step, draft, files, meta)

    def commit(self, step: int, folder: Path, meta: Mapping[str, JSON]) -> None:
        raise NotImplementedError

    def prune(self, keep: int, needed: int | None = None, best: int | None = None) -> None:
        self.inner.prune(keep, needed, best)

    def retract_after(self, step: int) -> None:
        self.inner.retract_after(step)


class OpensAt(Recorder):
    """Lets the first checkpoint be written after a step has ended."""

    def __init__(self, store: Slow, step: int) -> None:
        super().__init__()
        self.store, self.at = store, step

    def step(self, step: int, metrics: dict[str, float]) -> None:
        super().step(step, metrics)
        if step == self.at:
            assert not self.store.commits
            self.store.gate.set()


def test_steps_continue_while_a_checkpoint_is_written(tmp_path: Path) -> None:
    run_worker(
        ToyProgram,
        ToyTask(),
        LOOP,
        retry=EVERY_5,
        checkpoints=checkpoints(tmp_path / "quiet"),
        reporter=Recorder(),
        worker=single_worker(),
    )
    slow = Slow(checkpoints(tmp_path / "slow"))
    reporter = OpensAt(slow, step=9)  # the checkpoint of step 5 is still open
    run_worker(ToyProgram, ToyTask(), LOOP, retry=EVERY_5, checkpoints=slow, reporter=reporter, worker=single_worker())
    assert slow.commits == [5, 10, 12]
    expected = trained(tmp_path / "quiet")
    for name, tensor in trained(tmp_path / "slow").items():
        assert tensor.equal(expected[name]), name
    by_step = dict(reporter.steps)
    assert {step for step, metrics in reporter.steps if "checkpoint_stall_s" in metrics} == {5, 10, 12}
    assert any("checkpoint_write_s" in by_step[step] for step in (9, 10))


def test_what_is_saved_is_the_state_of_its_step_not_of_the_steps_since(tmp_path: Path) -> None:
    slow, quiet = Slow(checkpoints(tmp_path / "slow")), Slow(checkpoints(tmp_path / "quiet"))
    quiet.gate.set()
    run_worker(
        ToyProgram,
        ToyTask(),
        LOOP,
        retry=EVERY_5,
        checkpoints=slow,
        reporter=OpensAt(slow, step=8),
        worker=single_worker(),
    )
    run_worker(
        ToyProgram, ToyTask(), LOOP, retry=EVERY_5, checkpoints=quiet, reporter=Recorder(), worker=single_worker()
    )
    assert slow.files == quiet.files


def test_a_checkpoint_that_cannot_be_written_ends_the_attempt_within_a_step(tmp_path: Path) -> None:
    slow = Slow(checkpoints(tmp_path), fails=True)
    reporter = OpensAt(slow, step=7)
    with pytest.raises(StoreError, match="does not answer"):
        run_worker(
            ToyProgram, ToyTask(), LOOP, retry=EVERY_5, checkpoints=slow, reporter=reporter, worker=single_worker()
        )
    assert reporter.steps[-1][0] <= 10  # at the latest where the next one would be saved
    assert checkpoints(tmp_path).latest() is None


class KilledAt(StoredCheckpoints):
    """The process is killed while it writes its part of the checkpoint of a step."""

    def write_part(self, step: int, draft: str, name: str, chunks: Chunks, size: int) -> FileEntry:
        if step == 10:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().write_part(step, draft, name, chunks, size)


def work_until_killed(rank: int, port: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2, timeout=timedelta(seconds=60))
    found = checkpoints(Path(folder))
    kind = KilledAt if rank else StoredCheckpoints
    run_worker(
        ToyProgram,
        ToyTask(),
        LOOP,
        retry=EVERY_5,
        checkpoints=kind(store=found.store, cache=found.cache, key=found.key, attempt=found.attempt),
        reporter=Recorder(),
        worker=WorkerRank(rank=rank, world_size=2, device=torch.device("cpu")),
    )


def test_a_worker_killed_while_it_writes_leaves_the_checkpoint_before(tmp_path: Path, free_port: int) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=work_until_killed, args=(rank, free_port, str(tmp_path))) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert workers[1].exitcode == -signal.SIGKILL
    assert workers[0].exitcode not in (0, None)
    found = checkpoints(tmp_path).latest()
    assert found is not None
    assert found.step == 5
    parts = {"state.json", "worker-00000.safetensors", "worker-00001.safetensors"}
    assert {path.name for path in found.path.iterdir()} == parts
    curves = []
    for folder in (tmp_path, tmp_path / "whole"):
        recorder = Recorder()
        run_worker(
            ToyProgram,
            ToyTask(),
            LOOP,
            retry=EVERY_5,
            checkpoints=checkpoints(folder),
            reporter=recorder,
            worker=single_worker(),
        )
        curves.append([metrics["fit/loss"] for _, metrics in recorder.steps])
    assert len(curves[0]) == LOOP.steps - 5
    assert curves[0] == pytest.approx(curves[1][5:], rel=1e-5)
