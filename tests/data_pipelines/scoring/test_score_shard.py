"""Score tables have a row for every image, scored or not, and do not depend on batches and threads."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipelines.images.limits import DecodeLimits
from data_pipelines.scoring.scorers import Similarity
from tests.data_pipelines.scoring.scored import ROUNDING, score_rows
from tests.data_pipelines.scoring.tiny_scorers import WIDTH


def test_there_is_no_score_for_broken_or_silent_or_endless_images(
    similarity: Similarity, records: Path, tmp_path: Path
) -> None:
    rows = score_rows(records, similarity, tmp_path / "t.parquet", width=WIDTH)
    assert [row["fit"] is None for row in rows] == [False] * 4 + [True] * 3
    assert [not any(row["embedding"]) for row in rows] == [False] * 4 + [True, False, True]
    assert rows[0]["embedding"] == rows[3]["embedding"]
    assert np.linalg.norm(rows[1]["embedding"]) == pytest.approx(1, abs=1e-3)
    assert [(row["row"], row["slot"]) for row in rows] == [(number, 0) for number in range(7)]


@pytest.mark.parametrize("batch", [1, 3, 50])
def test_scores_are_the_same_whatever_the_batch(
    similarity: Similarity, records: Path, tmp_path: Path, batch: int
) -> None:
    first = score_rows(records, similarity, tmp_path / "a.parquet")
    second = score_rows(records, similarity, tmp_path / "b.parquet", batch=batch, decode_threads=1)
    for row, other in zip(first, second, strict=True):
        assert row["fit"] == (None if other["fit"] is None else pytest.approx(other["fit"], abs=ROUNDING))


@pytest.mark.parametrize("limit", [{"max_pixels": 1000}, {"max_file_bytes": 100}, {"formats": ("JPEG",)}])
def test_files_beyond_the_limits_are_never_decoded(
    similarity: Similarity, records: Path, tmp_path: Path, limit: Mapping[str, Any]
) -> None:
    limits = DecodeLimits(**limit)
    assert {row["fit"] for row in score_rows(records, similarity, tmp_path / "t.parquet", limits=limits)} == {None}
