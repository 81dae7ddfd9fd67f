"""The words for what a stage made: the kind's own, or its first metrics; folders in stores of both kinds."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import pytest

from orchestrator.reports.run_summary import headline_text, number_text
from orchestrator.stage import StageKind


@dataclass(frozen=True, kw_only=True)
class Config:
    pass


def half(metrics: Mapping[str, float]) -> str:
    return f"half of it is {metrics['b'] / 2:g}"


PLAIN = StageKind(name="k", version=1, config=Config, run=lambda _config, _context: {}, output="k@1")
METRICS = {"a": 1.0, "b": 2.0, "c": 0.123456, "d": 4.0}


@pytest.mark.parametrize(
    ("kind", "metrics", "text"),
    [
        (None, METRICS, "a 1, b 2, c 0.1235"),
        (PLAIN, METRICS, "a 1, b 2, c 0.1235"),
        (replace(PLAIN, metrics={"d": "four", "a": "one", "absent": "not returned"}), METRICS, "d 4, a 1"),
        (replace(PLAIN, headline=half), METRICS, "half of it is 1"),
        (replace(PLAIN, headline=half), {"old_name": 7.0}, "old_name 7"),
        (replace(PLAIN, headline=half), {}, ""),
    ],
)
def test_the_headline_is_the_kinds_own_or_its_first_metrics(
    kind: StageKind[Config] | None, metrics: Mapping[str, float], text: str
) -> None:
    assert headline_text(kind, metrics) == text


def test_numbers_are_short() -> None:
    assert [number_text(number) for number in (1234567.0, 0.25, 2.5e-5, float("nan"))] == [
        "1,234,567",
        "0.25",
        "2.5e-05",
        "nan",
    ]
