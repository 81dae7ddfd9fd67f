"""A mesh that does not divide the workers is refused with the smallest change that would work."""

import pytest

from orchestrator.errors import PrecheckError
from stages.training.strategies.mesh import check_mesh


@pytest.mark.parametrize(("workers", "shard_workers"), [(1, 0), (512, 8), (8, 8), (6, 3)])
def test_groups_of_equal_size_are_fine(workers: int, shard_workers: int) -> None:
    check_mesh(workers, shard_workers)


def test_others_are_refused_with_what_would_work() -> None:
    with pytest.raises(PrecheckError, match=r"shard_workers: 8 does not divide 20 workers; set it to 5, or .* to 16"):
        check_mesh(20, 8)
    with pytest.raises(PrecheckError, match=r"shard_workers: 8 does not divide 4 workers; set it to 4, or .* to 8"):
        check_mesh(4, 8)
