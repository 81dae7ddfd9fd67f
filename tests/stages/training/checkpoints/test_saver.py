"""Checkpoints in the background of the training loop: what it waits for, and what a failed write costs."""

import itertools
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from orchestrator.artifact import JSON, Chunks, FileEntry
from orchestrator.artifacts.checkpoints import StoredCheckpoints
from orchestrator.errors import StoreError
from orchestrator.stage import Checkpoint, Checkpoints
from stages.training.checkpoints import saver as saver_module
from stages.training.checkpoints.progress import Progress, Skip
from stages.training.checkpoints.reader import FORMAT
from stages.training.checkpoints.saver import CheckpointSaver
from stages.training.checkpoints.slices import whole
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


@dataclass
class Scripted:
    """A store that does as it is told, and what was asked of it. Its worker is alone."""

    wins: Iterator[bool] = field(default_factory=lambda: itertools.repeat(True))  # answers of `conclude`
    is_held: bool = True  # `begin`: nobody has committed this step yet
    lost_bytes: int = 0
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    texts: dict[str, bytes] = field(default_factory=dict)

    def begin(self, step: int) -> str:
        self.calls.append(("begin", step))
        return "draft" if self.is_held else ""

    def write_part(self, step: int, draft: str, name: str, chunks: Chunks, size: int) -> FileEntry:
        self.texts[name] = b"".join(chunks())
        return FileEntry(path=name, bytes=size - self.lost_bytes, sha256="a" * 64)

    def conclude(self, step: int, draft: str, files: Sequence[FileEntry], meta: Mapping[str, JSON]) -> bool:
        self.calls.append(("conclude", draft, [file.path for file in files], dict(meta)))
        return next(self.wins)

    def prune(self, keep: int, needed: int | None = None, best: int | None = None) -> None:
        self.calls.append(("prune", keep, needed, best))


def saver_of(store: Scripted) -> CheckpointSaver:
    frozen = {"weights/eye": "b" * 64, "weights/ear": "c" * 64}
    return CheckpointSaver(cast(Checkpoints, store), single_worker(), keep=3, window=10, frozen=frozen)


SLICES = [whole("weights/m", torch.arange(3.0)), whole("weights/b", torch.ones(2))]
PROGRESS = Progress(step=27, skips=(Skip(at=5, count=2),))


def test_a_checkpoint_is_written_concluded_and_then_older_ones_go() -> None:
    store = Scripted()
    with saver_of(store) as saver:
        saver.best_step = 20
        saver.save(SLICES, PROGRESS, {"loss": 0.5})
        saver.wait()
        assert not saver.is_writing
        assert set(saver.pop_timings()) == {"checkpoint_write_s"}
        assert saver.pop_timings() == {}
    files = ["worker-00000.safetensors", "state.json"]
    assert store.calls == [
        ("begin", 27),
        ("conclude", "draft", files, {"step": 27, "loss": 0.5}),
        ("prune", 3, 20, 20),  # the window of step 27 began at 20
    ]
    assert json.loads(store.texts["state.json"]) == {
        "format": FORMAT,
        "step": 27,
        "skips": [{"at": 5, "count": 2}],
        "tensors": ["weights/b", "weights/m"],
        "frozen": {"weights/ear": "c" * 64, "weights/eye": "b" * 64},
    }


def test_a_checkpoint_that_an_aborted_attempt_came_before_is_written_again() -> None:
    store = Scripted(wins=iter([False, True]))
    with saver_of(store) as saver:
        saver.save(SLICES, PROGRESS)
    assert [call[0] for call in store.calls] == ["begin", "conclude", "begin", "conclude", "prune"]


def test_a_step_that_has_its_checkpoint_already_is_not_written() -> None:
    store = Scripted(is_held=False)
    with saver_of(store) as saver:
        saver.save(SLICES, PROGRESS)
    assert ([call[0] for call in store.calls], store.texts) == (["begin", "prune"], {})


def test_a_file_that_came_short_is_an_error_that_names_it() -> None:
    store, message = (
        Scripted(lost_bytes=1),
        r"checkpoint of step 27: \d+ bytes of worker-00000.safetensors were written",
    )
    saver = saver_of(store)
    saver.save(SLICES, PROGRESS)
    with pytest.raises(StoreError, match=message), saver:
        pass  # it is raised where the training ends, at the latest
    assert [call[0] for call in store.calls] == ["begin"]


def test_what_failed_on_another_worker_fails_here_with_its_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saver_module, "gather_texts", lambda text, *_: [text, "-the disk is full"])
    store = Scripted()
    saver = saver_of(store)
    saver.save(SLICES, PROGRESS)
    with pytest.raises(StoreError, match="the checkpoint was not written: worker 1: the disk is full"):
        saver.wait()
    assert [call[0] for call in store.calls] == ["begin"]


def test_the_error_of_the_training_is_not_hidden_by_that_of_its_last_checkpoint() -> None:
    saver = saver_of(Scripted(lost_bytes=1))
    saver.save(SLICES, PROGRESS)
    with pytest.raises(ZeroDivisionError), saver:
        raise ZeroDivisionError
