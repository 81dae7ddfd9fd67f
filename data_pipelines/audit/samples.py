"""Chooses the samples that an audit page shows: images, groups of copies, captions. The choice never changes.

Images of kept samples are read from the shards; of all others there are the thumbnails of `thumbnails.py`, a few for
each verdict and reason in each shard. Ledgers and thumbnails are streamed; only chosen rows stay in memory.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from data_pipelines.audit.thumbnails import read_thumbnails
from data_pipelines.datasets.ledgers import id_prefixes, ledger_tables, ranks
from data_pipelines.datasets.reader import CuratedDataset, DatasetError
from data_pipelines.datasets.samples import SampleError
from data_pipelines.datasets.verdicts import VERDICTS
from data_pipelines.images.limits import DecodeLimits
from data_pipelines.images.resizing import thumbnail

IMAGES_PER_GROUP = 12
NUM_RANDOM = 24
NUM_CLUSTERS = 12
MAX_COPIES_SHOWN = 7
NUM_CAPTIONS = 10
MAX_CANDIDATES = 20_000  # groups of copies whose sizes are counted
THUMBNAIL_SIDE = 128
SPECIAL_REASONS = ("quarantined", "contaminated")  # that have a section of their own
RANDOM_SALT, CAPTION_SALT = 1, 2
SPAN_COLUMNS = ["sample_id", "verdict", "caption", "shard", "offset", "span_bytes"]
COLUMNS = [*SPAN_COLUMNS, "reason", "detail", "task", "source_file", "source_row", "duplicate_of"]


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A kept sample and its copies, counted over the whole ledger."""

    kept_id: str
    num_copies: int
    copies: Sequence[Mapping[str, Any]]  # thumbnail rows of some of the copies


@dataclass(frozen=True, kw_only=True)
class PageSamples:
    """The chosen rows of ledgers and of thumbnails. `images` holds JPEGs of kept samples by (sample id, slot)."""

    random: Sequence[Mapping[str, Any]]
    added: Sequence[Mapping[str, Any]]  # since the version that the dataset is compared with
    clusters: Sequence[Cluster]  # the largest first
    groups: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]  # by verdict and reason
    special: Mapping[str, Sequence[Mapping[str, Any]]]  # by reason
    captions: Mapping[str, Sequence[Mapping[str, Any]]]  # by title of their group
    images: Mapping[tuple[str, int], bytes]


@dataclass(kw_only=True)
class _RandomChoice:
    """The rows of lowest rank, no two with the same value of `key`."""

    limit: int
    key: str = "sample_id"
    rows: list[tuple[int, str, dict[str, Any]]] = field(default_factory=list)

    def offer(self, table: Any, chosen: npt.NDArray[np.bool_], rank: npt.NDArray[np.uint64]) -> None:
        indices = np.flatnonzero(chosen)
        indices = indices[np.argsort(rank[indices], kind="stable")[: 4 * self.limit]]  # some repeat a key
        found = table.take(pa.array(indices)).to_pylist()
        self.rows += [(int(rank[index]), row["sample_id"], row) for index, row in zip(indices, found, strict=True)]
        self.rows.sort(key=lambda entry: entry[:2])
        unique: dict[object, tuple[int, str, dict[str, Any]]] = {}
        for entry in self.rows:
            unique.setdefault(entry[2][self.key], entry)
        self.rows = list(unique.values())[: self.limit]

    def chosen(self) -> list[dict[str, Any]]:
        return [row for _, _, row in self.rows]


@dataclass(kw_only=True)
class _LedgerScan:
    """The choices of one pass over the ledgers."""

    added_ids: Collection[int]
    candidates: Any  # ids of kept samples whose copies have thumbnails
    random: _RandomChoice = field(default_factory=lambda: _RandomChoice(limit=NUM_RANDOM))
    added: _RandomChoice = field(default_factory=lambda: _RandomChoice(limit=1 << 20))
    special: dict[str, _RandomChoice] = field(default_factory=dict)
    captions: dict[str, _RandomChoice] = field(default_factory=dict)
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
            self.special.setdefault(reason, _RandomChoice(limit=IMAGES_PER_GROUP)).offer(table, of_reason, rank)
        has_text = np.asarray(pc.not_equal(pc.fill_null(table["caption"], ""), ""))
        rank = ranks(prefixes, CAPTION_SALT)
        for title, chosen in (
            ("Kept", kept & ~is_text),
            ("Kept, text only", kept & is_text),
            ("Not kept", ~kept & ~is_text),
            ("Not kept, text only", ~kept & is_text),
        ):
            choice = self.captions.setdefault(title, _RandomChoice(limit=NUM_CAPTIONS, key="caption"))
            choice.offer(table, chosen & has_text, rank)
        copies = table["duplicate_of"].filter(pc.is_in(table["duplicate_of"], self.candidates))
        for entry in pc.value_counts(copies).to_pylist() if len(self.candidates) else ():
            self.sizes[entry["values"]] = self.sizes.get(entry["values"], 0) + entry["counts"]


def choose_samples(dataset: CuratedDataset, added_ids: Collection[int] = ()) -> PageSamples:
    """The samples that the page shows. `added_ids`: the first 64 bits of the ids of samples that are new.

    Raises: DatasetError if a ledger or the thumbnails cannot be read.
    """
    originals = sorted({row["duplicate_of"] for row in _thumbnails(dataset, ["duplicate_of"]) if row["duplicate_of"]})
    scan = _LedgerScan(added_ids=added_ids, candidates=pa.array(originals[:MAX_CANDIDATES], pa.string()))
    for table in ledger_tables(dataset, COLUMNS):
        try:
            scan.add(table)
        except ValueError as error:
            raise DatasetError(f"{dataset.folder / 'ledger'}: {error}; curate again") from error
    largest = sorted(scan.sizes.items(), key=lambda size: (-size[1], size[0]))[:NUM_CLUSTERS]
    groups, copies = _shown_thumbnails(dataset, {kept_id for kept_id, _ in largest})
    clusters = [Cluster(kept_id=kept_id, num_copies=size, copies=copies[kept_id]) for kept_id, size in largest]
    rows = [row for group in groups.values() for row in group]
    wanted = {(row["duplicate_of"], row["slot"]) for row in rows if row["duplicate_of"]}
    wanted |= {(cluster.kept_id, row["slot"]) for cluster in clusters for row in cluster.copies}
    wanted |= {(row["sample_id"], 0) for row in [*scan.random.chosen(), *scan.added.chosen()]}
    return PageSamples(
        random=scan.random.chosen(),
        added=scan.added.chosen(),
        clusters=clusters,
        groups=groups,
        special={reason: choice.chosen() for reason, choice in scan.special.items()},
        captions={title: choice.chosen() for title, choice in scan.captions.items()},
        images=_kept_images(dataset, wanted),
    )


def _thumbnails(dataset: CuratedDataset, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The thumbnail rows of all shards; `position` is the row's number in its file."""
    for shard in dataset.shards:
        try:
            table = read_thumbnails(dataset, shard, columns)
        except (OSError, pa.ArrowException) as error:
            raise DatasetError(f"{dataset.thumbnails}: {shard}: thumbnails cannot be read ({error})") from error
        for position, row in enumerate(table.to_pylist()):
            yield {**row, "position": position}


def _shown_thumbnails(
    dataset: CuratedDataset, kept_ids: Collection[str]
) -> tuple[dict[tuple[str, str], list[dict[str, Any]]], dict[str, list[dict[str, Any]]]]:
    """Thumbnail rows by verdict and reason, evenly from all shards, and those of the copies of some kept samples."""
    columns = ["sample_id", "verdict", "reason", "caption", "duplicate_of", "slot", "jpeg"]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    copies: dict[str, list[dict[str, Any]]] = {kept_id: [] for kept_id in kept_ids}
    for row in _thumbnails(dataset, columns):
        _keep_first(groups.setdefault((row["verdict"], row["reason"] or ""), []), row, IMAGES_PER_GROUP)
        if row["duplicate_of"] in copies and row["slot"] == 0:
            _keep_first(copies[row["duplicate_of"]], row, MAX_COPIES_SHOWN)
    verdict_order = {verdict: index for index, verdict in enumerate(VERDICTS)}
    order = sorted(groups, key=lambda group: (verdict_order.get(group[0], len(verdict_order)), group))
    return {group: groups[group] for group in order}, copies


def _keep_first(rows: list[dict[str, Any]], row: dict[str, Any], limit: int) -> None:
    rows.append(row)
    rows.sort(key=lambda row: (row["slot"], row["position"], row["sample_id"]))
    del rows[limit:]


def _kept_images(dataset: CuratedDataset, wanted: Collection[tuple[str, int]]) -> dict[tuple[str, int], bytes]:
    """JPEGs by sample id and slot; images that were not fetched or cannot be read are omitted."""
    ids = pa.array(sorted({sample_id for sample_id, _ in wanted}), pa.string())
    found: dict[tuple[str, int], bytes] = {}
    for table in ledger_tables(dataset, SPAN_COLUMNS) if len(ids) else ():
        chosen = table.filter(pc.and_(pc.is_in(table["sample_id"], ids), pc.equal(table["verdict"], "keep")))
        for row in chosen.to_pylist():
            for slot, data in _images(dataset, row):
                small = thumbnail(data, THUMBNAIL_SIDE, DecodeLimits()) if (row["sample_id"], slot) in wanted else None
                if small is not None:
                    found[(row["sample_id"], slot)] = small
    return found


def _images(dataset: CuratedDataset, row: Mapping[str, Any]) -> Iterator[tuple[int, bytes]]:
    if not dataset.tar_path(row["shard"]).exists():  # from a remote store only the tables are fetched
        return
    try:
        stored = dataset.read(row["shard"], row["offset"], row["span_bytes"])
        yield from ((slot, stored.image_bytes(slot)) for slot in range(len(stored.sample.images)))
    except SampleError:
        return
