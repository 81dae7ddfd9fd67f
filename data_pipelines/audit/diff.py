"""Compares two curated datasets by their ledgers: records added, removed, and given another verdict or reason.

A record is a row of a ledger: a sample id, a verdict and its reason. Equal records of both sides cancel out, each as
often as it occurs. Where one sample has a record left on both sides, its verdict changed; a record left on one side
only was added or removed. So shards with equal ledgers need not be read: their records would cancel out.

Ids are kept as 32 bytes in arrays. Datasets that do not fit into memory are first written to a temporary folder, in
parts that do, each with its own range of ids, and compared part by part.
"""

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_pipelines.audit.thumbnails import read_thumbnails
from data_pipelines.datasets.ledgers import with_new_reasons
from data_pipelines.datasets.reader import CuratedDataset, DatasetError
from data_pipelines.datasets.reasons import RENAMED_REASONS

ROWS_PER_PART = 1 << 22  # of both sides; about 150 bytes each at the peak
ID_BYTES = 32
KEY_COLUMNS = ["sample_id", "verdict", "reason"]
EXAMPLE_COLUMNS = [*KEY_COLUMNS, "caption", "source_file", "source_row", "shard", "offset", "span_bytes"]
EXAMPLES = 12  # records that are listed for each kind of change
ABSENT = -1  # the number of no label: there is no record on this side
BATCH_ROWS = 1 << 17
_NIBBLES = np.full(256, 255, np.uint8)
_NIBBLES[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16, dtype=np.uint8)
_NIBBLES[np.frombuffer(b"ABCDEF", np.uint8)] = np.arange(10, 16, dtype=np.uint8)

# [N, 4]: ids as big-endian numbers, so that they sort like their text. Rows are [N, 5]: an id and the number of a label
IdWords = npt.NDArray[np.uint64]


@dataclass(frozen=True, kw_only=True)
class RecordLocation:
    """The position of a record in its source and, if it was kept, in a shard."""

    source_file: str
    source_row: int
    shard: str | None
    offset: int | None
    span_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class Example:
    sample_id: str
    caption: str
    before: RecordLocation | None
    after: RecordLocation | None


@dataclass(frozen=True, kw_only=True)
class Transition:
    """Records that changed from one label to another. A label is a verdict with its reason; None means no record."""

    before: str | None
    after: str | None
    records: int
    examples: tuple[Example, ...]


@dataclass(frozen=True, kw_only=True)
class DatasetDiff:
    rows: tuple[int, int]  # before, after, as in all pairs here
    verdicts: Mapping[str, tuple[int, int]]
    reasons: Mapping[str, tuple[int, int]]
    transitions: tuple[Transition, ...]  # the most frequent first
    shards: tuple[int, int]
    equal_shards: int  # not read, because both sides have the same ledger

    @property
    def added(self) -> int:
        return sum(change.records for change in self.transitions if change.before is None)

    @property
    def removed(self) -> int:
        return sum(change.records for change in self.transitions if change.after is None)

    @property
    def changed(self) -> int:
        return sum(change.records for change in self.transitions if None not in (change.before, change.after))


@dataclass(frozen=True, kw_only=True)
class DiffSide:
    """A dataset, and the SHA-256 of its ledgers by shard where they are known."""

    folder: Path
    ledgers: Mapping[str, str] = field(default_factory=dict)
    thumbnails: Path | None = None  # folder that `derive_thumbnails` wrote to

    def open(self) -> CuratedDataset:
        """Raises: DatasetError if it is not a curated dataset."""
        return CuratedDataset(self.folder, thumbnails=self.thumbnails)


def diff_datasets(
    before: DiffSide, after: DiffSide, *, examples: int = EXAMPLES, rows_per_part: int = ROWS_PER_PART
) -> DatasetDiff:
    """Compare two datasets.

    Raises: DatasetError if one is not a curated dataset, or a ledger is missing or damaged.
    """
    datasets = (before.open(), after.open())
    equal = {shard for shard, digest in before.ledgers.items() if after.ledgers.get(shard) == digest}
    to_read = [[shard for shard in dataset.shards if shard not in equal] for dataset in datasets]
    sides = [_Ledgers(dataset=dataset, shards=shards) for dataset, shards in zip(datasets, to_read, strict=True)]
    comparison = _Comparison(examples=examples, with_thumbnail=_ids_with_thumbnail(sides))
    num_parts = max(1, -(-sum(ledgers.num_rows() for ledgers in sides) // rows_per_part))
    for rows in _parts([comparison.rows(ledgers) for ledgers in sides], num_parts):
        comparison.add(*rows)
    totals = [_totals(dataset) for dataset in datasets]
    return DatasetDiff(
        rows=(totals[0]["rows"], totals[1]["rows"]),
        verdicts=_pair_counts(totals[0]["counts"], totals[1]["counts"]),
        reasons=_pair_counts(totals[0]["reasons"], totals[1]["reasons"]),
        transitions=comparison.transitions(sides),
        shards=(len(datasets[0].shards), len(datasets[1].shards)),
        equal_shards=len(equal.intersection(datasets[0].shards, datasets[1].shards)),
    )


@dataclass(frozen=True, kw_only=True)
class _Ledgers:
    """The ledgers of one side that have to be read."""

    dataset: CuratedDataset
    shards: Sequence[str]

    def num_rows(self) -> int:
        return sum(int(self._open(shard).metadata.num_rows) for shard in self.shards)

    def batches(self, columns: list[str], convert: Callable[[Any], Any] = lambda batch: batch) -> Iterator[Any]:
        """Raises: DatasetError, also where `convert` raises a ValueError."""
        for shard in self.shards:
            try:
                with self._open(shard) as file:
                    for batch in file.iter_batches(BATCH_ROWS, columns=columns, use_threads=False):
                        yield convert(with_new_reasons(batch))
            except (OSError, pa.ArrowException, ValueError, KeyError) as error:
                raise self._unreadable(shard, error) from error

    def _open(self, shard: str) -> Any:
        try:
            return pq.ParquetFile(self.dataset.folder / "ledger" / f"{shard}.parquet")
        except (OSError, pa.ArrowException) as error:
            raise self._unreadable(shard, error) from error

    def _unreadable(self, shard: str, error: Exception) -> DatasetError:
        path = self.dataset.folder / "ledger" / f"{shard}.parquet"
        if isinstance(error, DatasetError):  # raised by `_open`
            return error
        return DatasetError(f"{path}: not a ledger that can be read ({error}); curate again")


@dataclass(kw_only=True)
class _Comparison:
    """Counts of changes and the ids of their examples, summed over all parts."""

    examples: int
    with_thumbnail: npt.NDArray[np.void]  # ids that have a thumbnail on one side, which are the better examples
    labels: dict[str, int] = field(default_factory=dict)  # numbered in the order of reading
    counts: Counter[tuple[int, int]] = field(default_factory=Counter)  # by ranks of labels
    chosen: dict[tuple[int, int], list[tuple[bool, bytes]]] = field(default_factory=dict)

    def rows(self, ledgers: _Ledgers) -> Iterator[IdWords]:
        """All rows of a side, batch by batch."""
        return ledgers.batches(
            KEY_COLUMNS, lambda batch: np.column_stack([_id_words(batch["sample_id"]), self._label_numbers(batch)])
        )

    def add(self, before: IdWords, after: IdWords) -> None:
        """Compare the rows of all samples in a range of ids."""
        rows = np.concatenate([before, after])
        if not len(rows):
            return
        ranks = np.empty(len(self.labels), np.int64)  # of labels by their text, whatever the order of reading
        ranks[[self.labels[label] for label in sorted(self.labels)]] = np.arange(len(ranks))
        self._count(*_uncancelled(rows[:, :4], ranks[rows[:, 4]], len(before)))

    def transitions(self, sides: Sequence[_Ledgers]) -> tuple[Transition, ...]:
        names = dict(enumerate(sorted(self.labels)))
        wanted = {sample_id.hex() for chosen in self.chosen.values() for _, sample_id in chosen}
        rows = [_find_rows(ledgers, wanted) for ledgers in sides]
        changes = []
        for (before, after), records in self.counts.items():
            labels = (names.get(before), names.get(after))
            examples = [_example(sample_id.hex(), labels, rows) for _, sample_id in self.chosen[before, after]]
            changes.append(Transition(before=labels[0], after=labels[1], records=records, examples=tuple(examples)))
        changes.sort(key=lambda change: (-change.records, change.before or "", change.after or ""))
        return tuple(changes)

    def _label_numbers(self, batch: Any) -> npt.NDArray[np.uint64]:
        """The number of each row's label."""
        verdict, reason = (pc.fill_null(batch[name], "").dictionary_encode() for name in ("verdict", "reason"))
        numbers = [
            self.labels.setdefault(_label(verdict_text, reason_text), len(self.labels))
            for verdict_text in verdict.dictionary.to_pylist()
            for reason_text in reason.dictionary.to_pylist()
        ]
        indices = verdict.indices.to_numpy() * len(reason.dictionary) + reason.indices.to_numpy()
        return np.asarray(numbers, np.uint64)[indices]

    def _count(self, words: IdWords, before: npt.NDArray[np.int64], after: npt.NDArray[np.int64]) -> None:
        """Count changes, which come in the order of their ids, and choose examples: first those with a thumbnail."""
        ids = _as_void(words)
        has_thumbnail = np.isin(ids, self.with_thumbnail)
        kinds, kind_of, records = np.unique(np.stack([before, after]), axis=1, return_inverse=True, return_counts=True)
        for number, (kind, count) in enumerate(zip(kinds.T.tolist(), records.tolist(), strict=True)):
            key = (int(kind[0]), int(kind[1]))
            self.counts[key] += count
            changes = np.flatnonzero(kind_of.reshape(-1) == number)
            is_shown = has_thumbnail[changes]
            best = np.concatenate([changes[is_shown][: self.examples], changes[~is_shown][: self.examples]])
            chosen = {(not has_thumbnail[change], ids[change].tobytes()) for change in best.tolist()}
            self.chosen[key] = sorted(chosen.union(self.chosen.get(key, [])))[: self.examples]


def _label(verdict: str, reason: str | None) -> str:
    return f"{verdict}: {reason}" if reason else verdict


def _parts(sides: Sequence[Iterator[IdWords]], num_parts: int) -> Iterator[list[IdWords]]:
    """The rows of both sides, one range of ids at a time."""
    if num_parts == 1:
        yield [np.concatenate([np.empty((0, 5), np.uint64), *batches]) for batches in sides]
        return
    with tempfile.TemporaryDirectory(prefix="illume-diff-") as folder:
        paths = [[Path(folder, f"{side}-{part}") for part in range(num_parts)] for side in range(len(sides))]
        for batches, files in zip(sides, paths, strict=True):
            _write_parts(batches, files)
        for part_paths in zip(*paths, strict=True):
            yield [np.fromfile(path, np.uint64).reshape(-1, 5) for path in part_paths]
            for path in part_paths:
                path.unlink()


def _write_parts(batches: Iterator[IdWords], paths: Sequence[Path]) -> None:
    with ExitStack() as stack:
        files = [stack.enter_context(path.open("wb")) for path in paths]
        for rows in batches:
            part_of = (rows[:, 0] >> np.uint64(32)) * np.uint64(len(paths)) >> np.uint64(32)
            order = np.argsort(part_of, kind="stable")
            ends = np.cumsum(np.bincount(part_of.astype(np.int64), minlength=len(paths)))
            for file, chunk in zip(files, np.split(rows[order], ends[:-1]), strict=True):
                file.write(chunk.tobytes())


def _uncancelled(
    words: IdWords, labels: npt.NDArray[np.int64], num_before: int
) -> tuple[IdWords, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Ids, labels before and labels after of the records that do not cancel out, in the order of ids.

    The first `num_before` rows are of the first side, the others of the second.
    """
    order = _sort_order(words, labels)
    words, labels = words[order], labels[order]
    new_sample = _is_new_id(words)
    signs = np.where(order < num_before, np.int8(-1), np.int8(1))
    new_record = new_sample.copy()
    new_record[1:] |= labels[1:] != labels[:-1]
    starts = np.flatnonzero(new_record)
    surplus = np.add.reduceat(signs, starts, dtype=np.int64)
    starts, surplus = starts[surplus != 0], surplus[surplus != 0]
    samples = np.cumsum(new_sample)[starts]
    stride = int(np.abs(surplus).sum()) + 1
    # Rows and keys of the records left on each side; records of one sample with equal keys are one changed record.
    rows_before, keys_before = _repeat_rows(samples * stride, starts, np.maximum(0, -surplus))
    rows_after, keys_after = _repeat_rows(samples * stride, starts, np.maximum(0, surplus))
    _, paired_before, paired_after = np.intersect1d(keys_before, keys_after, assume_unique=True, return_indices=True)
    removed, added = np.delete(rows_before, paired_before), np.delete(rows_after, paired_after)
    rows = np.concatenate([rows_before[paired_before], removed, added])
    absent = np.full(max(len(removed), len(added)), ABSENT, np.int64)
    before = np.concatenate([labels[rows_before[paired_before]], labels[removed], absent[: len(added)]])
    after = np.concatenate([labels[rows_after[paired_after]], absent[: len(removed)], labels[added]])
    order = np.argsort(rows, kind="stable")
    return words[rows[order]], before[order], after[order]


def _sort_order(words: IdWords, labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The order of rows by id, then by label.

    Sorts by the start of each id with the label in its last bits, and by everything only if two ids share a start.
    """
    bits = np.uint64(int(labels.max()).bit_length())
    order = np.argsort(words[:, 0] >> bits << bits | labels.astype(np.uint64))
    starts = words[order, 0] >> bits
    has_same_start = np.flatnonzero(starts[1:] == starts[:-1])
    if np.any(words[order[has_same_start]] != words[order[has_same_start + 1]]):
        order = np.lexsort((labels, *words.T[::-1]))
    return order


def _is_new_id(words: IdWords) -> npt.NDArray[np.bool_]:
    """True where another id begins."""
    return np.concatenate([[True], (words[1:] != words[:-1]).any(axis=1)])


def _repeat_rows(
    samples: npt.NDArray[np.int64], rows: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Each row repeated `counts` times, with a key: the number of its sample plus its rank within the sample."""
    owners = np.repeat(samples, counts)
    ranks = np.arange(len(owners)) - np.searchsorted(owners, owners)
    return np.repeat(rows, counts), owners + ranks


def _id_words(column: Any) -> IdWords:
    """Sample ids, 64 hexadecimal digits each, as [N, 4] numbers. Raises: ValueError for anything else."""
    lengths = pc.min_max(pc.binary_length(column)).as_py()
    if column.null_count or lengths["min"] not in (2 * ID_BYTES, None) or lengths["max"] not in (2 * ID_BYTES, None):
        raise ValueError("a sample_id is not 64 hexadecimal digits")
    text = pa.concat_arrays([column]).cast(pa.large_binary())
    start = int(np.frombuffer(text.buffers()[1], np.int64)[text.offset]) if len(text) else 0
    digits = np.frombuffer(text.buffers()[2] or b"", np.uint8)[start : start + 2 * ID_BYTES * len(text)]
    nibbles = _NIBBLES[digits.reshape(len(text), 2 * ID_BYTES)]
    if np.any(nibbles == 255):
        raise ValueError("a sample_id is not 64 hexadecimal digits")
    data = np.ascontiguousarray(nibbles[:, 0::2] << 4 | nibbles[:, 1::2])
    return data.view(">u8").astype(np.uint64)


def _as_void(words: IdWords) -> npt.NDArray[np.void]:
    """The ids as 32 bytes each."""
    data = np.ascontiguousarray(words.astype(">u8")).view(f"V{ID_BYTES}")
    return data.reshape(len(words))


def _ids_with_thumbnail(sides: Sequence[_Ledgers]) -> npt.NDArray[np.void]:
    """Ids of the samples that have a thumbnail. A file that cannot be read is skipped, as ids only help to choose."""
    found = [np.empty((0, 4), np.uint64)]
    for ledgers in sides:
        for shard in ledgers.shards:
            try:
                column = read_thumbnails(ledgers.dataset, shard, ["sample_id"])["sample_id"]
                found.append(_id_words(column.combine_chunks()))
            except (OSError, pa.ArrowException, ValueError):
                continue
    return np.unique(_as_void(np.concatenate(found)))


def _totals(dataset: CuratedDataset) -> dict[str, Any]:
    path = dataset.folder / "dataset.json"
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        counts = {str(verdict): int(count) for verdict, count in fields["counts"].items()}
        reasons = {RENAMED_REASONS.get(reason, reason): int(count) for reason, count in fields["reasons"].items()}
        return {"rows": int(fields["rows"]), "counts": counts, "reasons": reasons}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(f"{path}: holds no counts ({type(error).__name__}: {error}); curate again") from error


def _pair_counts(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    return {name: (before.get(name, 0), after.get(name, 0)) for name in {**before, **after}}


def _find_rows(ledgers: _Ledgers, sample_ids: set[str]) -> dict[tuple[str, str], dict[str, Any]]:
    """The first row of each of these samples and each label. Other columns are read only from shards that hold one."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    ids = pa.array(sorted(sample_ids), pa.string())
    for shard in ledgers.shards if sample_ids else ():
        ledger = _Ledgers(dataset=ledgers.dataset, shards=[shard])
        if not any(pc.any(_has_id(batch, ids)).as_py() for batch in ledger.batches(["sample_id"])):
            continue
        for batch in ledger.batches(EXAMPLE_COLUMNS):
            for row in batch.filter(_has_id(batch, ids)).to_pylist():
                found.setdefault((row["sample_id"].lower(), _label(row["verdict"], row["reason"])), row)
    return found


def _has_id(batch: Any, ids: Any) -> Any:
    return pc.is_in(pc.utf8_lower(batch["sample_id"]), ids)


def _example(
    sample_id: str, labels: tuple[str | None, str | None], rows: Sequence[Mapping[tuple[str, str], dict[str, Any]]]
) -> Example:
    found = [side.get((sample_id, label)) if label else None for side, label in zip(rows, labels, strict=True)]
    before, after = (
        RecordLocation(**{name: row[name] for name in RecordLocation.__dataclass_fields__}) if row else None
        for row in found
    )
    caption = next((row["caption"] for row in reversed(found) if row and row["caption"]), "")
    return Example(sample_id=sample_id, caption=caption, before=before, after=after)
