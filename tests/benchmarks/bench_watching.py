"""What watching costs in each training step: `python tests/benchmarks/bench_watching.py`, about 20 s.

Three processes (gloo) make steps of nothing but what is watched: the comparison of the workers and the metrics of the
machine every tenth step, the z-scores of loss and gradient norm, the time of the forward pass and the loss of each
source. CPU seconds are counted, as the processes wait for one another; shares are those of a step of one second and of
245 ms, which a row of 4,096 tokens of the 3B model takes on a GPU.
"""

import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parents[2]))

from stages.training.agreement import WorkerRank
from stages.training.config import LoopConfig, TrainingExecution, WatchSettings
from stages.training.program import MicroBatch, PassOutput
from stages.training.step_sums import StepSums
from stages.training.strategies.choice import make_strategy
from stages.training.watching.step_watch import StepAmounts, StepWatch
from tests.stages.training.toy import ToyProgram, ToyTask

WORKERS, STEPS, ROUNDS = 3, 200, 5
STEPS_S = (1.0, 0.245)
SOURCES = ("generation", "understanding", "editing", "text")


def main() -> None:
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        workers = [context.Process(target=_work, args=(rank, folder, results)) for rank in range(WORKERS)]
        for worker in workers:
            worker.start()
        found: dict[str, float] = results.get(timeout=300)
        for worker in workers:
            worker.join(60)
    for name, seconds in found.items():
        shares = ", ".join(f"{seconds / step_s:7.3%} of a step of {step_s:g} s" for step_s in STEPS_S)
        sys.stdout.write(f"{name:32}{1e6 * seconds:9.1f} us CPU a step: {shares}\n")


def _work(rank: int, folder: str, results: Any) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=WORKERS)
    worker = WorkerRank(rank=rank, world_size=WORKERS, device=torch.device("cpu"))
    loop = LoopConfig(steps=10**9, micro_batches_per_step=WORKERS, seed=1)
    program = ToyProgram(ToyTask())
    strategy = make_strategy(program, loop, TrainingExecution(), worker)
    watch = StepWatch(
        program, loop, WatchSettings(), strategy, worker, notify=lambda _notice: None, saved={}, first_step=0
    )
    plain, batch, output = StepSums(), _batch(), _output()
    measures: dict[str, Callable[[int], object]] = {
        "workers, throughput, machine": lambda step: watch.end_step(
            step, step_s=1.0, data_wait_s=0.0, amounts=StepAmounts(tokens=4096.0, padding=100.0)
        ),
        "z-scores": lambda step: watch.check_spike(
            program.passes[0], plain, [], step=step, data_step=step, loss=2.0 + step % 7 / 100, norm=1.0, may_skip=False
        ),
        "loss by source": lambda _step: StepSums(sources=SOURCES).add(0, batch, output),
        "(the same sums without sources)": lambda _step: StepSums().add(0, batch, replace(output, sample_sums=None)),
    }
    found = {name: _cpu_seconds(measure) for name, measure in measures.items()}
    if rank == 0:
        own = [value for name, value in found.items() if not name.startswith("(")]
        base = found["(the same sums without sources)"]
        results.put({**found, "all that watching adds": sum(own) - base})
    dist.barrier()
    dist.destroy_process_group()


def _cpu_seconds(measure: Callable[[int], object]) -> float:
    """Of one call, the median over some rounds."""
    rounds = []
    for number in range(ROUNDS):
        dist.barrier()
        began = time.process_time()
        for step in range(number * STEPS + 1, (number + 1) * STEPS + 1):
            measure(step)
        rounds.append((time.process_time() - began) / STEPS)
    return statistics.median(rounds)


def _batch() -> MicroBatch:
    samples = tuple(f"sample-{number}" for number in range(8))
    return MicroBatch(data=None, weight=4096.0, seed=1, samples=samples, sources=tuple(n % 4 for n in range(8)))


def _output() -> PassOutput:
    return PassOutput(
        loss_sum=torch.tensor(9000.0), kinds=("text", "semantic", "pixel"), sample_sums=torch.rand(3, 8, 2)
    )


if __name__ == "__main__":
    main()
