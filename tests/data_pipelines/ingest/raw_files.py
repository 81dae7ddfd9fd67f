"""Source files to ingest, and the rows that ingest makes of them."""

import io
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from PIL import Image

from data_pipelines.archives.tar_writer import TarWriter
from data_pipelines.ingest.config import IngestConfig
from data_pipelines.ingest.image_sources import open_images
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
    source = open_images(images, **LIMITS) if images else None
    rows = []
    for shard in plan_ingest(config, paths):
        ingest_shard(
            shard_from_json(json.loads(json.dumps(shard_to_json(shard)))), output, config, images=source, **more
        )
        rows += pq.read_table(output / "records" / f"{shard.name}.parquet").to_pylist()
    return rows


def reasons(rows: list[dict[str, Any]]) -> dict[str, str | None]:
    return {row["external_id"]: row["reject"] for row in rows}


def tar_bytes(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    tar = TarWriter(buffer)
    for name, data in members.items():
        tar.add(name, data)
    tar.close()
    return buffer.getvalue()
