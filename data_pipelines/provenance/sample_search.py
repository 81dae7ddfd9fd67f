"""Searches ledgers and token files for the rows of samples and images.

Ledgers are read in blocks of the needed columns, so apart from questions and matches a search takes the same memory
for ten million rows as for ten thousand.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_pipelines.datasets.reader import CuratedDataset, DatasetError
from data_pipelines.datasets.reasons import RENAMED_REASONS
from data_pipelines.datasets.tombstones import entropy_of
from data_pipelines.duplicates.near_hashes import HashLookup, near_limit
from data_pipelines.provenance.questions import AddressMatcher, Questions
from data_pipelines.tokens.token_shards import TokenShard

COLUMNS = ["sample_id", "external_id", "source", "source_file", "source_row", "verdict", "reason", "duplicate_of",
           "images", "shard", "row"]  # fmt: skip
BLOCK_ROWS = 1 << 18  # rows, of one or more ledgers, that are compared at once; about 100 MB
Row = TypeVar("Row")
SHORT = 16  # digits of a digest in messages


@dataclass(frozen=True, kw_only=True)
class Match:
    """A row of a ledger that matches a question."""

    sample_id: str
    external_id: str | None
    found_by: str
    source: str
    source_file: str
    source_row: int
    verdict: str
    reason: str | None
    duplicate_of: str | None
    shard: str | None  # None: not kept
    images: tuple[str, ...]  # SHA-256
    row: int | None = None  # in the shard
    question: str = ""  # the first that it matches
    ledger: str = ""  # the shard whose ledger has the row
    distance: int | None = None  # of 64 bits; None: not found by looks


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """The matches in several datasets, and the questions without a match."""

    matches: dict[str, list[Match]]  # by dataset; direct matches, then look-alikes, then copies
    unanswered: list[str]  # questions without a match


@dataclass(frozen=True, kw_only=True)
class _Answer:
    how: str  # `found_by` of the match
    question: str
    distance: int | None = None


@dataclass(frozen=True, kw_only=True)
class _Hit:
    """A match with its location, and its hashes for the search for look-alikes."""

    match: Match
    ledger: str
    ledger_row: int
    phashes: tuple[int, ...]  # of its images, in their order
    entropy: float | None  # bits of the grey histogram of its first image


class _Search:
    """Questions prepared for comparison with whole columns."""

    def __init__(self, questions: Questions) -> None:
        self._digests, self._names = (_values(texts) for texts in (questions.digests, questions.names))
        self._addresses = AddressMatcher(questions)
        self._hashes = _PerceptualHashes(
            list(questions.phashes.values()), list(questions.phashes), questions.near, questions.entropies
        )
        self.columns = ["sample_id"]
        self.columns += ["images"] if len(self._digests) else []
        self.columns += ["external_id"] if len(self._names) else []
        self.columns += [name for name in AddressMatcher.columns if self._addresses]
        self.columns += ["phash"] if questions.phashes and questions.near else []
        self.answered: set[str] = set()  # image files and addresses; the rest follows from the matches

    def answers(self, table: pa.Table) -> dict[int, _Answer]:
        """The rows that match, with the first way in which they do."""
        found: dict[int, _Answer] = {}
        if len(self._digests):
            ids, (owners, images) = table["sample_id"], _flat(table["images"])
            found |= {row: _Answer(how="sample id", question=text) for row, text in _find_values(ids, self._digests)}
            for index, text in _find_values(images, self._digests):
                found.setdefault(int(owners[index]), _Answer(how="image", question=text))
        if len(self._names):
            for row, text in _find_values(table["external_id"], self._names):
                found.setdefault(row, _Answer(how="source's id", question=text))
        if self._addresses:
            for row, text in self._addresses.rows(table).items():
                found.setdefault(row, _Answer(how="source", question=text))
                self.answered.add(text)
        if "phash" in self.columns:
            for row, answer in self._hashes.answers(table).items():
                found.setdefault(row, answer)
            self.answered |= self._hashes.answered
        return found


class _PerceptualHashes:
    """Perceptual hashes with the names of their images, in the order of the questions."""

    columns = ("phash",)

    def __init__(self, hashes: Sequence[int], names: Sequence[str], near: int, entropies: Mapping[str, float]) -> None:
        """`entropies`: of the images, by name, as far as known."""
        unique, first, same = np.unique(np.array(hashes, dtype=np.uint64), return_index=True, return_inverse=True)
        self._ranks = first.astype(np.int64)  # of each distinct hash: its first question
        self._names: list[list[str]] = [[] for _ in unique]
        for number, name in zip(same.tolist(), names, strict=True):
            self._names[number].append(name)
        self._index = HashLookup(unique, near)
        limits = [
            max(near_limit(phash, near, entropies.get(name)) for name in names)
            for phash, names in zip(unique.tolist(), self._names, strict=True)
        ]
        self._limits = np.array(limits, dtype=np.int64)
        self.answered: set[str] = set()

    def answers(self, table: pa.Table) -> dict[int, _Answer]:
        """The rows with an image near that of a question, with the first such question and its nearest image."""
        owners, hashes = _flat(table["phash"])
        pairs = self._index.near(hashes.to_numpy(zero_copy_only=False).astype(np.uint64, copy=False))
        is_near = pairs.distances <= self._limits[pairs.known]
        known, distances = pairs.known[is_near], pairs.distances[is_near]
        for number in np.unique(known).tolist():
            self.answered.update(self._names[number])
        rows, ranks = owners[pairs.positions[is_near]], self._ranks[known]
        order = np.lexsort((distances, ranks, rows))
        found: dict[int, _Answer] = {}
        for pair in order[np.unique(rows[order], return_index=True)[1]].tolist():
            name, distance = self._names[known[pair]][0], int(distances[pair])
            how = f"looks like {_short(name)} ({distance} of 64 bits differ)"
            found[int(rows[pair])] = _Answer(how=how, question=name, distance=distance)
        return found


class _Copies:
    """Searches for the copies of matched samples: those kept in their place, and those dropped for them."""

    columns = ("sample_id", "duplicate_of", "verdict")

    def __init__(self, hits: Sequence[_Hit], *, exact: bool) -> None:
        self._exact = exact
        dropped = [hit.match for hit in hits if hit.match.duplicate_of and self._counts(hit.match.verdict)]
        self._questions = {match.duplicate_of: match.question for match in dropped}
        self._originals = _values(filter(None, self._questions))
        self._hits = {hit.match.sample_id: hit.match.question for hit in hits}
        self._ids = _values(self._hits)

    def answers(self, table: pa.Table) -> dict[int, _Answer]:
        found = {
            row: _Answer(how="a copy that was dropped", question=self._questions[text])
            for row, text in _find_values(table["sample_id"], self._originals)
        }
        verdicts = table["verdict"]
        for row, text in _find_values(table["duplicate_of"], self._ids):
            if self._counts(verdicts[row].as_py()):
                found.setdefault(row, _Answer(how=f"a copy of {_short(text)}", question=self._hits[text]))
        return found

    def _counts(self, verdict: str) -> bool:
        return verdict == "duplicate" or not self._exact


def find_samples(dataset: Path, questions: Questions) -> Iterator[Match]:
    """Every row of a dataset's ledgers, kept or not, that matches a question. Raises: DatasetError."""
    search = _Search(questions)
    for hit in _scan(dataset, search.columns, search.answers):
        yield hit.match


def find_everywhere(datasets: Mapping[str, Path], questions: Questions) -> SearchResult:
    """The matches in several datasets, by their names, with their look-alikes and copies.

    Searches look-alikes of exact matches only, not of look-alikes, so that chains do not grow. With `near` 0 only
    copies with the same bytes, pixels or record count. Raises: DatasetError.
    """
    search = _Search(questions)
    hits = {name: list(_scan(folder, search.columns, search.answers)) for name, folder in datasets.items()}

    def add(columns: Sequence[str], answers: Callable[[pa.Table], dict[int, _Answer]]) -> None:
        for name, folder in datasets.items():
            known = {(hit.ledger, hit.ledger_row) for hit in hits[name]}
            hits[name] += _scan(folder, columns, answers, known)

    if questions.near:
        exact = [hit for found in hits.values() for hit in found if not hit.match.found_by.startswith("looks like")]
        by_hash = {phash: hit.match.question for hit in exact for phash in _question_phashes(hit)}
        if by_hash:
            flatness = {hit.match.question: hit.entropy for hit in exact if hit.entropy is not None}
            entropies = {**flatness, **questions.entropies}
            hashes = _PerceptualHashes(list(by_hash), list(by_hash.values()), questions.near, entropies)
            add(hashes.columns, hashes.answers)
    all_hits = [hit for found in hits.values() for hit in found]
    if all_hits:
        copies = _Copies(all_hits, exact=not questions.near)
        add(copies.columns, copies.answers)
    matches = {name: [hit.match for hit in found] for name, found in hits.items()}
    return SearchResult(matches=matches, unanswered=_unanswered(questions, all_hits, search.answered))


def _question_phashes(hit: _Hit) -> tuple[int, ...]:
    """The hashes of the images that the question names: the image with the digest, or all images of a sample.

    An image that could not be decoded has no hash, and nothing says which one it was; then the hash of the image in
    question is not known from this sample, and that of another image must not stand for it.
    """
    if hit.match.found_by != "image":
        return hit.phashes
    if len(hit.phashes) != len(hit.match.images):
        return ()
    pairs = zip(hit.match.images, hit.phashes, strict=True)
    return tuple(phash for digest, phash in pairs if digest == hit.match.question)


def _unanswered(questions: Questions, hits: Sequence[_Hit], answered: Collection[str]) -> list[str]:
    matched = {text for hit in hits for text in (hit.match.sample_id, *hit.match.images)}
    names = {hit.match.external_id for hit in hits}
    files = [file for file, digest in questions.images.items() if digest not in matched and file not in answered]
    texts = questions.digests - matched - set(questions.images.values()) | questions.names - names
    return files + sorted(texts | (questions.urls | questions.url_patterns) - set(answered))


@dataclass(kw_only=True)
class _Block:
    """Columns of consecutive rows of one or more ledgers."""

    batches: list[pa.RecordBatch] = field(default_factory=list)
    ledgers: list[str] = field(default_factory=list)  # of each batch
    firsts: list[int] = field(default_factory=list)  # first row of each batch in its ledger
    num_rows: int = 0

    def add(self, batch: pa.RecordBatch, ledger: str, first: int) -> None:
        self.batches.append(batch.replace_schema_metadata(None))
        self.ledgers.append(ledger)
        self.firsts.append(first)
        self.num_rows += len(batch)

    def ledger_rows(self, rows: Sequence[int]) -> list[tuple[str, int]]:
        """The ledger of each row of the block, and the row in it."""
        begins = np.cumsum([0, *(len(batch) for batch in self.batches)])
        batches = np.searchsorted(begins, rows, side="right") - 1
        return [(self.ledgers[b], self.firsts[b] + row - int(begins[b])) for row, b in zip(rows, batches, strict=True)]


def _scan(
    dataset: Path,
    columns: Sequence[str],
    answers: Callable[[pa.Table], dict[int, _Answer]],
    known: Collection[tuple[str, int]] = (),
) -> Iterator[_Hit]:
    """The matching rows that are not yet known, in the order of the ledgers."""
    for block in _blocks(dataset, columns):
        found = answers(pa.Table.from_batches(block.batches))
        by_ledger: dict[str, dict[int, _Answer]] = {}
        rows = sorted(found)
        for row, (ledger, ledger_row) in zip(rows, block.ledger_rows(rows), strict=True):
            if (ledger, ledger_row) not in known:
                by_ledger.setdefault(ledger, {})[ledger_row] = found[row]
        for ledger, chosen in by_ledger.items():
            yield from _read_hits(dataset, ledger, chosen)


def _blocks(dataset: Path, columns: Sequence[str]) -> Iterator[_Block]:
    opened, block = CuratedDataset(dataset), _Block()
    for shard in opened.shards:
        for first, batch in _read_ledger(dataset, shard, lambda file: _batches(file, columns)):
            block.add(batch, shard, first)
            if block.num_rows >= BLOCK_ROWS:
                yield block
                block = _Block()
    if block.num_rows:
        yield block


def _batches(file: pq.ParquetFile, columns: Sequence[str]) -> Iterator[tuple[int, pa.RecordBatch]]:
    first = 0
    for batch in file.iter_batches(batch_size=BLOCK_ROWS // 4, columns=list(columns), use_threads=False):
        yield first, batch.select(list(columns))
        first += len(batch)


def _read_hits(dataset: Path, ledger: str, chosen: Mapping[int, _Answer]) -> Iterator[_Hit]:
    """The chosen rows with all columns; reads only the row groups that hold them."""

    def read(file: pq.ParquetFile) -> Iterator[tuple[int, dict[str, Any]]]:
        wanted, first = np.array(sorted(chosen), dtype=np.int64), 0
        for group in range(file.metadata.num_row_groups):
            last = first + file.metadata.row_group(group).num_rows
            here = wanted[(wanted >= first) & (wanted < last)]
            if len(here):
                table = file.read_row_group(group, columns=[*COLUMNS, "phash", "scores"], use_threads=False)
                yield from zip(here.tolist(), table.take(here - first).to_pylist(), strict=True)
            first = last

    for ledger_row, row in _read_ledger(dataset, ledger, read):
        answer = chosen[ledger_row]
        fields = {name: row[name] for name in COLUMNS if name != "images"}
        fields["reason"] = RENAMED_REASONS.get(row["reason"], row["reason"])
        match = Match(
            **fields,
            images=tuple(row["images"] or ()),
            found_by=answer.how,
            question=answer.question,
            ledger=ledger,
            distance=answer.distance,
        )
        yield _Hit(
            match=match,
            ledger=ledger,
            ledger_row=ledger_row,
            phashes=tuple(row["phash"] or ()),
            entropy=entropy_of(row["scores"]),
        )


def _read_ledger(dataset: Path, ledger: str, read: Callable[[pq.ParquetFile], Iterator[Row]]) -> Iterator[Row]:
    """What `read` yields of an open ledger. Raises: DatasetError if it is missing, damaged or lacks a column."""
    path = dataset / "ledger" / f"{ledger}.parquet"
    try:
        with pq.ParquetFile(path) as file:
            yield from read(file)
    except (OSError, pa.ArrowException, KeyError) as error:
        raise DatasetError(f"{path}: not a ledger that can be read ({error}); curate again") from error


def _values(texts: Collection[str] | Iterator[str]) -> pa.Array:
    return pa.array(texts if isinstance(texts, Collection) else list(texts), pa.string())


def _flat(column: pa.ChunkedArray) -> tuple[npt.NDArray[np.int64], pa.Array]:
    """The elements of a column of lists, and the row of each."""
    lists = column.combine_chunks()
    return pc.list_parent_indices(lists).to_numpy().astype(np.int64, copy=False), pc.list_flatten(lists)


def _find_values(column: pa.ChunkedArray | pa.Array, values: pa.Array) -> list[tuple[int, str]]:
    """(index, text) of every element that is one of the values."""
    indices = pc.indices_nonzero(pc.is_in(column, values))
    return list(zip(indices.to_pylist(), column.take(indices).to_pylist(), strict=True))


def _short(question: str) -> str:
    """A digest shortened to its first digits; other texts unchanged."""
    is_digest = len(question) == 64 and set(question) <= set("0123456789abcdef")
    return question[:SHORT] if is_digest else question


@dataclass(frozen=True, kw_only=True)
class TokenRow:
    sample_id: str
    slot: int  # index of the image in the sample
    file: str
    row: int


def find_tokens(tokens: Path, sample_ids: Collection[str]) -> Iterator[TokenRow]:
    """The rows of a token artifact that hold images of some samples. Raises: TokensError."""
    wanted = _values(sample_ids)
    for path in sorted((tokens / "tokens").glob("*.parquet")):
        for row, sample_id, slot in TokenShard(path).find(wanted):
            yield TokenRow(sample_id=sample_id, slot=slot, file=f"tokens/{path.name}", row=row)
