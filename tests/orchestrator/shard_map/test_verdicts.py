"""Hearings: an item is poison after sound failures in two processes, and nothing is known where no witness works."""

from collections.abc import Callable

import pytest

from orchestrator.shard_map.bisection import TrialFailure
from orchestrator.shard_map.verdicts import Step, StepResult, Verdict, check_process, hear

FAILS = TrialFailure(reason="ValueError: bad", signature=("ValueError", "work.py:3 in parse"))
Answer = Callable[[Step, int], TrialFailure | None]


def carry_out(suspects: list[int], answer: Answer, *, num_witnesses: int = 2) -> tuple[Verdict, list[tuple[int, Step]]]:
    """The verdict, and the steps with the process that each ran in."""
    steps, done = hear(suspects, num_witnesses), list[tuple[int, Step]]()
    result: StepResult | None = None
    try:
        while True:
            step = next(steps) if result is None else steps.send(result)
            free = next(number for number in range(1, 99) if number not in step.avoid)
            process = step.process if step.process is not None else free
            done.append((process, step))
            result = StepResult(process=process, place=f"pid {process} on node", failure=answer(step, process))
    except StopIteration as stop:
        return stop.value, done


def test_an_item_that_fails_in_two_processes_is_poison() -> None:
    verdict, done = carry_out([4, 7], lambda step, _process: FAILS if step.suspect == 7 else None)
    assert list(verdict.poison) == [7]
    assert [found.place for found in verdict.poison[7]] == ["pid 1 on node", "pid 2 on node"]
    runs = [(process, step.suspect) for process, step in done]
    for process in (1, 2):  # the witness works before and after it
        at = runs.index((process, 7))
        assert runs[at - 1] == runs[at + 1] == (process, None)


@pytest.mark.parametrize("only_in", [1, 2])
def test_an_item_that_fails_in_one_process_only_is_not(only_in: int) -> None:
    verdict, _ = carry_out([7], lambda step, process: FAILS if step.suspect == 7 and process == only_in else None)
    assert verdict.poison == {}
    assert verdict.unsound is None


def test_failures_in_a_process_without_a_working_witness_do_not_count() -> None:
    verdict, done = carry_out([7], lambda _step, process: FAILS if process == 1 else None)
    assert verdict.poison == {}
    assert verdict.broken == {1}
    assert (1, 7) not in [(process, step.suspect) for process, step in done]


def test_where_no_process_works_on_a_witness_nothing_is_known() -> None:
    verdict, done = carry_out([7], lambda _step, _process: FAILS)
    assert verdict.unsound == FAILS
    assert verdict.poison == {}
    assert {process for process, _ in done} == {1, 2}


def test_a_second_witness_is_asked_if_the_first_fails() -> None:
    def answer(step: Step, _process: int) -> TrialFailure | None:
        return FAILS if step.suspect == 7 or (step.suspect is None and step.witness == 0) else None

    verdict, _ = carry_out([7], answer)
    assert [found.witness for found in verdict.poison[7]] == [1, 1]


def test_a_failure_during_a_short_outage_does_not_count() -> None:
    away = iter([False, True, True, False, False, False, False])  # the first suspect and the witness after it fail

    verdict, _ = carry_out([7], lambda _step, _process: FAILS if next(away, False) else None)
    assert verdict.poison == {}
    assert verdict.broken == set()


def test_a_process_is_sound_if_one_witness_works_in_it() -> None:
    def ask(failures: list[TrialFailure | None]) -> bool:
        steps, result = check_process(3, 2), None
        try:
            for failure in (None, *failures):
                step = next(steps) if result is None else steps.send(result)
                assert step.process == 3
                result = StepResult(process=3, place="", failure=failures.pop(0) if failures else failure)
            steps.send(result)
        except StopIteration as stop:
            return bool(stop.value)
        raise AssertionError("it asks for more than two witnesses")

    assert ask([FAILS, None])
    assert not ask([FAILS, FAILS])
