"""Seeds of micro-batches, and outputs of passes as plain tensors."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from stages.training.program import PassOutput, Sum, micro_batch_seed


def test_every_position_in_the_data_has_its_own_seed() -> None:
    seeds = {micro_batch_seed(seed, step, index) for seed in range(5) for step in range(50) for index in range(8)}
    assert len(seeds) == 5 * 50 * 8
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_seed_is_the_same_in_every_version() -> None:
    """Another one would silently change every training that continues."""
    assert micro_batch_seed(1, 0, 0) == 0xE220A8397B1DCDAF >> 1  # the first output of SplitMix64 seeded with 0
    assert [micro_batch_seed(*position) for position in ((5, 0, 1), (5, 1, 0), (7, 123_456, 31))] == PINNED


PINNED = [4_373_365_172_756_170_687, 1_812_625_897_064_547_318, 9_170_116_572_874_030_921]


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**40), st.integers(0, 2**20))
def test_a_seed_fits_into_63_bits_whatever_it_is_made_from(seed: int, step: int, index: int) -> None:
    assert 0 <= micro_batch_seed(seed, step, index) < 2**63


def test_what_a_pass_returns_survives_the_way_as_plain_tensors() -> None:
    """FSDP and DDP pass on tensors only; a metric's weight may be a number or a tensor."""
    of_samples = torch.tensor([[[4.0, 2.0]], [[3.0, 1.0]]])
    metrics = {
        "by_number": Sum(torch.tensor(2.0), 3),
        "by_tensor": Sum(torch.tensor(4.0), torch.tensor(5.0)),
        "last": Sum(torch.tensor(6.0), 7.0),
    }
    for sample_sums in (of_samples, None):
        kinds = ("text", "image") if sample_sums is not None else ()
        sent = PassOutput(loss_sum=torch.tensor(1.0), metrics=metrics, kinds=kinds, sample_sums=sample_sums)
        names, tensors = sent.flatten()
        assert all(isinstance(tensor, torch.Tensor) for tensor in tensors)
        found = PassOutput.unflatten(names, tensors)
        assert (float(found.loss_sum), found.kinds, found.sample_sums is sample_sums) == (1.0, kinds, True)
        assert {name: (float(value), float(weight)) for name, (value, weight) in found.metrics.items()} == {
            "by_number": (2.0, 3.0),
            "by_tensor": (4.0, 5.0),
            "last": (6.0, 7.0),
        }
