"""The Hub's own library reads the header of the dataset card; its body states what is known and what is not."""

import datetime
from pathlib import Path

import pytest
from huggingface_hub import DatasetCard

from data_pipelines.audit.summary import audit_dataset
from data_pipelines.publishing.dataset_card import dataset_card, size_category
from data_pipelines.publishing.publication import Publication
from tests.data_pipelines.ledger_rows import ledger_row, write_ledgers

PUBLICATION = Publication(published=datetime.date(2026, 11, 1))


def test_the_header_agrees_with_the_ledger(tmp_path: Path) -> None:
    rows = [ledger_row(number, language="de", license="CC-BY-4.0") for number in range(3)]
    rows += [
        ledger_row(4, language="en", task="generation", repairs=["caption_html", "caption_pii"]),
        ledger_row(5, license=None, language="not a code"),
    ]
    rows += [ledger_row(6, verdict="drop", reason="caption_pii", license="MIT", language="fr")]
    write_ledgers(tmp_path / "data", [rows])
    text = dataset_card(audit_dataset(tmp_path / "data"), PUBLICATION)
    found = DatasetCard(text).data.to_dict()
    assert found["license"] == ["cc-by-4.0", "cc0-1.0", "unknown"]
    assert found["language"] == ["de", "en"]
    assert found["size_categories"] == ["n<1K"]
    assert found["task_categories"] == ["image-to-text", "visual-question-answering", "text-to-image"]
    assert {entry["config_name"]: entry["splits"][0]["num_examples"] for entry in found["dataset_info"]} == {
        "default": 5,
        "ledger": 6,
    }
    assert "| caption\\_pii | 1 |" in text
    assert "records dropped for them: 1, with these replaced in them: 1." in text
    assert "- Kept records that state no licence: 1." in text
    assert "- Made by: not stated" in text


def test_foreign_text_is_escaped(dataset: Path) -> None:
    text = dataset_card(audit_dataset(dataset), PUBLICATION)
    assert "<script>" not in text.split("---\n", 2)[2].replace("\\<script\\>", "")
    assert "\u202e" not in text
    assert DatasetCard(text).data.to_dict()["license"] == ["other"]


@pytest.mark.parametrize(
    ("number", "word"),
    [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (10**6, "1M<n<10M"), (10**12, "n>1T"), (10**15, "n>1T")],
)
def test_sizes_have_the_categories_of_the_hub(number: int, word: str) -> None:
    assert size_category(number) == word
