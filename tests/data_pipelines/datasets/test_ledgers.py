"""Ids become numbers as Python's own reading makes them, and random choices from them are even."""

import hashlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.datasets.ledgers import id_prefixes, ranks, sorted_unique

IDS = st.lists(st.binary(min_size=32, max_size=32).map(bytes.hex), max_size=30)


@settings(deadline=None)
@given(IDS, st.integers(0, 5))
def test_ids_are_read_as_python_reads_them(ids: list[str], begin: int) -> None:
    column = pa.chunked_array([pa.array(ids[:7], pa.string()), pa.array(ids[7:], pa.string())]).slice(begin)
    expected = [int(sample_id[:16], 16) for sample_id in ids[begin:]]
    assert id_prefixes(column).tolist() == expected
    assert sorted_unique(id_prefixes(column)).tolist() == sorted(set(expected))


@pytest.mark.parametrize("wrong", ["", "a" * 63, "g" * 64, "A" * 64, "\u00e9" * 32, None])
def test_what_is_no_id_is_refused(wrong: str | None) -> None:
    with pytest.raises(ValueError, match="not 64 digits"):
        id_prefixes(pa.array(["0" * 64, wrong], pa.string()))


def test_a_choice_by_rank_is_even_and_another_one_for_each_salt() -> None:
    prefixes = np.arange(100_000, dtype=np.uint64) << np.uint64(40)  # as regular as ids never are
    chosen = [set(np.argsort(ranks(prefixes, salt))[:1000].tolist()) for salt in (1, 2)]
    for places in chosen:
        tenths = np.bincount(np.array(sorted(places)) // 10_000, minlength=10)
        assert tenths.min() > 50  # of 100 on average
    assert len(chosen[0] & chosen[1]) < 100  # 10 on average
    real = [int(hashlib.sha256(bytes([number])).hexdigest()[:16], 16) for number in range(200)]
    assert len(set(ranks(np.array(real, np.uint64), 3).tolist())) == 200
