"""Workers compared with one another: what becomes a metric, and who is named as slow."""

import pytest

from stages.training.watching.workers_compared import Stragglers, WorkerFigures, compared_metrics


def figures(*own_s: float) -> list[WorkerFigures]:
    return [WorkerFigures(own_s=found, data_wait_s=found / 10, memory_gib=1.0 + found) for found in own_s]


def test_the_metrics_are_the_median_the_slowest_and_the_most() -> None:
    assert compared_metrics(figures(0.4, 0.9, 0.5)) == {
        "workers/own_step_s_median": 0.5,
        "workers/own_step_s_slowest": 0.9,
        "workers/slowest": 1.0,
        "workers/data_wait_s_most": pytest.approx(0.09),
        "workers/memory_gib_most": 1.9,
    }


def test_a_worker_is_named_once_when_it_was_slow_for_the_whole_window() -> None:
    stragglers = Stragglers(share=0.25, window=3)
    slow = figures(0.4, 0.4, 0.6, 0.41)
    assert [stragglers.judge(slow) for _ in range(5)] == [[], [], [2], [], []]


def test_one_good_comparison_begins_the_window_anew() -> None:
    stragglers = Stragglers(share=0.25, window=2)
    slow, good = figures(0.4, 0.6, 0.4), figures(0.4, 0.4, 0.4)
    assert [stragglers.judge(found) for found in (slow, good, slow, slow, good, slow, slow)] == [
        [], [], [], [1], [], [], [1],
    ]  # fmt: skip


def test_two_workers_cannot_be_judged_and_milliseconds_do_not_matter() -> None:
    assert Stragglers(share=0.25, window=1).judge(figures(0.1, 9.0)) == []
    assert Stragglers(share=0.25, window=1).judge(figures(0.001, 0.001, 0.003)) == []
