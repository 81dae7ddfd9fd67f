"""Judges the measured records of a shard: repairs texts, applies all thresholds that concern a single record.

Curation has four steps with files between them, so that each shard's output depends on its own records, the config and
its own verdicts only: `measure_shard` -> `judge_shard` -> `find_duplicates` over all shards -> `emit_shard`; then
`write_dataset`. Measuring decodes and knows no threshold; judging is cheap and reads only what was measured.
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines.captions.extraction import extract_caption
from data_pipelines.curation.caption_repairs import repair_turns
from data_pipelines.curation.caption_rules import judge_texts
from data_pipelines.curation.config import CurationConfig
from data_pipelines.curation.image_rules import judge_image
from data_pipelines.curation.measure import read_measurement
from data_pipelines.datasets.ingested_reader import records_path, shard_rows
from data_pipelines.datasets.records import Reject, canonical, json_to_turns, turns_to_json
from data_pipelines.datasets.tombstones import Tombstones
from data_pipelines.images.facts import ImageFacts
from data_pipelines.scoring.tables import NO_SCORES, ShardScores, with_scores
from models.dualvitok.geometry import match_anchor

ANALYSIS_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),  # in the records file
        ("sample_id", pa.string()),
        ("split", pa.string()),
        ("task", pa.string()),
        ("caption", pa.string()),
        ("language", pa.string()),  # of the caption: ISO 639-1 or "und"
        ("conversations", pa.string()),  # after repairs; null: nothing was repaired
        ("repairs", pa.list_(pa.string())),  # reasons for which the texts would have been dropped
        ("text_digest", pa.string()),  # of the texts after repairs
        ("images", pa.list_(pa.string())),
        ("reason", pa.string()),  # why the row is dropped, null if it passed all checks
        ("detail", pa.string()),
        ("width", pa.list_(pa.int32())),
        ("height", pa.list_(pa.int32())),
        ("format", pa.list_(pa.string())),
        ("image_bytes", pa.list_(pa.int64())),
        ("phash", pa.list_(pa.uint64())),
        ("mirrored_phash", pa.list_(pa.uint64())),  # with left and right swapped
        ("pixel_digest", pa.list_(pa.string())),
        ("miniature", pa.list_(pa.binary(192))),
        ("anchor_h", pa.list_(pa.int32())),  # 0: no anchor fits
        ("anchor_w", pa.list_(pa.int32())),
        ("scores", pa.string()),
    ]
)
MAX_CAPTION_CHARS = 500
NO_TOMBSTONES = Tombstones()


def judge_shard(
    records: Path,
    measured: Path,
    name: str,
    output: Path,
    config: CurationConfig,
    *,
    rows: Collection[int] | None = None,
    tombstones: Tombstones = NO_TOMBSTONES,
    scores: ShardScores = NO_SCORES,
) -> dict[str, int]:
    """Write `analysis/NAME.parquet` below `output`: the measurements of every record, and why it is dropped.

    `measured`: the folder that `measure_shard` wrote to; rows that are missing there are missing here.
    `rows`: judge only these. The others killed their process; they are missing in the file and later dropped.
    `tombstones`: images that look like one of these are dropped. `scores`: the scores that models gave this shard's
    images. Returns counts by reason.
    """
    measured_path = measured / "measured" / f"{name}.parquet"
    measured_rows = {row["row"] for row in shard_rows(measured_path, ["row"])}
    all_records = enumerate(shard_rows(records_path(records, name)))
    measured_records = (record for row, record in all_records if row in measured_rows)
    counts: Counter[str] = Counter()
    analysed = []
    for record, measurement in zip(measured_records, shard_rows(measured_path), strict=True):
        if rows is not None and measurement["row"] not in rows:
            continue
        row = {"row": measurement["row"], **_analyse(record, measurement, config, tombstones)}
        analysed.append(with_scores(row, scores, config.score_bounds))
        counts["rows"] += 1
        counts.update([f"reason {analysed[-1]['reason']}"] if analysed[-1]["reason"] else ["passed"])
    path = output / "analysis" / f"{name}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(analysed, schema=ANALYSIS_SCHEMA), path, compression="zstd")
    return dict(counts)


def _analyse(
    record: Mapping[str, Any], measurement: Mapping[str, Any], config: CurationConfig, tombstones: Tombstones
) -> dict[str, Any]:
    """A row of the analysis without its `row`; `measurement` is the row that measuring wrote for the same record."""
    turns, repairs = repair_turns(record["task"], json_to_turns(record["conversations"]), config)
    conversations = canonical(turns_to_json(turns)) if repairs else record["conversations"]
    problem = Reject(reason=record["reject"], detail=record["detail"] or "") if record["reject"] else None
    facts: list[ImageFacts] = []
    for image in map(read_measurement, measurement["measured_images"]):
        if isinstance(image, Reject):
            problem = problem or image
        else:
            facts.append(image)
            problem = problem or judge_image(image, config)
    anchors = [_anchor(fact, config) for fact in facts]
    problem = problem or tombstones.judge_phashes([fact.phash for fact in facts])
    problem = problem or _judge_rest(record, turns, facts, anchors, config)
    problem = problem or _judge_language(measurement["language"], config)
    return {
        "sample_id": record["sample_id"],
        "split": record["split"],
        "task": record["task"],
        "caption": extract_caption(record["task"], turns)[:MAX_CAPTION_CHARS],
        "language": measurement["language"],
        "conversations": conversations if repairs else None,
        "repairs": list(repairs),
        "text_digest": hashlib.sha256(conversations.encode()).hexdigest(),
        "images": record["images"],
        "reason": problem.reason if problem else None,
        "detail": problem.detail if problem else record["detail"],
        "width": [fact.width for fact in facts],
        "height": [fact.height for fact in facts],
        "format": [fact.format for fact in facts],
        "image_bytes": [image["bytes"] for image in measurement["measured_images"]],
        "phash": [fact.phash for fact in facts],
        "mirrored_phash": [fact.mirrored_phash for fact in facts],
        "pixel_digest": [fact.pixel_digest for fact in facts],
        "miniature": [fact.miniature for fact in facts],
        "anchor_h": [anchor[0] for anchor in anchors],
        "anchor_w": [anchor[1] for anchor in anchors],
        "scores": next((image["scores"] for image in measurement["measured_images"] if image["scores"]), "{}"),
    }


def _anchor(facts: ImageFacts, config: CurationConfig) -> tuple[int, int]:
    """The (height, width) that the image is cropped to, (0, 0) if the crop would cut off too much."""
    match = match_anchor(facts.width, facts.height, config.anchors)
    return match.anchor if match.crop_share <= config.max_crop else (0, 0)


def _judge_rest(
    record: Mapping[str, Any],
    turns: Sequence[tuple[str, str]],
    facts: Sequence[ImageFacts],
    anchors: Sequence[tuple[int, int]],
    config: CurationConfig,
) -> Reject | None:
    """Checks texts, licence, and that images to be generated fit an anchor; understanding takes any size."""
    problem = judge_texts(record["task"], turns, config)
    if problem is not None:
        return problem
    if config.allowed_licenses and record["license"] not in config.allowed_licenses:
        return Reject(reason="license_not_allowed", detail=f"licence {record['license']!r}")
    if record["task"] in ("generation", "editing") and (0, 0) in anchors:
        fact = facts[list(anchors).index((0, 0))]
        detail = f"{fact.width} x {fact.height}: every size would crop more than {config.max_crop:.0%}"
        return Reject(reason="unmatched_aspect", detail=detail)
    return None


def _judge_language(language: str, config: CurationConfig) -> Reject | None:
    if not config.languages or language in config.languages:
        return None
    return Reject(reason="language_not_allowed", detail=f"language {language!r}")
