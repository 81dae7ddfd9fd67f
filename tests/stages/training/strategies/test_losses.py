"""Every strategy on every number of workers trains the same: the tables of `stages/README.md`, in small."""

from dataclasses import replace

import pytest

from stages.training.config import TrainingExecution, WatchSettings
from tests.stages.training.strategies.pool import LOOP, Training, carry_out

WATCH = WatchSettings(every=2, verify_every=4)  # changes nothing: the steps of one worker are not verified
DDP, FSDP2 = TrainingExecution(), TrainingExecution(strategy="fsdp2", watch=WATCH)
HSDP = TrainingExecution(strategy="fsdp2", shard_workers=2, watch=WATCH)
AVERAGED = replace(LOOP, average_decay=0.9)  # an average is loaded, too; it does not change the losses
BF16 = replace(LOOP, precision="bf16")
SPREADS = {
    "ddp on 2": (DDP, 2),
    "ddp on 3": (DDP, 3),
    "fsdp2 on 2": (FSDP2, 2),
    "fsdp2 on 3": (FSDP2, 3),
    "hsdp on 2 x 2": (HSDP, 4),
}
TABLE = [
    *(
        Training(name=f"{phase}, {name}", phase=phase, execution=execution, workers=workers)
        for phase in ("stage1", "stage2", "stage3")
        for name, (execution, workers) in {"one worker": (DDP, 1), **SPREADS}.items()
        if phase == "stage3" or name in ("one worker", "fsdp2 on 2")
    ),
    *(
        Training(name=f"{program}, {name}", phase=program, execution=execution, workers=workers)
        for program in ("tokenizer", "decoder")
        for name, (execution, workers) in {"one worker": (DDP, 1), "fsdp2 on 3": (FSDP2, 3)}.items()
    ),
    Training(name="bf16, one worker", phase="stage3", workers=1, loop=BF16),
    Training(name="bf16, fsdp2 on 2", phase="stage3", workers=2, loop=BF16, execution=FSDP2),
]
CHAINS = {
    "3, 2, 1": [(FSDP2, 3), (FSDP2, 2), (FSDP2, 1)],
    "fsdp2, ddp, hsdp": [(FSDP2, 2), (DDP, 2), (HSDP, 4)],
}
PARTS = [
    Training(name=name, workers=workers, execution=execution, stop_after=stop, phase="stage1", loop=AVERAGED)
    for name, chain in CHAINS.items()
    for (execution, workers), stop in zip(chain, (0, 1, -1), strict=True)
]


@pytest.fixture(scope="module")
def losses(tmp_path_factory: pytest.TempPathFactory) -> list[list[float]]:
    return carry_out([*TABLE, *PARTS], tmp_path_factory.mktemp("trainings"))


@pytest.mark.parametrize("phase", ["stage1", "stage2", "stage3", "tokenizer", "decoder"])
def test_every_strategy_has_the_losses_of_one_worker(phase: str, losses: list[list[float]]) -> None:
    found = {
        training.name: row for training, row in zip(TABLE, losses, strict=False) if training.name.startswith(phase)
    }
    expected = found[f"{phase}, one worker"]
    assert len(set(expected)) >= LOOP.steps
    for name, row in found.items():
        assert row == pytest.approx(expected, rel=1e-5), name


def test_in_bf16_they_agree_to_a_hundredth(losses: list[list[float]]) -> None:
    found = {training.name: row for training, row in zip(TABLE, losses, strict=False)}
    assert found["bf16, fsdp2 on 2"] == pytest.approx(found["bf16, one worker"], rel=1e-2)
    assert found["bf16, one worker"] != found["stage3, one worker"]


@pytest.mark.parametrize("name", CHAINS)
def test_a_training_continues_on_other_workers_and_strategies(name: str, losses: list[list[float]]) -> None:
    """Each part loads the slices that the one before wrote, and makes the steps that an undisturbed run makes."""
    rows = [row for part, row in zip(PARTS, losses[len(TABLE) :], strict=True) if part.name == name]
    undisturbed = losses[[training.name for training in TABLE].index("stage1, one worker")]
    assert [len(row) for row in rows] == [1, 2, 1]
    assert [loss for row in rows for loss in row] == pytest.approx(undisturbed, rel=1e-5)
