"""Records of drawn images, and the whole curation of them, for tests."""

import hashlib
import io
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from PIL import Image

from data_pipelines.curation.config import (
    CurationConfig,
    decode_limits,
    judge_config,
    stored_size,
)
from data_pipelines.curation.copies import find_duplicates
from data_pipelines.curation.emit import emit_shard, write_dataset
from data_pipelines.curation.judge import judge_shard
from data_pipelines.curation.measure import measure_shard
from data_pipelines.datasets.ingested_reader import record_shards
from data_pipelines.ingest.config import IngestConfig
from data_pipelines.ingest.files.image_sources import open_images
from data_pipelines.ingest.shards import ingest_shard, plan_ingest
from data_pipelines.shapes.config import ShapesConfig
from data_pipelines.shapes.drawing import draw
from data_pipelines.shapes.scenes import invent_scene

CONFIG = CurationConfig(anchors=((64, 64), (48, 96), (96, 48), (56, 72)), min_side=32)


def drawn(seed: int, size: tuple[int, int] = (64, 64)) -> Image.Image:
    return draw(invent_scene(ShapesConfig(seed=0, image_sizes=(size,)), random.Random(seed)))


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def records_of(
    folder: Path, lines: Sequence[tuple[str, bytes, str]], *, task: str = "understanding", name: str = "part"
) -> Path:
    """Ingest lines (id, image bytes, caption) as one shard of `folder`."""
    raw = folder / f"raw-{name}"
    raw.mkdir(parents=True)
    rows = []
    for key, data, caption in lines:
        (raw / f"{key}.png").write_bytes(data)
        turns = ["<image>\nDescribe the image.", caption]
        if task == "generation":
            turns = [f"Generate an image of {{resolution_tag}}, the content of image is {caption}\n", "<image>"]
        conversation = [{"from": who, "value": text} for who, text in zip(("human", "gpt"), turns, strict=True)]
        rows.append(json.dumps({"id": key, "images": [f"{key}.png"], "conversations": conversation}))
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
        measure_shard(records, name, output / "work", decode_limits(config), stored=stored_size(config))
        judge_shard(records, output / "work", name, output / "work", judge_config(config))
    analyses = {name: output / "work" / "analysis" / f"{name}.parquet" for name in names}
    copies = find_duplicates(analyses, config, records=dict.fromkeys(names, records))
    smaller = output / "work" if stored_size(config) else None
    for name in names:
        emit_shard(records, output / "work", name, output / "data", copies=copies[name], resized=smaller)
    write_dataset(
        output / "data", "test", {name: output / "data" / "ledger" / f"{name}.parquet" for name in names}, config
    )
    rows = [row for name in names for row in pq.read_table(output / "data" / "ledger" / f"{name}.parquet").to_pylist()]
    assert len({row["external_id"] for row in rows}) == len(rows)
    return {row["external_id"]: row for row in rows}


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
