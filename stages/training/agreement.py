"""Agreement of the training workers before they compute: one checkpoint, one order of the data, one configuration.

Rank 0 chooses and verifies the checkpoint; the others open exactly that one. Then all compare what they will do.
Everything travels as tensors of integers, so any backend works and nothing is unpickled.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from orchestrator.artifact import JSON
from orchestrator.errors import OrchestratorError, RanksDisagreeError
from orchestrator.identity import canonical_json
from orchestrator.stage import Checkpoint, Checkpoints


@dataclass(frozen=True, kw_only=True)
class WorkerRank:
    """Which of the training's workers this process is, and its device."""

    rank: int  # 0 to world_size - 1
    world_size: int
    device: torch.device
    sequence_workers: int = 1  # neighbours by rank that compute each micro-batch together; divides `world_size`

    @property
    def data_rank(self) -> int:
        """Which share of a step's micro-batches is this worker's, from 0 to `data_workers` - 1."""
        return self.rank // self.sequence_workers

    @property
    def data_workers(self) -> int:
        """Among how many workers, or groups of workers, the micro-batches of a step are shared out."""
        return self.world_size // self.sequence_workers


def agree_on_checkpoint(checkpoints: Checkpoints, worker: WorkerRank) -> Checkpoint | None:
    """The checkpoint to continue from, the same on all workers; None to start from the beginning.

    Raises: the error of rank 0; RanksDisagreeError on the others if rank 0 or another worker could not open it.
    """
    if worker.world_size == 1:
        return checkpoints.latest()
    if worker.rank == 0:
        return _chosen_by_this_rank(checkpoints, worker)
    choice = _broadcast(b"", worker)
    if not choice:
        raise RanksDisagreeError(f"worker {worker.rank}: rank 0 could not choose a checkpoint; its error says why")
    chosen: dict[str, Any] = json.loads(choice)
    found, problem = None, None
    try:
        found = checkpoints.open(chosen["step"], chosen["digest"]) if chosen else None
    except OrchestratorError as error:
        problem = error
    _raise_if_any_failed(problem, worker)
    return found


def _chosen_by_this_rank(checkpoints: Checkpoints, worker: WorkerRank) -> Checkpoint | None:
    try:
        found = checkpoints.latest()
    except BaseException:
        _broadcast(b"", worker)  # the others fail too instead of waiting
        raise
    chosen: dict[str, JSON] = {} if found is None else {"step": found.step, "digest": found.digest}
    _broadcast(canonical_json(chosen).encode(), worker)
    _raise_if_any_failed(None, worker)
    return found


def _raise_if_any_failed(problem: OrchestratorError | None, worker: WorkerRank) -> None:
    """Called by all workers at once, so that none starts to train without the others."""
    failed = _gather(torch.tensor([int(problem is not None)]), worker)[:, 0].nonzero().flatten().tolist()
    if problem is not None:
        raise RanksDisagreeError(f"worker {worker.rank}: {problem}") from problem
    if failed:
        raise RanksDisagreeError(f"workers {failed} could not open the checkpoint that rank 0 chose")


def check_alike(facts: Mapping[str, JSON], worker: WorkerRank) -> None:
    """Compare facts that must be equal on all workers. Called by all at once, with the same names.

    Raises: RanksDisagreeError on every worker: which facts differ on which workers.
    """
    hashes = torch.tensor([_hash(facts[name]) for name in sorted(facts)])
    of_all = _gather(hashes, worker)
    different = {
        name: (of_all[:, index] != of_all[0, index]).nonzero().flatten().tolist()
        for index, name in enumerate(sorted(facts))
    }
    if any(different.values()):
        found = "; ".join(f"{name}: workers {ranks}" for name, ranks in different.items() if ranks)
        own = ", ".join(f"{name} {str(facts[name])[:200]}" for name, ranks in different.items() if ranks)
        raise RanksDisagreeError(
            f"the training workers differ from rank 0 before the first step ({found}); on this worker, "
            f"{worker.rank}: {own}. Expected the same software and the same store on every node"
        )


def _hash(fact: JSON) -> int:
    """63 bits of the SHA-256 of a fact: an integer that every backend can send."""
    return int.from_bytes(hashlib.sha256(canonical_json(fact).encode()).digest()[:8], "big") >> 1


def _broadcast(data: bytes, worker: WorkerRank) -> bytes:
    """The bytes of rank 0 on all workers."""
    length = torch.tensor([len(data)], device=worker.device)
    dist.broadcast(length, src=0)
    content = torch.zeros(int(length), dtype=torch.uint8, device=worker.device)
    if worker.rank == 0:
        content.copy_(torch.tensor(list(data), dtype=torch.uint8))
    if len(content):
        dist.broadcast(content, src=0)
    return bytes(content.cpu().tolist())


def gather_texts(text: str, worker: WorkerRank, group: dist.ProcessGroup | None = None) -> list[str]:
    """The texts of all workers, by rank. Called by all at once; through `group` on the host if there is one."""
    if worker.world_size == 1:
        return [text]
    data = text.encode()
    lengths = _gather(torch.tensor([len(data)]), worker, group)[:, 0].tolist()
    padded = torch.zeros(max(lengths), dtype=torch.uint8)
    padded[: len(data)] = torch.tensor(list(data), dtype=torch.uint8)
    of_all = _gather(padded, worker, group) if len(padded) else padded.expand(worker.world_size, 0)
    return [bytes(row[:length].tolist()).decode() for row, length in zip(of_all, lengths, strict=True)]


def gather_numbers(number: int, worker: WorkerRank) -> list[int]:
    """The numbers of all workers, below 2**63, by rank. Called by all at once."""
    if worker.world_size == 1:
        return [number]
    return [int(found) for found in _gather(torch.tensor([number]), worker)[:, 0].tolist()]


def _gather(values: torch.Tensor, worker: WorkerRank, group: dist.ProcessGroup | None = None) -> torch.Tensor:
    """[world size, len(values)]: the values of all workers, by rank."""
    own = values.to(worker.device) if group is None else values
    of_all = [torch.zeros_like(own) for _ in range(worker.world_size)]
    dist.all_gather(of_all, own, group=group)
    return torch.stack(of_all).cpu()
