"""Scores the images of one ingested shard; decodes and runs the model on each distinct image once.

Legend: B batch, D width of the model's features.
"""

import json
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines.captions.extraction import extract_caption
from data_pipelines.datasets.ingested_reader import ShardImages, records_path
from data_pipelines.datasets.records import Reject
from data_pipelines.images.decoding import decode
from data_pipelines.images.limits import DecodeLimits
from data_pipelines.scoring.scorers import Floats, Prepared, Scorer
from data_pipelines.scoring.tables import table_schema

MAX_ASPECT = 50.0  # long side / short side; preparing a longer image would enlarge its short side, and with it the long
COLUMNS = ["sample_id", "task", "conversations", "images", "reject"]
DECODED_AHEAD = 4  # prepared images that wait, for each thread
DEFAULT_LIMITS = DecodeLimits()


@dataclass(frozen=True, kw_only=True)
class ScoringSettings:
    limits: DecodeLimits = DEFAULT_LIMITS  # files beyond these limits are never decoded
    batch: int = 32  # images, or captions, per call of the model
    decode_threads: int = 2


@dataclass(frozen=True, kw_only=True)
class _RecordImage:
    """An image of a record."""

    row: int
    sample_id: str
    slot: int
    digest: str
    caption: str


def score_shard(
    records: Path,
    name: str,
    out: Path,
    *,
    score: str,
    scorer: Scorer,
    settings: ScoringSettings,
    rows: Collection[int] | None = None,
    embedding_width: int = 0,
) -> dict[str, float]:
    """Write the table of one score of an ingested shard to the file `out`; returns counts and the sum of the scores.

    `rows`: only these rows. `embedding_width`: if not 0, also store the features of each image, which have this width.
    """
    images = list(_record_images(records_path(records, name), rows))
    digests = list(dict.fromkeys(image.digest for image in images))
    with ShardImages(records, name) as files:
        features = _features(files, digests, scorer, settings)
    scores = _scores(images, features, scorer, settings.batch)
    columns: dict[str, list[Any]] = {
        "row": [image.row for image in images],
        "sample_id": [image.sample_id for image in images],
        "slot": [image.slot for image in images],
        score: scores,
    }
    if embedding_width:
        none_D = np.zeros(embedding_width, dtype=np.float32)
        columns["embedding"] = [features.get(image.digest, none_D).astype(np.float16) for image in images]
    out.parent.mkdir(parents=True, exist_ok=True)
    schema = table_schema(score, embedding_width)
    pq.write_table(pa.Table.from_pydict(columns, schema=schema), out, compression="zstd")
    known = [value for value in scores if value is not None]
    return {
        "images": float(len(images)),
        "decoded": float(len(features)),
        "unscored": float(len(images) - len(known)),
        "sum": float(sum(known)),
    }


def _record_images(file: Path, rows: Collection[int] | None) -> Iterator[_RecordImage]:
    """All images of the records that were not rejected."""
    first = 0
    with pq.ParquetFile(file) as opened:
        for batch in opened.iter_batches(batch_size=1024, columns=COLUMNS):
            for row, record in enumerate(batch.to_pylist(), start=first):
                if record["reject"] or (rows is not None and row not in rows):
                    continue
                turns = [(turn["role"], turn["text"]) for turn in json.loads(record["conversations"])]
                caption = extract_caption(record["task"], turns)
                for slot, digest in enumerate(record["images"]):
                    yield _RecordImage(
                        row=row, sample_id=record["sample_id"], slot=slot, digest=digest, caption=caption
                    )
            first += len(batch)


def _features(
    files: ShardImages, digests: Sequence[str], scorer: Scorer, settings: ScoringSettings
) -> dict[str, Floats]:
    """The model's features [D] of each image that can be read, by digest; without those that are not finite."""
    features: dict[str, Floats] = {}
    waiting: list[tuple[str, Prepared]] = []

    def run_batch() -> None:
        features_BD = scorer.extract_features([prepared for _, prepared in waiting])
        features.update({digest: row for (digest, _), row in zip(waiting, features_BD, strict=True)})
        waiting.clear()

    for digest, prepared in _prepare_in_order(files, digests, scorer, settings):
        if prepared is not None:
            waiting.append((digest, prepared))
        if len(waiting) == settings.batch:
            run_batch()
    if waiting:
        run_batch()
    return {digest: row for digest, row in features.items() if np.isfinite(row).all()}


def _prepare_in_order(
    files: ShardImages, digests: Sequence[str], scorer: Scorer, settings: ScoringSettings
) -> Iterator[tuple[str, Prepared | None]]:
    """Model inputs in order, a few decoded ahead of use; None for an image that cannot be decoded."""
    ahead: deque[tuple[str, Future[Prepared | None]]] = deque()
    with ThreadPoolExecutor(max_workers=settings.decode_threads) as pool:
        for digest in digests:
            ahead.append((digest, pool.submit(_prepare, files.read(digest), scorer, settings)))
            if len(ahead) > DECODED_AHEAD * settings.decode_threads:
                done, future = ahead.popleft()
                yield done, future.result()
        while ahead:
            done, future = ahead.popleft()
            yield done, future.result()


def _prepare(data: bytes, scorer: Scorer, settings: ScoringSettings) -> Prepared | None:
    """The model input of an image: a few hundred KB, where the decoded image takes up to 300 MB."""
    image = decode(data, settings.limits)
    if isinstance(image, Reject) or max(image.size) > MAX_ASPECT * min(image.size):
        return None
    return scorer.prepare(image)


def _scores(
    images: Sequence[_RecordImage], features: dict[str, Floats], scorer: Scorer, batch: int
) -> list[float | None]:
    scores: list[float | None] = [None] * len(images)
    indices = [index for index, image in enumerate(images) if image.digest in features]
    for first in range(0, len(indices), batch):
        chosen = indices[first : first + batch]
        features_BD = np.stack([features[images[index].digest] for index in chosen])
        values = scorer.scores(features_BD, [images[index].caption for index in chosen])
        for index, value in zip(chosen, values.tolist(), strict=True):
            scores[index] = value if np.isfinite(value) else None
    return scores
