"""Copies of a worker's checkpoint file on the disk of another node, for the worker that takes the place of a lost one.

Workers send them to one another beside the training, once a checkpoint is committed. As those on the own disk, they
only save time: one counts if its bytes have the digest that the committed checkpoint names.
"""

import json
import logging
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from orchestrator.stage import Checkpoint
from stages.training.agreement import WorkerRank, gather_texts
from stages.training.checkpoints.local_copies import LocalCopies, worker_file
from stages.training.checkpoints.slices import CHUNK_BYTES, SliceFile
from stages.training.config import TrainingExecution

logger = logging.getLogger(__name__)

NO_PEER = -1


class PeerCopies:
    """All workers make it, and call its methods, at the same time."""

    def __init__(self, copies: LocalCopies, worker: WorkerRank, nodes: Sequence[str]) -> None:
        """`copies`: of this worker, on its node; `nodes`: the names of all workers' nodes, by rank."""
        self._copies, self._worker = copies, worker
        peers = peers_of(nodes)
        self._peer = peers[worker.rank]
        self._senders = [rank for rank, peer in enumerate(peers) if peer == worker.rank]
        copies.kept_for = self._senders
        self._group = dist.new_group(backend="gloo")

    def exchange(self, step: int, file: SliceFile | None) -> None:
        """Send this worker's file of a checkpoint to its peer, and keep those of the workers whose peer it is."""
        chunks = [] if file is None else list(file.chunks())
        sizes = [json.loads(text) for text in self._gather(json.dumps([len(chunk) for chunk in chunks]))]
        sent = [_sent(chunk, self._peer, self._group) for chunk in chunks if self._peer != NO_PEER]
        for rank in self._senders:
            if sizes[rank]:
                self._receive(rank, sizes[rank], self._copies.of_rank(rank), step, worker_file(rank))
        for work, _ in sent:
            work.wait()

    def fetch(self, checkpoint: Checkpoint) -> None:
        """Get this worker's file of a checkpoint from any other that has it, if it is not on the own disk."""
        own = worker_file(self._worker.rank)
        entries = {entry.path: entry for entry in checkpoint.files}
        is_missing = own in entries and self._copies.find(checkpoint, own) is None
        wanted = self._gather(own if is_missing else "")
        found = {name: self._copies.find_any(checkpoint, name) for name in set(wanted) - {""}}
        holders = [set(json.loads(text)) for text in self._gather(json.dumps([n for n, path in found.items() if path]))]
        for source, target, name in transfers(wanted, holders):
            path = found.get(name)
            if self._worker.rank == source and path is not None:
                for chunk in _pieces(path):
                    _sent(chunk, target, self._group)[0].wait()
            elif self._worker.rank == target:
                logger.info("gets %s of the checkpoint of step %d from worker %d", name, checkpoint.step, source)
                self._receive(source, _lengths(entries[name].bytes), self._copies, checkpoint.step, name)

    def _receive(self, source: int, sizes: Sequence[int], copies: LocalCopies, step: int, name: str) -> None:
        """Keep what a worker sends; all of it is received, also where the disk takes nothing."""

        def received() -> Iterator[memoryview]:
            for size in sizes:
                buffer = torch.empty(size, dtype=torch.uint8)
                dist.recv(buffer, src=source, group=self._group)
                array: Any = buffer.numpy()
                yield memoryview(array)

        chunks = received()
        copies.write(step, name, lambda: chunks)
        for _ in chunks:
            pass

    def _gather(self, text: str) -> list[str]:
        return gather_texts(text, self._worker, self._group)


def peer_copies(copies: LocalCopies | None, execution: TrainingExecution, worker: WorkerRank) -> PeerCopies | None:
    """As `execution` asks for them. Called by all workers at once."""
    if copies is None or not execution.peer_checkpoints or worker.world_size == 1:
        return None
    return PeerCopies(copies, worker, gather_texts(platform.node(), worker))


def nearest_folder(checkpoint: Checkpoint | None, copies: LocalCopies | None, peers: PeerCopies | None) -> Path | None:
    """The folder to read a checkpoint from: with this worker's copy on its node's disk, where there is one.

    Called by all workers at once, which give one another the copies that their nodes lack.
    """
    if copies is not None:
        copies.delete_forgotten()
    if checkpoint is None or copies is None:
        return None if checkpoint is None else checkpoint.path
    if peers is not None:
        peers.fetch(checkpoint)
    return copies.folder_of(checkpoint)


def peers_of(nodes: Sequence[str]) -> list[int]:
    """The peer of each rank: the worker at its place on the next node; `NO_PEER` if there is one node."""
    ranks: dict[str, list[int]] = {}
    for rank, node in enumerate(nodes):
        ranks.setdefault(node, []).append(rank)
    names = list(ranks)
    if len(names) < 2:
        return [NO_PEER] * len(nodes)
    following = dict(zip(names, [*names[1:], names[0]], strict=True))
    return [
        ranks[following[node]][ranks[node].index(rank) % len(ranks[following[node]])] for rank, node in enumerate(nodes)
    ]


def transfers(wanted: Sequence[str], holders: Sequence[set[str]]) -> list[tuple[int, int, str]]:
    """(source, target, file) for each file that a worker wants and another holds; "" wants none.

    All workers make the same list, and carry it out in its order.
    """
    found = []
    for target, name in enumerate(wanted):
        source = next((rank for rank, names in enumerate(holders) if name in names and rank != target), None)
        if source is not None:
            found.append((source, target, name))
    return found


def _sent(chunk: bytes | memoryview, target: int, group: dist.ProcessGroup) -> tuple[dist.Work, torch.Tensor]:
    """The sending, and the memory that it needs until it is done."""
    data = torch.frombuffer(bytearray(chunk) if isinstance(chunk, bytes) else chunk, dtype=torch.uint8)
    work = dist.isend(data, dst=target, group=group)
    assert work is not None, "this worker is of the group"
    return work, data


def _lengths(size: int) -> list[int]:
    """Of the pieces in which a file is read."""
    return [min(CHUNK_BYTES, size - start) for start in range(0, size, CHUNK_BYTES)]


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(CHUNK_BYTES):
            yield piece
