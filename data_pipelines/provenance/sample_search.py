"""Where samples and pictures ended up: rows of ledgers, rows of token files.

Ledgers are read in blocks of columns, never as a whole, so a search takes as much memory for ten million rows as for
ten thousand, next to the questions and what answers them.
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
from data_pipelines.duplicates.hash_lookup import LookAlikes
from data_pipelines.provenance.questions import AddressMatcher
from data_pipelines.provenance.questions import Questions as Questions  # whoever traces needs both
from data_pipelines.tokens.token_shards import TokenShard

COLUMNS = ["sample_id", "external_id", "source", "source_file", "source_row", "verdict", "reason", "duplicate_of",
           "images", "shard", "row"]  # fmt: skip
BLOCK_ROWS = 1 << 18  # rows of many ledgers that are compared at once; about 100 MB
Row = TypeVar("Row")
SHORT = 16  # digits of a digest in what people read


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
    row: int | None = None  # in its shard
    question: str = ""  # the first that it answers


@dataclass(frozen=True, kw_only=True)
class Found:
    """What answers in some datasets."""

    matches: dict[str, list[Match]]  # by dataset; what answers itself, then look-alikes, then copies
    unanswered: list[str]  # questions that nothing answers


@dataclass(frozen=True, kw_only=True)
class _Answer:
    how: str
    question: str


@dataclass(frozen=True, kw_only=True)
class _Hit:
    """A match with its place and what is needed to look for more."""

    match: Match
    ledger: str
    ledger_row: int
    phashes: tuple[int, ...]  # of its pictures, in their order


class _Search:
    """Questions put into the form in which columns are compared with them."""

    def __init__(self, questions: Questions) -> None:
        self._digests, self._names = (_values(texts) for texts in (questions.digests, questions.names))
        self._addresses = AddressMatcher(questions)
        self._looks = _Looks(list(questions.phashes.values()), list(questions.phashes), questions.near)
        self.columns = ["sample_id"]
        self.columns += ["images"] if len(self._digests) else []
        self.columns += ["external_id"] if len(self._names) else []
        self.columns += [name for name in AddressMatcher.columns if self._addresses]
        self.columns += ["phash"] if questions.phashes and questions.near else []
        self.answered: set[str] = set()  # pictures' files and addresses; the rest can be seen from the matches

    def answers(self, table: pa.Table) -> dict[int, _Answer]:
        """How rows answer; the first of several ways."""
        found: dict[int, _Answer] = {}
        if len(self._digests):
            ids, (owners, images) = table["sample_id"], _flat(table["images"])
            found |= {row: _Answer(how="sample id", question=text) for row, text in _among(ids, self._digests)}
            for place, text in _among(images, self._digests):
                found.setdefault(int(owners[place]), _Answer(how="picture", question=text))
        if len(self._names):
            for row, text in _among(table["external_id"], self._names):
                found.setdefault(row, _Answer(how="source's id", question=text))
        if self._addresses:
            for row, text in self._addresses.rows(table).items():
                found.setdefault(row, _Answer(how="source", question=text))
                self.answered.add(text)
        if "phash" in self.columns:
            for row, answer in self._looks.answers(table).items():
                found.setdefault(row, answer)
            self.answered |= self._looks.answered
        return found


class _Looks:
    """Perceptual hashes with the names of what they were made of, in the order in which they are asked."""

    columns = ("phash",)

    def __init__(self, hashes: Sequence[int], names: Sequence[str], near: int) -> None:
        unique, first, same = np.unique(np.array(hashes, dtype=np.uint64), return_index=True, return_inverse=True)
        self._ranks = first.astype(np.int64)  # of each distinct hash: the first question that has it
        self._names: list[list[str]] = [[] for _ in unique]
        for which, name in zip(same.tolist(), names, strict=True):
            self._names[which].append(name)
        self._index = LookAlikes(unique, near)
        self.answered: set[str] = set()

    def answers(self, table: pa.Table) -> dict[int, _Answer]:
        """Rows with a picture near an asked one: the first question, and its nearest picture."""
        owners, hashes = _flat(table["phash"])
        pairs = self._index.near(hashes.to_numpy(zero_copy_only=False).astype(np.uint64, copy=False))
        for which in np.unique(pairs.asked).tolist():
            self.answered.update(self._names[which])
        rows, ranks = owners[pairs.places], self._ranks[pairs.asked]
        order = np.lexsort((pairs.distances, ranks, rows))
        found: dict[int, _Answer] = {}
        for at in order[np.unique(rows[order], return_index=True)[1]].tolist():
            name = self._names[pairs.asked[at]][0]
            how = f"looks like {_short(name)} ({pairs.distances[at]} of 64 bits differ)"
            found[int(rows[at])] = _Answer(how=how, question=name)
        return found


class _Copies:
    """The samples that were kept in place of others, and the copies that were dropped for some."""

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
            for row, text in _among(table["sample_id"], self._originals)
        }
        verdicts = table["verdict"]
        for row, text in _among(table["duplicate_of"], self._ids):
            if self._counts(verdicts[row].as_py()):
                found.setdefault(row, _Answer(how=f"a copy of {_short(text)}", question=self._hits[text]))
        return found

    def _counts(self, verdict: str) -> bool:
        return verdict == "duplicate" or not self._exact


def find_samples(dataset: Path, questions: Questions) -> Iterator[Match]:
    """Every row of a dataset's ledgers, kept or not, that answers a question. Raises: DatasetError."""
    search = _Search(questions)
    for hit in _scan(dataset, search.columns, search.answers):
        yield hit.match


def find_everywhere(datasets: Mapping[str, Path], questions: Questions) -> Found:
    """What answers in several datasets, by their names; also what looks like it, and its copies.

    Look-alikes are looked for of what answers exactly, and of nothing that merely looks like it: chains do not grow.
    With `near` 0 only copies of the same bytes, pixels or record count. Raises: DatasetError.
    """
    search = _Search(questions)
    hits = {name: list(_scan(folder, search.columns, search.answers)) for name, folder in datasets.items()}

    def add(columns: Sequence[str], answers: Callable[[pa.Table], dict[int, _Answer]]) -> None:
        for name, folder in datasets.items():
            known = {(hit.ledger, hit.ledger_row) for hit in hits[name]}
            hits[name] += _scan(folder, columns, answers, known)

    if questions.near:
        exact = [hit for found in hits.values() for hit in found if not hit.match.found_by.startswith("looks like")]
        named = {phash: hit.match.question for hit in exact for phash in _asked_phashes(hit)}
        if named:
            looks = _Looks(list(named), list(named.values()), questions.near)
            add(looks.columns, looks.answers)
    every = [hit for found in hits.values() for hit in found]
    if every:
        copies = _Copies(every, exact=not questions.near)
        add(copies.columns, copies.answers)
    matches = {name: [hit.match for hit in found] for name, found in hits.items()}
    return Found(matches=matches, unanswered=_unanswered(questions, every, search.answered))


def _asked_phashes(hit: _Hit) -> tuple[int, ...]:
    """Hashes of the pictures that were asked for: the one with the digest, or all of a sample."""
    if hit.match.found_by != "picture":
        return hit.phashes
    pairs = zip(hit.match.images, hit.phashes, strict=False)  # a picture that could not be read has no hash
    return tuple(phash for digest, phash in pairs if digest == hit.match.question)


def _unanswered(questions: Questions, hits: Sequence[_Hit], answered: Collection[str]) -> list[str]:
    seen = {text for hit in hits for text in (hit.match.sample_id, *hit.match.images)}
    names = {hit.match.external_id for hit in hits}
    files = [file for file, digest in questions.pictures.items() if digest not in seen and file not in answered]
    texts = questions.digests - seen - set(questions.pictures.values()) | questions.names - names
    return files + sorted(texts | (questions.urls | questions.url_patterns) - set(answered))


@dataclass(kw_only=True)
class _Block:
    """Columns of consecutive rows of one or more ledgers."""

    batches: list[pa.RecordBatch] = field(default_factory=list)
    ledgers: list[str] = field(default_factory=list)  # of each batch
    firsts: list[int] = field(default_factory=list)  # row of the ledger at which each batch begins
    num_rows: int = 0

    def add(self, batch: pa.RecordBatch, ledger: str, first: int) -> None:
        self.batches.append(batch.replace_schema_metadata(None))
        self.ledgers.append(ledger)
        self.firsts.append(first)
        self.num_rows += len(batch)

    def places(self, rows: Sequence[int]) -> list[tuple[str, int]]:
        """Ledger and row in it."""
        begins = np.cumsum([0, *(len(batch) for batch in self.batches)])
        batches = np.searchsorted(begins, rows, side="right") - 1
        return [(self.ledgers[b], self.firsts[b] + row - int(begins[b])) for row, b in zip(rows, batches, strict=True)]


def _scan(
    dataset: Path,
    columns: Sequence[str],
    answers: Callable[[pa.Table], dict[int, _Answer]],
    known: Collection[tuple[str, int]] = (),
) -> Iterator[_Hit]:
    """The rows that answer, in the order of the ledgers, without those that are known."""
    for block in _blocks(dataset, columns):
        found = answers(pa.Table.from_batches(block.batches))
        by_ledger: dict[str, dict[int, _Answer]] = {}
        rows = sorted(found)
        for row, (ledger, place) in zip(rows, block.places(rows), strict=True):
            if (ledger, place) not in known:
                by_ledger.setdefault(ledger, {})[place] = found[row]
        for ledger, chosen in by_ledger.items():
            yield from _read_hits(dataset, ledger, chosen)


def _blocks(dataset: Path, columns: Sequence[str]) -> Iterator[_Block]:
    opened, block = CuratedDataset(dataset), _Block()
    for shard in opened.shards:
        for first, batch in _reading(dataset, shard, lambda file: _batches(file, columns)):
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
    """The whole rows, from those row groups that hold them."""

    def read(file: pq.ParquetFile) -> Iterator[tuple[int, dict[str, Any]]]:
        wanted, first = np.array(sorted(chosen), dtype=np.int64), 0
        for group in range(file.metadata.num_row_groups):
            last = first + file.metadata.row_group(group).num_rows
            here = wanted[(wanted >= first) & (wanted < last)]
            if len(here):
                table = file.read_row_group(group, columns=[*COLUMNS, "phash"], use_threads=False)
                yield from zip(here.tolist(), table.take(here - first).to_pylist(), strict=True)
            first = last

    for place, row in _reading(dataset, ledger, read):
        answer = chosen[place]
        fields = {name: row[name] for name in COLUMNS if name != "images"}
        match = Match(**fields, images=tuple(row["images"] or ()), found_by=answer.how, question=answer.question)
        yield _Hit(match=match, ledger=ledger, ledger_row=place, phashes=tuple(row["phash"] or ()))


def _reading(dataset: Path, ledger: str, read: Callable[[pq.ParquetFile], Iterator[Row]]) -> Iterator[Row]:
    """What `read` gives of an open ledger. Raises: DatasetError if it is missing, damaged or lacks a column."""
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


def _among(column: pa.ChunkedArray | pa.Array, values: pa.Array) -> list[tuple[int, str]]:
    """(place, text) wherever one of the values stands."""
    places = pc.indices_nonzero(pc.is_in(column, values))
    return list(zip(places.to_pylist(), column.take(places).to_pylist(), strict=True))


def _short(question: str) -> str:
    """A digest by its first digits, everything else as it is."""
    is_digest = len(question) == 64 and set(question) <= set("0123456789abcdef")
    return question[:SHORT] if is_digest else question


@dataclass(frozen=True, kw_only=True)
class TokenRow:
    sample_id: str
    slot: int  # which picture of the sample
    file: str
    row: int


def find_tokens(tokens: Path, sample_ids: Collection[str]) -> Iterator[TokenRow]:
    """The rows of a token artifact that hold pictures of some samples. Raises: TokensError."""
    wanted = _values(sample_ids)
    for path in sorted((tokens / "tokens").glob("*.parquet")):
        for row, sample_id, slot in TokenShard(path).find(wanted):
            yield TokenRow(sample_id=sample_id, slot=slot, file=f"tokens/{path.name}", row=row)
