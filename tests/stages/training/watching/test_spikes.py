"""What a spike lists where several workers compute each micro-batch together."""

import multiprocessing
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from stages.training.agreement import WorkerRank
from stages.training.program import MicroBatch, PassOutput
from stages.training.step_sums import StepSums
from stages.training.watching.notices import Notice
from stages.training.watching.spikes import SpikedStep, describe_spike
from tests.stages.training.toy import ToyProgram, ToyTask

WORKERS, PATIENCE_S = 4, 120.0
SPIKE = SpikedStep(
    step=7,
    data_step=7,
    pass_name="toy",
    loss=9.0,
    grad_norm=1.0,
    loss_z=20.0,
    grad_norm_z=0.0,
    learning_rates=(0.1,),
    gradient_norms={},
)


def describe(rank: int, folder: str, results: Any) -> None:
    """Pairs of workers have a micro-batch of two samples each, and the same sums of both."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=WORKERS)
    worker = WorkerRank(rank=rank, world_size=WORKERS, device=torch.device("cpu"), sequence_workers=2)
    batch = MicroBatch(data=None, weight=2.0, seed=0, samples=(f"{worker.data_rank}-a", f"{worker.data_rank}-b"))
    losses = torch.tensor([[[6.0, 2.0], [worker.data_rank + 10.0, 2.0]]])
    sums = StepSums()
    sums.add(worker.data_rank, batch, PassOutput(loss_sum=torch.tensor(8.0), kinds=("text",), sample_sums=losses))
    notices: list[Notice] = []
    describe_spike(SPIKE, sums, [batch], program=ToyProgram(ToyTask()), worker=worker, notify=notices.append)
    results.put((rank, [notice.fields for notice in notices]))


def test_workers_that_share_rows_list_each_sample_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    results: Any = context.Queue()
    workers = [context.Process(target=describe, args=(rank, str(tmp_path), results)) for rank in range(WORKERS)]
    for worker in workers:
        worker.start()
    found = dict(results.get(timeout=PATIENCE_S) for _ in workers)
    for worker in workers:
        worker.join(PATIENCE_S)
    [fields] = found[0]
    assert [found[rank] for rank in range(1, WORKERS)] == [[], [], []]
    assert fields["num_samples"] == 4
    listed = [(item["samples"], item["losses"], item["worker"]) for item in fields["samples"]]
    assert listed == [
        (["1-b"], {"text": 5.5}, 2),
        (["0-b"], {"text": 5.0}, 0),
        (["0-a"], {"text": 3.0}, 0),
        (["1-a"], {"text": 3.0}, 2),
    ]
