"""Packing: every sample whole and once, rows never over-full, the same from any row on."""

import itertools

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.training_data import packing
from data_pipelines.training_data.packing import PackedSample, PackPlan, RowStart, build_row
from models.mllm.vocabulary import IGNORED_LABEL

ROW = 50
streams = st.lists(st.integers(0, ROW), min_size=1, max_size=60).filter(any)


def endless(lengths: list[int]) -> packing.Lengths:
    return lambda start, stop: np.array(lengths)[np.arange(start, stop) % len(lengths)]


def next_fit(lengths: list[int], num_rows: int) -> list[int]:
    """The plain restatement: starts of the first rows of the endless stream."""
    starts, used, position = [0], 0, 0
    while len(starts) <= num_rows:
        length = lengths[position % len(lengths)]
        if used + length > ROW:
            starts.append(position)
            used = 0
        used += length
        position += 1
    return starts


@settings(max_examples=80, deadline=None)
@given(lengths=streams, chunk=st.integers(1, 200))
def test_rows_equal_plain_next_fit_whatever_the_chunks(lengths: list[int], chunk: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "CHUNK", chunk)
        plan = PackPlan(endless(lengths), ROW)
        expected = next_fit(lengths, 12)
        assert [plan.span(row) for row in range(12)] == list(itertools.pairwise(expected))


@settings(max_examples=60, deadline=None)
@given(lengths=streams, row=st.integers(0, 10))
def test_a_plan_continues_the_same_from_any_row(lengths: list[int], row: int) -> None:
    whole = PackPlan(endless(lengths), ROW)
    resumed = PackPlan(endless(lengths), ROW, start=whole.start_of(row))
    assert [resumed.span(row + n) for n in range(5)] == [whole.span(row + n) for n in range(5)]
    begin, end = whole.span(row + 2)
    assert resumed.rows_of([begin, end - 1]).tolist() == [row + 2, row + 2]
    if row:
        with pytest.raises(ValueError, match="starts at row"):
            resumed.span(row - 1)


def test_a_sample_longer_than_a_row_is_refused() -> None:
    with pytest.raises(ValueError, match="51 tokens in rows of 50"):
        PackPlan(endless([51]), ROW).span(0)


def test_a_stream_in_which_everything_is_left_out_ends_with_an_error() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "CHUNK", 4)
        with pytest.raises(ValueError, match="nearly all are left out"):
            PackPlan(endless([0]), ROW, start=RowStart(row=0, position=0)).span(0)


def packed(ids: list[int]) -> PackedSample:
    return PackedSample(ids=np.array(ids), labels=np.array(ids) * 10, images=[np.full((3, 1, 1), ids[0], np.float32)])


def test_a_row_keeps_its_samples_apart() -> None:
    row = build_row([packed([5, 6, 7]), packed([8, 9])], row_tokens=7, pad_id=1)
    assert row.ids.tolist() == [5, 6, 7, 8, 9, 1, 1]
    assert row.labels.tolist() == [IGNORED_LABEL, 60, 70, IGNORED_LABEL, 90, IGNORED_LABEL, IGNORED_LABEL]
    assert row.positions.tolist() == [0, 1, 2, 0, 1, 0, 0]
    assert row.segments.tolist() == [1, 1, 1, 2, 2, 0, 0]
    assert [float(image[0, 0, 0]) for image in row.images] == [5.0, 8.0]
    assert row.num_tokens == 5
    with pytest.raises(ValueError, match="do not fit"):
        build_row([packed([1, 2, 3])], row_tokens=2, pad_id=0)


def test_positions_before_the_start_of_a_plan_are_refused_and_its_first_is_not() -> None:
    plan = PackPlan(endless([20]), ROW, start=RowStart(row=3, position=6))
    assert plan.rows_of([6, 7, 8]).tolist() == [3, 3, 4]
    assert plan.rows_of([]).tolist() == []
    assert plan.rows_of(9).tolist() == [4]
    with pytest.raises(ValueError, match="position 5: this plan starts at position 6"):
        plan.rows_of([7, 5])
    with pytest.raises(ValueError, match="row 2: this plan starts at row 3"):
        plan.span(2)
    assert plan.span(3) == (6, 8)
    assert plan.start_of(4) == RowStart(row=4, position=8)


def test_a_stretch_without_samples_has_no_rows() -> None:
    assert packing.row_starts(np.zeros(0, dtype=np.int64), ROW) == []
    assert PackPlan(endless([1]), 1).span(4) == (4, 5)
    with pytest.raises(ValueError, match="0"):
        PackPlan(endless([1]), 0)


def test_a_sample_as_long_as_a_row_fills_it() -> None:
    assert [PackPlan(endless([ROW]), ROW).span(row) for row in range(2)] == [(0, 1), (1, 2)]
    row = build_row([packed([1, 2])], row_tokens=2, pad_id=0)
    assert (row.ids.tolist(), row.num_tokens) == ([1, 2], 2)


def test_lengths_are_read_in_chunks_that_grow_up_to_a_bound() -> None:
    asked: list[int] = []

    def lengths(start: int, stop: int) -> npt.NDArray[np.int64]:
        asked.append(stop - start)
        return np.full(stop - start, ROW, dtype=np.int64)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "FIRST_CHUNK", 2)
        patch.setattr(packing, "CHUNK", 8)
        PackPlan(lengths, ROW).span(30)
    assert asked == [2, 4, 8, 8, 8, 8][: len(asked)]
    assert sum(asked) >= 31
