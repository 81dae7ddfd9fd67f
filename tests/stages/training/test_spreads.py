"""How steps were spread over workers is kept with the checkpoints, without repetitions and without undone steps."""

from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.artifact import JSON
from orchestrator.stage import Checkpoint
from stages.training.spreads import SPREADS, Spread, add_spread, spreads_of, spreads_to_json


def spread(from_step: int, workers: int) -> Spread:
    return Spread(from_step=from_step, workers=workers, strategy="ddp")


TWO, FOUR = spread(0, 2), spread(20, 4)
PAIRS = replace(FOUR, sequence_workers=2)


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        ((), TWO, (TWO,)),
        ((TWO,), spread(20, 2), (TWO,)),  # a restart on as many workers
        ((TWO,), FOUR, (TWO, FOUR)),
        ((TWO, FOUR), spread(40, 2), (TWO, FOUR, spread(40, 2))),
        ((TWO, FOUR), spread(20, 2), (TWO,)),  # the four workers finished no step that is kept
        ((TWO,), spread(0, 8), (spread(0, 8),)),
        ((FOUR,), replace(PAIRS, from_step=40), (FOUR, replace(PAIRS, from_step=40))),  # that share rows from now on
    ],
)
def test_spreads_follow_the_steps(before: tuple[Spread, ...], now: Spread, expected: tuple[Spread, ...]) -> None:
    assert add_spread(before, now) == expected


def test_spreads_are_read_from_a_checkpoint() -> None:
    meta = {"step": 40, SPREADS: spreads_to_json((TWO, FOUR))}
    assert spreads_of(Checkpoint(step=40, path=Path(), meta=meta)) == (TWO, FOUR)
    assert spreads_of(Checkpoint(step=40, path=Path(), meta={"step": 40})) == ()
    meta: dict[str, JSON] = {SPREADS: spreads_to_json((TWO, PAIRS))}
    assert [len(fields) for fields in spreads_to_json((TWO, PAIRS)) if isinstance(fields, dict)] == [3, 4]
    assert spreads_of(Checkpoint(step=40, path=Path(), meta=meta)) == (TWO, PAIRS)
