"""What a trace looks for: digests, names, web addresses, pictures, and files full of these."""

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
from data_pipelines.images.facts import inspect
from data_pipelines.images.limits import DecodeLimits

_DIGEST = "^[0-9a-fA-F]{64}$"
WILDCARDS = frozenset("*?[")
ADDRESS_KEYS = re.compile("ur[il]|href|link", re.IGNORECASE)  # keys of `meta` whose values are web addresses
_LITERAL = re.compile(r"\[[^]]*\]|[*?\[]|[^\x00-\x7f]")  # what stands between the plain pieces of a pattern
LIST_COLUMNS = ("sample_id", "sha256", "url")  # of a table of questions
LIST_ENDINGS = (".csv", ".parquet", ".jsonl")


@dataclass(kw_only=True)
class Questions:
    """What is looked for."""

    digests: set[str] = field(default_factory=set)  # sample ids or pictures' SHA-256: nobody can tell from the text
    names: set[str] = field(default_factory=set)  # ids that the sources gave
    phashes: dict[str, int] = field(default_factory=dict)  # picture file -> perceptual hash
    near: int = 0  # bits of 64 in which a picture that looks alike may differ
    pictures: dict[str, str] = field(default_factory=dict)  # picture file -> SHA-256, which is among `digests` too
    urls: set[str] = field(default_factory=set)  # addresses or sources, in lower case
    url_patterns: set[str] = field(default_factory=set)  # the same with shell wildcards

    def add(self, text: str) -> None:
        """A digest or a name."""
        self.add_all([text])

    def add_all(self, texts: Iterable[str]) -> None:
        """Digests and names, millions of them if need be."""
        array = pa.array(texts, pa.string())
        is_digest = pc.match_substring_regex(array, _DIGEST)
        self.digests.update(pc.utf8_lower(array.filter(is_digest)).to_pylist())
        self.names.update(array.filter(pc.invert(is_digest)).to_pylist())

    def add_url(self, pattern: str) -> None:
        """An address or a source's name, with the wildcards of a shell if it has any; case does not matter."""
        (self.url_patterns if WILDCARDS & set(pattern) else self.urls).add(pattern.lower())

    def add_picture(self, path: Path) -> None:
        """Raises: ValueError if the file is no picture that can be opened safely."""
        data = path.read_bytes()
        facts = inspect(data, DecodeLimits())
        if isinstance(facts, Reject):
            raise ValueError(f"{path}: {facts.reason}: {facts.detail}")
        digest = hashlib.sha256(data).hexdigest()
        self.digests.add(digest)
        self.pictures[str(path)] = digest
        self.phashes[str(path)] = facts.phash

    def add_file(self, path: Path) -> None:
        """A list: one question in each line of a text, or a .csv, .parquet or .jsonl with known columns.

        Raises: ValueError if it is none of these or holds no question.
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
            raise ValueError("holds no question that was not asked already")

    @property
    def num_asked(self) -> int:
        """Questions as a person counts them: a picture is one."""
        return len(self.digests - set(self.pictures.values())) + len(self.pictures) + sum(
            len(texts) for texts in (self.names, self.urls, self.url_patterns)
        )  # fmt: skip


def _read_table(path: Path) -> pa.Table:
    """Those columns of a list that hold questions. Raises: ValueError if there is none."""
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
    """Says which records come from the asked addresses: by `meta`, `source`, `source_file` or `image_names`."""

    columns = ("source", "source_file", "image_names", "meta")

    def __init__(self, questions: Questions) -> None:
        self._urls = questions.urls
        self._patterns = [(pattern, re.compile(fnmatch.translate(pattern))) for pattern in questions.url_patterns]
        exact = {"://" if all("://" in url for url in self._urls) else ""} if self._urls else set()
        self._pieces = exact | {max(_LITERAL.split(pattern), key=len) for pattern, _ in self._patterns}

    def __bool__(self) -> bool:
        return bool(self._urls or self._patterns)

    def rows(self, table: pa.Table) -> dict[int, str]:
        """Row -> the question that its record answers."""
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
            at = pc.indices_nonzero(pc.is_in(column, values))
            owners = at if rows is None else rows.take(at)
            for row, text in zip(owners.to_pylist(), column.take(at).to_pylist(), strict=True):
                found.setdefault(row, answers[text])
        return found

    def _answers(self, column: pa.Array, *, is_meta: bool) -> dict[str, str]:
        """Text of the column -> the question that it answers."""
        texts = pc.unique(column.drop_null())
        if is_meta:  # decoding JSON is slow, so only where the longest plain piece of a question stands
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
        waiting: list[tuple[str, Any]] = [("", json.loads(meta))]
    except ValueError:
        return
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, dict):
            waiting += [(str(name), each) for name, each in value.items()]
        elif isinstance(value, list):
            waiting += [(key, each) for each in value]
        elif isinstance(value, str) and ("://" in value or ADDRESS_KEYS.search(key)):
            yield value
