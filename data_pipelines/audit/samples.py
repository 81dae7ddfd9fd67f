"""Chooses what an audit page shows of a dataset: pictures, groups of copies, captions. The choice never changes.

What is kept can be read from the shards; of everything else there are the thumbnails that the curation made, a few for
each verdict and reason in each shard. Ledgers and thumbnails are streamed; only what is chosen stays in memory.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_pipelines.datasets.ledgers import id_prefixes, ledger_tables, ranks
from data_pipelines.datasets.reader import CuratedDataset, DatasetError
from data_pipelines.datasets.samples import SampleError
from data_pipelines.datasets.verdicts import VERDICTS
from data_pipelines.images.limits import DecodeLimits
from data_pipelines.images.resizing import thumbnail

PICTURES_PER_GROUP = 12
NUM_RANDOM = 24
NUM_CLUSTERS = 12
MAX_COPIES_SHOWN = 7
NUM_CAPTIONS = 10
MAX_CANDIDATES = 20_000  # groups of copies whose sizes are counted
THUMBNAIL_SIDE = 128
SPECIAL_REASONS = ("quarantined", "contaminated")  # that have a section of their own
RANDOM_SALT, CAPTION_SALT = 1, 2
PLACES = ["sample_id", "verdict", "caption", "shard", "offset", "span_bytes"]
COLUMNS = [*PLACES, "reason", "detail", "task", "source_file", "source_row", "duplicate_of"]


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A kept sample and its copies, counted over the whole ledger."""

    kept_id: str
    num_copies: int
    copies: Sequence[Mapping[str, Any]]  # rows of thumbnails, some of them


@dataclass(frozen=True, kw_only=True)
class PageSamples:
    """Rows of ledgers and of thumbnails. `pictures` holds JPEGs of kept samples by (sample id, slot)."""

    random: Sequence[Mapping[str, Any]]
    added: Sequence[Mapping[str, Any]]  # since the version that it is compared with
    clusters: Sequence[Cluster]  # the largest first
    groups: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]  # by verdict and reason
    special: Mapping[str, Sequence[Mapping[str, Any]]]  # by reason
    captions: Mapping[str, Sequence[Mapping[str, Any]]]  # by what they are
    pictures: Mapping[tuple[str, int], bytes]


@dataclass(kw_only=True)
class _Choice:
    """The rows of lowest rank, no two with the same value of `key`."""

    limit: int
    key: str = "sample_id"
    rows: list[tuple[int, str, dict[str, Any]]] = field(default_factory=list)

    def offer(self, table: Any, chosen: npt.NDArray[np.bool_], rank: npt.NDArray[np.uint64]) -> None:
        places = np.flatnonzero(chosen)
        places = places[np.argsort(rank[places], kind="stable")[: 4 * self.limit]]  # some repeat a key
        found = table.take(pa.array(places)).to_pylist()
        self.rows += [(int(rank[place]), row["sample_id"], row) for place, row in zip(places, found, strict=True)]
        self.rows.sort(key=lambda entry: entry[:2])
        unique: dict[object, tuple[int, str, dict[str, Any]]] = {}
        for entry in self.rows:
            unique.setdefault(entry[2][self.key], entry)
        self.rows = list(unique.values())[: self.limit]

    def chosen(self) -> list[dict[str, Any]]:
        return [row for _, _, row in self.rows]


@dataclass(kw_only=True)
class _Walk:
    """What one pass over the ledgers finds."""

    added_ids: Collection[int]
    candidates: Any  # ids of kept samples with copies at hand
    random: _Choice = field(default_factory=lambda: _Choice(limit=NUM_RANDOM))
    added: _Choice = field(default_factory=lambda: _Choice(limit=1 << 20))
    special: dict[str, _Choice] = field(default_factory=dict)
    captions: dict[str, _Choice] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)

    def add(self, table: Any) -> None:
        prefixes = id_prefixes(table["sample_id"])
        rank = ranks(prefixes, RANDOM_SALT)
        kept = np.asarray(pc.equal(table["verdict"], "keep"))
        is_text = np.asarray(pc.fill_null(pc.equal(table["task"], "text"), False))
        self.random.offer(table, kept & ~is_text, rank)
        if self.added_ids:
            wanted = np.fromiter(self.added_ids, np.uint64)
            self.added.offer(table, kept & np.isin(prefixes, wanted), rank)
        for reason in SPECIAL_REASONS:
            of_reason = np.asarray(pc.fill_null(pc.equal(table["reason"], reason), False))
            self.special.setdefault(reason, _Choice(limit=PICTURES_PER_GROUP)).offer(table, of_reason, rank)
        worded = np.asarray(pc.not_equal(pc.fill_null(table["caption"], ""), ""))
        rank = ranks(prefixes, CAPTION_SALT)
        for title, chosen in (
            ("Kept", kept & ~is_text),
            ("Kept, text only", kept & is_text),
            ("Left out", ~kept & ~is_text),
            ("Left out, text only", ~kept & is_text),
        ):
            choice = self.captions.setdefault(title, _Choice(limit=NUM_CAPTIONS, key="caption"))
            choice.offer(table, chosen & worded, rank)
        copies = table["duplicate_of"].filter(pc.is_in(table["duplicate_of"], self.candidates))
        for entry in pc.value_counts(copies).to_pylist() if len(self.candidates) else ():
            self.sizes[entry["values"]] = self.sizes.get(entry["values"], 0) + entry["counts"]


def choose_samples(dataset: CuratedDataset, added_ids: Collection[int] = ()) -> PageSamples:
    """What the page shows; `added_ids` are the first 64 bits of the ids of samples that are new.

    Raises: DatasetError if a ledger or the thumbnails cannot be read.
    """
    originals = sorted({row["duplicate_of"] for row in _thumbnails(dataset, ["duplicate_of"]) if row["duplicate_of"]})
    walk = _Walk(added_ids=added_ids, candidates=pa.array(originals[:MAX_CANDIDATES], pa.string()))
    for table in ledger_tables(dataset, COLUMNS):
        try:
            walk.add(table)
        except ValueError as error:
            raise DatasetError(f"{dataset.folder / 'ledger'}: {error}; curate again") from error
    largest = sorted(walk.sizes.items(), key=lambda size: (-size[1], size[0]))[:NUM_CLUSTERS]
    groups, copies = _shown_thumbnails(dataset, {kept_id for kept_id, _ in largest})
    clusters = [Cluster(kept_id=kept_id, num_copies=size, copies=copies[kept_id]) for kept_id, size in largest]
    rows = [row for group in groups.values() for row in group]
    wanted = {(row["duplicate_of"], row["slot"]) for row in rows if row["duplicate_of"]}
    wanted |= {(cluster.kept_id, row["slot"]) for cluster in clusters for row in cluster.copies}
    wanted |= {(row["sample_id"], 0) for row in [*walk.random.chosen(), *walk.added.chosen()]}
    return PageSamples(
        random=walk.random.chosen(),
        added=walk.added.chosen(),
        clusters=clusters,
        groups=groups,
        special={reason: choice.chosen() for reason, choice in walk.special.items()},
        captions={title: choice.chosen() for title, choice in walk.captions.items()},
        pictures=_kept_pictures(dataset, wanted),
    )


def _thumbnails(dataset: CuratedDataset, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Rows of the thumbnails of all shards; `place` is the row's number in its file."""
    for shard in dataset.shards:
        path = dataset.folder / "thumbnails" / f"{shard}.parquet"
        try:
            table = pq.read_table(path, columns=columns, use_threads=False) if path.is_file() else pa.table({})
        except (OSError, pa.ArrowException) as error:
            raise DatasetError(f"{path}: thumbnails cannot be read ({error}); curate again") from error
        for place, row in enumerate(table.to_pylist()):
            yield {**row, "place": place}


def _shown_thumbnails(
    dataset: CuratedDataset, kept_ids: Collection[str]
) -> tuple[dict[tuple[str, str], list[dict[str, Any]]], dict[str, list[dict[str, Any]]]]:
    """Thumbnails by verdict and reason, evenly from all shards, and those of the copies of some kept samples."""
    columns = ["sample_id", "verdict", "reason", "caption", "duplicate_of", "slot", "jpeg"]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    copies: dict[str, list[dict[str, Any]]] = {kept_id: [] for kept_id in kept_ids}
    for row in _thumbnails(dataset, columns):
        _keep_first(groups.setdefault((row["verdict"], row["reason"] or ""), []), row, PICTURES_PER_GROUP)
        if row["duplicate_of"] in copies and row["slot"] == 0:
            _keep_first(copies[row["duplicate_of"]], row, MAX_COPIES_SHOWN)
    known = {verdict: place for place, verdict in enumerate(VERDICTS)}
    order = sorted(groups, key=lambda group: (known.get(group[0], len(known)), group))
    return {group: groups[group] for group in order}, copies


def _keep_first(rows: list[dict[str, Any]], row: dict[str, Any], limit: int) -> None:
    rows.append(row)
    rows.sort(key=lambda row: (row["slot"], row["place"], row["sample_id"]))
    del rows[limit:]


def _kept_pictures(dataset: CuratedDataset, wanted: Collection[tuple[str, int]]) -> dict[tuple[str, int], bytes]:
    """JPEGs by sample id and slot; what is not at hand or cannot be read is left out."""
    ids = pa.array(sorted({sample_id for sample_id, _ in wanted}), pa.string())
    found: dict[tuple[str, int], bytes] = {}
    for table in ledger_tables(dataset, PLACES) if len(ids) else ():
        chosen = table.filter(pc.and_(pc.is_in(table["sample_id"], ids), pc.equal(table["verdict"], "keep")))
        for row in chosen.to_pylist():
            for slot, data in _pictures(dataset, row):
                small = thumbnail(data, THUMBNAIL_SIDE, DecodeLimits()) if (row["sample_id"], slot) in wanted else None
                if small is not None:
                    found[(row["sample_id"], slot)] = small
    return found


def _pictures(dataset: CuratedDataset, row: Mapping[str, Any]) -> Iterator[tuple[int, bytes]]:
    if not dataset.tar_path(row["shard"]).exists():  # of a remote store only the tables are fetched
        return
    try:
        stored = dataset.read(row["shard"], row["offset"], row["span_bytes"])
        yield from ((slot, stored.image_bytes(slot)) for slot in range(len(stored.sample.images)))
    except SampleError:
        return
