"""A search by many workers finds the copies that a search in one process finds."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipelines.curation.config import CurationConfig
from data_pipelines.curation.copies import find_duplicates
from data_pipelines.curation.judge import ANALYSIS_SCHEMA
from data_pipelines.duplicates.copy_pairs import PrecomputedPairs
from data_pipelines.duplicates.search import IN_PROCESS_SEARCH
from orchestrator.shards import Shard, ShardInput, ShardRecord
from stages.curation import copy_search
from stages.curation.copy_search import search_for_copies

CONFIG = CurationConfig(anchors=((64, 64),), duplicate_scope="image")


@dataclass
class Context:
    """Runs the worker of a map in this process."""

    folder: Path
    shards: list[Shard] = field(default_factory=list)
    stage_id: str = "curated"

    def map_shards(self, worker: Any, shards: Sequence[Shard], **_: object) -> list[ShardRecord]:
        run, records = worker.start(), []
        for shard in shards:
            output = self.folder / shard.name
            output.mkdir()
            outcome = run(ShardInput(name=shard.name, items=shard.items, work=shard.work, output=output))
            record = ShardRecord(
                shard=shard.name, fingerprint=shard.name, path=output, files=(), outcome=outcome, reused=False
            )
            records.append(record)
        self.shards += shards
        return records


@pytest.fixture(scope="module")
def analyses(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Two shards of records about images, many of which are near, mirrored or equal to others."""
    folder = tmp_path_factory.mktemp("analyses")
    rng = np.random.default_rng(5)
    centres = rng.integers(0, 2**64, 40, dtype=np.uint64)
    found = {}
    for name in ("first", "second"):
        rows = []
        for row in range(150):
            bits = rng.integers(0, 64, rng.integers(0, 9))
            hashes = [int(rng.choice(centres)) ^ sum({1 << int(bit) for bit in bits}) for _ in range(2)]
            has_picture = row % 10 > 0
            rows.append(
                {
                    "row": row,
                    "sample_id": f"{name}{row}",
                    "split": "train",
                    "task": ("understanding", "generation")[row % 2],
                    "text_digest": str(row % 3),
                    "images": [f"{name}{row}"] * has_picture,
                    "reason": "too_small" if row % 7 == 0 else None,
                    "phash": hashes[:1] * has_picture,
                    "mirrored_phash": hashes[1:] * has_picture,
                    "pixel_digest": [f"{name}{row}"] * has_picture,
                    "miniature": [bytes(192)] * has_picture,
                }
            )
        found[name] = folder / f"{name}.parquet"
        pq.write_table(pa.Table.from_pylist(rows, schema=ANALYSIS_SCHEMA), found[name])
    return found


def searched(config: CurationConfig, context: Context, analyses: Mapping[str, Path], rows: int = 300) -> Any:
    digests = {name: f"digest of {name}" for name in analyses}
    return search_for_copies(config, context, analyses, digests, rows)  # type: ignore[arg-type]  # the part that is used


@pytest.mark.parametrize("scope", ["image", "image_in_task", "sample"])
@pytest.mark.parametrize("change", [{}, {"mirrored_images": False}, {"phash_distance": 2}])
def test_many_tasks_find_what_one_process_finds(
    analyses: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scope: str, change: dict[str, Any]
) -> None:
    monkeypatch.setattr(copy_search, "MIN_RECORDS_FOR_MAP", 1)
    monkeypatch.setattr(copy_search, "RECORDS_PER_SLICE", 200)  # three slices
    config = replace(CONFIG, duplicate_scope=scope, **change)
    context = Context(tmp_path)
    search = searched(config, context, analyses)
    assert isinstance(search, PrecomputedPairs)
    expected = find_duplicates(analyses, config)
    assert find_duplicates(analyses, config, search=search) == expected
    assert {copy.verdict for copies in expected.values() for copy in copies} >= {"near_duplicate"}
    assert len(context.shards) % 3 == 0


def test_small_datasets_and_those_without_near_copies_are_compared_in_the_driver(
    analyses: Mapping[str, Path], tmp_path: Path
) -> None:
    many = copy_search.MIN_RECORDS_FOR_MAP
    for config, rows in (
        (CONFIG, many - 1),
        (replace(CONFIG, near_duplicates=False), many),
        (replace(CONFIG, duplicate_scope="off"), many),
    ):
        assert searched(config, Context(tmp_path), analyses, rows) is IN_PROCESS_SEARCH


def test_no_search_task_can_be_quarantined_and_each_has_an_identity_of_its_own(
    analyses: Mapping[str, Path], tmp_path: Path
) -> None:
    context = Context(tmp_path)
    searched(CONFIG, context, analyses, copy_search.MIN_RECORDS_FOR_MAP)
    assert all(shard.items == () for shard in context.shards)
    identities = {json.dumps(shard.identity, sort_keys=True) for shard in context.shards}
    assert len(identities) == len(context.shards) == 8
