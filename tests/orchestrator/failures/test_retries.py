"""The retry policy: how often each class of failure is retried."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.failures.failure_class import FailureClass
from orchestrator.failures.retries import MAX_WAIT_S, GiveUp, PastFailure, Retry, backoff_s, decide
from orchestrator.stage import RetryPolicy

POLICY = RetryPolicy(attempts=3, wait_s=2.0)
LIMITED = [FailureClass.NODE_LOST, FailureClass.INFRA_TRANSIENT, FailureClass.HANG, FailureClass.GPU_OOM]
FINAL = [FailureClass.USER_CODE, FailureClass.PRECHECK, FailureClass.DATA_POISON, FailureClass.NUMERIC]


def failures(*classes: FailureClass, progressed: tuple[int, ...] = ()) -> list[PastFailure]:
    return [PastFailure(failure=failure, progressed=at in progressed) for at, failure in enumerate(classes)]


def after(history: list[PastFailure], policy: RetryPolicy = POLICY) -> Retry | GiveUp:
    return decide(history, policy, rng=random.Random(0))


@pytest.mark.parametrize("failure", LIMITED)
def test_a_limited_class_has_a_number_of_tries(failure: FailureClass) -> None:
    assert isinstance(after(failures(failure, failure)), Retry)
    answer = after(failures(failure, failure, failure))
    assert isinstance(answer, GiveUp)
    assert "3 of 3 tries" in answer.message


@pytest.mark.parametrize("failure", FINAL)
def test_failures_that_no_retry_repairs_are_not_retried(failure: FailureClass) -> None:
    answer = after(failures(failure))
    assert isinstance(answer, GiveUp)
    assert answer.message == f"{failure}: trying again would not help"


def test_each_class_has_a_budget_of_its_own() -> None:
    lost, hung = FailureClass.NODE_LOST, FailureClass.HANG
    assert isinstance(after(failures(lost, hung, lost, hung)), Retry)
    assert isinstance(after(failures(lost, hung, lost, hung, lost)), GiveUp)


def test_preemption_is_never_counted() -> None:
    assert isinstance(after(failures(*[FailureClass.PREEMPTED] * 50)), Retry)
    two_lost = [FailureClass.NODE_LOST, *[FailureClass.PREEMPTED] * 9, FailureClass.NODE_LOST]
    assert isinstance(after(failures(*two_lost)), Retry)


def test_progress_restores_the_budget_and_time_does_not() -> None:
    lost = FailureClass.NODE_LOST
    assert isinstance(after(failures(*[lost] * 20, progressed=(19,))), Retry)
    assert isinstance(after(failures(*[lost] * 20, progressed=(18,))), Retry)
    assert isinstance(after(failures(*[lost] * 20, progressed=(17,))), GiveUp)


@pytest.mark.parametrize("progressed", range(6))
def test_the_budget_starts_at_the_newest_attempt_that_made_progress(progressed: int) -> None:
    history = failures(*[FailureClass.NODE_LOST] * 6, progressed=(0, progressed))
    assert isinstance(after(history), Retry) == (6 - progressed < POLICY.attempts)


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (FailureClass.NODE_LOST, "try 2 of 3"),
        (FailureClass.GPU_OOM, "try 2 of 3, with half as much in memory at once"),
        (FailureClass.HOST_OOM, "try 2 of 3, with half as much in memory at once"),
        (FailureClass.PREEMPTED, "not counted: the node was preempted"),
        (FailureClass.CAPACITY, "not counted: the resources are not available now"),
        (FailureClass.UNKNOWN, "once, in case the infrastructure failed"),
    ],
)
def test_a_retry_says_why_and_what_is_left(failure: FailureClass, reason: str) -> None:
    answer = after(failures(failure))
    assert isinstance(answer, Retry)
    assert answer.reason == reason


def test_the_wait_grows_with_the_failures_of_the_same_class() -> None:
    lost, hung = FailureClass.NODE_LOST, FailureClass.HANG
    for history in (failures(lost), failures(hung, lost), failures(lost, hung, lost)):
        answer = after(history)
        assert isinstance(answer, Retry)
        num_same = sum(past.failure is lost for past in history)
        assert answer.wait_s == backoff_s(num_same, POLICY.wait_s, rng=random.Random(0))


def test_an_unknown_error_is_retried_once_and_then_blamed_on_the_code() -> None:
    unknown = FailureClass.UNKNOWN
    assert isinstance(after(failures(unknown)), Retry)
    again = after(failures(unknown, unknown))
    assert isinstance(again, GiveUp)
    assert again.message == "unknown: it happened again"
    assert isinstance(after(failures(unknown), RetryPolicy(attempts=2)), Retry)
    only_one = after(failures(unknown), RetryPolicy(attempts=1))
    assert isinstance(only_one, GiveUp)
    mistake = after(failures(FailureClass.USER_CODE), RetryPolicy(attempts=1))
    assert isinstance(mistake, GiveUp)
    assert mistake.message == "user_code: trying again would not help"
    assert only_one.message == "unknown: 1 of 1 tries used without progress in between"


def test_out_of_memory_halves_the_work_in_memory_each_time() -> None:
    oom, lost = FailureClass.GPU_OOM, FailureClass.NODE_LOST
    first = after(failures(oom))
    assert isinstance(first, Retry)
    assert first.memory_halvings == 1
    later = after(failures(oom, lost, oom, lost, progressed=(3,)))
    assert isinstance(later, Retry)
    assert later.memory_halvings == 2  # progress does not make the memory larger


def test_a_wait_is_five_minutes_at_most_and_half_of_that_at_least() -> None:
    class Fixed(random.Random):
        def __init__(self, value: float) -> None:
            super().__init__()
            self.value = value

        def random(self) -> float:
            return self.value

    assert [backoff_s(40, 100.0, rng=Fixed(value)) for value in (0.0, 0.5, 1.0)] == [150.0, 225.0, 300.0]
    assert [backoff_s(failures, 10.0, rng=Fixed(1.0)) for failures in (1, 2, 3)] == [10.0, 20.0, 40.0]


@given(st.integers(1, 2000), st.floats(0.01, 100.0), st.integers())
def test_backoff_doubles_up_to_its_bound_with_jitter(count: int, first_s: float, seed: int) -> None:
    wait_s = backoff_s(count, first_s, rng=random.Random(seed))
    full = MAX_WAIT_S if count > 30 else min(first_s * 2.0 ** (count - 1), MAX_WAIT_S)
    assert full / 2 <= wait_s <= full


@given(st.lists(st.sampled_from(LIMITED), min_size=1, max_size=20))
def test_without_progress_the_tries_are_bounded(classes: list[FailureClass]) -> None:
    kept_on = [isinstance(after(failures(*classes[: end + 1])), Retry) for end in range(len(classes))]
    if all(kept_on):
        assert len(classes) <= len(LIMITED) * (POLICY.attempts - 1)
