"""How the steps of a training were spread over workers: recorded with each checkpoint and with the result.

Never identity. Two results of one identity have equal digests if they were spread alike; else they agree within a
tolerance, as sums are taken in another order.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from orchestrator.artifact import JSON
from orchestrator.stage import Checkpoint

SPREADS = "spreads"  # key in the facts of a checkpoint and in the provenance of an artifact
_SHARED = "sequence_workers"


@dataclass(frozen=True, kw_only=True)
class Spread:
    """From one step on: the number of workers, the strategy that spreads the model over them, and how many of them
    share each row.
    """

    from_step: int
    workers: int
    strategy: str
    sequence_workers: int = 1


def add_spread(before: Sequence[Spread], spread: Spread) -> tuple[Spread, ...]:
    """The spreads of all steps once training goes on with `spread`; a restart on as many workers adds none."""
    kept = tuple(item for item in before if item.from_step < spread.from_step)
    is_same = kept and replace(kept[-1], from_step=spread.from_step) == spread
    return kept if is_same else (*kept, spread)


def spreads_to_json(spreads: Sequence[Spread]) -> list[JSON]:
    """Of workers that share no rows, as it was recorded before they could."""
    written = [asdict(spread) for spread in spreads]
    return [{key: value for key, value in item.items() if key != _SHARED or value > 1} for item in written]


def spreads_of(checkpoint: Checkpoint) -> tuple[Spread, ...]:
    """As recorded with the checkpoint; empty for one of before they were recorded."""
    found = checkpoint.meta.get(SPREADS)
    return tuple(
        Spread(
            from_step=int(str(item["from_step"])),
            workers=int(str(item["workers"])),
            strategy=str(item["strategy"]),
            sequence_workers=int(str(item.get(_SHARED, 1))),
        )
        for item in (found if isinstance(found, list) else ())
        if isinstance(item, dict)
    )
