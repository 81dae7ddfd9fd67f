"""Which tests are run against a mutant."""

from tests.mutation.runner import MAX_TESTS_S, Traced


def traced(tests: dict[tuple[str, int], frozenset[str]], **seconds: float) -> Traced:
    return Traced(tests=tests, seconds=seconds, failed=frozenset({"broken"}))


def test_the_fastest_of_those_that_ran_the_line() -> None:
    found = traced({("a.py", 1): frozenset({"slow", "fast"}), ("a.py", 2): frozenset({"other"})}, slow=2.0, fast=1.0)
    assert found.fastest("a.py", 1) == ["fast", "slow"]
    assert found.fastest("a.py", 3) == []


def test_of_what_ran_at_import_all_that_ran_the_file() -> None:
    found = traced({("a.py", 1): frozenset({""}), ("a.py", 2): frozenset({"one"}), ("b.py", 1): frozenset({"two"})})
    assert found.fastest("a.py", 1) == ["one"]


def test_of_a_module_of_tables_all_that_passed() -> None:
    """Nothing in it runs but its import; other modules read it."""
    found = traced({("a.py", 1): frozenset({""}), ("b.py", 1): frozenset({"two"})}, one=1.0, two=0.5, broken=0.1)
    assert found.fastest("a.py", 1) == ["two", "one"]


def test_no_more_than_the_time_for_one_mutant_allows_but_one() -> None:
    long = MAX_TESTS_S + 1
    found = traced({("a.py", 1): frozenset({"long", "longer"})}, long=long, longer=2 * long)
    assert found.fastest("a.py", 1) == ["long"]
