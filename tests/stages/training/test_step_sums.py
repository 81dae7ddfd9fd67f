"""Sums over the micro-batches of a step, and which of them are at fault."""

import torch

from stages.training.program import MicroBatch, PassOutput, Sum
from stages.training.step_sums import MAX_SAMPLES, StepSums


def batch(weight: float, *samples: str) -> MicroBatch:
    return MicroBatch(data=None, weight=weight, seed=0, samples=samples)


def output(loss: float, text: float) -> PassOutput:
    return PassOutput(loss_sum=torch.tensor(loss), metrics={"text_loss": Sum(torch.tensor(text), 2.0)})


def test_metrics_are_summed_with_their_weights() -> None:
    sums = StepSums()
    sums.add(0, batch(3.0), output(6.0, 4.0))
    sums.add(2, batch(1.0), output(1.0, 2.0))
    assert sums.names == ("loss", "text_loss")
    assert sums.total().tolist() == [[7.0, 4.0], [6.0, 4.0]]


def test_only_micro_batches_with_a_non_finite_loss_are_named_with_their_losses_by_kind() -> None:
    batches = [batch(3.0, "a"), batch(1.0, "b", "c"), batch(0.0, *map(str, range(MAX_SAMPLES + 2)))]
    sums = StepSums()
    sums.add(1, batches[0], output(6.0, 4.0))
    sums.add(3, batches[1], output(float("inf"), 4.0))
    sums.add(5, batches[2], output(float("nan"), 4.0))
    lines = sums.non_finite(7, batches)
    assert lines[0] == "worker 7, micro-batch 3: loss inf, text_loss 2; samples b, c"
    assert lines[1].startswith("worker 7, micro-batch 5: text_loss 2; samples 0, 1, ")
    assert lines[1].endswith(" and 2 more")
    assert len(lines) == 2
