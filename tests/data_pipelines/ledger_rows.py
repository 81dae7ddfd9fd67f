"""Ledgers made by hand, for tests of code that reads only the ledgers of a curated dataset."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines.curation.emit import LEDGER_SCHEMA

LANGUAGE = pa.field("language", pa.string())


def ledger_row(number: int, **fields: Any) -> dict[str, Any]:
    """A kept image with a caption; its id is made of its number."""
    scores = {"contrast": 40.0, "entropy": 7.0, "sharpness": 0.5, "frames": 1.0}
    return {
        "sample_id": hashlib.sha256(str(number).encode()).hexdigest(),
        "source": "web",
        "source_file": "a.jsonl",
        "source_row": number,
        "license": "CC0-1.0",
        "split": "train",
        "task": "understanding",
        "images": ["f" * 64],
        "meta": "{}",
        "caption": f"picture {number}",
        "width": 64,
        "height": 48,
        "format": "jpeg",
        "image_bytes": 5000,
        "phash": [7],
        "verdict": "keep",
        "anchor_h": 48,
        "anchor_w": 64,
        "scores": json.dumps(scores),
        "shard": "s0",
        "row": number,
        "offset": 0,
        "span_bytes": 512,
        **fields,
    }


def write_ledgers(
    folder: Path, shards: Sequence[Sequence[dict[str, Any]]], without: Sequence[str] = (), called: str = ""
) -> None:
    """A dataset of these ledgers, called as its folder if not otherwise; its tars are empty."""
    schema = LEDGER_SCHEMA if "language" in LEDGER_SCHEMA.names else LEDGER_SCHEMA.append(LANGUAGE)
    schema = pa.schema([field for field in schema if field.name not in without])
    names = [f"s{number}" for number in range(len(shards))]
    for name in ("ledger", "shards"):
        (folder / name).mkdir(parents=True)
    for name, rows in zip(names, shards, strict=True):
        pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), folder / "ledger" / f"{name}.parquet")
        (folder / "shards" / f"{name}.tar").write_bytes(bytes(10240))
    fields = {"format": 1, "name": called or folder.name, "anchors": [[48, 64]], "shards": names}
    (folder / "dataset.json").write_text(json.dumps(fields))


def read_ledgers(dataset: Path) -> list[dict[str, Any]]:
    """The ledger rows of all shards of a dataset."""
    return [row for path in sorted((dataset / "ledger").iterdir()) for row in pq.read_table(path).to_pylist()]
