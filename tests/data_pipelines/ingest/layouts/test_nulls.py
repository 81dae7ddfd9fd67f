"""What counts as absent."""

import pytest

from data_pipelines.ingest.layouts.nulls import decoded_list, is_filled


@pytest.mark.parametrize("value", [None, "", " \n", b"", [], {}, [None, [""]], {"a": None, "b": [{"c": ""}]}])
def test_nothing_but_nulls_and_blanks_is_absent(value: object) -> None:
    assert not is_filled(value)


@pytest.mark.parametrize("value", [0, False, "x", b"\0", [None, 0], {"a": {"b": "x"}}])
def test_anything_else_is_there(value: object) -> None:
    assert is_filled(value)


@pytest.mark.parametrize(("value", "found"), [("[1]", [1]), (' {"a": 1}', {"a": 1}), ("[x].png", "[x].png"), (3, 3)])
def test_lists_and_objects_may_stand_as_text(value: object, found: object) -> None:
    assert decoded_list(value) == found
