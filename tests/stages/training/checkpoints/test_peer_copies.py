"""A worker on a new node gets its file of the newest checkpoint from a peer, if that has what was committed."""

import multiprocessing
import shutil
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from orchestrator.stage import Checkpoint
from stages.training.agreement import WorkerRank
from stages.training.checkpoints.local_copies import LocalCopies, worker_file
from stages.training.checkpoints.peer_copies import NO_PEER, PeerCopies, peers_of, transfers
from stages.training.checkpoints.progress import Progress
from stages.training.checkpoints.saver import CheckpointSaver
from stages.training.checkpoints.slices import TensorSlice
from tests.stages.training.test_loop import checkpoints

WORKERS, PATIENCE_S = 3, 120.0
NODES = ["a", "a", "b"]  # a worker of the second node has two of the first as senders
ROWS = 700_000  # of each worker: 5.6 MB, more than one chunk


def test_the_peer_is_on_the_next_node() -> None:
    assert peers_of(["a", "a", "b", "b", "c", "c"]) == [2, 3, 4, 5, 0, 1]
    assert peers_of(["a", "b", "a", "b"]) == [1, 0, 3, 2]
    assert peers_of(NODES) == [2, 2, 0]
    assert peers_of(["a", "a"]) == [NO_PEER, NO_PEER]


def test_a_file_comes_from_a_worker_that_holds_it() -> None:
    assert transfers(["", "x", "y", "z"], [set(), set(), {"x"}, {"x", "y"}]) == [(2, 1, "x"), (3, 2, "y")]


def work(rank: int, folder: str, results: Any) -> None:
    """Two checkpoints; then the disk of a node is lost, and once more when a copy of its files is damaged."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=WORKERS)
    worker = WorkerRank(rank=rank, world_size=WORKERS, device=torch.device("cpu"))
    copies = LocalCopies(Path(folder) / f"disk-{NODES[rank]}/training", rank)
    stored = checkpoints(Path(folder))
    own = torch.full((ROWS, 2), float(rank))
    part = TensorSlice(name="weights/m/w", shape=(WORKERS * ROWS, 2), offset=(rank * ROWS, 0), tensor=own)
    peers = PeerCopies(copies, worker, NODES)
    with CheckpointSaver(stored, worker, keep=2, window=1, copies=copies, peers=peers) as saver:
        for step in (1, 2):
            saver.save([part], Progress(step=step))
    dist.barrier()
    found = stored.latest()
    assert found is not None
    held = sorted(str(path.relative_to(folder)) for path in Path(folder).glob("disk-*/training/rank-*/*"))

    def fetched(damaged: str = "") -> bool:
        """Whether this worker reads its node's disk after that of the first node is another one."""
        dist.barrier()
        if rank == 0:
            shutil.rmtree(Path(folder) / "disk-a")
            if damaged:
                (Path(folder) / damaged).write_bytes(b"damaged")
        dist.barrier()
        peers.fetch(found)
        return reads_own_disk(found, copies, rank)

    results.put((rank, held, [fetched(), fetched(f"disk-b/training/rank-00000/{2:012d}/{worker_file(0)}")]))
    dist.barrier()


def reads_own_disk(checkpoint: Checkpoint, copies: LocalCopies, rank: int) -> bool:
    folder = copies.folder_of(checkpoint)
    return "disk-" in str((folder / worker_file(rank)).resolve())


def test_a_lost_node_gets_its_files_back_and_what_is_damaged_is_not_used(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    results: Any = context.Queue()
    workers = [context.Process(target=work, args=(rank, str(tmp_path), results)) for rank in range(WORKERS)]
    for process in workers:
        process.start()
    try:
        found = dict((rank, rest) for rank, *rest in (results.get(timeout=PATIENCE_S) for _ in workers))
    finally:
        for process in workers:
            process.join(5)
            process.kill()
    # Their own, and those of the workers whose peer is on the node; of the newest step alone.
    expected = [f"disk-{node}/training/rank-{rank:05d}/{2:012d}" for node in "ab" for rank in range(WORKERS)]
    assert found[0][0] == expected
    assert [found[rank][1] for rank in range(WORKERS)] == [[True, False], [True, True], [True, True]]
