"""The Hub's own library reads the header of the dataset card; its body states what is known and what is not."""

import datetime
import re
import runpy
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import DatasetCard

from data_pipelines.audit.summary import audit_dataset
from data_pipelines.publishing.dataset_card import dataset_card, size_category
from data_pipelines.publishing.publication import Publication
from tests.data_pipelines.ledger_rows import ledger_row, read_ledgers, write_ledgers

PUBLICATION = Publication(published=datetime.date(2026, 11, 1))


def test_the_header_agrees_with_the_ledger(tmp_path: Path) -> None:
    rows = [ledger_row(number, language="de", license="CC-BY-4.0") for number in range(3)]
    rows += [
        ledger_row(4, language="en", task="generation", repairs=["caption_html", "caption_pii"]),
        ledger_row(5, license=None, language="not a code"),
        ledger_row(7, license=None, language="und", verdict="keep"),
    ]
    rows += [ledger_row(6, verdict="drop", reason="caption_pii", license="MIT", language="fr")]
    write_ledgers(tmp_path / "data", [rows])
    text = dataset_card(tmp_path / "data", audit_dataset(tmp_path / "data"), PUBLICATION)
    found = DatasetCard(text).data.to_dict()
    assert found["license"] == ["cc-by-4.0", "cc0-1.0", "unknown"]
    assert found["language"] == ["de", "en"]
    assert found["size_categories"] == ["n<1K"]
    assert found["task_categories"] == ["image-to-text", "visual-question-answering", "text-to-image"]
    (info,) = found["dataset_info"]
    assert info["splits"] == [{"name": "train", "num_bytes": info["dataset_size"], "num_examples": 7}]
    files = list((tmp_path / "data" / "ledger").iterdir())
    assert info["download_size"] == sum(path.stat().st_size for path in files)
    assert info["dataset_size"] > 0
    assert "| caption\\_pii | 1 |" in text
    assert "records dropped for them: 1, with these replaced in them: 1." in text
    assert "- Kept records that state no licence: 2." in text
    assert "- Made by: not stated" in text


def test_every_configuration_of_a_card_names_files_of_one_kind(dataset: Path) -> None:
    """`datasets` loads all configurations of a repository with the builder that fits the first one's files."""
    found = DatasetCard(dataset_card(dataset, audit_dataset(dataset), PUBLICATION)).data.to_dict()
    patterns = [files["path"] for entry in found["configs"] for files in entry["data_files"]]
    assert {Path(pattern).suffix for pattern in patterns} == {".parquet"}
    assert [entry["config_name"] for entry in found["configs"] if entry.get("default")] == ["ledger"]
    assert all(list(dataset.glob(pattern)) for pattern in patterns)


def test_the_lines_of_the_card_open_it_with_datasets(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loading = pytest.importorskip("datasets", reason="datasets is not installed; `pip install datasets`, run again")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "hub"
    shutil.copytree(dataset, folder)
    (folder / "README.md").write_text(dataset_card(dataset, audit_dataset(dataset), PUBLICATION), encoding="utf-8")
    loaded = loading.load_dataset(str(folder), "ledger", cache_dir=str(tmp_path / "cache"))
    assert loaded["train"].num_rows == len(list(read_ledgers(dataset)))


def test_foreign_text_is_escaped(dataset: Path) -> None:
    text = dataset_card(dataset, audit_dataset(dataset), PUBLICATION)
    assert "<script>" not in text.split("---\n", 2)[2].replace("\\<script\\>", "")
    assert "\u202e" not in text
    assert DatasetCard(text).data.to_dict()["license"] == ["other"]


@pytest.mark.parametrize(
    ("number", "word"),
    [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (10**6, "1M<n<10M"), (10**12, "n>1T"), (10**15, "n>1T")],
)
def test_sizes_have_the_categories_of_the_hub(number: int, word: str) -> None:
    assert size_category(number) == word


@pytest.fixture
def lines_of_card(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Runs the lines of the card that open the dataset with these libraries, in its folder; returns their names."""
    card = dataset_card(dataset, audit_dataset(dataset), PUBLICATION)
    blocks = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    monkeypatch.chdir(dataset)

    def run(*libraries: str) -> dict[str, Any]:
        found = [block for library in libraries for block in blocks if block.startswith(f"import {library}")]
        assert len(found) == len(libraries)
        (tmp_path / "lines.py").write_text("".join(found))
        return runpy.run_path(str(tmp_path / "lines.py"))

    return run


def counts(dataset: Path, *names: str) -> Counter[tuple[str | None, ...]]:
    return Counter(tuple(row[name] for name in names) for row in read_ledgers(dataset))


def test_the_lines_of_the_card_open_it_with_pyarrow_and_find_the_images(
    dataset: Path, lines_of_card: Callable[..., dict[str, Any]]
) -> None:
    names = lines_of_card("pyarrow", "tarfile")
    assert len(names["kept"]) == counts(dataset, "verdict")[("keep",)]
    assert names["members"][0] == f"{names['kept']['sample_id'][0].as_py()}.json"
    assert len(names["members"]) > 1


def test_the_lines_of_the_card_open_it_with_pandas(dataset: Path, lines_of_card: Callable[..., dict[str, Any]]) -> None:
    pytest.importorskip("pandas", reason="pandas is not installed; `pip install pandas` and run again")
    found = lines_of_card("pandas")["reasons"].items()
    plain = {(verdict, reason if isinstance(reason, str) else None): number for (verdict, reason), number in found}
    assert plain == counts(dataset, "verdict", "reason")


def test_the_lines_of_the_card_open_it_with_duckdb(dataset: Path, lines_of_card: Callable[..., dict[str, Any]]) -> None:
    pytest.importorskip("duckdb", reason="DuckDB is not installed; `pip install duckdb` and run again")
    rows = lines_of_card("duckdb")["reasons"].fetchall()
    assert {(verdict, reason): number for verdict, reason, number in rows} == counts(dataset, "verdict", "reason")
