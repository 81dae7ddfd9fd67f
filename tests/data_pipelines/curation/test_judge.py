"""From records to a curated dataset: verdicts with reasons, places that lead to samples, bytes that never change."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL.PngImagePlugin import PngInfo

from data_pipelines.curation.config import (
    CurationConfig,
    decode_limits,
)
from data_pipelines.curation.judge import judge_shard
from data_pipelines.curation.measure import measure_shard
from data_pipelines.datasets.tombstones import Tombstones
from tests.data_pipelines.curation.curated import CONFIG, curate, drawn, encoded, records_of


def test_images_to_generate_must_fit_an_anchor_and_others_need_not(tmp_path: Path) -> None:
    wide = [("wide", encoded(drawn(1, (40, 150))), "a scene")]
    understood = curate(records_of(tmp_path / "u", wide), tmp_path / "u")
    generated = curate(records_of(tmp_path / "g", wide, task="generation"), tmp_path / "g")
    assert (understood["wide"]["verdict"], understood["wide"]["anchor_h"]) == ("keep", None)
    assert (generated["wide"]["verdict"], generated["wide"]["reason"]) == ("drop", "unmatched_aspect")


@pytest.mark.parametrize(
    ("change", "reasons"),
    [
        ({}, [None, "too_small", "opted_out"]),
        ({"min_side": 16}, [None, None, "opted_out"]),
        ({"respect_opt_out": False}, [None, "too_small", None]),
        ({"min_caption_chars": 8}, ["caption_too_short", "too_small", "opted_out"]),
        ({"languages": ("de",)}, ["language_not_allowed", "too_small", "opted_out"]),
    ],
)
def test_thresholds_are_applied_to_measurements_made_once(
    tmp_path: Path, change: dict[str, Any], reasons: list[str | None]
) -> None:
    note = PngInfo()
    note.add_text("Comment", "noai")
    images = [encoded(drawn(1)), encoded(drawn(2, (24, 24))), encoded(drawn(3), pnginfo=note)]
    lines = [(f"a{index}", data, "a scene") for index, data in enumerate(images)]
    records = records_of(tmp_path, lines)
    measure_shard(records, "part", tmp_path, decode_limits(CONFIG))
    (records / "images" / "part.tar").unlink()  # no image is read again
    judge_shard(records, tmp_path, "part", tmp_path, replace(CONFIG, **change))
    assert pq.read_table(tmp_path / "analysis" / "part.parquet")["reason"].to_pylist() == reasons


def test_what_was_taken_down_is_recognised_by_its_measured_hash(tmp_path: Path) -> None:
    records = records_of(tmp_path, [(f"a{n}", encoded(drawn(n)), "a scene") for n in range(2)])
    measure_shard(records, "part", tmp_path, decode_limits(CONFIG))
    measured = pq.read_table(tmp_path / "measured" / "part.parquet")["measured_images"].to_pylist()
    tombstones = Tombstones(phashes=frozenset([(measured[1][0]["phash"] ^ 0b101, 2)]))
    judge_shard(records, tmp_path, "part", tmp_path, CONFIG, tombstones=tombstones)
    assert pq.read_table(tmp_path / "analysis" / "part.parquet")["reason"].to_pylist() == [None, "taken_down"]


def test_licences_are_an_allow_list(tmp_path: Path) -> None:
    records = records_of(tmp_path, [("a", encoded(drawn(1)), "a scene")])
    config = CurationConfig(anchors=CONFIG.anchors, min_side=32, allowed_licenses=("MIT",))
    assert curate(records, tmp_path / "out", config)["a"]["reason"] == "license_not_allowed"
