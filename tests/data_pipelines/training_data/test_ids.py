"""Ids in arrays: the first of equal ones, also where digests share their first bytes."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.training_data.ids import first_of_equal


@given(values=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=40))
def test_the_first_of_equal_ids_is_found_whatever_bytes_they_share(values: list[tuple[int, int]]) -> None:
    ids = np.zeros((len(values), 32), dtype=np.uint8)
    for row, (first, last) in zip(ids, values, strict=True):
        row[0], row[31] = first, last  # the bytes between are equal: 64 bits do not tell them apart
    expected = [value not in values[:number] for number, value in enumerate(values)]
    assert first_of_equal(ids).tolist() == expected
