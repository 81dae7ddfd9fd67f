"""Which numbers of workers can be divided into groups that hold a copy of a model, or compute rows, together."""

import math
from collections.abc import Iterable, Iterator

from orchestrator.errors import PrecheckError


def check_mesh(workers: int, shard_workers: int) -> None:
    """Raises: PrecheckError if the workers cannot be divided into groups that hold one copy each."""
    if shard_workers and workers % shard_workers:
        below = max(size for size in divisors(workers) if size <= shard_workers)
        raise PrecheckError(
            f"execution.shard_workers: {shard_workers} does not divide {workers} workers; set it to {below}, or "
            f"resources.workers to {workers - workers % shard_workers or shard_workers}"
        )


def check_sequence_workers(sequence_workers: int, *, workers: Iterable[int], num_heads: int, row_tokens: int) -> None:
    """`workers`: numbers of them that the training may have.

    Raises: PrecheckError: they cannot be divided into groups, or what they compute not among a group.
    """
    for count in workers:
        if count % sequence_workers:
            below = _common_divisor(sequence_workers, count, num_heads, row_tokens)
            raise PrecheckError(
                f"execution.sequence_workers: {sequence_workers} does not divide {count} workers; set it to {below}, "
                f"or resources.workers to {count - count % sequence_workers or sequence_workers}"
            )
    for amount, what in ((num_heads, "attention heads"), (row_tokens, "tokens of a row (data.row_tokens)")):
        if amount % sequence_workers:
            below = _common_divisor(sequence_workers, *workers, num_heads, row_tokens)
            raise PrecheckError(
                f"execution.sequence_workers: {sequence_workers} does not divide the {amount:,} {what}; set it to "
                f"{below}"
            )


def check_micro_batches(micro_batches: int, workers: int, sequence_workers: int) -> None:
    """Raises: ValueError if some worker would have no micro-batch of a step."""
    if micro_batches < workers // sequence_workers:
        raise ValueError(
            f"micro_batches_per_step: {micro_batches} micro-batches leave some of {workers} workers without work; set "
            f"resources.workers to at most {micro_batches * sequence_workers}"
        )


def _common_divisor(limit: int, *amounts: int) -> int:
    """The largest that is not above a limit."""
    return max(size for size in divisors(math.gcd(*amounts)) if size <= limit)


def divisors(number: int) -> Iterator[int]:
    return (size for size in range(1, number + 1) if not number % size)
