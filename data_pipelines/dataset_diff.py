"""What differs between two curated datasets: records added, removed and judged otherwise, from their ledgers alone.

A record is a row of a ledger: a sample id, a verdict and its reason. Equal records of both sides cancel out, each as
often as it comes. What is left of one sample on both sides is a record that is judged otherwise, on one side a record
that was added or removed. So shards with equal ledgers need not be read: what they hold would cancel out.

Ids are kept as 32 bytes in arrays and compared in as many passes over the ledgers as memory asks for.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_pipelines.dataset_reader import CuratedDataset, DatasetError

ROWS_PER_PASS = 1 << 23  # of both sides; about 100 bytes each at the peak
ID_BYTES = 32
KEY_COLUMNS = ["sample_id", "verdict", "reason"]
EXAMPLE_COLUMNS = [*KEY_COLUMNS, "caption", "source_file", "source_row", "shard", "offset", "span_bytes"]
EXAMPLES = 12  # records that are named for each kind of change
ABSENT = -1  # in place of a label's number: no record on this side
BATCH_ROWS = 1 << 17
_NIBBLES = np.full(256, 255, np.uint8)
_NIBBLES[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16, dtype=np.uint8)
_NIBBLES[np.frombuffer(b"ABCDEF", np.uint8)] = np.arange(10, 16, dtype=np.uint8)

Words = npt.NDArray[np.uint64]  # [N, 4] the ids as big-endian numbers, so that their order is that of the text


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a record stands: in the source, and, if it was kept, in a shard."""

    source_file: str
    source_row: int
    shard: str | None
    offset: int | None
    span_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class Example:
    sample_id: str
    caption: str
    before: Place | None
    after: Place | None


@dataclass(frozen=True, kw_only=True)
class Transition:
    """Records that went from one label to another; a label is a verdict with its reason, None stands for no record."""

    before: str | None
    after: str | None
    records: int
    examples: tuple[Example, ...]


@dataclass(frozen=True, kw_only=True)
class DatasetDiff:
    rows: tuple[int, int]  # before, after; so are all pairs here
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
    def rejudged(self) -> int:
        return sum(change.records for change in self.transitions if None not in (change.before, change.after))


@dataclass(frozen=True, kw_only=True)
class Side:
    """A dataset with the SHA-256 of its ledgers, by shard, as far as they are known."""

    folder: Path
    ledgers: Mapping[str, str] = field(default_factory=dict)


def diff_datasets(
    before: Side, after: Side, *, examples: int = EXAMPLES, rows_per_pass: int = ROWS_PER_PASS
) -> DatasetDiff:
    """Compare two datasets.

    Raises: DatasetError if one is not a curated dataset, or a ledger is missing or damaged.
    """
    datasets = (CuratedDataset(before.folder), CuratedDataset(after.folder))
    equal = {shard for shard, digest in before.ledgers.items() if after.ledgers.get(shard) == digest}
    unlike = [[shard for shard in dataset.shards if shard not in equal] for dataset in datasets]
    read = [_Ledgers(dataset=dataset, shards=shards) for dataset, shards in zip(datasets, unlike, strict=True)]
    comparison = _Comparison(examples=examples, pictured=_pictured(read))
    num_passes = max(1, -(-sum(ledgers.num_rows() for ledgers in read) // rows_per_pass))
    for part in range(num_passes):
        comparison.add(read, part, num_passes)
    totals = [_totals(dataset) for dataset in datasets]
    return DatasetDiff(
        rows=(totals[0]["rows"], totals[1]["rows"]),
        verdicts=_paired(totals[0]["counts"], totals[1]["counts"]),
        reasons=_paired(totals[0]["reasons"], totals[1]["reasons"]),
        transitions=comparison.transitions(read),
        shards=(len(datasets[0].shards), len(datasets[1].shards)),
        equal_shards=len(equal.intersection(datasets[0].shards, datasets[1].shards)),
    )


@dataclass(frozen=True, kw_only=True)
class _Ledgers:
    """The ledgers of one side that are read."""

    dataset: CuratedDataset
    shards: Sequence[str]

    def num_rows(self) -> int:
        return sum(int(self._open(shard).metadata.num_rows) for shard in self.shards)

    def batches(self, columns: list[str]) -> Iterator[Any]:
        """Raises: DatasetError"""
        for shard in self.shards:
            try:
                with self._open(shard) as file:
                    yield from file.iter_batches(BATCH_ROWS, columns=columns, use_threads=False)
            except (OSError, pa.ArrowException, ValueError, KeyError) as error:
                raise self._unreadable(shard, error) from error

    def _open(self, shard: str) -> Any:
        try:
            return pq.ParquetFile(self.dataset.folder / "ledger" / f"{shard}.parquet")
        except (OSError, pa.ArrowException) as error:
            raise self._unreadable(shard, error) from error

    def _unreadable(self, shard: str, error: Exception) -> DatasetError:
        path = self.dataset.folder / "ledger" / f"{shard}.parquet"
        if isinstance(error, DatasetError):  # of a file that could not be opened
            return error
        return DatasetError(f"{path}: not a ledger that can be read ({error}); curate again")


@dataclass(kw_only=True)
class _Comparison:
    """Counts of changes and the ids that stand for them, over all passes."""

    examples: int
    pictured: npt.NDArray[np.void]  # ids that have a thumbnail on one side: the better examples
    labels: dict[str, int] = field(default_factory=dict)
    counts: Counter[tuple[int, int]] = field(default_factory=Counter)
    chosen: dict[tuple[int, int], list[tuple[bool, bytes]]] = field(default_factory=dict)

    def add(self, sides: Sequence[_Ledgers], part: int, num_parts: int) -> None:
        """Compare the samples whose ids lie in one of `num_parts` equal parts of all possible ids."""
        found = [self._read(ledgers, part, num_parts) for ledgers in sides]
        words = np.concatenate([ids for ids, _ in found])
        codes = np.concatenate([labels for _, labels in found])
        signs = np.repeat(np.array([-1, 1], np.int64), [len(labels) for _, labels in found])
        del found
        if len(words):
            self._count(*_left_over(words, codes, signs))

    def transitions(self, sides: Sequence[_Ledgers]) -> tuple[Transition, ...]:
        names = {number: label for label, number in self.labels.items()}
        wanted = {sample_id.hex() for chosen in self.chosen.values() for _, sample_id in chosen}
        rows = [_rows_of(ledgers, wanted) for ledgers in sides]
        changes = []
        for (before, after), records in self.counts.items():
            labels = (names.get(before), names.get(after))
            examples = [_example(sample_id.hex(), labels, rows) for _, sample_id in self.chosen[before, after]]
            changes.append(Transition(before=labels[0], after=labels[1], records=records, examples=tuple(examples)))
        changes.sort(key=lambda change: (-change.records, change.before or "", change.after or ""))
        return tuple(changes)

    def _read(self, ledgers: _Ledgers, part: int, num_parts: int) -> tuple[Words, npt.NDArray[np.int32]]:
        words, codes = [np.empty((0, 4), np.uint64)], [np.empty(0, np.int32)]
        for batch in ledgers.batches(KEY_COLUMNS):
            ids, labels = _words(batch["sample_id"]), self._codes(batch)
            inside = (ids[:, 0] >> np.uint64(40)) * np.uint64(num_parts) >> np.uint64(24) == part
            words.append(ids if num_parts == 1 else ids[inside])
            codes.append(labels if num_parts == 1 else labels[inside])
        return np.concatenate(words), np.concatenate(codes)

    def _codes(self, batch: Any) -> npt.NDArray[np.int32]:
        """The number of each row's label."""
        verdict, reason = (pc.fill_null(batch[name], "") for name in ("verdict", "reason"))
        joined = pc.if_else(pc.equal(reason, ""), verdict, pc.binary_join_element_wise(verdict, reason, ": "))
        encoded = joined.dictionary_encode()
        numbers = [self.labels.setdefault(label, len(self.labels)) for label in encoded.dictionary.to_pylist()]
        return np.asarray(numbers, np.int32)[encoded.indices.to_numpy(zero_copy_only=False)]

    def _count(self, words: Words, before: npt.NDArray[np.int32], after: npt.NDArray[np.int32]) -> None:
        """Take in changes in the order of their ids."""
        ids = _as_void(words)
        is_pictured = np.isin(ids, self.pictured)
        kinds, kind_of, records = np.unique(np.stack([before, after]), axis=1, return_inverse=True, return_counts=True)
        for number, (kind, count) in enumerate(zip(kinds.T.tolist(), records.tolist(), strict=True)):
            key = (int(kind[0]), int(kind[1]))
            self.counts[key] += count
            places = np.flatnonzero(kind_of.reshape(-1) == number)
            shown = is_pictured[places]
            best = np.concatenate([places[shown][: self.examples], places[~shown][: self.examples]])
            chosen = {(not is_pictured[place], ids[place].tobytes()) for place in best.tolist()}
            self.chosen[key] = sorted(chosen.union(self.chosen.get(key, [])))[: self.examples]


def _left_over(
    words: Words, codes: npt.NDArray[np.int32], signs: npt.NDArray[np.int64]
) -> tuple[Words, npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Ids, labels before and labels after of the records that do not cancel out, in the order of ids.

    `signs` [N]: -1 for a record of the first side, 1 for one of the second.
    """
    order = np.lexsort((codes, words[:, 0]))
    new_sample = _steps(words[order])
    if np.any(new_sample[1:] & (words[order[1:], 0] == words[order[:-1], 0])):  # two ids share their first 8 bytes
        order = np.lexsort((codes, *words.T[::-1]))
        new_sample = _steps(words[order])
    words, codes, signs = words[order], codes[order], signs[order]
    new_record = new_sample.copy()
    new_record[1:] |= codes[1:] != codes[:-1]
    starts = np.flatnonzero(new_record)
    surplus = np.add.reduceat(signs, starts)
    starts, surplus = starts[surplus != 0], surplus[surplus != 0]
    samples = np.cumsum(new_sample)[starts]
    stride = int(np.abs(surplus).sum()) + 1
    removed, added = (_repeated(samples * stride, starts, np.maximum(0, sign * surplus)) for sign in (-1, 1))
    _, of_removed, of_added = np.intersect1d(removed[1], added[1], assume_unique=True, return_indices=True)
    gone, come = np.delete(removed[0], of_removed), np.delete(added[0], of_added)
    places = np.concatenate([removed[0][of_removed], gone, come])
    absent = np.full(max(len(gone), len(come)), ABSENT, np.int32)
    before = np.concatenate([codes[removed[0][of_removed]], codes[gone], absent[: len(come)]])
    after = np.concatenate([codes[added[0][of_added]], absent[: len(gone)], codes[come]])
    order = np.argsort(places, kind="stable")
    return words[places[order]], before[order], after[order]


def _steps(words: Words) -> npt.NDArray[np.bool_]:
    """True where another id begins."""
    return np.concatenate([[True], (words[1:] != words[:-1]).any(axis=1)])


def _repeated(
    samples: npt.NDArray[np.int64], places: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Each place as often as it counts, with the number of its sample plus its rank within the sample."""
    owners = np.repeat(samples, counts)
    ranks = np.arange(len(owners)) - np.searchsorted(owners, owners)
    return np.repeat(places, counts), owners + ranks


def _words(column: Any) -> Words:
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


def _as_void(words: Words) -> npt.NDArray[np.void]:
    """The ids as 32 bytes each."""
    data = np.ascontiguousarray(words.astype(">u8")).view(f"V{ID_BYTES}")
    return data.reshape(len(words))


def _pictured(sides: Sequence[_Ledgers]) -> npt.NDArray[np.void]:
    """Ids of the samples that have a thumbnail; none where a file cannot be read, as they only help to choose."""
    found = [np.empty((0, 4), np.uint64)]
    for ledgers in sides:
        for shard in ledgers.shards:
            path = ledgers.dataset.folder / "thumbnails" / f"{shard}.parquet"
            try:
                column = pq.read_table(path, columns=["sample_id"], use_threads=False)["sample_id"]
                found.append(_words(column.combine_chunks()))
            except (OSError, pa.ArrowException, ValueError):
                continue
    return np.unique(_as_void(np.concatenate(found)))


def _totals(dataset: CuratedDataset) -> dict[str, Any]:
    path = dataset.folder / "dataset.json"
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        counts, reasons = ({str(k): int(v) for k, v in fields[name].items()} for name in ("counts", "reasons"))
        return {"rows": int(fields["rows"]), "counts": counts, "reasons": reasons}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(f"{path}: holds no counts ({type(error).__name__}: {error}); curate again") from error


def _paired(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    return {name: (before.get(name, 0), after.get(name, 0)) for name in {**before, **after}}


def _rows_of(ledgers: _Ledgers, sample_ids: set[str]) -> dict[tuple[str, str], dict[str, Any]]:
    """The first row of each sample and label, for a few samples."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    ids = pa.array(sorted(sample_ids), pa.string())
    for batch in ledgers.batches(EXAMPLE_COLUMNS) if sample_ids else ():
        for row in batch.filter(pc.is_in(pc.utf8_lower(batch["sample_id"]), ids)).to_pylist():
            label = row["verdict"] + (f": {row['reason']}" if row["reason"] else "")
            found.setdefault((row["sample_id"].lower(), label), row)
    return found


def _example(
    sample_id: str, labels: tuple[str | None, str | None], rows: Sequence[Mapping[tuple[str, str], dict[str, Any]]]
) -> Example:
    found = [side.get((sample_id, label)) if label else None for side, label in zip(rows, labels, strict=True)]
    places = [Place(**{name: row[name] for name in Place.__dataclass_fields__}) if row else None for row in found]
    caption = next((row["caption"] for row in reversed(found) if row and row["caption"]), "")
    return Example(sample_id=sample_id, caption=caption, before=places[0], after=places[1])
