"""Proof of the nodes before the first step: every worker measures its device, link, disk and clock; all are compared.

One device of hundreds that computes at half its speed makes all of them half as fast, for weeks, and raises nothing.
On a CPU the same measurements run with smaller numbers and wider bounds, as other programs share it.
"""

import math
import os
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from statistics import median_low

import psutil
import torch
import torch.distributed as dist

from stages.training.agreement import WorkerRank, gather_texts
from stages.training.watching.notices import UNFIT_NODE, Notice, Notify

MIN_WORKERS = 3  # of fewer, nobody can say which one is unusual; only the clocks of two are compared
DISK_BYTES = 2 * 2**20
PATTERN_BYTES = 64 * 2**20  # of the device's memory, written and read back
CLOCK_LIMIT_S = 2.0  # leases, logs and certificates bear less
MEMORY_SHARE = 0.9  # of the median; less is a device that others use too, or another model


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much a kind of device is made to do, and how much slower than the median one may be."""

    matrix: int  # rows and columns
    products: int
    link_bytes: int
    slower: float  # than the median, as a factor
    least_s: float  # a measurement shorter than this says nothing


GPU = Sizes(matrix=8192, products=8, link_bytes=64 * 2**20, slower=1.3, least_s=0.001)
CPU = Sizes(matrix=256, products=4, link_bytes=2**18, slower=8.0, least_s=0.1)


@dataclass(frozen=True, kw_only=True)
class Measurements:
    """Of one worker."""

    matmul_s: float
    is_exact: float  # 1: the product and the memory gave back what they must, 0: not
    memory_gib: float  # of the device, free
    link_s: float  # to send to the next worker and receive from the one before
    disk_s: float  # to write a file through to the disk and read it
    clock_s: float  # seconds since 1970, all read at the same time


@dataclass(frozen=True, kw_only=True)
class Deviation:
    """What of one worker is not as with the others."""

    rank: int
    what: str  # a sentence with the figures


def node_name() -> str:
    """As Ray names the node too."""
    return platform.node()


def report_unfit_nodes(worker: WorkerRank, folder: Path, notify: Notify) -> None:
    """Prove all nodes, and tell the driver which deviate. Called by all workers at once."""
    found = prove_nodes(worker, folder)
    nodes = gather_texts(node_name(), worker)
    for deviation in found if worker.rank == 0 else ():
        fields = {"worker": deviation.rank, "node": nodes[deviation.rank], "what": deviation.what}
        notify(Notice(kind=UNFIT_NODE, fields=fields))


def prove_nodes(worker: WorkerRank, folder: Path, *, wall_clock: Callable[[], float] = time.time) -> list[Deviation]:
    """Measure this worker and compare it with the others; the same list on all. Called by all at once.

    `folder`: on the disk that the training writes to.
    """
    sizes = GPU if worker.device.type == "cuda" else CPU
    own = measure(worker, folder, sizes, wall_clock)
    return deviations(_gather(own, worker), sizes)


def measure(
    worker: WorkerRank, folder: Path, sizes: Sizes, wall_clock: Callable[[], float] = time.time
) -> Measurements:
    matmul_s, is_right = matmul_seconds(worker.device, sizes)
    is_right = is_right and _keeps_what_is_written(worker.device, sizes)
    disk_s = _disk_seconds(folder, worker.rank)
    link_s = _link_seconds(worker, sizes)
    if worker.world_size > 1:
        dist.barrier()  # all leave it within milliseconds
    return Measurements(
        matmul_s=matmul_s,
        is_exact=float(is_right),
        memory_gib=_free_memory_gib(worker.device),
        link_s=link_s,
        disk_s=disk_s,
        clock_s=wall_clock(),
    )


def deviations(of_all: Sequence[Measurements], sizes: Sizes) -> list[Deviation]:
    """What deviates, by rank. Pure."""
    found = [
        Deviation(rank=rank, what="its device does not give back the numbers that were written or computed")
        for rank, own in enumerate(of_all)
        if not own.is_exact
    ]
    found += [
        Deviation(rank=rank, what="its disk cannot be written")
        for rank, own in enumerate(of_all)
        if math.isinf(own.disk_s)
    ]
    found += _wrong_clocks([own.clock_s for own in of_all])
    if len(of_all) >= MIN_WORKERS:
        found += _slow("its device multiplies matrices", [own.matmul_s for own in of_all], sizes)
        found += _slow("its link exchanges data", [own.link_s for own in of_all], sizes)
        found += _slow("its disk writes", [own.disk_s for own in of_all], CPU)
        usual = median_low([own.memory_gib for own in of_all])
        found += [
            Deviation(rank=rank, what=f"its device has {own.memory_gib:.1f} GiB free, the median is {usual:.1f}")
            for rank, own in enumerate(of_all)
            if own.memory_gib < MEMORY_SHARE * usual
        ]
    return sorted(found, key=lambda deviation: deviation.rank)


def matmul_seconds(device: torch.device, sizes: Sizes) -> tuple[float, bool]:
    """Seconds of some products of matrices, and whether one with a known result is right."""
    is_cuda = device.type == "cuda"
    kind = torch.bfloat16 if is_cuda else torch.float32
    ones = torch.ones(sizes.matrix, sizes.matrix, dtype=kind, device=device)
    halves = ones * 0.5
    product = ones @ halves  # the first one loads libraries; every sum is exact in any order
    _synchronize(device)
    began = time.perf_counter()
    for _ in range(sizes.products):
        torch.matmul(ones, halves, out=product)
    _synchronize(device)
    elapsed_s = time.perf_counter() - began
    return elapsed_s, bool((product == sizes.matrix / 2).all())


def _keeps_what_is_written(device: torch.device, sizes: Sizes) -> bool:
    count = (PATTERN_BYTES if device.type == "cuda" else sizes.link_bytes) // 8
    pattern = torch.arange(count, dtype=torch.int64, device=device) * 0x5851F42D4C957F2D
    copy = pattern.clone()
    return bool(torch.equal(copy, pattern)) and int(copy[-1]) == _wrapped((count - 1) * 0x5851F42D4C957F2D)


def _wrapped(number: int) -> int:
    """As a signed integer of 64 bits."""
    low = number & (2**64 - 1)
    return low - 2**64 if low >= 2**63 else low


def _link_seconds(worker: WorkerRank, sizes: Sizes) -> float:
    if worker.world_size == 1:
        return 0.0
    sent = torch.zeros(sizes.link_bytes, dtype=torch.uint8, device=worker.device)
    received = torch.empty_like(sent)
    following, before = (worker.rank + 1) % worker.world_size, (worker.rank - 1) % worker.world_size
    elapsed_s = 0.0
    for _ in range(2):  # the first one makes the connection
        dist.barrier()
        _synchronize(worker.device)
        began = time.perf_counter()
        operations = [dist.P2POp(dist.isend, sent, following), dist.P2POp(dist.irecv, received, before)]
        for request in dist.batch_isend_irecv(operations):
            request.wait()
        _synchronize(worker.device)
        elapsed_s = time.perf_counter() - began
    return elapsed_s


def _disk_seconds(folder: Path, rank: int) -> float:
    path, content = folder / f"proof-{rank}", os.urandom(DISK_BYTES)
    began = time.perf_counter()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        path.read_bytes()
        return time.perf_counter() - began
    except OSError:  # full, or read-only: judged with the others
        return math.inf
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _free_memory_gib(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0]) / 2**30
    return float(psutil.virtual_memory().total) / 2**30  # what is free changes with everything that runs here


def _slow(what: str, seconds: Sequence[float], sizes: Sizes) -> list[Deviation]:
    usual_s = median_low(list(seconds))
    limit_s = max(sizes.least_s, sizes.slower * usual_s)
    return [
        Deviation(rank=rank, what=f"{what} in {found_s:.3g} s, the median is {usual_s:.3g} s")
        for rank, found_s in enumerate(seconds)
        if limit_s < found_s < math.inf
    ]


def _wrong_clocks(clocks: Sequence[float]) -> list[Deviation]:
    usual_s = median_low(list(clocks))
    return [
        Deviation(rank=rank, what=f"its clock is {found_s - usual_s:+.1f} s off the others")
        for rank, found_s in enumerate(clocks)
        if abs(found_s - usual_s) > CLOCK_LIMIT_S
    ]


def _gather(own: Measurements, worker: WorkerRank) -> list[Measurements]:
    if worker.world_size == 1:
        return [own]
    values = torch.tensor(astuple(own), dtype=torch.float64, device=worker.device)
    of_all = [torch.zeros_like(values) for _ in range(worker.world_size)]
    dist.all_gather(of_all, values)
    names = tuple(Measurements.__dataclass_fields__)
    return [Measurements(**dict(zip(names, found, strict=True))) for found in torch.stack(of_all).tolist()]


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
