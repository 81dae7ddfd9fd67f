import threading

import pytest

from orchestrator.backends.parallel import WINDOW, parallel_map, request_threads


@pytest.mark.parametrize("threads", [1, 3])
def test_results_keep_the_order_of_the_items(threads: int) -> None:
    assert list(parallel_map(lambda item: item * 2, range(100), threads=threads)) == [2 * item for item in range(100)]


def test_items_are_taken_as_results_are() -> None:
    taken, threads = list[int](), 3

    def items() -> object:
        for item in range(10_000):
            taken.append(item)
            yield item

    results = parallel_map(lambda item: item, items(), threads=threads)  # type: ignore[arg-type]  # a generator
    assert next(results) == 0
    assert len(taken) <= threads * WINDOW
    results.close()  # type: ignore[attr-defined]  # a generator


def test_calls_run_at_the_same_time() -> None:
    barrier = threading.Barrier(3, timeout=20)
    assert len(list(parallel_map(lambda _: barrier.wait(), range(3), threads=3))) == 3


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_reaches_the_caller(threads: int) -> None:
    with pytest.raises(ZeroDivisionError):
        list(parallel_map(lambda item: 1 // (5 - item), range(100), threads=threads))


def test_a_disk_is_asked_by_one_thread() -> None:
    assert (request_threads(is_local=True), request_threads(is_local=False) > 8) == (1, True)
