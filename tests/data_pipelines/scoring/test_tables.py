"""Scores in curation: bounds drop samples with a reason, and images that mean the same are found by embeddings."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipelines.curation.config import CurationConfig, decode_limits
from data_pipelines.curation.copies import find_duplicates
from data_pipelines.curation.emit import emit_shard
from data_pipelines.curation.judge import judge_shard
from data_pipelines.curation.measure import measure_shard
from data_pipelines.duplicates.candidates import Candidate, Candidates
from data_pipelines.duplicates.search import Copy
from data_pipelines.duplicates.semantic import add_semantic_copies
from data_pipelines.scoring.bounds import ScoreBounds
from data_pipelines.scoring.tables import (
    ScoresError,
    ShardScores,
    judge_scores,
    read_embeddings,
    read_scores,
    table_schema,
    with_scores,
)
from tests.data_pipelines.curation.curated import drawn, encoded, records_of

Row = tuple[int, str, int, float | None]  # row, sample id, slot, score


def write_table(file: Path, score: str, rows: Sequence[Row], embeddings: Sequence[Sequence[float]] = ()) -> Path:
    columns: dict[str, Any] = dict(zip(("row", "sample_id", "slot", score), zip(*rows, strict=True), strict=True))
    if embeddings:
        columns["embedding"] = [np.array(vector, dtype=np.float16) for vector in embeddings]
    schema = table_schema(score, len(embeddings[0]) if embeddings else 0)
    pq.write_table(pa.Table.from_pydict({name: list(found) for name, found in columns.items()}, schema=schema), file)
    return file


@pytest.mark.parametrize(
    ("slots", "bounds", "reason", "detail"),
    [
        ([{"fit": 0.3}], {"fit": ScoreBounds(at_least=0.25)}, None, None),
        ([{"fit": 0.2}], {"fit": ScoreBounds(at_least=0.25)}, "score_too_low", "fit: 0.2, under 0.25"),
        ([{"nsfw": 0.9}], {"nsfw": ScoreBounds(at_most=0.5)}, "score_too_high", "nsfw: 0.9, over 0.5"),
        ([{"fit": 0.25}], {"fit": ScoreBounds(at_least=0.25, at_most=0.25)}, None, None),
        (
            [{"nsfw": 0.1}, {"nsfw": 0.7}],
            {"nsfw": ScoreBounds(at_most=0.5)},
            "score_too_high",
            "nsfw of picture 2 of 2: 0.7, over 0.5",
        ),
        ([{}], {"nsfw": ScoreBounds(at_most=0.5)}, "score_missing", "nsfw: not known, but the config bounds it"),
        ([{"nsfw": None}], {"nsfw": ScoreBounds(at_most=0.5)}, "score_missing", "nsfw: not known, but the config b"),
        ([], {"nsfw": ScoreBounds(at_most=0.5)}, None, None),
        ([{}, {}], {"entropy": ScoreBounds(at_least=3)}, "score_too_low", "entropy of picture 1 of 2: 2.5, under 3"),
        ([], {"entropy": ScoreBounds(at_least=3)}, None, None),
    ],
)
def test_bounds_drop_scores_outside_them(
    slots: Sequence[Mapping[str, float]], bounds: Mapping[str, ScoreBounds], reason: str | None, detail: str | None
) -> None:
    found = judge_scores({"entropy": 2.5}, slots, bounds)
    assert (found and found.reason) == reason
    assert found is None or found.detail.startswith(str(detail))


def test_scores_of_several_tables_are_merged(tmp_path: Path) -> None:
    fit = write_table(tmp_path / "a.parquet", "fit", [(0, "x", 0, 0.5), (0, "x", 1, None), (2, "y", 0, 0.25)])
    nsfw = write_table(tmp_path / "b.parquet", "nsfw", [(0, "x", 0, 0.125)])
    scores = read_scores([fit, nsfw])
    assert scores.of(0, "x", 2) == [{"fit": 0.5, "nsfw": 0.125}, {"fit": None}]
    assert scores.of(2, "y", 1) == [{"fit": 0.25}]
    assert scores.of(1, "z", 1) == [{}]
    with pytest.raises(ScoresError, match="row 2 is other, but its scores are those of y; score the records that"):
        scores.of(2, "other", 1)


def test_an_earlier_reason_stays_and_scores_are_added_to_the_measured_ones() -> None:
    row = {"row": 0, "sample_id": "x", "images": ["d"], "scores": '{"entropy":2.5}', "reason": "too_small"}
    scores = ShardScores(of_rows={0: {0: {"fit": 0.1}}}, sample_ids={0: "x"})
    found = with_scores(row, scores, {"fit": ScoreBounds(at_least=0.5)})
    assert found == {**row, "scores": '{"entropy":2.5,"fit":0.1}'}
    assert with_scores({**row, "reason": None}, scores, {"fit": ScoreBounds(at_least=0.5)})["reason"] == "score_too_low"


def test_rows_without_an_embedding_of_each_image_are_left_out(tmp_path: Path) -> None:
    rows: list[Row] = [(0, "x", 0, 0.5), (1, "y", 0, None), (1, "y", 1, 0.5), (3, "z", 0, 0.5), (3, "z", 1, 0.5)]
    file = write_table(tmp_path / "a.parquet", "fit", rows, [[1, 0], [0, 0], [0, 1], [1, 0], [0.6, 0.8]])
    plain = write_table(tmp_path / "b.parquet", "nsfw", rows)
    found = read_embeddings([plain, file])
    assert {row: [vector.tolist() for vector in vectors] for row, vectors in found.items()} == {
        0: [[1, 0]],
        3: [[1, 0], pytest.approx([0.6, 0.8], abs=1e-3)],
    }


def candidate(name: str, partition: str = "", pictures: int = 1) -> Candidate:
    digests = tuple(f"{name}{slot}" for slot in range(pictures))
    return Candidate(
        sample_id=name, partition=partition, file_digests=digests, pixel_digests=digests, phashes=(), miniatures=()
    )


def test_the_first_of_a_group_is_kept_and_copies_of_the_others_point_at_it() -> None:
    vector, near, far = (np.array(v, dtype=np.float16) for v in ([1, 0], [0.999, 0.04], [0, 1]))
    candidates = Candidates(
        [*map(candidate, "abcd"), candidate("e", partition="other"), candidate("f"), candidate("g")]
    )
    embeddings = [[vector], [far], [near], [near], [vector], None, [near, near]]
    exact = Copy(index=3, original=2, verdict="duplicate", reason="same_bytes")
    found = add_semantic_copies(candidates, [exact], embeddings, 0.01)
    assert [(copy.index, copy.original, copy.verdict, copy.reason) for copy in found] == [
        (2, 0, "near_duplicate", "similar_meaning"),
        (3, 0, "duplicate", "same_bytes"),
    ]


def test_a_curation_drops_by_scores_and_finds_what_means_the_same(tmp_path: Path) -> None:
    lines = [(f"p{seed}", encoded(drawn(seed)), "some shapes") for seed in range(4)]
    records = records_of(tmp_path, lines)
    ids = pq.read_table(records / "records" / "part.parquet")["sample_id"].to_pylist()
    rows: list[Row] = [(row, ids[row], 0, score) for row, score in enumerate([0.5, 0.1, 0.5, 0.5])]
    file = write_table(tmp_path / "fit.parquet", "fit", rows, [[1, 0], [1, 0], [0, 1], [1, 0.01]])
    config = CurationConfig(
        anchors=((64, 64),),
        min_side=32,
        near_duplicates=False,
        duplicate_scope="image",
        score_bounds={"fit": ScoreBounds(at_least=0.2)},
        semantic_distance=0.05,
    )
    measure_shard(records, "part", tmp_path, decode_limits(config))
    judge_shard(records, tmp_path, "part", tmp_path, config, scores=read_scores([file]))
    analysis = {"part": tmp_path / "analysis" / "part.parquet"}
    copies = find_duplicates(analysis, config, scores={"part": [file]})
    emit_shard(records, tmp_path, "part", tmp_path / "data", copies=copies["part"])
    ledger = pq.read_table(tmp_path / "data" / "ledger" / "part.parquet").to_pylist()
    assert [(row["verdict"], row["reason"]) for row in ledger] == [
        ("keep", None),
        ("drop", "score_too_low"),
        ("keep", None),
        ("near_duplicate", "similar_meaning"),
    ]
    assert ledger[3]["duplicate_of"] == ids[0]
    assert [json.loads(row["scores"])["fit"] for row in ledger] == [0.5, 0.1, 0.5, 0.5]
    assert ledger[1]["detail"] == "fit: 0.1, under 0.2"
