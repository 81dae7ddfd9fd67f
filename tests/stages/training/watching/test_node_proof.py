"""Nodes that deviate from the others before the first step; the clocks and figures are made up."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from stages.training.agreement import WorkerRank
from stages.training.watching.node_proof import CPU, GPU, Measurements, Sizes, deviations, measure

USUAL = Measurements(matmul_s=0.02, is_exact=1.0, memory_gib=138.0, link_s=0.004, disk_s=0.05, clock_s=1_700_000_000.0)
ALONE = WorkerRank(rank=0, world_size=1, device=torch.device("cpu"))


def found(sizes: Sizes = GPU, workers: int = 4, **changed: float) -> list[tuple[int, str]]:
    of_all = [USUAL] * workers
    of_all[2 % workers] = replace(USUAL, **changed)  # type: ignore[arg-type]  # all fields are numbers
    return [(deviation.rank, deviation.what) for deviation in deviations(of_all, sizes)]


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"matmul_s": 0.03}, "its device multiplies matrices in 0.03 s, the median is 0.02 s"),
        ({"is_exact": 0.0}, "does not give back the numbers"),
        ({"memory_gib": 97.0}, "its device has 97.0 GiB free, the median is 138.0"),
        ({"link_s": 0.04}, "its link exchanges data in 0.04 s"),
        ({"disk_s": 2.0}, "its disk writes in 2 s"),
        ({"disk_s": math.inf}, "its disk cannot be written"),
        ({"clock_s": 1_700_000_037.0}, r"its clock is +37.0 s off the others"),
    ],
)
def test_what_deviates_is_named_with_its_worker(changed: dict[str, float], text: str) -> None:
    [(rank, what)] = found(**changed)
    assert rank == 2
    assert text in what


def test_nothing_is_said_of_nodes_that_are_alike() -> None:
    assert found(matmul_s=0.024, link_s=0.005, disk_s=0.09, clock_s=USUAL.clock_s + 0.3, memory_gib=137.0) == []
    assert found(CPU, matmul_s=0.09) == []  # others compute on these cores too


def test_of_two_workers_only_clocks_and_wrong_numbers_can_be_judged() -> None:
    assert found(workers=2, matmul_s=1.0) == []
    assert len(found(workers=2, clock_s=0.0)) == 1
    assert len(found(workers=1, is_exact=0.0)) == 1


def test_a_node_measures_itself(tmp_path: Path) -> None:
    own = measure(ALONE, tmp_path, CPU, lambda: 7.0)
    assert own.is_exact == 1.0
    assert own.clock_s == 7.0
    assert min(own.matmul_s, own.disk_s, own.memory_gib) > 0
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_takes_nothing_ends_no_worker(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert measure(ALONE, tmp_path / "file" / "folder", CPU).disk_s == math.inf
