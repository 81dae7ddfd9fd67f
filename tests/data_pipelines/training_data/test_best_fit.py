"""Packing by best fit in windows: every sample whole and once, rows never over-full, the same from any row on."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.training_data import best_fit
from data_pipelines.training_data.best_fit import WINDOW, WindowPlan, pack_window
from data_pipelines.training_data.packing import Integers, PackPlan
from tests.data_pipelines.training_data.test_packing import ROW, endless, streams


@settings(max_examples=80, deadline=None)
@given(lengths=st.lists(st.integers(0, ROW), max_size=200))
def test_a_window_places_every_sample_once_and_no_row_is_over_full(lengths: list[int]) -> None:
    packed = pack_window(np.array(lengths, dtype=np.int64), ROW)
    used = [0] * packed.num_rows
    for length, row in zip(lengths, packed.rows.tolist(), strict=True):
        assert (row == -1) == (length == 0)
        if length:
            used[row] += length
    assert all(0 < tokens <= ROW for tokens in used)
    first = [packed.rows.tolist().index(row) for row in range(packed.num_rows)]
    assert first == sorted(first)
    assert packed.num_rows <= sum(lengths) * 11 / 9 / ROW + 2  # what best fit decreasing guarantees, about


@settings(max_examples=40, deadline=None)
@given(lengths=streams, row=st.integers(0, 200))
def test_a_plan_continues_the_same_from_any_row(lengths: list[int], row: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(best_fit, "WINDOW", 16)
        whole = WindowPlan(endless(lengths), ROW)
        resumed = WindowPlan(endless(lengths), ROW, start=whole.start_of(row))
        for number in range(row, row + 5):
            positions = whole.positions(number)
            assert resumed.positions(number).tolist() == positions.tolist()
            trained = [position for position in positions.tolist() if endless(lengths)(position, position + 1)[0]]
            assert resumed.rows_of(trained).tolist() == [number] * len(trained)
            assert positions.max() < whole.stop(number)
        if row:
            with pytest.raises(ValueError, match="starts at row"):
                resumed.positions(row - 1)


def test_the_rows_of_a_training_that_began_before_stay_as_they_are() -> None:
    plan = WindowPlan(endless([number * 37 % 51 for number in range(51)]), ROW)
    around_windows = [0, 1, 1_022, 1_023, 1_024, 1_025, 2_047, 2_048, 2_049, 5_000, 40_000]
    assert plan.rows_of(around_windows).tolist() == [0, 0, 511, 510, 512, 513, 1022, 1024, 1025, 2504, 20025]
    assert [plan.start_of(row).position for row in (0, 1, 500, 501, 502, 1_000, 9_000)] == [
        1,
        2,
        990,
        991,
        992,
        1998,
        17975,
    ]


def test_a_sample_longer_than_a_row_is_refused() -> None:
    with pytest.raises(ValueError, match="51 tokens in rows of 50"):
        WindowPlan(endless([51]), ROW).positions(0)


def test_a_stream_in_which_everything_is_left_out_ends_with_an_error() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(best_fit, "MAX_EMPTY_WINDOWS", 4)
        with pytest.raises(ValueError, match="nearly all are left out"):
            WindowPlan(endless([0]), ROW).positions(0)


def like_stage(mean_text: float, images: list[int], shares: list[float]) -> Integers:
    """Lengths of a mixture: blocks of images of fixed length, and texts of lognormal length."""
    random = np.random.default_rng(5)
    text = np.exp(random.normal(np.log(mean_text), 0.8, 20 * WINDOW)).astype(np.int64) + 4
    return np.minimum(text + random.choice(images, len(text), p=shares), 4_096)


# Blocks of 512 x 512: 1,348 codes with marks; input features of 361 + 1,024 positions. Stage 3 has mixed sizes.
STAGES = {
    "2.5": like_stage(120, [0, 1_400, 1_460, 2_860], [1 / 6, 1 / 3, 1 / 3, 1 / 6]),
    "3": like_stage(150, [0, 700, 1_100, 1_460, 2_600], [1 / 6, 0.2, 0.2, 4 / 15, 1 / 6]),
}


@pytest.mark.parametrize("stage", STAGES)
def test_less_than_three_per_cent_is_padding_in_long_rows(stage: str) -> None:
    lengths, row_tokens, num_rows = STAGES[stage], 16_384, 1_200

    def read(start: int, stop: int) -> Integers:
        return lengths[np.arange(start, stop) % len(lengths)]

    def used(plan: WindowPlan | PackPlan) -> float:
        tokens = sum(int(read(0, plan.stop(num_rows))[plan.positions(row)].sum()) for row in range(0, num_rows, 7))
        return tokens / (len(range(0, num_rows, 7)) * row_tokens)

    assert used(WindowPlan(read, row_tokens)) > 0.97 > used(PackPlan(read, row_tokens))
