"""Writes a curated dataset (`dataset@1`): WebDataset shards of the kept samples and a ledger of all records.

A shard's bytes depend on its own records, analysis and verdicts only.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines.archives.tar_writer import TarWriter
from data_pipelines.curation.config import CurationConfig
from data_pipelines.curation.contamination import ContaminationVerdict
from data_pipelines.curation.copies import CopyVerdict
from data_pipelines.datasets.ingested_reader import ShardImages, records_path, shard_rows
from data_pipelines.datasets.records import SCHEMA, canonical
from data_pipelines.datasets.verdicts import VERDICTS
from data_pipelines.images.decoding import file_ending
from data_pipelines.images.resizing import ResizedImages

DATASET_FORMAT = 1
_SYSTEM_TURN = '"system"'  # key of a record's meta
QUARANTINED = "quarantined"  # the reason of rows that have no analysis
LEDGER_SCHEMA = pa.schema(
    [field for field in SCHEMA if field.name not in ("conversations", "detail")]
    + [
        ("caption", pa.string()),
        ("language", pa.string()),  # of the caption before repairs: ISO 639-1 or "und"
        ("repairs", pa.list_(pa.string())),  # reasons for which the texts would have been dropped
        ("width", pa.int32()),  # of the first image, upright
        ("height", pa.int32()),
        ("format", pa.string()),
        ("image_bytes", pa.int64()),
        ("phash", pa.list_(pa.uint64())),
        ("verdict", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("duplicate_of", pa.string()),
        ("anchor_h", pa.int32()),  # of the first image; null: none fits
        ("anchor_w", pa.int32()),
        ("scores", pa.string()),
        ("shard", pa.string()),
        ("row", pa.int64()),
        ("offset", pa.int64()),
        ("span_bytes", pa.int64()),
    ]
)


def emit_shard(
    records: Path,
    analysis: Path,
    name: str,
    output: Path,
    *,
    copies: Sequence[CopyVerdict] = (),
    contaminated: Sequence[ContaminationVerdict] = (),
    resized: Path | None = None,
) -> dict[str, int]:
    """Write `shards/` and `ledger/` of one shard below `output`. Returns counts by verdict and reason.

    `analysis`: the folder that `judge_shard` wrote to. `copies` and `contaminated`: the verdicts of `find_duplicates`
    and `find_contaminated` about this shard. `resized`: the folder that `measure_shard` wrote to, if it resized images
    for storage.
    """
    for folder in ("shards", "ledger"):
        (output / folder).mkdir(parents=True, exist_ok=True)
    source = records_path(records, name)
    rows = list(shard_rows(source))
    analysed = {row["row"]: row for row in shard_rows(analysis / "analysis" / f"{name}.parquet")}
    verdicts: list[CopyVerdict | ContaminationVerdict] = [*copies, *contaminated]
    verdict_by_row = {verdict.row: verdict for verdict in verdicts}
    ledger = []
    counts: Counter[str] = Counter(rows=len(rows))
    with ExitStack() as files:
        tar = TarWriter(files.enter_context((output / "shards" / f"{name}.tar").open("wb")))
        images = files.enter_context(ShardImages(records, name))
        resized_images = files.enter_context(ResizedImages(resized, name)) if resized else None
        kept = 0
        for index, record in enumerate(rows):
            row = _ledger_row(record, analysed.get(index), verdict_by_row.get(index))
            if row["verdict"] == "keep":
                span = _write_sample(tar, record, analysed[index], images, resized_images)
                row |= {"shard": name, "row": kept, **span}
                kept += 1
                counts["kept_bytes"] += span["span_bytes"]
                counts["kept_without_anchor"] += bool(record["images"]) and row["anchor_h"] is None
                counts["kept_with_system_turn"] += _SYSTEM_TURN in record["meta"] and "system" in json.loads(
                    record["meta"]
                )
            ledger.append(row)
            counts.update([row["verdict"]] + ([f"reason {row['reason']}"] if row["reason"] else []))
            counts["repaired"] += row["verdict"] == "keep" and bool(row["repairs"])
        tar.close()
    _write(output / "ledger" / f"{name}.parquet", ledger, LEDGER_SCHEMA.with_metadata(pq.read_schema(source).metadata))
    return dict(counts)


def _has_system_turn(meta: str) -> bool:
    return _SYSTEM_TURN in meta and "system" in json.loads(meta)


def _write(path: Path, rows: list[dict[str, Any]], schema: Any) -> None:
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, compression="zstd")


def _ledger_row(
    record: Mapping[str, Any], analysed: Mapping[str, Any] | None, found: CopyVerdict | ContaminationVerdict | None
) -> dict[str, Any]:
    """The ledger's row of one record, without its span in the tar. `found`: the verdict about it over all shards."""
    verdict, reason, detail, original = "keep", None, record["detail"], None
    if analysed is None:
        verdict, reason, detail = "drop", QUARANTINED, "the process that looked at this record died or failed"
    elif analysed["reason"] is not None:
        verdict, reason, detail = "drop", analysed["reason"], analysed["detail"]
    elif isinstance(found, ContaminationVerdict):
        verdict, reason, detail = "drop", found.reason, found.detail
    elif found is not None:
        verdict, reason, original = found.verdict, found.reason, found.duplicate_of
    facts = analysed or {}
    row = {key: value for key, value in record.items() if key not in ("conversations", "detail")}
    anchor_h = (facts.get("anchor_h") or [0])[0]
    return row | {
        "caption": facts.get("caption"),
        "language": facts.get("language"),
        "repairs": facts.get("repairs") or [],
        "width": (facts.get("width") or [None])[0],
        "height": (facts.get("height") or [None])[0],
        "format": (facts.get("format") or [None])[0],
        "image_bytes": (facts.get("image_bytes") or [None])[0],
        "phash": facts.get("phash") or [],
        "verdict": verdict,
        "reason": reason,
        "detail": detail,
        "duplicate_of": original,
        "anchor_h": anchor_h or None,
        "anchor_w": (facts.get("anchor_w") or [0])[0] or None,
        "scores": facts.get("scores") or "{}",
        "shard": None,
        "row": None,
        "offset": None,
        "span_bytes": None,
    }


def _write_sample(
    tar: TarWriter,
    record: Mapping[str, Any],
    analysed: Mapping[str, Any],
    images: ShardImages,
    resized_images: ResizedImages | None,
) -> dict[str, int]:
    """Append a sample, JSON first. Returns its span in the tar. A resized image names its original in `made_of`."""
    members = []
    image_fields = []
    for slot, digest in enumerate(record["images"]):
        made_of = {}
        resized = resized_images.find(digest) if resized_images else None
        if resized is not None:
            made_of = {"made_of": digest}
            data, width, height, digest = resized.jpeg, resized.width, resized.height, sha256(resized.jpeg).hexdigest()
        else:
            data, width, height = images.read(digest), analysed["width"][slot], analysed["height"][slot]
        member = f"{record['sample_id']}.{slot}{file_ending(data)}"
        members.append((member, data))
        anchor = [analysed["anchor_h"][slot], analysed["anchor_w"][slot]]
        image_fields.append(
            {
                "member": member,
                "sha256": digest,
                "width": width,
                "height": height,
                "anchor": anchor if anchor != [0, 0] else None,
                **made_of,
            }
        )
    sample = {
        "sample_id": record["sample_id"],
        "source": record["source"],
        "license": record["license"],
        "split": record["split"],
        "task": record["task"],
        "conversations": json.loads(analysed["conversations"] or record["conversations"]),
        "images": image_fields,
        "meta": json.loads(record["meta"]),
    }
    span = tar.add(f"{record['sample_id']}.json", canonical(sample).encode())
    end = span.end
    for member, data in members:
        end = tar.add(member, data).end
    return {"offset": span.header, "span_bytes": end - span.header}


def write_dataset(output: Path, name: str, ledgers: Mapping[str, Path], config: CurationConfig) -> dict[str, int]:
    """Write `dataset.json`. `ledgers` maps shard names to their ledgers. Returns counts by verdict and of all rows."""
    counts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for ledger in ledgers.values():
        table = pq.read_table(ledger, columns=["verdict", "reason"])
        counts.update(table["verdict"].to_pylist())
        reasons.update(reason for reason in table["reason"].to_pylist() if reason)
    fields = {
        "format": DATASET_FORMAT,
        "name": name,
        "rows": sum(counts.values()),
        "counts": {verdict: counts[verdict] for verdict in VERDICTS},
        "reasons": dict(sorted(reasons.items())),
        "anchors": [list(anchor) for anchor in config.anchors],
        "shards": sorted(ledgers),
    }
    (output / "dataset.json").write_text(json.dumps(fields, indent=1) + "\n", encoding="utf-8")
    return {"rows": sum(counts.values()), **{verdict: counts[verdict] for verdict in VERDICTS}}
