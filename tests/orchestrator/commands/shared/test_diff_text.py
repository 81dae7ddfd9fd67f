"""Metrics of two runs as text."""

import pytest

from orchestrator.commands.shared.diff_text import difference_text, files_text, metric_text


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        (2.0, 3.0, "+1 (+50.0%)"),
        (-2.0, -3.0, "-1 (-50.0%)"),
        (0.0, 3.0, "+3"),
        (None, 3.0, "only in B"),
        (2.0, None, "only in A"),
    ],
)
def test_a_difference_has_its_sign_and_its_share(before: float | None, after: float | None, text: str) -> None:
    assert difference_text(before, after) == text


def test_metrics_are_rounded_for_reading() -> None:
    assert [metric_text(value) for value in (None, 0.123456789, 1234.5, 12345678.9)] == [
        "", "0.123457", "1,234.5", "12,345,679"
    ]  # fmt: skip


def test_long_lists_of_files_are_shortened() -> None:
    assert files_text(["a", "b"]) == "a, b"
    assert files_text([*"abcdef"]) == "a, b, c, d and 2 more"
