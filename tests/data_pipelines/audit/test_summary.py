"""The counts of an audit are those of the ledgers."""

import json
from pathlib import Path

import pytest

from data_pipelines.audit.summary import audit_dataset, summary_text, summary_to_json
from data_pipelines.datasets.reader import DatasetError
from tests.data_pipelines.ledger_rows import ledger_row, read_ledgers, write_ledgers


def test_the_counts_are_those_of_the_ledger(dataset: Path) -> None:
    rows, summary = read_ledgers(dataset), audit_dataset(dataset)
    found = summary_to_json(summary)
    assert found["rows"] == len(rows)
    for verdict in ("keep", "drop", "duplicate", "near_duplicate"):
        chosen = [row for row in rows if row["verdict"] == verdict]
        assert found["verdicts"][verdict] == len(chosen) > 0
        assert found["bytes"][verdict] == sum(row["image_bytes"] or 0 for row in chosen)
    for name in ("reason", "task", "split"):
        for value, cell in found["tables"][name].items():
            assert sum(cell["rows"].values()) == sum((row[name] or None) == value for row in rows), (name, value)
    with_image = sum(row["width"] is not None for row in rows)
    for name in ("side", "aspect", "anchor"):
        assert sum(sum(cell["rows"].values()) for cell in found["tables"][name].values()) == with_image
    json.dumps(found)


def test_bins_are_in_order_and_other_values_by_number_of_rows(dataset: Path) -> None:
    tables = audit_dataset(dataset).tables
    assert list(tables["side"]) == ["under 64", "64 to 128"]
    totals = [cell.total for cell in tables["reason"].values()]
    assert totals == sorted(totals, reverse=True)


def test_the_text_has_a_line_for_every_reason_and_no_control_characters(dataset: Path) -> None:
    summary = audit_dataset(dataset)
    text = summary_text(summary)
    assert all(f"  {reason} " in text for reason in summary.tables["reason"])
    assert "\u202e" not in text


def test_a_folder_that_is_no_dataset_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"dataset.json: no such file; expected the folder of a curated dataset"):
        audit_dataset(tmp_path)


def test_a_damaged_ledger_is_named(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "ledger").mkdir()
    (tmp_path / "dataset.json").write_bytes((dataset / "dataset.json").read_bytes())
    shard = json.loads((dataset / "dataset.json").read_text())["shards"][0]
    (tmp_path / "ledger" / f"{shard}.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(DatasetError, match=f"{shard}.parquet: not a ledger that can be read"):
        audit_dataset(tmp_path)


def test_languages_have_a_table_and_older_ledgers_state_none(tmp_path: Path) -> None:
    rows = [ledger_row(number, language="de" if number % 2 else None) for number in range(10)]
    write_ledgers(tmp_path / "now", [rows])
    write_ledgers(tmp_path / "older", [rows], without=("language",))
    counts = {
        name: {value: cell.total for value, cell in audit_dataset(tmp_path / name).tables["language"].items()}
        for name in ("now", "older")
    }
    assert counts == {"now": {"de": 5, "none stated": 5}, "older": {"none stated": 10}}


def test_scores_that_are_no_objects_are_named(tmp_path: Path) -> None:
    write_ledgers(tmp_path / "data", [[ledger_row(1, scores="[not")]])
    with pytest.raises(DatasetError, match="found rows of another kind"):
        audit_dataset(tmp_path / "data")
