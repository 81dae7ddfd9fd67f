"""Histograms hold every value once, whatever lies outside, and scores are read as a plain parser reads them."""

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.audit.histograms import EDGES, Histogram, add_to_histograms, empty_histograms, score_columns
from tests.data_pipelines.ledger_rows import ledger_row

VALUES = st.lists(st.tuples(st.floats(allow_infinity=False), st.booleans()), max_size=200)


@settings(deadline=None)
@given(VALUES, st.sampled_from(sorted(EDGES)))
def test_every_number_is_counted_once_where_it_belongs(values: list[tuple[float, bool]], name: str) -> None:
    histogram = Histogram(edges=EDGES[name])
    for part in (values[::2], values[1::2]):
        histogram.add(np.array([value for value, _ in part]), np.array([kept for _, kept in part], dtype=np.bool_))
    expected = {True: [0] * (len(EDGES[name]) - 1), False: [0] * (len(EDGES[name]) - 1)}
    for value, kept in values:
        if not np.isnan(value):
            below = sum(edge <= value for edge in EDGES[name])
            expected[kept][min(max(below - 1, 0), len(EDGES[name]) - 2)] += 1
    assert histogram.kept.tolist() == expected[True]
    assert histogram.not_kept.tolist() == expected[False]


SCORES = st.dictionaries(
    st.sampled_from(["entropy", "sharpness", "contrast", "frames", "another"]), st.floats(-1e6, 1e6), max_size=5
)


@settings(deadline=None)
@given(st.lists(st.none() | SCORES, max_size=40))
def test_scores_are_those_of_a_plain_parser(rows: list[dict[str, float] | None]) -> None:
    column = pa.chunked_array([pa.array([None if row is None else json.dumps(row) for row in rows], pa.string())])
    found = score_columns(column)
    for name, values in found.items():
        expected = [(row or {}).get(name, np.nan) for row in rows]
        np.testing.assert_allclose(values, expected, rtol=1e-12)


def test_scores_that_are_no_objects_are_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        score_columns(pa.chunked_array([["{}", "[1"]]))


def test_kept_and_other_rows_are_counted_apart_and_half_lies_below_the_median() -> None:
    rows = [ledger_row(number, width=100 + number) for number in range(10)]
    rows += [ledger_row(20, verdict="drop", width=None, height=None, image_bytes=None, caption=None, scores="{}")]
    table = pa.Table.from_pylist(rows)
    histograms = empty_histograms()
    add_to_histograms(table, histograms)
    assert int(histograms["width"].kept.sum()) == histograms["width"].total == 10
    assert int(histograms["caption"].not_kept.sum()) == 1  # a missing caption has length 0
    assert histograms["entropy"].total == 10
    assert 104 <= histograms["width"].median() <= 128
