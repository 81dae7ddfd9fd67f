"""What a checkpoint costs: for how long it stops the training, and the bytes of a worker, next to one through rank 0.

Run: python tests/benchmarks/bench_checkpoint.py [--mib 256] [--workers 4]
Once: rank 0 copies the whole state while all others wait, writes it to a temporary file, copies that into the store,
and reads it back to hash it. Now: each worker copies its share and goes on; beside the training it puts the share into
the store, hashing it, and reads it back. CPU seconds are counted, as workers on few cores wait for one another.
"""

import hashlib
import multiprocessing
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
import torch.distributed as dist
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parents[2]))

from stages.training.agreement import WorkerRank
from stages.training.checkpoints.progress import Progress
from stages.training.checkpoints.saver import CheckpointSaver
from stages.training.checkpoints.slices import TensorSlice
from tests.stages.training.test_loop import checkpoints

TENSORS, WIDTH = 16, 1024
ROUNDS = 3  # of each; the first, which also gets its memory, does not count


@dataclass(frozen=True)
class Cost:
    """Of the worker that has most to do."""

    stall_s: float  # of CPU, in which nothing is trained
    total_s: float  # of CPU, until the checkpoint is in the store
    copied: int  # bytes that stop the training
    moved: int  # bytes written and read


def through_rank_0(state: dict[str, torch.Tensor], folder: Path) -> Cost:
    began, stopped = time.process_time(), time.thread_time()
    copies = {name: tensor.clone() for name, tensor in state.items()}
    stall_s = time.thread_time() - stopped
    save_file(copies, folder / "temporary")
    shutil.copyfile(folder / "temporary", folder / "stored")
    with (folder / "stored").open("rb") as file:
        hashlib.file_digest(file, "sha256")
    size = (folder / "stored").stat().st_size
    return Cost(stall_s, time.process_time() - began, sum(tensor.nbytes for tensor in state.values()), 4 * size)


def by_all(saver: CheckpointSaver, own: list[TensorSlice], step: int) -> Cost:
    began, stopped = time.process_time(), time.thread_time()
    saver.save(own, Progress(step=step))
    stall_s = time.thread_time() - stopped
    saver.wait()
    size = sum(item.tensor.nbytes for item in own)
    return Cost(stall_s, time.process_time() - began, size, 2 * size)


def work(rank: int, workers: int, mib: int, folder: str, results: Any) -> None:
    torch.set_num_threads(1)
    rows = mib * 2**20 // 4 // WIDTH // TENSORS
    state = {f"weights/model/{number}": torch.randn(rows, WIDTH) for number in range(TENSORS)}
    if workers > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=workers)
    share = range(rank * rows // workers, (rank + 1) * rows // workers)
    own = [
        TensorSlice(name=name, shape=(rows, WIDTH), offset=(share.start, 0), tensor=tensor[share.start : share.stop])
        for name, tensor in state.items()
    ]
    worker = WorkerRank(rank=rank, world_size=workers, device=torch.device("cpu"))
    with CheckpointSaver(checkpoints(Path(folder)), worker, keep=1, window=1) as saver:
        now = _best(lambda step: by_all(saver, own, step))
    once = _best(lambda _step: through_rank_0(state, Path(folder))) if rank == 0 else None
    results.put((now, once))


def _best(measure: Callable[[int], Cost]) -> Cost:
    return min([measure(step) for step in range(1, ROUNDS + 1)][1:], key=lambda cost: cost.total_s)


@click.command()
@click.option("--mib", default=256, show_default=True, help="Of the whole state.")
@click.option("--workers", default=4, show_default=True)
def main(mib: int, workers: int) -> None:
    """Print the table."""
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            context.Process(target=work, args=(rank, workers, mib, folder, results)) for rank in range(workers)
        ]
        for process in processes:
            process.start()
        found = [results.get() for _ in processes]
        for process in processes:
            process.join()
    once = next(cost for _, cost in found if cost is not None)
    now = max((cost for cost, _ in found), key=lambda cost: cost.stall_s)
    click.echo(f"{mib} MiB of state, {workers} workers; of the worker that has most to do")
    for name, cost in (("once, through rank 0", once), ("now, by all workers", now)):
        click.echo(
            f"  {name:22} stops the training for {cost.stall_s:7.3f} s ({cost.copied / 2**20:6.0f} MiB copied), "
            f"{cost.total_s:7.3f} s of CPU in all, {cost.moved / 2**20:6.0f} MiB written and read"
        )


if __name__ == "__main__":
    main()
