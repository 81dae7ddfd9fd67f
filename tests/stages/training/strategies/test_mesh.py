"""A mesh that does not divide the workers is refused with the smallest change that would work."""

import pytest

from orchestrator.errors import PrecheckError
from stages.training.strategies.mesh import check_mesh, check_sequence_workers


@pytest.mark.parametrize(("workers", "shard_workers"), [(1, 0), (512, 8), (8, 8), (6, 3)])
def test_groups_of_equal_size_are_fine(workers: int, shard_workers: int) -> None:
    check_mesh(workers, shard_workers)


def test_others_are_refused_with_what_would_work() -> None:
    with pytest.raises(PrecheckError, match=r"shard_workers: 8 does not divide 20 workers; set it to 5, or .* to 16"):
        check_mesh(20, 8)
    with pytest.raises(PrecheckError, match=r"shard_workers: 8 does not divide 4 workers; set it to 4, or .* to 8"):
        check_mesh(4, 8)


@pytest.mark.parametrize(("workers", "size"), [((1,), 1), ((64, 16), 8), ((28,), 28)])
def test_rows_are_shared_by_workers_that_divide_heads_and_tokens(workers: tuple[int, ...], size: int) -> None:
    check_sequence_workers(size, workers=workers, num_heads=28 if size == 28 else 16, row_tokens=7 * 4096)


@pytest.mark.parametrize(
    ("size", "workers", "heads", "row_tokens", "message"),
    [
        (4, (8, 6), 16, 4096, r"sequence_workers: 4 does not divide 6 workers; set it to 2, or resources.workers to 4"),
        (4, (2,), 16, 4096, r"sequence_workers: 4 does not divide 2 workers; set it to 2, or resources.workers to 4"),
        (8, (64, 8), 28, 4096, r"8 does not divide the 28 attention heads; set it to 4"),
        (8, (8,), 16, 4100, r"8 does not divide the 4,100 tokens of a row \(data.row_tokens\); set it to 4"),
    ],
)
def test_what_workers_cannot_share_is_refused_with_what_would_work(
    size: int, workers: tuple[int, ...], heads: int, row_tokens: int, message: str
) -> None:
    with pytest.raises(PrecheckError, match=message):
        check_sequence_workers(size, workers=workers, num_heads=heads, row_tokens=row_tokens)
