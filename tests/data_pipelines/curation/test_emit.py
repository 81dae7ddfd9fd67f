"""From records to a curated dataset: verdicts with reasons, spans that lead to samples, bytes that never change."""

import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageChops, ImageOps, ImageStat

from data_pipelines.audit.decisions import decisions
from data_pipelines.audit.summary import audit_dataset
from data_pipelines.audit.thumbnails import derive_thumbnails
from data_pipelines.curation.config import (
    decode_limits,
)
from data_pipelines.curation.emit import emit_shard, write_dataset
from data_pipelines.curation.judge import judge_shard
from data_pipelines.curation.measure import measure_shard
from data_pipelines.datasets.reader import CuratedDataset
from data_pipelines.shapes.config import ShapesConfig, SpoiltShares
from data_pipelines.shapes.world import generate_world
from tests.data_pipelines.curation.curated import CONFIG, curate, digests, drawn, encoded, ingest, records_of

WORLD = ShapesConfig(
    seed=5, understanding=60, generation=60, editing=20, text=20, lines_per_file=40,
    spoilt=SpoiltShares(exact_duplicates=0.08, near_duplicates=0.08, broken_files=0.08, bad_captions=0.08),
)  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The drawn world, ingested, with its truth in `truth/`."""
    folder = tmp_path_factory.mktemp("world")
    generate_world(folder, WORLD)
    ingest(folder / "records", [folder / "annotations"], sorted((folder / "images").iterdir()))
    return folder


@pytest.fixture(scope="module")
def truth(world: Path) -> dict[str, dict[str, Any]]:
    rows = [json.loads(text) for path in (world / "truth").iterdir() for text in path.read_text().splitlines()]
    return {row["id"]: row for row in rows}


def test_damage_and_copies_planted_on_purpose_are_found(
    world: Path, truth: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    ledger = curate(world / "records", tmp_path)
    assert ledger.keys() == truth.keys()
    kept_ids = {row["sample_id"] for row in ledger.values() if row["verdict"] == "keep"}
    for name, true in truth.items():
        found = ledger[name]
        if true["verdict"] == "drop":
            assert (found["verdict"], found["reason"]) == ("drop", true["reason"]), name
        if true["verdict"] in ("duplicate", "near_duplicate"):
            assert found["verdict"] in (true["verdict"], "duplicate"), name  # two like copies of one image
            assert found["duplicate_of"] in kept_ids
    kept = [name for name, true in truth.items() if true["verdict"] == "keep"]
    wrongly_dropped = [name for name in kept if ledger[name]["verdict"] not in ("keep", "near_duplicate", "duplicate")]
    assert wrongly_dropped == []
    assert sum(ledger[name]["verdict"] == "keep" for name in kept) > 0.95 * len(kept)


def test_the_ledger_has_the_span_of_every_kept_sample(world: Path, tmp_path: Path) -> None:
    ledger = curate(world / "records", tmp_path)
    dataset = CuratedDataset(tmp_path / "data")
    found = {}
    for shard in dataset.shards:
        for stored in dataset.stored_samples(shard, dataset.rows(shard)):
            images = [hashlib.sha256(stored.image_bytes(slot)).hexdigest() for slot in range(len(stored.sample.images))]
            found[stored.sample.sample_id] = images
            for image, digest in zip(stored.sample.images, images, strict=True):
                assert image.sha256 == digest
                assert image.anchor in CONFIG.anchors
    assert found == {row["sample_id"]: row["images"] for row in ledger.values() if row["verdict"] == "keep"}
    counts = json.loads((tmp_path / "data" / "dataset.json").read_text())
    assert counts["counts"]["keep"] == len(found)
    assert counts["rows"] == len(ledger)


def test_the_same_records_give_the_same_bytes(world: Path, tmp_path: Path) -> None:
    curate(world / "records", tmp_path / "one")
    curate(world / "records", tmp_path / "two")
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


def test_a_shard_does_not_depend_on_shards_without_copies_of_it(tmp_path: Path) -> None:
    records = records_of(tmp_path, [(f"a{n}", encoded(drawn(n)), f"scene {n}") for n in range(4)], name="one")
    curate(records, tmp_path / "alone")
    records_of(tmp_path, [(f"b{n}", encoded(drawn(n + 50)), f"other {n}") for n in range(4)], name="two")
    curate(records, tmp_path / "both")
    alone, both = digests(tmp_path / "alone" / "data"), digests(tmp_path / "both" / "data")
    assert {name: both[name] for name in alone if name != "dataset.json"} == {
        name: digest for name, digest in alone.items() if name != "dataset.json"
    }


@pytest.mark.parametrize("step", ["measure", "judge"])
def test_rows_that_killed_their_process_are_quarantined_and_never_decoded_again(tmp_path: Path, step: str) -> None:
    records = records_of(tmp_path, [(f"a{n}", encoded(drawn(n)), f"scene {n}") for n in range(3)])
    left = {0, 2}
    measure_shard(records, "part", tmp_path, decode_limits(CONFIG), rows=left if step == "measure" else None)
    judge_shard(records, tmp_path, "part", tmp_path, CONFIG, rows=left if step == "judge" else None)
    counts = emit_shard(records, tmp_path, "part", tmp_path / "data")
    ledger = pq.read_table(tmp_path / "data" / "ledger" / "part.parquet").to_pylist()
    assert [(row["verdict"], row["reason"]) for row in ledger] == [
        ("keep", None),
        ("drop", "quarantined"),
        ("keep", None),
    ]
    assert (counts["keep"], counts["drop"], counts["rows"]) == (2, 1, 3)
    write_dataset(tmp_path / "data", "test", {"part": tmp_path / "data" / "ledger" / "part.parquet"}, CONFIG)
    derive_thumbnails(tmp_path / "data", [records], tmp_path / "thumbnails")
    assert pq.read_table(tmp_path / "thumbnails" / "part.parquet")["verdict"].to_pylist() == ["keep", "keep"]


def test_repaired_texts_are_kept_reported_and_compared_among_copies(tmp_path: Path) -> None:
    same = encoded(drawn(1))
    lines = [("a", same, "a dog in a park"), ("b", same, "<p>a dog in a park</p>"), ("c", encoded(drawn(2)), "a cat")]
    records = records_of(tmp_path, lines)
    assert curate(records, tmp_path / "strict")["b"]["reason"] == "caption_html"
    found = curate(records, tmp_path / "out", replace(CONFIG, repair_captions=("caption_html",)))
    assert {key: (row["verdict"], row["repairs"]) for key, row in found.items()} == {
        "a": ("keep", []),
        "b": ("duplicate", ["caption_html"]),
        "c": ("keep", []),
    }
    records = records_of(tmp_path / "alone", lines[1:])
    found = curate(records, tmp_path / "alone" / "out", replace(CONFIG, repair_captions=("caption_html",)))
    assert (found["b"]["verdict"], found["b"]["caption"]) == ("keep", "a dog in a park")
    dataset = CuratedDataset(tmp_path / "alone" / "out" / "data")
    answers = {stored.sample.turns[1].text for stored in dataset.stored_samples("part", dataset.rows("part"))}
    assert answers == {"a dog in a park", "a cat"}
    verdicts = {decision["line"]: decision["verdict"] for decision in decisions(dataset.folder)}
    assert verdicts == {1: "keep:cleaned", 2: "keep"}
    assert {value: cell.total for value, cell in audit_dataset(dataset.folder).tables["repairs"].items()} == {
        "caption_html": 1
    }


def test_large_images_are_stored_resized_and_traced_by_their_original(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    large = encoded(drawn(1, (480, 640)), "JPEG", quality=95, exif=exif.tobytes())
    exact = encoded(drawn(2, (96, 72)))
    records = records_of(tmp_path, [("large", large, "a scene"), ("small", exact, "another scene")])
    ledger = curate(records, tmp_path / "out", replace(CONFIG, anchors=((96, 72), (72, 96)), max_stored_side=96))
    dataset = CuratedDataset(tmp_path / "out" / "data")
    samples = {stored.sample.sample_id: stored for stored in dataset.stored_samples("part", dataset.rows("part"))}
    large_sample = samples[ledger["large"]["sample_id"]]
    data, image = large_sample.image_bytes(0), large_sample.sample.images[0]
    assert (image.width, image.height, image.anchor) == (72, 96, (96, 72))
    assert hashlib.sha256(data).hexdigest() == image.sha256
    assert ledger["large"]["images"] == [hashlib.sha256(large).hexdigest()]  # by which it is traced
    with Image.open(io.BytesIO(data)) as small, Image.open(io.BytesIO(large)) as source:
        assert (small.size, small.format, dict(small.getexif())) == ((72, 96), "JPEG", {})
        plain = ImageOps.exif_transpose(source).resize(small.size, Image.Resampling.BICUBIC)
        assert ImageStat.Stat(ImageChops.difference(plain, small)).rms < [4, 4, 4]
    assert samples[ledger["small"]["sample_id"]].image_bytes(0) == exact


def test_an_empty_source_gives_an_empty_dataset(tmp_path: Path) -> None:
    assert curate(records_of(tmp_path, []), tmp_path / "out") == {}
    assert CuratedDataset(tmp_path / "out" / "data").shards == ("part",)
