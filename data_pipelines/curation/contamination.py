"""Finds the samples whose pictures an evaluation set holds too, so that no model learns what it is tested with.

A picture counts as the same by its bytes, by its pixels, or because it looks the same, also with left and right
swapped. What counts as looking the same is what counts so among copies. Every picture of an evaluation set counts,
whatever the thresholds of the curation say of it, and in every split: nothing of a benchmark is kept, not for
validation either.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_pipelines.curation.config import CurationConfig
from data_pipelines.duplicates.hash_lookup import Hashes, Integers, LookAlikes, expanded

Miniatures = npt.NDArray[np.uint8]  # [N, 8, 8, 3]

PICTURES_AT_ONCE = 1024  # whose hashes are looked up in one go
LOOKS_AT_ONCE = 1 << 16  # pairs of miniatures compared in one go: 40 MB
MAX_NAME_CHARS = 200  # of an evaluation set or sample in a verdict's detail

# How a picture was found, the surest first. Ranks of a finding are ordered by this, by bits, by sample.
SAME_BYTES, SAME_PIXELS, LOOKS_LIKE, MIRRORED = range(4)
NOT_FOUND = np.iinfo(np.int64).max
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
    """A row of a shard that shows what an evaluation set shows."""

    row: int
    reason: str
    detail: str  # which sample of which set, and how it was found


class EvaluationPictures:
    """What is known about the pictures of all evaluation sets. Samples are in the order of their sets' names."""

    def __init__(self, shards: Sequence[EvaluationShard]) -> None:
        tables = [_EVALUATION_SCHEMA.empty_table(), *map(_read_evaluation, shards)]
        table = pa.concat_tables(tables).sort_by([("source", "ascending"), ("name", "ascending")])
        self.names: list[str] = [
            f"sample {name[:MAX_NAME_CHARS]!r} of the evaluation set {source[:MAX_NAME_CHARS]!r}"
            for source, name in zip(table["source"].to_pylist(), table["name"].to_pylist(), strict=True)
        ]
        self.files, self.file_samples = _first_samples(table["images"])
        self.pixels, self.pixel_samples = _first_samples(table["pixel_digest"])
        self.unread = table["is_read"].to_pylist().count(False)  # samples with a picture that nobody could look at
        self.hashes, self.miniatures, self.look_samples = _distinct_looks(table)  # by hash, of all decoded pictures


def find_contaminated(
    analyses: Mapping[str, Path], evaluation: EvaluationPictures, config: CurationConfig
) -> dict[str, list[ContaminationVerdict]]:
    """For each shard the rows that passed all checks and of which a picture is in an evaluation set.

    `analyses` maps shard names to their analysis files, which are held one at a time. Looks are compared unless
    `near_duplicates` is off. The search is exact: nothing that is left looks like a picture of an evaluation set.
    """
    looks = _Looks(evaluation, config) if config.near_duplicates else None
    return {name: _judge_shard(analyses[name], evaluation, looks) for name in sorted(analyses)}


def _judge_shard(analysis: Path, evaluation: EvaluationPictures, looks: "_Looks | None") -> list[ContaminationVerdict]:
    table = pq.read_table(analysis, columns=_COLUMNS)
    table = table.filter(pc.is_null(table["reason"])).combine_chunks()
    ranks = np.full(len(table), NOT_FOUND, dtype=np.int64)
    for column, digests, samples, way in (
        ("images", evaluation.files, evaluation.file_samples, SAME_BYTES),
        ("pixel_digest", evaluation.pixels, evaluation.pixel_samples, SAME_PIXELS),
    ):
        found = pc.index_in(_flat(table[column]), value_set=digests)
        places = np.flatnonzero(found.is_valid())
        at = samples[found.drop_null().to_numpy()]
        np.minimum.at(ranks, _rows_of(table[column])[places], _rank(way, np.zeros_like(at), at))
    if looks is not None:
        looks.judge(table, ranks)
    rows = table["row"].to_numpy()
    return [_verdict(int(rows[place]), int(ranks[place]), evaluation) for place in np.flatnonzero(ranks != NOT_FOUND)]


def _verdict(row: int, rank: int, evaluation: EvaluationPictures) -> ContaminationVerdict:
    way, bits, sample = rank >> 48, rank >> 40 & 0xFF, rank & 0xFFFFFFFFFF
    return ContaminationVerdict(
        row=row, reason="contaminated", detail=_SENTENCES[way].format(evaluation.names[sample], bits)
    )


def _rank(way: int, bits: Integers, samples: Integers) -> Integers:
    """One number for a finding, less for a surer one: 40 bits hold the sample."""
    return np.int64(way) << 48 | bits.astype(np.int64) << 40 | samples


class _Looks:
    """The looks of all evaluation pictures, ready to be compared with many shards."""

    def __init__(self, evaluation: EvaluationPictures, config: CurationConfig) -> None:
        self._evaluation, self._config = evaluation, config
        hashes, self._starts = np.unique(evaluation.hashes, return_index=True)
        self._counts = np.diff(np.append(self._starts, len(evaluation.hashes)))
        self._near = LookAlikes(hashes, config.phash_distance)

    def judge(self, table: Any, ranks: Integers) -> None:
        """Lower the `ranks` of the rows of an analysis that look like an evaluation picture."""
        rows, miniatures = _rows_of(table["phash"]), _miniatures(_flat(table["miniature"]))
        self._judge(rows, _flat(table["phash"]).to_numpy(), miniatures, LOOKS_LIKE, ranks)
        if self._config.mirrored_pictures:
            flipped = miniatures[:, :, ::-1]
            self._judge(rows, _flat(table["mirrored_phash"]).to_numpy(), flipped, MIRRORED, ranks)

    def _judge(self, rows: Integers, hashes: Hashes, miniatures: Miniatures, way: int, ranks: Integers) -> None:
        for first in range(0, len(hashes), PICTURES_AT_ONCE):
            pairs = self._near.near(hashes[first : first + PICTURES_AT_ONCE])
            starts, counts = self._starts[pairs.asked], self._counts[pairs.asked]
            for chosen, looks in expanded(starts, counts, LOOKS_AT_ONCE):
                places = first + pairs.places[chosen]
                far = np.abs(miniatures[places].astype(np.int16) - self._evaluation.miniatures[looks])
                alike = far.mean(axis=(1, 2, 3)) <= self._config.colour_distance
                samples = self._evaluation.look_samples[looks[alike]]
                found = _rank(way, pairs.distances[chosen[alike]], samples)
                np.minimum.at(ranks, rows[places[alike]], found)


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
    """One row for each record, readable or not; lists of looks leave out pictures that could not be decoded."""
    records = pq.read_table(shard.records, columns=["source", "sample_id", "external_id", "images", "reject"])
    analysis = pq.read_table(shard.analysis, columns=["row", "phash", "pixel_digest", "miniature"])
    analysed = analysis.take(pc.index_in(pa.array(np.arange(len(records))), value_set=analysis["row"].combine_chunks()))
    is_whole = pc.equal(pc.list_value_length(records["images"]), pc.list_value_length(analysed["phash"]))
    columns = {
        "source": records["source"],
        "name": pc.coalesce(records["external_id"], records["sample_id"]),
        "images": records["images"],
        "is_read": pc.and_(pc.is_null(records["reject"]), pc.fill_null(is_whole, False)),
        **{name: analysed[name] for name in ("phash", "pixel_digest", "miniature")},
    }
    return pa.table(columns, schema=_EVALUATION_SCHEMA)


def _first_samples(lists: Any) -> tuple[Any, Integers]:
    """The distinct digests in a column of lists, and the first row that has each."""
    flat = _flat(lists)
    digests = pc.unique(flat)
    first = np.full(len(digests), NOT_FOUND, dtype=np.int64)
    np.minimum.at(first, pc.index_in(flat, value_set=digests).to_numpy(), _rows_of(lists))
    return digests, first


def _distinct_looks(table: Any) -> tuple[Hashes, Miniatures, Integers]:
    """Hashes in order, miniatures, and the first row that has each pair of them."""
    looks = {"hash": _flat(table["phash"]), "small": _flat(table["miniature"]), "row": _rows_of(table["phash"])}
    distinct = pa.table(looks).group_by(["hash", "small"]).aggregate([("row", "min")]).sort_by("hash")
    return distinct["hash"].to_numpy(), _miniatures(distinct["small"]), distinct["row_min"].to_numpy()


def _flat(lists: Any) -> Any:
    return pc.list_flatten(lists.combine_chunks())


def _rows_of(lists: Any) -> Integers:
    """The row of each value in a column of lists."""
    rows: Integers = pc.list_parent_indices(lists.combine_chunks()).to_numpy()
    return rows


def _miniatures(values: Any) -> Miniatures:
    return np.frombuffer(b"".join(values.to_pylist()), np.uint8).reshape(-1, 8, 8, 3)
