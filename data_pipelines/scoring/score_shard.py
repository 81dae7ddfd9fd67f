"""Scores the pictures of one ingested shard: each distinct picture is decoded and looked at once.

Legend: N distinct pictures, D width of what a model makes of one.
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

from data_pipelines.captions.extraction import caption_of
from data_pipelines.datasets.ingested_reader import ShardImages
from data_pipelines.datasets.records import Reject
from data_pipelines.images.decoding import decode
from data_pipelines.images.limits import DecodeLimits
from data_pipelines.scoring.scorers import Floats, Prepared, Scorer
from data_pipelines.scoring.tables import table_schema

MAX_ASPECT = 50.0  # long side / short side; preparing a longer one would blow up its short side, and with it the long
COLUMNS = ["sample_id", "task", "conversations", "images", "reject"]
DECODED_AHEAD = 4  # prepared pictures that wait, for each thread


NO_LARGER = DecodeLimits()


@dataclass(frozen=True, kw_only=True)
class ScoringSettings:
    limits: DecodeLimits = NO_LARGER  # files beyond them are never decoded
    batch: int = 32  # pictures, and captions, that the model sees at once
    decode_threads: int = 2


@dataclass(frozen=True, kw_only=True)
class _Picture:
    """One of a record's."""

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
    """Write the table of one score of an ingested shard to the file `out`; counts, and the sum of the scores.

    `rows`: only these. `embedding_width`: not 0 keeps what the model makes of each picture, of this width.
    """
    pictures = list(_pictures(records / "records" / f"{name}.parquet", rows))
    digests = list(dict.fromkeys(picture.digest for picture in pictures))
    with ShardImages(records, name) as images:
        looks = _looks(images, digests, scorer, settings)
    found = _scores(pictures, looks, scorer, settings.batch)
    columns: dict[str, list[Any]] = {
        "row": [picture.row for picture in pictures],
        "sample_id": [picture.sample_id for picture in pictures],
        "slot": [picture.slot for picture in pictures],
        score: found,
    }
    if embedding_width:
        none_D = np.zeros(embedding_width, dtype=np.float32)
        columns["embedding"] = [looks.get(picture.digest, none_D).astype(np.float16) for picture in pictures]
    out.parent.mkdir(parents=True, exist_ok=True)
    schema = table_schema(score, embedding_width)
    pq.write_table(pa.Table.from_pydict(columns, schema=schema), out, compression="zstd")
    known = [value for value in found if value is not None]
    return {
        "pictures": float(len(pictures)),
        "decoded": float(len(looks)),
        "unscored": float(len(pictures) - len(known)),
        "sum": float(sum(known)),
    }


def _pictures(file: Path, rows: Collection[int] | None) -> Iterator[_Picture]:
    """All pictures of the records that were read as such."""
    first = 0
    with pq.ParquetFile(file) as opened:
        for batch in opened.iter_batches(batch_size=1024, columns=COLUMNS):
            for row, record in enumerate(batch.to_pylist(), start=first):
                if record["reject"] or (rows is not None and row not in rows):
                    continue
                turns = [(turn["role"], turn["text"]) for turn in json.loads(record["conversations"])]
                caption = caption_of(record["task"], turns)
                for slot, digest in enumerate(record["images"]):
                    yield _Picture(row=row, sample_id=record["sample_id"], slot=slot, digest=digest, caption=caption)
            first += len(batch)


def _looks(images: ShardImages, digests: Sequence[str], scorer: Scorer, settings: ScoringSettings) -> dict[str, Floats]:
    """What the model makes of each picture that can be read [D], by digest."""
    looks: dict[str, Floats] = {}
    waiting: list[tuple[str, Prepared]] = []

    def look() -> None:
        looks_BD = scorer.look([prepared for _, prepared in waiting])
        looks.update({digest: row for (digest, _), row in zip(waiting, looks_BD, strict=True)})
        waiting.clear()

    for digest, prepared in _prepared(images, digests, scorer, settings):
        if prepared is not None:
            waiting.append((digest, prepared))
        if len(waiting) == settings.batch:
            look()
    if waiting:
        look()
    return {digest: row for digest, row in looks.items() if np.isfinite(row).all()}


def _prepared(
    images: ShardImages, digests: Sequence[str], scorer: Scorer, settings: ScoringSettings
) -> Iterator[tuple[str, Prepared | None]]:
    """Pictures ready for the model, in order, a few decoded ahead of use; None for what cannot be."""
    ahead: deque[tuple[str, Future[Prepared | None]]] = deque()
    with ThreadPoolExecutor(max_workers=settings.decode_threads) as pool:
        for digest in digests:
            ahead.append((digest, pool.submit(_prepare, images.read(digest), scorer, settings)))
            if len(ahead) > DECODED_AHEAD * settings.decode_threads:
                done, future = ahead.popleft()
                yield done, future.result()
        while ahead:
            done, future = ahead.popleft()
            yield done, future.result()


def _prepare(data: bytes, scorer: Scorer, settings: ScoringSettings) -> Prepared | None:
    """Of a decoded picture only what the model takes stays: a few hundred KB in place of up to 300 MB."""
    picture = decode(data, settings.limits)
    if isinstance(picture, Reject) or max(picture.size) > MAX_ASPECT * min(picture.size):
        return None
    return scorer.prepare(picture)


def _scores(pictures: Sequence[_Picture], looks: dict[str, Floats], scorer: Scorer, batch: int) -> list[float | None]:
    found: list[float | None] = [None] * len(pictures)
    places = [place for place, picture in enumerate(pictures) if picture.digest in looks]
    for first in range(0, len(places), batch):
        chosen = places[first : first + batch]
        looks_BD = np.stack([looks[pictures[place].digest] for place in chosen])
        values = scorer.scores(looks_BD, [pictures[place].caption for place in chosen])
        for place, value in zip(chosen, values.tolist(), strict=True):
            found[place] = value if np.isfinite(value) else None
    return found
