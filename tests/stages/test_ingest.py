"""The identity of an ingested shard: its own source and images, wherever they are, and nothing else."""

import hashlib
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_pipelines.ingest.config import FOLDER_FORMATS, IngestConfig
from models.errors import DataError
from orchestrator.artifact import JSON
from orchestrator.identity import fingerprint_of
from orchestrator.shards import ShardInput
from orchestrator.stage import Location
from orchestrator.testing import FolderInputs, folder_artifact, folder_context, run_stage
from stages.ingest import INGEST, IngestStageConfig, IngestWorker, InputPaths, ingest_shards, sources

CONFIG = IngestConfig(source="mine")


def write_lines(file: Path, images: list[str]) -> None:
    rows = []
    for number, image in enumerate(images):
        turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": f"a thing, {number}"}]
        rows.append(json.dumps({"id": f"{file.stem}-{number}", "images": [image], "conversations": turns}))
    file.write_text("\n".join(rows) + "\n")


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Two annotation files with a folder of images; `b.jsonl` names an image that is absent."""
    raw = tmp_path / "raw"
    (raw / "images").mkdir(parents=True)
    for number, name in enumerate(["one.png", "two.png"]):
        Image.new("RGB", (40, 40), (number, 0, 0)).save(raw / "images" / name)
    write_lines(raw / "a.jsonl", ["one.png"])
    write_lines(raw / "b.jsonl", ["two.png", "absent.png"])
    return raw


def identities(raw: Path, config: IngestConfig = CONFIG) -> dict[str, tuple[JSON, ...]]:
    """The items and identity of each shard."""
    inputs = InputPaths(paths=(raw,), images=(raw / "images",), metadata=None)
    return {shard.name: (*shard.items, shard.identity) for shard in ingest_shards(config, inputs)}


def add_source(raw: Path) -> None:
    write_lines(raw / "c.jsonl", ["one.png"])


def add_unnamed_image(raw: Path) -> None:
    Image.new("RGB", (40, 40), (9, 9, 9)).save(raw / "images" / "three.png")


def change_a_line(raw: Path) -> None:
    (raw / "b.jsonl").write_text((raw / "b.jsonl").read_text().replace("a thing", "another thing"))


def change_an_image(raw: Path) -> None:
    Image.new("RGB", (40, 40), (7, 7, 7)).save(raw / "images" / "two.png")


def add_the_absent_image(raw: Path) -> None:
    Image.new("RGB", (40, 40), (8, 8, 8)).save(raw / "images" / "absent.png")


@pytest.mark.parametrize(
    ("change", "affected"),
    [
        (add_source, set()),
        (add_unnamed_image, set()),
        (change_a_line, {"b"}),
        (change_an_image, {"b"}),
        (add_the_absent_image, {"b"}),
    ],
)
def test_a_change_affects_only_the_shards_that_read_it(
    raw: Path, change: Callable[[Path], None], affected: set[str]
) -> None:
    before = identities(raw)
    change(raw)
    after = identities(raw)
    assert {name for name in before if before[name] != after[name]} == affected


def test_the_location_of_the_data_does_not_matter(raw: Path, tmp_path: Path) -> None:
    before = identities(raw)
    shutil.move(raw, tmp_path / "moved")
    assert identities(tmp_path / "moved") == before


def test_images_in_a_tar_count_with_the_whole_tar(raw: Path, tmp_path: Path) -> None:
    def identity_of_a() -> dict[str, JSON]:
        with tarfile.open(tmp_path / "pictures.tar", "w") as tar:
            for name in ("one.png", "two.png"):
                tar.add(raw / "images" / name, name)
        inputs = InputPaths(paths=(raw / "a.jsonl",), images=(tmp_path / "pictures.tar",), metadata=None)
        (shard,) = ingest_shards(CONFIG, inputs)
        return shard.identity

    before = identity_of_a()
    assert identity_of_a() == before
    change_an_image(raw)
    assert identity_of_a() != before


def test_what_the_manifest_of_an_input_says_is_not_hashed_again(raw: Path, tmp_path: Path) -> None:
    tar_file, text = tmp_path / "images.tar", raw / "a.jsonl"
    with tarfile.open(tar_file, "w") as tar:
        tar.add(raw / "images" / "one.png", "one.png")
    inputs = InputPaths(paths=(text,), images=(tar_file,), metadata=None)
    known = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in (tar_file, text)}
    assert ingest_shards(CONFIG, inputs, known) == ingest_shards(CONFIG, inputs)
    (shard,) = ingest_shards(CONFIG, inputs, {tar_file: "1" * 64, text: "2" * 64})
    assert shard.identity["source"] == "2" * 64
    archives: Any = shard.work["archives"]
    assert list(archives.values()) == ["1" * 64]


def test_an_input_of_the_store_is_known_by_the_digests_of_its_manifest(raw: Path, tmp_path: Path) -> None:
    (raw / "annotations").mkdir()
    (raw / "a.jsonl").rename(raw / "annotations" / "a.jsonl")
    with tarfile.open(raw / "images" / "all.tar", "w") as tar:
        tar.add(raw / "images" / "one.png", "one.png")
    artifact = folder_artifact(raw, "raw@1")
    recorded = {"annotations/a.jsonl": "1" * 64, "images/all.tar": "2" * 64}
    files = tuple(replace(file, sha256=recorded.get(file.path, file.sha256)) for file in artifact.manifest.files)
    artifact = replace(artifact, manifest=replace(artifact.manifest, files=files))
    context = folder_context(INGEST, tmp_path / "work", inputs={"raw": artifact})
    context.source_digests = {"paths/a.jsonl": "1" * 64, "images/0": "2" * 64}  # compared with those that it finds
    assert run_stage(INGEST, IngestStageConfig(read=CONFIG), context)["rows"] == 1


def test_a_folder_of_images_needs_no_other_place_for_them(raw: Path, tmp_path: Path) -> None:
    config = IngestConfig(source="mine", format=FOLDER_FORMATS[0])
    inputs = InputPaths(paths=(raw / "images",), images=(), metadata=None)
    for name in ("one", "two"):
        (raw / "images" / f"{name}.txt").write_text(f"the image {name}")
    (shard,) = ingest_shards(config, inputs)
    run = IngestWorker(config=config, inputs=inputs, node=FolderInputs(), tombstones={}).start()
    folder = tmp_path / "out"
    folder.mkdir()
    done = run(ShardInput(name=shard.name, items=shard.items, work=shard.work, output=folder))
    assert (done.rows, done.metrics["rejects"]) == (2, 0.0)


@pytest.mark.parametrize("name", ["x" * 300 + ".png", "\ud800.png", "a\x00b.png", ""])
def test_a_hostile_name_stops_nothing(raw: Path, name: str) -> None:
    before = identities(raw)
    write_lines(raw / "b.jsonl", ["two.png", name])
    assert identities(raw)["b"] != before["b"]


@pytest.mark.parametrize("escape", ["../secret.png", "{folder}/secret.png"])
def test_files_outside_the_folders_are_never_read(raw: Path, escape: str) -> None:
    write_lines(raw / "b.jsonl", [escape.format(folder=raw)])
    before = identities(raw)
    (raw / "secret.png").write_bytes(b"not yours")
    assert identities(raw) == before


def test_names_of_sources_do_not_depend_on_their_location(raw: Path, tmp_path: Path) -> None:
    def named(folder: Path) -> set[str]:
        config = IngestStageConfig(
            read=CONFIG, paths=(Location(str(folder)),), images=(Location(str(folder / "images")),)
        )
        found = sources(config)
        assert all(path.is_file() for path in found.values())
        return set(found)

    before = named(raw)
    assert before == {"paths/a.jsonl", "paths/b.jsonl", "images/0/one.png", "images/0/two.png"}
    shutil.move(raw, tmp_path / "moved")
    assert named(tmp_path / "moved") == before


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            IngestStageConfig(read=CONFIG, paths=(Location("nowhere"),)),
            "nowhere: found nothing to ingest, expected .jsonl",
        ),
        (
            IngestStageConfig(read=CONFIG, paths=(Location("a.jsonl"),), images=(Location("nowhere"),)),
            "images: no folder or tar 'nowhere'; give the one with the images",
        ),
    ],
)
def test_missing_inputs_are_named(
    raw: Path, monkeypatch: pytest.MonkeyPatch, config: IngestStageConfig, message: str
) -> None:
    monkeypatch.chdir(raw)
    with pytest.raises(FileNotFoundError, match=message):
        sources(config)


def stage_config(raw: Path, **more: Any) -> IngestStageConfig:
    read = {"source": "mine", **more}
    return IngestStageConfig(read=IngestConfig(**read), paths=(Location(str(raw)),), images=(Location(str(raw)),))


def planned(config: IngestStageConfig) -> dict[str, str]:
    """What decides whether the stage runs again: each file that it reads, with its digest."""
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in sources(config).items()}


def produced(config: IngestStageConfig, output: Path) -> dict[str, str]:
    """The digests of the files that ingesting makes."""
    paths = InputPaths(paths=tuple(map(Path, config.paths)), images=tuple(map(Path, config.images)), metadata=None)
    run = IngestWorker(config=config.read, inputs=paths, node=FolderInputs(), tombstones={}).start()
    for shard in ingest_shards(config.read, paths):
        work = json.loads(json.dumps(shard.work))
        run(ShardInput(name=shard.name, items=shard.items, work=work, output=output))
    files = sorted(path for path in output.rglob("*") if path.is_file())
    return {str(path.relative_to(output)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def small_set(folder: Path, layout: str) -> Path:
    """A few records of one layout, among files that nobody reads."""
    folder.mkdir()
    for number, name in enumerate(("a.png", "b.png", "thumbnail.jpg")):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(folder / name)
    (folder / ".DS_Store").write_bytes(b"finder")
    (folder / "notes.md").write_text("notes")
    rows = [{"image": f"{name}.png", "caption": name} for name in ("a", "b", "c")]
    if layout == "json":
        (folder / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif layout == "csv":
        (folder / "x.csv").write_text("image,caption\na.png,one\nb.png,two\nc.png,3\n")
    elif layout == "parquet":
        cells = [{"bytes": None, "path": "a.png"}, {"bytes": (folder / "b.png").read_bytes(), "path": "b.png"}]
        pq.write_table(pa.table({"image": cells, "caption": ["one", "two"]}), folder / "x.parquet")
    elif layout == "arrow":
        with pa.ipc.new_stream(folder / "x.arrow", pa.Table.from_pylist(rows).schema) as writer:
            writer.write_table(pa.Table.from_pylist(rows))
    elif layout == "coco":
        images = [{"id": n, "file_name": name} for n, name in enumerate(("a.png", "b.png"))]
        captions = [{"image_id": n, "caption": f"number {n}"} for n in (0, 0, 1)]
        (folder / "x.json").write_text(json.dumps({"images": images, "annotations": captions}))
    elif layout == "tar":
        with tarfile.open(folder / "x.tar", "w") as tar:
            for name in ("a.png", "b.png", "notes.md"):
                tar.add(folder / name, name)
    else:
        words = {"a.txt": "one", "a.caption": "unread", "b.caption": "two", "b.json": '{"license": "MIT"}'}
        for name, text in words.items():
            (folder / name).write_text(text)
    return folder


LAYOUTS = ("json", "csv", "parquet", "arrow", "coco", "tar", "image_caption_pairs", "images_only")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_changed_byte_is_seen_by_the_plan_or_changes_nothing(layout: str, tmp_path: Path) -> None:
    raw = small_set(tmp_path / "raw", layout)
    config = stage_config(raw, **({"format": layout} if layout in FOLDER_FORMATS else {}))
    before, unchanged = planned(config), produced(config, tmp_path / "unchanged")
    assert not any("DS_Store" in name or "notes.md" in name for name in before)
    random = Random(7)
    for number, file in enumerate(sorted(path for path in raw.rglob("*") if path.is_file())):
        data = file.read_bytes()
        for place in (0, len(data) - 1, random.randrange(len(data))):
            file.write_bytes(data[:place] + bytes([data[place] ^ 0x11]) + data[place + 1 :])
            if planned(config) == before:
                assert produced(config, tmp_path / f"changed-{number}-{place}") == unchanged, (
                    f"{file.name}, byte {place}"
                )
        file.write_bytes(data)
    assert planned(config) == before


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_stray_file_is_no_part_of_the_plan(layout: str, tmp_path: Path) -> None:
    raw = small_set(tmp_path / "raw", layout)
    config = stage_config(raw, **({"format": layout} if layout in FOLDER_FORMATS else {}))
    before = planned(config)
    for name in (".nfs000", "._a.png", ".ipynb_checkpoints/x.jsonl", "Thumbs.db", "sub/old.bak", "x.jsonl~"):
        (raw / name).parent.mkdir(exist_ok=True)
        (raw / name).write_bytes(b"stray")
    if layout not in FOLDER_FORMATS:
        (raw / "sub" / "unnamed.png").write_bytes(b"stray")
    assert planned(config) == before


def test_corrected_words_are_read_whatever_their_file_is_called(tmp_path: Path) -> None:
    raw = small_set(tmp_path / "raw", "image_caption_pairs")
    config = stage_config(raw, format="image_caption_pairs")
    before = planned(config)
    (raw / "b.caption").write_text("corrected")
    after = planned(config)
    assert {name for name in before if before[name] != after[name]} == {"images/raw/b.caption"}
    (raw / "b.txt").write_text("comes first")
    assert planned(config).keys() - after.keys() == {"images/raw/b.txt"}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_files_that_changed_since_the_plan_are_not_ingested_under_its_identity(layout: str, tmp_path: Path) -> None:
    raw = small_set(tmp_path / "raw", layout)
    config = stage_config(raw, **({"format": layout} if layout in FOLDER_FORMATS else {}))
    context = folder_context(INGEST, tmp_path / "work")
    context.source_digests = planned(config)
    run_stage(INGEST, config, context)
    file = next(path for path in sources(config).values() if path.is_file())
    file.write_bytes(file.read_bytes() + b"\n")
    again = folder_context(INGEST, tmp_path / "again")
    again.source_digests = context.source_digests
    with pytest.raises(DataError, match="source files changed after the plan was made"):
        run_stage(INGEST, config, again)


def test_names_that_are_not_unicode_can_be_planned_and_read(tmp_path: Path) -> None:
    raw = small_set(tmp_path / "raw", "image_caption_pairs")
    for ending in ("png", "txt"):
        shutil.copy(raw / f"a.{ending}", os.fsencode(raw) + b"/caf\xe9." + ending.encode())
    (raw / "a.txt").rename(os.fsdecode(os.fsencode(raw) + b"/sub\xe9.txt"))
    config = stage_config(raw, format="image_caption_pairs")
    fingerprint_of({"sources": dict(planned(config))})
    context = folder_context(INGEST, tmp_path / "work")
    context.source_digests = planned(config)
    assert run_stage(INGEST, config, context)["rejects"] == 1  # the thumbnail has no words
