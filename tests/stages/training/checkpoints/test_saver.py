"""Checkpoints in the background of the training loop: what it waits for, and what a failed write costs."""

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from orchestrator.artifact import JSON, Chunks, FileEntry
from orchestrator.artifacts.checkpoints import StoredCheckpoints
from orchestrator.errors import StoreError
from orchestrator.stage import Checkpoint
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

    def prune(self, keep: int, needed: int | None = None) -> None:
        self.inner.prune(keep, needed)

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
