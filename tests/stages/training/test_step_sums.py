"""Sums over the micro-batches of a step, and which of them are at fault."""

import torch

from stages.training.program import MicroBatch, PassOutput, Sum
from stages.training.step_sums import SampleLosses, StepSums


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
    batches = [batch(3.0, "a"), batch(1.0, "b", "c"), batch(0.0, *map(str, range(34)))]
    sums = StepSums()
    sums.add(1, batches[0], output(6.0, 4.0))
    sums.add(3, batches[1], output(float("inf"), 4.0))
    sums.add(5, batches[2], output(float("nan"), 4.0))
    lines = sums.non_finite(7, batches)
    assert lines[0] == "worker 7, micro-batch 3: loss inf, text_loss 2; samples b, c"
    assert lines[1].startswith("worker 7, micro-batch 5: text_loss 2; samples 0, 1, ")
    assert lines[1].endswith(" and 2 more")
    assert len(lines) == 2


def told_apart(*sources: int) -> tuple[MicroBatch, PassOutput]:
    """A pass that tells two samples apart: losses of two kinds, the second of which the first sample lacks."""
    micro_batch = MicroBatch(data=None, weight=6.0, seed=0, samples=("a", "b"), sources=sources)
    sample_sums = torch.tensor([[[4.0, 2.0], [3.0, 3.0]], [[0.0, 0.0], [5.0, 1.0]]])
    passed = PassOutput(loss_sum=torch.tensor(12.0), metrics={}, kinds=("text", "image"), sample_sums=sample_sums)
    return micro_batch, passed


def test_the_loss_of_each_source_is_that_of_its_samples() -> None:
    sums = StepSums(sources=("web", "book", "unseen"))
    sums.add(0, *told_apart(1, 0))
    assert sums.names == ("loss", "loss_of/book", "loss_of/unseen", "loss_of/web")
    assert sums.total().tolist() == [[12.0, 6.0], [4.0, 2.0], [0.0, 0.0], [8.0, 4.0]]
    nameless = StepSums()
    nameless.add(0, *told_apart(1, 0))
    assert nameless.names == ("loss",)


def test_each_sample_has_its_mean_losses_by_kind_and_a_micro_batch_that_tells_none_apart_its_own() -> None:
    sums = StepSums(sources=("web", "book"))
    batches = [told_apart(1, 0)[0], batch(4.0, "c"), batch(0.0, "d")]
    sums.add(2, *told_apart(1, 0))
    (found, other) = sums.sample_losses(batches[:1])
    assert found == SampleLosses(micro_batch=2, samples=("a",), losses={"text": 2.0}, source="book")
    assert other == SampleLosses(micro_batch=2, samples=("b",), losses={"text": 1.0, "image": 5.0}, source="web")
    plain = StepSums()
    plain.add(0, batches[1], PassOutput(loss_sum=torch.tensor(6.0), metrics={}))
    plain.add(1, batches[2], PassOutput(loss_sum=torch.tensor(3.0), metrics={}))  # has no weight
    assert plain.sample_losses(batches[1:]) == [
        SampleLosses(micro_batch=0, samples=("c",), losses={"loss": 1.5}),
        SampleLosses(micro_batch=1, samples=("d",), losses={"loss": 3.0}),
    ]
    assert plain.non_finite(0, batches[1:]) == []


def test_nothing_added_is_nothing() -> None:
    assert StepSums().total().shape == (0, 2)
    assert StepSums().non_finite(0, []) == []
