"""The questions of a trace: digests, names, web addresses and image files, or lists of these in files."""

import fnmatch
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from data_pipelines.datasets.records import Reject
from data_pipelines.images.facts import measure_image
from data_pipelines.images.limits import DecodeLimits

_DIGEST = "^[0-9a-fA-F]{64}$"
WILDCARDS = frozenset("*?[")
ADDRESS_KEYS = re.compile("ur[il]|href|link", re.IGNORECASE)  # keys of `meta` whose values are web addresses
_LITERAL = re.compile(r"\[[^]]*\]|[*?\[]|[^\x00-\x7f]")  # separators between the literal pieces of a pattern
LIST_COLUMNS = ("sample_id", "sha256", "url")  # of a table of questions
LIST_ENDINGS = (".csv", ".parquet", ".jsonl")


@dataclass(kw_only=True)
class Questions:
    """The samples, images and sources to search for."""

    digests: set[str] = field(default_factory=set)  # sample ids and SHA-256 of images; both are 64 hex digits
    names: set[str] = field(default_factory=set)  # external ids, given by the sources
    phashes: dict[str, int] = field(default_factory=dict)  # image file -> perceptual hash
    entropies: dict[str, float] = field(default_factory=dict)  # image file -> bits of its grey histogram
    near: int = 0  # at most so many of 64 bits differ in look-alikes; 0: none are searched for
    images: dict[str, str] = field(default_factory=dict)  # image file -> SHA-256, which is among `digests` too
    urls: set[str] = field(default_factory=set)  # addresses and sources, in lower case
    url_patterns: set[str] = field(default_factory=set)  # the same, with shell wildcards

    def add(self, text: str) -> None:
        """Add a digest or a name."""
        self.add_all([text])

    def add_all(self, texts: Iterable[str]) -> None:
        """Add digests and names; fast enough for millions."""
        array = pa.array(texts, pa.string())
        is_digest = pc.match_substring_regex(array, _DIGEST)
        self.digests.update(pc.utf8_lower(array.filter(is_digest)).to_pylist())
        self.names.update(array.filter(pc.invert(is_digest)).to_pylist())

    def add_url(self, pattern: str) -> None:
        """Add an address or the name of a source; may have shell wildcards, case does not matter."""
        (self.url_patterns if WILDCARDS & set(pattern) else self.urls).add(pattern.lower())

    def add_image(self, path: Path) -> None:
        """Add an image file. Raises: ValueError if it cannot be decoded safely as an image."""
        data = path.read_bytes()
        facts = measure_image(data, DecodeLimits())
        if isinstance(facts, Reject):
            raise ValueError(f"{path}: {facts.reason}: {facts.detail}")
        digest = hashlib.sha256(data).hexdigest()
        self.digests.add(digest)
        self.images[str(path)] = digest
        self.phashes[str(path)] = facts.phash
        self.entropies[str(path)] = facts.scores["entropy"]

    def add_file(self, path: Path) -> None:
        """Add a list: a text file with a question per line, or a .csv, .parquet or .jsonl with known columns.

        Raises: ValueError if the file is none of these or holds no new question.
        """
        before = self.num_asked
        if path.suffix.lower() in LIST_ENDINGS:
            table = _read_table(path)
            for name in table.column_names:
                texts = pc.utf8_trim_whitespace(table[name].cast(pa.string()).drop_null())
                texts = pc.unique(texts.filter(pc.not_equal(texts, "")))
                if name == "url":
                    self.urls.update(pc.utf8_lower(texts).to_pylist())
                else:
                    self.add_all(texts)
        else:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
            self.add_all([line for line in map(str.strip, lines) if line])
        if self.num_asked == before:
            raise ValueError("holds no question that is not asked already")

    @property
    def num_asked(self) -> int:
        """The number of questions; an image, with digest and hash, counts as one."""
        return len(self.digests - set(self.images.values())) + len(self.images) + sum(
            len(texts) for texts in (self.names, self.urls, self.url_patterns)
        )  # fmt: skip


def _read_table(path: Path) -> pa.Table:
    """The columns of a list that hold questions. Raises: ValueError if there is none."""
    ending = path.suffix.lower()
    try:
        if ending == ".parquet":
            names = [name for name in LIST_COLUMNS if name in pq.read_schema(path).names]
            table = pq.read_table(path, columns=names)
        elif ending == ".csv":
            texts = pa.csv.ConvertOptions(column_types=dict.fromkeys(LIST_COLUMNS, pa.string()))
            table = pa.csv.read_csv(path, convert_options=texts)
        else:
            table = pa.json.read_json(path)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"not a {ending} that can be read ({error})") from error
    names = [name for name in LIST_COLUMNS if name in table.column_names]
    if not names:
        raise ValueError(f"no column named {', '.join(LIST_COLUMNS)}; found {', '.join(table.column_names) or 'none'}")
    return table.select(names)


class AddressMatcher:
    """Matches records with the addresses of questions, by `meta`, `source`, `source_file` and `image_names`."""

    columns = ("source", "source_file", "image_names", "meta")

    def __init__(self, questions: Questions) -> None:
        self._urls = questions.urls
        self._patterns = [(pattern, re.compile(fnmatch.translate(pattern))) for pattern in questions.url_patterns]
        exact = {"://" if all("://" in url for url in self._urls) else ""} if self._urls else set()
        self._pieces = exact | {max(_LITERAL.split(pattern), key=len) for pattern, _ in self._patterns}

    def __bool__(self) -> bool:
        return bool(self._urls or self._patterns)

    def rows(self, table: pa.Table) -> dict[int, str]:
        """The matching rows of a table: row -> question."""
        found: dict[int, str] = {}
        for name in self.columns:
            column = table[name].combine_chunks()
            rows = None
            if name == "image_names":
                rows, column = pc.list_parent_indices(column), pc.list_flatten(column)
            answers = self._answers(column, is_meta=name == "meta")
            if not answers:
                continue
            values = pa.array(answers, pa.string())
            matching = pc.indices_nonzero(pc.is_in(column, values))
            owners = matching if rows is None else rows.take(matching)
            for row, text in zip(owners.to_pylist(), column.take(matching).to_pylist(), strict=True):
                found.setdefault(row, answers[text])
        return found

    def _answers(self, column: pa.Array, *, is_meta: bool) -> dict[str, str]:
        """The matching texts of a column: text -> question."""
        texts = pc.unique(column.drop_null())
        if is_meta:  # decoding JSON is slow: only texts that hold the longest literal piece of a question
            pieces = (re.escape(json.dumps(piece)[1:-1]) for piece in sorted(self._pieces))
            texts = texts.filter(pc.match_substring_regex(texts, "|".join(pieces), ignore_case=True))
        found = {}
        for text in texts.to_pylist():
            values = addresses_of(text) if is_meta else (text,)
            answer = next(filter(None, map(self._question_of, values)), None)
            if answer is not None:
                found[text] = answer
        return found

    def _question_of(self, value: str) -> str | None:
        lowered = value.lower()
        if lowered in self._urls:
            return lowered
        return next((pattern for pattern, expression in self._patterns if expression.match(lowered)), None)


def addresses_of(meta: str) -> Iterator[str]:
    """The web addresses in a record's `meta` (JSON), at any depth."""
    try:
        pending: list[tuple[str, Any]] = [("", json.loads(meta))]
    except ValueError:
        return
    while pending:
        key, value = pending.pop()
        if isinstance(value, dict):
            pending += [(str(name), item) for name, item in value.items()]
        elif isinstance(value, list):
            pending += [(key, item) for item in value]
        elif isinstance(value, str) and ("://" in value or ADDRESS_KEYS.search(key)):
            yield value
