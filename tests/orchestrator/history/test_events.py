import json
import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import CorruptArtifactError, NewerFormatError
from orchestrator.history.events import (
    Event,
    event_from_json,
    event_to_json,
    event_to_line,
    flatten,
    iso_time,
    mask_fields,
    mask_text,
)

plain_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("postgresql://me:hunter2@db.local/runs", "postgresql://me:***@db.local/runs"),
        ("postgresql+psycopg://me:p@ss@db/runs", "postgresql+psycopg://me:***@db/runs"),
        ("connect to https://:token@host:8080 now", "connect to https://:***@host:8080 now"),
        ("s3://bucket/key?X-Amz-Signature=abc123&part=1", "s3://bucket/key?X-Amz-Signature=***&part=1"),
        ("https://h/p?access_token=secret#top", "https://h/p?access_token=***#top"),
        ("key AKIAIOSFODNN7EXAMPLE was refused", "key *** was refused"),
        ("Authorization: Bearer abcdefghijklmnop1234", "Authorization: ***"),
        (
            "10:30 at me@example.org, see https://example.org/a:b",
            "10:30 at me@example.org, see https://example.org/a:b",
        ),
        ("s3://bucket/prefix?endpoint=http://127.0.0.1:9000", "s3://bucket/prefix?endpoint=http://127.0.0.1:9000"),
    ],
)
def test_secrets_in_text_are_masked_and_nothing_else(text: str, masked: str) -> None:
    assert mask_text(text) == masked
    assert mask_text(masked) == masked


@pytest.mark.parametrize("text", ["x" * 300_000, "?token" * 50_000, "a://b:" * 50_000, "s3://" + "k:" * 150_000])
def test_masking_takes_linear_time(text: str) -> None:
    started = time.monotonic()
    assert mask_text(text) == text
    assert time.monotonic() - started < 5.0  # some 0.5 s; quadratic time would be minutes


def test_values_under_secret_names_are_masked_at_any_depth() -> None:
    fields = mask_fields(
        {
            "store": {"secret_access_key": "abc", "region": "eu"},
            "logins": [{"password": "abc", "user": "me"}],
            "trained_tokens": 12,
            "pad_token": "<pad>",
            "api_key": None,
        }
    )
    assert fields == {
        "store": {"secret_access_key": "***", "region": "eu"},
        "logins": [{"password": "***", "user": "me"}],
        "trained_tokens": 12,
        "pad_token": "<pad>",
        "api_key": None,
    }


def test_non_finite_numbers_become_text_that_reads_back() -> None:
    fields = mask_fields({"loss": [math.nan, math.inf, -math.inf, 1.5]})
    assert fields == {"loss": ["nan", "inf", "-inf", 1.5]}
    assert math.isnan(float("nan"))


@given(st.dictionaries(st.text(), plain_json, max_size=4), st.integers(1, 10**9))
def test_an_event_survives_its_line(fields: dict[str, object], sequence: int) -> None:
    masked = mask_fields(fields)
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


def test_times_are_rfc_3339_in_utc() -> None:
    assert iso_time(1738311300.25) == "2025-01-31T08:15:00.250000Z"


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
