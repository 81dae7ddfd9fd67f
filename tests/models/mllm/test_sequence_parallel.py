"""Attention of workers that share rows, in four plain processes, next to that of one; and which part each one has."""

import multiprocessing
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from models.mllm.attention import find_documents, packed_attention
from models.mllm.sequence_parallel import sequence_group

WORKERS, PATIENCE_S = 4, 300.0
WIDTH = 8
SEGMENTS_BT = torch.tensor([[1, 1, 1, 2, 2, 2, 2, 2, 3, 3, 0, 0], [0, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2]])
CASES = [  # workers of a group; heads of queries; of keys and values, which the workers divide, or do not
    (2, 4, 2),
    (4, 4, 4),
    (4, 8, 2),
    (2, 12, 3),
    (4, 12, 3),
    (4, 4, 1),
]


def work(rank: int, folder: str, results: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=WORKERS)
    try:
        for case in CASES:
            compare(rank, *case)
        results.put("")
    except BaseException as error:
        results.put(f"worker {rank}: {error!r}")
        raise


def compare(rank: int, size: int, heads: int, shared: int) -> None:
    """Outputs and gradients of this worker's tokens are those of whole rows."""
    torch.manual_seed(size * heads + shared)
    shapes = [(2, count, SEGMENTS_BT.shape[1], WIDTH) for count in (heads, shared, shared)]
    whole = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    wanted = torch.randn(2, SEGMENTS_BT.shape[1], heads, WIDTH, dtype=torch.float64)
    documents = find_documents(SEGMENTS_BT)
    expected, _ = packed_attention(nn.Identity(), *whole, documents)
    gradients = torch.autograd.grad((expected * wanted).sum(), whole)

    group = sequence_group(size)
    assert group.rank == rank % size
    held = group.columns(SEGMENTS_BT.shape[1])
    columns = slice(held.start, held.stop)
    parts = [part.detach()[:, :, columns].requires_grad_() for part in whole]
    found, _ = packed_attention(nn.Identity(), *parts, documents.shared_by(group))
    torch.testing.assert_close(found, expected[:, columns])
    own = torch.autograd.grad((found * wanted[:, columns]).sum(), parts)
    for mine, theirs in zip(own, gradients, strict=True):
        torch.testing.assert_close(mine, theirs[:, :, columns])


def test_workers_that_share_rows_attend_to_whole_rows(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    results: Any = context.Queue()
    workers = [context.Process(target=work, args=(rank, str(tmp_path), results)) for rank in range(WORKERS)]
    for worker in workers:
        worker.start()
    try:
        assert [results.get(timeout=PATIENCE_S) for _ in workers] == [""] * WORKERS
    finally:
        for worker in workers:
            worker.kill()
            worker.join()
