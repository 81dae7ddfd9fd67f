"""Seeds of micro-batches."""

from hypothesis import given
from hypothesis import strategies as st

from stages.training.program import micro_batch_seed


def test_every_position_in_the_data_has_its_own_seed() -> None:
    seeds = {micro_batch_seed(seed, step, index) for seed in range(5) for step in range(50) for index in range(8)}
    assert len(seeds) == 5 * 50 * 8
    assert all(0 <= seed < 2**63 for seed in seeds)


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**40), st.integers(0, 2**20))
def test_a_seed_fits_into_63_bits_whatever_it_is_made_from(seed: int, step: int, index: int) -> None:
    assert 0 <= micro_batch_seed(seed, step, index) < 2**63
