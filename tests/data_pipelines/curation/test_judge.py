"""From records to a curated dataset: verdicts with reasons, places that lead to samples, bytes that never change."""

import dataclasses
import hashlib
import io
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageChops, ImageEnhance, ImageOps, ImageStat
from PIL.PngImagePlugin import PngInfo

from data_pipelines.audit.decisions import decisions
from data_pipelines.audit.summary import audit_dataset
from data_pipelines.curation.config import NOT_JUDGED, CurationConfig, emitting, judging, measuring, storing
from data_pipelines.curation.copies import find_duplicates
from data_pipelines.curation.emit import emit_shard, write_dataset
from data_pipelines.curation.judge import judge_shard
from data_pipelines.curation.measure import measure_shard
from data_pipelines.datasets.ingested_reader import record_shards
from data_pipelines.datasets.reader import CuratedDataset
from data_pipelines.datasets.tombstones import Tombstones
from data_pipelines.images.limits import DecodeLimits
from data_pipelines.ingest.config import IngestConfig
from data_pipelines.ingest.image_sources import open_images
from data_pipelines.ingest.shards import ingest_shard, plan_ingest
from data_pipelines.shapes.config import ShapesConfig, SpoiltShares
from data_pipelines.shapes.drawing import draw
from data_pipelines.shapes.scenes import invent_scene
from data_pipelines.shapes.world import generate_world

CONFIG = CurationConfig(anchors=((64, 64), (48, 96), (96, 48), (56, 72)), min_side=32)
WORLD = ShapesConfig(
    seed=5, understanding=60, generation=60, editing=20, text=20, lines_per_file=40,
    spoilt=SpoiltShares(exact_duplicates=0.08, near_duplicates=0.08, broken_files=0.08, bad_captions=0.08),
)  # fmt: skip


def picture(seed: int, size: tuple[int, int] = (64, 64)) -> Image.Image:
    return draw(invent_scene(ShapesConfig(seed=0, image_sizes=(size,)), random.Random(seed)))


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def records_of(
    folder: Path, lines: Sequence[tuple[str, bytes, str]], *, task: str = "understanding", name: str = "part"
) -> Path:
    """Ingest lines (id, picture bytes, caption) as one shard of `folder`."""
    raw = folder / f"raw-{name}"
    raw.mkdir(parents=True)
    rows = []
    for key, data, caption in lines:
        (raw / f"{key}.png").write_bytes(data)
        turns = ["<image>\nDescribe the image.", caption]
        if task == "generation":
            turns = [f"Generate an image of {{resolution_tag}}, the content of image is {caption}\n", "<image>"]
        said = [{"from": who, "value": text} for who, text in zip(("human", "gpt"), turns, strict=True)]
        rows.append(json.dumps({"id": key, "images": [f"{key}.png"], "conversations": said}))
    (folder / f"{name}.jsonl").write_text("\n".join(rows))
    ingest(folder / "records", [folder / f"{name}.jsonl"], [raw])
    return folder / "records"


def ingest(output: Path, paths: list[Path], images: list[Path]) -> None:
    config = IngestConfig(source="test")
    source = open_images(images, max_bytes=1 << 24, max_unpacked_bytes=1 << 30)
    for shard in plan_ingest(config, paths):
        ingest_shard(shard, output, config, images=source)


def curate(records: Path, output: Path, config: CurationConfig = CONFIG) -> dict[str, dict[str, Any]]:
    """The whole curation; ledger rows by external id."""
    names = record_shards(records)
    for name in names:
        measure_shard(records, name, output / "work", measuring(config), stored=storing(config))
        judge_shard(records, output / "work", name, output / "work", judging(config))
    copies = find_duplicates({name: output / "work" / "analysis" / f"{name}.parquet" for name in names}, config)
    smaller = output / "work" if storing(config) else None
    for name in names:
        emit_shard(
            records, output / "work", name, output / "data", emitting(config), copies=copies[name], smaller=smaller
        )
    write_dataset(
        output / "data", "test", {name: output / "data" / "ledger" / f"{name}.parquet" for name in names}, config
    )
    rows = [row for name in names for row in pq.read_table(output / "data" / "ledger" / f"{name}.parquet").to_pylist()]
    assert len({row["external_id"] for row in rows}) == len(rows)
    return {row["external_id"]: row for row in rows}


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The drawn world, ingested; its truth lies beside."""
    folder = tmp_path_factory.mktemp("world")
    generate_world(folder, WORLD)
    ingest(folder / "records", [folder / "annotations"], sorted((folder / "images").iterdir()))
    return folder


@pytest.fixture(scope="module")
def truth(world: Path) -> dict[str, dict[str, Any]]:
    rows = [json.loads(text) for path in (world / "truth").iterdir() for text in path.read_text().splitlines()]
    return {row["id"]: row for row in rows}


def test_what_was_spoilt_on_purpose_is_found(world: Path, truth: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    ledger = curate(world / "records", tmp_path)
    assert ledger.keys() == truth.keys()
    kept_ids = {row["sample_id"] for row in ledger.values() if row["verdict"] == "keep"}
    for name, true in truth.items():
        found = ledger[name]
        if true["verdict"] == "drop":
            assert (found["verdict"], found["reason"]) == ("drop", true["reason"]), name
        if true["verdict"] in ("duplicate", "near_duplicate"):
            assert found["verdict"] in (true["verdict"], "duplicate"), name  # two like copies of one picture
            assert found["duplicate_of"] in kept_ids
    kept = [name for name, true in truth.items() if true["verdict"] == "keep"]
    wrongly_dropped = [name for name in kept if ledger[name]["verdict"] not in ("keep", "near_duplicate", "duplicate")]
    assert wrongly_dropped == []
    assert sum(ledger[name]["verdict"] == "keep" for name in kept) > 0.95 * len(kept)


def test_the_ledger_leads_to_every_kept_sample(world: Path, tmp_path: Path) -> None:
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
    records = records_of(tmp_path, [(f"a{n}", encoded(picture(n)), f"scene {n}") for n in range(4)], name="one")
    curate(records, tmp_path / "alone")
    records_of(tmp_path, [(f"b{n}", encoded(picture(n + 50)), f"other {n}") for n in range(4)], name="two")
    curate(records, tmp_path / "both")
    alone, both = digests(tmp_path / "alone" / "data"), digests(tmp_path / "both" / "data")
    assert {name: both[name] for name in alone if name != "dataset.json"} == {
        name: digest for name, digest in alone.items() if name != "dataset.json"
    }


@pytest.mark.parametrize(
    ("scope", "kept"),
    [
        ("sample", ["a", "c", "d"]),
        ("image_in_task", ["a", "d"]),
        ("image", ["a", "d"]),
        ("off", ["a", "b", "c", "d", "e"]),
    ],
)
def test_the_scope_says_which_records_may_share_a_picture(tmp_path: Path, scope: str, kept: list[str]) -> None:
    one, other = picture(1), picture(2)
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


def test_a_training_copy_of_a_validation_sample_is_the_one_that_goes(tmp_path: Path) -> None:
    data = encoded(picture(3))
    records = records_of(tmp_path, [("train", data, "the same")], name="a_train")
    records_of(tmp_path, [("val", data, "the same")], name="b_val")
    ledger = curate(records, tmp_path / "out")
    assert [ledger[name]["verdict"] for name in ("train", "val")] == ["duplicate", "keep"]


def test_pictures_to_draw_must_fit_a_size_and_others_need_not(tmp_path: Path) -> None:
    wide = [("wide", encoded(picture(1, (40, 150))), "a scene")]
    asked = curate(records_of(tmp_path / "u", wide), tmp_path / "u")
    drawn = curate(records_of(tmp_path / "g", wide, task="generation"), tmp_path / "g")
    assert (asked["wide"]["verdict"], asked["wide"]["anchor_h"]) == ("keep", None)
    assert (drawn["wide"]["verdict"], drawn["wide"]["reason"]) == ("drop", "unmatched_aspect")


@pytest.mark.parametrize("step", ["measure", "judge"])
def test_rows_that_killed_their_process_are_dropped_by_name_and_never_decoded_again(tmp_path: Path, step: str) -> None:
    records = records_of(tmp_path, [(f"a{n}", encoded(picture(n)), f"scene {n}") for n in range(3)])
    left = {0, 2}
    measure_shard(records, "part", tmp_path, measuring(CONFIG), rows=left if step == "measure" else None)
    judge_shard(records, tmp_path, "part", tmp_path, CONFIG, rows=left if step == "judge" else None)
    counts = emit_shard(records, tmp_path, "part", tmp_path / "data", emitting(CONFIG))
    ledger = pq.read_table(tmp_path / "data" / "ledger" / "part.parquet").to_pylist()
    assert [(row["verdict"], row["reason"]) for row in ledger] == [
        ("keep", None),
        ("drop", "quarantined"),
        ("keep", None),
    ]
    assert (counts["keep"], counts["drop"], counts["rows"]) == (2, 1, 3)
    shown = pq.read_table(tmp_path / "data" / "thumbnails" / "part.parquet")
    assert shown["verdict"].to_pylist() == ["keep", "keep"]


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
def test_thresholds_are_held_against_what_was_measured_once(
    tmp_path: Path, change: dict[str, Any], reasons: list[str | None]
) -> None:
    note = PngInfo()
    note.add_text("Comment", "noai")
    pictures = [encoded(picture(1)), encoded(picture(2, (24, 24))), encoded(picture(3), pnginfo=note)]
    lines = [(f"a{place}", data, "a scene") for place, data in enumerate(pictures)]
    records = records_of(tmp_path, lines)
    measure_shard(records, "part", tmp_path, measuring(CONFIG))
    (records / "images" / "part.tar").unlink()  # no picture is read again
    judge_shard(records, tmp_path, "part", tmp_path, replace(CONFIG, **change))
    assert pq.read_table(tmp_path / "analysis" / "part.parquet")["reason"].to_pylist() == reasons


def test_what_was_taken_down_is_known_again_by_what_was_measured(tmp_path: Path) -> None:
    records = records_of(tmp_path, [(f"a{n}", encoded(picture(n)), "a scene") for n in range(2)])
    measure_shard(records, "part", tmp_path, measuring(CONFIG))
    measured = pq.read_table(tmp_path / "measured" / "part.parquet")["pictures"].to_pylist()
    tombstones = Tombstones(looks=frozenset([(measured[1][0]["phash"] ^ 0b101, 2)]))
    judge_shard(records, tmp_path, "part", tmp_path, CONFIG, tombstones=tombstones)
    assert pq.read_table(tmp_path / "analysis" / "part.parquet")["reason"].to_pylist() == [None, "taken_down"]


def test_each_step_is_told_only_what_it_reads() -> None:
    copies = replace(CONFIG, duplicate_scope="image", phash_distance=3, colour_distance=1.0, mirrored_pictures=False)
    assert judging(copies) == judging(CONFIG) != judging(replace(CONFIG, min_side=33))
    assert emitting(copies) == emitting(replace(CONFIG, min_side=33)) != emitting(replace(CONFIG, thumbnail_side=64))
    assert measuring(copies) == measuring(replace(CONFIG, min_side=33)) != measuring(replace(CONFIG, max_pixels=99))
    fields = {field.name for field in dataclasses.fields(CurationConfig)}
    assert fields > NOT_JUDGED
    assert {field.name for field in dataclasses.fields(DecodeLimits)} <= NOT_JUDGED
    assert DecodeLimits() == measuring(CurationConfig(anchors=((64, 64),)))


def test_repaired_words_are_kept_and_told_of_and_what_copies_are_known_by(tmp_path: Path) -> None:
    same = encoded(picture(1))
    lines = [("a", same, "a dog in a park"), ("b", same, "<p>a dog in a park</p>"), ("c", encoded(picture(2)), "a cat")]
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
    said = {stored.sample.turns[1].text for stored in dataset.stored_samples("part", dataset.rows("part"))}
    assert said == {"a dog in a park", "a cat"}
    verdicts = {one["line"]: one["verdict"] for one in decisions(dataset.folder)}
    assert verdicts == {1: "keep:cleaned", 2: "keep"}
    assert {value: cell.total for value, cell in audit_dataset(dataset.folder).tables["repairs"].items()} == {
        "caption_html": 1
    }


def test_large_pictures_are_stored_as_small_as_asked_and_known_by_what_they_were(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    large = encoded(picture(1, (480, 640)), "JPEG", quality=95, exif=exif.tobytes())
    exact = encoded(picture(2, (96, 72)))
    records = records_of(tmp_path, [("large", large, "a scene"), ("small", exact, "another scene")])
    ledger = curate(records, tmp_path / "out", replace(CONFIG, anchors=((96, 72), (72, 96)), max_stored_side=96))
    dataset = CuratedDataset(tmp_path / "out" / "data")
    stored = {one.sample.sample_id: one for one in dataset.stored_samples("part", dataset.rows("part"))}
    one = stored[ledger["large"]["sample_id"]]
    data, image = one.image_bytes(0), one.sample.images[0]
    assert (image.width, image.height, image.anchor) == (72, 96, (96, 72))
    assert hashlib.sha256(data).hexdigest() == image.sha256
    assert ledger["large"]["images"] == [hashlib.sha256(large).hexdigest()]  # by which it is traced
    with Image.open(io.BytesIO(data)) as small, Image.open(io.BytesIO(large)) as source:
        assert (small.size, small.format, dict(small.getexif())) == ((72, 96), "JPEG", {})
        plain = ImageOps.exif_transpose(source).resize(small.size, Image.Resampling.BICUBIC)
        assert ImageStat.Stat(ImageChops.difference(plain, small)).rms < [4, 4, 4]
    assert stored[ledger["small"]["sample_id"]].image_bytes(0) == exact


def test_licences_are_an_allow_list(tmp_path: Path) -> None:
    records = records_of(tmp_path, [("a", encoded(picture(1)), "a scene")])
    config = CurationConfig(anchors=CONFIG.anchors, min_side=32, allowed_licenses=("MIT",))
    assert curate(records, tmp_path / "out", config)["a"]["reason"] == "license_not_allowed"


def test_an_empty_source_gives_an_empty_dataset(tmp_path: Path) -> None:
    assert curate(records_of(tmp_path, []), tmp_path / "out") == {}
    assert CuratedDataset(tmp_path / "out" / "data").shards == ("part",)


def test_thumbnails_show_each_verdict_and_are_few(world: Path, tmp_path: Path) -> None:
    curate(world / "records", tmp_path)
    rows = [row for path in (tmp_path / "data" / "thumbnails").iterdir() for row in pq.read_table(path).to_pylist()]
    assert {row["verdict"] for row in rows} == {"keep", "drop", "duplicate", "near_duplicate"}
    assert all(row["jpeg"] is None for row in rows if row["reason"] in ("zero_byte", "not_an_image"))
    assert all(Image.open(io.BytesIO(row["jpeg"])).size for row in rows if row["verdict"] == "keep")
    shards = len(list((tmp_path / "data" / "thumbnails").iterdir()))
    assert sum(row["verdict"] == "keep" and row["slot"] == 0 for row in rows) <= CONFIG.thumbnails_per_reason * shards


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"anchors": ()}, "anchors: expected at least one"),
        ({"duplicate_scope": "all"}, "duplicate_scope: found 'all', expected one of"),
        ({"formats": ("EPS",)}, "formats: found"),
        ({"phash_distance": 40}, "phash_distance: found 40"),
        ({"max_stored_side": 63}, "max_stored_side: found 63, expected at least 64"),
        ({"stored_quality": 96}, "stored_quality: found 96, expected 1 to 95"),
        ({"repair_captions": ("caption_long",)}, "repair_captions: found .'caption_long'"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CurationConfig(**{"anchors": ((64, 64),), **change})
