"""The dataset card's head is what the Hub's own library takes, and its body says what is and what is not known."""

import datetime
from pathlib import Path

import pytest
from huggingface_hub import DatasetCard

from data_pipelines.audit.summary import audit_dataset
from data_pipelines.publishing.dataset_card import dataset_card, size_category
from data_pipelines.publishing.licences import known_licence
from data_pipelines.publishing.publication import Publication
from tests.data_pipelines.audit import test_summary as test_audit
from tests.data_pipelines.ledger_rows import ledger_row, write_ledgers

dataset = test_audit.dataset
PUBLICATION = Publication(published=datetime.date(2026, 11, 1))


def test_the_head_says_what_the_ledger_says(tmp_path: Path) -> None:
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
    assert {one["config_name"]: one["splits"][0]["num_examples"] for one in found["dataset_info"]} == {
        "default": 5,
        "ledger": 6,
    }
    assert "| caption\\_pii | 1 |" in text
    assert "records dropped for them: 1, with these replaced in them: 1." in text
    assert "- Kept records that state no licence: 1." in text
    assert "- Made by: not stated" in text


def test_words_from_outside_stay_words(dataset: Path) -> None:
    text = dataset_card(audit_dataset(dataset), PUBLICATION)
    assert "<script>" not in text.split("---\n", 2)[2].replace("\\<script\\>", "")
    assert "\u202e" not in text
    assert DatasetCard(text).data.to_dict()["license"] == ["other"]


@pytest.mark.parametrize(
    ("number", "word"),
    [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (10**6, "1M<n<10M"), (10**12, "n>1T"), (10**15, "n>1T")],
)
def test_sizes_have_the_words_of_the_hub(number: int, word: str) -> None:
    assert size_category(number) == word


@pytest.mark.parametrize(
    ("stated", "spdx", "hub"),
    [
        ("CC-BY-SA-2.0", "CC-BY-SA-2.0", "other"),
        ("cc_by 4.0", "CC-BY-4.0", "cc-by-4.0"),
        ("CC0", "CC0-1.0", "cc0-1.0"),
        ("ODbL-1.0", "ODbL-1.0", "odbl"),
        ("mit", "MIT", "mit"),
        ("Kodak: released for unrestricted usage", None, "other"),
        ("CC-BY", None, "other"),  # which version is not said
    ],
)
def test_licences_are_recognised_and_not_guessed(stated: str, spdx: str | None, hub: str) -> None:
    found = known_licence(stated)
    assert (found.spdx, found.hugging_face) == (spdx, hub)
