"""A mixture or loader that makes no sense is refused with the field's name."""

import re

import pytest

from data_pipelines.training_data.config import LoaderConfig, MixturePart

PART = MixturePart(tasks=("text",), weight=1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": ()}, "tasks: found none; expected some of text"),
        ({"tasks": ("text", "drawing")}, "tasks: found drawing;"),
        ({"weight": 0.0}, "weight: 0.0, expected a positive number"),
        ({"weight": float("nan")}, "weight: nan, expected a positive number"),
        ({"weight": float("inf")}, "weight: inf, expected a positive number"),
        ({"dataset": -1}, "dataset: -1, expected a number from 0"),
    ],
)
def test_impossible_parts_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        MixturePart(**{"tasks": ("text",), "weight": 1.0, **change})  # type: ignore[arg-type] # a wrong value is the point


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parts": ()}, "parts: empty"),
        ({"row_tokens": 0}, "row_tokens: 0, expected at least 1"),
        ({"rows_per_step": 0}, "rows_per_step: 0, expected at least 1"),
        ({"condition_dropout": 1.1}, "condition_dropout: 1.1, expected a share from 0 to 1"),
        ({"min_pixels": 10, "max_pixels": 9}, "min_pixels, max_pixels: 10, 9; expected 0 < min <= max"),
    ],
)
def test_impossible_loaders_are_refused(change: dict[str, object], message: str) -> None:
    fields: dict[str, object] = {"parts": (PART,), "seed": 0, "row_tokens": 8, "rows_per_step": 1, **change}
    with pytest.raises(ValueError, match=re.escape(message)):
        LoaderConfig(**fields)  # type: ignore[arg-type] # a wrong value is the point
