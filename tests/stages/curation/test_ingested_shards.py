"""The shards of ingest artifacts, and their units of work."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.errors import PrecheckError
from stages.curation.ingested_shards import all_rows_shard, ingested_shards


def artifact(folder: Path, **num_rows: int) -> Any:
    """The part of an ingest artifact that is read: tables of records, and the manifest's digests."""
    (folder / "records").mkdir(parents=True)
    entries = []
    for name, count in num_rows.items():
        pq.write_table(pa.table({"row": list(range(count))}), folder / "records" / f"{name}.parquet")
        entries += [
            SimpleNamespace(path=f"records/{name}.parquet", sha256=f"records of {name}"),
            SimpleNamespace(path=f"images/{name}.tar", sha256=f"images of {name}"),
        ]
    return SimpleNamespace(path=folder, manifest=SimpleNamespace(files=entries))


def test_shards_of_all_inputs_are_sorted_and_identified_by_their_bytes(tmp_path: Path) -> None:
    found = ingested_shards([artifact(tmp_path / "1", b=2, c=1), artifact(tmp_path / "2", a=3)])
    assert list(found) == ["a", "b", "c"]
    shard = all_rows_shard("b", found["b"])
    assert shard.items == (0, 1)
    assert shard.identity == {"records": "records of b", "images": "images of b"}
    assert shard.work == {"records": str(tmp_path / "1"), "shard": "b"}


def test_two_shards_of_the_same_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PrecheckError, match="both have a shard 'a'; give their sources different file names"):
        ingested_shards([artifact(tmp_path / "1", a=1), artifact(tmp_path / "2", a=1)])
