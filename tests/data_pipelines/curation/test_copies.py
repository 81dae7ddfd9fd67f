"""Copies are found within the scope that the config sets, and validation samples are kept."""

from pathlib import Path

import pytest
from PIL import ImageEnhance

from data_pipelines.curation.config import (
    CurationConfig,
)
from tests.data_pipelines.curation.curated import CONFIG, curate, drawn, encoded, records_of


@pytest.mark.parametrize(
    ("scope", "kept"),
    [
        ("sample", ["a", "c", "d"]),
        ("image_in_task", ["a", "d"]),
        ("image", ["a", "d"]),
        ("off", ["a", "b", "c", "d", "e"]),
    ],
)
def test_the_scope_decides_which_records_may_share_an_image(tmp_path: Path, scope: str, kept: list[str]) -> None:
    one, other = drawn(1), drawn(2)
    records = records_of(
        tmp_path,
        [
            ("a", encoded(one), "the first words"),
            ("b", encoded(one, "JPEG", quality=85), "the first words"),
            ("c", encoded(one), "some other words"),
            ("d", encoded(other), "the first words"),
            ("e", encoded(ImageEnhance.Brightness(other).enhance(0.96)), "the first words"),
        ],
    )
    config = CurationConfig(anchors=CONFIG.anchors, min_side=32, phash_distance=4, duplicate_scope=scope)
    ledger = curate(records, tmp_path / scope, config)
    assert [name for name, row in ledger.items() if row["verdict"] == "keep"] == kept


def test_a_training_copy_of_a_validation_sample_is_dropped(tmp_path: Path) -> None:
    data = encoded(drawn(3))
    records = records_of(tmp_path, [("train", data, "the same")], name="a_train")
    records_of(tmp_path, [("val", data, "the same")], name="b_val")
    ledger = curate(records, tmp_path / "out")
    assert [ledger[name]["verdict"] for name in ("train", "val")] == ["duplicate", "keep"]
