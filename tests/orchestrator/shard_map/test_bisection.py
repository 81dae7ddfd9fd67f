"""Bisection of a failing shard finds exactly the items at fault."""

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.shard_map.bisection import Trial, TrialFailure, all_same_failure, evenly_spaced, find_failing_items

RAISES = TrialFailure(reason="ValueError: bad", signature=("ValueError", "work.py:3 in parse"))
DIES = TrialFailure(reason="dies", signature=("died", ""), died=True)


def bisect(num_items: int, fails: Callable[[Trial], bool], failure: TrialFailure) -> tuple[set[int], list[Trial]]:
    steps, trials = find_failing_items(num_items), []
    answer: TrialFailure | None = None
    try:
        while True:
            trial = steps.send(answer if trials else None)
            trials.append(trial)
            answer = failure if fails(trial) else None
    except StopIteration as stop:
        return set(stop.value), trials


cases = st.integers(1, 200).flatmap(
    lambda size: st.tuples(st.just(size), st.sets(st.integers(0, size - 1), max_size=6))
)


@given(cases, st.sampled_from([RAISES, DIES]))
def test_exactly_the_bad_items_are_found(case: tuple[int, set[int]], failure: TrialFailure) -> None:
    size, bad = case
    found, trials = bisect(size, lambda trial: bool(bad.intersection(trial)), failure)
    assert found == bad
    depth = math.ceil(math.log2(size)) if size > 1 else 1
    assert len(trials) <= 2 + len(bad) * (2 * depth + 1)


def test_a_death_that_does_not_repeat_blames_no_item() -> None:
    steps = find_failing_items(1)
    assert next(steps) == (0,)
    assert steps.send(DIES) == (0,)
    with pytest.raises(StopIteration) as stop:
        steps.send(None)
    assert stop.value.value == {}


def test_items_that_only_fail_together_are_not_found() -> None:
    found, trials = bisect(8, lambda trial: {1, 2} <= set(trial), RAISES)
    assert found == set()
    assert len(trials) < 16


@given(st.integers(0, 1000), st.integers(2, 10))
def test_evenly_spaced_positions_include_both_ends(num_items: int, wanted: int) -> None:
    chosen = evenly_spaced(num_items, wanted)
    assert len(chosen) == len(set(chosen)) == min(num_items, wanted)
    if num_items > 1:
        assert (chosen[0], chosen[-1]) == (0, num_items - 1)


def test_the_code_is_at_fault_if_every_trial_fails_with_the_same_error_at_the_same_line() -> None:
    elsewhere = TrialFailure(reason="x", signature=("ValueError", "work.py:9 in parse"))
    assert all_same_failure([RAISES, RAISES])
    assert not all_same_failure([RAISES, elsewhere])
    assert not all_same_failure([RAISES, None])
    assert not all_same_failure([])
