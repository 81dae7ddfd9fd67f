"""What was taken down leaves a row without content behind, and what looks like it stays out."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipelines.datasets.reader import DatasetError
from data_pipelines.datasets.tombstones import (
    TAKEN_DOWN,
    HeldRows,
    Tombstones,
    find_held_rows,
    image_phashes,
    marks_to_tombstones,
    tombstones_to_marks,
)
from data_pipelines.ingest.config import IngestConfig
from data_pipelines.ingest.files.image_sources import open_images
from data_pipelines.ingest.shards import ingest_shard, plan_ingest
from tests.data_pipelines.curation.curated import curate, drawn, encoded, records_of
from tests.data_pipelines.ingest.raw_files import line, png, raw_folder

LIMITS = {"max_bytes": 1 << 20, "max_unpacked_bytes": 1 << 30}
FORMAT = IngestConfig(source="mine", format="illume")


def ingest(folder: Path, output: Path, tombstones: Tombstones) -> list[dict[str, Any]]:
    images = open_images([folder / "images"], **LIMITS)
    (shard,) = plan_ingest(FORMAT, [folder / "annotations"])
    ingest_shard(shard, output, FORMAT, images=images, tombstones=tombstones)
    return list(pq.read_table(output / "records" / f"{shard.name}.parquet").to_pylist())


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.*"))}


def test_a_record_is_refused_by_its_image_or_by_its_id(tmp_path: Path) -> None:
    raw = raw_folder(tmp_path / "raw")
    everything = ingest(raw, tmp_path / "all", Tombstones())
    image, sample = hashlib.sha256(png(0)).hexdigest(), everything[2]["sample_id"]
    rows = ingest(raw, tmp_path / "some", Tombstones(digests=frozenset({image, sample})))
    assert [row["reject"] for row in rows] == [TAKEN_DOWN, None, TAKEN_DOWN]
    assert rows[1] == everything[1]
    for row in (rows[0], rows[2]):  # it says what was left out, and nothing of it
        assert (row["sample_id"], row["external_id"]) == (
            everything[row["source_row"]]["sample_id"],
            "abc"[row["source_row"]],
        )
        assert (row["conversations"], row["images"], row["image_names"], row["meta"]) == ("[]", [], [], "{}")
    written = b"".join(contents(tmp_path / "some").values())
    assert png(1) in written
    assert png(0) not in written
    assert png(2) not in written


def test_tombstones_that_hit_nothing_change_no_byte(tmp_path: Path) -> None:
    raw = raw_folder(tmp_path / "raw")
    ingest(raw, tmp_path / "all", Tombstones())
    ingest(raw, tmp_path / "none", Tombstones(digests=frozenset({"0" * 64})))
    assert contents(tmp_path / "all") == contents(tmp_path / "none")


def test_an_image_that_others_share_takes_them_along(tmp_path: Path) -> None:
    raw = raw_folder(tmp_path / "raw")
    shared = {**line("d"), "images": ["a.png"]}
    with (raw / "annotations" / "some_val.jsonl").open("a") as file:
        file.write(json.dumps(shared) + "\n")
    rows = ingest(raw, tmp_path / "out", Tombstones(digests=frozenset({hashlib.sha256(png(0)).hexdigest()})))
    assert [row["reject"] for row in rows] == [TAKEN_DOWN, None, None, TAKEN_DOWN]


def test_marks_are_the_tombstones_again() -> None:
    tombstones = Tombstones(digests=frozenset({"a" * 64}), phashes=frozenset({(0, 10), (2**64 - 1, 0)}))
    assert marks_to_tombstones(tombstones_to_marks(tombstones)) == tombstones
    assert not marks_to_tombstones({})


def test_a_similar_image_is_recognised_by_its_distance() -> None:
    tombstones = Tombstones(phashes=frozenset({(0b1111, 2)}))
    assert tombstones.judge_phashes([0b1]) is None
    rejected = tombstones.judge_phashes([2**40, 0b11])
    assert rejected is not None
    assert (rejected.reason, "2 of 64 bits" in rejected.detail) == (TAKEN_DOWN, True)
    assert tombstones.judge_phashes([]) is None


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Three curated drawings."""
    lines = [(str(number), encoded(drawn(number)), f"a drawing of kind {number}") for number in range(3)]
    curate(records_of(tmp_path, lines), tmp_path / "out")
    return tmp_path / "out" / "data"


def test_tables_are_searched_for_what_they_hold(dataset: Path, tmp_path: Path) -> None:
    (ledger,) = (dataset / "ledger").iterdir()
    row = pq.read_table(ledger).to_pylist()[1]
    about = HeldRows(rows=1, samples=frozenset({row["sample_id"]}), names_samples_only=False)
    for wanted in (row["sample_id"], row["images"][0]):
        assert find_held_rows(ledger, frozenset({wanted, "0" * 64})) == about
    (index,) = (tmp_path / "records" / "index").iterdir()
    assert find_held_rows(index, frozenset({row["images"][0]})) == replace(about, samples=frozenset())
    nothing = replace(about, rows=0, samples=frozenset())
    assert find_held_rows(ledger, frozenset({"0" * 64})) == nothing
    pq.write_table(pa.table({"codes": [1]}), tmp_path / "codes.parquet")
    assert find_held_rows(tmp_path / "codes.parquet", frozenset({row["sample_id"]})) == nothing
    pq.write_table(pa.table({"sample_id": ["a", "b", "a"], "fit": [0.1, 0.2, 0.3]}), tmp_path / "scores.parquet")
    found = find_held_rows(tmp_path / "scores.parquet", frozenset({"a"}))
    assert found == HeldRows(rows=2, samples=frozenset({"a"}), names_samples_only=True)
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(DatasetError, match="verify --heal"):
        find_held_rows(tmp_path / "broken.parquet", frozenset({row["sample_id"]}))


def test_rows_of_samples_with_several_images_or_none_are_found(tmp_path: Path) -> None:
    rows = {"sample_id": ["a", "b", "c", "d"], "images": [[], ["x", "y"], None, ["y", "z"]]}
    pq.write_table(pa.table(rows), tmp_path / "records.parquet")
    assert find_held_rows(tmp_path / "records.parquet", frozenset({"y"})).samples == {"b", "d"}
    assert find_held_rows(tmp_path / "records.parquet", frozenset({"z", "c"})).samples == {"c", "d"}


def test_a_row_that_only_says_so_holds_nothing(tmp_path: Path) -> None:
    raw = raw_folder(tmp_path / "raw")
    digests = frozenset({hashlib.sha256(png(0)).hexdigest()})
    ids = {row["sample_id"] for row in ingest(raw, tmp_path / "all", Tombstones())}
    ingest(raw, tmp_path / "out", Tombstones(digests=digests))
    (records,) = (tmp_path / "out" / "records").iterdir()
    gone = next(row["sample_id"] for row in pq.read_table(records).to_pylist() if row["reject"])
    assert gone in ids
    assert find_held_rows(records, digests | {gone}).rows == 0


def test_the_hash_of_an_image_is_found_by_its_digest(dataset: Path) -> None:
    (ledger,) = (dataset / "ledger").iterdir()
    rows = pq.read_table(ledger).to_pylist()
    assert set(image_phashes(dataset, frozenset({rows[2]["images"][0]}))) == {rows[2]["phash"][0]}
    assert image_phashes(dataset, frozenset()) == {}
