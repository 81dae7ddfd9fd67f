"""A worker is killed while a checkpoint is saved in the background, at each moment of a save and with each layout.

Two plain processes (gloo) train and save at steps 2, 4 and 6; one of them is killed during the save of step 6, which
also deletes the checkpoint of step 2. They fork from a process that has imported torch.
"""

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from orchestrator import failpoints
from orchestrator.artifact import Chunks, FileEntry
from orchestrator.artifacts.checkpoints import StoredCheckpoints, kept_steps
from orchestrator.backends.local_store import TEMPORARY
from orchestrator.retention.garbage import delete_garbage, find_garbage
from orchestrator.stage import RetryPolicy
from orchestrator.store.commits import head
from orchestrator.store.layout import checkpoint_site
from orchestrator.store.store import Store
from stages.training.agreement import WorkerRank
from stages.training.config import LoopConfig, OptimizerConfig, TrainingExecution
from stages.training.loop import run_worker
from tests.stages.training.test_loop import Recorder, checkpoints, single_worker
from tests.stages.training.toy import ToyProgram, ToyTask

LOOP = LoopConfig(steps=8, micro_batches_per_step=4, seed=5, optimizer=OptimizerConfig(warmup_share=0.2))
EVERY_2 = RetryPolicy(checkpoint_every=2)
KILLED = 6  # the step whose checkpoint is saved then
PATIENCE_S = 120.0
LATER_S = 4e9  # long after everything in these tests was written
STRATEGIES = {"ddp": TrainingExecution(), "fsdp2": TrainingExecution(strategy="fsdp2")}


@dataclass(frozen=True, kw_only=True)
class Moment:
    rank: int  # that is killed
    counts: bool  # whether the checkpoint of step 6 is one then
    failpoint: str = ""  # of the kernel; else a moment of `Killing`
    passes: int = 1


MOMENTS = {
    "before it begins": Moment(rank=0, counts=False),
    "while rank 0 writes": Moment(rank=0, counts=False),
    "while the other rank writes": Moment(rank=1, counts=False),
    "after the other rank wrote": Moment(rank=1, counts=False),
    "before it concludes": Moment(rank=0, counts=False, failpoint="checkpoint.files", passes=3),
    "before the outcome": Moment(rank=0, counts=False, failpoint="checkpoint.manifest", passes=3),
    "after the outcome": Moment(rank=0, counts=True, failpoint="checkpoint.outcome", passes=3),
    "after the commit": Moment(rank=0, counts=True, failpoint="checkpoint.commit", passes=3),
    "while an old one is deleted": Moment(rank=0, counts=True, failpoint="checkpoint.retracted"),
}


@dataclass(frozen=True, kw_only=True)
class Killing(StoredCheckpoints):
    """Kills its process at a moment of the save of step 6."""

    moment: str

    def begin(self, step: int) -> str:
        self._kill_if("before it begins", step)
        return super().begin(step)

    def write_part(self, step: int, draft: str, name: str, chunks: Chunks, size: int) -> FileEntry:
        def parts() -> Iterator[bytes | memoryview]:
            for chunk in chunks():
                yield bytes(chunk[: len(chunk) // 2])
                self._kill_if("while rank 0 writes", step)
                self._kill_if("while the other rank writes", step)
                yield bytes(chunk[len(chunk) // 2 :])

        entry = super().write_part(step, draft, name, parts, size)
        self._kill_if("after the other rank wrote", step)
        return entry

    def _kill_if(self, moment: str, step: int) -> None:
        if (moment, step) == (self.moment, KILLED):
            os.kill(os.getpid(), signal.SIGKILL)


class Unhurried(Recorder):
    """Gives each save in the background the time of a step."""

    def step(self, step: int, metrics: dict[str, float]) -> None:
        super().step(step, metrics)
        time.sleep(0.01)


def work(rank: int, folder: str, strategy: str, moment: str) -> None:
    torch.set_num_threads(1)
    killed, found = MOMENTS[moment], checkpoints(Path(folder))
    if rank == killed.rank:
        if killed.failpoint:
            failpoints._armed = failpoints.parse(f"{killed.failpoint}=kill@{killed.passes}")
        found = Killing(store=found.store, cache=found.cache, key=found.key, attempt=found.attempt, moment=moment)
    group = f"file://{folder}/group"
    dist.init_process_group("gloo", init_method=group, rank=rank, world_size=2, timeout=timedelta(seconds=PATIENCE_S))
    run_worker(
        ToyProgram,
        ToyTask(),
        LOOP,
        retry=EVERY_2,
        checkpoints=found,
        reporter=Unhurried(),
        worker=WorkerRank(rank=rank, world_size=2, device=torch.device("cpu")),
        execution=STRATEGIES[strategy],
    )


def work_in_processes(folder: Path, strategy: str, moment: str) -> list[int | None]:
    """The exit codes of both ranks."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch._dynamo", "stages.training.loop", __name__])
    ranks = [context.Process(target=work, args=(rank, str(folder), strategy, moment)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(PATIENCE_S)
    return [process.exitcode for process in ranks]


def train_alone(found: StoredCheckpoints) -> Recorder:
    recorder = Recorder()
    run_worker(ToyProgram, ToyTask(), LOOP, retry=EVERY_2, checkpoints=found, reporter=recorder, worker=single_worker())
    return recorder


def losses(recorder: Recorder) -> list[float]:
    return [metrics["fit/loss"] for _, metrics in recorder.steps]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Sequence[float]:
    return losses(train_alone(checkpoints(tmp_path_factory.mktemp("undisturbed"))))


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_rank_killed_during_a_save_costs_at_most_that_checkpoint(
    tmp_path: Path, undisturbed: Sequence[float], strategy: str, moment: str
) -> None:
    killed = MOMENTS[moment]
    codes = work_in_processes(tmp_path, strategy, moment)
    assert codes[killed.rank] == -signal.SIGKILL
    assert codes[1 - killed.rank] not in (0, None)  # it does not wait for the dead one

    first = checkpoints(tmp_path)
    after = replace(first, attempt=replace(first.attempt, epoch=2, name="second"))
    after.take_over()  # what was decided is completed, the rest never counts
    is_pruned = "deleted" in moment
    whole = [*([] if is_pruned else [2]), 4, *([KILLED] if killed.counts else [])]
    assert kept_steps(after.store, after.key) == whole
    for step in whole:
        read_back(tmp_path, step)

    recorder = train_alone(after)
    assert recorder.first == whole[-1]
    assert losses(recorder) == pytest.approx(undisturbed[whole[-1] :], rel=1e-5)
    assert kept_steps(after.store, after.key) == [KILLED, LOOP.steps]
    collect(after.store)
    assert leftovers(after) == []


def read_back(folder: Path, step: int) -> None:
    """Raises: CorruptArtifactError unless every byte of a checkpoint is as its manifest says."""
    fresh = checkpoints(folder)  # knows nothing as verified
    commit = head(fresh.store, checkpoint_site(fresh.key, step)).commit
    assert commit is not None
    found = fresh.open(step, str(commit.record["manifest_sha256"]))
    parts = {"state.json", "worker-00000.safetensors", "worker-00001.safetensors"}
    assert {path.name for path in found.path.iterdir()} == parts


def collect(store: Store) -> None:
    def is_live(_attempt: str) -> bool:
        return False

    delete_garbage(store, find_garbage(store, now_s=LATER_S, is_live=is_live), is_live=is_live)


def leftovers(found: StoredCheckpoints) -> list[str]:
    """Data and temporary files that belong to no committed checkpoint."""
    used = []
    for step in kept_steps(found.store, found.key):
        site = checkpoint_site(found.key, step)
        commit = head(found.store, site).commit
        assert commit is not None
        used.append(f"{site.attempt_key(commit.attempt)}/")
    stored = [item.key for item in found.store.list("") if "/data/" in item.key or "MANIFEST" in item.key]
    temporary = found.store.local(TEMPORARY)
    assert temporary is not None
    partial = [path.name for path in temporary.glob("*")]
    return [key for key in stored if not key.startswith(tuple(used))] + partial
