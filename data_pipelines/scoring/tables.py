"""Score tables, one file for each scorer and ingested shard, and the bounds that drop samples by their scores.

`scores/SCORER/SHARD.parquet`: a row for each image of each record that was read. A score is null if the image cannot be
read or has no caption to compare with. An embedding of zeros means none (Arrow 25 cannot read back a null among lists
of fixed size).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines.datasets.files import path_of
from data_pipelines.datasets.records import Reject, canonical
from data_pipelines.scoring.bounds import MEASURED_SCORES, TABLE_COLUMNS, ScoreBounds
from models.errors import DataError

DIGITS = 6  # of a score in a ledger: what a 32-bit float holds

Scores = Mapping[str, float | None]
Vectors = npt.NDArray[np.float16]


class ScoresError(DataError):
    """A score table does not belong to the records."""


def table_schema(score: str, width: int = 0) -> Any:
    """Schema of the table of one score; `width` of the embeddings, 0: no embeddings."""
    columns = [("row", pa.int64()), ("sample_id", pa.string()), ("slot", pa.int16()), (score, pa.float32())]
    return pa.schema(columns + ([("embedding", pa.list_(pa.float16(), width))] if width else []))


@dataclass(frozen=True, kw_only=True)
class ShardScores:
    """The scores of one ingested shard, from all scorers."""

    of_rows: Mapping[int, Mapping[int, Scores]] = field(default_factory=dict)  # by row of the records and slot
    sample_ids: Mapping[int, str] = field(default_factory=dict)

    def of(self, row: int, sample_id: str, num_images: int) -> list[Scores]:
        """The scores of each image of a row. Raises: ScoresError for scores of another sample."""
        if self.sample_ids.get(row, sample_id) != sample_id:
            raise ScoresError(
                f"row {row} is {sample_id}, but its scores are those of {self.sample_ids[row]}; score the records that "
                "are curated"
            )
        slots = self.of_rows.get(row, {})
        return [slots.get(slot, {}) for slot in range(num_images)]


NO_SCORES = ShardScores()


def read_scores(files: Sequence[Path]) -> ShardScores:
    """All scores in the tables of one shard, without embeddings."""
    of_rows: dict[int, dict[int, dict[str, float | None]]] = {}
    sample_ids: dict[int, str] = {}
    for file in map(path_of, files):
        names = [name for name in pq.read_schema(file).names if name not in TABLE_COLUMNS]
        for entry in pq.read_table(file, columns=["row", "sample_id", "slot", *names]).to_pylist():
            if sample_ids.setdefault(entry["row"], entry["sample_id"]) != entry["sample_id"]:
                raise ScoresError(f"{file}: row {entry['row']} is of another sample than in the other tables")
            slots = of_rows.setdefault(entry["row"], {})
            slots.setdefault(entry["slot"], {}).update({name: entry[name] for name in names})
    return ShardScores(of_rows=of_rows, sample_ids=sample_ids)


def with_scores(row: Mapping[str, Any], scores: ShardScores, bounds: Mapping[str, ScoreBounds]) -> dict[str, Any]:
    """An analysis row with the scores of its first image added; dropped if a score of any image is out of bounds."""
    if not scores.of_rows and not bounds:
        return dict(row)
    slots = scores.of(row["row"], row["sample_id"], len(row["images"]))
    known: dict[str, float] = json.loads(row["scores"])
    first = {name: round(value, DIGITS) for name, value in (slots[0] if slots else {}).items() if value is not None}
    merged = {**row, "scores": canonical({**known, **first})}
    problem = None if row["reason"] else judge_scores(known, slots, bounds)
    return merged | ({"reason": problem.reason, "detail": problem.detail} if problem else {})


def judge_scores(
    measured: Mapping[str, float], slots: Sequence[Scores], bounds: Mapping[str, ScoreBounds]
) -> Reject | None:
    """The reject of a sample with a score out of bounds, or None.

    Bounds on measured scores apply to the first image, all others to every image. A bounded score that is missing
    rejects the sample too, since it cannot be known to lie within the bounds.
    """
    for name, bound in sorted(bounds.items()):
        values = [measured.get(name)][: len(slots)] if name in MEASURED_SCORES else [slot.get(name) for slot in slots]
        for number, value in enumerate(values, start=1):
            where = f"{name} of picture {number} of {len(slots)}" if len(slots) > 1 else name
            if value is None:
                return Reject(reason="score_missing", detail=f"{where}: not known, but the config bounds it")
            if bound.at_least is not None and value < bound.at_least:
                return Reject(reason="score_too_low", detail=f"{where}: {value:.4g}, under {bound.at_least:g}")
            if bound.at_most is not None and value > bound.at_most:
                return Reject(reason="score_too_high", detail=f"{where}: {value:.4g}, over {bound.at_most:g}")
    return None


def read_embeddings(files: Sequence[Path]) -> dict[int, list[Vectors]]:
    """The embeddings of the images of each row, in order, from the tables of a shard that have them.

    They are views of one array [N, D]. Rows with a missing embedding are left out.
    """
    found: dict[int, list[Vectors]] = {}
    for file in map(path_of, files):
        if "embedding" not in pq.read_schema(file).names:
            continue
        table = pq.read_table(file, columns=["row", "embedding"])
        width = table.schema.field("embedding").type.list_size
        vectors_ND = table["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
        rows_N = table["row"].to_numpy()
        absent = set(rows_N[~vectors_ND.any(axis=1)].tolist())
        for row, vector_D in zip(rows_N.tolist(), vectors_ND, strict=True):
            if row not in absent:
                found.setdefault(row, []).append(vector_D)
    return found
