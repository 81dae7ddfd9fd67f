"""Where samples and pictures ended up: rows of ledgers, rows of token files.

A question is a sample id, the SHA-256 of a picture's bytes, the id that the source gave, or a picture itself, which is
also looked for among pictures that look like it.
"""

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines.curation_config import CurationConfig
from data_pipelines.dataset_reader import CuratedDataset, DatasetError
from data_pipelines.images import inspect
from data_pipelines.records import Reject
from data_pipelines.tokens import TokenShard

COLUMNS = ["sample_id", "external_id", "source", "source_file", "source_row", "verdict", "reason", "duplicate_of",
           "images", "phash", "shard"]  # fmt: skip
_DIGEST_CHARACTERS = 64


@dataclass(kw_only=True)
class Questions:
    """What is looked for."""

    digests: set[str] = field(default_factory=set)  # sample ids or pictures' SHA-256: nobody can tell from the text
    names: set[str] = field(default_factory=set)  # ids that the sources gave
    phashes: dict[str, int] = field(default_factory=dict)  # picture file -> perceptual hash
    near: int = 0  # bits of 64 in which a picture that looks alike may differ

    def add(self, text: str) -> None:
        """A digest or a name."""
        is_digest = len(text) == _DIGEST_CHARACTERS and all(sign in "0123456789abcdef" for sign in text.lower())
        (self.digests if is_digest else self.names).add(text.lower() if is_digest else text)

    def add_picture(self, path: Path) -> None:
        """Raises: ValueError if the file is no picture that can be opened safely."""
        data = path.read_bytes()
        facts = inspect(data, CurationConfig(anchors=((64, 64),)))
        if isinstance(facts, Reject):
            raise ValueError(f"{path}: {facts.reason}: {facts.detail}")
        self.digests.add(hashlib.sha256(data).hexdigest())
        self.phashes[str(path)] = facts.phash


@dataclass(frozen=True, kw_only=True)
class Match:
    """A row of a ledger that answers a question."""

    sample_id: str
    external_id: str | None
    found_by: str
    source: str
    source_file: str
    source_row: int
    verdict: str
    reason: str | None
    duplicate_of: str | None
    shard: str | None  # None: it was not kept
    images: tuple[str, ...]  # SHA-256


def find_samples(dataset: Path, questions: Questions) -> Iterator[Match]:
    """Every row of a dataset's ledgers, kept or not, that answers a question. Raises: DatasetError."""
    opened = CuratedDataset(dataset)
    for shard in opened.shards:
        path = dataset / "ledger" / f"{shard}.parquet"
        try:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(columns=COLUMNS):
                    yield from _matches(batch.to_pylist(), questions)
        except (OSError, pa.ArrowException, KeyError) as error:
            raise DatasetError(f"{path}: not a ledger that can be read ({error}); curate again") from error


def _matches(rows: Sequence[dict[str, Any]], questions: Questions) -> Iterator[Match]:
    for row in rows:
        found_by = _found_by(row, questions)
        if found_by:
            fields = {name: row[name] for name in COLUMNS if name not in ("images", "phash")}
            yield Match(**fields, images=tuple(row["images"]), found_by=found_by)


def _found_by(row: dict[str, Any], questions: Questions) -> str:
    """How a row answers; "" if it does not."""
    if row["sample_id"] in questions.digests:
        return "sample id"
    if not questions.digests.isdisjoint(row["images"]):
        return "picture"
    if row["external_id"] in questions.names:
        return "source's id"
    for file, wanted in questions.phashes.items():
        distances = [int(np.bitwise_count(np.uint64(wanted) ^ np.uint64(found))) for found in row["phash"]]
        if distances and min(distances) <= questions.near:
            return f"looks like {file} ({min(distances)} of 64 bits differ)"
    return ""


@dataclass(frozen=True, kw_only=True)
class TokenRow:
    sample_id: str
    slot: int  # which picture of the sample
    file: str
    row: int


def find_tokens(tokens: Path, sample_ids: Collection[str]) -> Iterator[TokenRow]:
    """The rows of a token artifact that hold pictures of some samples. Raises: TokensError."""
    for path in sorted((tokens / "tokens").glob("*.parquet")):
        for row, (sample_id, slot) in enumerate(TokenShard(path).row_keys()):
            if sample_id in sample_ids:
                yield TokenRow(sample_id=sample_id, slot=slot, file=f"tokens/{path.name}", row=row)
