"""The identity of an ingested shard: its own source and images, wherever they are, and nothing else."""

import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from data_pipelines.ingest.config import FOLDER_FORMATS, IngestConfig
from orchestrator.artifact import JSON
from orchestrator.shards import ShardInput
from orchestrator.stage import Location
from stages.ingest import IngestStageConfig, IngestWorker, InputPaths, ingest_shards, sources

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


def test_a_folder_of_images_needs_no_other_place_for_them(raw: Path, tmp_path: Path) -> None:
    config = IngestConfig(source="mine", format=FOLDER_FORMATS[0])
    inputs = InputPaths(paths=(raw / "images",), images=(), metadata=None)
    for name in ("one", "two"):
        (raw / "images" / f"{name}.txt").write_text(f"the image {name}")
    (shard,) = ingest_shards(config, inputs)
    run = IngestWorker(config=config, inputs=inputs, tombstones={}).start()
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
