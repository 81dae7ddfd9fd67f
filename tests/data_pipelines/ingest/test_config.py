"""A configuration of ingest that makes no sense is refused with the field's name."""

import re

import pytest

from data_pipelines.ingest.config import IngestConfig


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "zip"}, "format: found 'zip', expected one of auto, illume"),
        ({"split": "test"}, "split: found 'test', expected 'train', 'val' or ''"),
        ({"caption_tasks": ()}, "caption_tasks: found nothing, expected some of understanding, generation"),
        ({"caption_tasks": ("editing",)}, "caption_tasks: found ['editing']"),
        ({"source": "  "}, "source: found an empty name"),
        ({"rows_per_shard": -1}, "rows_per_shard must not be negative"),
        ({"max_line_bytes": 0}, "the limits must be positive"),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        IngestConfig(**{"source": "mine", **change})  # type: ignore[arg-type] # a wrong value is the point
