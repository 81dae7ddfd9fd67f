"""A few plain processes (gloo) that carry out trainings of different strategies and sizes, one after the other.

They start once, as importing torch takes longer than all trainings together.
"""

import multiprocessing
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from orchestrator.stage import RetryPolicy
from stages.training.agreement import WorkerRank
from stages.training.config import LoopConfig, OptimizerConfig, TrainingExecution
from stages.training.loop import run_worker
from tests.stages.training.strategies.tiny_images import ImageTask, TinyDecoder, TinyTokenizer
from tests.stages.training.strategies.tiny_mllm import TinyMllm, TinyTask
from tests.stages.training.test_loop import Recorder, checkpoints

LOOP = LoopConfig(
    steps=4, micro_batches_per_step=4, seed=1, optimizer=OptimizerConfig(schedule="constant", warmup_share=0.0)
)
WORKERS = 4
PATIENCE_S = 600.0


@dataclass(frozen=True, kw_only=True)
class Training:
    """A training, or the part of one up to a stop. Parts of one name continue one another."""

    name: str
    workers: int
    phase: str = "stage2"  # of the language model; "tokenizer" and "decoder" are other programs
    execution: TrainingExecution = field(default_factory=TrainingExecution)
    loop: LoopConfig = LOOP
    stop_after: int = -1
    backend: str = ""  # that compiles the layers of the language model
    sequence_workers: int = 1  # of the language model


def carry_out(trainings: Sequence[Training], folder: Path, workers: int = WORKERS) -> list[list[float]]:
    """The losses of the steps of each training. Raises: AssertionError with the traceback of a worker."""
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    processes = [
        context.Process(target=_work, args=(rank, trainings, str(folder), results), daemon=True)
        for rank in range(workers)
    ]
    for process in processes:
        process.start()
    try:
        found: dict[int, list[float]] = {}
        while len(found) < len(trainings):
            number, losses = results.get(timeout=PATIENCE_S)
            assert isinstance(losses, list), losses
            found[number] = losses
    finally:
        for process in processes:
            process.kill()
            process.join()
    return [found[number] for number in range(len(trainings))]


def _work(rank: int, trainings: Sequence[Training], folder: str, results: Any) -> None:
    torch.set_num_threads(1)
    for number, training in enumerate(trainings):
        if rank >= training.workers:
            continue
        try:
            losses = _train(rank, training, Path(folder), number)
        except BaseException:
            results.put((number, f"{training}\nworker {rank}: {traceback.format_exc()}"))
            raise
        if rank == 0:
            results.put((number, losses))


def _train(rank: int, training: Training, folder: Path, number: int) -> list[float]:
    if training.workers > 1:
        dist.init_process_group(
            "gloo",
            init_method=f"file://{folder}/group-{number}",
            rank=rank,
            world_size=training.workers,
            timeout=timedelta(seconds=PATIENCE_S),
        )
    recorder = Recorder(stop_after=training.stop_after)
    programs: dict[str, tuple[Any, Any]] = {
        "tokenizer": (TinyTokenizer, ImageTask()),
        "decoder": (TinyDecoder, ImageTask()),
    }
    language = TinyTask(phase=training.phase, backend=training.backend, sequence_workers=training.sequence_workers)
    program, task = programs.get(training.phase, (TinyMllm, language))
    run_worker(
        program,
        task,
        training.loop,
        retry=RetryPolicy(checkpoint_every=100),
        checkpoints=checkpoints(folder / training.name),
        reporter=recorder,
        worker=WorkerRank(rank=rank, world_size=training.workers, device=torch.device("cpu")),
        execution=training.execution,
    )
    if training.execution.strategy == "deepspeed":
        import deepspeed.comm

        deepspeed.comm.destroy_process_group()
        deepspeed.comm.comm.cdb = None  # so that the next training's group is found
    elif training.workers > 1:
        dist.destroy_process_group()
    names = [name for name in recorder.steps[0][1] if name.endswith("/loss")]
    last = [name for name in recorder.steps[-1][1] if name.endswith("/loss") and name not in names]
    return [metrics[name] for name in [*names, *last] for _, metrics in recorder.steps if name in metrics]
