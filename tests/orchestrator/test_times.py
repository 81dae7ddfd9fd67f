from datetime import UTC, datetime

import pytest

from orchestrator.times import iso_time, log_time, parse_time, short_time

AT = 1738311300.25


def test_times_are_iso_8601_with_their_zone() -> None:
    assert iso_time(AT) == "2025-01-31T08:15:00.250000Z"
    assert log_time(AT) == "2025-01-31T08:15:00.250Z"
    assert short_time(AT) == "2025-01-31T08:15:00Z"
    for text in (iso_time(AT), log_time(AT), short_time(AT)):
        assert datetime.fromisoformat(text).tzinfo == UTC


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2025-01-31T08:15:00.25Z", AT),
        ("2025-01-31T09:15:00.25+01:00", AT),
        ("2025-01-31 08:15:00.25", AT),
        ("10m", AT - 600),
        ("90 s", AT - 90),
        ("1.5h", AT - 5400),
        ("2d", AT - 172_800),
    ],
)
def test_a_time_is_absolute_or_ago(text: str, expected: float) -> None:
    assert parse_time(text, now_s=AT) == pytest.approx(expected)


def test_what_is_no_time_says_what_would_be_one() -> None:
    with pytest.raises(ValueError, match="found 'yesterday', expected 10m, 2h, 1d or a time like 2025-01-31T08:15:00Z"):
        parse_time("yesterday", now_s=AT)
