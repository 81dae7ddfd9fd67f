"""The table of scores of a few records, as rows."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from data_pipelines.scoring.score_shard import ScoringSettings, score_shard
from data_pipelines.scoring.scorers import Scorer

CAPTIONS = ("a red square", "two blue circles and a triangle far away", "x")
ROUNDING = 2e-6  # of 32-bit sums in another order


def score_rows(records: Path, scorer: Scorer, out: Path, **settings: Any) -> list[dict[str, Any]]:
    width = settings.pop("width", 0)
    chosen = ScoringSettings(**{"batch": 2, **settings})
    score_shard(records, "part", out, score="fit", scorer=scorer, settings=chosen, embedding_width=width)
    rows: list[dict[str, Any]] = pq.read_table(out).to_pylist()
    return rows
