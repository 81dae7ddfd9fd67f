"""Finds samples that share an image with an evaluation set, so that no model is trained on what it is tested with.

Two images are the same if their bytes, their pixels or their appearance are the same, also with left and right swapped;
appearance is compared by the limits that apply to copies. Every image of an evaluation set counts, even one that the
thresholds of curation would drop, and samples of every split are checked: nothing of a benchmark is kept, not for
validation either.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_pipelines.curation.config import CurationConfig
from data_pipelines.datasets.files import path_of
from data_pipelines.duplicates.near_hashes import Hashes, HashLookup, Integers

Miniatures = npt.NDArray[np.uint8]  # [N, 8, 8, 3]

IMAGES_AT_ONCE = 1 << 14  # whose hashes are looked up at once
PAIRS_AT_ONCE = 1 << 16  # pairs of miniatures compared at once: 40 MB
MAX_NAME_CHARS = 200  # of an evaluation set or sample in a verdict's detail

# Kinds of match, the most certain first. Matches are ranked by kind, then by differing bits, then by sample.
SAME_BYTES, SAME_PIXELS, SIMILAR, MIRRORED = range(4)
NO_MATCH = np.iinfo(np.int64).max
_SENTENCES = (
    "the same file as in {}",
    "the same pixels as in {}",
    "looks like a picture of {} ({} of 64 bits differ)",
    "looks like a mirrored picture of {} ({} of 64 bits differ)",
)
_COLUMNS = ["row", "images", "reason", "phash", "mirrored_phash", "pixel_digest", "miniature"]


@dataclass(frozen=True, kw_only=True)
class EvaluationShard:
    """A shard of records of an evaluation set: its records file, and what `judge_shard` wrote about them."""

    records: Path
    analysis: Path


@dataclass(frozen=True, kw_only=True)
class ContaminationVerdict:
    """A row of a shard that shares an image with an evaluation set."""

    row: int
    reason: str
    detail: str  # which sample of which set, and the kind of match


class EvaluationImages:
    """Digests, hashes and miniatures of the images of all evaluation sets; samples are ordered by their set's name."""

    def __init__(self, shards: Sequence[EvaluationShard]) -> None:
        tables = [_EVALUATION_SCHEMA.empty_table(), *map(_read_evaluation, shards)]
        table = pa.concat_tables(tables).sort_by([("source", "ascending"), ("name", "ascending")])
        self.names: list[str] = [
            f"sample {name[:MAX_NAME_CHARS]!r} of the evaluation set {source[:MAX_NAME_CHARS]!r}"
            for source, name in zip(table["source"].to_pylist(), table["name"].to_pylist(), strict=True)
        ]
        self.files, self.file_samples = _first_samples(table["images"])
        self.pixels, self.pixel_samples = _first_samples(table["pixel_digest"])
        self.unread = table["is_read"].to_pylist().count(False)  # samples with an image that could not be decoded
        self.hashes, self.miniatures, self.hash_samples = _distinct_appearances(table)  # sorted by hash


def find_contaminated(
    analyses: Mapping[str, Path], evaluation: EvaluationImages, config: CurationConfig
) -> dict[str, list[ContaminationVerdict]]:
    """For each shard the rows that passed all checks and share an image with an evaluation set.

    `analyses` maps shard names to their analysis files, which are read one at a time. Appearance is compared unless
    `near_duplicates` is off. The search is exact: no row that is left looks like an image of an evaluation set.
    """
    similar = _SimilarImages(evaluation, config) if config.near_duplicates else None
    return {name: _judge_shard(analyses[name], evaluation, similar) for name in sorted(analyses)}


def _judge_shard(
    analysis: Path, evaluation: EvaluationImages, similar: "_SimilarImages | None"
) -> list[ContaminationVerdict]:
    table = pq.read_table(analysis, columns=_COLUMNS)
    table = table.filter(pc.is_null(table["reason"])).combine_chunks()
    ranks = np.full(len(table), NO_MATCH, dtype=np.int64)
    for column, digests, samples, kind in (
        ("images", evaluation.files, evaluation.file_samples, SAME_BYTES),
        ("pixel_digest", evaluation.pixels, evaluation.pixel_samples, SAME_PIXELS),
    ):
        found = pc.index_in(_flat(table[column]), value_set=digests)
        matched = np.flatnonzero(found.is_valid())
        matched_samples = samples[found.drop_null().to_numpy()]
        match_ranks = _rank(kind, np.zeros_like(matched_samples), matched_samples)
        np.minimum.at(ranks, _row_indices(table[column])[matched], match_ranks)
    if similar is not None:
        similar.lower_ranks(table, ranks)
    rows = table["row"].to_numpy()
    return [_verdict(int(rows[index]), int(ranks[index]), evaluation) for index in np.flatnonzero(ranks != NO_MATCH)]


def _verdict(row: int, rank: int, evaluation: EvaluationImages) -> ContaminationVerdict:
    kind, bits, sample = rank >> 48, rank >> 40 & 0xFF, rank & 0xFFFFFFFFFF
    return ContaminationVerdict(
        row=row, reason="contaminated", detail=_SENTENCES[kind].format(evaluation.names[sample], bits)
    )


def _rank(kind: int, bits: Integers, samples: Integers) -> Integers:
    """A match as one number, smaller for a more certain one; the lowest 40 bits hold the sample."""
    return np.int64(kind) << 48 | bits.astype(np.int64) << 40 | samples


class _SimilarImages:
    """Compares the appearance of all evaluation images with that of many shards."""

    def __init__(self, evaluation: EvaluationImages, config: CurationConfig) -> None:
        self._evaluation, self._config = evaluation, config
        hashes, self._starts = np.unique(evaluation.hashes, return_index=True)
        self._counts = np.diff(np.append(self._starts, len(evaluation.hashes)))
        self._lookup = HashLookup(hashes, config.phash_distance)

    def lower_ranks(self, table: Any, ranks: Integers) -> None:
        """Lower the `ranks` of the rows of an analysis that look like an evaluation image."""
        rows, miniatures = _row_indices(table["phash"]), _miniatures(_flat(table["miniature"]))
        self._lower(rows, _flat(table["phash"]).to_numpy(), miniatures, SIMILAR, ranks)
        if self._config.mirrored_images:
            flipped = miniatures[:, :, ::-1]
            self._lower(rows, _flat(table["mirrored_phash"]).to_numpy(), flipped, MIRRORED, ranks)

    def _lower(self, rows: Integers, hashes: Hashes, miniatures: Miniatures, kind: int, ranks: Integers) -> None:
        for first in range(0, len(hashes), IMAGES_AT_ONCE):
            pairs = self._lookup.near(hashes[first : first + IMAGES_AT_ONCE])
            starts, counts = self._starts[pairs.known], self._counts[pairs.known]
            for chosen, known in _expand_ranges(starts, counts, PAIRS_AT_ONCE):
                positions = first + pairs.positions[chosen]
                difference = np.abs(miniatures[positions].astype(np.int16) - self._evaluation.miniatures[known])
                is_similar = difference.mean(axis=(1, 2, 3)) <= self._config.colour_distance
                samples = self._evaluation.hash_samples[known[is_similar]]
                match_ranks = _rank(kind, pairs.distances[chosen[is_similar]], samples)
                np.minimum.at(ranks, rows[positions[is_similar]], match_ranks)


def _expand_ranges(starts: Integers, counts: Integers, at_once: int) -> Iterator[tuple[Integers, Integers]]:
    """For each range `starts[i]`, `starts[i] + 1`, ... of `counts[i]` numbers: i and the number, about `at_once` pairs.

    Yields two arrays at a time: the indices i, and the numbers.
    """
    ends = np.cumsum(counts)
    first = 0
    while first < len(counts):
        base = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, base + at_once, side="right")))
        sizes = counts[first:last]
        within = np.arange(int(ends[last - 1]) - base) - np.repeat(ends[first:last] - sizes - base, sizes)
        yield np.repeat(np.arange(first, last), sizes), np.repeat(starts[first:last], sizes) + within
        first = last


_EVALUATION_SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("name", pa.string()),
        ("images", pa.list_(pa.string())),
        ("is_read", pa.bool_()),
        ("phash", pa.list_(pa.uint64())),
        ("pixel_digest", pa.list_(pa.string())),
        ("miniature", pa.list_(pa.binary(192))),
    ]
)


def _read_evaluation(shard: EvaluationShard) -> Any:
    """One row for each record, readable or not; hashes and miniatures exist only for images that could be decoded."""
    path = path_of(shard.records)
    records = pq.read_table(path, columns=["source", "sample_id", "external_id", "images", "reject"])
    analysis = pq.read_table(shard.analysis, columns=["row", "phash", "pixel_digest", "miniature"])
    analysed = analysis.take(pc.index_in(pa.array(np.arange(len(records))), value_set=analysis["row"].combine_chunks()))
    is_complete = pc.equal(pc.list_value_length(records["images"]), pc.list_value_length(analysed["phash"]))
    columns = {
        "source": records["source"],
        "name": pc.coalesce(records["external_id"], records["sample_id"]),
        "images": records["images"],
        "is_read": pc.and_(pc.is_null(records["reject"]), pc.fill_null(is_complete, False)),
        **{name: analysed[name] for name in ("phash", "pixel_digest", "miniature")},
    }
    return pa.table(columns, schema=_EVALUATION_SCHEMA)


def _first_samples(lists: Any) -> tuple[Any, Integers]:
    """The distinct digests in a column of lists, and the first row that has each."""
    flat = _flat(lists)
    digests = pc.unique(flat)
    first = np.full(len(digests), NO_MATCH, dtype=np.int64)
    np.minimum.at(first, pc.index_in(flat, value_set=digests).to_numpy(), _row_indices(lists))
    return digests, first


def _distinct_appearances(table: Any) -> tuple[Hashes, Miniatures, Integers]:
    """The distinct pairs of hash and miniature, sorted by hash, and the first row that has each pair."""
    columns = {"hash": _flat(table["phash"]), "small": _flat(table["miniature"]), "row": _row_indices(table["phash"])}
    distinct = pa.table(columns).group_by(["hash", "small"]).aggregate([("row", "min")]).sort_by("hash")
    return distinct["hash"].to_numpy(), _miniatures(distinct["small"]), distinct["row_min"].to_numpy()


def _flat(lists: Any) -> Any:
    return pc.list_flatten(lists.combine_chunks())


def _row_indices(lists: Any) -> Integers:
    """The row of each value in a column of lists."""
    rows: Integers = pc.list_parent_indices(lists.combine_chunks()).to_numpy()
    return rows


def _miniatures(values: Any) -> Miniatures:
    return np.frombuffer(b"".join(values.to_pylist()), np.uint8).reshape(-1, 8, 8, 3)
