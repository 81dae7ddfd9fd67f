"""Which numbers of workers can be divided into groups that hold one copy of a model each."""

from collections.abc import Iterator

from orchestrator.errors import PrecheckError


def check_mesh(workers: int, shard_workers: int) -> None:
    """Raises: PrecheckError if the workers cannot be divided into groups that hold one copy each."""
    if shard_workers and workers % shard_workers:
        below = max(size for size in divisors(workers) if size <= shard_workers)
        raise PrecheckError(
            f"execution.shard_workers: {shard_workers} does not divide {workers} workers; set it to {below}, or "
            f"resources.workers to {workers - workers % shard_workers or shard_workers}"
        )


def divisors(number: int) -> Iterator[int]:
    return (size for size in range(1, number + 1) if not number % size)
