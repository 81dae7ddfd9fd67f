"""Two plain processes with gloo agree on the checkpoint, the order and the configuration before they compute."""

import multiprocessing
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from orchestrator.errors import CorruptArtifactError, OrchestratorError, StoreError
from orchestrator.stage import Checkpoint
from stages.training.agreement import WorkerRank, agree_on_checkpoint, check_alike, gather_numbers, gather_texts
from stages.training.loop import run_worker
from tests.stages.training.test_loop import EVERY_5, LOOP, Recorder, checkpoints, single_worker
from tests.stages.training.toy import ToyProgram, ToyTask


@dataclass
class Seen:
    """Checkpoints as one worker sees them."""

    newest: Checkpoint | Exception | None
    opens: bool = True

    def latest(self) -> Checkpoint | None:
        if isinstance(self.newest, Exception):
            raise self.newest
        return self.newest

    def open(self, step: int, digest: str) -> Checkpoint:
        if not self.opens:
            raise CorruptArtifactError(f"checkpoint of step {step}: found none")
        return Checkpoint(step=step, path=Path("there"), meta={}, digest=digest)


def checkpoint(step: int) -> Checkpoint:
    return Checkpoint(step=step, path=Path("here"), meta={}, digest=f"{step:064x}")


def agreed(worker: WorkerRank, seen: Any) -> tuple[int, str]:
    found = agree_on_checkpoint(seen, worker)
    return (found.step, found.digest) if found else (0, "")


def train(worker: WorkerRank, folder: str, seed: int) -> str:
    """A training whose workers have different seeds, on a store with a checkpoint of step 5."""
    recorder = Recorder()
    loop = replace(LOOP, seed=seed)
    run_worker(
        ToyProgram,
        ToyTask(),
        loop,
        retry=EVERY_5,
        checkpoints=checkpoints(Path(folder)),
        reporter=recorder,
        worker=worker,
    )
    return f"trained {len(recorder.steps)} steps"


def cases(worker: WorkerRank, folder: str) -> list[Callable[[], object]]:
    late = 2 if worker.rank else 4  # worker 1 sees an older listing
    broken = StoreError("the store is away") if worker.rank == 0 else None
    return [
        lambda: agreed(worker, Seen(checkpoint(late))),
        lambda: agreed(worker, Seen(None if worker.rank == 0 else checkpoint(4))),
        lambda: agreed(worker, Seen(checkpoint(4), opens=False)),
        lambda: agreed(worker, Seen(broken)),
        lambda: check_alike({"order": "a", "step": 4}, worker),
        lambda: check_alike({"order": f"a{worker.rank}", "step": 4, "skips": []}, worker),
        lambda: train(worker, folder, seed=LOOP.seed + worker.rank),
        lambda: gather_texts("" if worker.rank else "ein Bär", worker),
        lambda: gather_texts("", worker),
        lambda: gather_numbers(2**62 + worker.rank, worker),
    ]


def work_on_rank(rank: int, port: int, folder: str, results: Any) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2, timeout=timedelta(seconds=60))
    worker = WorkerRank(rank=rank, world_size=2, device=torch.device("cpu"))
    found: list[object] = []
    for case in cases(worker, folder):
        try:
            found.append(case())
        except OrchestratorError as error:
            found.append(f"{type(error).__name__}: {error}")
    results.put((rank, found))
    dist.destroy_process_group()


def test_workers_start_from_one_state_or_not_at_all(tmp_path: Path) -> None:
    stopped = Recorder(stop_after=4)
    run_worker(
        ToyProgram,
        ToyTask(),
        LOOP,
        retry=EVERY_5,
        checkpoints=checkpoints(tmp_path),
        reporter=stopped,
        worker=single_worker(),
    )
    before = checkpoints(tmp_path).latest()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    workers = [context.Process(target=work_on_rank, args=(rank, port, str(tmp_path), results)) for rank in (0, 1)]
    for process in workers:
        process.start()
    try:
        (_, first), (_, second) = sorted(results.get(timeout=120) for _ in workers)
    finally:
        for process in workers:
            process.join(30)
            process.kill()
    assert first[0] == second[0] == (4, checkpoint(4).digest)
    assert first[1] == second[1] == (0, "")
    assert first[2] == "RanksDisagreeError: workers [1] could not open the checkpoint that rank 0 chose"
    assert second[2] == "RanksDisagreeError: worker 1: checkpoint of step 4: found none"
    assert first[3] == "StoreError: the store is away"
    assert second[3] == "RanksDisagreeError: worker 1: rank 0 could not choose a checkpoint; its error says why"
    assert first[4] is second[4] is None
    assert "before the first step (order: workers [1]); on this worker, 0: order a0" in str(first[5])
    assert "before the first step (order: workers [1]); on this worker, 1: order a1" in str(second[5])
    for end in (first[6], second[6]):
        assert (
            "RanksDisagreeError: the training workers differ from rank 0 before the first step (config: workers [1])"
            in str(end)
        )
    assert first[7] == second[7] == ["ein Bär", ""]
    assert first[8] == second[8] == ["", ""]
    assert first[9] == second[9] == [2**62, 2**62 + 1]
    assert checkpoints(tmp_path).latest() == before  # no step was trained
