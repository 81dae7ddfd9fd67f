"""Every strategy on every number of workers trains the same: the tables of `stages/README.md`, in small."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec

import pytest

from stages.training.config import TrainingExecution, WatchSettings
from tests.stages.training.strategies.pool import LOOP, Training, carry_out

WATCH = WatchSettings(every=2, verify_every=4)  # changes nothing: the steps of one worker are not verified
DDP, FSDP2 = TrainingExecution(), TrainingExecution(strategy="fsdp2", watch=WATCH)
HSDP = TrainingExecution(strategy="fsdp2", shard_workers=2, watch=WATCH)
ZERO1, ZERO2, ZERO3 = (TrainingExecution(strategy="deepspeed", zero_stage=stage) for stage in (1, 2, 3))
OFFLOADED = TrainingExecution(strategy="deepspeed", zero_stage=2, cpu_offload=True)
HAS_DEEPSPEED = find_spec("deepspeed") is not None
needs_deepspeed = pytest.mark.skipif(
    not HAS_DEEPSPEED,
    reason="no package deepspeed: DS_BUILD_OPS=0 pip install -c constraints.txt --no-build-isolation -e '.[deepspeed]'",
)
AVERAGED = replace(LOOP, average_decay=0.9)  # an average is loaded, too; it does not change the losses
BF16 = replace(LOOP, precision="bf16")
MUON = replace(LOOP, optimizer=replace(LOOP.optimizer, name="muon"))
HALF_STATES = replace(LOOP, optimizer=replace(LOOP.optimizer, states="bf16"))
Chains = Mapping[str, Sequence[tuple[TrainingExecution, int]]]
Losses = Sequence[tuple[Training, list[float]]]
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
    Training(name="stage3, compiled fsdp2 on 2", phase="stage3", execution=FSDP2, workers=2, backend="aot_eager"),
    *(
        Training(name=f"{phase}, {name}", phase=phase, execution=execution, workers=workers, sequence_workers=shared)
        for phase, name, execution, workers, shared in (
            ("stage3", "ddp on 2 that share rows", DDP, 2, 2),
            ("stage3", "fsdp2 on 4, pairs share rows", FSDP2, 4, 2),
            ("stage2", "fsdp2 on 4 that share rows", FSDP2, 4, 4),
        )
    ),
    Training(name="bf16, one worker", phase="stage3", workers=1, loop=BF16),
    Training(name="bf16, fsdp2 on 2", phase="stage3", workers=2, loop=BF16, execution=FSDP2),
    Training(name="bf16, shared rows", phase="stage3", workers=2, loop=BF16, execution=FSDP2, sequence_workers=2),
    Training(name="bf16 states, one worker", workers=1, loop=HALF_STATES),
    Training(name="bf16 states, fsdp2, ddp", workers=2, loop=HALF_STATES, execution=FSDP2, stop_after=1),
    Training(name="bf16 states, fsdp2, ddp", workers=1, loop=HALF_STATES),
    Training(name="muon, one worker", workers=1, loop=MUON),
    Training(name="muon, ddp on 2, then 1", workers=2, loop=MUON, execution=DDP, stop_after=1),
    Training(name="muon, ddp on 2, then 1", workers=1, loop=MUON),
]
ZERO_TABLE = [
    Training(name="stage1, zero-3 on 2", phase="stage1", execution=ZERO3, workers=2),
    Training(name="stage2, zero-1 on 3", phase="stage2", execution=ZERO1, workers=3),
    Training(name="stage2, zero-3 on 2", phase="stage2", execution=ZERO3, workers=2),
    Training(name="stage3, zero-1 on 2", phase="stage3", execution=ZERO1, workers=2),
    Training(name="stage3, zero-2 on 2", phase="stage3", execution=ZERO2, workers=2),
    Training(
        name="stage3, zero-2 on 2 that share rows", phase="stage3", execution=ZERO2, workers=2, sequence_workers=2
    ),
    Training(name="stage3, zero-3 on 3", phase="stage3", execution=ZERO3, workers=3),
    Training(name="stage3, offloaded zero-2 on 1", phase="stage3", execution=OFFLOADED, workers=1),
    Training(name="stage3, offloaded zero-2 on 2", phase="stage3", execution=OFFLOADED, workers=2),
    Training(name="tokenizer, zero-3 on 2", phase="tokenizer", execution=ZERO3, workers=2),
    Training(name="decoder, zero-3 on 2", phase="decoder", execution=ZERO3, workers=2),
    Training(name="bf16, zero-3 on 2", phase="stage3", workers=2, loop=BF16, execution=ZERO3),
]
CHAINS = {
    "3, 2, 1": [(FSDP2, 3), (FSDP2, 2), (FSDP2, 1)],
    "fsdp2, ddp, hsdp": [(FSDP2, 2), (DDP, 2), (HSDP, 4)],
}
ZERO_CHAINS = {
    "fsdp2, ddp, zero-3": [(FSDP2, 2), (DDP, 2), (ZERO3, 2)],
    "zero-3, zero-2, fsdp2": [(ZERO3, 3), (ZERO2, 2), (FSDP2, 2)],
}


def parts_of(chains: Chains) -> list[Training]:
    return [
        Training(name=name, workers=workers, execution=execution, stop_after=stop, phase="stage1", loop=AVERAGED)
        for name, chain in chains.items()
        for (execution, workers), stop in zip(chain, (0, 1, -1), strict=True)
    ]


# DeepSpeed counts modules from the start of a process, and all workers must have counted as many.
ZERO = sorted([*ZERO_TABLE, *parts_of(ZERO_CHAINS)], key=lambda training: -training.workers)
TRAININGS = [*TABLE, *parts_of(CHAINS), *(ZERO if HAS_DEEPSPEED else ())]


@pytest.fixture(scope="module")
def losses(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Training, list[float]]]:
    return list(zip(TRAININGS, carry_out(TRAININGS, tmp_path_factory.mktemp("trainings")), strict=True))


def losses_of(name: str, losses: Losses) -> list[float]:
    return next(row for training, row in losses if training.name == name)


@pytest.mark.parametrize("phase", ["stage1", "stage2", "stage3", "tokenizer", "decoder"])
def test_every_strategy_has_the_losses_of_one_worker(phase: str, losses: Losses) -> None:
    expected = losses_of(f"{phase}, one worker", losses)
    assert len(set(expected)) >= LOOP.steps
    for training, row in losses:
        if training.name.startswith(phase):
            assert row == pytest.approx(expected, rel=1e-5), training.name


def test_in_bf16_they_agree_to_a_hundredth(losses: Losses) -> None:
    expected = losses_of("bf16, one worker", losses)
    for name in ("fsdp2 on 2", "shared rows"):
        assert losses_of(f"bf16, {name}", losses) == pytest.approx(expected, rel=1e-2)
    assert expected != losses_of("stage3, one worker", losses)


def test_muon_keeps_its_momentum_over_a_stop_and_has_the_losses_of_one_worker(losses: Losses) -> None:
    expected = losses_of("muon, one worker", losses)
    parts = [loss for training, row in losses if training.name == "muon, ddp on 2, then 1" for loss in row]
    assert parts == pytest.approx(expected, rel=1e-5)
    assert expected != pytest.approx(losses_of("stage2, one worker", losses), rel=1e-3)


def test_states_in_bf16_are_saved_loaded_and_sharded_as_they_are(losses: Losses) -> None:
    expected = losses_of("bf16 states, one worker", losses)
    parts = [loss for training, row in losses if training.name == "bf16 states, fsdp2, ddp" for loss in row]
    assert parts == pytest.approx(expected, rel=1e-4)  # sums in another order may round a moment to its neighbour
    in_fp32 = losses_of("stage2, one worker", losses)
    assert expected != pytest.approx(in_fp32, rel=1e-6)
    assert expected == pytest.approx(in_fp32, rel=1e-3)


@needs_deepspeed
def test_deepspeed_in_bf16_agrees_to_a_hundredth(losses: Losses) -> None:
    expected = losses_of("bf16, one worker", losses)
    found = losses_of("bf16, zero-3 on 2", losses)
    assert found == pytest.approx(expected, rel=1e-2)
    assert found != pytest.approx(losses_of("stage3, one worker", losses), rel=1e-5)  # it does compute in bf16


@pytest.mark.parametrize("name", [*CHAINS, *(pytest.param(name, marks=needs_deepspeed) for name in ZERO_CHAINS)])
def test_a_training_continues_on_other_workers_and_strategies(name: str, losses: Losses) -> None:
    """Each part loads the slices that the one before wrote, and makes the steps that an undisturbed run makes."""
    rows = [row for training, row in losses if training.name == name]
    assert [len(row) for row in rows] == [1, 2, 1]
    undisturbed = losses_of("stage1, one worker", losses)
    assert [loss for row in rows for loss in row] == pytest.approx(undisturbed, rel=1e-5)
