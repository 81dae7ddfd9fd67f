"""Source files to ingest, and the rows that ingest makes of them."""

import io
import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from PIL import Image

from data_pipelines.archives.tar_writer import TarWriter
from data_pipelines.ingest.config import IngestConfig
from data_pipelines.ingest.files.counted_files import CountedFiles, ImageSources
from data_pipelines.ingest.formats import count_files
from data_pipelines.ingest.shards import (
    ingest_shard,
    plan_ingest,
    shard_from_json,
    shard_to_json,
)

LIMITS = {"max_bytes": 1 << 20, "max_unpacked_bytes": 1 << 30}
ILLUME = IngestConfig(source="mine")


def png(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 10, 10)).save(buffer, "PNG")
    return buffer.getvalue()


def line(name: str, caption: str = "a red circle", **more: Any) -> dict[str, Any]:
    turns = [{"from": "human", "value": "<image>\nDescribe the image."}, {"from": "gpt", "value": caption}]
    return {"id": name, "images": [f"{name}.png"], "conversations": turns, **more}


def raw_folder(folder: Path, names: str = "abc") -> Path:
    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    for number, name in enumerate(names):
        (folder / "images" / f"{name}.png").write_bytes(png(number))
    text = "".join(json.dumps(line(name)) + "\n" for name in names)
    (folder / "annotations" / "some_val.jsonl").write_text(text)
    return folder


def ingest(
    output: Path, config: IngestConfig, paths: list[Path], images: list[Path] | None = None, **more: Any
) -> list[dict[str, Any]]:
    """All rows of all shards, in order."""
    sources = ImageSources(images or [], **LIMITS)
    rows = []
    for shard in plan_ingest(config, paths):
        files = CountedFiles(sources.of(shard), digest=lambda path: sha256(path.read_bytes()).hexdigest())
        count_files(shard, config, files)
        whole = shard_from_json(json.loads(json.dumps(shard_to_json(shard))))
        archives = {str(path): "tar" for path in images or [] if path.is_file()}
        if not archives:
            more["counted"] = files.counted()
        ingest_shard(whole, output, config, images=sources.of(shard), archives=archives, **more)
        rows += pq.read_table(output / "records" / f"{shard.name}.parquet").to_pylist()
    return rows


def counted_names(config: IngestConfig, paths: list[Path], images: Sequence[Path] = ()) -> list[list[str]]:
    """For each shard the names of the files beside its own that reading it opens or looks for."""
    sources = ImageSources(images, **LIMITS)
    found = []
    for shard in plan_ingest(config, paths):
        files = CountedFiles(sources.of(shard), digest=str)
        count_files(shard, config, files)
        found.append(files.names())
    return found


def reasons(rows: list[dict[str, Any]]) -> dict[str, str | None]:
    return {row["external_id"]: row["reject"] for row in rows}


def tar_bytes(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    tar = TarWriter(buffer)
    for name, data in members.items():
        tar.add(name, data)
    tar.close()
    return buffer.getvalue()
