"""The official library accepts the Croissant description without a warning, and reads every record through it."""

import datetime
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import mlcroissant
import pytest

from data_pipelines.audit.summary import audit_dataset
from data_pipelines.datasets.reader import DatasetError
from data_pipelines.publishing.croissant import croissant_metadata, hash_files, write_croissant
from data_pipelines.publishing.publication import Publication
from tests.data_pipelines.ledger_rows import ledger_row, read_ledgers, write_ledgers

PUBLICATION = Publication(
    creator="A team", url="https://example.org/data", published=datetime.date(2026, 11, 1), version="1.2.0"
)


def described_as_croissant(folder: Path, publication: Publication = PUBLICATION) -> dict[str, Any]:
    return croissant_metadata(folder, audit_dataset(folder), hash_files(folder), publication)


def test_the_official_library_finds_nothing_wrong_and_reads_every_record(dataset: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    shutil.copytree(dataset, folder)
    write_croissant(folder / "croissant.json", described_as_croissant(folder))
    found = mlcroissant.Dataset(folder / "croissant.json")
    issues = found.metadata.ctx.issues
    assert (issues.errors, issues.warnings) == (set(), set())
    assert found.metadata.ctx.is_v1_1()
    rows = read_ledgers(dataset)
    records = list(found.records("ledger"))
    assert len(records) == len(rows)
    by_source_row = {(row["source_file"], row["source_row"]): row for row in rows}
    for record in records:
        row = by_source_row[record["ledger/source_file"].decode(), int(record["ledger/source_row"])]
        assert record["ledger/sample_id"].decode() == row["sample_id"]
        assert record["ledger/verdict"].decode() == row["verdict"]
        assert [digest.decode() for digest in record["ledger/images"]] == row["images"]
        assert [int(value) for value in record["ledger/phash"]] == row["phash"]
        assert row["reason"] is None or record["ledger/reason"].decode() == row["reason"]
    samples = list(found.records("sample"))
    kept = {row["sample_id"] for row in rows if row["verdict"] == "keep"}
    assert {sample["sample/sample_id"].decode() for sample in samples} == kept
    for sample in samples:
        assert json.loads(sample["sample/json"])["sample_id"] == sample["sample/sample_id"].decode()


def test_every_file_is_listed_with_its_size_and_digest(dataset: Path) -> None:
    files = [entry for entry in described_as_croissant(dataset)["distribution"] if entry["@type"] == "cr:FileObject"]
    on_disk = {
        path.relative_to(dataset).as_posix() for name in ("ledger", "shards") for path in (dataset / name).iterdir()
    }
    assert {file["contentUrl"] for file in files} == on_disk | {"dataset.json"}
    for file in files:
        data = (dataset / file["contentUrl"]).read_bytes()
        assert file["sha256"] == hashlib.sha256(data).hexdigest()
        assert file["contentSize"] == f"{len(data)} B"


def test_required_fields_are_present_and_unknown_ones_are_not_made_up(tmp_path: Path) -> None:
    rows = [
        ledger_row(1),
        ledger_row(2, license="cc by 4.0"),
        ledger_row(3, license="Ask {Ann}"),
        ledger_row(4, license=None),
    ]
    write_ledgers(tmp_path / "data", [rows])
    found = described_as_croissant(tmp_path / "data")
    required = {"@context", "@type", "conformsTo", "description", "license", "name", "url", "creator", "datePublished"}
    assert required | {"distribution", "recordSet", "isLiveDataset", "citeAs", "version"} <= found.keys()
    assert found["conformsTo"][0] == "http://mlcommons.org/croissant/1.1"
    assert found["license"] == [
        {"@type": "sc:CreativeWork", "name": "Ask {Ann}"},
        "https://spdx.org/licenses/CC0-1.0.html",
        "https://spdx.org/licenses/CC-BY-4.0.html",
        {"@type": "sc:CreativeWork", "name": "none stated for some records"},
    ]
    assert "Kept records that state no licence: 1." in found["rai:dataLimitations"]
    assert "The language of the texts was not determined." in found["rai:dataLimitations"]
    assert not {"inLanguage", "rai:dataBiases", "rai:dataSocialImpact"} & found.keys()
    nameless = described_as_croissant(tmp_path / "data", Publication(published=datetime.date(2026, 11, 1)))
    assert nameless["creator"]["name"] == "not stated"
    assert nameless["url"].startswith("urn:sha256:")
    assert (
        nameless["url"]
        == described_as_croissant(tmp_path / "data", Publication(published=datetime.date(2026, 11, 2)))["url"]
    )


def test_a_name_cannot_break_out_of_the_citation(dataset: Path) -> None:
    found = described_as_croissant(dataset, Publication(creator="A}, note = {x\\evil"))
    assert "author = {A, note = xevil}" in found["citeAs"]


def test_a_tar_that_is_missing_is_named(tmp_path: Path) -> None:
    write_ledgers(tmp_path / "data", [[ledger_row(1)]])
    (tmp_path / "data" / "shards" / "s0.tar").unlink()
    with pytest.raises(DatasetError, match=r"s0.tar: cannot be read .*run `illume verify`"):
        hash_files(tmp_path / "data")
