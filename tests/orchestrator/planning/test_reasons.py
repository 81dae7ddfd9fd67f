import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.planning.reasons import (
    InputChanged,
    SourcesChanged,
    code_changes,
    own_changes,
    sequence_changes,
    value_changes,
)

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", min_size=1, max_size=2), inner, max_size=3)
    ),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({"lr": 1.0}, {"lr": 2.0}, [("lr", "1.0", "2.0")]),
        ({"a": {"b": 1}}, {"a": {"b": 2}}, [("a.b", "1", "2")]),
        ({"sizes": [1, 2]}, {"sizes": [1, 2, 3]}, [("sizes", "[1,2]", "[1,2,3]")]),
        (
            {"parts": [{"n": 1}]},
            {"parts": [{"n": 2}, {"n": 3}]},
            [("parts[0].n", "1", "2"), ("parts[1].n", "(absent)", "3")],
        ),
        ({"old": "x"}, {}, [("old", '"x"', "(absent)")]),
        ({"flag": 1}, {"flag": True}, [("flag", "1", "true")]),
        ({"text": ""}, {"text": "y" * 100}, [("text", '""', '"' + "y" * 56 + "...")]),
    ],
)
def test_changed_values_have_their_dotted_path(before: dict, after: dict, expected: list[tuple[str, str, str]]) -> None:  # type: ignore[type-arg]
    assert value_changes(before, after) == expected


@given(VALUES)
def test_equal_values_have_no_changes(value: None) -> None:
    assert value_changes({"value": value}, {"value": value}) == []


@given(st.lists(st.sampled_from("abc")), st.lists(st.sampled_from("abc")))
def test_added_and_removed_balance_and_ignore_the_order(before: list[str], after: list[str]) -> None:
    added, removed = sequence_changes(before, after)
    assert len(before) + added - removed == len(after)
    assert sequence_changes(before, before[::-1]) == (0, 0)
    assert sequence_changes(after, before) == (removed, added)


def test_a_change_of_order_is_named_as_such() -> None:
    assert str(InputChanged(slot="raw", added=0, removed=0, unit="shards")) == "input raw: another order"
    assert str(InputChanged(slot="raw", added=2, removed=1, unit="shards")) == "input raw: +2 -1 shards"


def test_source_files_are_listed_by_what_happened_to_them() -> None:
    (reason,) = own_changes({"sources": {"a": "1", "b": "1", "c": "1"}}, {"sources": {"b": "2", "c": "1", "d": "1"}})
    assert reason == SourcesChanged(added=("d",), removed=("a",), changed=("b",))
    assert str(reason) == "source files: +d, -a, b differs"


def test_files_on_one_side_only_count_as_changed() -> None:
    assert code_changes({"a": "1", "b": "1"}, {"b": "1", "c": "1"}) == ("a", "c")
