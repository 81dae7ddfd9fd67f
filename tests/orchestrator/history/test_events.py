import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import CorruptArtifactError, NewerFormatError
from orchestrator.history.events import (
    Event,
    event_fields,
    event_from_json,
    event_to_json,
    event_to_line,
    flatten,
)

plain_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def test_what_a_database_cannot_store_is_replaced_and_secrets_are_masked() -> None:
    fields = event_fields({"nul": "a\0b", "half": "\ud800", "api_key": "hunter2", "note": "token hf_" + "a" * 34})
    assert fields == {"nul": "a\N{REPLACEMENT CHARACTER}b", "half": "?", "api_key": "***", "note": "token ***"}


def test_non_finite_numbers_become_text_that_reads_back() -> None:
    fields = event_fields({"loss": [math.nan, math.inf, -math.inf, 1.5]})
    assert fields == {"loss": ["nan", "inf", "-inf", 1.5]}
    assert math.isnan(float("nan"))


@given(st.dictionaries(st.text(), plain_json, max_size=4), st.integers(1, 10**9))
def test_an_event_survives_its_line(fields: dict[str, object], sequence: int) -> None:
    masked = event_fields(fields)
    event = Event(
        run_id="r/1", sequence=sequence, time=1700000000.25, epoch=2, kind="note", fields=masked, attempt_id="a"
    )
    line = event_to_line(event)
    assert "\n" not in line
    assert event_from_json(json.loads(line)) == event


@pytest.mark.parametrize("damage", [{"format": "2"}, {"sequence": "x"}, {"fields": 3}, {"time": None}])
def test_a_damaged_event_names_itself(damage: dict[str, object]) -> None:
    good = event_to_json(Event(run_id="r1", sequence=7, time=1.0, epoch=1, kind="note"))
    with pytest.raises(CorruptArtifactError, match="event r1/00000007"):
        event_from_json({**good, **damage})


def test_an_event_of_a_newer_format_is_not_called_damaged() -> None:
    with pytest.raises(NewerFormatError, match="event r1/00000007: found format 2, expected 1"):
        event_from_json({"format": 2, "id": "r1/00000007", "sequence": "x"})


def test_a_configuration_flattens_to_dotted_paths() -> None:
    config = {"b": {"rate": 2e-5, "name": "x"}, "anchors": [[1, 2], [3, 4]], "plain": [1, "a"], "none": None, "no": {}}
    assert list(flatten(config)) == [
        ("b.rate", "2e-05"),
        ("b.name", "x"),
        ("anchors.0", "[1, 2]"),
        ("anchors.1", "[3, 4]"),
        ("plain", '[1, "a"]'),
        ("none", "null"),
        ("no", "{}"),
    ]
