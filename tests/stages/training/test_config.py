"""Settings of the training loop: limits of their values, and smaller micro-batches after running out of memory."""

from typing import Any

import pytest

from stages.training.config import LoopConfig, OptimizerConfig, TrainingExecution, split_micro_batches

LOOP = LoopConfig(steps=12, micro_batches_per_step=4, seed=5)


@pytest.mark.parametrize(("size", "halvings", "parts"), [(8, 0, 1), (8, 1, 2), (8, 5, 8), (6, 3, 2), (1, 2, 1)])
def test_out_of_memory_makes_micro_batches_smaller_and_more(size: int, halvings: int, parts: int) -> None:
    loop, found = split_micro_batches(LOOP, size, halvings)
    assert found == parts
    assert loop.micro_batches_per_step == LOOP.micro_batches_per_step * parts


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps: 0 is less than 1"),
        ({"micro_batches_per_step": 0}, "micro_batches_per_step: 0 is less than 1"),
        ({"skip_window": 0}, "skip_window: 0 is less than 1"),
        ({"max_skips": -1}, "max_skips: -1 is less than 0"),
        ({"average_decay": 1.0}, r"average_decay: 1.0 is not in \[0, 1\)"),
    ],
)
def test_impossible_values_are_refused_by_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LoopConfig(**{"steps": 1, "micro_batches_per_step": 1, "seed": 0, **change})


def test_no_checkpoint_kept_is_refused() -> None:
    with pytest.raises(ValueError, match="keep_checkpoints: 0 is less than 1"):
        TrainingExecution(keep_checkpoints=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"warmup_share": 1.0}, r"warmup_share: 1\.0 is not in \[0, 1\): a share of the steps"),
        ({"final_share": 1.5}, r"final_share: 1\.5 is not in \[0, 1\]"),
        ({"betas": (0.9, 1.0)}, r"betas: \(0\.9, 1\.0\), expected each in \[0, 1\)"),
        ({"clip_norm": -1.0}, r"clip_norm: 1e-08, 0\.0, -1\.0; expected"),
        ({"eps": 0.0}, r"eps, .*: 0\.0, 0\.0, 1\.0; expected eps above 0"),
        ({"states": "bf16", "name": "muon"}, "states: bf16 with name: muon, which keeps its momentum in fp32"),
        ({"states": "bf16", "betas": (0.9, 0.999)}, r"states: bf16 .* by 0\.001 of itself.* states: fp32, or .* 0\.99"),
    ],
)
def test_a_schedule_that_cannot_be_met_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OptimizerConfig(**change)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shard_workers": 8}, "shard_workers: 8 with strategy ddp; only fsdp2 has a mesh"),
        ({"peer_checkpoints": True}, "peer_checkpoints: true without local_checkpoints, the folder"),
        ({"local_checkpoints": "copies"}, "local_checkpoints: 'copies' depends on where .* give an absolute path"),
        ({"zero_stage": 2}, "zero_stage: 2 with strategy ddp; only deepspeed has it"),
        ({"strategy": "fsdp2", "cpu_offload": True}, "cpu_offload: true with strategy fsdp2; only deepspeed has it"),
        ({"strategy": "deepspeed"}, "zero_stage: 0 with strategy deepspeed; set it to 1, 2 or 3"),
        ({"strategy": "deepspeed", "zero_stage": 4}, "zero_stage: 4 with strategy deepspeed; set it to 1, 2 or 3"),
    ],
)
def test_a_setting_of_another_strategy_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingExecution(**settings)
