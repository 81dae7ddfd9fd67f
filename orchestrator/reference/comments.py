"""The comments beside the fields of a dataclass, read from its source, of an installed package too."""

import ast
import functools
import inspect
import io
import re
import sys
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

NOT_PROSE = re.compile(r"(fmt|type|noqa|mypy|ruff|pragma)\b\s*:?")  # comments for tools


@dataclass(frozen=True, kw_only=True)
class FieldComment:
    text: str = ""  # of the comments on the lines of the field, after those of several lines above it
    section: str = ""  # the single comment line above, which heads the fields that follow


@dataclass(frozen=True, kw_only=True)
class _Comment:
    text: str
    is_own_line: bool
    column: int


def field_comments(config_class: type) -> Mapping[str, FieldComment]:
    """The comments of the fields by name, inherited ones too; empty where there is no source."""
    found: dict[str, FieldComment] = {}
    for owner in reversed(config_class.__mro__):
        found |= _own_comments(owner)
    return found


@functools.cache
def _own_comments(owner: type) -> Mapping[str, FieldComment]:
    try:
        source = inspect.getsource(sys.modules[owner.__module__])
    except (OSError, TypeError, KeyError):
        return {}
    node = _class_named(ast.parse(source), owner.__qualname__)
    return {} if node is None else dict(_comments_in(node, _comments_by_line(source)))


def _class_named(tree: ast.AST, qualname: str) -> ast.ClassDef | None:
    """The definition with this name; a class may be defined within another one or within a function."""
    found = tree
    for name in qualname.replace(".<locals>", "").split("."):
        definitions = (ast.ClassDef, ast.FunctionDef)
        inside = [node for node in ast.walk(found) if isinstance(node, definitions) and node.name == name]
        if not inside:
            return None
        found = inside[0]
    return found if isinstance(found, ast.ClassDef) else None


def _comments_in(node: ast.ClassDef, comments: Mapping[int, _Comment]) -> Iterator[tuple[str, FieldComment]]:
    section, seen = "", node.lineno
    for statement in node.body:
        first, last = statement.lineno, statement.end_lineno or statement.lineno
        above = [comments[line] for line in range(seen + 1, first) if line in comments]
        above = [comment for comment in above if comment.is_own_line and comment.column == statement.col_offset]
        section = above[0].text if len(above) == 1 else section
        seen = last
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            texts = [comment.text for comment in above] if len(above) > 1 else []
            texts += [comments[line].text for line in range(first, last + 1) if line in comments]
            yield statement.target.id, FieldComment(text=" ".join(texts), section=section)


def _comments_by_line(source: str) -> Mapping[int, _Comment]:
    found: dict[int, _Comment] = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        text = token.string.lstrip("#").strip()
        if text and not NOT_PROSE.match(text):
            line, column = token.start
            is_own_line = not token.line[:column].strip()
            found[line] = _Comment(text=text, is_own_line=is_own_line, column=column)
    return found
