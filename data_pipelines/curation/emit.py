"""Writes a curated dataset (`dataset@1`): WebDataset shards of what is kept and a ledger of everything that came in.

A shard's bytes depend on its own records, analysis and verdicts only.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines.archives.tar_writer import TarWriter
from data_pipelines.curation.config import CurationConfig, EmitConfig
from data_pipelines.curation.contamination import ContaminationVerdict
from data_pipelines.curation.copies import CopyVerdict
from data_pipelines.datasets.ingested_reader import ShardImages, shard_rows
from data_pipelines.datasets.records import SCHEMA, canonical
from data_pipelines.datasets.verdicts import VERDICTS
from data_pipelines.images.decoding import ending_of
from data_pipelines.images.resizing import SmallerImages, thumbnail

DATASET_FORMAT = 1
QUARANTINED = "quarantined"  # the reason of rows that have no analysis
LEDGER_SCHEMA = pa.schema(
    [field for field in SCHEMA if field.name not in ("conversations", "detail")]
    + [
        ("caption", pa.string()),
        ("language", pa.string()),  # of the caption as it came: ISO 639-1 or "und"
        ("repairs", pa.list_(pa.string())),  # reasons for which the words would have been dropped
        ("width", pa.int32()),  # of the first picture, upright
        ("height", pa.int32()),
        ("format", pa.string()),
        ("image_bytes", pa.int64()),
        ("phash", pa.list_(pa.uint64())),
        ("verdict", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("duplicate_of", pa.string()),
        ("anchor_h", pa.int32()),  # of the first picture; null: none fits
        ("anchor_w", pa.int32()),
        ("scores", pa.string()),
        ("shard", pa.string()),
        ("row", pa.int64()),
        ("offset", pa.int64()),
        ("span_bytes", pa.int64()),
    ]
)
THUMBNAIL_SCHEMA = pa.schema(
    [
        ("sample_id", pa.string()),
        ("verdict", pa.string()),
        ("reason", pa.string()),
        ("caption", pa.string()),
        ("duplicate_of", pa.string()),
        ("slot", pa.int16()),
        ("jpeg", pa.binary()),
    ]
)


@dataclass(kw_only=True)
class _Thumbnails:
    """The few rows of each verdict and reason whose digests are lowest: a random choice that never changes.

    None is of a quarantined row, whose pictures may have killed the process that decoded them.
    """

    limit: int
    chosen: dict[tuple[str, str], list[tuple[str, int]]] = field(default_factory=dict)

    def offer(self, ledger_row: Mapping[str, Any], index: int) -> None:
        if not ledger_row["images"] or ledger_row["reason"] == QUARANTINED:
            return
        rank = sha256(f"thumbnail/{ledger_row['sample_id']}/{index}".encode()).hexdigest()
        group = self.chosen.setdefault((ledger_row["verdict"], ledger_row["reason"] or ""), [])
        group.append((rank, index))
        group.sort()
        del group[self.limit :]


def emit_shard(
    records: Path,
    analysis: Path,
    name: str,
    output: Path,
    config: EmitConfig,
    *,
    copies: Sequence[CopyVerdict] = (),
    contaminated: Sequence[ContaminationVerdict] = (),
    smaller: Path | None = None,
) -> dict[str, int]:
    """Write `shards/`, `ledger/` and `thumbnails/` of one shard below `output`; counts by verdict and reason.

    `analysis` is the folder that `judge_shard` wrote to, `copies` what `find_duplicates` and `contaminated` what
    `find_contaminated` says about this shard. `smaller`: the folder that `measure_shard` wrote to, if some pictures are
    stored smaller than they came.
    """
    for folder in ("shards", "ledger", "thumbnails"):
        (output / folder).mkdir(parents=True, exist_ok=True)
    source = records / "records" / f"{name}.parquet"
    rows = list(shard_rows(source))
    analysed = {row["row"]: row for row in shard_rows(analysis / "analysis" / f"{name}.parquet")}
    rulings: list[CopyVerdict | ContaminationVerdict] = [*copies, *contaminated]
    ruled = {ruling.row: ruling for ruling in rulings}
    ledger = []
    thumbnails = _Thumbnails(limit=config.thumbnails_per_reason)
    counts: Counter[str] = Counter(rows=len(rows))
    with ExitStack() as files:
        tar = TarWriter(files.enter_context((output / "shards" / f"{name}.tar").open("wb")))
        images = files.enter_context(ShardImages(records, name))
        small = files.enter_context(SmallerImages(smaller, name)) if smaller else None
        kept = 0
        for index, record in enumerate(rows):
            row = _ledger_row(record, analysed.get(index), ruled.get(index))
            if row["verdict"] == "keep":
                place = _write_sample(tar, record, analysed[index], images, small)
                row |= {"shard": name, "row": kept, **place}
                kept += 1
                counts["kept_bytes"] += place["span_bytes"]
            ledger.append(row)
            thumbnails.offer(row, index)
            counts.update([row["verdict"]] + ([f"reason {row['reason']}"] if row["reason"] else []))
            counts["repaired"] += row["verdict"] == "keep" and bool(row["repairs"])
        tar.close()
        shown = _thumbnail_rows(thumbnails, ledger, images, config)
    _write(output / "ledger" / f"{name}.parquet", ledger, LEDGER_SCHEMA.with_metadata(pq.read_schema(source).metadata))
    _write(output / "thumbnails" / f"{name}.parquet", shown, THUMBNAIL_SCHEMA)
    return dict(counts)


def _write(path: Path, rows: list[dict[str, Any]], schema: Any) -> None:
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, compression="zstd")


def _ledger_row(
    record: Mapping[str, Any], analysed: Mapping[str, Any] | None, ruled: CopyVerdict | ContaminationVerdict | None
) -> dict[str, Any]:
    """The ledger's words about one record, place in the tar aside."""
    verdict, reason, detail, original = "keep", None, record["detail"], None
    if analysed is None:
        verdict, reason, detail = "drop", QUARANTINED, "the process that looked at this record died or failed"
    elif analysed["reason"] is not None:
        verdict, reason, detail = "drop", analysed["reason"], analysed["detail"]
    elif isinstance(ruled, ContaminationVerdict):
        verdict, reason, detail = "drop", ruled.reason, ruled.detail
    elif ruled is not None:
        verdict, reason, original = ruled.verdict, ruled.reason, ruled.duplicate_of
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
    smaller: SmallerImages | None,
) -> dict[str, int]:
    """Append a sample, JSON first; where it lies. A picture that is stored smaller names the file it was made of."""
    members = []
    described = []
    for slot, digest in enumerate(record["images"]):
        made_of = {}
        small = smaller.find(digest) if smaller else None
        if small is not None:
            made_of = {"made_of": digest}
            data, width, height, digest = small.jpeg, small.width, small.height, sha256(small.jpeg).hexdigest()
        else:
            data, width, height = images.read(digest), analysed["width"][slot], analysed["height"][slot]
        member = f"{record['sample_id']}.{slot}{ending_of(data)}"
        members.append((member, data))
        anchor = [analysed["anchor_h"][slot], analysed["anchor_w"][slot]]
        described.append(
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
        "images": described,
        "meta": json.loads(record["meta"]),
    }
    place = tar.add(f"{record['sample_id']}.json", canonical(sample).encode())
    end = place.end
    for member, data in members:
        end = tar.add(member, data).end
    return {"offset": place.header, "span_bytes": end - place.header}


def _thumbnail_rows(
    thumbnails: _Thumbnails, ledger: Sequence[Mapping[str, Any]], images: ShardImages, config: EmitConfig
) -> list[dict[str, Any]]:
    rows = []
    for group in sorted(thumbnails.chosen):
        for _, index in thumbnails.chosen[group]:
            row = ledger[index]
            for slot, digest in enumerate(row["images"][:2]):
                jpeg = thumbnail(images.read(digest), config.thumbnail_side, config.limits)
                fields = {key: row[key] for key in ("sample_id", "verdict", "reason", "caption", "duplicate_of")}
                rows.append({**fields, "slot": slot, "jpeg": jpeg})
    return rows


def write_dataset(output: Path, name: str, ledgers: Mapping[str, Path], config: CurationConfig) -> dict[str, int]:
    """Write `dataset.json` over the ledgers of all shards, by shard name; counts by verdict."""
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
