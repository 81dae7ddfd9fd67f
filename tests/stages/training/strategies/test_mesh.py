"""A mesh that does not divide the workers is refused with the smallest change that would work."""

import pytest

from orchestrator.errors import PrecheckError
from orchestrator.stage import Resources
from stages.training.config import TrainingExecution
from stages.training.strategies.mesh import check_mesh, check_strategy

HSDP = TrainingExecution(strategy="fsdp2", shard_workers=8)


@pytest.mark.parametrize(("workers", "shard_workers"), [(1, 0), (512, 8), (8, 8), (6, 3)])
def test_groups_of_equal_size_are_fine(workers: int, shard_workers: int) -> None:
    check_mesh(workers, shard_workers)


def test_others_are_refused_with_what_would_work() -> None:
    with pytest.raises(PrecheckError, match=r"shard_workers: 8 does not divide 20 workers; set it to 5, or .* to 16"):
        check_mesh(20, 8)
    with pytest.raises(PrecheckError, match=r"shard_workers: 8 does not divide 4 workers; set it to 4, or .* to 8"):
        check_mesh(4, 8)


def test_the_fewest_workers_of_an_elastic_training_count_too() -> None:
    check_strategy(HSDP, Resources(workers=64))
    with pytest.raises(PrecheckError, match="does not divide 12 workers"):
        check_strategy(HSDP, Resources(workers=64, min_workers=12))


def test_only_a_sharded_strategy_has_a_mesh() -> None:
    with pytest.raises(ValueError, match="shard_workers: 8 with strategy ddp; only fsdp2 has a mesh"):
        TrainingExecution(shard_workers=8)
