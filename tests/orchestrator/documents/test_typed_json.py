"""Typed records: the three outcomes of reading, and JSON that is larger, deeper or stranger than ours."""

import json
import math
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.documents.typed_json import (
    JSONObject,
    Number,
    Problem,
    decode,
    parse_object,
    parse_record,
    record_from_json,
)
from orchestrator.errors import EXIT_UNUSABLE, CorruptArtifactError, NewerFormatError


@dataclass(frozen=True, kw_only=True)
class Point:
    name: str
    value: Number = 0.0


@dataclass(frozen=True, kw_only=True)
class Record:
    format: Literal[1, 2]
    points: tuple[Point, ...] = ()
    limit: int | None = None
    free: JSONObject = field(default_factory=dict)


def parsed(text: str) -> Record:
    return parse_record(Record, text.encode(), "here")


def refusal(text: str) -> str:
    with pytest.raises(CorruptArtifactError) as caught:
        parsed(text)
    return str(caught.value)


def test_a_record_of_a_known_format_is_read_and_keys_that_it_lacks_are_ignored() -> None:
    text = '{"format": 1, "points": [{"name": "a", "value": 1, "new": 3}], "limit": null, "added": []}'
    assert parsed(text) == Record(format=1, points=(Point(name="a", value=1.0),))
    with pytest.raises(CorruptArtifactError, match=r"here: points\[0\].nam: unknown key; did you mean 'name'\?"):
        record_from_json(Record, {"format": 1, "points": [{"nam": "a"}]}, "here", unknown="forbid")


@pytest.mark.parametrize("body", [{}, {"points": 3}, {"points": [{}], "limit": "x"}, {"brand": {"new": [1]}}])
def test_a_newer_format_is_not_damage_whatever_the_body_holds(body: dict[str, Any]) -> None:
    with pytest.raises(NewerFormatError) as caught:
        parsed(json.dumps({**body, "format": 3}))
    assert str(caught.value) == "here: found format 3, expected 2; read it with the version of illume that wrote it"
    assert not isinstance(caught.value, CorruptArtifactError)  # or it would be retracted and made again
    assert caught.value.exit_code == EXIT_UNUSABLE


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "here: found 0 bytes that are not JSON"),
        ("[]", "here: found a JSON list, expected an object"),
        ('{"format": 1}, {"format": 1}', "here: found 28 bytes that are not JSON"),
        ("{}", "here: format: found 'None', expected 2"),
        ('{"format": "3"}', "here: format: found '3', expected 2"),
        ('{"format": 0, "points": 1}', "here: format: found '0', expected 2"),
        ('{"format": 1, "points": {}}', "here: points: found '{}', expected a list"),
        ('{"format": 1, "points": [{}]}', "here: points[0].name: missing; expected text"),
        ('{"format": 1, "points": [3]}', "here: points[0]: found '3', expected an object"),
        ('{"format": 1, "points": [{"name": 3}]}', "here: points[0].name: found '3', expected text"),
        (
            '{"format": 1, "points": [{"name": "a", "value": "1"}]}',
            "here: points[0].value: found '1', expected a num",
        ),
        ('{"format": 1, "points": [{"name": "a", "value": true}]}', "value: found 'True', expected a number"),
        ('{"format": 1, "limit": 1.5}', "here: limit: found '1.5', expected a whole number"),
        ('{"format": 1, "free": []}', "here: free: found '[]', expected an object"),
        ('{"format": 1, "limit": "' + "x" * 999 + '"}', "limit: found '" + "x" * 80 + "', expected"),
    ],
)
def test_damage_is_named_with_its_place(text: str, message: str) -> None:
    assert message in refusal(text)


@pytest.mark.parametrize("number", ["1" + "0" * 400, "1e400", "NaN", "-Infinity"])
def test_a_number_that_is_not_finite_is_refused_unless_it_is_text(number: str) -> None:
    assert "expected a number" in refusal(f'{{"format": 1, "points": [{{"name": "a", "value": {number}}}]}}')


def test_non_finite_numbers_are_read_from_text() -> None:
    points = [{"name": "a", "value": text} for text in ("nan", "inf", "-inf")]
    values = [point.value for point in record_from_json(Record, {"format": 1, "points": points}, "here").points]
    assert math.isnan(values[0])
    assert values[1:] == [math.inf, -math.inf]


@pytest.mark.parametrize(
    "text",
    [
        '{"format": 1, "free": ' + "[" * 100_000,
        '{"format": 1, "free": ' + "[" * 200 + "]" * 200 + "}",
        '{"format": 1, "limit": 1' + "0" * 10_000 + "}",
        '{"format": 1, "free": {"a": "\\ud800"}}',
    ],
)
def test_json_that_no_version_writes_is_damage_and_not_a_crash(text: str) -> None:
    assert refusal(text).startswith("here: found ")


def test_of_a_key_given_twice_the_last_counts_as_in_the_plain_reader() -> None:
    text = '{"format": 3, "format": 1, "limit": "x", "limit": 4, "free": {"a": 1, "a": 2}}'
    assert parsed(text) == Record(format=1, limit=4, free={"a": 2})
    assert parse_object(text.encode(), "here") == json.loads(text)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text("aé\n"),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("aé\n"), inner, max_size=3),
    )
)
def test_free_json_is_what_the_standard_library_reads(value: Any) -> None:
    text = json.dumps({"format": 1, "free": {"value": value}})
    found = parsed(text).free["value"]
    assert found == value
    assert repr(found) == repr(json.loads(text)["free"]["value"])  # also the types and the order


@given(st.binary(max_size=40) | st.text('{}[]",:format1 ', max_size=40).map(str.encode))
def test_any_bytes_are_a_record_or_a_named_error(data: bytes) -> None:
    try:
        parse_record(Record, data, "here")
    except (CorruptArtifactError, NewerFormatError) as error:
        assert str(error).startswith("here: ")  # noqa: PT017


def test_every_problem_of_what_people_write_is_collected_with_its_path() -> None:
    problems: list[Problem] = []
    assert decode(Record, {"format": 1, "points": [{"nam": 1}], "limit": "x"}, ("top",), problems) is None
    assert {(problem.path, problem.text) for problem in problems} == {
        (("top", "points", 0, "name"), "missing; expected text"),
        (("top", "points", 0, "nam"), "unknown key; did you mean 'name'?"),
        (("top", "limit"), "found 'x' (text), expected a whole number"),
    }
