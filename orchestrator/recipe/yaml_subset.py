"""A parser for the small and strict subset of YAML that recipes use.

Scalars follow the YAML 1.2 core schema, so `1e-5` is a number and `no` is text. Aliases, tags, merge keys, multiple
documents and repeated keys are errors; nesting and size are checked before any data is built.

`ruamel.yaml` reads YAML 1.2 as well, and a test compares both. It cannot replace this file: it builds aliases, tags and
deep nesting before anyone can refuse them, makes numbers of keys and of `1_000`, dates of text, and keeps no lines.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from yaml import events

from orchestrator.artifact import JSON
from orchestrator.documents.typed_json import Problem, ValuePath
from orchestrator.errors import RecipeError

MAX_BYTES = 512 * 1024
MAX_DEPTH = 32
MAX_DIGITS = 100  # of one number

_CONSTANTS: Mapping[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INTEGER = re.compile(r"[-+]?[0-9]+|0x[0-9a-fA-F]+|0o[0-7]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


@dataclass(frozen=True, kw_only=True)
class Document:
    data: JSON
    lines: Mapping[ValuePath, int]  # counted from 1
    problems: tuple[Problem, ...] = ()  # repeated keys and unusable numbers; reported with those of decoding


def read_text(file: Path, what: str = "recipe") -> str:
    """`what`: the file should hold, for messages. Raises: RecipeError: it is missing, too large, or not UTF-8."""
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise RecipeError(f"{file}: cannot read the {what}: {error.strerror or error}") from error
    if len(content) > MAX_BYTES:
        raise RecipeError(f"{file}: found more than {MAX_BYTES // 1024} KiB; expected a {what}, which is a few KiB")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise RecipeError(f"{file}:{line}: found a byte that is not UTF-8; save the {what} as UTF-8 text") from error


def parse_yaml(text: str, where: str) -> Document:
    """One YAML document as plain data, with the line of every value.

    Raises:
        RecipeError: the text is not valid YAML, or uses a part of YAML that recipes must not use.
    """
    builder = _Builder(where=where)
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            builder.take(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark is not None else ""
        raise RecipeError(f"{where}{line}: broken YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise RecipeError(f"{where}: broken YAML: {str(error).splitlines()[0]}") from error
    return Document(data=builder.data, lines=builder.lines, problems=tuple(builder.problems))


@dataclass(kw_only=True)
class _Container:
    value: dict[str, JSON] | list[JSON]
    path: ValuePath
    key: str | None = None  # of a mapping: the key whose value comes next


@dataclass(kw_only=True)
class _Builder:
    """Builds the data from parser events with an explicit stack, without recursion."""

    where: str
    data: JSON = None
    lines: dict[ValuePath, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    _open: list[_Container] = field(default_factory=list)
    _num_documents: int = 0

    def take(self, event: events.Event) -> None:
        line = _line_of(event)
        self._refuse(event, line)
        if isinstance(event, events.ScalarEvent):
            container = self._open[-1] if self._open else None
            if container is not None and isinstance(container.value, dict) and container.key is None:
                self._take_key(container, event.value, line)
            else:
                self._put(self._scalar(event), line)
        elif isinstance(event, events.MappingStartEvent | events.SequenceStartEvent):
            value: dict[str, JSON] | list[JSON] = {} if isinstance(event, events.MappingStartEvent) else []
            path = self._put(value, line)
            self._open.append(_Container(value=value, path=path))
        elif isinstance(event, events.MappingEndEvent | events.SequenceEndEvent):
            self._open.pop()

    def _refuse(self, event: events.Event, line: int) -> None:
        where = f"{self.where}:{line}"
        if isinstance(event, events.DocumentStartEvent):
            self._num_documents += 1
            if self._num_documents > 1:
                raise RecipeError(f"{where}: found a second document; expected one")
        if isinstance(event, events.AliasEvent):
            raise RecipeError(f"{where}: found the alias '*{event.anchor}'; write the value out instead")
        if isinstance(event, events.ScalarEvent | events.CollectionStartEvent) and event.tag is not None:
            raise RecipeError(f"{where}: found the tag {event.tag!r}; recipes hold plain values only")
        if isinstance(event, events.CollectionStartEvent):
            if len(self._open) >= MAX_DEPTH:
                raise RecipeError(f"{where}: found more than {MAX_DEPTH} levels of nesting")
            parent = self._open[-1] if self._open else None
            if parent is not None and isinstance(parent.value, dict) and parent.key is None:
                raise RecipeError(f"{where}: found a list or mapping as a key; expected a name")

    def _take_key(self, container: _Container, key: str, line: int) -> None:
        if key == "<<":
            raise RecipeError(f"{self.where}:{line}: found the merge key '<<'; write the values out instead")
        path = (*container.path, key)
        if key in container.value:
            self.problems.append(Problem(path=path, text=f"found twice, on lines {self.lines[path]} and {line}"))
        self.lines[path] = line
        container.key = key

    def _put(self, value: JSON, line: int) -> ValuePath:
        if not self._open:
            self.data = value
            self.lines[()] = line
            return ()
        container = self._open[-1]
        if isinstance(container.value, dict):
            assert container.key is not None, "values of a mapping follow their key"
            path = (*container.path, container.key)
            container.value[container.key] = value
            container.key = None
        else:
            path = (*container.path, len(container.value))
            container.value.append(value)
            self.lines[path] = line
        return path

    def _scalar(self, event: events.ScalarEvent) -> JSON:
        text = event.value
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise RecipeError(f"{self.where}:{_line_of(event)}: found half of a surrogate pair in a text")
        if event.style is not None:
            return text
        if text in _CONSTANTS:
            return _CONSTANTS[text]
        if not any(pattern.fullmatch(text) for pattern in (_INTEGER, _FLOAT, _NOT_FINITE)):
            return text
        number = _number(text)
        if number is None:
            path = (*(self._open[-1].path if self._open else ()), *self._next_key())
            self.problems.append(Problem(path=path, text=f"found {text[:40]}, expected a finite number"))
        return number

    def _next_key(self) -> Iterator[str | int]:
        for container in self._open[-1:]:
            yield container.key if container.key is not None else len(container.value)


def _line_of(event: events.Event) -> int:
    assert event.start_mark is not None, "events parsed from text have a mark"
    return event.start_mark.line + 1


def _number(text: str) -> int | float | None:
    """The number; None for infinities, NaN and numbers of more than `MAX_DIGITS` characters."""
    if len(text) > MAX_DIGITS or _NOT_FINITE.fullmatch(text):
        return None
    if _INTEGER.fullmatch(text):
        return int(text, 0) if text[:2] in ("0x", "0o") else int(text)
    number = float(text)
    return number if math.isfinite(number) else None
