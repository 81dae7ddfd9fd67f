"""How the steps of a training were spread over workers: recorded with each checkpoint and with the result.

Never identity. Two results of one identity have equal digests if they were spread alike; else they agree within a
tolerance, as sums are taken in another order.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from orchestrator.artifact import JSON
from orchestrator.stage import Checkpoint

SPREADS = "spreads"  # key in the facts of a checkpoint and in the provenance of an artifact


@dataclass(frozen=True, kw_only=True)
class Spread:
    """From one step on: the number of workers, and the strategy that spreads the model over them."""

    from_step: int
    workers: int
    strategy: str


def add_spread(before: Sequence[Spread], spread: Spread) -> tuple[Spread, ...]:
    """The spreads of all steps once training goes on with `spread`; a restart on as many workers adds none."""
    kept = tuple(item for item in before if item.from_step < spread.from_step)
    is_same = kept and (kept[-1].workers, kept[-1].strategy) == (spread.workers, spread.strategy)
    return kept if is_same else (*kept, spread)


def spreads_to_json(spreads: Sequence[Spread]) -> list[JSON]:
    return [asdict(spread) for spread in spreads]


def spreads_of(checkpoint: Checkpoint) -> tuple[Spread, ...]:
    """As recorded with the checkpoint; empty for one of before they were recorded."""
    found = checkpoint.meta.get(SPREADS)
    return tuple(
        Spread(from_step=int(str(item["from_step"])), workers=int(str(item["workers"])), strategy=str(item["strategy"]))
        for item in (found if isinstance(found, list) else ())
        if isinstance(item, dict)
    )
