"""Durations, counts and byte counts as short text."""

import pytest

from orchestrator.commands.shared.formatting import bytes_text, count_text, duration_text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (187, "3 min 07 s"),
        (18120, "5 h 02 min"),
        (187200, "2 d 04 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_counts_and_bytes() -> None:
    assert [count_text(number) for number in (0, 999, 12_345, 4_100_000, 2.5)] == ["0", "999", "12.3k", "4.1M", "2.5"]
    assert [bytes_text(number) for number in (0, 1536, 2**20 - 1, 3 * 2**30)] == [
        "0 Bytes",
        "1.5 KiB",
        "1.0 MiB",
        "3.0 GiB",
    ]
