"""How steps were spread over workers is kept with the checkpoints, without repetitions and without undone steps."""

from pathlib import Path

import pytest

from orchestrator.stage import Checkpoint
from stages.training.spreads import SPREADS, Spread, add_spread, spreads_of, spreads_to_json


def spread(from_step: int, workers: int) -> Spread:
    return Spread(from_step=from_step, workers=workers, strategy="ddp")


TWO, FOUR = spread(0, 2), spread(20, 4)


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        ((), TWO, (TWO,)),
        ((TWO,), spread(20, 2), (TWO,)),  # a restart on as many workers
        ((TWO,), FOUR, (TWO, FOUR)),
        ((TWO, FOUR), spread(40, 2), (TWO, FOUR, spread(40, 2))),
        ((TWO, FOUR), spread(20, 2), (TWO,)),  # the four workers finished no step that is kept
        ((TWO,), spread(0, 8), (spread(0, 8),)),
    ],
)
def test_spreads_follow_the_steps(before: tuple[Spread, ...], now: Spread, expected: tuple[Spread, ...]) -> None:
    assert add_spread(before, now) == expected


def test_spreads_are_read_from_a_checkpoint() -> None:
    meta = {"step": 40, SPREADS: spreads_to_json((TWO, FOUR))}
    assert spreads_of(Checkpoint(step=40, path=Path(), meta=meta)) == (TWO, FOUR)
    assert spreads_of(Checkpoint(step=40, path=Path(), meta={"step": 40})) == ()
